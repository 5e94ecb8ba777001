"""A reputation that no upload changes: the share of the data."""

import jax
import jax.numpy as jnp

from cgsv_jax.types import Array, ArrayTree, Reputation, Standing, Upload


def size_share() -> Reputation:
    """r_i = n_i / sum_j n_j in every round; the score is the same number. Shapes [N]."""

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients, num_parameters
        return ()

    def update(
        key: jax.Array,
        upload: Upload,
        aggregate: Array,
        weights: Array,
        standing: Standing,
        state: ArrayTree,
    ) -> tuple[Standing, ArrayTree]:
        del key, aggregate, weights
        old = standing.reputation
        rows = upload.num_examples.astype(old.dtype)  # in all, more than an int32 may count
        share = rows / jnp.maximum(jnp.sum(rows), 1)
        return Standing(jnp.where(upload.present, share, 0.0), share), state

    return Reputation(init, update)
