"""Names as people write them become the names that there are: `MNIST`, `Power-Law`, `iid`."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cgsv_jax.config import defaults, schema, validate
from cgsv_jax.config.fields import Name, Several
from cgsv_jax.config.schema import Tables
from cgsv_jax.host import words
from cgsv_jax.rules.spec import NOTHING, Choice

# Words that people say for a name, by table.
_SAID = {"partitions": {"iid": "uniform"}}
_LISTS = (".npz", ".npy", ".json", ".csv", ".txt")  # files of the row numbers of every client


def spelled(asked: Mapping[str, Any], tables: Tables) -> dict[str, Any]:
    """Options with the names that there are, where case and hyphens alone differ.

    Args:
      asked: options by name, of any type; of several values a list or a tuple.
      tables: the names that exist.
    """
    found = dict(asked)
    for option, value in asked.items():
        if read := _reader(option, tables):
            if type(value) in (list, tuple):
                found[option] = type(value)(_read(read, item) for item in value)
            else:
                found[option] = _read(read, value)
    return _listed(found, tables)


def _listed(asked: dict[str, Any], tables: Tables) -> dict[str, Any]:
    """A partition that is a file is `from_lists` of that file."""
    word = asked.get("partitions")
    if isinstance(word, list | tuple) and len(word) == 1:
        (word,) = word
    file = isinstance(word, str) and word not in tables.partitions and word.endswith(_LISTS)
    if not file or asked.get("lists") is not None:
        return asked
    return {**asked, "partitions": ("from_lists",), "lists": validate.absolute("lists", word)}


def _read(read: Callable[[str], str], value: Any) -> Any:
    return read(value) if isinstance(value, str) else value


def _reader(option: str, tables: Tables) -> Callable[[str], str] | None:
    """How the words of an option are read; None: it holds no names."""
    if option == "algorithms":
        return functools.partial(_method, names=(*tables.algorithms, "all"))
    if option == "attacks":
        return functools.partial(_attack, names=tables.attacks)
    if option == "preset":
        return functools.partial(words.meant, names=defaults.PRESETS)
    field = schema.FIELDS.get(option)
    kind = tables.options.get(option) if field is None else field.kind
    kind = kind.of if isinstance(kind, Several) else kind
    if isinstance(kind, Name):
        said = _SAID.get(kind.table, NOTHING)
        return functools.partial(_name, names=getattr(tables, kind.table), said=said)
    return functools.partial(words.meant, names=kind.allowed) if isinstance(kind, Choice) else None


def _name(word: str, names: Iterable[str], said: Mapping[str, str]) -> str:
    found = words.meant(word, names)
    return found if found in names else said.get(words.meant(word, said), word)


def _method(word: str, names: Iterable[str]) -> str:
    """A method's name, with a preset behind a colon, and what else is said of it in between."""
    cut = min((word.find(mark) for mark in ":[" if mark in word), default=len(word))
    between, colon, preset = word[cut:].rpartition(":")
    preset = words.meant(preset, defaults.PRESETS) if colon else preset
    return words.meant(word[:cut], names) + between + colon + preset


def _attack(word: str, names: Iterable[str]) -> str:
    name, colon, rest = word.partition(":")
    return words.meant(name, names) + colon + rest
