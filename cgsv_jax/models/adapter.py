"""Any flax.linen network as a `Model`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cgsv_jax import types
from cgsv_jax.core import checks


def from_flax(
    module: nn.Module, input_shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32
) -> types.Model:
    """Adapts a linen module whose `__call__` is `(inputs [B, ...], train: bool) -> logits [B, C]`.

    A key given to `apply` means training and becomes the module's "dropout" stream.

    A flax.nnx module is split by hand into what is trained and what is not:

    >>> from flax import nnx
    >>> def split(key):
    ...     return nnx.split(nnx.Linear(4, 3, rngs=nnx.Rngs(key)), nnx.Param, ...)
    >>> graph, _, rest = split(jax.random.key(0))
    >>> def apply(params, inputs, key=None):
    ...     return nnx.merge(graph, params, rest)(inputs)
    >>> model = types.Model(lambda key: split(key)[1], apply)
    >>> model.apply(model.init(jax.random.key(1)), jnp.ones((2, 4))).shape
    (2, 3)

    Args:
        module: the network; its parameters are its only state.
        input_shape: shape of ONE row, without the batch axis.
        dtype: of the inputs (an integer type for a network that begins with an embedding).

    Raises:
        ValueError: if the module is not of flax.linen, cannot be called so, or keeps mutable
            collections such as BatchNorm's running statistics. Only parameters are trained,
            uploaded and rewarded, so such statistics would stay at their start; the check
            evaluates shapes alone and runs nothing.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module is a {type(module).__name__} of {type(module).__module__}, it must be a "
            "module of flax.linen: of a flax.nnx module, nnx.split(module, nnx.Param, ...) gives "
            "what a Model needs, as the docstring of from_flax shows"
        )
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)

    def variables(key, inputs):
        return module.init(key, inputs, train=False)

    form = "(inputs [B, ...], train: bool) -> logits [B, C]"
    held = checks.result("module", variables, form, jax.random.key(0), example)
    collections = set(held) - {"params"}
    if collections:
        raise ValueError(
            f"{type(module).__name__} keeps the mutable collections {sorted(collections)}, which "
            "are neither trained nor exchanged by clients: use a layer without running state, "
            "such as GroupNorm in place of BatchNorm."
        )

    def init(key):
        return variables(key, jnp.zeros(example.shape, example.dtype))["params"]

    def apply(params: types.ArrayTree, inputs: types.Array, key: jax.Array | None = None) -> Any:
        if key is None:
            return module.apply({"params": params}, inputs, train=False)
        return module.apply({"params": params}, inputs, train=True, rngs={"dropout": key})

    return types.Model(init, apply)
