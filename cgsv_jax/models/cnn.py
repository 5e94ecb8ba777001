"""The two convolutional networks of the released code."""

from collections.abc import Callable, Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import dtypes

from cgsv_jax import types
from cgsv_jax.models import adapter, initializers, units
from cgsv_jax.models import conv as conv_lib

FORMS = ("auto", "block", "lax")


class ConvPool(nn.Module):
    """Convolution, activation, 2x2 max-pooling; parameters `kernel` [k, k, C, O] and `bias` [O]."""

    features: int
    size: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, images, block: bool):
        """Images [C, H, W, B] -> [O, h, w, B] if `block`, else [B, H, W, C] -> [B, h, w, O]."""
        channels = images.shape[0 if block else -1]
        shape = (self.size, self.size, channels, self.features)
        bias_init = initializers.torch_bias(self.size**2 * channels)
        kernel = self.param("kernel", initializers.torch_kernel, shape, jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        images, kernel, bias = dtypes.promote_dtype(images, kernel, bias)
        if block:
            pooled = conv_lib.block_conv_pool(images, kernel)
            return self.activation(pooled + bias[:, None, None, None])
        convolved = conv_lib.plain_conv(images, kernel)
        return conv_lib.plain_pool(self.activation(convolved + bias[None, None, None, :]))


class CNN(nn.Module):
    """Convolutions with 2x2 max-pooling, then dense layers, the last one without activation.

    The dense part reads its input channel-major (C, H, W), as PyTorch does, in either form: that is
    the order in which the batch-last arrays lie, and torch's weights need no permutation.
    """

    convs: tuple[tuple[int, int], ...]  # (features, kernel size) of each
    hidden: tuple[int, ...]
    num_classes: int
    activation: Callable[[jax.Array], jax.Array]
    block: bool = False

    @nn.compact
    def __call__(self, inputs):
        """Logits [B, num_classes] of inputs [B, H, W, C]."""
        x = _crop(inputs, [size for _, size in self.convs])
        x = x.transpose(3, 1, 2, 0) if self.block else x
        for i, (features, size) in enumerate(self.convs, start=1):
            x = ConvPool(features, size, self.activation, name=f"conv{i}")(x, self.block)
        x = x.transpose(3, 0, 1, 2) if self.block else x.transpose(0, 3, 1, 2)
        x = x.reshape(x.shape[0], -1)  # [B, C H W]
        for i, width in enumerate(self.hidden, start=1):
            x = self.activation(initializers.dense(width, x.shape[-1], f"fc{i}")(x))
        return initializers.dense(self.num_classes, x.shape[-1], f"fc{len(self.hidden) + 1}")(x)


def _by_use(plain: types.Apply, block: nn.Module) -> types.Apply:
    """`plain` where a value is wanted, `block` where a gradient is; reverse-mode differentiable.

    The block form wins where a gradient is wanted, the plain one forward, as measured on CPUs. On a
    GPU the plain form's weight gradients under `vmap` would be forward grouped convolutions with
    windows as large as the image, by what XLA compiles for one. How the block form computes is
    chosen per platform in `conv.matmul_max`.
    """

    @jax.custom_vjp
    def either(params, inputs):
        return plain(params, inputs)

    either.defvjp(
        lambda params, inputs: jax.vjp(lambda p, x: block.apply({"params": p}, x), params, inputs),
        lambda transposed, gradient: transposed(gradient),
    )
    return lambda params, inputs, key=None: either(params, inputs)


def _crop(images: jax.Array, kernels: Sequence[int]) -> jax.Array:
    """Drops the rows and columns of images [B, H, W, C] that no pooled output reads.

    Pooling drops an odd last row; cropping before the first layer saves computing it in all.
    """
    height, width = (_read(size, kernels) for size in images.shape[1:3])
    return images[:, :height, :width]


def _pooled(size: int, kernels: Sequence[int]) -> int:
    """Length left by the stack of convolutions and poolings."""
    return reduce(conv_lib.pooled_size, kernels, size)


def _read(size: int, kernels: Sequence[int]) -> int:
    """Length of the input that the stack of convolutions and poolings depends on."""
    return reduce(conv_lib.read_size, reversed(kernels), _pooled(size, kernels))


def _cnn(name, input_shape, num_classes, convs, hidden, activation, form, widths) -> types.Model:
    kernels = [size for _, size in convs]
    number = len(convs) + len(hidden)
    if widths is not None:
        if len(widths) != number or min(widths) < 1:
            raise ValueError(
                f"{name} has {number} hidden layers, each of at least one unit, got the widths "
                f"{tuple(widths)}."
            )
        channels, hidden = widths[: len(convs)], tuple(widths[len(convs) :])
        convs = tuple(zip(channels, kernels, strict=True))
    least = reduce(conv_lib.read_size, reversed(kernels), 1)
    if len(input_shape) != 3 or min(input_shape[:2]) < least or input_shape[2] < 1:
        raise ValueError(
            f"{name} needs inputs (height, width, channels) of at least {least} x {least} pixels, "
            f"got the shape {tuple(input_shape)}."
        )
    if num_classes < 1:
        raise ValueError(f"{name} needs at least one class, got {num_classes}.")
    if form not in FORMS:
        raise ValueError(f"conv must be one of {FORMS}, got {form!r}.")
    network = partial(CNN, convs, hidden, num_classes, activation)
    model = adapter.from_linen(network(form == "block"), input_shape)
    if form == "auto":
        model = model._replace(apply=_by_use(model.apply, network(True)))
    layers, sizes = [], input_shape[:2]
    for i, (_, kernel) in enumerate(convs, start=1):
        sizes = [conv_lib.pooled_size(size, kernel) for size in sizes]
        layers.append((f"conv{i}", 4 * sizes[0] * sizes[1]))  # what no window pools is not computed
    layers += [(f"fc{i}", 1) for i in range(1, len(hidden) + 2)]
    return units.stacked(model, layers, incoming=activation is nn.relu)


def mnist_cnn(
    input_shape: Sequence[int] = (32, 32, 1),
    num_classes: int = 10,
    *,
    conv: str = "auto",
    widths: Sequence[int] | None = None,
) -> types.Model:
    """Conv 64 k3, tanh, pool; conv 16 k7, tanh, pool; dense 200, tanh; dense.

    D = 104,242 for (32, 32, 1) and 10 classes.

    Args:
        input_shape: (height, width, channels) of one row.
        num_classes: logits.
        conv: "block" or "lax" everywhere, or "auto": block for a gradient, lax for a value. Only
            "lax" can be differentiated in forward mode.
        widths: of all hidden layers, where they are others: a submodel's.

    Raises:
        ValueError: if the input is smaller than 18 x 18, or an argument is unknown.
    """
    convs = ((64, 3), (16, 7))
    return _cnn("mnist_cnn", input_shape, num_classes, convs, (200,), jnp.tanh, conv, widths)


def cifar_cnn(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    conv: str = "auto",
    widths: Sequence[int] | None = None,
) -> types.Model:
    """Conv 16 k5, relu, pool; conv 32 k5, relu, pool; dense 120, relu; dense 84, relu; dense.

    D = 121,182 for (32, 32, 3) and 10 classes.

    Args:
        input_shape: (height, width, channels) of one row.
        num_classes: logits.
        conv: "block" or "lax" everywhere, or "auto": block for a gradient, lax for a value. Only
            "lax" can be differentiated in forward mode.
        widths: of all hidden layers, where they are others: a submodel's.

    Raises:
        ValueError: if the input is smaller than 16 x 16, or an argument is unknown.
    """
    convs = ((16, 5), (32, 5))
    return _cnn("cifar_cnn", input_shape, num_classes, convs, (120, 84), nn.relu, conv, widths)


def tutorial_cnn(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    conv: str = "auto",
    widths: Sequence[int] | None = None,
) -> types.Model:
    """Conv 6 k5, relu, pool; conv 16 k5, relu, pool; dense 120, relu; dense 84, relu; dense.

    D = 62,006 for (32, 32, 3) and 10 classes. The small network of PyTorch's CIFAR-10 tutorial,
    with which simulators of federated learning are often timed.

    Args:
        input_shape: (height, width, channels) of one row.
        num_classes: logits.
        conv: "block" or "lax" everywhere, or "auto": block for a gradient, lax for a value. Only
            "lax" can be differentiated in forward mode.
        widths: of all hidden layers, where they are others: a submodel's.

    Raises:
        ValueError: if the input is smaller than 16 x 16, or an argument is unknown.
    """
    convs = ((6, 5), (16, 5))
    return _cnn("tutorial_cnn", input_shape, num_classes, convs, (120, 84), nn.relu, conv, widths)
