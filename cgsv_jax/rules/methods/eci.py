"""ECI: the contribution index on validation data, paid with CGSV's reward."""

import chex

from cgsv_jax.rules.aggregation import by_reputation
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.contribution import VALIDATION_SHAPLEY
from cgsv_jax.rules.reputation import accumulated
from cgsv_jax.rules.rescale import GAMMA, GAMMA_DECAY, NORM_EPSILON, to_norm
from cgsv_jax.rules.reward import sparsify
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Aggregation, Algorithm, Contribution, Reward


def eci(
    contribution: Contribution,
    gamma: chex.Numeric = 0.5,
    beta: chex.Numeric = 1.0,
    *,
    floor: chex.Numeric = 1e-3,
    gamma_decay: chex.Numeric = 1.0,
    norm_epsilon: chex.Numeric = 0.0,
    aggregation: Aggregation | None = None,
    reward: Reward | None = None,
) -> Algorithm:
    """r_i = sum_t phi_{i,t}, floored, normalised; phi the Shapley value of rebuilt models.

    nu(S) is the accuracy, on the server's validation rows, of w_N + sum_S w_i u_i / sum_S w_i with
    the aggregation's weights w; the values of all rounds add up. Uploads, aggregation and reward
    are those of `cgsv`.

    NEEDS VALIDATION DATA: 2^N evaluations a round for up to ten clients, sampled and truncated
    beyond (see `contribution.validation_shapley`). Assumed: the paper's tables have a row "ECI",
    the extended contribution index, without saying how a value becomes a reward; here it takes the
    place of the cosine's reputation.

    Args:
      contribution: phi, for instance `contribution.validation_shapley(network)`.
      gamma: Gamma > 0, the norm of every upload.
      beta: altruism degree, >= 0, infinity allowed.
      floor: smallest share of the sum, of 1 / N.
      gamma_decay: d in (0, 1], Gamma_t = Gamma d^t.
      norm_epsilon: added to ‖dw_i‖.
      aggregation: another aggregation than `by_reputation()`.
      reward: another reward than `sparsify(beta)`.

    Reference:
      Song et al., Profit Allocation for Federated Learning, IEEE Big Data 2019 (the index); a
      baseline of Xu et al., NeurIPS 2021.
    """
    return compose(
        accumulated(contribution, floor=floor),
        aggregation or by_reputation(),
        reward or sparsify(beta),
        rescale=to_norm(gamma, norm_epsilon, gamma_decay),
    )


ECI = Spec(
    eci,
    {"gamma": GAMMA, "gamma_decay": GAMMA_DECAY, "norm_epsilon": NORM_EPSILON},
    parts={"contribution": VALIDATION_SHAPLEY, "aggregation": "reputation", "reward": "sparsify"},
)
