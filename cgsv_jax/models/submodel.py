"""A network without the hidden units that are off in it: the same logits of fewer parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax import types
from cgsv_jax.core import units as units_lib
from cgsv_jax.core import vectors


class Submodel(NamedTuple):
    """A small network, and what it costs."""

    model: types.Model
    params: types.ArrayTree
    recipe: dict[str, Any]  # how it is built
    kept: np.ndarray  # [H] bool, which units of the whole network it has
    parameters: int
    flops: int  # per example: two for every multiplication by a parameter


def smaller(
    build: Callable[[Mapping[str, Any]], types.Model],
    recipe: Mapping[str, Any],
    params: types.ArrayTree,
    widths: str,
) -> Submodel:
    """See `models.submodel`.

    Args:
        build: recipe -> model.
        recipe: of the whole network.
        params: of a client.
        widths: the entry of a recipe that holds the hidden units of every layer.
    """
    model = build(recipe)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    if jax.tree.map(np.shape, params) != jax.tree.map(lambda x: x.shape, shapes):
        raise ValueError("params have other names or shapes than the parameters of this network")
    if model.units is None:
        raise ValueError("this network does not say which hidden units it has")
    units, leaves = model.units(), [np.asarray(x) for x in jax.tree.leaves(params)]
    feeding = np.concatenate([np.ravel(x) for x in leaves]) != 0
    kept = np.zeros(sum(units.layers), bool)
    kept[units.feeds[feeding & (units.feeds >= 0)]] = True
    first, counts = 0, []
    for width in units.layers:
        own = kept[first : first + width]  # a view
        own[0] |= not own.any()
        counts.append(int(own.sum()))
        first += width
    on = np.asarray(units_lib.on(units, kept))
    parts = []
    for tensor, leaf in zip(vectors.tensors(shapes), leaves, strict=True):
        # Of a tensor, whole slices are on: a unit feeds or reads all of one.
        here = on[tensor.start : tensor.stop].reshape(tensor.shape)
        axes = range(here.ndim)
        places = [np.flatnonzero(here.any(axis=tuple(b for b in axes if b != a))) for a in axes]
        parts.append(jnp.asarray(leaf[np.ix_(*places)]))
    small = {**recipe, widths: counts}
    made = build(small)
    found = jax.tree.unflatten(jax.tree.structure(shapes), parts)
    expected = jax.eval_shape(made.init, jax.random.key(0))
    if jax.tree.map(np.shape, found) != jax.tree.map(lambda x: x.shape, expected):
        raise ValueError(f"the network does not become smaller by its option {widths}")
    multiplications = int(np.asarray(units.times, np.int64)[on].sum())
    return Submodel(made, found, small, kept, int(on.sum()), 2 * multiplications)
