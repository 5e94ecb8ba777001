"""Rewards made of other clients' whole updates, as many as one has earned."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.reward.ratio import ratios
from cgsv_jax.rules.spec import Number
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Reward, Standing, Upload

KAPPA = Number(0.0, Interval(0, 1), "iafl: 1 gives everybody everything, in [0, 1]", "kappa")


def mix(kappa: chex.Numeric) -> Reward:
    """v_i = (u_i + the updates of k_i others, drawn without replacement) / (1 + k_i).

    k_i = ceil(gamma_i (|R| - 1)), gamma_i = (r_i / max r)^(1 - kappa), |R| the present clients.
    One N x N matrix of who gets whose: O(N^2 D). The quota is D where something of another client
    arrives, else 0.

    Args:
      kappa: in [0, 1]; 1 gives everybody everything.
    """
    checks.numbers(KAPPA.allowed, kappa=kappa)

    def rewarded(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing
    ) -> tuple[Array, Array]:
        present, dtype = upload.present, upload.deltas.dtype
        count = present.size
        ratio = ratios(standing.reputation, present, 0.0)  # r_i / max r
        share = jnp.where(ratio > 0, jnp.power(jnp.maximum(ratio, 1e-30), 1 - kappa), 0.0)
        others = jnp.maximum(jnp.sum(present) - 1, 0)
        # Less a rounding: 0.2 of 10 clients are 2, whatever float32 says of 0.2 * 10.
        drawn = jnp.ceil(share * others - 1e-4).astype(jnp.int32)  # k_i
        # A lot for every pair: who draws whom does not depend on the order of the rows.
        columns = jnp.arange(count) if upload.numbers is None else upload.numbers
        lots = jax.vmap(lambda k: jax.random.uniform(k, (count,))[columns])(
            vectors.draws(key, upload.numbers, count)
        )
        barred = jnp.eye(count, dtype=bool) | ~present[None, :]
        place = jnp.argsort(jnp.argsort(jnp.where(barred, 2.0, lots), axis=1), axis=1)
        gets = (place < drawn[:, None]) & ~barred
        members = (gets | jnp.eye(count, dtype=bool)).astype(dtype)  # [N, N] whose updates
        members = members / jnp.sum(members, axis=1, keepdims=True)
        # The mean over members, in the order of the product: no copy of scaled updates.
        rewards = jnp.matmul(
            members * upload.scales[None, :], upload.deltas, precision=jax.lax.Precision.HIGHEST
        )
        received = present & (drawn > 0)
        quota = jnp.where(received, aggregate.size, 0).astype(jnp.int32)
        return jnp.where(present[:, None], rewards, 0.0), quota

    return stateless(Reward, rewarded)
