"""How a method is written: `ALGORITHM[option=value,option=value]:preset`, or a name of one's own.

`cgsv[contribution=shapley,beta=5]:released` is the algorithm cgsv with Shapley values, beta 5, and
everything else as the preset `released` has it. The same words stand in tables, figures and files,
and are read back from there.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cgsv_jax.rules.spec import Count, Number, Option, Truth

LONGEST = 300  # characters of a method's name
LONGEST_LABEL = 40
_NAME = r"[^\[\]:,=\s]*"
_FORM = re.compile(rf"({_NAME})(?:\[([^\[\]]*)\])?(?::({_NAME}))?")
_OWN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")


class Variant(NamedTuple):
    """A method as it is asked for; nothing of it is known to exist."""

    algorithm: str
    options: tuple[tuple[str, str], ...] = ()  # option, and its value as written
    preset: str | None = None


def split(text: str) -> tuple[str, ...]:
    """The methods of a list; commas in brackets separate none.

    >>> split("cgsv, cgsv[contribution=shapley,beta=5]:released,fedavg")
    ('cgsv', 'cgsv[contribution=shapley,beta=5]:released', 'fedavg')
    """
    depth, items = 0, [""]
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += character
    return tuple(item.strip() for item in items if item.strip())


def read(text: Any) -> Variant:
    """A method as it is written; spaces around options say nothing.

    >>> read("cgsv[beta=5]:released")
    Variant(algorithm='cgsv', options=(('beta', '5'),), preset='released')

    Raises:
      ValueError: it is written otherwise; the message says how.
    """
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("it must be a method, method:preset or method[option=value,...]:preset")
    algorithm, inside, preset = found.groups()
    options = []
    for item in [] if inside is None else inside.split(","):
        name, sign, value = (word.strip() for word in item.partition("="))
        if not (name and sign and value):
            raise ValueError("in brackets it must hold option=value, commas between")
        options.append((name.replace("-", "_"), value))
    names = [name for name, _ in options]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"it must name an option once, {twice[0]} is there twice")
    return Variant(algorithm, tuple(options), preset)


def written(algorithm: str, values: Mapping[str, Any], preset: str | None = None) -> str:
    """The inverse of `read`, of values as `value_of` gives them.

    >>> written("cgsv", {"contribution": "shapley", "beta": 5.0}, "released")
    'cgsv[contribution=shapley,beta=5]:released'
    """
    inside = ",".join(f"{name}={shown(value)}" for name, value in values.items())
    return algorithm + (f"[{inside}]" if inside else "") + (f":{preset}" if preset else "")


def shown(value: Any) -> str:
    """A value in as few characters as say all of it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value or math.isnan(value) else repr(value)
    return str(value)


def value_of(option: Option, text: str) -> Any:
    """What a word means to an option; one that means nothing stays, for `validate` to refuse."""
    if isinstance(option, Truth):
        return {"true": True, "false": False}.get(text, text)
    cast = {Number: float, Count: int}.get(type(option), str)
    try:
        return cast(text)
    except ValueError:
        return text


def is_own(name: Any, algorithms: Iterable[str]) -> bool:
    """Whether it may be a name of one's own: a word that no algorithm is called."""
    return isinstance(name, str) and _OWN.fullmatch(name) is not None and name not in algorithms


def is_label(name: Any, algorithms: Iterable[str]) -> bool:
    """Whether a method may be called so in tables, figures and files, whatever it is.

    Python gives such names, where no comma separates methods: "CGSV, five". Folders may be called
    so too, so that it is no path.
    """
    if not isinstance(name, str) or not name.isprintable() or name != name.strip():
        return False
    plain = not set(name) & set("[]:/\\") and not name.startswith(".")
    return plain and 1 <= len(name) <= LONGEST_LABEL and name not in algorithms


def breakable(text: str) -> list[str]:
    """The pieces of a method's name, between which a line may break; of another text itself.

    >>> breakable("cgsv[contribution=shapley,beta=5]:released")
    ['cgsv', '[contribution=', 'shapley,', 'beta=', '5]', ':released']
    >>> breakable("77.0 [74.1, 79.2]")
    ['77.0 [74.1, 79.2]']
    """
    if " " in text or text.endswith(":") or not _FORM.fullmatch(text):
        return [text]
    return re.findall(r"[\[:]?[^\[\]:,=]*[,=\]]?", text)[:-1]
