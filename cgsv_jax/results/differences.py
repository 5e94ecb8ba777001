"""What several runs or sweeps differ in, by their config.json and environment.json alone."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from cgsv_jax.results.tables import Report

WORDS = 24  # characters of a value that a label has room for
MOST = 2  # things that a label names
ABSENT = "–"
# Seals and places of files; the digests of tables say no more than the tables.
_LEFT_OUT = {"sha256", "plugin_sha256", "tables", "command"}

# What says how and where something was computed is in no label.
_HOW = {"eval every", "eval batch", "layout", "devices", "checkpoint every", "data dir", "conv"}


def of(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What differs: name -> the value of every one of them, as text.

    A method's own options are compared where the method is in all of them, as `cgsv: beta`.

    Args:
      configs: what config.json, or environment.json, says of each; of a sweep, that of its points,
        its axes, and what it shares.
    """
    flat = [dict(_leaves(config)) for config in configs]
    names = dict.fromkeys(name for own in flat for name in own)
    known = {name: [own.get(name, ABSENT) for own in flat] for name in names}
    partly = {name for name, values in known.items() if ": " in name and ABSENT in values}
    return {
        name: values
        for name, values in known.items()
        if len(set(values)) > 1 and name not in partly
    }


def _leaves(config: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    if "points" in config and isinstance(config.get("config"), dict):  # of a sweep
        axes = config.get("axes") or ()
        yield "swept", ", ".join(f"{axis['name']} {_text(axis['values'])}" for axis in axes)
        config = {**config["config"], "best": config.get("best")}
    for name, value in config.items():
        if name in _LEFT_OUT:
            continue
        if name == "methods" and isinstance(value, list):
            yield "methods", ", ".join(str(method.get("name")) for method in value)
            for method in value:
                own = {k: v for k, v in method.items() if k not in ("name", "algorithm")}
                yield from _leaves(own, f"{method.get('name')}: ")
        elif isinstance(value, dict):
            yield from _leaves(value, f"{within}{name} ")
        else:
            yield f"{within}{name}".replace("_", " "), _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        # Digests and commits are told apart by their first characters.
        return value[:12] if len(value) in (40, 64) and value.isalnum() else value
    return "none" if value is None else json.dumps(value)


def report(
    configs: Sequence[Mapping[str, Any]],
    environments: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
) -> list[Report]:
    """A table of what differs, a row per thing and a column per run; none of a single run."""
    if len(configs) < 2:
        return []
    rows = [(name, *values) for name, values in (of(configs) | of(environments)).items()]
    if not rows:
        return [Report(pl.DataFrame(), "", ["these were asked for the same, on equal versions"])]
    schema = dict.fromkeys(["what", *labels], pl.String)
    return [Report(pl.DataFrame(rows, schema, orient="row"), "What differs")]


def labels(configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """A label per run that says what differs, where that is short; beside its name.

    >>> labels([{"clients": 5}, {"clients": 10}], ["a", "b"])
    ['a (clients 5)', 'b (clients 10)']
    """
    differ = of(configs)
    told = {
        name: values
        for name, values in differ.items()
        if name not in _HOW and all(len(value) <= WORDS for value in values)
    }
    told = {name: told[name] for name in [*told][:MOST]}
    return [
        f"{own} ({', '.join(f'{name} {values[place]}' for name, values in told.items())})"
        if told
        else own
        for place, own in enumerate(names)
    ]


def names(paths: Sequence[pathlib.Path | None]) -> list[str]:
    """A short name per directory, all different: its own, numbered where that repeats."""
    found: list[str] = []
    for path in paths:
        name = (path.resolve().name if path else "") or "run"
        taken = [f"{name}-{n}" for n in range(2, len(paths) + 2)]
        found.append(next(own for own in (name, *taken) if own not in found))
    return found


def sentence(configs: Sequence[Mapping[str, Any]]) -> str:
    """What differs in one sentence, empty where nothing does."""
    said = [f"{name} ({'; '.join(dict.fromkeys(values))})" for name, values in of(configs).items()]
    return f"differ in {', '.join(said)}" if said else ""
