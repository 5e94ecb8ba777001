"""The text network of the released code: an embedding, convolutions over words, max over time."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cgsv_jax import types
from cgsv_jax.models import adapter, initializers, units, words

CONVOLUTIONS, HEIGHT = 3, 3  # three of them, all of the same height


class Convolution(nn.Module):
    """The parameters of a convolution over words: `kernel` [HEIGHT, E, K] and `bias` [K]."""

    features: int
    embedding: int

    @nn.compact
    def __call__(self):
        """(kernel, bias)."""
        shape = (HEIGHT, self.embedding, self.features)
        bias_init = initializers.torch_bias(HEIGHT * self.embedding)
        return (
            self.param("kernel", initializers.torch_kernel, shape, jnp.float32),
            self.param("bias", bias_init, (self.features,), jnp.float32),
        )


class TextCNN(nn.Module):
    """Embedding, convolutions, relu, max over time, dropout, dense.

    Bias and relu come after the maximum, which is the same number since both are monotone.
    """

    vocabulary: int
    embedding: int
    kernels: tuple[int, ...]  # of every convolution
    dropout: float
    num_classes: int

    @nn.compact
    def __call__(self, inputs, train: bool):
        """Logits [B, C] of tokens [B, L] int32."""
        start = nn.initializers.normal(1.0)  # PyTorch's
        table = self.param("embed", start, (self.vocabulary, self.embedding), jnp.float32)
        convs = [
            Convolution(features, self.embedding, name=f"conv{i}")()
            for i, features in enumerate(self.kernels, start=1)
        ]
        kernel = jnp.concatenate([kernel for kernel, _ in convs], axis=-1)  # [HEIGHT, E, 3 K]
        bias = jnp.concatenate([bias for _, bias in convs])
        pooled = _max_over_time()(inputs, table, kernel)  # [B, 3 K]
        x = nn.relu(pooled + bias[None])
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return initializers.dense(self.num_classes, x.shape[-1], "fc1")(x)


def _max_over_time() -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Which form computes: the blocked one saves arithmetic, of which accelerators have plenty."""
    return words.blocked_max if jax.default_backend() == "cpu" else words.plain_max


def text_cnn(
    input_shape: Sequence[int] = (56,),
    num_classes: int = 5,
    *,
    vocabulary: int = 16_583,
    embedding: int = 300,
    kernels: int | Sequence[int] = 128,
    dropout: float = 0.5,
) -> types.Model:
    """Embedding 300 trained from scratch; 3 convolutions of 128 kernels, all of height 3; dense.

    D = 300 V + 345,984 + 385 C: 5,322,809 for SST.

    Args:
        input_shape: (L,), the padded length of a sentence.
        num_classes: logits.
        vocabulary: V, one more than the largest token; 0 is padding.
        embedding: E, numbers per word.
        kernels: of each convolution, or a number for each, as a submodel has.
        dropout: share of the pooled responses that training leaves out.

    Raises:
        ValueError: if a sentence is not at least 3 tokens long, or an argument is out of range.
    """
    if len(input_shape) != 1 or input_shape[0] < HEIGHT:
        raise ValueError(
            f"text_cnn needs inputs (length,) of at least {HEIGHT} tokens, "
            f"got the shape {tuple(input_shape)}."
        )
    each = (kernels,) * CONVOLUTIONS if isinstance(kernels, int) else tuple(kernels)
    if len(each) != CONVOLUTIONS:
        raise ValueError(f"text_cnn has {CONVOLUTIONS} convolutions, got kernels {each}.")
    least = min(num_classes, vocabulary, embedding, *each)
    if least < 1 or not 0 <= dropout < 1:
        raise ValueError(
            "text_cnn needs at least one class, token, number per word and kernel, and a dropout "
            f"in [0, 1), got {num_classes}, {vocabulary}, {embedding}, {kernels} and {dropout}."
        )
    module = TextCNN(vocabulary, embedding, each, dropout, num_classes)
    model = adapter.from_linen(module, input_shape, jnp.int32)
    return model._replace(units=functools.partial(_units, model, input_shape[0]))


def _units(model: types.Model, length: int) -> types.Units:
    """A kernel is a unit: its response, pooled over time. A word of the embedding is none."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    widths = tuple(shapes[f"conv{i}"]["bias"].size for i in range(1, CONVOLUTIONS + 1))
    feeds, reads = (jax.tree.map(lambda x: np.full(x.shape, -1), shapes) for _ in range(2))
    times = jax.tree.map(lambda x: np.zeros(x.shape, int), shapes)
    first = 0
    for i in range(1, CONVOLUTIONS + 1):
        for leaf in (feeds[f"conv{i}"]["kernel"], feeds[f"conv{i}"]["bias"]):
            leaf[...] = first + np.arange(leaf.shape[-1])
        times[f"conv{i}"]["kernel"][...] = length - HEIGHT + 1
        first += leaf.shape[-1]
    reads["fc1"]["kernel"][...] = np.arange(sum(widths))[:, None]
    times["fc1"]["kernel"][...] = 1
    return units.of_trees(feeds, reads, times, widths, incoming=True)
