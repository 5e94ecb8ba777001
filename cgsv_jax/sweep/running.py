"""The programs of a plan, their execution in this process, and the table of what they gave.

A point is a whole `Config`; a trial is one method of it on one partition from one seed. Points
share trials: a trial is identified by the options it reads, so that the standalone baseline, which
reads no rule, is run once per set of training options, partition and seed, however many rules are
swept. Trials that differ only in traced numbers, seed or partition share one program.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

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
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep.plan import Plan, Portion, Program, Trial
from cgsv_jax.sweep.points import Sweep
from cgsv_jax.sweep.search import Score
from cgsv_jax.types import Evaluation, Hyper


def batches(plan: Plan) -> list[tuple[Batch, tuple[Trial, ...]]]:
    """What `experiment.execute.execute` takes, each with its trials in the order of its chunks."""
    return [
        (_batch(program, portion, plan.eval_split), portion.trials)
        for program in plan.programs
        for portion in program.portions
    ]


def _batch(program: Program, portion: Portion, eval_split: str) -> Batch:
    def chunk(own: Sequence[Trial]) -> Chunk:
        # The last call is filled up with copies of its last trial.
        own = [*own, *[own[-1]] * (program.size - len(own))]
        seeds = np.asarray([trial.seed for trial in own], np.uint32)
        rows = [trial.method.hyper(trial.partition) for trial in own]
        hyper = jax.tree.map(lambda *x: np.asarray(x, np.float32), *rows)
        if not portion.stacked:
            return Chunk(seeds, hyper)
        places = [portion.world.partitions.index(trial.partition) for trial in own]
        return Chunk(seeds, (hyper, np.asarray(places, np.int32)))

    starts = range(0, len(portion.trials), program.size)
    return Batch(
        build=lambda: _programs(program, portion, eval_split),
        chunks=tuple(chunk(portion.trials[i : i + program.size]) for i in starts),
        segments=portion.segments,
    )


def _programs(program: Program, portion: Portion, eval_split: str) -> Programs:
    """`experiment.programs` of all partitions of a portion at once.

    A trial selects its partition's slots; those of shorter clients are padded to the longest, which
    changes no draw and no step.
    """
    method = portion.trials[0].method
    dealt = [
        _padded(plan_lib.evaluated_on(p, eval_split), program.slots, program.own_slots)
        for p in plan_lib.tasks_of(portion.world)
    ]
    bounds = [bind.bind(portion.world, method, task) for task in dealt]
    statics = [bound.laid_out() for bound in bounds]
    # Where widths are balanced, the least of them wastes least on every partition.
    # Local steps take as many epochs as the smallest client of any partition needs.
    narrow = min(
        range(len(dealt)),
        key=lambda i: (-statics[i].epochs, statics[i].width or portion.world.clients),
    )
    made = [programs_lib.programs(bound) for bound in bounds]
    one = made[narrow]
    code = (
        *plan_lib.statics_of(portion.trials[0]),
        statics[narrow],
        portion.stacked,
        program.width,
    )
    if not portion.stacked and (program.size == 1 or program.width is None):
        return one._replace(code=code)

    # Not `one` itself, whose arrays would live as long as these functions.
    one_begin, one_segment, examples = one.begin, one.segment, one.shared[0]
    # Put together on the host: they are small beside the rows.
    clients, chosen = jax.tree.map(
        lambda *x: np.stack([np.asarray(each) for each in x]), *(own.shared[1:] for own in made)
    )

    def split(numbers: Any) -> tuple[Hyper, Any]:
        hyper, place = numbers if portion.stacked else (numbers, 0)
        return jax.tree.map(lambda x: x[None], hyper), place

    def begin(seeds: jax.Array, numbers: Any, origin: Any) -> Any:
        def first(*own: Any) -> Any:
            seed, origin = jax.tree.map(lambda x: x[None], own[::2])
            return jax.tree.map(lambda x: x[0], one_begin(seed, split(own[1])[0], origin))

        return over_clients(first, program.width)(seeds, numbers, origin)

    def segment(
        rounds: int, seeds: jax.Array, numbers: Any, state: Any, shared: tuple, **how: Any
    ) -> Any:
        examples, clients, chosen = shared

        def go_on(seed: jax.Array, numbers: Any, state: Any) -> Any:
            hyper, place = split(numbers)
            own = jax.tree.map(lambda x: x[place], (clients, chosen))
            state = jax.tree.map(lambda x: x[None], state)
            done = one_segment(rounds, seed[None], hyper, state, (examples, *own), **how)
            return jax.tree.map(lambda x: x[0], done)

        return over_clients(go_on, program.width)(seeds, numbers, state)

    shared = (examples, *jax.device_put((clients, chosen)))
    return one._replace(begin=begin, segment=segment, shared=shared, code=code)


def _padded(task: Task, slots: int, own_slots: int) -> Task:
    clients = task.clients
    widths = dict.fromkeys(("rows", "mask", "labels"), slots)
    widths |= dict.fromkeys(("own_rows", "own_mask", "own_labels"), own_slots)

    def longer(x: np.ndarray | None, width: int) -> np.ndarray | None:
        return None if x is None else np.pad(np.asarray(x), ((0, 0), (0, width - x.shape[1])))

    fields = {name: longer(getattr(clients, name), width) for name, width in widths.items()}
    return task._replace(clients=clients._replace(**fields))


def _no_watch(look: Look) -> None:
    """Looks at nothing."""


def execute(
    plan: Plan,
    watch: Callable[[Look], None] = _no_watch,
    keep: Callable[[dict[Trial, Outcome]], None] = lambda done: None,
    keeper: execute_lib.Keeper | None = None,
    compiled: dict[Any, dict] | None = None,
) -> tuple[dict[Trial, Outcome], list[Clock]]:
    """Runs a plan.

    Args:
      plan: see `plan`.
      watch: as in `experiment.execute.execute`; a batch is a portion.
      keep: called with the outcomes of every call when it is through.
      keeper: saves the call that is running; of those that are through, `keep` keeps the outcomes.
      compiled: as in `experiment.execute.execute`.

    Returns:
      The outcome of every trial that was computed here, and the seconds of every portion.
    """
    made = batches(plan)
    of = [(program, portion) for program in plan.programs for portion in program.portions]
    outcomes: dict[Trial, Outcome] = {}

    def finish(batch: int, chunk: int, seen: Seen) -> None:
        program, portion = of[batch]
        trials = portion.trials[chunk * program.size : (chunk + 1) * program.size]
        done = _outcomes(trials, seen, program, portion)
        outcomes.update(done)
        keep(done)

    each = [batch for batch, _ in made]
    _, clocks = execute_lib.execute(each, watch, finish, keeper, whole=False, compiled=compiled)
    return outcomes, clocks


def _outcomes(
    trials: Sequence[Trial],
    seen: Seen,
    program: Program,
    portion: Portion,
) -> dict[Trial, Outcome]:
    outcomes = {}
    counts = programs_lib.which_counts(portion.world.select, seen.evaluation, seen.counted)
    answers = None if seen.counted is None else seen.counted.answers
    # Trials of one program differ in numbers alone, so that all need the same.
    oracle = bool(trials) and bind.needs_of(trials[0].config, trials[0].method).alone
    for index, trial in enumerate(trials):
        cheats, chosen = portion.clients[trial.partition]
        cell = frames.Cell(
            partition=trial.partition,
            method=trial.method.algorithm,
            seeds=(trial.seed,),
            sizes=np.zeros(seen.record.quota.shape[-1]),
            classes=np.zeros(0),
            num_parameters=program.parameters,
            messages=program.messages,
            record=jax.tree.map(lambda x, i=index: x[i : i + 1], seen.record),
            evaluation=jax.tree.map(lambda x, i=index: x[i : i + 1], seen.evaluation),
            evaluated=chosen,
            cheats=cheats,
            counts=None if counts is None else counts[index : index + 1],
            answers=answers and jax.tree.map(lambda x, i=index: x[i : i + 1], answers),
            partition_seed=trial.config.partition_seed,
            oracle=oracle,
        )
        (outcomes[trial],) = frames.outcomes(cell)
    return outcomes


# ---------------------------------------------------------------- a point that may be stopped


class _Stopped(Exception):
    """The scheduler of a search stops the point."""


def score(
    sweep: Sweep,
    content: str,
    known: Mapping[str, np.ndarray],
    report: Callable[[int, float | None], bool],
    together: int | None = None,
    compiled: dict[Any, dict] | None = None,
) -> tuple[dict[str, np.ndarray], Score]:
    """Runs the trials of one point, whose scheduler may stop it.

    All trials beside the baseline's are one call where they are one program, so that a look is at
    the whole point; where they are several programs the point is not stopped.

    Args:
      sweep: of one point.
      content: see `plan.content_of`.
      known: packed outcomes of trials that are through, by key.
      report: (rounds, criterion so far) -> whether to stop.
      together: trials of a call; default: all.
      compiled: as in `execute`.

    Returns:
      The packed outcomes that were not known, and the score.
    """
    keys = plan_lib.keys_of(sweep, content)
    outcomes = sweep_results.through(keys, known)

    def run(trials: list[Trial], watch: Callable[[Look], None], together: int | None) -> None:
        plan = plan_lib.plan(trials, sweep.eval_split, together=together)
        outcomes.update(execute(plan, watch, lambda done: None, None, compiled)[0])

    left = [trial for trial in keys if trial not in outcomes]
    run([trial for trial in left if trial.method.algorithm == YARDSTICK], _no_watch, together)
    left = [trial for trial in left if trial not in outcomes]
    together = together or max(len(left), 1)
    calls = [
        (batch, trials)
        for batch, trials in batches(plan_lib.plan(left, sweep.eval_split, together=together))
        for _ in batch.chunks
    ]
    looks: list[tuple[int, float | None]] = []
    so_far: dict[Trial, _SoFar] = {}

    def watch(look: Look) -> None:
        if len(calls) > 1 or look.evaluation is None or look.done == look.rounds:
            return
        batch, trials = calls[0]
        for place, trial in enumerate(trials):
            so_far[trial] = _so_far(look.evaluation, place, so_far.get(trial))
        rounds = look.done // len(batch.chunks[0].seeds)
        ends = {trial: own.outcome for trial, own in so_far.items()}
        looks.append((rounds, criterion(sweep, outcomes | ends)))
        if report(*looks[-1]):
            raise _Stopped

    try:
        run(left, watch, together)
        state, value = "finished", criterion(sweep, outcomes)
    except _Stopped:
        state, value = "stopped", looks[-1][1]
    new = {keys[t]: sweep_results.packed(o) for t, o in outcomes.items() if keys[t] not in known}
    values = dict(sweep.points[0].values)
    return new, Score(values=values, state=state, criterion=value, looks=looks)


class _SoFar(NamedTuple):
    """A trial in its course, were it to end now."""

    merit: float  # mean accuracy on the validation rows that choose the round; 0 without any
    outcome: Outcome


def _so_far(seen: Evaluation, place: int, before: _SoFar | None) -> _SoFar:
    """A trial in its course, by its latest evaluation, or the best one where rows choose it.

    Args:
      seen: the evaluations since the look before, leaves [R, K, ...].
      place: of the trial among the R.
      before: what counted at the look before; None: this is the first.
    """
    at, merit = -1, 0.0
    if seen.validation_accuracy is not None:
        # Means of the same number of right answers are equal but for the last bits.
        merits = np.asarray(seen.validation_accuracy, np.float64)[place].mean(-1).round(6)
        at = int(merits.argmax())
        merit = float(merits[at])
        if before is not None and before.merit >= merit:
            return before
    ends = (seen.accuracy, seen.loss, seen.distance)
    accuracy, loss, distance = (np.asarray(x)[place, at] for x in ends)
    nothing = np.zeros(accuracy.shape)
    server = np.asarray(seen.server_accuracy)[place, at]
    honest = np.ones(accuracy.shape, bool)  # attackers count when the trial is through
    fields: dict[str, Any] = dict.fromkeys(Outcome._fields, nothing)
    fields |= {"accuracy": accuracy, "loss": loss, "distance": distance}
    fields |= {"late_accuracy": accuracy[None], "late_loss": loss[None], "server_accuracy": server}
    fields |= {"chosen_round": np.int32(0), "oracle": np.bool_(False)}
    of_own = seen.own_accuracy
    own = np.zeros(0, np.float32) if of_own is None else np.asarray(of_own)[place, at]
    fields |= {"own_accuracy": own}
    return _SoFar(merit, Outcome(**fields | {"honest": honest, "honest_seen": honest}))


# ---------------------------------------------------------------- what they gave


def rows(sweep: Sweep, outcomes: Mapping[Trial, Outcome]) -> list[dict[str, Any]]:
    """A row per point, partition, method and both seeds that is through: values and summary.

    `point` is the point's number.

    Fairness is against the standalone baseline of the same training options, partition and seeds.
    """
    made = []
    for number, point in enumerate(sweep.points):
        config = point.config
        (yardstick,) = (m for m in config.methods if m.name == YARDSTICK)
        shown_methods = [m for m in config.methods if m.name in sweep.shown]
        for partition, method, draw, seed in itertools.product(
            config.partitions, shown_methods, config.draws, config.seeds
        ):
            outcome = outcomes.get(plan_lib.trial_of(config, method, partition, draw, seed))
            if outcome is None:
                continue
            alone = outcomes.get(plan_lib.trial_of(config, yardstick, partition, draw, seed))
            place = partition, method.name, draw, seed
            row = frames.summary_row(*place, outcome, alone)
            made.append({"point": number, **points_lib.in_table(point.values), **row})
    return made


def with_intervals(
    made: Sequence[Mapping[str, Any]],
    sweep: Sweep,
    outcomes: Mapping[Trial, Outcome],
    wanted: Collection[tuple[int, str]],
) -> list[dict[str, Any]]:
    """Rows with the interval of their fairness by accuracy; each takes a fraction of a second.

    Args:
      made: see `rows`.
      sweep: of these rows.
      outcomes: likewise.
      wanted: numbers of points and names of methods whose intervals are asked for.
    """
    found: dict[tuple, dict[str, float | None]] = {}
    for number, name in wanted:
        config = sweep.points[number].config
        cells = [
            frames.Answered(partition, method.name, draw, (seed,), end and frames.answers_of(end))
            for partition, method, draw, seed in itertools.product(
                config.partitions,
                [own for own in config.methods if own.name in (name, YARDSTICK)],
                config.draws,
                config.seeds,
            )
            for end in [outcomes.get(plan_lib.trial_of(config, method, partition, draw, seed))]
        ]
        # Every draw has other validation rows, but for the few that two draws share by chance,
        # unless the data set has its own; those of a test are the same for all.
        same_rows = sweep.eval_split == "test" or not config.validation_share
        for key, interval in frames.intervals(cells, same_rows).items():
            found[number, *key] = interval
    return [
        {**row, **found.get((row["point"], row["partition"], row["method"]), {})} for row in made
    ]


def criterion(sweep: Sweep, outcomes: Mapping[Trial, Outcome]) -> float | None:
    """The criterion of the best point and method of a sweep, as in its tables."""
    table = sweep_results.frame(rows(sweep, outcomes), sweep.axes)
    _, best = sweep_results.ranked(table, tuple(sweep.axes), sweep.best)
    return None if best is None else best["criterion"]
