"""An algorithm from parts, the way optax makes an optimizer from transformations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cgsv_jax import vectors
from cgsv_jax.rescale import Rescale, unchanged
from cgsv_jax.types import (
    Aggregation,
    Algorithm,
    Array,
    ArrayTree,
    Contribution,
    Download,
    Reward,
    Standing,
    Upload,
)


class ComposedState(NamedTuple):
    """The parts' states and the standing that the next aggregation starts from."""

    standing: Standing
    contribution: ArrayTree
    aggregation: ArrayTree
    reward: ArrayTree


def compose(
    contribution: Contribution,
    aggregation: Aggregation,
    reward: Reward,
    *,
    rescale: Rescale | None = None,
    keeps_own: bool = False,
    common: bool = False,
) -> Algorithm:
    """Rescale, aggregate, judge, reward: one server round in that order.

    The aggregation sees the standing of the previous round, the reward that of this one.

    Args:
      contribution: who deserves what, from uploads and u_N.
      aggregation: u_N from uploads and the previous standing.
      reward: v_i from u_N and the new standing.
      rescale: how long an upload is made; default: as it is.
      keeps_own: whether v_i = u_i + the reward: the client keeps its update instead of rolling it
        back. Quota and energy are of what it receives.
      common: whether there is one model for all, the server's, from which a client that was absent
        starts again.

    Returns:
      An Algorithm whose state is a `ComposedState`.
    """
    rescale = rescale or unchanged()

    def init(num_clients: int, num_parameters: int) -> ComposedState:
        return ComposedState(
            standing=Standing(jnp.zeros(num_clients), jnp.zeros(num_clients)),  # r_{i,0} = 0
            contribution=contribution.init(num_clients, num_parameters),
            aggregation=aggregation.init(num_clients, num_parameters),
            reward=reward.init(num_clients, num_parameters),
        )

    def update(
        key: jax.Array, upload: Upload, state: ComposedState
    ) -> tuple[Download, Standing, ComposedState]:
        aggregate_key, judge_key, reward_key = jax.random.split(key, 3)
        upload = upload._replace(scales=rescale(upload.norms))  # u_i = scale_i dw_i
        aggregate, weights, aggregation_state = aggregation.update(
            aggregate_key, upload, state.standing, state.aggregation
        )
        standing, contribution_state = contribution.update(
            judge_key, upload, aggregate, weights, state.standing, state.contribution
        )
        rewards, quota, reward_state = reward.update(
            reward_key, upload, aggregate, standing, state.reward
        )
        if reward.energy is None:
            energy = vectors.energies(rewards, aggregate)
        else:
            energy = reward.energy(upload, aggregate, standing, quota)
        if keeps_own:  # an absent client's row of deltas is 0
            rewards = rewards + upload.scales[:, None] * upload.deltas
        download = Download(aggregate, weights, rewards, quota, energy)
        new = ComposedState(standing, contribution_state, aggregation_state, reward_state)
        return download, standing, _same_types(new, state)

    return Algorithm(init, update, (lambda round_: round_ >= 0) if common else None)


def _same_types(new: Array, old: Array) -> Array:
    """A carry must keep its dtypes, and a rule may have computed in another precision."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), new, old)
