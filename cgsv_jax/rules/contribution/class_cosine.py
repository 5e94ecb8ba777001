"""Agreement class by class: the cosine of what an upload says about each class."""

import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.rules.spec import Choice, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Network, Parts, Upload

CLASSES = Choice(
    "alike",
    ("alike", "rare"),
    "weights of the classes: alike, or more for those in which few agree",
    flag="class_weights",
)
DISAGREEMENT = Choice(
    "counts",
    ("counts", "ignored"),
    "cosines of a class below 0: they count against a client, or the class is not counted for it",
)
# A class in which all together agree less than this would outweigh every other by a rounding.
_LEAST = 1e-3


def class_cosine(
    network: Network | None, classes: str = "alike", disagreement: str = "counts"
) -> Contribution:
    """psi_i = sum_c b_c cos(u_{i,c}, u_{N,c}), u_c the last layer's weights and bias of class c.

    b_c = 1 / C, or, of `rare`, in proportion to 1 / sum_i max(cos(u_{i,c}, u_{N,c}), 0), and 0
    where that sum is below .001. Where clients hold some classes each, the whole cosine rewards
    who points where most do; here every class has its say, and who knows them all agrees in all.
    Whatever an upload holds outside the last layer is not looked at. O(N C F) a round.

    A client without rows of a class pushes its outputs down and so points away from those who have
    some: with `disagreement` "ignored" max(cos, 0) stands in place of each cosine, and a client is
    judged by the classes that it knows.

    Args:
      network: knows the places of the last layer.
      classes: "alike" or "rare".
      disagreement: "counts" or "ignored".

    Raises:
      ValueError: the network has no last layer that can be told, or a word is another one.

    Reference:
      The score of ShapFed, Tastan et al., IJCAI 2024, against the server's own aggregate.
    """
    checks.choice("class_weights", classes, "alike", "rare")
    ignored = checks.choice("disagreement", disagreement, "counts", "ignored") == "ignored"
    places = None if network is None else network.output()
    if places is None:
        raise ValueError("class_cosine needs a model whose last layer is a kernel [F, C] and bias")

    def joined(agreement: Array, present: Array) -> Array:
        agreement = jnp.maximum(agreement, 0.0) if ignored else agreement
        if classes == "alike":
            return jnp.mean(agreement, axis=0)
        agreed = jnp.sum(jnp.where(present, jnp.maximum(agreement, 0.0), 0.0), axis=1)
        weight = jnp.where(agreed >= _LEAST, 1.0 / jnp.maximum(agreed, _LEAST), 0.0)
        total = jnp.sum(weight)
        weight = weight / jnp.where(total > 0, total, 1.0)
        return jnp.einsum("c,cn->n", weight, agreement, precision="highest")

    def score(upload: Upload, aggregate: Array) -> Array:
        layer = jnp.moveaxis(upload.deltas[:, places], 1, 0)  # [C, N, F]
        return joined(vectors.cosines_of_parts(layer, aggregate[places]), upload.present)

    return stateless(Contribution, score)._replace(parts=Parts(places, joined))


CLASS_COSINE = Spec(
    class_cosine, {"classes": CLASSES, "disagreement": DISAGREEMENT}, given=("network",)
)
