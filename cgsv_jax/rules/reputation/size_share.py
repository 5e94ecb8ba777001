"""A reputation that no upload changes: the share of the data."""

import jax.numpy as jnp

from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Reputation, Standing, Upload


def size_share() -> Reputation:
    """r_i = n_i / sum_j n_j in every round; the score is the same number. Shapes [N]."""

    def judged(upload: Upload, standing: Standing) -> Standing:
        old = standing.reputation
        rows = upload.num_examples.astype(old.dtype)  # in all, more than an int32 may count
        share = rows / jnp.maximum(jnp.sum(rows), 1)
        return Standing(jnp.where(upload.present, share, 0.0), share)

    return stateless(Reputation, judged)
