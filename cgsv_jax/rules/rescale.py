"""How long an upload is: u_i = scale_i dw_i, a number per client, so u_i is never stored.

The paper's Gamma is the same in every round, so that the server's step never shrinks: once training
has reached its plateau the server jumps across the optimum, all clients with it, and who is better
depends on the side that the last jump ended on. Gamma_t = Gamma d^t with d below 1 ends that; it is
a finding of this project (`python -m experiments.steadiness`), not of the paper.
"""

import math
from collections.abc import Callable

import chex
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.spec import Number
from cgsv_jax.types import Array

Rescale = Callable[[Array, Array], Array]  # norms [N], round [] -> scales [N]

GAMMA = Number(
    0.5, Interval(0, math.inf, "()"), "Gamma, the norm of every upload, above 0", "Gamma"
)
GAMMA_DECAY = Number(
    1.0,
    Interval(0, 1, "(]"),
    "factor d on Gamma per round, Gamma_t = Gamma d^t, in (0, 1]; 1 is the paper",
    "Gamma decay",
)
NORM_EPSILON = Number(0.0, Interval(0, math.inf, "[)"), "added to the norm of an update")


def unchanged() -> Rescale:
    """u_i = dw_i."""

    def rescale(norms: Array, round_: Array) -> Array:
        del round_
        return jnp.ones_like(norms)

    return rescale


def to_norm(gamma: chex.Numeric, epsilon: chex.Numeric = 0.0, decay: chex.Numeric = 1.0) -> Rescale:
    """u_i = Gamma d^t dw_i / (‖dw_i‖ + epsilon), up or down; a zero update stays zero.

    Args:
      gamma: Gamma > 0 of round 0.
      epsilon: added to ‖dw_i‖.
      decay: d in (0, 1].
    """
    checks.numbers(NORM_EPSILON.allowed, epsilon=epsilon)
    length = _decaying(gamma, decay)

    def rescale(norms: Array, round_: Array) -> Array:
        gamma = length(round_)
        scales = jnp.where(norms > 0, gamma / jnp.where(norms > 0, norms + epsilon, 1.0), 0.0)
        # Of the shortest updates and a large Gamma the quotient overflows; infinity times an entry
        # of 0 would be no number.
        return jnp.minimum(scales, jnp.finfo(norms.dtype).max)

    return rescale


def at_most(gamma: chex.Numeric, decay: chex.Numeric = 1.0) -> Rescale:
    """u_i = dw_i min(1, Gamma d^t / ‖dw_i‖): shortened where it is longer than Gamma d^t.

    Args:
      gamma: Gamma > 0 of round 0.
      decay: d in (0, 1].
    """
    length = _decaying(gamma, decay)

    def rescale(norms: Array, round_: Array) -> Array:
        gamma = length(round_)
        return jnp.where(norms > gamma, gamma / jnp.where(norms > 0, norms, 1.0), 1.0)

    return rescale


def _decaying(gamma: chex.Numeric, decay: chex.Numeric) -> Callable[[Array], Array]:
    """Round [] -> Gamma_t = Gamma d^t []."""
    checks.numbers(GAMMA.allowed, gamma=gamma)
    checks.numbers(GAMMA_DECAY.allowed, gamma_decay=decay)
    return lambda round_: gamma * decay**round_
