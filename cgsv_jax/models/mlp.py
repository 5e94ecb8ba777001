"""The multilayer perceptron."""

import math
from collections.abc import Sequence

from flax import linen as nn

from cgsv_jax import types
from cgsv_jax.models import adapter, initializers, units


class MLP(nn.Module):
    """Flatten, dense layers with relu, dense."""

    hidden: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(self, inputs, train: bool = False):
        """Logits [B, C] of inputs [B, ...]; training and evaluation are the same."""
        del train
        x = inputs.reshape(inputs.shape[0], -1)  # [B, features]
        for i, width in enumerate(self.hidden, start=1):
            x = nn.relu(initializers.dense(width, x.shape[-1], f"fc{i}")(x))
        return initializers.dense(self.num_classes, x.shape[-1], f"fc{len(self.hidden) + 1}")(x)


def mlp(
    input_shape: Sequence[int], num_classes: int, *, hidden: Sequence[int] = (64,)
) -> types.Model:
    """A multilayer perceptron over the flattened input.

    Args:
        input_shape: shape of one row, of any rank.
        num_classes: logits.
        hidden: widths of the hidden layers; empty means multinomial logistic regression.

    Raises:
        ValueError: if a size is not positive.
    """
    sizes = (math.prod(input_shape), *hidden, num_classes)
    if min(sizes) < 1:
        raise ValueError(f"every layer needs at least one unit, got widths {sizes}.")
    model = adapter.from_linen(MLP(tuple(hidden), num_classes), input_shape)
    layers = [(f"fc{i}", 1) for i in range(1, len(hidden) + 2)]
    return units.stacked(model, layers, incoming=True)
