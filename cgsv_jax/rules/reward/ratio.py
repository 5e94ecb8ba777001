"""How much of the best reward each client has earned."""

import math

import chex
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.shares import rows_of_all
from cgsv_jax.rules.spec import Choice, Number
from cgsv_jax.types import Array, Upload

# Roundings, in units of eps, by which the ratio of two clients may miss 1 whose scores are equal.
# Behind the score each of them passes eight of half an eps (the average three, the shares two, tanh
# two, the quotient one). The score is a sum of D products in at least 64 running sums, and the
# error of a running sum is a random walk: sqrt(D / 64). Measured, of ten clients who are equal by
# symmetry: 3 eps to D = 1,000, 6 to 10,000, 25 to 100,000, 65 to 1,000,000.
BEHIND, RUNNING = 8, 64

BETA = Number(1.0, Interval(0, math.inf), "beta, altruism degree, from 0 to inf", "beta")
BETA_ON = Choice("sum", ("sum", "max"), "beta acts on r summing to 1 (sum) or on r / max r (max)")


def ratios(
    reputation: Array, present: Array, beta: chex.Numeric, *, on: str = "sum", entries: int = 1
) -> Array:
    """tanh(beta r_i) / max_j tanh(beta r_j) over the present clients: eq. (5) before flooring.

    beta = infinity gives 1 to everybody, beta = 0 the limit r_i / max r; absent clients get 0. The
    largest ratio is 1 by definition, not by luck of rounding, and so is every ratio that only
    roundings keep from it: floor(D ratio) would cost an equal client an entry.

    Args:
      reputation: [N], at least one of them positive.
      present: [N] bool.
      beta: altruism degree, >= 0.
      on: "sum" lets beta act on r summing to 1, "max" on r / max r, where tanh saturates whatever
        N is.
      entries: D, of the updates whose products the reputations are made of.

    Returns:
      [N], within [0, 1]: a reputation below 0 earns nothing.

    Raises:
      ValueError: `on` is another word.
    """
    checks.choice("beta_on", on, "sum", "max")
    chex.assert_equal_shape([reputation, present])
    r = jnp.where(present, reputation, 0.0)
    top = jnp.max(r)
    linear = jnp.where(top > 0, r / jnp.where(top > 0, top, 1.0), 1.0)  # also the limit beta -> 0
    exponent = jnp.where(jnp.isinf(beta), 1.0, beta) * (linear if on == "max" else r)
    bent = jnp.tanh(exponent)
    highest = jnp.max(bent)
    # Below 1e-6, tanh x = x to the last place and the ratio is its limit, which unlike the quotient
    # of tanhs survives an exponent that leaves the normal numbers.
    straight = jnp.max(exponent) < 1e-6
    curved = jnp.where(straight, linear, bent / jnp.where(straight, 1.0, highest))
    near = 1 - (BEHIND + math.sqrt(entries / RUNNING)) * jnp.finfo(curved.dtype).eps
    whole = jnp.isinf(beta) | (r == top) | (curved >= near)
    ratio = jnp.where(whole, 1.0, jnp.maximum(curved, 0.0))
    return jnp.where(present, ratio, 0.0).astype(reputation.dtype)


def times_size(values: Array, upload: Upload) -> Array:
    """Values [N] times n_i / max n, over all clients but the absent, removed ones among them."""
    rows = rows_of_all(upload)
    return values * (rows / jnp.maximum(jnp.max(rows), 1)).astype(values.dtype)
