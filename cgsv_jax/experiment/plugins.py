"""Rules of one's own: a file of declarations beside those of the package.

A plugin is a Python file that defines any of the tables METHODS, CONTRIBUTIONS, AGGREGATIONS,
REWARDS, GAMES, PARTITIONS, MODELS and DATASETS, as the package does. It is executed where somebody
names it, never because a config.json names it. A package that is installed offers one as an entry
point of the group `cgsv_jax.rules`: its name stands for the file of the module.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import types
from collections.abc import Callable, Mapping
from typing import Any

from cgsv_jax.config.schema import Config, ConfigError, Method, Plugin, Tables
from cgsv_jax.data import DATASETS, Source
from cgsv_jax.host import files
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Spec

# What a plugin may define, and the field of `Tables` that it is added to.
FIELDS = {
    "METHODS": "algorithms",
    "CONTRIBUTIONS": "contributions",
    "AGGREGATIONS": "aggregations",
    "REWARDS": "rewards",
    "GAMES": "games",
    "PARTITIONS": "partitions",
    "MODELS": "models",
    "DATASETS": "datasets",
}
GROUP = "cgsv_jax.rules"  # of entry points
_EVERY_SET = set.intersection(*(set(source.training) for source in DATASETS.values()))
# What an entry must be, by the table's name; of the others a function.
_KINDS = {"DATASETS": (Source, "Source, see cgsv_jax.data")}
_KINDS |= dict.fromkeys(
    ("METHODS", "CONTRIBUTIONS", "AGGREGATIONS", "REWARDS", "GAMES"),
    (Spec, "Spec, see cgsv_jax.rules.spec"),
)


def read(path: Any) -> tuple[str, bytes]:
    """The absolute path of a plugin, and its content.

    Args:
      path: a file, or the name of an entry point of `GROUP`.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        file = files.path_of(_offered(path), "--plugin").absolute()
        with files.opened(file) as stream:
            return str(file), stream.read()
    except (ValueError, OSError) as error:
        raise ConfigError(f"--plugin is {str(path)!r}: {files.reason_of(error)}") from error


def _offered(path: Any) -> Any:
    """The file that an installed package offers by this name; else the path. None is imported."""
    if isinstance(path, str) and "/" not in path:  # a sweep has the absolute path at every point
        for entry in importlib.metadata.entry_points(group=GROUP, name=path):
            spec = importlib.util.find_spec(entry.module)
            if spec is not None and spec.origin is not None:
                return spec.origin
    return path


def loaded(path: str, content: bytes, tables: Tables) -> Tables:
    """The tables with those that a file defines.

    Args:
      path: of the file.
      content: the bytes that are executed, and whose digest is kept.
      tables: the names that there are.

    Raises:
      ConfigError: it cannot be run, defines nothing, or what is no declaration, or a name that
        there is already.
    """
    plugin = Plugin(path, hashlib.sha256(content).hexdigest())
    module = types.ModuleType(f"cgsv_plugin_{plugin.sha256[:16]}")
    module.__file__ = plugin.path
    try:
        exec(compile(content, plugin.path, "exec"), module.__dict__)
    except Exception as error:  # a stranger's code may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"--plugin is {plugin.path!r}, which cannot be run: {reason}") from error
    found = {name: getattr(module, name) for name in FIELDS if hasattr(module, name)}
    if not found:
        raise ConfigError(f"--plugin is {plugin.path!r}, it must define one of {', '.join(FIELDS)}")
    try:
        return dataclasses.replace(merged(tables, found), plugin=plugin)
    except ConfigError as error:
        lines = (f"--plugin is {plugin.path!r}: {line}" for line in str(error).splitlines())
        raise ConfigError("\n".join(lines)) from error


def merged(tables: Tables, found: Mapping[str, Mapping[str, Any]]) -> Tables:
    """The tables with further entries; nothing is changed in place.

    Args:
      tables: those that there are.
      found: name of a table, as a plugin spells it -> its entries.

    Raises:
      ConfigError: as `loaded`.
    """
    wrong, changed = [], {}
    for name, entries in found.items():
        field = FIELDS[name]
        there = getattr(tables, field)
        if not isinstance(entries, Mapping):
            wrong.append(f"{name} is no dictionary of names")
            continue
        kind, what = _KINDS.get(name, (Callable, "function"))
        for key, entry in entries.items():
            if not isinstance(key, str) or not key.isidentifier():
                wrong.append(f"{name} holds {key!r}, a name must be letters, digits and _")
            elif key in there:
                wrong.append(f"{name} holds {key!r}, which there is already")
            elif not isinstance(entry, kind):
                wrong.append(f"{name}[{key!r}] is no {what}")
            elif isinstance(entry, Source) and (lacking := _EVERY_SET - {*entry.training}):
                wrong.append(f"{name}[{key!r}] lacks {', '.join(sorted(lacking))} in its training")
        changed[field] = {**there, **entries}
    made = dataclasses.replace(tables, **changed)
    wrong = wrong or _of_parts(found, made.parts)
    if not wrong:
        own = [
            (option.flag or argument, option)
            for entries in found.values()
            for entry in entries.values()
            if isinstance(entry, Spec)
            for argument, option in entry.options.items()
        ]
        wrong = [
            f"the option {flag!r} is another one than that of the package"
            for flag, option in own
            if flag in tables.options and type(option) is not type(tables.options[flag])
        ]
        fields = {field.name for field in dataclasses.fields(Config)}
        reserved = made.options.keys() - tables.options.keys()
        reserved &= {*fields, *dir(Method), *Method.__annotations__, *_OF_THE_COMMAND}
        wrong += [f"the option {flag!r} has a name that is taken" for flag in sorted(reserved)]
        if not wrong:
            return made
    raise ConfigError("\n".join(wrong))


def _of_parts(found: Mapping[str, Mapping[str, Any]], tables: spec_lib.Tables) -> list[str]:
    """Complaints about rules whose parts are none, or have no end."""
    wrong = []
    for name, entries in found.items():
        own = FIELDS[name].removesuffix("s")
        measures = f" (of measures: {', '.join(spec_lib.OF_MEASURES)})"
        for key, entry in entries.items():
            if not isinstance(entry, Spec):
                continue
            for part in sorted(spec_lib.parts_within(entry, {}) - tables.keys()):
                words = ", ".join(tables)
                wrong.append(f"{name}[{key!r}] has a part {part!r}, it must be one of {words}")
            if own in spec_lib.parts_within(entry, tables):
                also = measures if own == "contribution" else ""
                wrong.append(f"{name}[{key!r}] has a part that it may be itself{also}")
    return wrong


# Flags that are no field of a config, which no option of a rule may be called either.
_OF_THE_COMMAND = (
    *("algorithms", "attack", "config", "out", "overwrite", "partition", "preset", "profile"),
    *("seed", "verbose", "no_cache"),
    *("quiet", "resume", "setting", "coordinator", "processes", "process", "best", "eval_split"),
    *("search", "points", "batch", "search_seed", "scheduler", "together", "on", "address"),
    *("cpus_per_task", "gpus_per_task"),
)
