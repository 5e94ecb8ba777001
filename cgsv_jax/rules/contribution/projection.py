"""The length of a raw update along the aggregate: cosine with the magnitude left in."""

import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.spec import Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Upload


def projection() -> Contribution:
    """phi_i = w_i ‖dw_i‖ cos(dw_i, u_N), with the aggregation weights w. O(N D) a round.

    The exact Shapley value of the additive game nu(S) = ‖dw_S‖ cos(dw_S, u_N) with
    dw_S = sum_{i in S} w_i dw_i. Cosine erases how far a client moved; this keeps it. Its scale is
    that of the updates, so use it with `normalise_scores`.

    Reference:
      FedFAIM uses this value, see Shi et al., A Model Performance-Based Incentive Mechanism for
      Federated Learning (2022).
    """

    def score(upload: Upload, aggregate: Array, weights: Array) -> Array:
        ones = jnp.ones_like(upload.norms)
        cosines = vectors.cosines(upload.deltas, upload.norms, ones, aggregate)
        return weights * upload.norms * cosines  # phi_i

    return stateless(Contribution, score)


PROJECTION = Spec(projection, defaults=games.OTHER_SCALE)
