"""Agreement class by class: the cosine of what an upload says about each class."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.rules.spec import Choice, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Network, Upload

CLASSES = Choice(
    "alike",
    ("alike", "rare"),
    "weights of the classes: alike, or more for those in which few agree",
    flag="class_weights",
)


def class_cosine(network: Network | None, classes: str = "alike") -> Contribution:
    """psi_i = sum_c b_c cos(u_{i,c}, u_{N,c}), u_c the last layer's weights and bias of class c.

    b_c = 1 / C, or, of `rare`, in proportion to 1 / sum_i max(cos(u_{i,c}, u_{N,c}), 0). Where
    clients hold some classes each, the whole cosine rewards who points where most do; here every
    class has its say, and who knows them all agrees in all. O(N C F) a round.

    Args:
      network: knows the places of the last layer.
      classes: "alike" or "rare".

    Raises:
      ValueError: the network has no last layer that can be told, or a word is another one.

    Reference:
      The score of ShapFed, Tastan et al., IJCAI 2024, against the server's own aggregate.
    """
    checks.choice("class_weights", classes, "alike", "rare")
    places = None if network is None else network.output()
    if places is None:
        raise ValueError("class_cosine needs a model whose last layer is a kernel [F, C] and bias")

    def score(upload: Upload, aggregate: Array) -> Array:
        layer = jnp.moveaxis(upload.deltas[:, places], 1, 0)  # [C, N, F]
        agreement = jax.vmap(
            lambda rows, towards: vectors.cosines(rows, vectors.norms(rows), upload.scales, towards)
        )(layer, aggregate[places])  # [C, N]
        if classes == "alike":
            return jnp.mean(agreement, axis=0)
        agreed = jnp.sum(jnp.where(upload.present, jnp.maximum(agreement, 0.0), 0.0), axis=1)
        weight = jnp.where(agreed > 0, 1.0 / jnp.where(agreed > 0, agreed, 1.0), 0.0)
        total = jnp.sum(weight)
        weight = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0)
        return jnp.einsum("c,cn->n", weight, agreement, precision="highest")

    return stateless(Contribution, score)


CLASS_COSINE = Spec(class_cosine, {"classes": CLASSES}, given=("network",))
