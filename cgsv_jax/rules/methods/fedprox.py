"""FedProx: federated averaging whose clients are held back on their way from the server's model."""

import math

import chex

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.spec import Number, Spec
from cgsv_jax.types import Aggregation, Algorithm, Array, ArrayTree, Local

MU = Number(
    0.01,
    Interval(0, math.inf, "[)"),
    "fedprox: how strongly local training is pulled back to where it started; 0 is fedavg",
    "mu",
)


def fedprox(mu: chex.Numeric = 0.01, aggregation: Aggregation | None = None) -> Algorithm:
    """Client i descends F_i(w) + mu/2 ‖w - w_N‖²; the server is FedAvg's. O(N D) a round.

    Every local step adds mu (w - w_N) to the gradient, whatever the local optimizer then makes of
    it. With a common E the pull alone is FedProx: its clients' unequal amounts of work ("gamma-
    inexact solutions") are what unequal sizes, or attendance, make of them here.

    All clients hold one model, so fairness is undefined. No validation data is needed.

    Args:
      mu: at least 0; its authors tune it in 1e-3 .. 1.
      aggregation: as that of `fedavg`, `by_size()` by default. Its authors draw clients by size and
        average evenly, which has the same mean.

    Raises:
      ValueError: mu is out of range.

    Reference:
      Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, Algorithm 2.
    """
    checks.numbers(MU.allowed, mu=mu)

    def pull(weights: Array, start: Array, shared: ArrayTree, own: ArrayTree) -> Array:
        del shared, own
        return mu * (weights - start)  # the gradient of mu/2 ‖w - w_t‖²

    return fedavg(aggregation)._replace(local=Local(pull))


FEDPROX = Spec(
    fedprox, {"mu": MU}, parts={"aggregation": "reputation"}, defaults={"aggregation": "size"}
)
