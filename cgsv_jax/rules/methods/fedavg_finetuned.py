"""FedAvg, then some rounds alone: a shared model that has a fairness."""

from cgsv_jax.rules.aggregation import uniform
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.methods.standalone import standalone
from cgsv_jax.rules.reputation import size_share
from cgsv_jax.rules.reward import share_all
from cgsv_jax.rules.then import then
from cgsv_jax.types import Aggregation, Algorithm


def fedavg_finetuned(rounds: int, aggregation: Aggregation | None = None) -> Algorithm:
    """u_N = mean of dw_i, given whole to everybody, for T rounds; then local training alone.

    Under FedAvg all clients hold one model, so fairness is undefined; after further local epochs
    each has its own. The run is as many rounds longer as are trained alone, by a new optimizer at
    the rate of round 0 (`local.trainer(afresh=T)`). No validation data is needed. O(N D) a round.

    Args:
      rounds: T, of the first stage.
      aggregation: another aggregation than `uniform()`, for instance `by_size()`, that of `fedavg`.

    Reference:
      The "FedAvg finetune" of Wu et al., ICLR 2024, whose extra local epochs make fairness defined;
      ZhaoxuanWu/Incentive-Aware-FL, 732ffeb, which averages uniformly.
    """
    shared = compose(size_share(), aggregation or uniform(), share_all(), common=True)
    return then(shared, standalone(), rounds)
