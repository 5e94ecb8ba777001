"""Reputations pulled apart."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.types import Array, ArrayTree, Contribution, Standing, Upload


def sharpened(contribution: Contribution, factor: chex.Numeric = 5.0) -> Contribution:
    """r_i = sinh(a r_i) / sum_j sinh(a r_j) over the present clients, and this is fed back.

    Args:
      contribution: gives the reputation that is sharpened.
      factor: a > 0; towards 0 nothing changes.
    """

    def update(
        key: jax.Array,
        upload: Upload,
        aggregate: Array,
        weights: Array,
        standing: Standing,
        state: ArrayTree,
    ) -> tuple[Standing, ArrayTree]:
        new, state = contribution.update(key, upload, aggregate, weights, standing, state)
        present, r = upload.present, new.reputation
        bent = jnp.where(present, jnp.sinh(factor * r), 0.0)
        total, mass = jnp.sum(bent), jnp.sum(jnp.where(present, r, 0.0))
        bent = mass * bent / jnp.where(total > 0, total, 1.0)
        return new._replace(reputation=jnp.where(present & (total > 0), bent, r)), state

    return Contribution(contribution.init, update)
