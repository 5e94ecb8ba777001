"""Many runs as one program: seeds and hyper-parameters are axes like any other."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cgsv_jax.core.layout import over_clients
from cgsv_jax.types import Array, ArrayTree, Hyper


def grid(
    run: Callable[..., Any],
    keys: Array,
    hyper: Hyper,
    *args: Any,
    carry: ArrayTree = None,
    width: int | None = None,
) -> Any:
    """run(key, hyper, *args) for every pair of a key and a point of the numbers.

    `run` must build its algorithm and trainer from its argument `hyper`: then their numbers are
    traced, and one program serves all points. Like `run` itself, a grid is to be jitted by the
    caller.

    Args:
      run: (key [], hyper of scalars, *args) -> pytree of arrays; with `carry`,
        (key, hyper, carry of this run, *args).
      keys: [S] typed PRNG keys, one per seed.
      hyper: every number [H], or [] where it is the same at all points.
      *args: shared by all runs.
      carry: leaves [S, H, ...], from which each run goes on; default: runs begin.
      width: runs computed together, as in `layout.over_clients`: None for all at once, 1 for one
        after another, which needs less memory.

    Returns:
      The results of `run` with leading axes [S, H].

    Raises:
      ValueError: numbers are of different lengths.
    """
    hyper = _each(hyper)
    one = _one(run, args)

    def over_points(key: Array, carry: ArrayTree) -> Any:
        return over_clients(functools.partial(one, key), width)(hyper, carry)

    return over_clients(over_points, width)(keys, carry)


def runs(
    run: Callable[..., Any],
    keys: Array,
    hyper: Hyper,
    *args: Any,
    carry: ArrayTree = None,
    width: int | None = None,
) -> Any:
    """run(key, hyper, *args) for pairs of a key and a point that need not be a grid.

    Args:
      run: as in `grid`.
      keys: [R] typed PRNG keys.
      hyper: every number [R], or [] where it is the same for all runs.
      *args: shared by all runs.
      carry: leaves [R, ...].
      width: as in `grid`.

    Returns:
      The results of `run` with a leading axis [R].

    Raises:
      ValueError: numbers are of different lengths.
    """
    return over_clients(_one(run, args), width)(keys, _each(hyper, keys.shape[0]), carry)


def _each(hyper: Hyper, count: int = 1) -> Hyper:
    """The numbers with an axis [H], or [count] where none has one."""
    lengths = {len(x) for x in jax.tree.leaves(hyper) if jnp.ndim(x)} or {count}
    if len(lengths) > 1:
        raise ValueError(f"hyper has numbers of {sorted(lengths)} points, it must be one length")
    (length,) = lengths
    return jax.tree.map(lambda x: x if jnp.ndim(x) else jnp.full(length, x, float), hyper)


def _one(run: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """The run of one key and one point, with its carry if there is one."""

    def one(key: Array, hyper: Hyper, carry: ArrayTree) -> Any:
        return run(key, hyper, *(() if carry is None else (carry,)), *args)

    return one
