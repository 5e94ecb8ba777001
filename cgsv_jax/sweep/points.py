"""What a sweep runs: options that all points share, axes, points, and their words."""

import contextlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from cgsv_jax.config import resolve, schema, validate, variants
from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.experiment import bind, hardware
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.experiment.task import counts_of
from cgsv_jax.host import files
from cgsv_jax.results.frames import YARDSTICK, Outcome, late_evaluations
from cgsv_jax.sweep.options import CRITERIA, EVAL_SPLITS, FIXED, LISTS, sweepable

MAX_POINTS = 100_000
REFUSED = 100  # points; after so many that are refused no further one is looked at
TEST_ROWS = 10_000  # of the largest data set, whose number nobody knows before it is loaded
TRIAL_BYTES = 15_000  # of a trial on the host, as measured: its config, its outcome and its row


class Point(NamedTuple):
    """One combination of swept values."""

    values: dict[str, Any]  # swept name -> value, in the order of the axes
    config: Config  # the standalone baseline among its methods


class Sweep(NamedTuple):
    """A sweep with nothing left open."""

    options: dict[str, Any]  # shared by all points, as `names.configure` takes them
    axes: dict[str, tuple]  # swept name -> its values
    points: tuple[Point, ...]
    shown: tuple[str, ...]  # methods whose rows are in the tables
    best: str = "fairness"
    eval_split: str = "test"


def grid(
    options: Mapping[str, Any],
    swept: Mapping[str, Sequence[Any]],
    best: str = "fairness",
    eval_split: str = "test",
) -> Sweep:
    """Every combination of the swept values, each validated as a config of its own.

    Args:
      options: what `names.configure` takes, the same for every point; `algorithms` without the
        standalone baseline, which is added.
      swept: name in `sweepable` -> its values; a single value is not an axis.
      best: one of `CRITERIA`.
      eval_split: one of `EVAL_SPLITS`.

    Raises:
      ConfigError: naming every value that is not allowed, and in which points.
    """
    options = {name: value for name, value in options.items() if value is not None}
    there = sweepable(names_lib.tables(options.get("plugin")))
    complaints = [
        f"{validate.flag(name)} cannot be swept, it takes one value"
        for name, values in swept.items()
        if name not in there and len(values) > 1
    ]
    for name, values in swept.items():
        complaints += validate.distinct(name, values)
    complaints += _complaints(best, eval_split, math.prod(map(len, swept.values())))
    if complaints:
        raise ConfigError("\n".join(complaints))
    options |= {name: values[0] for name, values in swept.items() if len(values) == 1}
    axes = {name: tuple(values) for name, values in swept.items() if len(values) > 1}
    combinations = itertools.product(*axes.values())
    return of_values(
        options, axes, [dict(zip(axes, own, strict=True)) for own in combinations], best, eval_split
    )


def _complaints(best: str, eval_split: str, count: int) -> list[str]:
    complaints = validate.known("best", best, CRITERIA)
    complaints += validate.known("eval_split", eval_split, EVAL_SPLITS)
    if count > MAX_POINTS:
        complaints.append(f"these are {count:,} points, there must be at most {MAX_POINTS:,}")
    return complaints


def of_values(
    options: Mapping[str, Any],
    axes: Mapping[str, tuple],
    combinations: Sequence[Mapping[str, Any]],
    best: str = "fairness",
    eval_split: str = "test",
) -> Sweep:
    """A sweep of given combinations of values, which need not be a grid; otherwise as `grid`."""
    options = dict(options)
    if schema.whole(options.get("seed")) and "seeds" not in options:
        options["seeds"] = (options.pop("seed"),)
    algorithms = options.get("algorithms", ("cgsv",))
    algorithms = (algorithms,) if isinstance(algorithms, str) else tuple(algorithms)
    if algorithms == ("all",):
        algorithms = tuple(names_lib.tables(options.get("plugin")).algorithms)
    options["algorithms"] = algorithms
    every = algorithms if YARDSTICK in algorithms else (YARDSTICK, *algorithms)
    complaints = _complaints(best, eval_split, len(combinations))
    complaints += _own_axes(algorithms, axes)
    if "partition_seed" in axes and options.get("partition_seeds", 1) != 1:
        complaints.append(
            "--partition-seeds draws partitions with one --partition-seed, the next, ...: where "
            "that takes several values, every value is a draw already"
        )
    if complaints:
        raise ConfigError("\n".join(complaints))
    points, refused, count = [], {}, 0
    for values in combinations:
        try:
            asked = {**options, "algorithms": every, **values}
            config = names_lib.configure(named=False, **asked)
            points.append(Point(dict(values), config))
        except ConfigError as error:
            for line in str(error).splitlines():
                refused.setdefault(line, []).append(values)
        count += 1
        if count - len(points) == REFUSED:
            break
    if refused:
        raise ConfigError("\n".join(_sentences(refused, count, count < len(combinations))))
    if any(own.config.track for own in points):
        complaints.append("--track follows a run, or a comparison: a sweep has too many of them")
    if any(own.config.patience is not None for own in points):
        complaints.append(
            "--patience ends single runs: the points of a search that do badly are stopped by "
            "--scheduler, and --select validation judges every point by its best round"
        )
    if eval_split == "validation" and any(own.config.select == "validation" for own in points):
        complaints.append(
            "--eval-split validation cannot be combined with --select validation: the rows that "
            "chose the round would judge it"
        )
    if any(own.config.save_models for own in points):
        complaints.append(
            "--save-models does nothing in a sweep, which keeps numbers: cgsv run --save-models "
            "trains a point's models again"
        )
    if complaints := complaints or _too_large(points, tuple(axes)):
        raise ConfigError("\n".join(complaints))
    paths = {name: getattr(points[0].config, name) for name in schema.PATHS if name in options}
    return Sweep(options | paths, dict(axes), tuple(points), algorithms, best, eval_split)


