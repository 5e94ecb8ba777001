"""PyTorch's default initialisation, because the released code trains from it.

The scale of the start matters here more than in ordinary training: every upload is rescaled to the
norm Gamma, so the size of the first steps relative to the parameters is set by this start alone.
Weights and biases are both U(-1/sqrt(fan_in), 1/sqrt(fan_in)); linen's own defaults would differ
in both (truncated normal of variance 1/fan_in, zero biases).
"""

from collections.abc import Callable

import jax
from flax import linen as nn

# The bound of variance_scaling's uniform is sqrt(3 scale / fan_in): a scale of 1/3 is PyTorch's.
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Callable[..., jax.Array]:
    """An initializer U(-1/sqrt(fan_in), 1/sqrt(fan_in)); `fan_in` is that of the layer's kernel."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=float):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def dense(features: int, fan_in: int, name: str) -> nn.Dense:
    """A dense layer from `fan_in` inputs that starts as PyTorch's does; kernel [in, out]."""
    return nn.Dense(features, kernel_init=torch_kernel, bias_init=torch_bias(fan_in), name=name)
