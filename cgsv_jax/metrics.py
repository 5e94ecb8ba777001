"""What a collaboration is judged by: fairness, gains and distances, as pure functions.

Fairness is 100 times the Pearson correlation, over clients, between the test accuracy that each
reaches alone and the one that it ends with (Xu et al., NeurIPS 2021). It is blind to shift and
scale, hence to clients that lose by taking part: look at the gains as well.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.types import Array

# Two equal accuracies k / n may differ by a rounding or two of float32, where one was divided in a
# vector lane and the other by a reciprocal; the smallest real difference, 1 / n, is more than this
# for every test set of up to a million rows.
_ROUNDINGS = 8


def _constant(values: Array) -> Array:
    # Not "variance 0": one rounding away from constant, a vector would correlate its noise.
    # Methods, so that one rule serves jax's arrays and, in `why_undefined`, NumPy's.
    spread = values.max() - values.min()
    return spread <= _ROUNDINGS * jnp.finfo(values.dtype).eps * abs(values).max()


def _direction(values: Array) -> Array:
    """Deviations from the mean as a unit vector [N]; zeros for a constant one."""
    largest = jnp.max(jnp.abs(values))
    scaled = values / jnp.where(largest == 0, 1.0, largest)
    # Differences of near floats are exact, so that what is averaged is the spread, not the level.
    shifted = scaled - scaled[0]
    deviations = shifted - jnp.mean(shifted)
    widest = jnp.max(jnp.abs(deviations))
    deviations = deviations / jnp.where(widest == 0, 1.0, widest)
    length = jnp.sqrt(jnp.sum(jnp.square(deviations)))
    return deviations / jnp.where(length == 0, 1.0, length)


def pearson(x: Array, y: Array) -> Array:
    """Pearson's correlation coefficient.

    Args:
      x: [N].
      y: [N].

    Returns:
      [] in [-1, 1]; NaN where it is undefined: fewer than three entries (two are always perfectly
      correlated), an entry that is not finite, or a vector that is constant up to rounding.

    >>> float(pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 6.0])))
    1.0
    """
    x, y = _floats(x, y)
    if x.size < 3:
        return jnp.full((), jnp.nan, x.dtype)
    finite = jnp.all(jnp.isfinite(x) & jnp.isfinite(y))
    defined = finite & ~_constant(x) & ~_constant(y)
    # A sum of products rather than a dot, which an accelerator may round to fewer bits.
    cosine = jnp.sum(_direction(x) * _direction(y))
    return jnp.where(defined, jnp.clip(cosine, -1.0, 1.0), jnp.nan)


def fairness(standalone: Array, final: Array) -> Array:
    """100 rho(standalone, final), in [-100, 100]; NaN where undefined (see `why_undefined`).

    Args:
      standalone: [N] test accuracy each client reaches on its own data alone.
      final: [N] test accuracy after the collaboration, on the same test set.
    """
    return 100.0 * pearson(standalone, final)


def why_undefined(standalone: Array, final: Array) -> str | None:
    """The reason in words why `fairness` is NaN, or None where it is a number; not traceable.

    Args:
      standalone: [N].
      final: [N].
    """
    standalone, final = (np.asarray(values) for values in _floats(standalone, final))
    if final.size < 3:
        return "fewer than 3 clients"
    if not np.all(np.isfinite(standalone) & np.isfinite(final)):
        return "an accuracy is not finite"
    if _constant(final):
        return "all clients end with the same accuracy"
    if _constant(standalone):
        return "all clients have the same standalone accuracy"
    return None


def gains(standalone: Array, final: Array) -> Array:
    """What taking part gave each client, final - standalone: [N], [N] -> [N].

    Their mean is the mean collaboration gain; their standard deviation is the spread of the gain,
    which the fairness number does not see.
    """
    standalone, final = _floats(standalone, final)
    return final - standalone


def distances(clients: Array, server: Array) -> Array:
    """delta_i = ‖w_N - w_i‖, which Theorem 2 orders by reputation.

    Args:
      clients: [N, D].
      server: [D].

    Returns:
      [N].
    """
    clients, server = jnp.asarray(clients), jnp.asarray(server)
    chex.assert_rank([clients, server], [2, 1])
    chex.assert_equal_shape_suffix([clients, server], 1)

    def distance(client: Array) -> Array:
        difference = client - server
        largest = jnp.max(jnp.abs(difference), initial=0.0)
        # Squares of 1e-30 or 1e30 leave the range of float32; a NaN passes the comparison.
        unit = jnp.where(largest == 0, 1.0, largest)
        return largest * jnp.sqrt(jnp.sum(jnp.square(difference / unit)))

    return jax.vmap(distance)(clients)


def _floats(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = jnp.asarray(x), jnp.asarray(y)
    chex.assert_rank([x, y], 1)
    chex.assert_equal_shape([x, y])
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    return x.astype(dtype), y.astype(dtype)