def _own_axes(algorithms: Sequence[Any], axes: Iterable[str]) -> list[str]:
    """Complaints about methods that would be the same at every value of an axis."""
    complaints = []
    for text in algorithms:
        with contextlib.suppress(ValueError):  # said of every point
            _, pairs, preset = variants.read(text)
            own = {*dict(pairs), *(["preset"] if preset else [])}
            complaints += [
                f"{validate.flag(name)} takes several values, it must not stand in {text!r}, where "
                "it is the same at all of them"
                for name in axes
                if name in own
            ]
    return complaints


def _too_large(points: Sequence[Point], swept: Sequence[str]) -> list[str]:
    """Complaints where the outcomes of all trials, and their rows, do not fit the host's memory."""
    trials = size = 0
    for _, config in points:
        count = bind.runs_of_each(config) * len(config.methods)
        trials += count
        late = late_evaluations(-(-config.rounds // config.eval_every))
        arrays = len(Outcome._fields) + 2 * (late - 1)
        number, evaluated = counts_of(config)
        answers = min(evaluated * (config.eval_rows or TEST_ROWS), bind.MOST_ANSWERS)
        size += count * (TRIAL_BYTES + 8 * arrays * number + answers // 8)
    drawn = ("partition_seeds",) if points[0].config.partition_seeds > 1 else ()
    names = (*swept, "seeds", *drawn, "partitions", "algorithms")
    needed = hardware.Memory(size, f"{trials:,} trials", tuple(map(validate.flag, names)))
    return hardware.beyond("the sweep", [needed], files.host_memory())


def _sentences(
    refused: Mapping[str, list[Mapping[str, Any]]], count: int, more: bool
) -> Iterable[str]:
    """All complaints, each with the points it is about unless it is about all of `count`."""
    for line, combinations in refused.items():
        others = f" and {len(combinations) - 1} more points" if len(combinations) > 1 else ""
        named = f" (with {in_words(combinations[0])}{others})"
        yield line + (named if len(combinations) < count else "")
    if more:
        yield f"at least {REFUSED} points cannot be, the others were not looked at"


def in_words(values: Mapping[str, Any]) -> str:
    """A point's values for people: `beta 0.5, alpha 0.9`.

    >>> in_words({"beta": 0.5, "hidden": (32, 16)})
    'beta 0.5, hidden 32x16'
    """
    return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    """A value as the command takes it."""
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def describe(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain lists, numbers and strings: options, values, and the first config."""
    return {
        "options": resolve.plain(sweep.options),
        # A list: keys of a file are sorted, and the axes have an order.
        "axes": resolve.plain([{"name": name, "values": v} for name, v in sweep.axes.items()]),
        "shown": list(sweep.shown),
        "best": sweep.best,
        "eval_split": sweep.eval_split,
        "config": resolve.to_dict(sweep.points[0].config),
        "points": [{"values": resolve.plain(point.values)} for point in sweep.points],
    }


class _Axis(TypedDict):
    name: str
    values: list[str | float | bool | list]


class _Point(TypedDict):
    values: dict[str, Any]


class _Described(TypedDict):
    options: dict[str, Any]
    axes: list[_Axis]
    shown: list[str]
    best: str
    eval_split: str
    config: dict[str, Any]
    points: list[_Point]


# The keys of a config.json that was written before points were called so.
_FORMER = {"asked": "options", "judge": "eval_split", "settings": "points"}


def _read(values: Any) -> _Described:
    if isinstance(values, dict):
        values = {_FORMER.get(name, name): value for name, value in values.items()}
    try:
        whole: Any = files.judged(values, _Described)
    except ValueError as error:
        raise ConfigError(f"{_NO_CONFIG}: {error}") from error
    described: Any = {
        **whole,
        "options": _presets(whole["options"]),
        "axes": [
            {"name": name, "values": own}
            for axis in whole["axes"]
            for name, own in _presets({axis["name"]: axis["values"]}).items()
        ],
        "points": [{"values": _presets(point["values"])} for point in whole["points"]],
    }
    return described


def _presets(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"preset" if name == "setting" else name: value for name, value in values.items()}


_NO_CONFIG = "this is no sweep's config"


def outline(values: Any) -> Sweep:
    """What a sweep's config says, without its points.

    Raises:
      ConfigError: on what is missing, of another type, or unknown.
    """
    whole = _read(values)
    pairs = [(axis["name"], axis["values"]) for axis in whole["axes"]]
    complaints = []
    if "plugin" not in whole["options"]:  # whose options only its code can tell
        there = sweepable(names_lib.TABLES)
        complaints = [f"{name[:80]!r} cannot be swept" for name, _ in pairs if name not in there]
        odd = [name for name in whole["options"] if name not in (*LISTS, *FIXED, *there)]
        complaints += [f"{name[:80]!r} is no option" for name in odd]
    complaints += _complaints(whole["best"], whole["eval_split"], len(whole["points"]))
    if not whole["points"] or not whole["shown"]:
        complaints.append("it has no points")
    if complaints:
        raise ConfigError(f"{_NO_CONFIG}: {complaints[0]}")
    axes = {name: tuple(value_of(name, value) for value in values) for name, values in pairs}
    options, shown = unplain(whole["options"]), tuple(whole["shown"])
    return Sweep(options, axes, (), shown, whole["best"], whole["eval_split"])


def described(values: Any, plugin: str | None = None) -> Sweep:
    """The inverse of `describe`; the points are made of their values again.

    Args:
      values: what a config.json says.
      plugin: the file that somebody named, if the sweep needs one: what `values` names is not run.

    Raises:
      ConfigError: on what is missing, unknown or out of range, and where the first point is not
        what it was, since a default is another.
    """
    written, outlined = _read(values), outline(values)
    outlined = outlined._replace(options=names_lib.with_plugin(outlined.options, plugin))
    before = resolve.to_dict(
        resolve.from_dict(
            written["config"], names_lib.tables(plugin, written["config"].get("dataset"))
        )
    )
    try:
        combinations = [
            {name: value_of(name, point["values"][name]) for name in outlined.axes}
            for point in written["points"]
        ]
        sweep = of_values(*outlined[:2], combinations, outlined.best, outlined.eval_split)
        untrue = [
            own for own in combinations if any(own[n] not in a for n, a in sweep.axes.items())
        ]
    except ConfigError as error:
        raise ConfigError(f"{_NO_CONFIG}: {error}") from error
    except Exception as error:  # a stranger's file: whatever is odd in it
        raise ConfigError(f"{_NO_CONFIG}: {files.reason_of(error)}") from error
    if untrue:
        raise ConfigError(f"{_NO_CONFIG}: its axes lack the point {in_words(untrue[0])}")
    if sweep.shown != outlined.shown:
        raise ConfigError(f"{_NO_CONFIG}: it shows other methods than it runs")
    config = resolve.to_dict(sweep.points[0].config)
    # Paths, layout and devices are those of this machine.
    same = {*config} - {*schema.PATHS, "plugin", "layout", "devices"}
    differs = sorted(name for name in same if before[name] != config[name])
    if differs:
        raise ConfigError(
            f"{_NO_CONFIG}: with its options {', '.join(differs)} of the first point would not be "
            "what it says"
        )
    return sweep


def unplain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values from JSON as `names.configure` takes them."""
    return {name: value_of(name, value) for name, value in values.items()}


def value_of(name: str, value: Any) -> Any:
    """A value from JSON as `names.configure` takes it."""
    if isinstance(value, list):
        return tuple(value)
    return resolve.unplain(name, value)


def in_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """A point's values as a table holds them: layers as text."""
    return {name: shown(v) if isinstance(v, tuple) else v for name, v in values.items()}
