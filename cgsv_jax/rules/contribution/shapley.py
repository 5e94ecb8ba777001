"""The exact Shapley value, from the values of all coalitions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, Contribution

# Coalitions are values in memory, 2^N of them, and quickly more than any machine holds.
MOST = 24
# Coalitions that are looked at together: their membership as [2^15, N] floats fits in a cache.
_TOGETHER = 15


def at_most(most: int, players: int) -> None:
    """Refuses more players than an exact value is for.

    Raises:
      ValueError: more than `most`.
    """
    if players > most:
        raise ValueError(
            f"an exact value of {players} clients looks at 2^{players} coalitions: it is for at "
            f"most {most} clients, sampled values are for more"
        )


def coalitions(players: int) -> int:
    """2^N, up to the largest N that an exact value is for."""
    return 2 ** min(players, MOST)


def all_values(value: games.Value, players: int) -> Array:
    """nu of every coalition, [2^N]: player i is in coalition S where bit i of its number is set.

    Raises:
      ValueError: more than 24 players.
    """
    at_most(MOST, players)
    together = min(players, _TOGETHER)
    inside = (np.arange(1 << together)[:, None] >> np.arange(together)) & 1
    inside = jnp.asarray(inside, jnp.float32)

    def block(number: Array) -> Array:
        """nu of the coalitions with these further members: [2^together]."""
        bits = (number >> jnp.arange(players - together)) & 1
        rest = jnp.broadcast_to(bits.astype(inside.dtype), (inside.shape[0], players - together))
        return value(jnp.concatenate([inside, rest], axis=1))

    return games.steps(block, 1 << (players - together)).reshape(-1)


@jax.jit
def from_values(values: Array) -> Array:
    """phi_i = sum_S (nu(S with i) - nu(S)) |S|! (N-1-|S|)! / N!: [2^N] -> [N].

    The values sum to nu(everybody) - nu(nobody). O(2^N N).
    """
    players = values.size.bit_length() - 1
    # phi_i = sum_S nu(S) c_i(S), with c = |S|-1 ! N-|S| ! / N! where i is in S, and minus
    # |S| ! N-1-|S| ! / N! where it is not.
    sizes = np.arange(players + 1)
    choose = np.array([math.comb(players, k) for k in sizes], float)
    gain = jnp.asarray(1 / (np.maximum(sizes, 1) * choose), values.dtype)  # 1 / (|S| C(N, |S|))
    loss = jnp.asarray(1 / (np.maximum(players - sizes, 1) * choose), values.dtype)
    size = jax.lax.population_count(jnp.arange(1 << players, dtype=jnp.uint32)).astype(jnp.int32)

    def of_player(i: Array) -> Array:
        joined = (jnp.arange(1 << players, dtype=jnp.uint32) >> i) & 1
        return jnp.sum(jnp.where(joined == 1, gain[size], -loss[size]) * values)

    return jax.lax.map(of_player, jnp.arange(players, dtype=jnp.uint32))


@jax.jit
def exact(gram: Array) -> Array:
    """phi_i of the game nu(S) = cos(u_S, u_N), u_S = sum_{i in S} u_i, from inner products alone.

    D enters once, in G = U U^T. The values sum to nu(N), which is 1 unless u_N is zero.
    O(2^N N) after G; N <= 24.

    Args:
      gram: [N, N] inner products of the players' (weighted) vectors.

    Returns:
      [N].

    Raises:
      ValueError: more than 24 players.

    >>> [round(float(phi), 6) for phi in exact(jnp.eye(4))]  # four alike
    [0.25, 0.25, 0.25, 0.25]
    """
    at_most(MOST, gram.shape[0])
    return from_values(all_values(games.cosine_value(gram), gram.shape[0]))


def shapley(game: games.Game | None = None, most: int = MOST) -> Contribution:
    """phi_i, the exact Shapley value of a game; by default nu(S) = cos(u_S, u_N).

    The weights in u_S = sum_{i in S} w_i u_i are those of the aggregation, so that u_N is the
    round's aggregate. The values of the cosine game sum to 1 where cosines do not, so the absolute
    floor would swallow them in large populations: use it with `normalise_scores` and
    `relative_floor`. O(N^2 D + 2^N N) a round with the cosine game, which needs no validation data;
    2^N evaluations with a game on validation rows. It needs every pair of uploads, so over several
    devices it gathers them.

    Args:
      game: another game than `games.cosine_game()`.
      most: clients it is computed for, at most.

    Reference:
      The value that Xu et al., NeurIPS 2021, approximate by the cosine (their eq. 3).
    """

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        del key
        return from_values(all_values(value, players))

    return games.measure_of(game, solution, functools.partial(at_most, most), valuations=coalitions)


SHAPLEY = Spec(shapley, parts={"game": "cosine"}, defaults=games.OTHER_SCALE)
