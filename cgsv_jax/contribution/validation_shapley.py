"""The contribution index: what a client's update adds to models on held-out rows."""

from cgsv_jax.contribution.games import validation_game
from cgsv_jax.contribution.shapley import shapley
from cgsv_jax.types import Measure, Network


def validation_shapley(network: Network | None, what: str = "accuracy") -> Measure:
    """phi_i, the exact Shapley value of `games.validation_game`.

    NEEDS VALIDATION DATA: 2^N evaluations a round.

    Args:
      network: evaluates models.
      what: "accuracy" or "loss".
    """
    return shapley(validation_game(network, what))
