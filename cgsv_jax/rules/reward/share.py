"""Rewards without merit: the whole of u_N for all, or nothing but one's own update."""

import jax
import jax.numpy as jnp

from cgsv_jax.types import Array, ArrayTree, Reward, Standing, Upload


def share_all() -> Reward:
    """v_i = u_N for every present client; the quota is D."""

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients, num_parameters
        return ()

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        del key, standing
        rewards = jnp.where(upload.present[:, None], aggregate[None, :], 0.0)
        quota = jnp.where(upload.present, aggregate.size, 0).astype(jnp.int32)
        return rewards, quota, state

    def energy(upload: Upload, aggregate: Array, standing: Standing, quota: Array) -> Array:
        del standing, quota
        whole = upload.present & jnp.any(aggregate != 0)
        return whole.astype(upload.norms.dtype)

    return Reward(init, update, energy)


def own_update() -> Reward:
    """v_i = u_i: a client keeps what it trained and receives nothing; the quota is 0."""

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients, num_parameters
        return ()

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        del key, aggregate, standing
        # An absent client's row of deltas is 0.
        quota = jnp.zeros(upload.present.shape, jnp.int32)
        return upload.scales[:, None] * upload.deltas, quota, state

    def energy(upload: Upload, aggregate: Array, standing: Standing, quota: Array) -> Array:
        del aggregate, standing, quota
        return jnp.zeros_like(upload.norms)  # of u_N, nothing

    return Reward(init, update, energy)
