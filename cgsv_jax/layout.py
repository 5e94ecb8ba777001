"""How the client axis lies on the hardware: all at once, in chunks, or one by one.

A layout changes speed and memory, never a result beyond float noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cgsv_jax.types import Array


def default_width(backend: str | None = None) -> int | None:
    """Clients computed at once: one by one on a CPU, where width does not pay; else all.

    Args:
      backend: "cpu", "gpu" or "tpu"; default: the one JAX uses.
    """
    return 1 if (backend or jax.default_backend()) == "cpu" else None


def over_clients(
    function: Callable, width: int | None = None, work: Array | None = None
) -> Callable:
    """Lifts a function of one client to arguments stacked over N clients.

    Args:
      function: arguments without the client axis -> pytree of arrays.
      width: clients computed together: None for all (vmap), 1 for one by one, or a chunk, which
        need not divide N.
      work: [N] how long each client takes, if that differs: clients of like length then share a
        chunk, because a chunk takes as long as its longest client.

    Returns:
      A function of arguments [N, ...] with results [N, ...].

    Raises:
      ValueError: width < 1.
    """
    if width is not None and width < 1:
        raise ValueError(f"layout width is {width}, it must be at least 1")

    def lifted(*args: Any) -> Any:
        count = jax.tree.leaves(args)[0].shape[0]
        if width is None or width >= count:
            return jax.vmap(function)(*args)
        if width == 1:
            return jax.lax.map(lambda one: function(*one), args)
        order = jnp.arange(count) if work is None else jnp.argsort(work)
        # The last chunk is filled up with its longest client, which adds no step to the chunk, and
        # whose further results are dropped.
        chunks = -(-count // width)
        order = jnp.concatenate([order, jnp.broadcast_to(order[-1], (-count % width,))])

        def chunk(members: Array) -> Any:
            return jax.vmap(function)(*jax.tree.map(lambda x: x[members], args))

        results = jax.lax.map(chunk, order.reshape(chunks, width))
        places = jnp.argsort(order[:count])
        return jax.tree.map(lambda x: x.reshape(chunks * width, *x.shape[2:])[places], results)

    return lifted
