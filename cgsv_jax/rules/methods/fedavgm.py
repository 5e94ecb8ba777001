"""FedAvgM: federated averaging whose server has momentum."""

import chex

from cgsv_jax.rules.aggregation import SERVER_MOMENTUM, SERVER_RATE, by_size, descent, stepped
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Aggregation, Algorithm


def fedavgm(
    rate: chex.Numeric = 1.0, momentum: chex.Numeric = 0.9, aggregation: Aggregation | None = None
) -> Algorithm:
    """v = beta v + Delta and u_N = eta v, Delta the mean update, given whole to everybody.

    The step is that of `optax.sgd(eta, momentum=beta)`: after many rounds in one direction it is
    1 / (1 - beta) times as long as FedAvg's, which beta = 0, eta = 1 is. O(N D) a round.

    All clients hold one model, so fairness is undefined. No validation data is needed.

    Args:
      rate: eta, above 0.
      momentum: beta, in [0, 1).
      aggregation: what Delta is, `by_size()` by default.

    Raises:
      ValueError: a number is out of range.

    Reference:
      Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual
      Classification, 2019.
    """
    return fedavg(stepped(aggregation or by_size(), descent(rate, momentum=momentum)))


FEDAVGM = Spec(
    fedavgm,
    {"rate": SERVER_RATE, "momentum": SERVER_MOMENTUM},
    parts={"aggregation": "reputation"},
    defaults={"aggregation": "size"},
)
