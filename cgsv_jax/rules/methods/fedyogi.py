"""FedYogi: FedAdam whose divisor grows and shrinks by at most a step."""

import chex
import jax.numpy as jnp

from cgsv_jax.rules.aggregation import ADAPTIVE, adaptive, by_size, stepped
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Aggregation, Algorithm, Array


def fedyogi(
    rate: chex.Numeric = 0.01,
    momentum: chex.Numeric = 0.9,
    beta2: chex.Numeric = 0.99,
    tau: chex.Numeric = 1e-3,
    aggregation: Aggregation | None = None,
) -> Algorithm:
    """u_N = eta m / (sqrt(v) + tau), given whole to everybody. O(N D) a round.

    With Delta the mean update, m = beta_1 m + (1 - beta_1) Delta and

        v = v - (1 - beta_2) Delta² sign(v - Delta²).

    Where updates become small, v shrinks by (1 - beta_2) Delta² a round, Adam's v by a share of
    itself. From v = tau² on, as in its Algorithm 2; `optax.yogi` starts at 1e-6 with Adam's factors
    1 / (1 - beta^t), Flower at 0.

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
        return v - (1 - beta2) * squared * jnp.sign(v - squared)

    server = adaptive(rate, momentum, beta2, tau, squares)
    return fedavg(stepped(aggregation or by_size(), server))


FEDYOGI = Spec(
    fedyogi,
    ADAPTIVE,
    parts={"aggregation": "reputation"},
    defaults={"aggregation": "size", "server_rate": 0.01},
)
