"""Rounds of 100 and 1,000 clients on a GPU: training and the server's step, MNIST CNN.

    python -m benchmarks.gpu_rounds [--scale smoke|full]

Each framework in its default precision (JAX multiplies and convolves in TF32 there, PyTorch only
convolves in it) and both in strict float32, against PyTorch's released procedure on the same GPU
and against the best PyTorch that a fair expert would write (`stacked`, compiled). The whole of it
needs a GPU that both frameworks see; without one the rows say so. At smoke scale the same code runs
on whatever there is.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks import common, table
from benchmarks.pytorch.work import Work
from benchmarks.pytorch.worker import Ask, sees_cuda, worker
from cgsv_jax.core import simulation
from cgsv_jax.experiment import timing
from cgsv_jax.types import Clients, Dataset, State


class Scale(NamedTuple):
    """How much of it."""

    clients: tuple[int, ...]
    rows: int  # of each client; one epoch in batches of 32
    batch: int
    repeats: int
    slow: int  # repeats of the sequential PyTorch, which takes ten seconds at N = 1,000
    precisions: tuple[str, ...]


SCALES = {
    "smoke": Scale((3,), 6, 4, 1, 1, ("float32",)),
    "full": Scale((100, 1_000), 60, 32, 6, 2, ("default", "float32")),
}

# Clients trained at once on either side: the activations of a thousand would fill the memory that
# the two frameworks share.
CHUNK = 100

# (precision, yardstick, N) -> PyTorch / ours, at least; what is not here has no target.
TARGETS = {
    ("default", "sequential", 1_000): 50.0,
    ("float32", "sequential", 100): 10.0,
    ("float32", "sequential", 1_000): 10.0,
    **{(p, "stacked", n): 1.5 for p in ("default", "float32") for n in (100, 1_000)},
}
KINDS = ("sequential", "stacked")


def rows(scale: str = "full") -> list[table.Row]:
    """One row per number of clients, precision and yardstick.

    Raises:
        RuntimeError: if the sides do not compute the same.
    """
    size = SCALES[scale]
    # JAX would otherwise take three quarters of the GPU before PyTorch has asked for anything. It
    # is read when the backend starts, so it has no effect on one that runs already.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".45")
    cases = [(n, p) for n in size.clients for p in size.precisions]
    gpu = jax.default_backend() == "gpu" and sees_cuda()
    if scale == "full" and not gpu:
        return [_row(n, p, kind, size) for n, p in cases for kind in KINDS]
    with worker() as ask:
        return [row for n, p in cases for row in _rows(ask, n, p, size, "cuda" if gpu else "cpu")]


def _rows(ask: Ask, clients: int, precision: str, size: Scale, device: str) -> list[table.Row]:
    work = common.random_work(
        "mnist_cnn", [size.rows] * clients, batch_size=size.batch, learning_rate=0.15
    )
    note = common.agree(ask, work, KINDS, precisions=("float64", precision), device=device)
    side = common.ours(work, width=min(CHUNK, clients))
    mine = common.in_precision(precision, _round_call(side, common.start(work, side), work))
    result = []
    for kind in KINDS:
        options: dict[str, Any] = {"device": device, "precision": precision}
        if kind == "stacked":
            options |= {"compile": device == "cuda", "chunk": CHUNK}
        ask("start", kind, work, **options)

        def theirs() -> None:
            ask("train")
            ask("serve")

        theirs()  # compiles, and lets cuDNN choose
        slow = size.slow if kind == "sequential" else None
        measured = common.in_turn(mine, theirs, size.repeats, slow)
        result.append(_row(clients, precision, kind, size, measured, note))
    return result


def _row(
    clients: int,
    precision: str,
    kind: str,
    size: Scale,
    measured: common.Measured | None = None,
    note: str = "not measured: no GPU that JAX and PyTorch both see",
) -> table.Row:
    compiled = {"sequential": "released procedure", "stacked": "stacked and compiled"}[kind]
    return table.Row(
        work=f"training and server's step, N = {clients}, mnist_cnn, {size.rows} rows each, "
        f"{'strict float32' if precision == 'float32' else 'default precisions'}",
        against=common.against(compiled),
        ours=measured and measured.ours,
        theirs=measured and measured.theirs,
        ratio=measured and measured.ratio,
        target=TARGETS.get((precision, kind, clients)),
        note=note,
    )


def _round_call(side: common.Ours, state: State, work: Work) -> Callable[[], Any]:
    """The next round, not evaluated; the state is donated from round to round as in a run."""

    @functools.partial(jax.jit, donate_argnums=0)
    def one_round(state: State, data: Dataset, clients: Clients, orders: jax.Array) -> State:
        return simulation.round_(common.KEY, state, data, clients, side.federation, orders)[0]

    orders = jax.device_put(work.orders[0])
    return timing.chained(lambda s: one_round(s, side.data, side.clients, orders), state, 1)


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
