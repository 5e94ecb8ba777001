"""The contribution index: what a client's update adds to models on held-out rows."""

import jax

from cgsv_jax.core import checks
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.contribution.gtg_shapley import sample
from cgsv_jax.rules.contribution.shapley import all_values, coalitions, from_values
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, Contribution, Network

# Clients up to whom every coalition is evaluated: 2^10 = 1,024 models a round.
EXACT = 10


def validation_shapley(
    network: Network | None,
    what: str = "accuracy",
    *,
    permutations: int = 100,
    tolerance: Array | float = 0.01,
    exact: int = EXACT,
) -> Contribution:
    """phi_i, the Shapley value of `games.validation_game`: exact for a few clients, else estimated.

    NEEDS VALIDATION DATA: 2^N evaluations a round for N <= `exact`. Beyond, `gtg_shapley`: at most
    (N - 1) evaluations for each of its permutations, and two in a round that changes little.

    Args:
      network: evaluates models.
      what: "accuracy" or "loss".
      permutations: orders drawn per round at most, beyond `exact` clients.
      tolerance: gain below which an order, or a round, is left, beyond `exact` clients.
      exact: clients up to whom the value is exact.
    """
    checks.numbers(games.PERMUTATIONS.allowed, permutations=permutations)
    checks.numbers(games.TOLERANCE.allowed, tolerance=tolerance)

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        if players <= exact:
            return from_values(all_values(value, players))
        return sample(key, value, players, permutations, tolerance).phi

    def valuations(players: int) -> int:
        sampled = games.of_orders(permutations)
        return coalitions(players) if players <= exact else sampled(players)

    game = games.validation_game(network, what)
    return games.measure_of(game, solution, valuations=valuations, draws=True)


VALIDATION_SHAPLEY = Spec(
    validation_shapley,
    {"permutations": games.PERMUTATIONS, "tolerance": games.TOLERANCE},
    given=("network",),
)
