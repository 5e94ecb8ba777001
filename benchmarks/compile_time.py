"""Seconds of compiling a run of the MNIST CNN, and whether they grow with N or T.

    python -m benchmarks.compile_time [--scale smoke|full]

The whole program of T rounds, evaluation included, as the command compiles it. Lowering is in it.
"""

import time
from typing import NamedTuple

import jax

from benchmarks import common, table
from cgsv_jax.core import simulation
from cgsv_jax.experiment import timing

TARGET, FLAT = 15.0, 1.25


class Scale(NamedTuple):
    """Populations and rounds; the first is the one that the others are compared with."""

    sizes: tuple[tuple[int, int], ...]  # N, T
    repeats: int


SCALES = {
    "smoke": Scale(((2, 1),), 1),
    "full": Scale(((5, 10), (20, 10), (100, 10), (5, 200)), 3),
}


def seconds(clients: int, rounds: int) -> float:
    """Of lowering and compiling; nothing runs."""
    work = common.random_work("mnist_cnn", [64] * clients, batch_size=32, learning_rate=0.15)
    side = common.ours(work)
    federation = side.federation._replace(settings=side.settings._replace(rounds=rounds))
    state = jax.eval_shape(lambda: simulation.init(common.KEY, clients, federation))

    def run(state, data, clients):
        return simulation.advance(common.KEY, state, data, clients, federation)

    clock = time.perf_counter()
    jax.jit(run, donate_argnums=0).lower(state, side.data, side.clients).compile()
    return time.perf_counter() - clock


def rows(scale: str = "full") -> list[table.Row]:
    """Seconds at the first size, and every other size over the first."""
    size = SCALES[scale]
    # In turn, so that a slow minute meets all sizes.
    measured = [[seconds(*each) for each in size.sizes] for _ in range(size.repeats)]
    times = [timing.summary(list(each)) for each in zip(*measured, strict=True)]
    name = "N = {}, T = {}".format
    found = [
        table.Row(
            work=f"compile time, seconds, MNIST CNN, {name(*size.sizes[0])}",
            against="",
            ours=times[0],
            theirs=None,
            ratio=times[0],
            target=TARGET,
            at_most=True,
        )
    ]
    for each, own in zip(size.sizes[1:], times[1:], strict=True):
        found.append(
            table.Row(
                work=f"compile time, MNIST CNN, {name(*each)}",
                against=f"the same, {name(*size.sizes[0])}",
                ours=own,
                theirs=times[0],
                ratio=timing.ratio(own, times[0]),
                target=FLAT,
                at_most=True,
                note="ours / theirs",
            )
        )
    return found


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
