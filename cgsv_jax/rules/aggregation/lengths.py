"""Lengths of uploads, for rules that bring all to one."""

import jax.numpy as jnp

from cgsv_jax.core import order_statistics
from cgsv_jax.types import Array, Upload


def of_uploads(upload: Upload) -> tuple[Array, Array]:
    """‖u_i‖ [N], and their median over the clients present []."""
    lengths = upload.scales * upload.norms
    return lengths, order_statistics.middle(lengths, upload.present)


def factors(lengths: Array, length: Array) -> Array:
    """What brings vectors of these lengths [N] to `length` []; 0 for a zero vector."""
    found = jnp.where(lengths > 0, length / jnp.where(lengths > 0, lengths, 1.0), 0.0)
    # Of a length of 1e-30 and one of 1e30 it overflows; infinity times 0 would be no number.
    return jnp.minimum(found, jnp.finfo(found.dtype).max)
