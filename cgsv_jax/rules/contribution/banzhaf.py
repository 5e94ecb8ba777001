"""The Banzhaf value: every coalition counts alike, whatever its size."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.contribution.shapley import all_values, coalitions
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, Contribution

# Clients up to whom all coalitions are looked at, unless told otherwise: 2^10 = 1,024 of them.
EXACT = 10


def from_values(values: Array) -> Array:
    """phi_i = sum_S (nu(S with i) - nu(S)) / 2^(N-1) over S without i: [2^N] -> [N].

    Symmetric, zero for a null player and additive in nu, but the values do not sum to
    nu(everybody). O(2^N N).
    """
    players = values.size.bit_length() - 1

    def of_player(i: int) -> Array:
        gains = values.reshape(-1, 2, 1 << i)  # bit i of a coalition's number is the middle axis
        # Differences first, and a mean of means: one running sum of 2^24 floats would round away
        # what each of them adds.
        gains = (gains[:, 1] - gains[:, 0]).reshape(-1)
        return jnp.mean(jnp.mean(gains.reshape(-1, min(gains.size, 4096)), axis=1))

    return jnp.stack([of_player(i) for i in range(players)])


def sample(
    key: jax.Array, value: games.Value, players: int, coalitions: int
) -> tuple[Array, Array]:
    """phi_i = mean of s_i (nu(S) - nu(not S)) over drawn S, s_i = 1 where i is in S and else -1.

    Every client is in S or not by a fair coin. This is the maximum-sample-reuse estimator, the
    mean over the S that hold i minus the mean over those that lack it, on S and its complement:
    each client is then in half of all coalitions, so that both means exist and what all coalitions
    share cancels. Unbiased; each evaluation serves all clients.

    Args:
      key: draws the coalitions.
      value: nu.
      players: N.
      coalitions: looked at, at least; rounded up to pairs, and to whole blocks of them.

    Returns:
      phi [N] and its standard error [N], which is infinite after one pair alone.

    Reference:
      Wang and Jia, Data Banzhaf, AISTATS 2023 (the estimator).
    """
    pairs = -(-coalitions // 2)
    steps = -(-pairs // max(games.ENTRIES // (2 * players), 1))
    size = -(-pairs // steps)
    pairs = steps * size

    def block(sums: tuple[Array, Array], key: jax.Array) -> tuple[tuple[Array, Array], None]:
        inside = jax.random.bernoulli(key, shape=(size, players))
        values = value(jnp.concatenate([inside, ~inside]))
        gain = (values[:size] - values[size:])[:, None] * jnp.where(inside, 1.0, -1.0)
        total, squares = sums
        return (total + jnp.sum(gain, axis=0), squares + jnp.sum(gain * gain, axis=0)), None

    keys, zeros = jax.random.split(key, steps), jnp.zeros(players)
    if steps == 1:  # see `games.steps`
        (total, squares), _ = block((zeros, zeros), keys[0])
    else:
        (total, squares), _ = jax.lax.scan(block, (zeros, zeros), keys)
    phi = total / pairs
    if pairs == 1:
        return phi, jnp.full_like(phi, jnp.inf)
    return phi, jnp.sqrt(jnp.maximum(squares / pairs - phi * phi, 0.0) / (pairs - 1))


def banzhaf(
    game: games.Game | None = None, permutations: int = 100, exact: int = EXACT
) -> Contribution:
    """phi_i, the Banzhaf value: exact for a few clients, estimated by `sample` beyond.

    2^N coalitions a round for N <= `exact`, and N `permutations` beyond, as many as a Shapley value
    of so many permutations looks at.

    Args:
      game: another game than `games.cosine_game()`.
      permutations: decides the number of coalitions, N times as many.
      exact: clients up to whom the value is exact.

    Raises:
      ValueError: fewer than one permutation.

    Reference:
      Wang and Jia, Data Banzhaf: A Robust Data Valuation Framework for Machine Learning, AISTATS
      2023: of all values that weigh coalitions it keeps its order best under noise in nu.
    """
    checks.numbers(games.PERMUTATIONS.allowed, permutations=permutations)

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        if players <= exact:
            return from_values(all_values(value, players))
        return sample(key, value, players, players * permutations)[0]

    def valuations(players: int) -> int:
        return coalitions(players) if players <= exact else players * permutations

    return games.measure_of(game, solution, valuations=valuations, draws=True)


BANZHAF = Spec(
    banzhaf,
    {"permutations": games.PERMUTATIONS},
    parts={"game": "cosine"},
    defaults=games.OTHER_SCALE,
)
