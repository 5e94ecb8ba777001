"""FedAvg, then some rounds alone: a shared model that has a fairness."""

from cgsv_jax.algorithms.fedavg import fedavg
from cgsv_jax.algorithms.standalone import standalone
from cgsv_jax.algorithms.then import then
from cgsv_jax.types import Algorithm


def fedavg_finetuned(rounds: int) -> Algorithm:
    """`fedavg` for T rounds, then local training without anybody. O(N D) a round.

    Under FedAvg all clients hold one model, so fairness is undefined; after further local epochs
    each has its own. The run is as many rounds longer as are trained alone. No validation data is
    needed.

    Args:
      rounds: T, of the first stage.

    Reference:
      The "FedAvg finetune" of Wu et al., ICLR 2024, whose extra local epochs make fairness defined.
    """
    return then(fedavg(), standalone(), rounds)
