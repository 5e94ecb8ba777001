"""How uploads become u_N. A new rule is one file and one line of `AGGREGATIONS`."""

from cgsv_jax.rules.aggregation.q_fair import q_fair
from cgsv_jax.rules.aggregation.weighted import (
    added,
    by_reputation,
    by_size,
    by_size_of_all,
    uniform,
)

# name -> (hyper, options) -> Aggregation
AGGREGATIONS = {
    "reputation": lambda hyper, options: by_reputation(first=options.first_weights),
    "size": lambda hyper, options: by_size(),
    "uniform": lambda hyper, options: uniform(),
}

__all__ = [
    "AGGREGATIONS",
    "added",
    "by_reputation",
    "by_size",
    "by_size_of_all",
    "q_fair",
    "uniform",
]
