"""What a sweep is asked for: axes, points, and their words."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from cgsv_jax.config import defaults as defaults_lib
from cgsv_jax.config import resolve, schema, validate
from cgsv_jax.config.schema import Config, ConfigError, Method
from cgsv_jax.experiment import hardware
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.experiment.task import counts_of
from cgsv_jax.host import files
from cgsv_jax.results.frames import YARDSTICK, Outcome

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
    if complaints := _complaints(swept, best, judge, count):
        raise ConfigError("\n".join(complaints))
    asked |= {name: values[0] for name, values in swept.items() if len(values) == 1}
    axes = {name: tuple(values) for name, values in swept.items() if len(values) > 1}
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    return of_points(asked, axes, points, best, judge)


def _complaints(swept: Mapping[str, Sequence[Any]], best: str, judge: str, count: int) -> list[str]:
    complaints = [
        f"{validate.flag(name)} cannot be swept, it takes one value"
        for name, values in swept.items()
        if name not in SWEEPABLE and len(values) > 1
    ]
    for name, values in swept.items():
        complaints += validate.distinct(name, values)
    complaints += validate.known("best", best, CRITERIA)
    complaints += validate.known("judge", judge, JUDGES)
    if count > MAX_SETTINGS:
        complaints.append(f"these are {count:,} settings, there must be at most {MAX_SETTINGS:,}")
    return complaints


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
        algorithms = tuple(names_lib.TABLES.algorithms)
    asked["algorithms"] = algorithms
    every = algorithms if YARDSTICK in algorithms else (YARDSTICK, *algorithms)
    if complaints := _complaints({}, best, judge, len(points)):
        raise ConfigError("\n".join(complaints))
    settings, refused, judged = [], {}, 0
    for point in points:
        try:
            config = names_lib.configure(**(asked | {"algorithms": every} | dict(point)))
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
    here = {name: getattr(settings[0].config, name) for name in schema.PATHS if name in asked}
    return Sweep(asked | here, dict(axes), tuple(settings), algorithms, best, judge)


def _too_many(settings: Sequence[Setting], swept: Sequence[str]) -> list[str]:
    """Whether what every run gives, and its row of the table, fit in the memory of the host."""
    runs = size = 0
    for _, config in settings:
        own = len(config.partitions) * len(config.methods) * len(config.seeds)
        runs += own
        size += own * (A_RUN + 8 * len(Outcome._fields) * counts_of(config)[0])
    names = (*swept, "seeds", "partitions", "algorithms")
    needed = hardware.Memory(size, f"{runs:,} runs", tuple(map(validate.flag, names)))
    return hardware.beyond("the sweep", [needed], files.host_memory())


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
    first, *_ = configs = [resolve.to_dict(setting.config) for setting in sweep.settings]
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
    complaints = [f"{name[:80]!r} cannot be swept" for name, _ in pairs if name not in SWEEPABLE]
    complaints += _complaints({}, whole["best"], whole["judge"], len(whole["settings"]))
    if not whole["settings"] or not whole["shown"]:
        complaints.append("it has no settings")
    if complaints:
        raise ConfigError(f"this is no sweep's config: {complaints[0]}")
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
                resolve.from_dict(_merged(values["config"], each["differs"]), names_lib.TABLES),
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
                there = [value if value in defaults_lib.SETTINGS else None]
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


def in_table(values: Mapping[str, Any]) -> dict[str, Any]:
    """A setting's values as a table holds them: layers as text."""
    return {name: shown(v) if isinstance(v, tuple) else v for name, v in values.items()}
