"""The Shapley value from permutations that end where nothing is left to gain."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.contribution import games, truncated
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, Contribution


def sample(
    key: jax.Array, value: games.Value, players: int, permutations: int, tolerance: Array | float
) -> Array:
    """phi_i = mean of the truncated gains over uniform orders: [N].

    An order ends where |nu(everybody) - nu(prefix)| < tolerance, so the values sum to
    nu(everybody) - nu(nobody) within the tolerance, and the clients who come late in many orders
    lose what they would have gained there. See `truncated.gains` for how orders are evaluated.

    Args:
      key: draws the orders.
      value: nu.
      players: N.
      permutations: P, orders drawn.
      tolerance: in units of nu.
    """
    keys = jax.random.split(key, permutations)
    ranks = jax.vmap(jax.random.permutation, (0, None))(keys, players)
    ends = games.nobody_and_everybody(value, players)
    found, _ = truncated.gains(value, ranks, *ends, tolerance)
    return jnp.mean(found, axis=0)


def tmc_shapley(
    game: games.Game | None = None, permutations: int = 100, tolerance: Array | float = 0.01
) -> Contribution:
    """phi_i, the truncated Monte Carlo Shapley value, see `sample`.

    At most P (N - 1) + 2 coalitions a round. The original adds orders until the values settle; here
    their number is given.

    Args:
      game: another game than `games.cosine_game()`.
      permutations: P >= 1, orders drawn per round.
      tolerance: gain below which an order ends; may be traced.

    Raises:
      ValueError: fewer than one permutation.

    Reference:
      Ghorbani and Zou, Data Shapley: Equitable Valuation of Data for Machine Learning, ICML 2019.
    """
    checks.numbers(games.PERMUTATIONS.allowed, permutations=permutations)
    checks.numbers(games.TOLERANCE.allowed, tolerance=tolerance)

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        return sample(key, value, players, permutations, tolerance)

    return games.measure_of(game, solution, valuations=games.of_orders(permutations), draws=True)


TMC_SHAPLEY = Spec(
    tmc_shapley,
    {"permutations": games.PERMUTATIONS, "tolerance": games.TOLERANCE},
    parts={"game": "cosine"},
    defaults=games.OTHER_SCALE,
)
