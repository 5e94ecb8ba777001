"""The server's half of a round, N = 100 clients of the MNIST CNN: from dw [N, D] to new models.

    python -m benchmarks.server_step [--scale smoke|full]

The released procedure normalises, aggregates, takes cosines and reputations, masks a deep copy of
u_N for every client tensor by tensor, and adds. Ours is the package's `cgsv` from the same dw,
norms included, in a loop that donates its state as a run does. The last row leaves the norms out,
since a run has them from local training, and compares with the bytes that must move: two reads of
the updates, a read and a write of the models.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common, table
from benchmarks.pytorch.worker import worker
from cgsv_jax.core import simulation, vectors
from cgsv_jax.experiment import timing
from cgsv_jax.types import State


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    steps: int  # of ours, in one repeat: one takes milliseconds
    repeats: int
    megabytes: int  # of the array that the copy rate is measured on


SCALES = {"smoke": Scale(3, 2, 1, 1), "full": Scale(100, 10, 7, 128)}
TARGET, TARGET_BYTES = 90.0, 1.8
THREADS = 2


def rows(scale: str = "full") -> list[table.Row]:
    """`paper` and `released` against the released procedure, then `paper` against the bytes.

    Raises:
        RuntimeError: if the two sides do not compute the same.
    """
    size = SCALES[scale]
    copying = timing.copy_rate(size.megabytes)
    rng = np.random.default_rng(0)
    work = common.random_work(
        "mnist_cnn",
        rng.integers(2, 9, size.clients),
        batch_size=4,
        learning_rate=0.15,
        setting="released",
    )
    works = {"paper": work._replace(setting="paper"), "released": work}
    calls, floor = {}, 0.0
    for setting, chosen in works.items():
        side = common.ours(chosen)
        deltas = rng.normal(size=(size.clients, sum(side.tensors))).astype(np.float32)
        calls[setting] = chain(side, common.start(chosen, side), deltas, size.steps)
        if setting == "paper":
            given = vectors.norms(deltas)
            state = common.start(chosen, side)
            calls["norms given"] = chain(side, state, deltas, size.steps, given)
            floor = 4 * deltas.nbytes / copying
    with worker(THREADS) as ask:
        # float32 alone: local_training has compared the steps, here it is the server's half.
        for chosen in works.values():
            common.agree(ask, chosen, precisions=("float32",))
        ask("start", "sequential", work)
        ask("set_deltas", deltas)
        calls["PyTorch"] = lambda: ask("serve")
        times = timing.alternate(calls, size.repeats)
    # Everything of ours was run `steps` times in a call.
    once = {n: t if n == "PyTorch" else common.per(t, size.steps) for n, t in times.items()}
    name = f"server's step, N = {size.clients}, D = {deltas.shape[1]:,}"
    speed = [
        table.Row(
            work=f"{name}, {setting}",
            against=common.against("released procedure", THREADS),
            ours=once[setting],
            theirs=once["PyTorch"],
            ratio=timing.ratio(once["PyTorch"], once[setting]),
            target=TARGET,
            floor=floor,
            note="norms of dw included; cosines, reputations, entries received and models agree",
        )
        for setting in works
    ]
    mine = once["norms given"]
    memory = table.Row(
        work=f"{name}, paper, norms given",
        against="the bytes that must move",
        ours=mine,
        theirs=None,
        ratio=timing.summary([seconds / floor for seconds in mine.seconds]),
        target=TARGET_BYTES,
        at_most=True,
        floor=floor,
        note=f"copies at {copying / 1e9:.1f} GB/s",
    )
    return [*speed, memory]


def chain(
    side: common.Ours, state: State, deltas: np.ndarray, steps: int, norms: Any = None
) -> Callable[[], Any]:
    """A call that takes `steps` server steps with the same dw from where it stopped last."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, deltas: jax.Array, norms: Any, sizes: jax.Array) -> State:
        lengths = vectors.norms(deltas) if norms is None else norms
        upload = common.upload_of(state, deltas, lengths, sizes)
        return simulation.serve(common.KEY, state, upload, state.optimizer, side.federation)[0]

    deltas, sizes = jax.device_put(deltas), side.clients.sizes
    return timing.chained(lambda state: step(state, deltas, norms, sizes), state, steps)


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
