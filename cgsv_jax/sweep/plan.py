"""Which programs compute the trials of a sweep."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cgsv_jax.config import resolve, schema
from cgsv_jax.config.schema import Config, ConfigError, Method
from cgsv_jax.core import metrics
from cgsv_jax.experiment import bind, deal, hardware, identity
from cgsv_jax.experiment import budget as budget_lib
from cgsv_jax.experiment.execute import Segment
from cgsv_jax.experiment.task import DataIdentity, Task
from cgsv_jax.host import files
from cgsv_jax.results.frames import YARDSTICK
from cgsv_jax.rules.spec import Number
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep.points import Sweep

# Fields of a Config that a program knows only through the shapes of its arrays.
_DATA_FIELDS = (*schema.ROWS, "partition_seed", "eval_rows", "eval_clients", "own_test_share")
_WITHOUT_AXES: dict[str, Any] = {
    **{"partitions": (), "seeds": (), "methods": ()},
    "partition_seeds": 1,
}


class Trial(NamedTuple):
    """One method from one seed on one draw of a partition, identified by the options it reads."""

    config: Config  # no partitions, seeds or methods, and one partition seed
    method: Method
    partition: str
    seed: int


class Portion(NamedTuple):
    """Trials of one program that share their arrays."""

    world: Config  # `deal.tasks` of it are the arrays
    trials: tuple[Trial, ...]
    stacked: bool  # True if partitions are stacked, and a trial selects its own by index
    segments: tuple[Segment, ...]  # how a trial is cut
    # partition -> every client's attack, and which clients are evaluated
    clients: dict[str, tuple[tuple[str, ...], np.ndarray | None]]


class Program(NamedTuple):
    """Portions whose calls are one compiled program."""

    name: str
    portions: tuple[Portion, ...]
    slots: int  # M, of the longest client among them
    size: int  # R, trials of a call
    width: int | None  # of these, how many at once; None: all
    memory: int  # bytes of a call
    parameters: int  # D
    messages: metrics.Messages
    own_slots: int = 0  # of the client with the most rows of its own to be judged on


class Plan(NamedTuple):
    """What there is to do, before any of it is done."""

    programs: tuple[Program, ...]
    budget: int  # bytes that there are
    eval_split: str

    @property
    def num_trials(self) -> int:
        """Trials of all programs."""
        return sum(len(portion.trials) for program in self.programs for portion in program.portions)

    @property
    def rounds(self) -> int:
        """Rounds in all, those included that only fill up a call."""
        return sum(
            rounds_of(program) * program.size * -(-len(portion.trials) // program.size)
            for program in self.programs
            for portion in program.portions
        )


# ---------------------------------------------------------------- which trials


def trial_of(config: Config, method: Method, partition: str, draw: int, seed: int) -> Trial:
    """The trial of a method, whatever it was asked for as.

    Args:
      config: of a point.
      method: of the config.
      partition: which.
      draw: the partition seed.
      seed: of the run.
    """
    method = dataclasses.replace(method, name=method.algorithm)
    config = dataclasses.replace(config, **_WITHOUT_AXES, partition_seed=draw)
    return Trial(config, method, partition, seed)


def trials_of(sweep: Sweep) -> tuple[Trial, ...]:
    """Every trial that the points need, once; the standalone baseline's first."""
    every = dict.fromkeys(
        trial_of(point.config, method, partition, draw, seed)
        for point in sweep.points
        for partition in point.config.partitions
        for method in point.config.methods
        for draw in point.config.draws
        for seed in point.config.seeds
    )
    return tuple(sorted(every, key=lambda trial: trial.method.algorithm != YARDSTICK))


def key_of(trial: Trial, eval_split: str = "test", data: str = "") -> str:
    """A short name of a trial, the same wherever and whenever it is asked for.

    Args:
      trial: which.
      eval_split: examples that its accuracies are on.
      data: see `content_of`; the trial's config only says where its files are.
    """
    whole = resolve.to_dict(dataclasses.replace(trial.config, methods=(trial.method,)))
    # Where data lie and how they are laid out is not what is computed; a trial is of one draw.
    for name in (*schema.PATHS, "layout", "devices", "partition_seeds"):
        del whole[name]
    return files.digest_of([whole, trial.partition, trial.seed, eval_split, data])[:20]


