"""Reputations pulled apart: CFFL's memory."""

import math

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.reputation.moving_average import ALPHA
from cgsv_jax.rules.shares import left_over, renewed, scored
from cgsv_jax.rules.spec import Number
from cgsv_jax.types import Array, ArrayTree, Contribution, Reputation, Standing, Upload

GROWTH = Number(
    0.0,
    Interval(0, math.inf, "[)"),
    "cffl: by how much the factor in sinh grows over the run, 1 doubles it, at least 0",
    "growth",
)
_LEAST = 1e-30  # what no score is divided by, where all are 0


def sharpened(
    contribution: Contribution,
    alpha: chex.Numeric,
    factor: chex.Numeric = 5.0,
    *,
    growth: chex.Numeric = 0.0,
    rounds: int = 0,
) -> Reputation:
    """r_i = sinh(k x_i) / sum_j sinh(k x_j), x_i = alpha r_i + (1 - alpha) a_i / sum_j a_j.

    x is not normalised: in a client's first round, when its r is 0, it is small, and the sinh less
    steep. Absent clients keep their reputation, and the present ones share what they leave of 1.

    Args:
      contribution: what a is; below 0 it counts as 0.
      alpha: weight of the old reputation, in [0, 1].
      factor: k > 0 of the first round; towards 0 nothing is pulled apart.
      growth: k = factor (1 + growth t / T) in round t.
      rounds: T.

    Returns:
      A Reputation; shapes [N].
    """
    checks.numbers(ALPHA.allowed, alpha=alpha)
    checks.numbers(GROWTH.allowed, growth=growth)
    checks.kinds(contribution=(contribution, Contribution, "validation_accuracy(network)"))

    def update(
        key: jax.Array,
        upload: Upload,
        aggregate: Array,
        weights: Array,
        standing: Standing,
        state: ArrayTree,
    ) -> tuple[Standing, ArrayTree]:
        score, state = scored(contribution, key, upload, aggregate, weights, state)
        present, old = upload.present, standing.reputation
        earned = jnp.maximum(score, 0.0)
        psi = left_over(old, present) * earned / jnp.maximum(jnp.sum(earned), _LEAST)
        x = jnp.where(present, alpha * old + (1 - alpha) * psi, 0.0)
        k = factor * (1 + growth * jnp.minimum(upload.round / max(rounds, 1), 1.0))
        # sinh(k x), in units of exp(k max x) / 2, which no k makes infinite.
        bent = jnp.exp(k * (x - jnp.max(x))) * -jnp.expm1(-2 * k * x)
        return Standing(score, renewed(bent.astype(old.dtype), old, present)), state

    return Reputation(contribution.init, update, contribution.needs)
