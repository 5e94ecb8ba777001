"""CGSV's reward with a reputation that only counts rows: the baseline DW."""

import chex

from cgsv_jax.rules.aggregation import by_size
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.reputation import size_share
from cgsv_jax.rules.rescale import GAMMA, GAMMA_DECAY, NORM_EPSILON, to_norm
from cgsv_jax.rules.reward import sparsify
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Algorithm, Reward


def size_weighted(
    gamma: chex.Numeric = 0.5,
    beta: chex.Numeric = 1.0,
    *,
    gamma_decay: chex.Numeric = 1.0,
    norm_epsilon: chex.Numeric = 0.0,
    reward: Reward | None = None,
) -> Algorithm:
    """r_i = n_i / sum n in every round, everything else as in `cgsv`. O(N D + D log D) a round.

    u_i = Gamma dw_i / ‖dw_i‖; u_N = sum_i r_i u_i; v_i = the floor(D tanh(beta r_i) / max tanh)
    largest entries of u_N. No validation data is needed. Assumed: the paper's tables have a row
    "DW" whose definition could not be found; this is the same sparsified-gradient reward with
    data-size weights.

    Args:
      gamma: Gamma > 0, the norm of every upload.
      beta: altruism degree, >= 0, infinity allowed.
      gamma_decay: d in (0, 1], Gamma_t = Gamma d^t.
      norm_epsilon: added to ‖dw_i‖.
      reward: another reward than `sparsify(beta)`.

    Reference:
      A baseline of Xu et al., NeurIPS 2021.
    """
    return compose(
        size_share(),
        by_size(),
        reward or sparsify(beta),
        rescale=to_norm(gamma, norm_epsilon, gamma_decay),
    )


SIZE_WEIGHTED = Spec(
    size_weighted,
    {"gamma": GAMMA, "gamma_decay": GAMMA_DECAY, "norm_epsilon": NORM_EPSILON},
    parts={"reward": "sparsify"},
)