def keys_of(sweep: Sweep, content: str) -> dict[Trial, str]:
    """The trials of a sweep with their keys; `content` as `content_of` gives it."""
    return {trial: key_of(trial, sweep.eval_split, content) for trial in trials_of(sweep)}


def data_of(sweep: Sweep) -> DataIdentity:
    """Which data the points mean, as they are now.

    Raises:
      ConfigError: when the data are not there.
    """
    return identity.data_identity(*(point.config for point in sweep.points))


def content_of(data: DataIdentity) -> str:
    """A digest of the rows and files, wherever they lie."""
    rows = {name: found["rows"] for name, found in data["sets"].items()}
    return files.digest_of([rows, data["files"]])


# ---------------------------------------------------------------- which programs


def plan(
    trials: Sequence[Trial],
    eval_split: str = "test",
    *,
    together: int | None = None,
    width: int | None = None,
    budget: int | None = None,
    backend: str | None = None,
) -> Plan:
    """Groups trials into programs, and the trials of each into calls that fit the memory.

    On a CPU width does not pay, so that a call takes one trial, which is kept as soon as it ends.
    Elsewhere a call takes as many as half of the memory holds, all calls of a program equally many,
    so that it is compiled once.

    Args:
      trials: those to run.
      eval_split: examples that their accuracies are on.
      together: trials of a call, where it is not decided here.
      width: of these, how many at once; None: one on a CPU, else all.
      budget: bytes; default: those of the device.
      backend: default: the one in use.

    Raises:
      ConfigError: when data or partition cannot be had.
    """
    backend = backend or jax.default_backend()
    budget = hardware.memory() if budget is None else budget
    if width is None and backend == "cpu":
        width = 1
    groups: dict[tuple, dict[Config, list[Trial]]] = {}
    for trial in trials:
        statics = statics_of(trial)
        world = dataclasses.replace(trial.config, methods=(statics[1],))
        groups.setdefault(statics, {}).setdefault(world, []).append(trial)
    programs = []
    refused: dict[str, list] = {}
    for worlds in groups.values():
        shaped: dict[tuple, list[tuple[Portion, tuple[Task, ...]]]] = {}
        for world, own in worlds.items():
            try:
                for portion, dealt in _portions(world, own):
                    shapes = _shapes(dealt, eval_split)
                    sketch = tuple(_sketch(evaluated_on(task, eval_split)) for task in dealt)
                    shaped.setdefault(shapes, []).append((portion, sketch))
            except ConfigError as error:
                for line in str(error).splitlines():
                    refused.setdefault(line, []).append({})
        for found in shaped.values():
            programs.append(_program(found, together, width, budget, backend))
    if refused:
        raise ConfigError("\n".join(refused))
    return Plan(tuple(_named(programs)), budget, eval_split)


def statics_of(trial: Trial) -> tuple[Config, Method]:
    """What a trial's program depends on besides shapes: all but numbers and the data's fields."""
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}
    config = dataclasses.replace(trial.config, **{name: defaults[name] for name in _DATA_FIELDS})
    # Whether a number is switched on is another program, how much it is is not.
    numbers = {
        name: 0.5 if value or not number.switch else 0.0
        for name, value in trial.method.options
        if isinstance(number := trial.method.declared[name], Number)
    }
    return config, trial.method.replace(**numbers)


def _portions(world: Config, own: Sequence[Trial]) -> Iterable[tuple[Portion, tuple[Task, ...]]]:
    """The trials of one pool of examples, of all partitions that share it.

    Where devices share the clients, a portion is of one partition: each has an order of its own in
    which the devices hold the clients.
    """
    names = tuple(dict.fromkeys(trial.partition for trial in own))
    # Rows that somebody has chosen are a pool of their own, every other partition's are the cap's.
    own_pool = schema.CHOSEN_ROWS
    sets = [tuple(n for n in names if n not in own_pool), *((n,) for n in names if n in own_pool)]
    if world.devices > 1:
        sets = [(name,) for name in names]
    for those in filter(None, sets):
        chosen = tuple(trial for trial in own if trial.partition in those)
        config = dataclasses.replace(world, partitions=those, seeds=(0,))
        dealt = tasks_of(config)
        bounds = (bind.bind(config, chosen[0].method, task) for task in dealt)
        cuts = map(budget_lib.segments_of, bounds)
        shortest = min(cuts, key=lambda segments: segments[0].rounds)
        clients = {task.partition: (task.cheats, task.chosen) for task in dealt}
        yield Portion(config, chosen, len(those) > 1, shortest, clients), dealt


