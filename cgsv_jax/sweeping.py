"""Many settings of one experiment: which there are, which programs run them, what they gave.

A setting is a whole `Config`, made as every other; a run is one method of it on one partition from
one seed. Settings often share runs: a run is told by what it reads, so that the yardstick, which
reads no rule, is run once per training setting, partition and seed, however many rules are swept.
Runs that differ in numbers, seeds and in who holds what share a program; `plan` says how many
programs there are and how many runs each call of them takes, `execute` runs it, here or wherever.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from cgsv_jax import config as config_lib
from cgsv_jax import experiment, files, results, runs
from cgsv_jax.config import Config, ConfigError, Method
from cgsv_jax.experiment import Problem
from cgsv_jax.layout import over_clients
from cgsv_jax.results import YARDSTICK, Outcome
from cgsv_jax.runs import Batch, Chunk, Clock, Look, Programs, Seen, Segment
from cgsv_jax.types import Hyper

MAX_SETTINGS = 100_000
REFUSED = 100  # settings after which no further one is judged
A_RUN = 15_000  # bytes of a run on the host, as measured: its config, its end and its row
JUDGES = ("test", "validation")  # the rows that a sweep may be judged on
# What a best setting may be chosen by; more is better.
CRITERIA = (
    *("fairness", "mean_accuracy", "min_accuracy", "max_accuracy", "server_accuracy"),
    *("mean_gain", "no_worse"),
)

# One config holds several of these anyway; together they are the runs of one setting.
LISTS = ("partitions", "algorithms", "seeds", "late", "attacks", "attackers", "shares")
# These say where things are and how they are computed or looked at, not what is computed.
FIXED = (
    *("data_dir", "owners", "lists", "repeated_rows", "eval_every", "eval_rows", "eval_clients"),
    *("eval_batch", "layout", "devices", "conv", "attendance", "checkpoint_every"),
)
SWEEPABLE = (
    "setting",
    *(
        field.name
        for kind in (Config, Method)
        for field in dataclasses.fields(kind)
        if field.name not in (*LISTS, *FIXED, "methods", "name", "algorithm")
    ),
)

# Fields of a Config that a program knows only through the shapes of its arrays.
_OF_THE_POOL = (
    *("data_dir", "owners", "lists", "repeated_rows", "shares", "classes_per_client"),
    *("rows_per_client", "validation_share", "partition_seed", "concentration", "min_rows"),
    "dirichlet_balanced",
    *("synthetic_rows", "eval_rows", "eval_clients"),
)
_NO_ONE: dict[str, Any] = {"partitions": (), "seeds": (), "methods": ()}


class Setting(NamedTuple):
    """A point of the sweep."""

    values: dict[str, Any]  # swept name -> value, in the order of the axes
    config: Config  # the yardstick among its methods


class Sweep(NamedTuple):
    """A sweep with nothing left open."""

    asked: dict[str, Any]  # what is the same for every setting, as `experiment.configure` takes it
    axes: dict[str, tuple]  # swept name -> its values
    settings: tuple[Setting, ...]
    shown: tuple[str, ...]  # methods whose rows are in the tables
    best: str = "fairness"
    judge: str = "test"


class Run(NamedTuple):
    """What one run is told by; fields that it does not read are at their defaults."""

    config: Config  # no partitions, seeds or methods
    method: Method
    partition: str
    seed: int


class Portion(NamedTuple):
    """Runs of one program that share their arrays."""

    world: Config  # `experiment.problems` of it are the arrays
    runs: tuple[Run, ...]
    stacked: bool  # whether a run is told its partition, several being there
    segments: tuple[Segment, ...]  # how a run is cut
    # partition -> every client's attack, and which clients are evaluated
    clients: dict[str, tuple[tuple[str, ...], np.ndarray | None]]


class Program(NamedTuple):
    """Portions whose calls are one compiled program."""

    name: str
    portions: tuple[Portion, ...]
    slots: int  # M, of the longest client among them
    size: int  # R, runs of a call
    width: int | None  # of these, how many at once; None: all
    memory: int  # bytes of a call
    parameters: int  # D


class Plan(NamedTuple):
    """What there is to do, before any of it is done."""

    programs: tuple[Program, ...]
    budget: int  # bytes that there are
    judge: str

    @property
    def num_runs(self) -> int:
        """Runs in all, of every program."""
        return sum(len(portion.runs) for program in self.programs for portion in program.portions)

    @property
    def rounds(self) -> int:
        """Rounds in all, those included that only fill up a call."""
        return sum(
            rounds_of(program) * program.size * -(-len(portion.runs) // program.size)
            for program in self.programs
            for portion in program.portions
        )


# ---------------------------------------------------------------- which settings


def sweep(
    asked: Mapping[str, Any],
    swept: Mapping[str, Sequence[Any]],
    best: str = "fairness",
    judge: str = "test",
) -> Sweep:
    """Every combination of the swept values, judged as a config of its own.

    Args:
      asked: what `experiment.configure` takes, the same for every setting; `algorithms` without
        the yardstick, which is added.
      swept: name in `SWEEPABLE` -> its values; a single value is not an axis.
      best: one of `CRITERIA`.
      judge: one of `JUDGES`.

    Raises:
      ConfigError: naming every value that is not allowed, and in which settings.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    count = math.prod(len(values) for values in swept.values())
    if problems := _problems(swept, best, judge, count):
        raise ConfigError("\n".join(problems))
    asked |= {name: values[0] for name, values in swept.items() if len(values) == 1}
    axes = {name: tuple(values) for name, values in swept.items() if len(values) > 1}
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    return of_points(asked, axes, points, best, judge)


