"""FedAdam: federated averaging whose server divides by how large updates have been."""

import chex

from cgsv_jax.rules.aggregation import ADAPTIVE, adaptive, by_size, stepped
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Aggregation, Algorithm, Array


def fedadam(
    rate: chex.Numeric = 0.01,
    momentum: chex.Numeric = 0.9,
    beta2: chex.Numeric = 0.99,
    tau: chex.Numeric = 1e-3,
    aggregation: Aggregation | None = None,
) -> Algorithm:
    """u_N = eta m / (sqrt(v) + tau), given whole to everybody. O(N D) a round.

    With Delta the mean update, m = beta_1 m + (1 - beta_1) Delta and

        v = beta_2 v + (1 - beta_2) Delta².

    With m and v as they are: without the factors 1 / (1 - beta^t) of Adam, and from v = tau² on, as
    in its Algorithm 2. Code in use differs: TensorFlow Federated has Adam's factors, Flower those
    of the round after, both from v = 0 on.

    All clients hold one model, so fairness is undefined. No validation data is needed.

    Args:
      rate: eta, above 0, about what an entry of the model moves in a round; to be tuned.
      momentum: beta_1, in [0, 1).
      beta2: beta_2, in [0, 1).
      tau: above 0, as the size of updates below which the server does not adapt.
      aggregation: what Delta is, `by_size()` by default.

    Raises:
      ValueError: a number is out of range.

    Reference:
      Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2.
    """

    def squares(v: Array, squared: Array, beta2: chex.Numeric) -> Array:
        return beta2 * v + (1 - beta2) * squared

    server = adaptive(rate, momentum, beta2, tau, squares)
    return fedavg(stepped(aggregation or by_size(), server))


FEDADAM = Spec(
    fedadam,
    ADAPTIVE,
    parts={"aggregation": "reputation"},
    defaults={"aggregation": "size", "server_rate": 0.01},
)
