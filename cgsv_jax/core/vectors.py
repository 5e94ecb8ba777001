"""Algebra on the [N, D] matrix whose rows are clients: everything the server does.

Parameters are raveled once; a table of tensors serves what is per layer.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from cgsv_jax.types import Array, ArrayTree, PRNGKey, Spans

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
    unravel = []
    jax.eval_shape(lambda params: unravel.append(ravel_pytree(params)[1]), shapes)
    return unravel[0]


def within(spans: Spans, size: int) -> Array:
    """Which of `size` entries lie in one of the spans, [D] bool.

    >>> within(((0, 1), (3, 5)), 5).tolist()
    [True, False, False, True, True]
    """
    places = jnp.arange(size)  # no constant of D numbers in the program
    return functools.reduce(
        jnp.logical_or, [(places >= a) & (places < b) for a, b in spans], places < 0
    )


def norm(vector: Array) -> Array:
    """Euclidean norm of a vector [D]; not finite exactly when an entry or the length is not."""
    return norms(vector[None, :])[0]


@jax.jit  # called eagerly, a choice between two ways is otherwise compiled in every call
def norms(vectors: Array) -> Array:
    """Euclidean norms of the rows of [N, D], [N]; neither 1e-30 nor 1e30 leaves float32's range.

    One pass over the matrix squares and adds. Where that leaves the range of its numbers, or comes
    so near its lower end that squares lost there could be seen, three more passes divide each row
    by the power of two next to its largest magnitude first, which changes no significand.
    """
    chex.assert_rank(vectors, 2)
    limits = jnp.finfo(vectors.dtype)
    squares = jnp.sum(jnp.square(vectors), axis=1)
    # Squares below the least normal number may be lost: in all less than D of these.
    seen = squares >= vectors.shape[1] * (limits.tiny / limits.eps)
    plain = jnp.all(seen & jnp.isfinite(squares))
    return jax.lax.cond(plain, lambda: jnp.sqrt(squares), lambda: _scaled_norms(vectors, vectors))


def _scaled_norms(vectors: Array, again: Array) -> Array:
    """The norms, from squares of at most 4; `again` are the same rows for the second reading."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(vectors), axis=1, initial=0.0))
    # XLA may multiply by the unit's reciprocal, so that must be a normal number too.
    one = jnp.ones(vectors.shape[:1], vectors.dtype)
    unit = jnp.ldexp(one, jnp.clip(exponent, -126, 126))
    return unit * jnp.sqrt(jnp.sum(jnp.square(again / unit[:, None]), axis=1))


def distances(vectors: Array, vector: Array) -> Array:
    """‖vectors_i - vector‖ for every row: [N, D], [D] -> [N]; as careful with the range as `norms`.

    The differences of all rows would be a matrix that nobody needs, so each of the two passes makes
    its own: the barrier keeps XLA from sharing them. And there is no choice between two ways, whose
    operands `vmap` would store.
    """
    chex.assert_rank([vectors, vector], [2, 1])
    chex.assert_equal_shape_suffix([vectors, vector], 1)
    again = jax.lax.optimization_barrier(vector)
    return _scaled_norms(vectors - vector[None, :], vectors - again[None, :])


def energies(vectors: Array, vector: Array) -> Array:
    """‖vectors_i‖² / ‖vector‖² for every row, 0 where `vector` is zero: [N, D], [D] -> [N].

    Squares of 1e-30 or 1e30 leave the range of float32 where the quotient does not: the unit is the
    power of two next to the largest magnitude of `vector`.
    """
    chex.assert_rank([vectors, vector], [2, 1])
    chex.assert_equal_shape_suffix([vectors, vector], 1)
    unit = _unit(vector)
    whole = jnp.sum(jnp.square(vector * unit))
    parts = jnp.sum(jnp.square(vectors * unit.astype(vectors.dtype)), axis=1)
    return _share(parts, whole)


def share_of_squares(vector: Array, parts: Callable[[Array], Array]) -> Array:
    """`parts` of the squares of `vector`, divided by their sum, in [0, 1]; 0 where that is.

    Args:
      vector: [D].
      parts: sums over some of the entries, [D] -> [N].
    """
    squares = jnp.square(vector * _unit(vector))
    return jnp.minimum(_share(parts(squares), jnp.sum(squares)), 1.0)


def _unit(vector: Array) -> Array:
    """A power of two whose product with the largest magnitude of [D] is near 1."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(vector), initial=0.0))
    return jnp.ldexp(jnp.ones((), vector.dtype), jnp.clip(-exponent, -126, 126))


def _share(parts: Array, whole: Array) -> Array:
    """parts / whole, 0 where the whole is."""
    return jnp.where(whole == 0, 0.0, parts / jnp.where(whole == 0, 1.0, whole))


def draws(key: PRNGKey, numbers: Array | None, count: int) -> Array:
    """Per-client keys [N], which follow a client's number, whatever the order of rows.

    Args:
      key: of the rule and the round.
      numbers: [N] the client of each row; None: in order.
      count: N.
    """
    numbers = jnp.arange(count) if numbers is None else numbers
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def weighted_sum(weights: Array, vectors: Array) -> Array:
    """sum_i weights_i vectors_i: [N], [N, D] -> [D]."""
    chex.assert_rank([weights, vectors], [1, 2])
    return jnp.matmul(weights, vectors, precision=_EXACT)


def dots(vectors: Array, vector: Array) -> Array:
    """Inner product of every row with one vector: [N, D], [D] -> [N]."""
    chex.assert_rank([vectors, vector], [2, 1])
    return jnp.matmul(vectors, vector, precision=_EXACT)


def cosines(
    vectors: Array, norms: Array, scales: Array, vector: Array, epsilon: Array | float = 0.0
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


def cosines_of_parts(parts: Array, vector: Array) -> Array:
    """cos(parts_pi, vector_p) of every part, 0 where either is a zero vector.

    Args:
      parts: [P, N, F] the places of a part in every row.
      vector: [P, F].

    Returns:
      [P, N], within [-1, 1].
    """
    ones = jnp.ones(parts.shape[1], parts.dtype)
    return jax.vmap(lambda rows, towards: cosines(rows, norms(rows), ones, towards))(parts, vector)


def _capped(length: Array, epsilon: Array | float) -> Array:
    """length / max(length, epsilon), 0 where both are 0."""
    divisor = jnp.maximum(length, epsilon)
    return length / jnp.where(divisor > 0, divisor, 1.0)


def gram(vectors: Array) -> Array:
    """All inner products of rows: [N, D] -> [N, N]."""
    return jnp.matmul(vectors, vectors.T, precision=_EXACT)