def _problems(swept: Mapping[str, Sequence[Any]], best: str, judge: str, count: int) -> list[str]:
    problems = [
        f"{config_lib.flag(name)} cannot be swept, it takes one value"
        for name, values in swept.items()
        if name not in SWEEPABLE and len(values) > 1
    ]
    for name, values in swept.items():
        problems += config_lib.distinct(name, values)
    problems += config_lib.known("best", best, CRITERIA)
    problems += config_lib.known("judge", judge, JUDGES)
    if count > MAX_SETTINGS:
        problems.append(f"these are {count:,} settings, there must be at most {MAX_SETTINGS:,}")
    return problems


def of_points(
    asked: Mapping[str, Any],
    axes: Mapping[str, tuple],
    points: Sequence[Mapping[str, Any]],
    best: str = "fairness",
    judge: str = "test",
) -> Sweep:
    """A sweep of given points, which need not be a grid.

    Raises:
      ConfigError: as `sweep`.
    """
    asked = dict(asked)
    algorithms = asked.get("algorithms", ("cgsv",))
    algorithms = (algorithms,) if isinstance(algorithms, str) else tuple(algorithms)
    if algorithms == ("all",):
        algorithms = tuple(experiment.TABLES.algorithms)
    asked["algorithms"] = algorithms
    every = algorithms if YARDSTICK in algorithms else (YARDSTICK, *algorithms)
    if problems := _problems({}, best, judge, len(points)):
        raise ConfigError("\n".join(problems))
    settings, refused, judged = [], {}, 0
    for point in points:
        try:
            config = experiment.configure(**(asked | {"algorithms": every} | dict(point)))
            settings.append(Setting(dict(point), config))
        except ConfigError as error:
            for line in str(error).splitlines():
                refused.setdefault(line, []).append(point)
        judged += 1
        if judged - len(settings) == REFUSED:
            break
    if refused:
        raise ConfigError("\n".join(_sentences(refused, judged, judged < len(points))))
    if wrong := _too_many(settings, tuple(axes)):
        raise ConfigError("\n".join(wrong))
    here = {name: getattr(settings[0].config, name) for name in config_lib.PATHS if name in asked}
    return Sweep(asked | here, dict(axes), tuple(settings), algorithms, best, judge)


def _too_many(settings: Sequence[Setting], swept: Sequence[str]) -> list[str]:
    """Whether what every run gives, and its row of the table, fit in the memory of the host."""
    runs = size = 0
    for _, config in settings:
        own = len(config.partitions) * len(config.methods) * len(config.seeds)
        runs += own
        size += own * (A_RUN + 8 * len(Outcome._fields) * experiment.counts_of(config)[0])
    names = (*swept, "seeds", "partitions", "algorithms")
    needed = experiment.Memory(size, f"{runs:,} runs", tuple(map(config_lib.flag, names)))
    return experiment.beyond("the sweep", [needed], files.host_memory())


