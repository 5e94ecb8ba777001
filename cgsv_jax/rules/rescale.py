"""How long an upload is: u_i = scale_i dw_i, a number per client, so u_i is never stored."""

import math
from collections.abc import Callable

import chex
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.spec import Number
from cgsv_jax.types import Array

Rescale = Callable[[Array], Array]  # norms [N] -> scales [N]

GAMMA = Number(
    0.5, Interval(0, math.inf, "()"), "Gamma, the norm of every upload, above 0", "Gamma"
)
NORM_EPSILON = Number(0.0, Interval(0, math.inf, "[)"), "added to the norm of an update")


def unchanged() -> Rescale:
    """u_i = dw_i."""
    return jnp.ones_like


def to_norm(gamma: chex.Numeric, epsilon: chex.Numeric = 0.0) -> Rescale:
    """u_i = Gamma dw_i / (‖dw_i‖ + epsilon), up or down; a zero update stays zero."""
    checks.numbers(GAMMA.allowed, gamma=gamma)
    checks.numbers(NORM_EPSILON.allowed, epsilon=epsilon)

    def rescale(norms: Array) -> Array:
        scales = jnp.where(norms > 0, gamma / jnp.where(norms > 0, norms + epsilon, 1.0), 0.0)
        # Of the shortest updates and a large Gamma the quotient overflows; infinity times an entry
        # of 0 would be no number.
        return jnp.minimum(scales, jnp.finfo(norms.dtype).max)

    return rescale


def at_most(gamma: chex.Numeric) -> Rescale:
    """u_i = dw_i min(1, Gamma / ‖dw_i‖): shortened where it is longer than Gamma."""
    checks.numbers(GAMMA.allowed, gamma=gamma)

    def rescale(norms: Array) -> Array:
        return jnp.where(norms > gamma, gamma / jnp.where(norms > 0, norms, 1.0), 1.0)

    return rescale
