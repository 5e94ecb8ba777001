"""q-FFL: the aggregate leans to the clients whose loss is high."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax import vectors
from cgsv_jax.types import Aggregation, Array, ArrayTree, Standing, Upload

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

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients, num_parameters
        return ()

    def update(
        key: jax.Array, upload: Upload, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        del key, standing
        if upload.start_loss is None:
            raise ValueError("q_fair needs uploads with start_loss, see Settings.start_loss")
        present, eta = upload.present, upload.learning_rate
        loss = jnp.where(present, jnp.maximum(upload.start_loss, _LEAST), 1.0)  # F_i
        # Numerator and denominator in units of the largest F^q / eta, which may be any size.
        power = q * jnp.log(loss)
        highest = jnp.max(power, where=present, initial=-jnp.inf)
        power = jnp.where(present, jnp.exp(power - highest), 0.0)
        steepness = q * power / loss * jnp.square(upload.norms) / eta + power  # h_i, times eta
        total = jnp.sum(jnp.where(present, steepness, 0.0))
        scaled = jnp.where(total > 0, power / jnp.where(total > 0, total, 1.0), 0.0)
        aggregate = vectors.weighted_sum(scaled * upload.scales, upload.deltas)
        # The largest power is 1, so the sum is 0 only where nobody is present.
        return aggregate, power / jnp.maximum(jnp.sum(power), 1.0), state

    return Aggregation(init, update)
