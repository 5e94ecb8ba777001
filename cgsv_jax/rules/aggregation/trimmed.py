"""Coordinate by coordinate what lies in the middle: the trimmed mean and the median."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, order_statistics
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.shares import over_present
from cgsv_jax.rules.spec import Number, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Aggregation, Array, Upload

TRIM = Number(
    0.3,
    Interval(0, 0.5, "[)"),
    "trimmed_mean: share of the clients present that is cut off at either end of every "
    "coordinate, rounded down, in [0, 0.5)",
    "trim",
)


def trimmed_mean(trim: chex.Numeric = 0.3) -> Aggregation:
    """u_N[d] = mean of the u_i[d] left when the k smallest and the k largest are cut off.

    k = floor(trim n) of the n clients present; trim = 0 is the plain mean. It withstands up to k
    clients that send anything at all. No weights: neither size nor reputation enters, so that a
    reputation decides what a client receives and not what becomes of the model. O(N D) a round, in
    2 x 32 passes over the uploads.

    The recorded weight of a client is the share of the coordinates that it has a part in: of
    u_N[d] everybody whose entry lies within what is left has an equal part. It is the mean, over
    coordinates, of weights that make u_N[d], and is not one number with which u_N could be made.

    Args:
      trim: in [0, .5); it must be at least the share of dishonest clients.

    Returns:
      An Aggregation without state.

    Reference:
      Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal
      Statistical Rates, ICML 2018, definition 2 (beta there).
    """
    checks.numbers(TRIM.allowed, trim=trim)

    def cut(count: Array) -> Array:
        # A product such as .29 x 100 may round to just below the whole number that it is.
        exact = count.astype(jnp.float32) * trim * (1 + 4 * jnp.finfo(jnp.float32).eps)
        return jnp.minimum(exact.astype(jnp.int32), (count - 1) // 2)

    return _kept_between(cut)


def median() -> Aggregation:
    """u_N[d] = median of the u_i[d] of the clients present; of an even number, the mean of two.

    It withstands any minority that sends anything at all. No weights: neither size nor reputation
    enters. O(N D) a round, in 2 x 32 passes over the uploads. The recorded weights are those of
    `trimmed_mean`: the share of the coordinates in which a client's entry is the median.

    Returns:
      An Aggregation without state.

    Reference:
      Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal
      Statistical Rates, ICML 2018, definition 1.
    """
    return _kept_between(lambda count: (count - 1) // 2)


def _kept_between(cut: Callable[[Array], Array]) -> Aggregation:
    """The mean of what is left of every coordinate.

    Args:
      cut: number of clients present [] -> how many are cut off at either end [].
    """

    def aggregated(upload: Upload) -> tuple[Array, Array]:
        present = upload.present
        rows = upload.scales[:, None] * upload.deltas  # u_i
        count = jnp.sum(present, dtype=jnp.int32)
        first = jnp.maximum(cut(count), 0)
        left = jnp.maximum(count - 2 * first, 1)
        low, high = jax.lax.map(
            lambda place: order_statistics.smallest(rows, present, place),
            jnp.stack([first, first + left - 1]),
        )
        there = present[:, None]
        at_low, at_high = (jnp.sum(there & (rows == end[None, :]), axis=0) for end in (low, high))
        inside = there & (low[None, :] < rows) & (rows < high[None, :])
        number = jnp.sum(inside, axis=0)
        # Of equal entries at an end some may be cut off: those left are what the counts leave.
        below = jnp.sum(there & (rows < low[None, :]), axis=0)
        lowest = jnp.where(low == high, left, at_low - (first - below))
        highest = left - number - lowest
        # Differences to the lower end: of a width, entries far from 0 lose nothing.
        total = jnp.sum(jnp.where(inside, rows - low[None, :], 0.0), axis=0)
        total = total + highest * (high - low)
        within = number + jnp.where(low == high, at_low, at_low + at_high)
        part = there & (low[None, :] <= rows) & (rows <= high[None, :])
        weights = jnp.mean(jnp.where(part, 1.0 / jnp.maximum(within, 1)[None, :], 0.0), axis=1)
        somebody = count > 0
        aggregate = jnp.where(somebody, low + total / left, 0.0)
        return aggregate, over_present(weights, present)

    return stateless(Aggregation, aggregated)


MEDIAN = Spec(median)
TRIMMED_MEAN = Spec(trimmed_mean, {"trim": TRIM})
