"""Who has how much: weights and reputations [N] over the clients that are present."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.types import Array, ArrayTree, Contribution, Upload


def over_present(values: Array, present: Array) -> Array:
    """Values [N] >= 0 of the present clients, summing to 1; uniform where the sum would be zero.

    Absent clients have 0, everybody where nobody is present.
    """
    chex.assert_equal_shape([values, present])
    values = jnp.where(present, values, 0.0)
    total = jnp.sum(values)
    uniform = present / jnp.maximum(jnp.sum(present), 1)
    return jnp.where(total > 0, values / jnp.where(total > 0, total, 1.0), uniform)


def left_over(old: Array, present: Array) -> Array:
    """What the absent clients leave of 1 for the present ones to share, []."""
    # At least 0: the sum of the absent clients' shares may round to more than 1.
    return jnp.maximum(1.0 - jnp.sum(jnp.where(present, 0.0, old)), 0.0)


def renewed(values: Array, old: Array, present: Array) -> Array:
    """Reputations [N]: present clients split 1 - sum(absent) by `values`; absent ones keep theirs.

    Args:
      values: [N] >= 0, in any unit.
      old: [N] reputations of the previous round.
      present: [N] bool.
    """
    return jnp.where(present, left_over(old, present) * over_present(values, present), old)


def scored(
    contribution: Contribution,
    key: jax.Array,
    upload: Upload,
    aggregate: Array,
    weights: Array,
    state: ArrayTree,
) -> tuple[Array, ArrayTree]:
    """psi [N] of a round, 0 where a client is absent or its score is no number.

    A score of a loss that overflowed must not reach anybody else.
    """
    score, state = contribution.update(key, upload, aggregate, weights, state)
    chex.assert_equal_shape([score, upload.present])
    return jnp.where(upload.present & jnp.isfinite(score), score, 0.0), state


def rows_of_all(upload: Upload) -> Array:
    """n_i of the present clients and of those who were removed for good, 0 of the absent, [N]."""
    there = upload.present if upload.removed is None else upload.present | upload.removed
    # Floats: in all, more than an int32 may count.
    return jnp.where(there, upload.num_examples, 0).astype(upload.norms.dtype)


def population(upload: Upload) -> int:
    """N, of which the upload's rows may be a cohort."""
    return upload.present.size if upload.population is None else upload.population
