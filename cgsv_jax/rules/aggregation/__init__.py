"""How uploads become u_N. A new rule is one file and one line of `AGGREGATIONS`."""

from cgsv_jax.rules.aggregation.fltrust import FLTRUST, fltrust
from cgsv_jax.rules.aggregation.geometric_median import GEOMETRIC_MEDIAN, geometric_median
from cgsv_jax.rules.aggregation.krum import KRUM, MULTI_KRUM, krum, multi_krum
from cgsv_jax.rules.aggregation.norm_clipping import NORM_CLIPPING, norm_clipping
from cgsv_jax.rules.aggregation.q_fair import Q, q_fair
from cgsv_jax.rules.aggregation.stepped import (
    ADAPTIVE,
    SERVER_MOMENTUM,
    SERVER_RATE,
    adaptive,
    descent,
    stepped,
)
from cgsv_jax.rules.aggregation.trimmed import MEDIAN, TRIMMED_MEAN, median, trimmed_mean
from cgsv_jax.rules.aggregation.weighted import (
    BY_REPUTATION,
    added,
    by_reputation,
    by_size,
    by_size_of_all,
    shares,
    uniform,
)
from cgsv_jax.rules.spec import Spec

AGGREGATIONS = {
    "reputation": BY_REPUTATION,
    "size": Spec(by_size),
    "uniform": Spec(uniform),
    "median": MEDIAN,
    "trimmed_mean": TRIMMED_MEAN,
    "krum": KRUM,
    "multi_krum": MULTI_KRUM,
    "geometric_median": GEOMETRIC_MEDIAN,
    "norm_clipping": NORM_CLIPPING,
    "fltrust": FLTRUST,
}

__all__ = [
    "ADAPTIVE",
    "AGGREGATIONS",
    "SERVER_MOMENTUM",
    "SERVER_RATE",
    "Q",
    "adaptive",
    "added",
    "by_reputation",
    "by_size",
    "by_size_of_all",
    "descent",
    "fltrust",
    "geometric_median",
    "krum",
    "median",
    "multi_krum",
    "norm_clipping",
    "q_fair",
    "shares",
    "stepped",
    "trimmed_mean",
    "uniform",
]
