"""Local training of five clients with weights of their own: PyTorch against this package.

    python -m benchmarks.local_training [--scale smoke|full]

Both sides go through the same clients one after the other, on the same mini-batches from the same
start; ours in one program, with the package's own trainer and default layout. The floor is the
arithmetic that the steps need, at the rate of a large matrix product.
"""

from typing import NamedTuple

from benchmarks import common, table
from benchmarks.pytorch.worker import worker
from cgsv_jax.experiment import timing


class Case(NamedTuple):
    """One network at its released batch size, learning rate and optimizer."""

    network: str
    batch: int
    learning_rate: float
    target: float | None  # PyTorch / ours, at least
    steps: int = 40  # mini-batches per client and repeat
    optimizer: str = "sgd"
    note: str = ""


CASES = (
    Case("mnist_cnn", 32, 0.15, 2.0),
    Case("cifar_cnn", 128, 0.015, 1.4),
    Case("text_cnn", 256, 1e-4, None, 4, "adam", f"{common.TEXT}; Adam; "),
)


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    repeats: int
    vocabulary: int  # of the text network
    cases: tuple[Case, ...] = CASES


_SMALL = tuple(case._replace(batch=4, steps=2) for case in (CASES[0], CASES[2]))
SCALES = {"smoke": Scale(3, 1, 50, _SMALL), "full": Scale(5, 7, common.VOCABULARY)}
THREADS = 2


def rows(scale: str = "full") -> list[table.Row]:
    """One row per network.

    Raises:
        RuntimeError: if the two sides do not compute the same.
    """
    size = SCALES[scale]
    rate = timing.matrix_rate(1024 if scale == "full" else 64)
    return [_row(case, size, rate) for case in size.cases]


def _row(case: Case, size: Scale, rate: float) -> table.Row:
    work = common.random_work(
        case.network,
        [case.steps * case.batch] * size.clients,
        batch_size=case.batch,
        learning_rate=case.learning_rate,
        optimizer=case.optimizer,
        vocabulary=size.vocabulary,
    )
    side = common.ours(work)
    mine = common.train_call(side, common.start(work, side), work.orders[0])
    with worker(THREADS) as ask:
        gap = common.agree(ask, work)
        ask("start", "sequential", work)
        measured = common.in_turn(mine, lambda: ask("train"), size.repeats)
    steps = size.clients * case.steps
    per_step = ", ".join(
        f"{name} {seconds.milliseconds(steps)} ms"
        for name, seconds in (("theirs", measured.theirs), ("ours", measured.ours))
    )
    return table.Row(
        work=f"{size.clients} x {case.steps} local steps, {case.network}, B {case.batch}",
        against=common.against("sequential", THREADS),
        ours=measured.ours,
        theirs=measured.theirs,
        ratio=measured.ratio,
        target=case.target,
        floor=common.step_flops(work) * work.rows_visited / rate,
        note=f"{case.note}per client and step: {per_step}; {gap}",
    )


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
