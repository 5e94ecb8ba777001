"""How a client's worth is measured. A new measure is one file and one line of `MEASURES`."""

from cgsv_jax.contribution.accumulated import accumulated
from cgsv_jax.contribution.cosine import cosine
from cgsv_jax.contribution.games import GAMES, ON_VALIDATION, cosine_game, validation_game
from cgsv_jax.contribution.moving_average import moving_average
from cgsv_jax.contribution.projection import projection
from cgsv_jax.contribution.random_share import random_share
from cgsv_jax.contribution.shapley import shapley
from cgsv_jax.contribution.sharpened import sharpened
from cgsv_jax.contribution.size_share import size_share
from cgsv_jax.contribution.validation_accuracy import validation_accuracy
from cgsv_jax.contribution.validation_shapley import validation_shapley

# name -> (hyper, options) -> Measure
MEASURES = {
    "cosine": lambda hyper, options: cosine(hyper.cosine_epsilon),
    "projection": lambda hyper, options: projection(),
    "shapley": lambda hyper, options: shapley(GAMES[options.game](hyper, options)),
}
# Measures of a game, whose `options.game` says what a coalition is worth.
OF_GAMES = ("shapley",)

__all__ = [
    "GAMES",
    "MEASURES",
    "OF_GAMES",
    "ON_VALIDATION",
    "accumulated",
    "cosine",
    "cosine_game",
    "moving_average",
    "projection",
    "random_share",
    "shapley",
    "sharpened",
    "size_share",
    "validation_accuracy",
    "validation_game",
    "validation_shapley",
]
