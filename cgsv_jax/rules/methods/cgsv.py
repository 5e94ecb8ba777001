"""The paper's algorithm and the released code's, from the same parts."""

from typing import Any

import chex

from cgsv_jax.core import checks
from cgsv_jax.rules.aggregation import by_reputation
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.contribution import cosine
from cgsv_jax.rules.removal import REMOVAL, REMOVED, Removal
from cgsv_jax.rules.reputation import FLOOR, MEMORY, moving_average
from cgsv_jax.rules.rescale import GAMMA, GAMMA_DECAY, NORM_EPSILON, to_norm
from cgsv_jax.rules.reward import sparsify
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Aggregation, Algorithm, Contribution, Reward


def cgsv(
    gamma: chex.Numeric = 0.5,
    alpha: chex.Numeric = 0.95,
    beta: chex.Numeric = 1.0,
    *,
    floor: chex.Numeric = 1e-3,
    gamma_decay: chex.Numeric = 1.0,
    norm_epsilon: chex.Numeric = 0.0,
    relative_floor: bool = False,
    normalise_scores: bool = False,
    contribution: Contribution | None = None,
    aggregation: Aggregation | None = None,
    reward: Reward | None = None,
    removal: Removal | None = None,
) -> Algorithm:
    """Cosine gradient Shapley value with sparsified gradient rewards.

    u_i = Gamma dw_i / ‖dw_i‖; u_N = sum_i r_i u_i; psi_i = cos(u_i, u_N);
    r_i = alpha r_i + (1 - alpha) psi_i, floored, normalised; v_i = the
    floor(D tanh(beta r_i) / max_j tanh(beta r_j)) largest entries of u_N. O(N D + D log D) a round.

    The defaults are the preset `paper`. No validation data is needed.

    Args:
      gamma: Gamma > 0, the norm of every upload.
      alpha: weight of the old reputation, in [0, 1].
      beta: altruism degree, >= 0, infinity allowed.
      floor: smallest reputation before normalising.
      gamma_decay: d in (0, 1], Gamma_t = Gamma d^t.
      norm_epsilon: added to ‖dw_i‖.
      relative_floor: floor / N in place of floor.
      normalise_scores: scores on the scale of reputations before averaging.
      contribution: another contribution measure than `cosine()`.
      aggregation: another aggregation than `by_reputation()`.
      reward: another reward than `sparsify(beta)`; then `beta` is its business.
      removal: who is taken out for good, as in `rffl`; default: nobody.

    Returns:
      An Algorithm.

    Reference:
      Xu et al., Gradient Driven Rewards to Guarantee Fairness in Collaborative Machine Learning,
      NeurIPS 2021.
    """
    checks.numbers(FLOOR.allowed, floor=floor)
    return compose(
        moving_average(
            contribution or cosine(),
            alpha,
            floor=floor,
            relative_floor=relative_floor,
            normalise_scores=normalise_scores,
        ),
        aggregation or by_reputation(),
        reward or sparsify(beta),
        rescale=to_norm(gamma, norm_epsilon, gamma_decay),
        removal=removal,
    )


def cgsv_released(
    tensors: tuple[int, ...],
    gamma: chex.Numeric = 0.5,
    alpha: chex.Numeric = 0.95,
    beta: chex.Numeric = 1.0,
) -> Algorithm:
    """The released PyTorch code's server (commit 7376663), which differs from the paper's text.

    Each tensor is masked on its own, min(ceil(len ratio), len - 1) entries and all ties survive,
    and both epsilons are there. Its learning rate decays per local epoch: that is the trainer's
    business, see `local.decayed`.

    Args:
      tensors: sizes of the model's tensors, in raveled order.
      gamma: as in `cgsv`.
      alpha: as in `cgsv`.
      beta: as in `cgsv`.

    Returns:
      An Algorithm.
    """
    return cgsv(
        gamma,
        alpha,
        beta,
        norm_epsilon=1e-7,
        contribution=cosine(epsilon=1e-10),
        reward=sparsify(beta, scope="tensor", tensors=tensors, count="ceil", ties="all"),
    )


def _removing(
    removal: chex.Numeric | None = None, removed: str = "frozen", **rest: Any
) -> Algorithm:
    """`cgsv` where who is removed is told by a number and a word; no number removes nobody."""
    alone = removed == "alone"
    return cgsv(removal=None if removal is None else Removal(removal, alone=alone), **rest)


CGSV = Spec(
    _removing,
    {
        "gamma": GAMMA,
        "gamma_decay": GAMMA_DECAY,
        "norm_epsilon": NORM_EPSILON,
        **MEMORY,
        "removal": REMOVAL._replace(switch=True),
        "removed": REMOVED,
    },
    parts={"contribution": "cosine", "aggregation": "reputation", "reward": "sparsify"},
)
