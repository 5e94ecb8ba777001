"""The best coordinates of what the others contributed."""

import jax
import jax.numpy as jnp

from cgsv_jax import vectors
from cgsv_jax.reward.ratio import ratios
from cgsv_jax.reward.sparsify import quotas
from cgsv_jax.types import Array, ArrayTree, Reward, Standing, Upload


def of_others() -> Reward:
    """v_i = mask(u_N - w_i u_i, q_i): the largest entries of what the others made of u_N.

    q_i = floor(D r_i / max r n_i / max n). Every client's vector differs, so each is ranked by
    itself: O(N D log D). The weights w are the shares of the data over the present clients, those
    of `aggregation.by_size`.
    """

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients, num_parameters
        return ()

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        del key
        present = upload.present
        rows = jnp.where(present, upload.num_examples, 0)
        held = (rows / jnp.maximum(jnp.max(rows), 1)).astype(aggregate.dtype)
        quota = quotas(ratios(standing.reputation, present, 0.0) * held, aggregate.size)
        rows = rows.astype(aggregate.dtype)  # in all, more than an int32 may count
        shares = rows / jnp.maximum(jnp.sum(rows), 1)

        def one(delta: Array, factor: Array, quota: Array) -> Array:
            others = aggregate - factor * delta
            return jnp.where(vectors.largest(others, quota[None])[0], others, 0.0)

        rewards = jax.lax.map(lambda x: one(*x), (upload.deltas, shares * upload.scales, quota))
        return jnp.where(present[:, None], rewards, 0.0), quota, state

    return Reward(init, update)
