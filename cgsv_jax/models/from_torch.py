"""Parameters of the networks between this package's layout and PyTorch's.

| tensor | here | PyTorch |
|---|---|---|
| convolution | `<layer>/kernel` [h, w, in, out] | `<layer>.weight` [out, in, h, w] |
| over words | `<layer>/kernel` [h, in, out] | `<layer>.weight` [out, in, h] |
| dense | `<layer>/kernel` [in, out] | `<layer>.weight` [out, in] |
| bias | `<layer>/bias` [out] | `<layer>.bias` [out] |
| embedding | `embed` [V, E] | `embed.weight` [V, E] |

The networks of images flatten channel-major (C, H, W) as PyTorch does, so the rows of the first
dense kernel are in the same order on both sides.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cgsv_jax import types

# How an array of each rank turns into the other side's: axes of `transpose`.
_FROM_TORCH = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
_TO_TORCH = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
_HERE = {"weight": "kernel", "bias": "bias"}
_EMBEDDING = "embed"  # the layer that is one array, of which a word is a row on both sides


def params_from_torch(arrays: Mapping[str, np.ndarray]) -> types.ArrayTree:
    """Parameters from arrays named as in the table above, dtypes kept.

    Raises:
        ValueError: on a name or a rank that is not one of the table above.
    """
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        if name == f"{_EMBEDDING}.weight" and np.ndim(array) == 2:
            params[_EMBEDDING] = jnp.asarray(array)
            continue
        layer, _, kind = name.rpartition(".")
        if not layer or kind not in _HERE or np.ndim(array) not in _FROM_TORCH:
            raise ValueError(
                f"{name!r} of shape {np.shape(array)} is no weight or bias of a network."
            )
        value = jnp.asarray(np.transpose(array, _FROM_TORCH[np.ndim(array)]))
        params.setdefault(layer, {})[_HERE[kind]] = value
    return params


def params_to_torch(params: types.ArrayTree) -> dict[str, np.ndarray]:
    """The inverse of `params_from_torch`, in PyTorch's order: conv1.weight, conv1.bias, ...

    An embedding comes first. Concatenating the raveled values gives the flat vector of the
    PyTorch model.
    """
    arrays = {}
    # embed, conv1, conv2, fc1, ...: the order in which PyTorch builds them
    for layer in sorted(params, key=lambda layer: (layer != _EMBEDDING, layer)):
        if layer == _EMBEDDING:
            arrays[f"{layer}.weight"] = np.asarray(params[layer])
            continue
        for kind, here in _HERE.items():
            value = np.asarray(params[layer][here])
            arrays[f"{layer}.{kind}"] = np.ascontiguousarray(
                np.transpose(value, _TO_TORCH[value.ndim])
            )
    return arrays
