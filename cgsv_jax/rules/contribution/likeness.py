"""How like another's a client's vector is, and what FoolsGold makes of it."""

import math

import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.spec import Number
from cgsv_jax.types import Array

CONFIDENCE = Number(
    1.0,
    Interval(0, math.inf, "()"),
    "foolsgold, viceroy: how steeply the weight falls with likeness (its kappa), above 0",
    flag="foolsgold_confidence",
)


def pairs(rows: Array, present: Array) -> Array:
    """cos(rows_i, rows_j) of every two clients that are present, [N, N]; 0 elsewhere.

    The diagonal is 0 as well, and so is whatever belongs to a zero row. What roundings keep from 1
    is 1: FoolsGold divides by what is left of 1, however little that is. O(N^2 D).

    Args:
      rows: [N, D].
      present: [N] bool.
    """
    norms = vectors.norms(rows)
    units = rows / jnp.where(norms > 0, norms, 1.0)[:, None]
    cosines = jnp.maximum(vectors.gram(units), -1.0)
    cosines = jnp.where(cosines >= 1 - 32 * jnp.finfo(rows.dtype).eps, 1.0, cosines)
    both = present[:, None] & present[None, :] & ~jnp.eye(present.size, dtype=bool)
    return jnp.where(both, cosines, 0.0)


def singular(
    cosines: Array, present: Array, confidence: Array | float, epsilon: float = 1e-5
) -> Array:
    """FoolsGold's weights a [N] in [0, 1]: near 1 for whom nobody is like, 0 for likes; absent 0.

    m_i = max_j cos_ij + epsilon; where m_i < m_j, cos_ij is multiplied by m_i / m_j (a pardon);
    a_i = 1 - max_j cos_ij, divided by the greatest of them, at most .99; and
    a_i = clip(confidence (ln(a_i / (1 - a_i) + epsilon) + .5), 0, 1).

    Where all are alike there is nothing to divide by: all get 0 (its code NaN).

    Args:
      cosines: [N, N] from `pairs`, 0 on the diagonal: so no maximum is below 0.
      present: [N] bool.
      confidence: kappa > 0.
      epsilon: as above.
    """
    most = jnp.max(cosines, axis=1) + epsilon
    pardon = jnp.minimum(most[:, None] / most[None, :], 1.0)
    alone = 1 - jnp.max(cosines * pardon, axis=1)
    alone = jnp.where(present, jnp.clip(alone, 0.0, 1.0), 0.0)
    greatest = jnp.max(alone)
    # At most .99 is what its code means by "= 1 becomes .99": whatever lies between is 1 at last.
    share = jnp.minimum(alone / jnp.where(greatest > 0, greatest, 1.0), 0.99)
    logit = jnp.log(share / (1 - share) + epsilon)
    return jnp.where(present, jnp.clip(confidence * (logit + 0.5), 0.0, 1.0), 0.0)
