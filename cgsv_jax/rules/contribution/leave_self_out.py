"""Agreement with what the others agree on: the cosine without a client's own part of u_N."""

import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.rules.spec import Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Upload


def leave_self_out() -> Contribution:
    """psi_i = cos(u_i, u_N - a_i u_i), a_i the aggregation's weights; 0 where nobody else is.

    It ends the loop of a high reputation, a large part of u_N and so a high cosine. Of aggregates
    that are no weighted sum the difference is as if they were. What rounding alone leaves of u_N
    points nowhere and counts as nobody. O(N D) a round, a pass more than `cosine`.

    Reference:
      A finding of this project, beside the idea of valuing a client by what does not contain its
      own update.
    """

    def score(upload: Upload, aggregate: Array, weights: Array) -> Array:
        length = vectors.norm(aggregate)
        # In units of ‖u_N‖, so that no square leaves the range of float32. The difference itself:
        # where a client is most of u_N, inner products would leave of the others a rounding.
        unit = jnp.where(length > 0, length, 1.0)
        part = weights * upload.scales / unit
        others = (aggregate / unit)[None, :] - part[:, None] * upload.deltas
        norms = jnp.where(upload.norms > 0, upload.norms, 1.0)
        along = jnp.sum(upload.deltas / norms[:, None] * others, axis=1)
        left = jnp.sqrt(jnp.sum(jnp.square(others), axis=1))
        mine = part * upload.norms
        rounding = mine.size * jnp.finfo(mine.dtype).eps * jnp.maximum(1.0, mine)
        known = (upload.scales * upload.norms > 0) & (length > 0) & (left > rounding)
        return jnp.where(known, jnp.clip(along / jnp.where(known, left, 1.0), -1.0, 1.0), 0.0)

    return stateless(Contribution, score)


LEAVE_SELF_OUT = Spec(leave_self_out)
