"""What the others contributed: the own part off before the ranking, or after the mask."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import top_k
from cgsv_jax.rules.reward.ratio import ratios, times_size
from cgsv_jax.rules.reward.sparsify import quotas
from cgsv_jax.rules.shares import rows_of_all
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, ArrayTree, Reward, Standing, Upload


def of_others(*, added: bool = False, ties: str = "position") -> Reward:
    """v_i = mask(u_N - w_i u_i, q_i): the largest entries of what the others made of u_N.

    q_i = floor(D r_i / max r n_i / max n). Every client's vector differs, so each is ranked by
    itself: O(N D log D).

    Args:
      added: u_N is a sum, w_i = 1 (`aggregation.added`); or w_i = n_i / sum n
        (`aggregation.by_size_of_all`).
      ties: "position" keeps exactly q_i, "all" every entry at the threshold.
    """

    def rewarded(upload: Upload, aggregate: Array, standing: Standing) -> tuple[Array, Array]:
        ratio = times_size(ratios(standing.reputation, upload.present, 0.0), upload)
        quota = quotas(ratio, aggregate.size)
        rows = rows_of_all(upload)
        own = jnp.ones_like(rows) if added else rows / jnp.maximum(jnp.sum(rows), 1)

        def one(delta: Array, factor: Array, quota: Array) -> tuple[Array, Array]:
            others = aggregate - factor * delta
            if ties == "position":
                kept = top_k.largest(others, quota[None])[0]
            else:
                keys, last = top_k.tied(others, quota[None])
                kept = keys <= last
            return jnp.where(kept, others, 0.0), jnp.sum(kept, dtype=jnp.int32)

        rewards, quota = jax.lax.map(lambda x: one(*x), (upload.deltas, own * upload.scales, quota))
        return jnp.where(upload.present[:, None], rewards, 0.0), quota

    return stateless(Reward, rewarded)


def less_own(reward: Reward, *, added: bool = False) -> Reward:
    """v_i = the other reward - c_i u_i, c_i = n_i / max n over all clients, removed ones too.

    Quota and energy are of the other reward.

    Args:
      reward: a mask of u_N, the own part in it.
      added: u_N is a sum of updates: c_i = 1.
    """

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        rewards, quota, state = reward.update(key, upload, aggregate, standing, state)
        own = upload.scales if added else times_size(upload.scales, upload)
        return rewards - own[:, None] * upload.deltas, quota, state

    return reward._replace(update=update)
