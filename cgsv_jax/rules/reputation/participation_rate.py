"""A reputation that no update changes: how often a client takes part."""

import jax
import jax.numpy as jnp

from cgsv_jax.rules.shares import renewed
from cgsv_jax.types import Array, ArrayTree, Reputation, Standing, Upload


def participation_rate() -> Reputation:
    """r_i = p_i / sum_j p_j, p_i the share of the rounds so far in which client i was present [N].

    The score is p_i. The state counts the rounds of every client.
    """

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_parameters
        return jnp.zeros(num_clients)

    def update(
        key: jax.Array,
        upload: Upload,
        aggregate: Array,
        weights: Array,
        standing: Standing,
        state: Array,
    ) -> tuple[Standing, ArrayTree]:
        del key, aggregate, weights
        state = state + upload.present
        score = jnp.where(upload.present, state / (upload.round + 1), 0.0)
        return Standing(score, renewed(score, standing.reputation, upload.present)), state

    return Reputation(init, update)
