"""How uploads become u_N. A new rule is one file and one line of `AGGREGATIONS`."""

from cgsv_jax.rules.aggregation.q_fair import Q, q_fair
from cgsv_jax.rules.aggregation.weighted import (
    BY_REPUTATION,
    added,
    by_reputation,
    by_size,
    by_size_of_all,
    uniform,
)
from cgsv_jax.rules.spec import Spec

AGGREGATIONS = {
    "reputation": BY_REPUTATION,
    "size": Spec(by_size),
    "uniform": Spec(uniform),
}

__all__ = [
    "AGGREGATIONS",
    "Q",
    "added",
    "by_reputation",
    "by_size",
    "by_size_of_all",
    "q_fair",
    "uniform",
]
