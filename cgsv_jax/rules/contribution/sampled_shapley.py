"""The Shapley value from permutations drawn in pairs, with its standard error."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, Contribution


def sample(
    key: jax.Array, value: games.Value, players: int, permutations: int = 100
) -> tuple[Array, Array]:
    """phi_i = mean over drawn orders of nu(predecessors and i) - nu(predecessors).

    Orders come in antithetic pairs, an order and its reverse: where one meets a client early the
    other meets it late, so that what its gain owes to the place mostly cancels. Both halves of a
    pair are uniform, so the mean is unbiased; pairs are independent, so the spread of their means
    gives the standard error. Every order's gains sum to nu(everybody) - nu(nobody), and so do the
    values. All prefixes of all orders are looked at in a few calls of `value`.

    Args:
      key: draws the orders.
      value: nu.
      players: N.
      permutations: orders drawn, at least 1; an odd number is rounded up to a pair.

    Returns:
      phi [N] and its standard error [N], which is infinite after one pair alone.

    Reference:
      Mitchell et al., Sampling Permutations for Shapley Value Estimation, JMLR 2022.
    """
    pairs = -(-permutations // 2)
    inner = players - 1  # prefixes of an order that are neither nobody nor everybody
    keys = jax.random.split(key, pairs)
    ranks = jax.vmap(jax.random.permutation, (0, None))(keys, players)  # [pairs, N]

    def members(numbers: Array) -> Array:
        """Coalition 0 is nobody, 1 everybody; then each order's prefixes, short to long."""
        order, place = jnp.divmod(numbers - 2, max(inner, 1))
        length = jnp.where(numbers == 0, 0, jnp.where(numbers == 1, players, place + 1))
        rank = ranks[order // 2]
        rank = jnp.where((order % 2 == 1)[:, None], players - 1 - rank, rank)
        return rank < length[:, None]

    values = games.in_blocks(value, members, 2 + pairs * 2 * inner, players)
    first, last = (jnp.broadcast_to(end, (pairs, 2, 1)) for end in values[:2])
    between = values[2:].reshape(pairs, 2, inner)
    gains = jnp.diff(jnp.concatenate([first, between, last], axis=2), axis=2)  # [pairs, 2, N]
    forth = jnp.take_along_axis(gains[:, 0], ranks, axis=1)
    back = jnp.take_along_axis(gains[:, 1], players - 1 - ranks, axis=1)
    pair = (forth + back) / 2
    phi = jnp.mean(pair, axis=0)
    if pairs == 1:
        return phi, jnp.full_like(phi, jnp.inf)
    return phi, jnp.std(pair, axis=0, ddof=1) / jnp.sqrt(pairs)


def sampled_shapley(game: games.Game | None = None, permutations: int = 100) -> Contribution:
    """phi_i, the Shapley value estimated by `sample`, for any number of clients.

    P (N - 1) + 2 coalitions a round for P permutations: O(P N^3) with the cosine game after its
    inner products, and as many evaluations with a game on validation rows.

    Args:
      game: another game than `games.cosine_game()`.
      permutations: orders drawn per round, rounded up to pairs.

    Raises:
      ValueError: fewer than one permutation.
    """
    checks.numbers(games.PERMUTATIONS.allowed, permutations=permutations)

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        return sample(key, value, players, permutations)[0]

    return games.measure_of(
        game, solution, valuations=games.of_orders(permutations + permutations % 2), draws=True
    )


SAMPLED_SHAPLEY = Spec(
    sampled_shapley,
    {"permutations": games.PERMUTATIONS},
    parts={"game": "cosine"},
    defaults=games.OTHER_SCALE,
)
