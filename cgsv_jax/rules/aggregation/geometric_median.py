"""The geometric median: the vector whose distances to all uploads sum to the least."""

import math

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval, from_
from cgsv_jax.rules.aggregation import lengths as lengths_lib
from cgsv_jax.rules.shares import over_present
from cgsv_jax.rules.spec import Count, Number, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Aggregation, Array, Upload

STEPS = Count(
    8, from_(1), "geometric_median: steps of Weiszfeld's algorithm", "steps", flag="weiszfeld_steps"
)
SMOOTHING = Number(
    1e-6,
    Interval(0, math.inf, "()"),
    "geometric_median: least distance that counts, in lengths of the median upload, above 0",
    "nu",
    flag="weiszfeld_smoothing",
)


def geometric_median(steps: int = 8, smoothing: chex.Numeric = 1e-6) -> Aggregation:
    """u_N = argmin_z sum_i ‖u_i - z‖ over the clients present, by smoothed Weiszfeld steps.

    z <- sum_i b_i u_i / sum_i b_i, b_i = 1 / max(nu L, ‖u_i - z‖), L the median ‖u_i‖; z starts at
    the mean of L u_i / ‖u_i‖. It withstands any minority that sends anything at all, and does not
    depend on how entries are turned or on the unit. No weights: neither size nor reputation enters.
    O(steps N D) a round. The recorded weights b_i / sum b make u_N exactly.

    The start differs from its source, which begins at the mean of uploads: an upload of 1e6 would
    then take a step for every power of N - 1 to be forgotten. Here it enters with length L as all
    others do. nu is in units of L there where the source has 1e-6 of whatever unit updates have,
    and its weights by size are left out: sizes are what clients say of themselves.

    Args:
      steps: at least 1; the error falls by a factor each.
      smoothing: nu > 0.

    Returns:
      An Aggregation without state.

    Raises:
      ValueError: a number is out of range.

    Reference:
      Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE Transactions on
      Signal Processing 2022, algorithm 2.
    """
    checks.numbers(STEPS.allowed, weiszfeld_steps=steps)
    checks.numbers(SMOOTHING.allowed, weiszfeld_smoothing=smoothing)

    def aggregated(upload: Upload) -> tuple[Array, Array]:
        present = upload.present
        rows = upload.scales[:, None] * upload.deltas  # u_i
        lengths, unit = lengths_lib.of_uploads(upload)
        alike = jnp.where(present, lengths_lib.factors(lengths, unit), 0.0)
        start = alike / jnp.maximum(jnp.sum(present), 1)
        least = jnp.maximum(unit * smoothing, jnp.finfo(lengths.dtype).tiny)

        def step(_: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            centre, _ = now
            distances = jnp.maximum(vectors.distances(rows, centre), least)
            # In units of the nearest, whose weight is 1.
            nearest = jnp.min(jnp.where(present, distances, jnp.inf))
            weights = over_present(nearest / distances, present)
            return vectors.weighted_sum(weights, rows), weights

        centre = vectors.weighted_sum(start, rows)
        return jax.lax.fori_loop(0, steps, step, (centre, jnp.zeros_like(lengths)))

    return stateless(Aggregation, aggregated)


GEOMETRIC_MEDIAN = Spec(geometric_median, {"steps": STEPS, "smoothing": SMOOTHING})
