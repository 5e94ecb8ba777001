"""Federated averaging: one model for all."""

from cgsv_jax.rules.aggregation import by_size
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.reputation import size_share
from cgsv_jax.rules.reward import share_all
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Aggregation, Algorithm


def fedavg(aggregation: Aggregation | None = None) -> Algorithm:
    """u_N = sum_i n_i dw_i / sum_i n_i, given whole to everybody. O(N D) a round.

    All clients hold one model, so fairness is undefined. No validation data is needed.

    Args:
      aggregation: another aggregation than `by_size()`, for instance `median()`, which a few
        clients that send anything at all do not move.

    Reference:
      McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
      AISTATS 2017.
    """
    return compose(size_share(), aggregation or by_size(), share_all(), common=True)


FEDAVG = Spec(fedavg, parts={"aggregation": "reputation"}, defaults={"aggregation": "size"})
