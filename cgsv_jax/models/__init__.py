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


__getattr__ = deprecated.names(__name__, {"from_flax": "cgsv_jax.models.from_linen"})

__all__ = [
    "FORMS",
    "MODELS",
    "built",
    "cifar_cnn",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "mlp",
    "mnist_cnn",
    "params_from_torch",
    "params_to_torch",
    "text_cnn",
    "tutorial_cnn",
]