def _sentences(
    refused: Mapping[str, list[Mapping[str, Any]]], judged: int, more: bool
) -> Iterable[str]:
    """All of them, each with the settings it is about unless it is about all that were judged."""
    for line, points in refused.items():
        others = f" and {len(points) - 1} more settings" if len(points) > 1 else ""
        yield line + (f" (with {in_words(points[0])}{others})" if len(points) < judged else "")
    if more:
        yield f"at least {REFUSED} settings cannot be, the others were not looked at"


def in_words(values: Mapping[str, Any]) -> str:
    """A setting for people: `beta 0.5, alpha 0.9`.

    >>> in_words({"beta": 0.5, "hidden": (32, 16)})
    'beta 0.5, hidden 32x16'
    """
    return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    """A value as the command takes it."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def describe(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain lists, numbers and strings: its first config, and how others differ."""
    first, *_ = configs = [config_lib.to_dict(setting.config) for setting in sweep.settings]
    return {
        "asked": _plain(sweep.asked),
        # A list: keys of a file are sorted, and the axes have an order.
        "axes": [{"name": name, "values": _plain(values)} for name, values in sweep.axes.items()],
        "shown": list(sweep.shown),
        "best": sweep.best,
        "judge": sweep.judge,
        "config": first,
        "settings": [
            {"values": _plain(setting.values), "differs": _difference(first, config)}
            for setting, config in zip(sweep.settings, configs, strict=True)
        ],
    }


class _Axis(TypedDict):
    name: str
    values: list[str | float | bool | list]


class _Point(TypedDict):
    values: dict[str, Any]
    differs: dict[str, Any]


class _Described(TypedDict):
    asked: dict[str, Any]
    axes: list[_Axis]
    shown: list[str]
    best: str
    judge: str
    config: dict[str, Any]
    settings: list[_Point]


def outline(values: Any) -> Sweep:
    """What a sweep's config says, as any version wrote it, without its settings.

    Raises:
      ConfigError: on what is missing, of another type, or unknown.
    """
    try:
        whole = files.judged(values, _Described)
    except ValueError as error:
        raise ConfigError(f"this is no sweep's config: {error}") from error
    pairs = [(own["name"], own["values"]) for own in whole["axes"]]
    problems = [f"{name[:80]!r} cannot be swept" for name, _ in pairs if name not in SWEEPABLE]
    problems += _problems({}, whole["best"], whole["judge"], len(whole["settings"]))
    if not whole["settings"] or not whole["shown"]:
        problems.append("it has no settings")
    if problems:
        raise ConfigError(f"this is no sweep's config: {problems[0]}")
    axes = {name: tuple(value_of(name, value) for value in own) for name, own in pairs}
    told = tuple(whole["shown"]), whole["best"], whole["judge"]
    return Sweep(unplain(whole["asked"]), axes, (), *told)


def described(values: Any) -> Sweep:
    """The inverse of `describe`.

    Raises:
      ConfigError: on what is missing, unknown or out of range, and on a setting that is not what
        its values say.
    """
    sweep = outline(values)
    try:
        settings = tuple(
            Setting(
                {name: value_of(name, each["values"][name]) for name in sweep.axes},
                config_lib.from_dict(_merged(values["config"], each["differs"]), experiment.TABLES),
            )
            for each in values["settings"]
        )
    except ConfigError:
        raise
    except Exception as error:  # a stranger's file: whatever is odd in it
        raise ConfigError(f"this is no sweep's config: {files.reason_of(error)}") from error
    sweep = sweep._replace(settings=settings)
    for wrong in _untrue(sweep):
        raise ConfigError(f"this is no sweep's config: {wrong}")
    return sweep


