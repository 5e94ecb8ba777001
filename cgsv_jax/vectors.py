"""Algebra on the [N, D] matrix whose rows are clients: everything the server does.

Parameters are raveled once; a table of tensors serves what is per layer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from cgsv_jax.types import Array, ArrayTree

# Scores decide rewards, so they are never computed in TF32 or bfloat16, whatever training does.
_EXACT = jax.lax.Precision.HIGHEST


class Tensor(NamedTuple):
    """Where one tensor of the model lies in the raveled vector."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


def tensors(params: ArrayTree) -> tuple[Tensor, ...]:
    """The tensors of `params` in raveled order; arrays or `ShapeDtypeStruct`s will do."""
    table, start = [], 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        stop = start + math.prod(leaf.shape)
        table.append(Tensor(jax.tree_util.keystr(path), start, stop, tuple(leaf.shape)))
        start = stop
    return tuple(table)


def ravel(params: ArrayTree) -> Array:
    """The parameters of one client as a vector [D]."""
    return ravel_pytree(params)[0]


def unraveler(shapes: ArrayTree) -> Callable[[Array], ArrayTree]:
    """The function [D] -> params for parameters shaped like `shapes` (see `jax.eval_shape`)."""
    return ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))[1]


def norm(vector: Array) -> Array:
    """Euclidean norm of a vector [D]; not finite exactly when an entry or the length is not.

    The power of two next to the largest magnitude is divided out before squaring: that changes no
    significand, and neither 1e-30 nor 1e30 leaves the range of float32.
    """
    _, exponent = jnp.frexp(jnp.max(jnp.abs(vector), initial=0.0))
    # XLA may multiply by the unit's reciprocal, so that must be a normal number too.
    unit = jnp.ldexp(jnp.ones((), vector.dtype), jnp.clip(exponent, -126, 126))
    return unit * jnp.sqrt(jnp.sum(jnp.square(vector / unit)))


def weighted_sum(weights: Array, vectors: Array) -> Array:
    """sum_i weights_i vectors_i: [N], [N, D] -> [D]."""
    chex.assert_rank([weights, vectors], [1, 2])
    return jnp.matmul(weights, vectors, precision=_EXACT)


def dots(vectors: Array, vector: Array) -> Array:
    """Inner product of every row with one vector: [N, D], [D] -> [N]."""
    chex.assert_rank([vectors, vector], [2, 1])
    return jnp.matmul(vectors, vector, precision=_EXACT)


def cosines(
    vectors: Array, norms: Array, scales: Array, vector: Array, epsilon: chex.Numeric = 0.0
) -> Array:
    """cos(scales_i vectors_i, vector) for every row, 0 where either is a zero vector.

    Each norm counts at least `epsilon`, as in PyTorch's `cosine_similarity`.

    Args:
      vectors: [N, D], unscaled.
      norms: [N], of `vectors`.
      scales: [N], non-negative.
      vector: [D].
      epsilon: smallest norm in the denominator.

    Returns:
      [N], within [-1, 1].
    """
    chex.assert_equal_shape([norms, scales])
    length = norm(vector)
    unit = vector / jnp.where(length == 0, 1.0, length)
    # Both factors are divided by their norms before they meet: a product of two norms can leave
    # the range of float32 where neither does.
    direction = dots(vectors, unit) / jnp.where(norms == 0, 1.0, norms)
    scaled = scales * norms
    defined = (scaled > 0) & (length > 0)
    shrink = _capped(scaled, epsilon) * _capped(length, epsilon)
    return jnp.where(defined, jnp.clip(direction * shrink, -1.0, 1.0), 0.0)


def _capped(length: Array, epsilon: chex.Numeric) -> Array:
    """length / max(length, epsilon), 0 where both are 0."""
    divisor = jnp.maximum(length, epsilon)
    return length / jnp.where(divisor > 0, divisor, 1.0)


def gram(vectors: Array) -> Array:
    """All inner products of rows: [N, D] -> [N, N]."""
    return jnp.matmul(vectors, vectors.T, precision=_EXACT)


def descending(magnitudes: Array) -> Array:
    """Positions of non-negative numbers [D], largest first, ties by position: [D] int32.

    A stable argsort. In float32 the (complemented bit pattern, position) pair is one 64-bit
    integer, and XLA sorts one integer array several times faster than it sorts pairs.
    """
    chex.assert_rank(magnitudes, 1)
    if magnitudes.dtype != jnp.float32:
        return jnp.argsort(-magnitudes, stable=True).astype(jnp.int32)
    with jax.enable_x64(True):
        # Non-negative floats are ordered like their bits.
        high = ~jax.lax.bitcast_convert_type(magnitudes, jnp.uint32)
        keys = (high.astype(jnp.uint64) << 32) | jnp.arange(magnitudes.size, dtype=jnp.uint64)
        positions = jnp.sort(keys) & jnp.uint64(0xFFFFFFFF)
        return positions.astype(jnp.int32)


def ranks(vector: Array, *, ties: str = "position") -> Array:
    """How many entries come before each one by magnitude: [D] -> [D] int32.

    `rank < k` keeps the k largest. With `ties="position"` exactly k survive, equal magnitudes in
    order of position; with `ties="all"` every entry at the threshold survives.

    >>> ranks(jnp.array([1.0, -3.0, 1.0, 2.0])).tolist()
    [2, 0, 3, 1]
    >>> ranks(jnp.array([1.0, -3.0, 1.0, 2.0]), ties="all").tolist()
    [2, 0, 2, 1]
    """
    magnitudes = jnp.abs(vector)
    order = descending(magnitudes)
    places = jnp.arange(vector.size, dtype=jnp.int32)
    if ties == "all":
        ordered = magnitudes[order]
        fresh = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
        places = jax.lax.cummax(jnp.where(fresh, places, 0))
    return jnp.zeros_like(places).at[order].set(places, unique_indices=True)
