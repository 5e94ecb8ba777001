"""How the client axis lies on the hardware: all at once, in chunks, one by one, over devices.

A layout changes speed and memory, never a result beyond float noise.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cgsv_jax.types import Array, ArrayTree

AXIS = "clients"  # the only axis of a mesh here

# A chunk takes as long as its longest client. More than this many steps computed per step needed is
# not worth the width.
WASTE = 1.1

# Models beyond which width buys nothing on a GPU: from here on the kernels of a convolution move
# enough bytes to run at the memory's rate, and a wider chunk takes more of it and waits for longer
# clients.
WIDEST_ON_GPU = 64


def default_width(backend: str | None = None, convolutional: bool = True) -> int | None:
    """Clients computed at once where nobody says otherwise; benchmarks/variants.py has the times.

    Args:
      backend: "cpu", "gpu" or "tpu"; default: the one JAX uses.
      convolutional: whether the model is. On a CPU its steps fill the caches one by one; of models
        of a few dense layers, four at once spread the cost of starting each operation.

    Returns:
      A chunk on a CPU or a GPU, None (all) elsewhere.
    """
    on_cpu = 1 if convolutional else 4
    return {"cpu": on_cpu, "gpu": WIDEST_ON_GPU}.get(backend or jax.default_backend())


# ---------------------------------------------------------------- padding: what width costs


def waste(steps: Sequence[int] | np.ndarray, width: int | None) -> float:
    """Steps computed over steps needed when clients of like length share chunks; on the host.

    Args:
      steps: [N] local steps of each client in a round.
      width: clients computed together, None for all.

    Returns:
      At least 1; exactly 1 one by one.

    >>> waste([1, 2, 3, 4], 2)
    1.2
    >>> waste([1, 2, 3, 4], 1)
    1.0
    """
    ordered = np.sort(np.asarray(steps))
    needed = ordered.sum()
    if needed == 0:
        return 1.0
    size = len(ordered) if width is None else min(width, len(ordered))
    # The last chunk is filled up with copies of its longest client, and those are computed too.
    padded = np.append(ordered, np.full(-len(ordered) % size, ordered[-1]))
    return float(padded.reshape(-1, size).max(axis=1).sum() * size / needed)


def balanced_width(
    steps: Sequence[int] | np.ndarray, limit: float = WASTE, most: int | None = None
) -> int:
    """The largest width whose waste is within `limit`, of those that divide no chunk needlessly.

    Args:
      steps: [N] local steps of each client in a round.
      limit: steps computed over steps needed, at least 1.
      most: the widest that memory allows.

    Returns:
      From 1 to N.

    >>> balanced_width([5, 5, 5, 5])
    4
    >>> balanced_width([1, 1, 9, 9])
    2
    """
    count = len(steps)
    # Equal chunks: for every number of chunks the smallest width that makes do with it.
    widths = sorted({-(-count // chunks) for chunks in range(1, count + 1)}, reverse=True)
    for width in widths:
        if width <= (most or count) and waste(steps, width) <= limit:
            return width
    return 1


# ---------------------------------------------------------------- devices


def mesh_of(devices: Sequence[Any]) -> Mesh | None:
    """A mesh whose one axis is the clients'; None for a single device, which needs none."""
    if len(devices) == 1:
        return None
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def rows_on(num_clients: int, mesh: Mesh | None) -> int:
    """Rows of the state's matrix: N, rounded up so that every device holds equally many."""
    devices = 1 if mesh is None else mesh.size
    return -(-num_clients // devices) * devices


def over_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays [rows, ...]."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def keep_sharded(tree: ArrayTree, mesh: Mesh | None) -> ArrayTree:
    """Pins arrays [rows, ...] of a traced function to their devices."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, over_rows(mesh)), tree)


def keep_whole(tree: ArrayTree, mesh: Mesh | None) -> ArrayTree:
    """Pins arrays of a traced function so that every device, hence every host, holds them whole."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, everywhere(mesh)), tree)


def pad_rows(array: Array, rows: int, value: Any = 0) -> Array:
    """Appends rows of `value`: [N, ...] -> [rows, ...]."""
    missing = rows - array.shape[0]
    if not missing:
        return array
    widths = ((0, missing), *((0, 0),) * (array.ndim - 1))
    return jnp.pad(array, widths, constant_values=value)


def dealt(work: Sequence[int] | np.ndarray, devices: int) -> np.ndarray:
    """An order of clients in which equal blocks of rows have about equal work; on the host.

    The longest client left goes to the device with the least work that still has room. Only the
    last rows stay empty where N is no multiple of the devices, so the last devices have room for
    fewer.

    Args:
      work: [N] steps of each client.
      devices: how many share them.

    Returns:
      [N] which client each row holds.

    >>> dealt([1, 2, 3, 4], 2).tolist()
    [3, 0, 2, 1]
    """
    work = np.asarray(work)
    size = -(-len(work) // devices)
    room = np.clip(len(work) - size * np.arange(devices), 0, size)
    load, blocks = np.zeros(devices), [[] for _ in range(devices)]
    for client in np.argsort(-work, kind="stable"):
        free = np.flatnonzero(room > [len(block) for block in blocks])
        device = free[np.argmin(load[free])]
        blocks[device].append(client)
        load[device] += work[client]
    return np.concatenate([np.asarray(block, np.int64) for block in blocks])


# ---------------------------------------------------------------- the lift


def over_clients(
    function: Callable[..., Any],
    width: int | None = None,
    work: Array | None = None,
    mesh: Mesh | None = None,
    shared: tuple[Any, ...] = (),
) -> Callable[..., Any]:
    """Lifts a function of one client to arguments stacked over N clients.

    Args:
      function: `shared`, then arguments without the client axis -> pytree of arrays.
      width: clients computed together: None for all (vmap), 1 for one by one, or a chunk, which
        need not divide N. With a mesh, on each device.
      work: [N] how long each client takes, if that differs: clients of like length then share a
        chunk, because a chunk takes as long as its longest client.
      mesh: devices that share the clients; N must be a multiple of them (see `rows_on`).
      shared: arrays that all clients read; every device holds them whole. Over several devices
        `function` may close over numbers of its own, but not over what lies on the mesh.

    Returns:
      A function of arguments [N, ...] with results [N, ...].

    Raises:
      ValueError: width < 1.
    """
    if width is not None and width < 1:
        raise ValueError(f"layout width is {width}, it must be at least 1")

    def on_one_device(work: Array | None, shared: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
        one = functools.partial(function, *shared)
        count = jax.tree.leaves(args)[0].shape[0]
        if count == 1:
            # Not vmap: XLA has slower code for a batch of one than for one.
            alone = one(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: jnp.asarray(x)[None], alone)
        if width is None or width >= count:
            return jax.vmap(one)(*args)
        if width == 1:
            return jax.lax.map(lambda each: one(*each), args)
        order = jnp.arange(count) if work is None else jnp.argsort(work)
        # The last chunk is filled up with its longest client, which adds no step to the chunk, and
        # whose further results are those it has already.
        order = jnp.concatenate([order, jnp.broadcast_to(order[-1], (-count % width,))])

        def place(results: Any, members: Array) -> tuple[Any, None]:
            # Into the carry, in place: stacked chunks would be copied once more to be put in order.
            new = jax.vmap(one)(*jax.tree.map(lambda x: x[members], args))
            return jax.tree.map(lambda x, y: x.at[members].set(y), results, new), None

        shapes = jax.eval_shape(jax.vmap(one), *args)
        results = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(place, results, order.reshape(-1, width))[0]

    def lifted(*args: Any) -> Any:
        if mesh is None:
            return on_one_device(work, shared, args)
        spec = PartitionSpec(AXIS)
        # Replication is not checked: a client's results are its own by construction.
        spread = jax.shard_map(
            on_one_device,
            mesh=mesh,
            in_specs=(spec, PartitionSpec(), spec),
            out_specs=spec,
            check_vma=False,
        )
        return spread(work, shared, args)

    return lifted
