"""The server's step of every method, and of `cgsv` under every aggregation, beside FedAvg's.

    python -m benchmarks.methods [--scale smoke|full] [--only fedavg,cgsv,krum]

N = 100, D = 99,985: from the uploads of one round of local training to new models, with what the
method's own files say that it needs, and its defaults. Ten steps are one program, as the rounds
between two evaluations of a run are, so that what happens every tenth round is in them. A method
that values coalitions or judges models on validation rows does so here: 600 of them. One whose ten
steps take longer than the patience is timed once.

The floor of a row is FedAvg's step and, at the speed that they have by themselves in the same
process, what its page names beside it (docs/methods.md): models judged on validation rows, the
products of every pair of clients, matrices [N, D] that it keeps. Nothing may take more than three
times its own.
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
from cgsv_jax.rules.aggregation import AGGREGATIONS
from cgsv_jax.rules.methods import METHODS
from cgsv_jax.types import State, Upload

YARDSTICK = "fedavg"
ABOVE = 3.0  # times its floor that a step may take


class Work(NamedTuple):
    """What a step has to do beside FedAvg's."""

    evaluations: Callable[[int, int], float] = lambda clients, units: 0.0  # (N, H) -> a step's
    pairs: bool = False  # whether each client's update meets each other's: N² D
    matrices: int = 0  # readings and writings of what it keeps, [N, D]; FedAvg's are four


WORK = {
    "cffl": Work(lambda clients, units: clients),
    "eci": Work(lambda clients, units: 100 * (clients - 1) + 2),  # orders that are not cut short
    "fair_yet_equal": Work(pairs=True),
    "fedave": Work(lambda clients, units: 2 * clients),
    "fedrac": Work(lambda clients, units: 51),
    "fedsac": Work(lambda clients, units: (units + 1) / 10),
    "fltrust": Work(lambda clients, units: 3),  # a gradient is three forward passes
    "geometric_median": Work(matrices=16),  # eight steps: distances, and a mean
    "iafl": Work(pairs=True),
    "krum": Work(pairs=True),
    "median": Work(matrices=64),  # as it says: 2 x 32
    "multi_krum": Work(pairs=True),
    "rank": Work(lambda clients, units: clients, pairs=True),
    "scaffold": Work(matrices=3),  # gradients read, variates read and written
    "trimmed_mean": Work(matrices=64),
    "witness": Work(pairs=True, matrices=5),  # updates and history read, written, normalised
}


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    hidden: int  # D is 43 times as many, and 10
    rows: int  # of training, a tenth of which the server holds for validation
    steps: int
    repeats: int
    patience: float  # seconds of all steps above which they are taken once


SCALES = {
    "smoke": Scale(4, 6, 200, 2, 1, 5.0),
    "full": Scale(100, 2325, 6000, 10, 5, 5.0),
}
KNOWN = (*METHODS, *(name for name in AGGREGATIONS if name != "reputation"))  # cgsv's own


def rows(scale: str = "full", only: Sequence[str] = KNOWN) -> list[table.Row]:
    """Every method, and every aggregation of `cgsv`, as a multiple of the yardstick."""
    size = SCALES[scale]
    calls, once, entries = {}, {}, 0
    for name in dict.fromkeys((YARDSTICK, *only)):
        steps, entries = steps_of(name, size)
        timing.once(steps)  # compiles
        seconds = timing.once(steps)
        if seconds > size.patience:
            once[name] = timing.summary([seconds])
        else:
            calls[name] = steps
    times = once | timing.alternate(calls, size.repeats)
    per = {name: common.per(own, size.steps) for name, own in times.items()}
    yardstick = per[YARDSTICK]
    judging, pairing = _units(size, entries)
    found = []
    for name in only:
        if name == YARDSTICK:
            continue
        work = WORK.get(name, Work())
        judged = work.evaluations(size.clients, size.hidden) * judging
        floor = (1 + work.matrices / 4) * yardstick.median + judged + work.pairs * pairing
        if name in once:  # it has no neighbours
            ratio = timing.summary([per[name].median / yardstick.median])
        else:
            ratio = timing.ratio(per[name], yardstick)
        found.append(
            table.Row(
                work=f"server's step, N = {size.clients}, D = {entries:,}, {_title(name)}",
                against=f"the same, {YARDSTICK}",
                ours=per[name],
                theirs=yardstick,
                ratio=ratio,
                target=ABOVE * floor / yardstick.median,
                at_most=True,
                floor=floor,
                note="ours / theirs" + (", timed once" if name in once else ""),
            )
        )
    return found


