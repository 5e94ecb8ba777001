"""The sparsified gradient reward: the best coordinates of u_N, as many as one has earned."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax import vectors
from cgsv_jax.reward.ratio import ratios
from cgsv_jax.types import Array, ArrayTree, Reward, Standing, Upload


def quotas(ratio: Array, length: int, *, count: str = "floor") -> Array:
    """Entries to keep out of `length`: [N] in [0, 1] -> [N] int32.

    "floor" is floor(length ratio), where a ratio of 1 gives exactly `length` even if float32
    cannot hold it; "ceil" is the released code's min(ceil(length ratio), length - 1).
    """
    if count == "ceil":
        return jnp.minimum(jnp.ceil(length * ratio), length - 1).astype(jnp.int32)
    # Clipped below the largest float that still converts, then the exact top is put back.
    part = jnp.floor(length * ratio).astype(jnp.int32)
    return jnp.where(ratio >= 1, length, jnp.minimum(part, length))


def sparsify(
    beta: chex.Numeric,
    *,
    tensors: tuple[int, ...] = (),
    count: str = "floor",
    ties: str = "position",
    beta_on: str = "sum",
) -> Reward:
    """v_i = mask(u_N, q_i): the q_i largest-magnitude entries of u_N, eqs. (5) and (6).

    q_i = floor(D tanh(beta r_i) / max_j tanh(beta r_j)). One ranking of |u_N| serves all clients,
    so the kept sets are nested; sparsity of one client never costs another a pass over D.

    Args:
      beta: altruism degree, >= 0, infinity allowed.
      tensors: sizes of the model's tensors to mask each on its own, as the released code does;
        empty masks the whole vector.
      count: "floor" or "ceil", see `quotas`.
      ties: "position" keeps exactly q_i, "all" every entry at the threshold.
      beta_on: "sum" or "max", see `ratios`.

    Returns:
      A Reward without state: rewards [N, D], quota [N] the entries kept.

    Raises:
      ValueError: `tensors` do not add up to D (when the algorithm is initialised).
    """

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients
        if tensors and sum(tensors) != num_parameters:
            raise ValueError(
                f"tensors add up to {sum(tensors)} parameters, the model has {num_parameters}"
            )
        return ()

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        del key
        ratio = ratios(standing.reputation, upload.present, beta, on=beta_on)
        rewards, kept = [], []
        start = 0
        for length in tensors or (aggregate.size,):
            part = aggregate[start : start + length]
            rank = vectors.ranks(part, ties=ties)
            quota = quotas(ratio, length, count=count)  # q_{i,t}, eq. (5)
            # An absent client has ratio 0, hence quota 0, hence nothing.
            mask = rank[None, :] < quota[:, None]  # [N, length]
            rewards.append(jnp.where(mask, part[None, :], 0.0))  # v_{i,t}, eq. (6)
            kept.append(quota if ties == "position" else jnp.sum(mask, axis=1, dtype=jnp.int32))
            start += length
        return jnp.concatenate(rewards, axis=1), sum(kept[1:], kept[0]), state

    return Reward(init, update)
