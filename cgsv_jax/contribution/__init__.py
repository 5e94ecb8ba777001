"""How a client's worth is measured. A new measure is one file and one line of `MEASURES`."""

from cgsv_jax.contribution.cosine import cosine
from cgsv_jax.contribution.moving_average import moving_average
from cgsv_jax.contribution.projection import projection
from cgsv_jax.contribution.shapley import shapley
from cgsv_jax.contribution.size_share import size_share

# name -> (hyper, options) -> Measure
MEASURES = {
    "cosine": lambda hyper, options: cosine(hyper.cosine_epsilon),
    "projection": lambda hyper, options: projection(),
    "shapley": lambda hyper, options: shapley(),
}

__all__ = ["MEASURES", "cosine", "moving_average", "projection", "shapley", "size_share"]
