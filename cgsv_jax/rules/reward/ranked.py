"""Rewards by rank: the mean update of oneself and all that are no better."""

import jax
import jax.numpy as jnp

from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Reward, Standing, Upload


def no_better() -> Reward:
    """v_i = the mean of u_j over the present clients with score_j <= score_i.

    Equal scores share a rank, so that the order in which clients are listed decides nothing. One
    N x N matrix of who gets whose: O(N^2 D). The quota is D where another's update arrives.
    """

    def rewarded(upload: Upload, aggregate: Array, standing: Standing) -> tuple[Array, Array]:
        present, score = upload.present, standing.score
        below = (score[None, :] <= score[:, None]) & present[None, :] & present[:, None]
        count = jnp.sum(below, axis=1)
        members = below.astype(upload.deltas.dtype) / jnp.maximum(count, 1)[:, None]
        rewards = jnp.matmul(
            members * upload.scales[None, :], upload.deltas, precision=jax.lax.Precision.HIGHEST
        )
        quota = jnp.where(count > 1, aggregate.size, 0).astype(jnp.int32)
        return rewards, quota

    return stateless(Reward, rewarded)
