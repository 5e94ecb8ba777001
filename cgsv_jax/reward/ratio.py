"""How much of the best reward each client has earned."""

import chex
import jax.numpy as jnp

from cgsv_jax.choices import choice
from cgsv_jax.shares import rows_of_all
from cgsv_jax.types import Array, Upload


def ratios(reputation: Array, present: Array, beta: chex.Numeric, *, on: str = "sum") -> Array:
    """tanh(beta r_i) / max_j tanh(beta r_j) over the present clients: eq. (5) before flooring.

    beta = infinity gives 1 to everybody, beta = 0 the limit r_i / max r; absent clients get 0. The
    largest ratio is 1 by definition, not by luck of rounding.

    Args:
      reputation: [N], at least one of them positive.
      present: [N] bool.
      beta: altruism degree, >= 0.
      on: "sum" lets beta act on r summing to 1, "max" on r / max r, where tanh saturates whatever
        N is.

    Returns:
      [N], within [0, 1]: a reputation below 0 earns nothing.

    Raises:
      ValueError: `on` is another word.
    """
    choice("beta_on", on, "sum", "max")
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
    ratio = jnp.where(jnp.isinf(beta), 1.0, jnp.where(r == top, 1.0, jnp.clip(curved, 0.0, 1.0)))
    return jnp.where(present, ratio, 0.0).astype(reputation.dtype)


def times_size(values: Array, upload: Upload) -> Array:
    """Values [N] times n_i / max n, over all clients but the absent, removed ones among them."""
    rows = rows_of_all(upload)
    return values * (rows / jnp.maximum(jnp.max(rows), 1)).astype(values.dtype)
