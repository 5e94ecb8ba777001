"""q-FFL: the counter-baseline that seeks equal accuracy for all."""

import chex

from cgsv_jax.rules.aggregation import Q, q_fair
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.reputation import size_share
from cgsv_jax.rules.reward import share_all
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Algorithm


def q_ffl(q: chex.Numeric = 1.0) -> Algorithm:
    """min sum_i F_i^(q+1) / (q+1): clients with a high loss weigh more. O(N D) a round.

    Delta_i = F_i^q dw_i / eta, h_i = q F_i^(q-1) ‖dw_i / eta‖^2 + F_i^q / eta,
    w += sum Delta_i / sum h_i, given whole to everybody. All clients hold one model, so
    collaborative fairness is undefined. No validation data is needed, but a forward pass over
    every client's rows before training. Assumed: clients count alike (the original draws them by
    size); eta is the round's learning rate.

    Args:
      q: exponent >= 0; 0 is the plain mean of updates.

    Reference:
      Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020.
    """
    return compose(size_share(), q_fair(q), share_all(), common=True)


Q_FFL = Spec(q_ffl, {"q": Q})
