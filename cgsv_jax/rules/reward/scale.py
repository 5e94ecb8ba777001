"""A reward without sparsity: everybody gets the whole of u_N, shorter by what they earned."""

import chex
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.reward.ratio import BETA, BETA_ON, ratios
from cgsv_jax.rules.spec import Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Reward, Standing, Upload


def scale(beta: chex.Numeric, *, beta_on: str = "sum") -> Reward:
    """v_i = u_N tanh(beta r_i) / max_j tanh(beta r_j).

    The reward keeps its direction and loses length, where a mask keeps most of the energy in few
    entries; both have the same ratio, so the two can be compared. The quota is D, except for an
    absent client, which gets nothing.
    """
    checks.numbers(BETA.allowed, beta=beta)
    checks.choice("beta_on", beta_on, "sum", "max")

    def rewarded(upload: Upload, aggregate: Array, standing: Standing) -> tuple[Array, Array]:
        ratio = ratios(standing.reputation, upload.present, beta, on=beta_on)
        quota = jnp.where(upload.present, aggregate.size, 0).astype(jnp.int32)
        return ratio[:, None] * aggregate[None, :], quota

    def energy(upload: Upload, aggregate: Array, standing: Standing) -> Array:
        ratio = ratios(standing.reputation, upload.present, beta, on=beta_on)
        return jnp.where(jnp.any(aggregate != 0), jnp.square(ratio), 0.0)

    return stateless(Reward, rewarded, energy=energy)


SCALE = Spec(scale, {"beta": BETA, "beta_on": BETA_ON})
