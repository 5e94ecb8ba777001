"""How contributions add up to reputations."""

from cgsv_jax.rules.reputation.accumulated import accumulated
from cgsv_jax.rules.reputation.moving_average import ALPHA, FLOOR, MEMORY, NEGATIVE, moving_average
from cgsv_jax.rules.reputation.participation_rate import participation_rate
from cgsv_jax.rules.reputation.random_share import random_share
from cgsv_jax.rules.reputation.sharpened import GROWTH, sharpened
from cgsv_jax.rules.reputation.size_share import size_share
from cgsv_jax.rules.reputation.standalone_accuracy import STANDALONE_ON, standalone_accuracy

__all__ = [
    "ALPHA",
    "FLOOR",
    "GROWTH",
    "MEMORY",
    "NEGATIVE",
    "STANDALONE_ON",
    "accumulated",
    "moving_average",
    "participation_rate",
    "random_share",
    "sharpened",
    "size_share",
    "standalone_accuracy",
]
