"""How a client's worth is measured. A new measure is one file and one line of `CONTRIBUTIONS`."""

from cgsv_jax.core import deprecated
from cgsv_jax.rules.contribution.banzhaf import banzhaf
from cgsv_jax.rules.contribution.cosine import cosine
from cgsv_jax.rules.contribution.games import GAMES, Game, cosine_game, validation_game
from cgsv_jax.rules.contribution.gtg_shapley import gtg_shapley
from cgsv_jax.rules.contribution.least_core import least_core
from cgsv_jax.rules.contribution.leave_one_out import leave_one_out
from cgsv_jax.rules.contribution.participation_rate import participation_rate
from cgsv_jax.rules.contribution.projection import projection
from cgsv_jax.rules.contribution.sampled_shapley import sampled_shapley
from cgsv_jax.rules.contribution.shapley import shapley
from cgsv_jax.rules.contribution.standalone_accuracy import standalone_accuracy
from cgsv_jax.rules.contribution.tmc_shapley import tmc_shapley
from cgsv_jax.rules.contribution.validation_accuracy import validation_accuracy
from cgsv_jax.rules.contribution.validation_shapley import validation_shapley

# Measures of a game, whose `options.game` says what a coalition is worth.
# name -> (game, hyper, options) -> Contribution
SOLUTIONS = {
    "shapley": lambda game, hyper, options: shapley(game),
    "sampled_shapley": lambda game, hyper, options: sampled_shapley(game, options.permutations),
    "leave_one_out": lambda game, hyper, options: leave_one_out(game),
    "banzhaf": lambda game, hyper, options: banzhaf(game, options.permutations),
    "least_core": lambda game, hyper, options: least_core(game),
    "gtg_shapley": lambda game, hyper, options: gtg_shapley(
        game, options.permutations, hyper.tolerance, options.scale_values
    ),
    "tmc_shapley": lambda game, hyper, options: tmc_shapley(
        game, options.permutations, hyper.tolerance
    ),
}
OF_GAMES = tuple(SOLUTIONS)
SAMPLED = ("sampled_shapley", "banzhaf", "gtg_shapley", "tmc_shapley")
TRUNCATED = ("gtg_shapley", "tmc_shapley")
# Options that only some measures read: option -> (the option that names them, their names).
READ_BY = {
    "cosine_epsilon": ("contribution", ("cosine",)),
    "game": ("contribution", OF_GAMES),
    "permutations": ("contribution", SAMPLED),
    "tolerance": ("contribution", TRUNCATED),
    "scale_values": ("contribution", ("gtg_shapley",)),
}


def _of_game(solution):
    """A measure of the game that the options name."""
    return lambda hyper, options: solution(GAMES[options.game](hyper, options), hyper, options)


# name -> (hyper, options) -> Contribution
CONTRIBUTIONS = {
    "cosine": lambda hyper, options: cosine(hyper.cosine_epsilon),
    "projection": lambda hyper, options: projection(),
    **{name: _of_game(solution) for name, solution in SOLUTIONS.items()},
}

_REPUTATIONS = ("accumulated", "moving_average", "random_share", "sharpened", "size_share")
__getattr__ = deprecated.names(
    __name__,
    {"MEASURES": "cgsv_jax.contribution.CONTRIBUTIONS"}
    | {name: f"cgsv_jax.reputation.{name}" for name in _REPUTATIONS},
)

__all__ = [
    "CONTRIBUTIONS",
    "GAMES",
    "OF_GAMES",
    "READ_BY",
    "SAMPLED",
    "SOLUTIONS",
    "TRUNCATED",
    "Game",
    "banzhaf",
    "cosine",
    "cosine_game",
    "gtg_shapley",
    "least_core",
    "leave_one_out",
    "participation_rate",
    "projection",
    "sampled_shapley",
    "shapley",
    "standalone_accuracy",
    "tmc_shapley",
    "validation_accuracy",
    "validation_game",
    "validation_shapley",
]
