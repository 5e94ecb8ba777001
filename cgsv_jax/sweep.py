"""Many runs as one program: seeds and hyper-parameters are axes like any other."""

from collections.abc import Callable
from typing import Any

from cgsv_jax.layout import over_clients
from cgsv_jax.types import Array, Hyper


def grid(run: Callable, keys: Array, hyper: Hyper, *args: Any, width: int | None = None) -> Any:
    """run(key, hyper, *args) for every pair of a key and a setting.

    `run` must build its algorithm and trainer from the `hyper` it is given: then their numbers are
    traced, and one program serves all settings. jit the result's caller, not `run`.

    Args:
      run: (key [], hyper of scalars, *args) -> pytree of arrays.
      keys: [S] typed PRNG keys, one per seed.
      hyper: every field [H].
      *args: shared by all runs.
      width: runs computed together, as in `layout.over_clients`: None for all.

    Returns:
      The results of `run` with leading axes [S, H].
    """

    def over_seeds(key: Array) -> Any:
        return over_clients(lambda h: run(key, h, *args), width)(hyper)

    return over_clients(over_seeds, width)(keys)
