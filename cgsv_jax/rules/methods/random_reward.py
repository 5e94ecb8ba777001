"""CGSV's reward with a reputation drawn at random: the baseline RR."""

import chex

from cgsv_jax.rules.aggregation import by_reputation
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.reputation import random_share
from cgsv_jax.rules.rescale import GAMMA, GAMMA_DECAY, NORM_EPSILON, to_norm
from cgsv_jax.rules.reward import sparsify
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Aggregation, Algorithm, Reward


def random_reward(
    gamma: chex.Numeric = 0.5,
    beta: chex.Numeric = 1.0,
    *,
    gamma_decay: chex.Numeric = 1.0,
    norm_epsilon: chex.Numeric = 0.0,
    aggregation: Aggregation | None = None,
    reward: Reward | None = None,
) -> Algorithm:
    """r_i = x_i / sum x, x uniform, drawn in every round; everything else as in `cgsv`.

    u_i = Gamma dw_i / ‖dw_i‖; u_N = sum_i r_{i,t-1} u_i; v_i = the floor(D tanh(beta r_i) / max
    tanh) largest entries of u_N. No validation data is needed. O(N D + D log D) a round. Assumed:
    the paper's tables have a row "RR" whose definition could not be found; a fresh draw in every
    round gives everybody the same in expectation, so its fairness is what chance alone gives.

    Args:
      gamma: Gamma > 0, the norm of every upload.
      beta: altruism degree, >= 0, infinity allowed.
      gamma_decay: d in (0, 1], Gamma_t = Gamma d^t.
      norm_epsilon: added to ‖dw_i‖.
      aggregation: another aggregation than `by_reputation()`.
      reward: another reward than `sparsify(beta)`.

    Reference:
      A baseline of Xu et al., NeurIPS 2021.
    """
    return compose(
        random_share(),
        aggregation or by_reputation(),
        reward or sparsify(beta),
        rescale=to_norm(gamma, norm_epsilon, gamma_decay),
    )


RANDOM_REWARD = Spec(
    random_reward,
    {"gamma": GAMMA, "gamma_decay": GAMMA_DECAY, "norm_epsilon": NORM_EPSILON},
    parts={"aggregation": "reputation", "reward": "sparsify"},
)
