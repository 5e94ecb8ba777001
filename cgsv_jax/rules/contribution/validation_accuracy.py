"""How good a client's own model is on the server's held-out rows."""

import jax.numpy as jnp

from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Needs, Network, Upload


def validation_accuracy(network: Network | None) -> Contribution:
    """The accuracy of w_i + u_i, the client's model after training, on the validation rows.

    Needs validation data. N evaluations a round. A client that is absent scores 0.

    Raises:
      ValueError: there is no network to evaluate with, or (when traced) no validation rows.
    """
    if network is None:
        raise ValueError("a measure on validation rows needs a network")

    def score(upload: Upload) -> Array:
        if upload.validation is None:
            raise ValueError("a measure on validation rows needs the server to hold some")
        models = upload.clients + upload.scales[:, None] * upload.deltas
        accuracy, _ = network.evaluate(models, *upload.validation)
        return jnp.where(upload.present, accuracy, 0.0)

    return stateless(
        Contribution,
        score,
        needs=Needs(validation=True, valuations=lambda num_clients: num_clients),
    )
