"""The cases' networks in plain JAX, as users of FedJAX and DrJAX write them.

`network(case)` gives `logits(params, inputs)`; `to_jax` turns PyTorch's layouts into [in, out] and
[h, w, in, out], and `from_jax` changes them back.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.work import Case

_TO_JAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
_FROM_JAX = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def to_jax(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """From PyTorch's layouts."""
    return {n: jnp.asarray(np.transpose(a, _TO_JAX[np.ndim(a)])) for n, a in arrays.items()}


def from_jax(params: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """To PyTorch's layouts."""
    return {n: np.transpose(np.asarray(p), _FROM_JAX[p.ndim]) for n, p in params.items()}


def _dense(params: dict, name: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _conv_relu_pool(params: dict, name: str, x: jax.Array) -> jax.Array:
    x = jax.lax.conv_general_dilated(
        x, params[f"{name}.weight"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + params[f"{name}.bias"])
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def network(case: Case) -> Callable[[dict, jax.Array], jax.Array]:
    """Logits [B, C] of params and inputs [B, ...]."""

    def mlp(params: dict, x: jax.Array) -> jax.Array:
        for i in range(1, len(case.hidden) + 1):
            x = jax.nn.relu(_dense(params, f"fc{i}", x))
        return _dense(params, f"fc{len(case.hidden) + 1}", x)

    def tutorial_cnn(params: dict, x: jax.Array) -> jax.Array:
        x = _conv_relu_pool(params, "conv2", _conv_relu_pool(params, "conv1", x))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # channel-major, as PyTorch flattens
        x = jax.nn.relu(_dense(params, "fc1", x))
        x = jax.nn.relu(_dense(params, "fc2", x))
        return _dense(params, "fc3", x)

    return {"mlp": mlp, "tutorial_cnn": tutorial_cnn}[case.network]


def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of every row, [B]."""
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
