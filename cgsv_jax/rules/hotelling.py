"""Whether a vector still changes from round to round: Hotelling's one-sample test, round by round.

The sample is kept as what the test needs of it, so that it does not grow with the rounds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cgsv_jax.types import Array


class Sample(NamedTuple):
    """The rows [n, P] so far: what is left of them, and the last `lag` themselves."""

    rows: Array  # [] int32, n
    mean: Array  # [P] of all rows
    scatter: Array  # [P, P] sum of (x - mean)(x - mean)^T
    recent: Array  # [lag, P] the last rows, the oldest of them in place n % lag
    older: Array  # [P] mean of the rows before these


def empty(size: int, lag: int) -> Sample:
    """No rows yet, of P entries each.

    Args:
      size: P.
      lag: rows that are not in the mean that all of them are compared with, at least 1.
    """
    row = jnp.zeros(size)
    return Sample(jnp.int32(0), row, jnp.zeros((size, size)), jnp.zeros((lag, size)), row)


def added(sample: Sample, row: Array) -> Sample:
    """The sample with one more row [P]. O(P^2)."""
    lag = sample.recent.shape[0]
    count = sample.rows + 1
    # Welford's recursion: a difference of sums of squares would lose the spread in their roundings.
    step = row - sample.mean
    mean = sample.mean + step / count
    scatter = sample.scatter + step[:, None] * (row - mean)[None, :]
    place = sample.rows % lag
    leaves = sample.rows - lag + 1  # rows that are older now, the one that leaves among them
    gone = (sample.recent[place] - sample.older) / jnp.maximum(leaves, 1)
    older = jnp.where(leaves > 0, sample.older + gone, sample.older)
    recent = jnp.asarray(sample.recent).at[place].set(row)
    return Sample(count, mean, scatter, recent, older)


def p_value(sample: Sample, size: Array) -> Array:
    """How likely so large a T² is, of rows that scatter about the mean of all but the last ones.

    T² = n (mean - mu)^T S^-1 (mean - mu), mu the mean of the first n - lag rows, and
    T² (n - p) / (p (n - 1)) has the distribution F(p, n - p). S^-1 is the pseudo-inverse: entries
    that never change say nothing. O(P^3).

    Args:
      sample: of at most P entries that count; the others are 0 in every row.
      size: [] p >= 1, how many count.

    Returns:
      [] in [0, 1]; 0, "it changes", while n is at most `lag` or p.
    """
    dtype = sample.mean.dtype
    n, p = sample.rows.astype(dtype), jnp.maximum(size, 1).astype(dtype)
    enough = (sample.rows > sample.recent.shape[0]) & (sample.rows > size)
    spread = jnp.sqrt(jnp.diagonal(sample.scatter) / jnp.maximum(n - 1, 1))
    unit = jnp.where(spread > 0, 1 / jnp.where(spread > 0, spread, 1.0), 0.0)
    correlation = sample.scatter / jnp.maximum(n - 1, 1) * unit[:, None] * unit[None, :]
    apart = (sample.mean - sample.older) * unit
    inverse = jnp.linalg.pinv(correlation, hermitian=True)
    product = jnp.matmul(inverse, apart, precision=jax.lax.Precision.HIGHEST)
    t_squared = n * jnp.maximum(jnp.sum(apart * product), 0.0)
    rest = jnp.maximum(n - p, 1.0)
    f = t_squared * rest / (p * jnp.maximum(n - 1, 1.0))
    # P(F > f), the survival function of F(p, n - p).
    above = jax.scipy.special.betainc(rest / 2, p / 2, rest / (rest + p * f))
    return jnp.where(enough & jnp.isfinite(above), above, 0.0)
