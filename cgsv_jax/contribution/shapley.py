"""The Shapley value that the cosine approximates, exactly, without a vector per coalition."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax import vectors
from cgsv_jax.types import Array, ArrayTree, Measure, Upload

# Coalitions are values in memory, 2^N of them, and quickly more than any machine holds.
MOST = 24
# Coalitions that are looked at together: their membership as [2^15, N] floats fits in a cache.
_TOGETHER = 15


def exact(gram: Array) -> Array:
    """phi_i of the game nu(S) = cos(u_S, u_N), u_S = sum_{i in S} u_i, from inner products alone.

    With G = U U^T, 1_S^T G 1 = <u_S, u_N> and 1_S^T G 1_S = ‖u_S‖^2, so nu(S) needs no vector and
    D enters once, in G. nu(S) = 0 where u_S or u_N is zero. The values sum to nu(N), which is 1
    unless u_N is zero. O(2^N N) after G; N <= 24.

    Args:
      gram: [N, N] inner products of the players' (weighted) vectors.

    Returns:
      [N].

    Raises:
      ValueError: more than 24 players.

    >>> [round(float(phi), 6) for phi in exact(jnp.eye(4))]  # four alike
    [0.25, 0.25, 0.25, 0.25]
    """
    players = gram.shape[0]
    if players > MOST:
        raise ValueError(
            f"the exact Shapley value of {players} players has 2^{players} coalitions, "
            f"it is computed for at most {MOST}"
        )
    together = min(players, _TOGETHER)
    # 1_S of coalitions by their number: player i is in S where bit i is set.
    inside = (np.arange(1 << together)[:, None] >> np.arange(together)) & 1
    inside = jnp.asarray(inside, gram.dtype)
    towards = jnp.sum(gram, axis=1)  # <u_i, u_N>
    length = jnp.sum(towards)  # ‖u_N‖^2
    # Where vectors cancel, rounding leaves of ‖u_S‖^2 up to this much of the sum of their squares,
    # since |<u_i, u_j>| <= (‖u_i‖^2 + ‖u_j‖^2) / 2: such a u_S is zero.
    squares = players * jnp.finfo(gram.dtype).eps * jnp.diagonal(gram)
    long_enough = length > jnp.sum(squares)

    def block(number: Array) -> Array:
        """nu of the coalitions with these further members: [2^together]."""
        bits = (number >> jnp.arange(players - together)) & 1
        rest = jnp.broadcast_to(bits.astype(gram.dtype), (inside.shape[0], players - together))
        member = jnp.concatenate([inside, rest], axis=1)
        dots = jnp.sum(member * towards[None, :], axis=1)
        products = jnp.matmul(member, gram, precision=jax.lax.Precision.HIGHEST)
        norms = jnp.sum(products * member, axis=1)
        defined = (norms > jnp.sum(member * squares[None, :], axis=1)) & long_enough
        cosine = dots / jnp.sqrt(jnp.where(defined, norms * length, 1.0))
        return jnp.where(defined, jnp.clip(cosine, -1.0, 1.0), 0.0)

    value = jax.lax.map(block, jnp.arange(1 << (players - together))).reshape(-1)
    # phi_i = sum_S nu(S) c_i(S), with c = |S|-1 ! N-|S| ! / N! where i is in S, and minus
    # |S| ! N-1-|S| ! / N! where it is not.
    sizes = np.arange(players + 1)
    choose = np.array([math.comb(players, k) for k in sizes], float)
    gain = jnp.asarray(1 / (np.maximum(sizes, 1) * choose), gram.dtype)  # 1 / (|S| C(N, |S|))
    loss = jnp.asarray(1 / (np.maximum(players - sizes, 1) * choose), gram.dtype)
    size = jax.lax.population_count(jnp.arange(1 << players, dtype=jnp.uint32)).astype(jnp.int32)

    def of_player(i: Array) -> Array:
        joined = (jnp.arange(1 << players, dtype=jnp.uint32) >> i) & 1
        return jnp.sum(jnp.where(joined == 1, gain[size], -loss[size]) * value)

    return jax.lax.map(of_player, jnp.arange(players, dtype=jnp.uint32))


def shapley() -> Measure:
    """phi_i, the exact Shapley value of nu(S) = cos(u_S, u_N), u_S = sum_{i in S} w_i u_i.

    The weights w are those of the aggregation, so that u_N is the round's aggregate. The values sum
    to 1 where cosines do not, so the absolute floor would swallow them in large populations: use it
    with `normalise_scores` and `relative_floor`. O(N^2 D + 2^N N) a round, for at most 24 clients.
    No validation data. It needs every pair of uploads, so over several devices it gathers them.

    Reference:
      The value that Xu et al., NeurIPS 2021, approximate by the cosine (their eq. 3).
    """

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_parameters
        if num_clients > MOST:
            raise ValueError(f"contribution shapley is for at most {MOST} clients: {num_clients}")
        return ()

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        del key, aggregate
        # Lengths go in after the product: those of raw updates may differ by powers of ten.
        directions = upload.deltas / jnp.where(upload.norms == 0, 1.0, upload.norms)[:, None]
        lengths = weights * upload.scales * upload.norms
        lengths = lengths / jnp.maximum(jnp.max(lengths), jnp.finfo(lengths.dtype).tiny)
        return exact(vectors.gram(directions) * lengths[:, None] * lengths[None, :]), state

    return Measure(init, update)
