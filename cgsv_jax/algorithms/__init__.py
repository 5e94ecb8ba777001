"""Named methods. A new method is one file and one line of `ALGORITHMS`."""

from cgsv_jax.aggregation import AGGREGATIONS
from cgsv_jax.algorithms.cgsv import cgsv, cgsv_released
from cgsv_jax.algorithms.compose import ComposedState, compose
from cgsv_jax.algorithms.fedavg import fedavg
from cgsv_jax.algorithms.standalone import standalone
from cgsv_jax.contribution import MEASURES
from cgsv_jax.reward import REWARDS
from cgsv_jax.types import Algorithm, Hyper, Options


def _cgsv(hyper: Hyper, options: Options) -> Algorithm:
    return cgsv(
        hyper.gamma,
        hyper.alpha,
        hyper.beta,
        floor=hyper.floor,
        norm_epsilon=hyper.norm_epsilon,
        relative_floor=options.relative_floor,
        normalise_scores=options.normalise_scores,
        measure=MEASURES[options.contribution](hyper, options),
        aggregation=AGGREGATIONS[options.aggregation](hyper, options),
        reward=REWARDS[options.reward](hyper, options),
    )


# name -> (hyper, options) -> Algorithm
ALGORITHMS = {
    "standalone": lambda hyper, options: standalone(),
    "fedavg": lambda hyper, options: fedavg(),
    "cgsv": _cgsv,
}

__all__ = [
    "ALGORITHMS",
    "ComposedState",
    "cgsv",
    "cgsv_released",
    "compose",
    "fedavg",
    "standalone",
]
