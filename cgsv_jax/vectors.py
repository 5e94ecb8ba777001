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


# ---------------------------------------------------------------- the largest entries

# Bits of a magnitude and of a position by which entries are told apart, most significant first. The
# first digit has a table of its own size, every further one a row of 256 per client.
_FIRST, _NEXT = 15, 8


def largest(vector: Array, quota: Array) -> Array:
    """The quota_i largest entries by magnitude, for every client: [D], [N] -> [N, D] bool.

    Equal magnitudes in order of position, so that exactly quota_i survive: `ranks(vector) < quota`.
    The sets are nested, so a client's set is all that comes before one entry of the vector, and
    finding that entry needs no sorting of the others. On a CPU it is selected digit by digit from
    histograms, which takes a third of the time of the sort (benchmarks/variants.py); elsewhere, and
    where clients outnumber what histograms are good for, the vector is sorted once.

    Args:
      vector: [D].
      quota: [N] int32, in 0..D.
    """
    chex.assert_rank([vector, quota], [1, 1])
    if vector.dtype != jnp.float32 or quota.size << _NEXT > 4 * vector.size:
        return ranks(vector)[None, :] < quota[:, None]
    # A large magnitude is a small key; ordered like their bits, as in `descending`.
    bits = jax.lax.bitcast_convert_type(jnp.abs(vector), jnp.uint32)
    keys = jnp.uint32(0x7FFFFFFF) - bits
    key, position = jax.lax.platform_dependent(
        keys, quota, cpu=_select, default=lambda keys, quota: _sorted(vector, keys, quota)
    )
    places = jnp.arange(vector.size, dtype=jnp.int32)
    tied = (keys[None, :] == key[:, None]) & (places[None, :] < position[:, None])
    return (keys[None, :] < key[:, None]) | tied


def _sorted(vector: Array, keys: Array, quota: Array) -> tuple[Array, Array]:
    """Key and position of the first entry that each client does not get, after one sort."""
    order = descending(jnp.abs(vector))
    next_ = order[jnp.minimum(quota, vector.size - 1)]
    everything = quota >= vector.size
    return jnp.where(everything, jnp.uint32(0xFFFFFFFF), keys[next_]), next_


def _select(keys: Array, quota: Array) -> tuple[Array, Array]:
    """The same by a radix select for all clients at once; keys [D] below 2^31.

    Entries that share all digits so far with a client's threshold are told apart by the next digit.
    Clients whose thresholds share them all have one row of the histogram together.
    """
    clients, entries = quota.size, keys.size
    places = jnp.arange(entries, dtype=jnp.uint32)
    row = jnp.zeros(clients, jnp.int32)  # of the histogram, for every client
    cell, rows = jnp.zeros(entries, jnp.int32), 1  # for every entry its row; past the end: nobody's
    rest = quota  # entries of its row that a client still gets
    thresholds = []
    for values, bits, first in ((keys, 31, _FIRST), (places, (entries - 1).bit_length(), _NEXT)):
        threshold, left = jnp.zeros(clients, jnp.uint32), bits
        while left:
            size = min(first if left == bits else _NEXT, left)
            radix, left = 1 << size, left - size
            digit = ((values >> left) & (radix - 1)).astype(jnp.int32)
            cell = cell * radix + digit
            counts = jnp.zeros(rows * radix, jnp.int32).at[cell].add(1, mode="drop")
            ends = jnp.cumsum(counts.reshape(rows, radix), axis=1)
            if rows == 1:
                whole = jnp.searchsorted(ends[0], rest, side="right").astype(jnp.int32)
            else:
                whole = jnp.sum(ends[row] <= rest[:, None], axis=1, dtype=jnp.int32)
            # `whole` digits are got whole, and the threshold lies in the next one.
            threshold = (threshold << size) + whole.astype(jnp.uint32)
            rest = rest - jnp.where(whole > 0, ends[row, jnp.maximum(whole - 1, 0)], 0)
            mine = row * radix + jnp.minimum(whole, radix - 1)
            owner = jnp.full(rows * radix, clients, jnp.int32).at[mine].set(jnp.arange(clients))
            cell = owner.at[cell].get(mode="fill", fill_value=clients)
            row, rows = owner[mine], clients
        thresholds.append(threshold)
    key, place = thresholds
    return jnp.where(quota >= entries, jnp.uint32(0xFFFFFFFF), key), place.astype(jnp.int32)