def _untrue(sweep: Sweep) -> Iterable[str]:
    """What the settings that were read are not, although the tables would say that they are."""
    if odd := [name for name in sweep.asked if name not in (*LISTS, *FIXED, *SWEEPABLE)]:
        yield f"{odd[0][:80]!r} is no option"
    for values, config in sweep.settings:
        if not {YARDSTICK, *sweep.shown} <= {method.name for method in config.methods}:
            yield f"a setting lacks one of the methods {', '.join((YARDSTICK, *sweep.shown))}"
        for name, value in values.items():
            there = [getattr(own, name, value) for own in (config, *config.methods)]
            if name == "setting":  # it is spread over all fields
                there = [value if value in config_lib.SETTINGS else None]
            if value not in sweep.axes[name] or any(other != value for other in there):
                yield f"a setting is said to have {in_words({name: value})}, it has not"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return "inf" if isinstance(value, float) and value == math.inf else value


def unplain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values from JSON as they were asked for."""
    return {name: value_of(name, value) for name, value in values.items()}


def value_of(name: str, value: Any) -> Any:
    """A value from JSON as it was asked for."""
    if isinstance(value, list):
        return tuple(value)
    return math.inf if name == "beta" and value == "inf" else value


def _difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What of `other` is not as in `first`; methods one by one where they are as many."""
    differs = {key: value for key, value in other.items() if value != first[key]}
    if "methods" in differs and len(other["methods"]) == len(first["methods"]):
        pairs = zip(first["methods"], other["methods"], strict=True)
        differs["methods"] = [_difference(a, b) for a, b in pairs]
    return differs


def _merged(first: Mapping[str, Any], differs: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**first, **differs}
    if "methods" in differs:
        pairs = zip(first["methods"], differs["methods"], strict=True)
        whole["methods"] = [{**a, **b} for a, b in pairs]
    return whole


# ---------------------------------------------------------------- which runs


def run_of(config: Config, method: Method, partition: str, seed: int) -> Run:
    """The run of a method, without what it does not read."""
    reads = experiment.TABLES.reads[method.algorithm] | config_lib.TRAINING_FIELDS
    reads = reads | {"name", "algorithm"}
    # Fields without a default are numbers of which any would do.
    unread = {
        field.name: 1.0 if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(Method)
        if field.name not in reads
    }
    method = dataclasses.replace(method, **unread | {"name": method.algorithm})
    return Run(dataclasses.replace(config, **_NO_ONE), method, partition, seed)


def runs_of(sweep: Sweep) -> tuple[Run, ...]:
    """Every run that the settings need, once; the yardstick's first."""
    every = dict.fromkeys(
        run_of(setting.config, method, partition, seed)
        for setting in sweep.settings
        for partition in setting.config.partitions
        for method in setting.config.methods
        for seed in setting.config.seeds
    )
    return tuple(sorted(every, key=lambda run: run.method.algorithm != YARDSTICK))


def key_of(run: Run, judge: str = "test", data: str = "") -> str:
    """A short name of a run, the same wherever and whenever it is asked for.

    Args:
      run: which.
      judge: the rows it is judged on.
      data: see `content_of`; the run's config only says where its files are.
    """
    whole = config_lib.to_dict(dataclasses.replace(run.config, methods=(run.method,)))
    # Where data lie and how they are laid out is not what is computed.
    for name in (*config_lib.PATHS, "layout", "devices"):
        del whole[name]
    return files.digest_of([whole, run.partition, run.seed, judge, data])[:20]


def data_of(sweep: Sweep) -> experiment.DataIdentity:
    """Which data the settings mean, as they are now.

    Raises:
      ConfigError: when the data are not there.
    """
    return experiment.data_identity(*(setting.config for setting in sweep.settings))


def content_of(data: experiment.DataIdentity) -> str:
    """A digest of the rows and files, wherever they lie."""
    rows = {name: found["rows"] for name, found in data["sets"].items()}
    return files.digest_of([rows, data["files"]])


# ---------------------------------------------------------------- which programs


