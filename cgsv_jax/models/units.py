"""Which hidden units the parameters of a network belong to, layer by layer."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from cgsv_jax import types


def stacked(
    model: types.Model, layers: Sequence[tuple[str, int]], *, incoming: bool
) -> types.Model:
    """The model with the units of layers that read one another, the last of which is the output.

    A layer's tensors are `kernel` [..., I, O] and `bias` [O]. Where it has more inputs than the
    layer before has units, each unit is read at as many places, one unit after another: so the
    dense layer behind a convolution reads its channels, channel-major.

    Args:
        model: its parameters are a dictionary of layers.
        layers: name and multiplications per example of an entry of the kernel, in order.
        incoming: see `types.Units`.
    """
    return model._replace(units=functools.partial(_stacked, model, tuple(layers), incoming))


def _stacked(
    model: types.Model, layers: tuple[tuple[str, int], ...], incoming: bool
) -> types.Units:
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    feeds, reads, times, widths = {}, {}, {}, []
    before = np.full(1, -1)  # the units that a layer reads: at first inputs, which are none
    for place, (name, positions) in enumerate(layers):
        kernel = shapes[name]["kernel"].shape
        inputs, outputs = kernel[-2:]
        own = sum(widths) + np.arange(outputs)
        if place == len(layers) - 1:
            own = np.full(outputs, -1)
        else:
            widths.append(outputs)
        read = np.repeat(before, inputs // before.size)[:, None]
        feeds[name] = {"kernel": np.broadcast_to(own, kernel), "bias": own}
        reads[name] = {"kernel": np.broadcast_to(read, kernel), "bias": np.full(outputs, -1)}
        times[name] = {"kernel": np.full(kernel, positions), "bias": np.zeros(outputs, int)}
        before = own
    return of_trees(feeds, reads, times, tuple(widths), incoming)


def of_trees(
    feeds: types.ArrayTree,
    reads: types.ArrayTree,
    times: types.ArrayTree,
    layers: tuple[int, ...],
    incoming: bool,
) -> types.Units:
    """Units whose arrays are shaped like the parameters; see `types.Units`."""

    def raveled(tree: types.ArrayTree) -> np.ndarray:
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.int32)

    return types.Units(raveled(feeds), raveled(reads), raveled(times), layers, incoming)
