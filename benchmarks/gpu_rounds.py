"""Rounds of 100 and 1,000 clients on a GPU: training and the server's step, MNIST CNN.

    XLA_PYTHON_CLIENT_MEM_FRACTION=.45 python -m benchmarks.gpu_rounds [--scale smoke|full]

Each framework in its default precision (JAX multiplies and convolves in TF32 there, PyTorch only
convolves in it) and both in strict float32, against PyTorch's released procedure on the same GPU
and against the best PyTorch that a fair expert would write (`stacked`, compiled). The whole of it
needs a GPU that both frameworks see; without one the rows say so. At smoke scale the same code runs
on whatever there is. JAX takes three quarters of a GPU when it starts, before PyTorch has asked for
anything: hence the variable.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from benchmarks import common, table
from benchmarks.pytorch.work import Work
from benchmarks.pytorch.worker import Ask, sees_cuda, worker
from cgsv_jax.core import layout, simulation
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
    exact: bool  # whether the sides are compared in float64, too, before they are timed


SCALES = {
    "smoke": Scale((3,), 6, 4, 1, 1, ("float32",), exact=True),
    # What `first_minutes` has time for, after it has compared the sides at smoke scale.
    "minutes": Scale((100, 1_000), 60, 32, 3, 1, ("default", "float32"), exact=False),
    "full": Scale((100, 1_000), 60, 32, 6, 2, ("default", "float32"), exact=True),
}

# Clients that PyTorch trains at once: the activations of a thousand would fill the memory that the
# two frameworks share. Ours are the package's default on a GPU, chunks of like size.
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
    """One row per number of clients, precision and yardstick; raises as `measured`."""
    return list(measured(scale))


def measured(scale: str) -> Iterator[table.Row]:
    """The rows, each as soon as it is measured.

    Raises:
        RuntimeError: if the sides do not compute the same.
    """
    size = SCALES[scale]
    cases = [(n, p) for p in size.precisions for n in size.clients]
    gpu = jax.default_backend() == "gpu" and sees_cuda()
    if scale != "smoke" and not gpu:
        yield from (_row(n, p, kind, size) for n, p in cases for kind in KINDS)
        return
    with worker() as ask:
        for clients, precision in cases:
            yield from _rows(ask, clients, precision, size, "cuda" if gpu else "cpu")


def _rows(ask: Ask, clients: int, precision: str, size: Scale, device: str) -> Iterator[table.Row]:
    work = common.random_work(
        "mnist_cnn", [size.rows] * clients, batch_size=size.batch, learning_rate=0.15
    )
    precisions = ("float64", precision) if size.exact else (precision,)
    note = common.agree(ask, work, KINDS, precisions=precisions, device=device)
    width = layout.balanced_width([1] * clients, most=layout.WIDEST_ON_GPU)
    side = common.ours(work, width=width)
    mine = common.in_precision(precision, _round_call(side, common.start(work, side), work))
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
        times = common.in_turn(mine, theirs, size.repeats, slow)
        yield _row(clients, precision, kind, size, times, note)


def _row(
    clients: int,
    precision: str,
    kind: str,
    size: Scale,
    times: common.Measured | None = None,
    note: str = "not measured: no GPU that JAX and PyTorch both see",
) -> table.Row:
    compiled = {"sequential": "released procedure", "stacked": "stacked and compiled"}[kind]
    return table.Row(
        work=f"training and server's step, N = {clients}, mnist_cnn, {size.rows} rows each, "
        f"{'strict float32' if precision == 'float32' else 'default precisions'}",
        against=common.against(compiled),
        ours=times and times.ours,
        theirs=times and times.theirs,
        ratio=times and times.ratio,
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
