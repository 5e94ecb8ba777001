"""The largest magnitudes of a vector: ranks, thresholds, masks."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import vectors as vectors_lib
from cgsv_jax.types import Array


def descending(magnitudes: Array) -> Array:
    """Positions of non-negative numbers [D], largest first, ties by position: [D] int32.

    A stable argsort. In float32 the (key, position) pair is one 64-bit integer, and XLA sorts one
    integer array several times faster than it sorts pairs.
    """
    chex.assert_rank(magnitudes, 1)
    if magnitudes.dtype != jnp.float32:
        return jnp.argsort(-magnitudes, stable=True).astype(jnp.int32)
    return _ascending(magnitude_keys(magnitudes))


def magnitude_keys(vector: Array) -> Array:
    """Small where the magnitude is large: [D] floats -> [D] integers as wide, non-negative.

    Non-negative floats are ordered like their bits. Signed, because that is what vector units
    compare.
    """
    kind = jnp.dtype(f"int{8 * vector.dtype.itemsize}")
    return _last(kind) - jax.lax.bitcast_convert_type(jnp.abs(vector), kind)


def _last(kind: jnp.dtype) -> int:
    """The largest key of a magnitude, that of zero."""
    return int(jnp.iinfo(kind).max)


def _ascending(keys: Array) -> Array:
    """Positions of non-negative keys [D], smallest first, ties by position."""
    with jax.enable_x64(True):
        pairs = (keys.astype(jnp.uint64) << 32) | jnp.arange(keys.size, dtype=jnp.uint64)
        # No two pairs are equal, so that a stable sort, which moves positions along, adds nothing.
        positions = jnp.sort(pairs, stable=False) & jnp.uint64(0xFFFFFFFF)
        return positions.astype(jnp.int32)


def ranks(vector: Array) -> Array:
    """How many entries come before each one by magnitude: [D] -> [D] int32.

    `rank < k` keeps the k largest, equal magnitudes in order of position: exactly k survive.

    >>> ranks(jnp.array([1.0, -3.0, 1.0, 2.0])).tolist()
    [2, 0, 3, 1]
    """
    order = descending(jnp.abs(vector))
    places = jnp.arange(vector.size, dtype=jnp.int32)
    return jnp.zeros_like(places).at[order].set(places, unique_indices=True)


# ---------------------------------------------------------------- the largest entries

# Bits of a magnitude and of a position by which entries are told apart, most significant first. The
# first digit has a table of its own size, every further one a row of 256 per client.
_FIRST, _NEXT = 15, 8
_LONG = 1 << 15  # entries from which on a CPU selects faster than it sorts


def largest(vector: Array, quota: Array) -> Array:
    """The quota_i largest entries by magnitude, for every client: [D], [N] -> [N, D] bool.

    Equal magnitudes in order of position, so that exactly quota_i survive: `ranks(vector) < quota`.
    The sets are nested, so a client's set is all that comes before one entry of the vector, and
    finding that entry needs no sorting of the others. On a CPU it is selected digit by digit from
    histograms, faster than the sort (benchmarks/variants.py has the times); elsewhere the vector is
    sorted once, and so it is where the clients' histograms would be larger than the vector.

    Args:
      vector: [D].
      quota: [N] int32, in 0..D.
    """
    chex.assert_rank([vector, quota], [1, 1])
    if vector.dtype != jnp.float32:
        return ranks(vector)[None, :] < quota[:, None]
    keys = magnitude_keys(vector)
    key, position = _cut(vector, quota)
    places = jnp.arange(vector.size, dtype=jnp.int32)
    tied = (keys[None, :] == key[:, None]) & (places[None, :] < position[:, None])
    return (keys[None, :] < key[:, None]) | tied


def tied(vector: Array, quota: Array) -> tuple[Array, Array]:
    """Thresholds of the largest entries where all that equal the last one earned are kept, too.

    `keys <= last_i` is the set of client i, the quota_i largest entries and all as large as the
    smallest of these. No entry is told from its equals, so keys alone are sorted, or selected.

    Args:
      vector: [D].
      quota: [N] int32, in 0..D.

    Returns:
      keys [D], non-negative, and last [N], -1 where nothing was earned.

    >>> keys, last = tied(jnp.array([1.0, -3.0, 1.0, 2.0]), jnp.array([0, 2, 3]))
    >>> (keys[None, :] <= last[:, None]).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]]
    """
    chex.assert_rank([vector, quota], [1, 1])
    keys, rank = magnitude_keys(vector), jnp.maximum(quota - 1, 0)

    def sorting(keys: Array, rank: Array) -> Array:
        return jnp.sort(keys, stable=False)[rank]

    def selecting(keys: Array, rank: Array) -> Array:
        return by_selecting(keys, rank)[0]  # XLA drops the search for a position

    if vector.dtype != jnp.float32 or _sorts(vector.size, quota.size):
        last = sorting(keys, rank)
    else:
        last = jax.lax.platform_dependent(keys, rank, cpu=selecting, default=sorting)
    return keys, jnp.where(quota > 0, last, -1)


def energy_of_largest(vector: Array, quota: Array) -> Array:
    """The share of ‖vector‖² that lies in the quota_i largest entries: [D], [N] -> [N].

    `energies` of the rewards that `largest` masks, without these rewards. On a CPU, XLA would store
    the whole matrix [N, D] to add up its squares, three times the work of a server's step; next to
    `largest` of the same arguments, whose histograms it shares, this adds one of weights.

    Args:
      vector: [D].
      quota: [N] int32, in 0..D.

    Returns:
      [N] in [0, 1]; 1 for all entries, 0 where `vector` is zero.

    >>> energy_of_largest(jnp.array([3.0, 0.0, -4.0]), jnp.array([0, 1, 2, 3])).round(2).tolist()
    [0.0, 0.6399999856948853, 1.0, 1.0]
    """
    chex.assert_rank([vector, quota], [1, 1])

    def parts(squares: Array) -> Array:
        if vector.dtype == jnp.float32:
            return _cut(vector, quota, squares)[-1]
        order = descending(jnp.abs(vector))
        return _before(jnp.cumsum(squares[order]), quota)

    share = vectors_lib.share_of_squares(vector, parts)
    everything = (quota >= vector.size) & jnp.any(vector != 0)
    return jnp.where(everything, 1.0, share)  # not a rounding more or less


def _before(ends: Array, count: Array) -> Array:
    """Sums of the first `count` items, from the sums up to and with each: [..., M], [N] -> [N]."""
    return jnp.where(count > 0, ends[jnp.maximum(count - 1, 0)], jnp.zeros((), ends.dtype))


def _cut(vector: Array, quota: Array, weights: Array | None = None) -> tuple[Array, ...]:
    """`by_sorting` or `by_selecting`, whichever is faster here."""
    keys = magnitude_keys(vector)
    if _sorts(vector.size, quota.size):
        return by_sorting(keys, quota, weights)
    return jax.lax.platform_dependent(keys, quota, weights, cpu=by_selecting, default=by_sorting)


def _sorts(entries: int, clients: int) -> bool:
    """Whether sorting is the faster way on a CPU too, or histograms would outgrow the vector."""
    return entries < _LONG or clients << _NEXT > 4 * entries


def by_sorting(keys: Array, quota: Array, weights: Array | None = None) -> tuple[Array, ...]:
    """The first entry that each client does not get, as (key [N], position [N]), after one sort.

    Args:
      keys: [D] int32, non-negative, small where the magnitude is large.
      quota: [N] int32, in 0..D.
      weights: [D], equal where keys are; with them, a third result [N] is the sum of the weights
        of the entries that each client gets.
    """
    order = _ascending(keys)
    first = order[jnp.minimum(quota, keys.size - 1)]
    last = _or_everything(keys[first], first, quota, keys.size)
    return last if weights is None else (*last, _before(jnp.cumsum(weights[order]), quota))


def _or_everything(key: Array, position: Array, quota: Array, entries: int) -> tuple[Array, Array]:
    """The thresholds, or one that lies behind every entry where the quota is all of them."""
    everything = quota >= entries
    return jnp.where(everything, _last(key.dtype), key), jnp.where(everything, entries, position)


def by_selecting(keys: Array, quota: Array, weights: Array | None = None) -> tuple[Array, ...]:
    """The same as `by_sorting`, by a radix select for all clients at once.

    Entries that share all digits so far with a client's threshold are told apart by the next digit.
    Clients whose thresholds share them all have one row of the histogram together.
    """
    clients, entries = quota.size, keys.size
    places = jnp.arange(entries, dtype=jnp.int32)
    row = jnp.zeros(clients, jnp.int32)  # of the histogram, for every client
    cell, rows = jnp.zeros(entries, jnp.int32), 1  # for every entry its row; past the end: nobody's
    rest = quota  # entries of its row that a client still gets
    total = jnp.zeros(clients, jnp.float32 if weights is None else weights.dtype)
    thresholds = []
    for values, bits, first in ((keys, 31, _FIRST), (places, (entries - 1).bit_length(), _NEXT)):
        threshold, left = jnp.zeros(clients, jnp.int32), bits
        while left:
            size = min(first if left == bits else _NEXT, left)
            radix, left = 1 << size, left - size
            digit = (values >> left) & (radix - 1)
            cell = cell * radix + digit
            counts = jnp.zeros(rows * radix, jnp.int32).at[cell].add(1, mode="drop")
            ends = jnp.cumsum(counts.reshape(rows, radix), axis=1)
            if rows == 1:
                whole = jnp.searchsorted(ends[0], rest, side="right").astype(jnp.int32)
            else:
                whole = jnp.sum(ends[row] <= rest[:, None], axis=1, dtype=jnp.int32)
            # Buckets below `whole` are taken entirely; the threshold is in bucket `whole`.
            threshold = (threshold << size) + whole
            last = row, jnp.maximum(whole - 1, 0)
            if weights is not None:
                sums = jnp.zeros(rows * radix, weights.dtype).at[cell].add(weights, mode="drop")
                sums = jnp.cumsum(sums.reshape(rows, radix), axis=1)
                total = total + jnp.where(whole > 0, sums[last], 0)
            rest = rest - jnp.where(whole > 0, ends[last], 0)
            mine = row * radix + jnp.minimum(whole, radix - 1)
            owner = jnp.full(rows * radix, clients, jnp.int32).at[mine].set(jnp.arange(clients))
            cell = owner.at[cell].get(mode="fill", fill_value=clients)
            row, rows = owner[mine], clients
        thresholds.append(threshold)
    key, position = thresholds
    last = _or_everything(key, position, quota, entries)
    return last if weights is None else (*last, total)