def _title(name: str) -> str:
    return name if name in METHODS else f"cgsv --aggregation {name}"


def _units(size: Scale, entries: int) -> tuple[float, float]:
    """Seconds of judging one of N models, and of the products of all pairs of updates."""
    bound = _bound(YARDSTICK, size)
    network = bound.task.network
    models = jax.random.normal(common.KEY, (size.clients, entries))
    rows = size.rows // 10
    held = bound.data.inputs[:rows], bound.data.labels[:rows]
    judge = jax.jit(lambda models: network.evaluate(models, *held))
    pair = jax.jit(lambda updates: updates @ updates.T)
    calls = {"judge": lambda: judge(models), "pair": lambda: pair(models)}
    times = timing.alternate(calls, size.repeats)
    return times["judge"].median / size.clients, times["pair"].median


def _bound(name: str, size: Scale) -> bind.Bound:
    options: dict[str, Any] = {"algorithms": name if name in METHODS else "cgsv"}
    if name in AGGREGATIONS:
        options["aggregation"] = name
    config = names.configure(
        dataset="synthetic",
        model="mlp",
        hidden=(size.hidden,),
        synthetic_rows=size.rows,
        clients=size.clients,
        partitions="uniform",
        seeds=1,
        rounds=100,
        epochs=1,
        devices=1,
        **options,
    )
    (task,), (method,) = deal.tasks(config), config.methods
    return bind.bind(config, method, task)


def steps_of(name: str, size: Scale) -> tuple[Callable[[], Any], int]:
    """A call that takes the next steps of a method, or an aggregation, and D."""
    bound = _bound(name, size)
    federation = bound.federation(bound.hyper)
    data, clients = jax.tree.map(jnp.asarray, (bound.data, bound.task.clients))

    @jax.jit
    def train(state: State) -> Any:
        return simulation.train(common.KEY, state, data, clients, federation)

    def serve(carry: tuple[State, Upload], _: None) -> tuple[tuple[State, Upload], None]:
        # Of what no step changes a loop would do its work once: here every step may change it.
        _, upload = jax.lax.optimization_barrier((carry[0].round, carry[1]))
        state = carry[0]
        own = upload._replace(server=state.server, clients=state.clients, round=state.round)
        state, *_ = simulation.serve(common.KEY, state, own, state.optimizer, federation)
        return (state, upload), None

    @functools.partial(jax.jit, donate_argnums=0)
    def several(carry: tuple[State, Upload]) -> tuple[State, Upload]:
        return jax.lax.scan(serve, carry, length=size.steps)[0]

    # Compiled, so that no two leaves of what is donated share a buffer.
    state = jax.jit(lambda: simulation.init(common.KEY, size.clients, federation))()
    upload, _ = train(state)
    upload = upload._replace(server=None, clients=None, round=None)
    carry = jax.tree.map(jnp.copy, (state, upload))
    return timing.chained(several, carry, 1), state.server.size


def main(argv: list[str] | None = None) -> None:
    """The table, of some of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--only", default=",".join(KNOWN), help="names, comma-separated")
    options = parser.parse_args(argv)
    only = options.only.split(",")
    print(table.show(common.answered(functools.partial(rows, only=only), options.scale)))


if __name__ == "__main__":
    main()
