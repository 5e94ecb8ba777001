"""Five clients' models and the server's on all test examples: PyTorch against this package.

    python -m benchmarks.evaluation [--scale smoke|full]

PyTorch evaluates in eval mode under inference_mode, one model after the other, in whichever of two
batch sizes it is faster with; ours is `simulation.evaluate` with the package's defaults.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks import common, table
from benchmarks.pytorch.work import Work
from benchmarks.pytorch.worker import Ask, worker
from cgsv_jax.experiment import timing
from cgsv_jax.types import State


class Case(NamedTuple):
    """One network and its test set."""

    network: str
    test_rows: int
    target: float | None  # PyTorch / ours, at least
    examples: str = "images"
    note: str = ""


CASES = (
    Case("mnist_cnn", 10_000, 6.0),
    Case("cifar_cnn", 10_000, 1.5),
    Case("text_cnn", 2210, None, "sentences", f"{common.TEXT}; "),  # SST's
)


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    test_rows: int | None  # None: the case's
    repeats: int
    slow: int  # repeats of PyTorch
    vocabulary: int  # of the text network


SCALES = {"smoke": Scale(2, 120, 1, 1, 50), "full": Scale(5, None, 6, 3, common.VOCABULARY)}
BATCHES = (100, 1000)  # of PyTorch; the released code has the former
THREADS = 2


def rows(scale: str = "full") -> list[table.Row]:
    """One row per network.

    Raises:
        RuntimeError: if the two sides do not give the same accuracies and losses.
    """
    size = SCALES[scale]
    rate = timing.matrix_rate(1024 if scale == "full" else 64)
    return [
        _row(case._replace(test_rows=size.test_rows or case.test_rows), size, rate)
        for case in CASES
    ]


def _row(case: Case, size: Scale, rate: float) -> table.Row:
    work = common.random_work(
        case.network,
        [8] * size.clients,
        batch_size=8,
        learning_rate=0.1,
        test_rows=case.test_rows,
        vocabulary=size.vocabulary,
    )
    side = common.ours(work)
    state = scattered(common.start(work, side))
    mine = common.evaluate_call(side, state)
    with worker(THREADS) as ask:
        batch = faster_batch(ask, work, state, side)
        ask("start", "sequential", work)
        send(ask, state, side)
        note = common.check_evaluation(ask("evaluate", batch=batch), mine(), case.test_rows)
        theirs = lambda: ask("evaluate", batch=batch)  # noqa: E731
        measured = common.in_turn(mine, theirs, size.repeats, size.slow)
    forwards = case.test_rows * (size.clients + 1)
    return table.Row(
        work=f"{size.clients} clients and server on {case.test_rows} {case.examples}, "
        f"{case.network}",
        against=common.against("sequential", THREADS) + f", batches of {batch}",
        ours=measured.ours,
        theirs=measured.theirs,
        ratio=measured.ratio,
        target=case.target,
        floor=common.forward_flops(work) * forwards / rate,
        note=f"{case.note}PyTorch's faster batch of {BATCHES}; {note}",
    )


def scattered(state: State) -> State:
    """Models that differ, so that nobody's answer can stand for another's."""
    noise = np.random.default_rng(0).normal(size=state.clients.shape).astype(np.float32)
    return state._replace(clients=state.clients * (1 + 0.3 * noise))


def send(ask: Ask, state: State, side: common.Ours) -> None:
    """Gives PyTorch these models."""
    clients, server = (np.asarray(x)[..., side.positions] for x in (state.clients, state.server))
    ask("set_state", clients, server, np.zeros(len(clients), np.float32), True)


def faster_batch(ask: Ask, work: Work, state: State, side: common.Ours) -> int:
    """PyTorch's faster batch size, tried on one client and the server and a few test rows."""
    rows = max(min(2 * BATCHES[-1], len(work.test_labels)), 1)
    few = work._replace(
        rows=work.rows[:1],
        sizes=work.sizes[:1],
        orders=None,
        test_inputs=work.test_inputs[:rows],
        test_labels=work.test_labels[:rows],
    )
    ask("start", "sequential", few)
    send(ask, state._replace(clients=jnp.asarray(state.clients)[:1]), side)
    return common.faster({b: lambda b=b: ask("evaluate", batch=b) for b in BATCHES})


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