def plan(
    wanted: Sequence[Run],
    judge: str = "test",
    *,
    together: int | None = None,
    width: int | None = None,
    budget: int | None = None,
    backend: str | None = None,
) -> Plan:
    """Groups runs into programs, and the runs of each into calls that fit the memory.

    On a CPU width does not pay, so that a call takes one run, and what is done is kept. Elsewhere a
    call takes as many as half of the memory holds, all calls of a program equally many, so that it
    is compiled once.

    Args:
      wanted: which runs.
      judge: the rows they are judged on.
      together: runs of a call, where it is not decided here.
      width: of these, how many at once; None: one on a CPU, else all.
      budget: bytes; default: those of the device.
      backend: default: the one in use.

    Raises:
      ConfigError: when data or partition cannot be had.
    """
    backend = backend or jax.default_backend()
    budget = experiment.memory() if budget is None else budget
    if width is None and backend == "cpu":
        width = 1
    groups: dict[tuple, dict[Config, list[Run]]] = {}
    for run in wanted:
        statics = _statics(run)
        world = dataclasses.replace(run.config, methods=(statics[1],))
        groups.setdefault(statics, {}).setdefault(world, []).append(run)
    programs = []
    refused: dict[str, list] = {}
    for worlds in groups.values():
        shaped: dict[tuple, list[tuple[Portion, tuple[Problem, ...]]]] = {}
        for world, own in worlds.items():
            try:
                for portion, dealt in _portions(world, own):
                    shapes = _shapes(dealt, judge)
                    sketch = tuple(_sketch(problem) for problem in dealt)
                    shaped.setdefault(shapes, []).append((portion, sketch))
            except ConfigError as error:
                for line in str(error).splitlines():
                    refused.setdefault(line, []).append({})
        for found in shaped.values():
            programs.append(_program(found, together, width, budget, backend))
    if refused:
        raise ConfigError("\n".join(refused))
    return Plan(tuple(_named(programs)), budget, judge)


def _statics(run: Run) -> tuple[Config, Method]:
    """What a run's program depends on besides shapes: everything but numbers and the pool."""
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}
    config = dataclasses.replace(run.config, **{name: defaults[name] for name in _OF_THE_POOL})
    numbers = {
        name: 1.0 if name in ("learning_rate", "decay", "gamma") else getattr(Method, name)
        for name in Hyper._fields
    }
    # Whether clients are removed or drop out is another program, how many is a number.
    numbers["removal_imbalanced"] = None
    numbers["removal"] = 0.5 if run.method.removal > 0 else 0.0
    numbers["dropout"] = 0.5 if run.method.dropout > 0 else 0.0
    return config, dataclasses.replace(run.method, **numbers)


def _portions(world: Config, own: Sequence[Run]) -> Iterable[tuple[Portion, tuple[Problem, ...]]]:
    """The runs of one pool: of all partitions, or of one each where devices share the clients.

    There every partition has an order of its own in which the devices hold the clients.
    """
    names = tuple(dict.fromkeys(run.partition for run in own))
    # Rows that somebody has chosen are a pool of their own, every other partition's are the cap's.
    own_pool = config_lib.CHOSEN_ROWS
    sets = [tuple(n for n in names if n not in own_pool), *((n,) for n in names if n in own_pool)]
    if world.devices > 1:
        sets = [(name,) for name in names]
    for those in filter(None, sets):
        chosen = tuple(run for run in own if run.partition in those)
        config = dataclasses.replace(world, partitions=those, seeds=(0,))
        dealt = _dealt(config)
        cuts = (experiment.segments_of(config, chosen[0].method, problem) for problem in dealt)
        shortest = min(cuts, key=lambda segments: segments[0].rounds)
        clients = {problem.partition: (problem.cheats, problem.chosen) for problem in dealt}
        yield Portion(config, chosen, len(those) > 1, shortest, clients), dealt


@functools.lru_cache(maxsize=1)
def _dealt(world: Config) -> tuple[Problem, ...]:
    # One at a time: a pool is a copy of the rows, and there may be as many as partition seeds.
    return experiment.problems(world)


def _sketch(problem: Problem) -> Problem:
    """A problem without its rows, which are large."""
    return problem._replace(data=None)


def _shapes(dealt: Sequence[Problem], judge: str) -> tuple:
    data = judged(dealt[0], judge).data
    arrays = (data.inputs, data.test_inputs, (data.validation or (data.inputs[:0],))[0])
    chosen = [None if problem.chosen is None else len(problem.chosen) for problem in dealt]
    return (len(dealt), *(np.shape(x) for x in arrays), *chosen)


