"""A whole round of the paper's experiment: ten clients, MNIST CNN, everybody evaluated.

    python -m benchmarks.whole_round [--scale smoke|full]

6,000 rows under the power law, three local epochs, the server's half, and every client's and the
server's model on 10,000 test images, as the released code does after every round. Real MNIST where
the package finds it, else random images, which cost the same.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common, evaluation, table
from benchmarks.pytorch.work import Work, shuffled
from benchmarks.pytorch.worker import worker
from cgsv_jax import data as data_lib
from cgsv_jax.core import simulation
from cgsv_jax.data import partition
from cgsv_jax.experiment import timing
from cgsv_jax.types import Clients, Dataset, State


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    rows: int
    epochs: int
    batch: int
    test_rows: int
    repeats: int
    slow: int  # repeats of PyTorch, which takes more than a minute


SCALES = {"smoke": Scale(3, 36, 2, 4, 60, 1, 1), "full": Scale(10, 6_000, 3, 32, 10_000, 6, 2)}
TARGET = 3.0
THREADS = 2


def rows(scale: str = "full") -> list[table.Row]:
    """One row.

    Raises:
        RuntimeError: if the two sides do not compute the same.
    """
    size = SCALES[scale]
    work, source = make_work(size)
    rate = timing.matrix_rate(1024 if scale == "full" else 64)
    side = common.ours(work)
    mine = _round_call(side, common.start(work, side), work)
    with worker(THREADS) as ask:
        gap = common.agree(ask, work)
        batch = evaluation.faster_batch(ask, work, common.start(work, side), side)
        ask("start", "sequential", work)
        done = [0]

        def theirs() -> Any:
            ask("train", round=done[0])
            ask("serve")
            done[0] += 1
            return ask("evaluate", batch=batch)

        measured = common.in_turn(mine, theirs, size.repeats, size.slow)
    training = common.step_flops(work) * work.rows_visited
    testing = common.forward_flops(work) * size.test_rows * (size.clients + 1)
    return [
        table.Row(
            work=f"whole round, N = {size.clients}, mnist_cnn, {int(work.sizes.sum())} rows x "
            f"{size.epochs} epochs, all models on {size.test_rows} images",
            against=common.against("sequential", THREADS) + f", evaluated in batches of {batch}",
            ours=measured.ours,
            theirs=measured.theirs,
            ratio=measured.ratio,
            target=TARGET,
            floor=(training + testing) / rate,
            note=f"{source}; {gap}",
        )
    ]


def make_work(size: Scale) -> tuple[Work, str]:
    """The work, and whose images they are."""
    rng = np.random.default_rng(0)
    options = {"batch_size": size.batch, "learning_rate": 0.15, "epochs": size.epochs}
    try:
        full = data_lib.load("mnist")
    except ValueError:
        sizes = partition.power_law_sizes(size.rows, size.clients)
        work = common.random_work("mnist_cnn", sizes, test_rows=size.test_rows, **options)
        return work, "random images"
    pool, _ = partition.split(rng, len(full.labels), 0.1, size.rows)
    clients = partition.power_law(rng, full.labels[pool], size.clients)
    # The start and the fields that do not depend on the images.
    work = common.random_work("mnist_cnn", [2], test_rows=1, **options)
    work = work._replace(
        inputs=full.inputs[pool],
        labels=full.labels[pool],
        rows=np.asarray(clients.rows),
        sizes=np.asarray(clients.sizes),
        orders=shuffled(rng, clients.sizes, 2, size.epochs),
        test_inputs=full.test_inputs[: size.test_rows],
        test_labels=full.test_labels[: size.test_rows],
    )
    return work, "MNIST"


def _round_call(side: common.Ours, state: State, work: Work) -> Callable[[], Any]:
    """The next round, evaluated; the state is donated from round to round as in a run."""

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state: State, data: Dataset, clients: Clients, orders: jax.Array) -> Any:
        arguments = (common.KEY, state, data, clients, side.federation, orders[None])
        state, _, result = simulation.advance(*arguments)
        return state, result

    orders, done = jax.device_put(work.orders), [0]

    def step(carry: tuple[State, Any]) -> Any:
        chosen = orders[done[0] % len(orders)]
        done[0] += 1
        return advance(carry[0], side.data, side.clients, chosen)

    return timing.chained(step, (state, None), 1)


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
