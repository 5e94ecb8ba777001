"""Many runs as one program: seeds and hyper-parameters are axes like any other."""

import functools
from collections.abc import Callable
from typing import Any

from cgsv_jax.layout import over_clients
from cgsv_jax.types import Array, ArrayTree, Hyper


def grid(
    run: Callable,
    keys: Array,
    hyper: Hyper,
    *args: Any,
    carry: ArrayTree = None,
    width: int | None = None,
) -> Any:
    """run(key, hyper, *args) for every pair of a key and a setting.

    `run` must build its algorithm and trainer from the `hyper` it is given: then their numbers are
    traced, and one program serves all settings. Like `run` itself, a grid is to be jitted by the
    caller.

    Args:
      run: (key [], hyper of scalars, *args) -> pytree of arrays; with `carry`,
        (key, hyper, carry of this run, *args).
      keys: [S] typed PRNG keys, one per seed.
      hyper: every field [H].
      *args: shared by all runs.
      carry: leaves [S, H, ...], where each run goes on from, if it does.
      width: runs computed together, as in `layout.over_clients`: None for all at once, 1 for one
        after another, which needs less memory.

    Returns:
      The results of `run` with leading axes [S, H].
    """

    one = _one(run, args)

    def over_settings(key: Array, carry: ArrayTree) -> Any:
        return over_clients(functools.partial(one, key), width)(hyper, carry)

    return over_clients(over_settings, width)(keys, carry)


def runs(
    run: Callable,
    keys: Array,
    hyper: Hyper,
    *args: Any,
    carry: ArrayTree = None,
    width: int | None = None,
) -> Any:
    """run(key, hyper, *args) for pairs of a key and a setting that need not be a grid.

    Args:
      run: as in `grid`.
      keys: [R] typed PRNG keys.
      hyper: every field [R].
      *args: shared by all runs.
      carry: leaves [R, ...].
      width: as in `grid`.

    Returns:
      The results of `run` with a leading axis [R].
    """
    return over_clients(_one(run, args), width)(keys, hyper, carry)


def _one(run: Callable, args: tuple) -> Callable:
    """The run of one key and one setting, with its carry if there is one."""

    def one(key: Array, hyper: Hyper, carry: ArrayTree) -> Any:
        return run(key, hyper, *(() if carry is None else (carry,)), *args)

    return one
