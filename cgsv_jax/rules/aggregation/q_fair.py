"""q-FFL: the aggregate leans to the clients whose loss is high."""

import math

import chex
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.spec import Number
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Aggregation, Array, Needs, Upload

Q = Number(1.0, Interval(0, math.inf, "[)"), "exponent of q_ffl, at least 0", "q")
_LEAST = 1e-10  # a loss of 0 has no power q - 1


def q_fair(q: chex.Numeric) -> Aggregation:
    """u_N = sum_i F_i^q dw_i / eta / sum_i h_i, h_i = q F_i^(q-1) ‖dw_i / eta‖^2 + F_i^q / eta.

    F_i is the loss of the model at client i before it trains, eta the learning rate: q-FedAvg with
    the Lipschitz constant estimated as 1 / eta. q = 0 is the plain mean. O(N D). The recorded
    weights are F_i^q normalised.

    Args:
      q: exponent >= 0; the higher, the more equal the losses.

    Returns:
      An Aggregation without state, of uploads with `start_loss` and as they were trained.

    Raises:
      ValueError: when traced, if uploads do not carry `start_loss`.

    Reference:
      Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020, algorithm 2.
    """
    checks.numbers(Q.allowed, q=q)

    def aggregated(upload: Upload) -> tuple[Array, Array]:
        if upload.start_loss is None:
            raise ValueError("q_fair needs uploads with start_loss, see Settings.start_loss")
        present, norms = upload.present, upload.norms
        most = jnp.finfo(norms.dtype).max
        # A loss that overflowed is the largest there is; one that is no number says nothing.
        loss = jnp.nan_to_num(upload.start_loss, nan=_LEAST, posinf=most)
        loss = jnp.where(present, jnp.maximum(loss, _LEAST), 1.0)  # F_i
        # Numerator and denominator in units of the largest F^q / eta, which may be any size: the
        # differences of logarithms first, because q may be large as well.
        logarithm = jnp.log(loss)
        highest = jnp.max(logarithm, where=present, initial=-jnp.inf)
        power = jnp.where(present, jnp.exp(q * (logarithm - highest)), 0.0)
        root = jnp.sqrt(power)
        # sum_i h_i, times eta, as a norm's square: lengths of 1e30 have squares beyond float32.
        steep = norms * root * jnp.sqrt(q) / jnp.sqrt(loss) / jnp.sqrt(upload.learning_rate)
        steep = jnp.where(norms > 0, steep, 0.0)  # also where eta has decayed to 0
        total = vectors.norm(jnp.concatenate([steep, root]))
        # The largest power is 1, so the norm is 0 only where nobody is present.
        total = jnp.where(total > 0, total, 1.0)
        aggregate = vectors.weighted_sum(power / total * upload.scales, upload.deltas) / total
        return aggregate, power / jnp.maximum(jnp.sum(power), 1.0)

    return stateless(Aggregation, aggregated, needs=Needs(start_loss=True))
