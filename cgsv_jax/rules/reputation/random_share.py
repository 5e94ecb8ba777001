"""A reputation that says nothing: drawn anew in every round."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.rules.shares import renewed
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Reputation, Standing, Upload


def random_share() -> Reputation:
    """r_i = x_i / sum_j x_j with x uniform on (0, 1); the score is x_i. Shapes [N].

    Absent clients keep theirs, and the present ones share the mass that these leave.
    """

    def judged(key: jax.Array, upload: Upload, standing: Standing) -> Standing:
        present, old = upload.present, standing.reputation
        keys = vectors.draws(key, upload.numbers, present.size)
        drawn = jax.vmap(lambda k: jax.random.uniform(k, (), old.dtype, minval=1e-6))(keys)
        score = jnp.where(present, drawn, 0.0)
        return Standing(score, renewed(score, old, present))

    return stateless(Reputation, judged)
