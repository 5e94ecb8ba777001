"""RFFL, the predecessor: cosine reputations, clients keep their updates, the low are removed."""

import chex

from cgsv_jax.aggregation import by_reputation
from cgsv_jax.algorithms.compose import compose
from cgsv_jax.algorithms.removal import with_removal
from cgsv_jax.contribution import cosine, moving_average
from cgsv_jax.rescale import at_most
from cgsv_jax.reward import sparsify
from cgsv_jax.types import Algorithm, Reward


def rffl(
    gamma: chex.Numeric = 0.5,
    alpha: chex.Numeric = 0.95,
    removal: chex.Numeric = 1 / 3,
    *,
    reward: Reward | None = None,
) -> Algorithm:
    """u_i = dw_i clipped to Gamma, kept by the client; r_i as in `cgsv` without a floor.

    u_N = sum_i r_i u_i (shares of the data in the first round); r_i = alpha r_i +
    (1 - alpha) cos(u_i, u_N), at least 0, normalised; v_i = u_i + the r_i / max r largest entries
    of u_N. From round 10 on, who falls below removal / |R| takes no further part.
    No validation data is needed. O(N D + D log D) a round. Assumed: nothing of a client's own share
    is taken out of its download, and a removed client keeps the model it has.

    Args:
      gamma: Gamma > 0, the greatest norm of an upload.
      alpha: weight of the old reputation, in [0, 1].
      removal: share of the mean reputation below which a client is removed; 0 removes nobody.
      reward: another reward than `sparsify(0)`, whose ratio is r_i / max r over the whole vector;
        the released code masks tensor by tensor.

    Reference:
      Xu and Lyu, A Reputation Mechanism Is All You Need, arXiv:2011.10464, 2020.
    """
    composed = compose(
        moving_average(cosine(), alpha, floor=0.0),
        by_reputation(),
        reward or sparsify(0.0),
        rescale=at_most(gamma),
        keeps_own=True,
    )
    return with_removal(composed, removal)