@functools.lru_cache(maxsize=1)
def tasks_of(world: Config) -> tuple[Task, ...]:
    """The tasks of a config; those of the last one are kept."""
    # One at a time: a pool is a copy of the rows, and there may be as many as partition seeds.
    return deal.tasks(world)


def _sketch(task: Task) -> Task:
    """A task without its rows, which are large: of these, only the shapes."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), task.data)
    return task._replace(data=shapes)


def _shapes(dealt: Sequence[Task], eval_split: str) -> tuple:
    data = evaluated_on(dealt[0], eval_split).data
    arrays = (data.inputs, data.test_inputs, (data.validation or (data.inputs[:0],))[0])
    chosen = [None if task.chosen is None else len(task.chosen) for task in dealt]
    return (len(dealt), *(np.shape(x) for x in arrays), *chosen)


def evaluated_on(task: Task, eval_split: str) -> Task:
    """The task with the examples of the eval split as its test examples."""
    if eval_split == "test":
        return task
    inputs, labels = task.data.validation or (None, ())
    if not len(labels):
        raise ConfigError(
            "--eval-split validation needs validation rows, --validation-share leaves none"
        )
    return task._replace(data=task.data._replace(test_inputs=inputs, test_labels=labels))


def _program(
    found: Sequence[tuple[Portion, tuple[Task, ...]]],
    together: int | None,
    width: int | None,
    budget: int,
    backend: str,
) -> Program:
    portions = tuple(portion for portion, _ in found)
    dealt = [task for _, tasks in found for task in tasks]
    config, method = portions[0].world, portions[0].trials[0].method
    for _, tasks in found:  # one program trains on all of them, with one schedule
        if method.decay_per == "epoch" and len({bind.epochs_of(config, x) for x in tasks}) > 1:
            raise ConfigError(
                "--decay-per is epoch, it must be round where --local-steps are as many epochs on "
                "one partition as they are not on another: sweep over one partition at a time"
            )
    number = max(len(portion.trials) for portion in portions)
    bound = bind.bind(config, method, dealt[0])
    needed = budget_lib.memory_of(bound)
    each = sum(own.size for own in needed)
    most = together
    if most is None:
        one = backend == "cpu" or config.devices > 1
        most = 1 if one else max(1, budget // (2 * each))
    size = -(-number // -(-number // min(most, number)))
    if together is not None:
        whole = [x._replace(size=size * x.size, flags=("--together", *x.flags)) for x in needed]
        if wrong := hardware.beyond(f"a call of {size} trials", whole, budget):
            raise ConfigError("\n".join(wrong))
    slots = max(task.clients.mask.shape[1] for task in dealt)
    own = (task.clients.own_mask for task in dealt)
    own_slots = max(0 if mask is None else mask.shape[1] for mask in own)
    parameters, messages = sum(dealt[0].tensors), bound.messages
    return Program("", portions, slots, size, width, each * size, parameters, messages, own_slots)


def _named(programs: Sequence[Program]) -> Iterable[Program]:
    """Each called by its method, and by the choices in which it differs from another program."""
    statics = []
    for program in programs:
        config, method = statics_of(program.portions[0].trials[0])
        declared = method.declared.items()
        switches = [n for n, o in declared if isinstance(o, Number) and o.switch]
        # Of a number that is switched on, a program knows no more than that.
        on = {name: "on" if method.get(name) else "off" for name in switches}
        own = resolve.to_dict(dataclasses.replace(config, methods=()))
        statics.append(own | method.values | {"algorithm": method.algorithm} | on)
    for program, own in zip(programs, statics, strict=True):
        same = [other for other in statics if other["algorithm"] == own["algorithm"]]
        extra = {
            key: own[key]
            for key in own
            if any(other.get(key, own[key]) != own[key] for other in same)
        }
        words = points_lib.in_words(extra)
        yield program._replace(name=own["algorithm"] + (f" ({words})" if words else ""))


def rounds_of(program: Program) -> int:
    """Rounds of every trial of a program."""
    return bind.rounds_of(program.portions[0].world, program.portions[0].trials[0].method)
