"""The server's step of every method, N = 100, D = 99,985, beside that of FedAvg.

    python -m benchmarks.methods [--scale smoke|full] [--only fedavg,cgsv]

From the uploads of one round of local training to new models: aggregation, contribution, reward,
and what the method's own files say that it needs, with its defaults. Ten steps one after another in
a loop that donates its state, as a run does, so that what happens every tenth round is in them. A
method that values coalitions or judges models on validation rows does so here: 600 of them. One
whose single step takes longer than the patience is timed by that step.

The floor of a method is FedAvg's step and the arithmetic that its row of docs/methods.md names
beside it: models judged on the validation rows, products of every pair of clients. No method may
take more than three times its own.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import common, table
from cgsv_jax.core import simulation
from cgsv_jax.experiment import bind, deal, names, timing
from cgsv_jax.rules.methods import METHODS
from cgsv_jax.types import State

YARDSTICK = "fedavg"
ABOVE = 3.0  # times its floor that a method may take


class Work(NamedTuple):
    """What a step has to do beside FedAvg's."""

    evaluations: Callable[[int, int], float] = lambda clients, units: 0.0  # a step
    pairs: bool = False  # whether each client's update meets each other's: N² D


WORK = {
    "cffl": Work(lambda clients, units: clients),
    "eci": Work(lambda clients, units: 100 * (clients - 1) + 2),  # orders that are not cut short
    "fair_yet_equal": Work(pairs=True),
    "fedave": Work(lambda clients, units: 2 * clients),
    "fedrac": Work(lambda clients, units: 51),
    "fedsac": Work(lambda clients, units: (units + 1) / 10),
    "iafl": Work(pairs=True),
    "rank": Work(lambda clients, units: clients, pairs=True),
    "witness": Work(pairs=True),
}


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    hidden: int  # D is 43 times as many, and 10
    rows: int  # of training, a tenth of which the server holds for validation
    steps: int
    repeats: int
    patience: float  # seconds of a step above which it is the only one


SCALES = {
    "smoke": Scale(4, 6, 200, 2, 1, 5.0),
    "full": Scale(100, 2325, 6000, 10, 5, 2.0),
}


def rows(scale: str = "full", only: Sequence[str] = tuple(METHODS)) -> list[table.Row]:
    """Every method as a multiple of the yardstick."""
    size = SCALES[scale]
    calls, single, entries = {}, {}, 0
    for name in dict.fromkeys((YARDSTICK, *only)):
        step, entries = step_of(name, size)
        timing.once(step)  # compiles
        seconds = timing.once(step)
        if seconds > size.patience:
            single[name] = seconds
        else:
            calls[name] = functools.partial(_several, step, size.steps)
    per = {
        name: _divided(t, size.steps) for name, t in timing.alternate(calls, size.repeats).items()
    }
    title = f"server's step, N = {size.clients}, D = {entries:,}"
    rate = timing.matrix_rate(1024 if scale == "full" else 64)
    yardstick = per[YARDSTICK]
    found = []
    for name in only:
        if name == YARDSTICK:
            continue
        ours = per.get(name) or timing.summary([single[name]])
        ratio = timing.ratio(ours, yardstick) if name in per else None
        if ratio is None:
            ratio = timing.summary([single[name] / yardstick.median])
        floor = yardstick.median + _flops(WORK.get(name, Work()), size, entries) / rate
        found.append(
            table.Row(
                work=f"{title}, {name}",
                against=f"the same, {YARDSTICK}",
                ours=ours,
                theirs=yardstick,
                ratio=ratio,
                target=ABOVE * floor / yardstick.median,
                at_most=True,
                floor=floor,
                note="ours / theirs" + (", one step" if name in single else ""),
            )
        )
    return found


def _flops(work: Work, size: Scale, entries: int) -> float:
    """Two for every weight of the MLP and row that is judged; two for every entry of a pair."""
    judged = 2.0 * entries * (size.rows // 10) * work.evaluations(size.clients, size.hidden)
    return judged + 2.0 * size.clients**2 * entries * work.pairs


def _several(step: Callable[[], Any], count: int) -> Any:
    for _ in range(count - 1):
        step()
    return step()


def _divided(measured: timing.Timing, steps: int) -> timing.Timing:
    return timing.summary([seconds / steps for seconds in measured.seconds])


def step_of(name: str, size: Scale) -> tuple[Callable[[], Any], int]:
    """A call that takes the next step of a method from the same uploads, and D."""
    config = names.configure(
        dataset="synthetic",
        model="mlp",
        hidden=(size.hidden,),
        synthetic_rows=size.rows,
        clients=size.clients,
        partitions="uniform",
        algorithms=name,
        seeds=1,
        rounds=100,
        epochs=1,
        devices=1,
    )
    (task,) = deal.tasks(config)
    method = next(own for own in config.methods if own.name == name)
    bound = bind.bind(config, method, task)
    federation = bound.federation(method.hyper(task.partition))
    data, clients = jax.tree.map(jnp.asarray, (bound.data, task.clients))

    @jax.jit
    def train(state: State) -> Any:
        return simulation.train(common.KEY, state, data, clients, federation)

    @functools.partial(jax.jit, donate_argnums=0)
    def serve(state: State, upload: Any) -> State:
        own = upload._replace(server=state.server, clients=state.clients, round=state.round)
        return simulation.serve(common.KEY, state, own, state.optimizer, federation)[0]

    # Compiled, so that no two leaves of what is donated share a buffer.
    state = jax.jit(lambda: simulation.init(common.KEY, size.clients, federation))()
    upload, _ = train(state)
    return timing.chained(lambda state: serve(state, upload), state, 1), state.server.size


def main(argv: Sequence[str] | None = None) -> None:
    """The table, of some of the methods."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--only", default=",".join(METHODS), help="names, comma-separated")
    options = parser.parse_args(argv)
    only = options.only.split(",")
    print(table.show(common.answered(functools.partial(rows, only=only), options.scale)))


if __name__ == "__main__":
    main()
