"""Rank: everybody learns from those that are no better."""

from cgsv_jax.rules.aggregation import uniform
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.contribution import validation_accuracy
from cgsv_jax.rules.reputation import moving_average
from cgsv_jax.rules.reward import no_better
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Algorithm, Network


def rank(network: Network | None) -> Algorithm:
    """v_i = the mean of dw_j over all j with a_j <= a_i, a the accuracy of w_j + dw_j.

    The best client gets the mean of all updates, the worst its own. The reputation is a_i / sum a.
    The server's model moves by the mean update; no client receives it.

    NEEDS VALIDATION DATA: N evaluations a round (the code at hand ranks on the TEST set, which
    never enters a decision here), and O(N^2 D).

    Args:
      network: evaluates models on the validation rows.

    Reference:
      Kong et al., Incentivizing Federated Learning, 2022, as compared with by Wu et al., ICLR 2024.
    """
    latest = moving_average(validation_accuracy(network), 0.0, floor=0.0)
    return compose(latest, uniform(), no_better())


RANK = Spec(rank, given=("network",))
