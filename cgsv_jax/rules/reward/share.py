"""Rewards without merit: the whole of u_N for all, or nothing but one's own update."""

import jax.numpy as jnp

from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Reward, Upload


def share_all() -> Reward:
    """v_i = u_N for every present client; the quota is D."""

    def rewarded(upload: Upload, aggregate: Array) -> tuple[Array, Array]:
        rewards = jnp.where(upload.present[:, None], aggregate[None, :], 0.0)
        quota = jnp.where(upload.present, aggregate.size, 0).astype(jnp.int32)
        return rewards, quota

    def energy(upload: Upload, aggregate: Array) -> Array:
        whole = upload.present & jnp.any(aggregate != 0)
        return whole.astype(upload.norms.dtype)

    return stateless(Reward, rewarded, energy=energy)


def own_update() -> Reward:
    """v_i = u_i: a client keeps what it trained and receives nothing; the quota is 0."""

    def rewarded(upload: Upload) -> tuple[Array, Array]:
        # An absent client's row of deltas is 0.
        quota = jnp.zeros(upload.present.shape, jnp.int32)
        return upload.scales[:, None] * upload.deltas, quota

    def energy(upload: Upload) -> Array:
        return jnp.zeros_like(upload.norms)  # of u_N, nothing

    return stateless(Reward, rewarded, energy=energy)
