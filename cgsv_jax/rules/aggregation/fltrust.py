"""FLTrust: uploads count as far as they agree with what the server would do itself."""

import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.rules.aggregation import lengths as lengths_lib
from cgsv_jax.rules.shares import over_present
from cgsv_jax.rules.spec import Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Aggregation, Array, Needs, Network, Upload


def fltrust(network: Network | None) -> Aggregation:
    """u_N = sum_i t_i L u_i / ‖u_i‖ / sum_i t_i, t_i = max(0, cos(u_i, g)), g = -grad F(w_N).

    F is the loss on the server's validation rows, L the median ‖u_i‖ of the clients present. Where
    nobody is trusted, the server takes its own step, L g / ‖g‖. Neither size nor reputation enters.
    NEEDS VALIDATION DATA: a gradient on it a round, and O(N D). The recorded weights are
    t_i / sum t, equal where nobody is trusted.

    Assumed: in its source the server trains as a client does, and uploads are brought to the length
    of its update. Here it takes the direction of one gradient at w_N, whose length says nothing
    beside that of epochs of steps, so that uploads keep the median length.

    Args:
      network: knows the gradient of the loss.

    Returns:
      An Aggregation without state.

    Raises:
      ValueError: there is no network that knows gradients, or (when traced) no validation rows.

    Reference:
      Cao, Fang, Liu, Gong, FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping,
      NDSS 2021.
    """
    gradient = None if network is None else network.gradient
    if gradient is None:
        raise ValueError("fltrust needs a network that knows the gradient of its loss")

    def aggregated(upload: Upload) -> tuple[Array, Array]:
        if upload.validation is None:
            raise ValueError("fltrust judges by validation rows, it needs the server to hold some")
        present, scales = upload.present, upload.scales
        own = -gradient(upload.server, *upload.validation).astype(upload.deltas.dtype)
        # A model whose loss has overflowed has no direction, and then nobody is trusted.
        own = jnp.where(jnp.all(jnp.isfinite(own)), own, 0.0)
        agreement = vectors.cosines(upload.deltas, upload.norms, scales, own)
        trust = jnp.where(present, jnp.maximum(agreement, 0.0), 0.0)
        lengths, length = lengths_lib.of_uploads(upload)
        weights = over_present(trust, present)
        alike = lengths_lib.factors(lengths, length)
        together = vectors.weighted_sum(weights * alike * scales, upload.deltas)
        alone = own * lengths_lib.factors(vectors.norm(own), length)
        return jnp.where(jnp.any(trust > 0), together, alone), weights

    return stateless(Aggregation, aggregated, needs=Needs(validation=True))


FLTRUST = Spec(fltrust, given=("network",))
