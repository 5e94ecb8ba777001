"""Networks behind `types.Model`: a pure `init` and a pure `apply` over plain parameters.

Every builder is `builder(input_shape, num_classes, **options) -> Model`; the parameters are float32
and computation follows the dtypes of parameters and inputs. A new network is one function and one
line in `MODELS`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from cgsv_jax import types
from cgsv_jax.core import deprecated
from cgsv_jax.models.adapter import from_equinox, from_linen, from_nnx
from cgsv_jax.models.cnn import FORMS, cifar_cnn, mnist_cnn, tutorial_cnn
from cgsv_jax.models.from_torch import params_from_torch, params_to_torch
from cgsv_jax.models.mlp import mlp
from cgsv_jax.models.submodel import Submodel, smaller
from cgsv_jax.models.text_cnn import text_cnn

MODELS: dict[str, Callable[..., types.Model]] = {
    "mlp": mlp,
    "mnist_cnn": mnist_cnn,
    "cifar_cnn": cifar_cnn,
    "tutorial_cnn": tutorial_cnn,
    "text_cnn": text_cnn,
}


def built(builder: Callable[..., types.Model], recipe: Mapping[str, Any]) -> types.Model:
    """The model of a recipe: `input_shape`, `num_classes`, and the builder's options by name.

    Equal recipes have one model: what was found out of it by tracing need not be found again.
    """
    # Lists, as a file has them, are tuples.
    words = {name: tuple(x) if isinstance(x, list) else x for name, x in recipe.items()}
    return _built(builder, **words)


@functools.lru_cache(maxsize=64, typed=True)
def _built(
    builder: Callable[..., types.Model], input_shape: Any, num_classes: int, **options: Any
) -> types.Model:
    return builder(input_shape, num_classes, **options)


# The option of a builder that holds the hidden units of every layer.
_WIDTHS = {
    "mlp": "hidden",
    "mnist_cnn": "widths",
    "cifar_cnn": "widths",
    "tutorial_cnn": "widths",
    "text_cnn": "kernels",
}


def submodel(
    name: str, recipe: Mapping[str, Any], params: types.ArrayTree, widths: str | None = None
) -> Submodel:
    """A small network that computes what a network does of which some hidden units are off.

    A unit is off where every entry that feeds it is 0, as in a client's model after rewards that
    are submodels. It and the entries that read it are left out; of a layer in which all are off,
    one stays.

    >>> import jax
    >>> model = mlp((2,), 2, hidden=(3,))
    >>> params = model.init(jax.random.key(0))
    >>> params["fc1"] = jax.tree.map(lambda x: x.at[..., 1].set(0), params["fc1"])
    >>> small = submodel("mlp", {"input_shape": (2,), "num_classes": 2, "hidden": (3,)}, params)
    >>> small.recipe["hidden"], small.parameters, small.flops
    ([2], 12, 16)

    Args:
        name: of the network, a key of `MODELS`.
        recipe: how it was built, see `built`; a run that keeps its models says it of them.
        params: of one client, as the network has them.
        widths: the builder's option that holds the hidden units of every layer; default: known.

    Raises:
        ValueError: the network is none of `MODELS`, or no builder of one that may be smaller; or
            the parameters are another network's.
    """
    if name not in MODELS or not (widths or name in _WIDTHS):
        raise ValueError(f"name is {name!r}, it must be one of {', '.join(_WIDTHS)}")
    build = functools.partial(built, MODELS[name])
    return smaller(build, recipe, params, widths or _WIDTHS[name])


__getattr__ = deprecated.names(__name__, {"from_flax": "cgsv_jax.models.from_linen"})

__all__ = [
    "FORMS",
    "MODELS",
    "Submodel",
    "built",
    "cifar_cnn",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "mlp",
    "mnist_cnn",
    "params_from_torch",
    "params_to_torch",
    "submodel",
    "text_cnn",
    "tutorial_cnn",
]
