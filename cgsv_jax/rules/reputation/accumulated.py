"""Reputation as the sum of all scores so far: the memory of a contribution index."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.reputation.moving_average import FLOOR
from cgsv_jax.rules.shares import population, renewed, scored
from cgsv_jax.types import Array, ArrayTree, Contribution, Reputation, Standing, Upload


def accumulated(contribution: Contribution, *, floor: chex.Numeric = 1e-3) -> Reputation:
    """r_i = max(sum_t phi_{i,t} / sum_j |sum_t phi_{j,t}|, floor / N), normalised to sum 1.

    A value that is zero-sum over time, or negative, earns the floor; nothing is ever forgotten.
    Absent clients add nothing and keep their reputation.

    Args:
      contribution: what phi is.
      floor: smallest share before normalising, of 1 / N.

    Returns:
      A Reputation; its state is the contribution's and the sums [N].
    """
    checks.numbers(FLOOR.allowed, floor=floor)
    checks.kinds(contribution=(contribution, Contribution, "cosine()"))

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        return contribution.init(num_clients, num_parameters), jnp.zeros(num_clients)

    def update(
        key: jax.Array,
        upload: Upload,
        aggregate: Array,
        weights: Array,
        standing: Standing,
        state: ArrayTree,
    ) -> tuple[Standing, ArrayTree]:
        inner, total = state
        score, inner = scored(contribution, key, upload, aggregate, weights, inner)
        present, old = upload.present, standing.reputation
        total = total + score.astype(total.dtype)
        size = jnp.sum(jnp.abs(total))
        share = total / jnp.where(size > 0, size, 1.0)
        r = renewed(jnp.maximum(share, floor / population(upload)), old, present)
        return Standing(score, r), (inner, total)

    return Reputation(init, update, contribution.needs)
