"""Scores become reputations."""

import math

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.shares import left_over, population, renewed, scored
from cgsv_jax.rules.spec import Choice, Number, Truth
from cgsv_jax.types import Array, ArrayTree, Contribution, Reputation, Standing, Upload

ALPHA = Number(0.95, Interval(0, 1), "alpha, weight of the old reputation, in [0, 1]", "alpha")
NEGATIVE = Choice(
    "zero",
    ("zero", "kept"),
    "rffl, shapfed_wa: reputations below 0 count as zero, or are kept, with weights below 0",
)
FLOOR = Number(1e-3, Interval(0, 1), "smallest reputation before normalising")
MEMORY = {
    "alpha": ALPHA,
    "floor": FLOOR,
    "relative_floor": Truth(False, "use floor / N, for large populations"),
    "normalise_scores": Truth(False, "bring scores to the scale of r before averaging"),
}


def moving_average(
    contribution: Contribution,
    alpha: chex.Numeric,
    *,
    floor: chex.Numeric = 1e-3,
    relative_floor: bool = False,
    normalise_scores: bool = False,
) -> Reputation:
    """r_i = alpha r_i + (1 - alpha) psi_i, at least `floor`, normalised to sum 1: eq. (4).

    One function, not a chain: the average does not commute with clamping and normalising, and it
    is the NORMALISED reputation that the next round averages. An absent client keeps its
    reputation, and the present ones share what the absent ones leave of 1. A sum of zero becomes
    uniform.

    Args:
      contribution: what psi is.
      alpha: weight of the old reputation, in [0, 1].
      floor: smallest reputation before normalising, >= 0.
      relative_floor: use floor / N, for populations where 1 / N is below the floor.
      normalise_scores: use psi_i / sum_j |psi_j| (times the mass that the present clients share)
        in place of psi_i. Reputations sum to 1 and cosines do not: without this, the newest round
        weighs (1 - alpha) S / (alpha + (1 - alpha) S) with S = sum psi instead of 1 - alpha.

    Returns:
      A Reputation; shapes [N].
    """
    checks.numbers(ALPHA.allowed, alpha=alpha)
    checks.numbers(FLOOR.allowed._replace(low=-math.inf), floor=floor)  # -infinity: none
    checks.kinds(contribution=(contribution, Contribution, "cosine()"))

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        return contribution.init(num_clients, num_parameters)

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
        psi = score
        if normalise_scores:
            total = jnp.sum(jnp.abs(score))
            psi = left_over(old, present) * score / jnp.where(total > 0, total, 1.0)
        least = floor / population(upload) if relative_floor else floor
        r = alpha * old + (1 - alpha) * psi  # r_{i,t}, eq. (4)
        return Standing(score, renewed(jnp.maximum(r, least), old, present)), state

    return Reputation(init, update, contribution.needs)