def judged(problem: Problem, judge: str) -> Problem:
    """The problem with the rows it is judged on where the test rows are."""
    if judge == "test":
        return problem
    inputs, labels = problem.data.validation
    if not len(labels):
        raise ConfigError(
            "--judge validation needs validation rows, --validation-share leaves none"
        )
    return problem._replace(data=problem.data._replace(test_inputs=inputs, test_labels=labels))


def _program(
    found: Sequence[tuple[Portion, tuple[Problem, ...]]],
    together: int | None,
    width: int | None,
    budget: int,
    backend: str,
) -> Program:
    portions = tuple(portion for portion, _ in found)
    dealt = [problem for _, problems in found for problem in problems]
    config, method = portions[0].world, portions[0].runs[0].method
    number = max(len(portion.runs) for portion in portions)
    needed = experiment.memory_of(config, method, dealt[0])
    each = sum(own.size for own in needed)
    most = together
    if most is None:
        one = backend == "cpu" or config.devices > 1
        most = 1 if one else max(1, budget // (2 * each))
    size = -(-number // -(-number // min(most, number)))
    if together is not None:
        whole = [x._replace(size=size * x.size, flags=("--together", *x.flags)) for x in needed]
        if wrong := experiment.beyond(f"a call of {size} runs", whole, budget):
            raise ConfigError("\n".join(wrong))
    slots = max(problem.clients.mask.shape[1] for problem in dealt)
    return Program("", portions, slots, size, width, each * size, sum(dealt[0].tensors))


def _named(programs: Sequence[Program]) -> Iterable[Program]:
    """Each called by its method, and by the choices in which it differs from another program."""
    told = []
    for program in programs:
        config, method = _statics(program.portions[0].runs[0])
        told.append(dataclasses.asdict(config) | dataclasses.asdict(method))
    told = [{k: v for k, v in own.items() if k not in ("name", "methods")} for own in told]
    for own in told:  # numbers of which a program only knows whether there are any
        own |= {name: "on" if own[name] else "off" for name in ("removal", "dropout")}
    for program, own in zip(programs, told, strict=True):
        same = [other for other in told if other["algorithm"] == own["algorithm"]]
        extra = {key: own[key] for key in own if any(other[key] != own[key] for other in same)}
        words = in_words(extra)
        yield program._replace(name=own["algorithm"] + (f" ({words})" if words else ""))


def rounds_of(program: Program) -> int:
    """Rounds of every run of a program."""
    return experiment.rounds_of(program.portions[0].world, program.portions[0].runs[0].method)


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
    dealt = [_padded(judged(p, judge), program.slots) for p in _dealt(portion.world)]
    statics = [experiment.settings_of(portion.world, method, problem) for problem in dealt]
    # Where widths are balanced, the least of them wastes least on every partition.
    narrow = min(range(len(dealt)), key=lambda i: statics[i].width or portion.world.clients)
    made = [experiment.programs(portion.world, method, problem) for problem in dealt]
    one = made[narrow]
    code = (*_statics(portion.runs[0]), statics[narrow], portion.stacked, program.width)
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


def _padded(problem: Problem, slots: int) -> Problem:
    clients = problem.clients
    missing = slots - clients.mask.shape[1]

    def longer(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else np.pad(np.asarray(x), ((0, 0), (0, missing)))

    fields = {name: longer(getattr(clients, name)) for name in ("rows", "mask", "labels")}
    return problem._replace(clients=clients._replace(**fields))


def execute(
    plan: Plan,
    watch: Callable[[Look], None] = lambda look: None,
    keep: Callable[[dict[Run, Outcome]], None] = lambda done: None,
    keeper: runs.Keeper | None = None,
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
    _, clocks = runs.execute(each, watch, finish, keeper, whole=False)
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
        cell = results.Cell(
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
        (ends[run],) = results.outcomes(cell)
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
            end = ends.get(run_of(config, method, partition, seed))
            if end is None:
                continue
            alone = ends.get(run_of(config, yardstick, partition, seed))
            row = results.summary_row(partition, method.name, seed, end, alone)
            made.append({"point": number, **in_table(setting.values), **row})
    return made


def in_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """A setting's values as a table holds them: layers as text."""
    return {name: shown(v) if isinstance(v, tuple) else v for name, v in values.items()}
