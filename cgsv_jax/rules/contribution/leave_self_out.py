"""Agreement with what the others agree on: the cosine without a client's own part of u_N."""

import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.rules.spec import Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Upload


def leave_self_out() -> Contribution:
    """psi_i = cos(u_i, u_N - a_i u_i), a_i the aggregation's weights; 0 where nobody else is.

    <u_i, u_N - a_i u_i> = <u_i, u_N> - a_i ‖u_i‖², and the norm of the difference from the same
    numbers: O(N D) a round, no pass more than `cosine`. It ends the loop of a high reputation, a
    large part of u_N and so a high cosine. Of aggregates that are no weighted sum the difference
    is as if they were.

    Reference:
      A finding of this project, beside the idea of valuing a client by what does not contain its
      own update.
    """

    def score(upload: Upload, aggregate: Array, weights: Array) -> Array:
        length = vectors.norm(aggregate)
        unit = jnp.where(length > 0, length, 1.0)
        # In units of ‖u_N‖, so that no square leaves the range of float32.
        own = upload.scales * upload.norms / unit  # ‖u_i‖
        ones = jnp.ones_like(upload.norms)
        towards = vectors.cosines(upload.deltas, upload.norms, ones, aggregate)
        mine = weights * own
        along = towards - mine  # of u_N - a_i u_i, along u_i
        across = jnp.sqrt(jnp.maximum(1.0 - jnp.square(towards), 0.0))
        others = jnp.hypot(along, across)
        # What is left by rounding alone points nowhere.
        known = (own > 0) & (length > 0) & (others > 1e-6 * jnp.maximum(1.0, mine))
        return jnp.where(known, along / jnp.where(known, others, 1.0), 0.0)

    return stateless(Contribution, score)


LEAVE_SELF_OUT = Spec(leave_self_out)
