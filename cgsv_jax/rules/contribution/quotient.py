"""One share for all who say the same: near-duplicates divide what one of them is worth."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.spec import Number, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Upload

ALIKE = Number(
    0.9,
    Interval(0, 1, "()"),
    "cosine of two uploads from which on they count as one, between 0 and 1",
    "alike",
)


def quotient(of: Contribution, alike: chex.Numeric = 0.9) -> Contribution:
    """psi_i = the measure / |C_i|, C_i the clients whose uploads say the same as that of i.

    j is in C_i where cos(u_i, u_j) > tau, or where a third has that with both. One client that
    poses as m has one share in all, whatever their number. O(N² D) a round.

    Args:
      of: the measure that is divided.
      alike: tau, in (0, 1).

    Reference:
      A finding of this project (`python -m experiments.robustness`), after the quotient of a game
      by its duplicates.
    """
    checks.numbers(ALIKE.allowed, alike=alike)
    checks.kinds(of=(of, Contribution, "cosine()"))

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        score, state = of.update(key, upload, aggregate, weights, state)
        return score / cluster_sizes(upload, alike), state

    return Contribution(of.init, update, of.needs)


def cluster_sizes(upload: Upload, alike: chex.Numeric) -> Array:
    """|C_i| >= 1 of every client, [N]; absent ones and zero updates are alike to nobody."""
    length = jnp.where(upload.norms > 0, upload.norms, 1.0)
    cosines = vectors.gram(upload.deltas / length[:, None])
    itself = jnp.eye(length.size, dtype=bool)
    near = (cosines > alike) | itself
    ways = jnp.matmul(near.astype(cosines.dtype), near.astype(cosines.dtype).T, precision="highest")
    return jnp.sum(ways > 0.5, axis=1).astype(length.dtype)


QUOTIENT = Spec(
    lambda quotient_of, **numbers: quotient(quotient_of, **numbers),
    {"alike": ALIKE},
    parts={"quotient_of": "cosine"},
)
