"""Many settings of one experiment: which there are, which programs run them, what they gave.

A setting is a whole `Config`, made as every other; a run is one method of it on one partition from
one seed. Settings often share runs: a run is told by what it reads, so that the yardstick, which
reads no rule, is run once per training setting, partition and seed, however many rules are swept.
Runs that differ in numbers, seeds and in who holds what share a program; `plan` says how many
programs there are and how many runs each call of them takes, `execute` runs it, here or wherever.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cgsv_jax.core.layout import over_clients
from cgsv_jax.experiment import bind
from cgsv_jax.experiment import execute as execute_lib
from cgsv_jax.experiment import programs as programs_lib
from cgsv_jax.experiment.execute import Batch, Chunk, Clock, Look, Programs, Seen
from cgsv_jax.experiment.task import Task
from cgsv_jax.results import frames
from cgsv_jax.results.frames import YARDSTICK, Outcome
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import settings as settings_lib
from cgsv_jax.sweep.plan import Plan, Portion, Program, Run
from cgsv_jax.sweep.settings import Sweep
from cgsv_jax.types import Hyper

# ---------------------------------------------------------------- running them


def batches(plan: Plan) -> list[tuple[Batch, tuple[Run, ...]]]:
    """What `runs.execute` takes, each with its runs in the order of its chunks."""
    return [
        (_batch(program, portion, plan.judge), portion.runs)
        for program in plan.programs
        for portion in program.portions
    ]


def _batch(program: Program, portion: Portion, judge: str) -> Batch:
    def chunk(own: Sequence[Run]) -> Chunk:
        # The last call is filled up with copies of its last run.
        own = [*own, *[own[-1]] * (program.size - len(own))]
        seeds = np.asarray([run.seed for run in own], np.uint32)
        rows = [run.method.hyper(run.partition) for run in own]
        hyper = jax.tree.map(lambda *x: np.asarray(x, np.float32), *rows)
        if not portion.stacked:
            return Chunk(seeds, hyper)
        places = [portion.world.partitions.index(run.partition) for run in own]
        return Chunk(seeds, (hyper, np.asarray(places, np.int32)))

    starts = range(0, len(portion.runs), program.size)
    return Batch(
        build=lambda: _programs(program, portion, judge),
        chunks=tuple(chunk(portion.runs[i : i + program.size]) for i in starts),
        segments=portion.segments,
    )


def _programs(program: Program, portion: Portion, judge: str) -> Programs:
    """`experiment.programs` of all partitions of a portion at once.

    A run picks its partition's slots; those of shorter clients are padded to the longest, which
    changes no draw and no step.
    """
    method = portion.runs[0].method
    dealt = [
        _padded(plan_lib.judged(p, judge), program.slots) for p in plan_lib.tasks_of(portion.world)
    ]
    bounds = [bind.bind(portion.world, method, task) for task in dealt]
    statics = [bound.laid_out() for bound in bounds]
    # Where widths are balanced, the least of them wastes least on every partition.
    narrow = min(range(len(dealt)), key=lambda i: statics[i].width or portion.world.clients)
    made = [programs_lib.programs(bound) for bound in bounds]
    one = made[narrow]
    code = (*plan_lib.statics_of(portion.runs[0]), statics[narrow], portion.stacked, program.width)
    if not portion.stacked and (program.size == 1 or program.width is None):
        return one._replace(code=code)

    data = one.shared[0]
    # Put together on the host: they are small beside the rows.
    clients, chosen = jax.tree.map(
        lambda *x: np.stack([np.asarray(each) for each in x]), *(own.shared[1:] for own in made)
    )

    def split(numbers: Any) -> tuple[Hyper, Any]:
        hyper, place = numbers if portion.stacked else (numbers, 0)
        return jax.tree.map(lambda x: x[None], hyper), place

    def begin(seeds: jax.Array, numbers: Any) -> Any:
        def first(seed: jax.Array, numbers: Any) -> Any:
            return jax.tree.map(lambda x: x[0], one.begin(seed[None], split(numbers)[0]))

        return over_clients(first, program.width)(seeds, numbers)

    def segment(
        rounds: int, seeds: jax.Array, numbers: Any, state: Any, shared: tuple, **how: Any
    ) -> Any:
        data, clients, chosen = shared

        def go_on(seed: jax.Array, numbers: Any, state: Any) -> Any:
            hyper, place = split(numbers)
            own = jax.tree.map(lambda x: x[place], (clients, chosen))
            state = jax.tree.map(lambda x: x[None], state)
            done = one.segment(rounds, seed[None], hyper, state, (data, *own), **how)
            return jax.tree.map(lambda x: x[0], done)

        return over_clients(go_on, program.width)(seeds, numbers, state)

    shared = (data, *jax.device_put((clients, chosen)))
    return Programs(begin, segment, one.hyper, shared, one.in_order, code)


def _padded(task: Task, slots: int) -> Task:
    clients = task.clients
    missing = slots - clients.mask.shape[1]

    def longer(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else np.pad(np.asarray(x), ((0, 0), (0, missing)))

    fields = {name: longer(getattr(clients, name)) for name in ("rows", "mask", "labels")}
    return task._replace(clients=clients._replace(**fields))


def execute(
    plan: Plan,
    watch: Callable[[Look], None] = lambda look: None,
    keep: Callable[[dict[Run, Outcome]], None] = lambda done: None,
    keeper: execute_lib.Keeper | None = None,
) -> tuple[dict[Run, Outcome], list[Clock]]:
    """Runs a plan.

    Args:
      plan: see `plan`.
      watch: as in `runs.execute`; a batch is a portion.
      keep: called with the runs of every call when it is through.
      keeper: saves the call that is running; of those that are through, `keep` keeps the ends.

    Returns:
      The end of every run that was computed here, and the seconds of every portion.
    """
    made = batches(plan)
    of = [program for program in plan.programs for _ in program.portions]
    portions = [portion for program in plan.programs for portion in program.portions]
    ends: dict[Run, Outcome] = {}

    def finish(batch: int, chunk: int, seen: Seen) -> None:
        size = of[batch].size
        own = made[batch][1][chunk * size : (chunk + 1) * size]
        done = _ends(own, seen, of[batch].parameters, portions[batch].clients)
        ends.update(done)
        keep(done)

    each = [batch for batch, _ in made]
    _, clocks = execute_lib.execute(each, watch, finish, keeper, whole=False)
    return ends, clocks


def _ends(
    own: Sequence[Run],
    seen: Seen,
    parameters: int,
    clients: Mapping[str, tuple[tuple[str, ...], np.ndarray | None]],
) -> dict[Run, Outcome]:
    ends = {}
    for index, run in enumerate(own):
        cheats, chosen = clients[run.partition]
        cell = frames.Cell(
            partition=run.partition,
            method=run.method.algorithm,
            seeds=(run.seed,),
            sizes=np.zeros(seen.record.quota.shape[-1]),
            classes=np.zeros(0),
            num_parameters=parameters,
            record=jax.tree.map(lambda x, i=index: x[i : i + 1], seen.record),
            evaluation=jax.tree.map(lambda x, i=index: x[i : i + 1], seen.evaluation),
            evaluated=chosen,
            cheats=cheats,
        )
        (ends[run],) = frames.outcomes(cell)
    return ends


# ---------------------------------------------------------------- what they gave


def rows(sweep: Sweep, ends: Mapping[Run, Outcome]) -> list[dict[str, Any]]:
    """A row per setting, partition, method and seed that is through: swept values and summary.

    `point` is the setting's number.

    Fairness is against the yardstick of the same training numbers, partition and seed.
    """
    made = []
    for number, setting in enumerate(sweep.settings):
        config = setting.config
        (yardstick,) = (m for m in config.methods if m.name == YARDSTICK)
        shown_methods = [m for m in config.methods if m.name in sweep.shown]
        for partition, method, seed in itertools.product(
            config.partitions, shown_methods, config.seeds
        ):
            end = ends.get(plan_lib.run_of(config, method, partition, seed))
            if end is None:
                continue
            alone = ends.get(plan_lib.run_of(config, yardstick, partition, seed))
            row = frames.summary_row(partition, method.name, seed, end, alone)
            made.append({"point": number, **settings_lib.in_table(setting.values), **row})
    return made
