"""Rewards on top of what a client has learnt by itself."""

import jax

from cgsv_jax import vectors
from cgsv_jax.types import Array, ArrayTree, Reward, Standing, Upload


def with_own(reward: Reward) -> Reward:
    """v_i = u_i + the reward: the client keeps its update instead of rolling it back.

    Args:
      reward: what comes on top, without state or draws; its quota and energy count.
    """

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        rewards, quota, state = reward.update(key, upload, aggregate, standing, state)
        # An absent client's row of deltas is 0.
        return rewards + upload.scales[:, None] * upload.deltas, quota, state

    def energy(upload: Upload, aggregate: Array, standing: Standing, quota: Array) -> Array:
        """Of what is received: the client's own is not."""
        if reward.energy is not None:
            return reward.energy(upload, aggregate, standing, quota)
        rewards, _, _ = reward.update(jax.random.key(0), upload, aggregate, standing, ())
        return vectors.energies(rewards, aggregate)

    return Reward(reward.init, update, energy)
