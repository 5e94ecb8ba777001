"""IAFL: incentives by how many other clients' updates one receives."""

import chex

from cgsv_jax.aggregation import uniform
from cgsv_jax.algorithms.compose import compose
from cgsv_jax.contribution import size_share
from cgsv_jax.reward import mix
from cgsv_jax.types import Algorithm


def iafl(kappa: chex.Numeric = 0.5, recovery: chex.Numeric = 0.1) -> Algorithm:
    """v_i = the mean of dw_i and of ceil(gamma_i (N - 1)) others' updates.

    gamma_i = (p_i / max p)^(1 - kappa); p is the share of the data, the original's default. The
    others are drawn uniformly in every round. With probability `recovery` a client is sent the
    reference model, that of the client with the largest p. The server's model
    moves by the mean update; no client receives it. No validation data is needed. O(N^2 D) a
    round, one N x N matrix product.

    Args:
      kappa: in [0, 1]; 1 gives everybody everything.
      recovery: q of the original, in [0, 1]. Assumed: kappa .5 and q .1, which the sources at hand
        leave open.

    Reference:
      Wu et al., Incentive-Aware Federated Learning with Training-Time Model Rewards, ICLR 2024.
    """
    return compose(size_share(), uniform(), mix(kappa, recovery))
