"""How a field of a `Config` is declared: once, in the words in which rules declare theirs.

A field's default, the flag and its help, what may be asked for, and where it would do nothing
follow from its line in `schema.Config`:

    clients: int = _partition(Count(10, from_(1), "number of clients N"))

The kinds are those of `rules.spec` and, for what no rule has, those below.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from cgsv_jax.rules.spec import Choice, Count, Number, Truth, When

MOST = 10_000  # items of a list


class Name(NamedTuple):
    """One of the names of a table."""

    default: str | None
    table: str  # field of `schema.Tables`
    help: str = ""


class Path(NamedTuple):
    """Where something lies: absolute in a config, since it may be read from another folder."""

    help: str
    default: None = None


class Word(NamedTuple):
    """What a function reads: it raises a ValueError, TypeError or AttributeError, or is content."""

    read: Callable[[Any], Any]
    must: str  # what is said of a word that cannot be read: it must ...
    help: str = ""
    default: str | None = None
    metavar: str = "NAME"  # how help writes such a word


class Several(NamedTuple):
    """A list."""

    default: Any
    of: "Count | Number | Name | Word | Choice"  # every item
    help: str
    most: int = MOST
    too_many: str = "names too many, it must name"
    distinct: bool = False  # at least one, and none twice
    counted: bool = False  # a number n stands for 0, 1, ..., n - 1
    flag: str = ""  # as in `rules.spec`


Kind = Number | Count | Choice | Truth | Name | Path | Word | Several


class Field(NamedTuple):
    """What stands behind a field: what it may be, and what is said of it."""

    group: str  # of flags
    kind: Kind
    shown: str | None = None  # the default, as help says it; None: as the tables of defaults say
    alias: str | None = None  # a second name of the flag
    on: tuple[str, ...] = ()  # the only partitions on which it means anything; empty: all
    when: When | None = None  # what else it needs to mean anything
    needed: str = ""  # what the partitions that it is for cannot be without
    rows: bool = False  # it says which examples there are, or who holds which
    optional: bool = False  # None is a value, as the annotation says


def declared(group: str, kind: Kind, *rest: Any, **others: Any) -> Any:
    """A field of a dataclass, with its declaration."""
    field = Field(group, kind, *rest, **others)
    return dataclasses.field(default=kind.default, metadata={"field": field})


def of(kind: type) -> dict[str, Field]:
    """The fields that a dataclass declares, by name."""
    return {
        field.name: field.metadata["field"]._replace(
            optional=type(None) in typing.get_args(field.type)
        )
        for field in dataclasses.fields(kind)
        if field.metadata
    }


def flag_of(name: str, field: Field) -> str:
    """What a field is called by the command."""
    return getattr(field.kind, "flag", "") or name
