"""The cosine gradient Shapley value: how far an upload points where everybody goes."""

import math

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.spec import Number, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Upload

EPSILON = Number(
    0.0,
    Interval(0, math.inf, "[)"),
    "smallest norm in the cosine's denominator",
    flag="cosine_epsilon",
)


def cosine(epsilon: Array | float = 0.0) -> Contribution:
    """psi_i = cos(u_i, u_N), eq. (3), in [-1, 1]; 0 for a zero update. O(N D) a round.

    It approximates the Shapley value of the game nu(S) = cos(u_S, u_N) without coalitions. Scale
    does not matter to it, so Gamma only acts through `epsilon`.

    Args:
      epsilon: smallest norm in the denominator; the released code has 1e-10.

    Reference:
      Xu et al., Gradient Driven Rewards to Guarantee Fairness in Collaborative Machine Learning,
      NeurIPS 2021.
    """
    checks.numbers(EPSILON.allowed, epsilon=epsilon)

    def score(upload: Upload, aggregate: Array) -> Array:
        psi = vectors.cosines(upload.deltas, upload.norms, upload.scales, aggregate, epsilon)
        return psi  # psi_i, eq. (3)

    return stateless(Contribution, score)


COSINE = Spec(cosine, {"epsilon": EPSILON})
