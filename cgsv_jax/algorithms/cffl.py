"""CFFL: credit by validation accuracy, downloads by credit and data."""

import chex

from cgsv_jax.aggregation import by_size
from cgsv_jax.algorithms.compose import compose
from cgsv_jax.algorithms.removal import with_removal
from cgsv_jax.contribution import moving_average, sharpened, validation_accuracy
from cgsv_jax.rescale import at_most
from cgsv_jax.reward import of_others
from cgsv_jax.types import Algorithm, Network


def cffl(
    network: Network | None,
    gamma: chex.Numeric = 0.5,
    alpha: chex.Numeric = 0.5,
    removal: chex.Numeric = 1 / 3,
    *,
    sharpness: chex.Numeric = 5.0,
) -> Algorithm:
    """r_i = alpha r_i + (1 - alpha) a_i / sum a, then sinh(5 r_i), normalised to sum 1.

    u_i = dw_i clipped to Gamma, kept by the client; a_i is the accuracy of w_i + u_i on the
    server's validation rows; u_N = sum_i n_i u_i / sum n; v_i = u_i + the
    floor(D r_i / max r n_i / max n) largest entries of u_N - n_i u_i / sum n, what the others made
    of it. Who falls below removal / |R| takes no further part.

    NEEDS VALIDATION DATA: N evaluations a round, and O(N D log D). Assumed: uploads are whole
    (theta = 1), updates are averaged by size, so that a client's own part of u_N is n_i / sum n and
    comes off before the ranking (its code takes n_i / max n off), the quota counts rows under every
    partition (the original counts classes where classes are unequal), alpha is the text's .5 (its
    code has .8).

    Args:
      network: evaluates models on the validation rows.
      gamma: Gamma > 0, the greatest norm of an upload.
      alpha: weight of the old credit, in [0, 1].
      removal: share of the mean credit below which a client is removed; 0 removes nobody.
      sharpness: the factor in sinh.

    Reference:
      Lyu et al., Collaborative Fairness in Federated Learning, arXiv:2008.12161, 2020.
    """
    credit = moving_average(validation_accuracy(network), alpha, floor=0.0, normalise_scores=True)
    credit = sharpened(credit, sharpness)
    composed = compose(credit, by_size(), of_others(), rescale=at_most(gamma), keeps_own=True)
    return with_removal(composed, removal, first=0)
