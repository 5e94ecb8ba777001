"""What a rule declares of itself: how it is built, and from which numbers, choices and parts.

One `Spec` stands at the end of each rule's file and one line in a table. Flags and their help, the
fields of a config, what they may be, which of them a method reads and the contract tests follow.

    SPEC = Spec(iafl, {"kappa": Number(0.0, Interval(0, 1), "1 gives all to everybody", "kappa")})

The factory is called by keywords with exactly what is declared. All rules share one namespace of
flags, so an option may have another name there than its argument has: the argument `ties` is
`Choice(..., flag="mask_ties")`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from cgsv_jax.core.ranges import Interval

NOTHING: Mapping[str, Any] = {}


class When(NamedTuple):
    """What an option needs to mean anything: another one's words, or a number above 0."""

    options: tuple[str, ...]
    words: tuple[str, ...] = ()  # empty: any of the options is above 0

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is so."""
        chosen = [values.get(name) for name in self.options]
        return any(value in self.words for value in chosen) if self.words else any(chosen)


class Number(NamedTuple):
    """A number that may be traced: changing it never recompiles."""

    default: float | None
    allowed: Interval
    help: str
    letter: str = ""  # what it is called before a run; empty: it is not shown
    flag: str = ""  # its name outside; empty: the argument's
    when: When | None = None
    switch: bool = False  # whether 0 is another program: then the factory is not told of it
    instead_of: str = ""  # the number that it takes the place of, on one partition
    partition: str = ""  # which


class Count(NamedTuple):
    """A whole number that decides shapes: changing it recompiles."""

    default: int | None
    allowed: Interval
    help: str
    letter: str = ""
    flag: str = ""
    when: When | None = None


class Choice(NamedTuple):
    """One of some words."""

    default: str
    allowed: tuple[str, ...]
    help: str
    flag: str = ""
    when: When | None = None
    letter: str = ""


class Truth(NamedTuple):
    """Something that is done or not."""

    default: bool
    help: str
    flag: str = ""
    when: When | None = None
    letter: str = ""


Option = Number | Count | Choice | Truth


class Spec(NamedTuple):
    """How a rule is built: `build(**options, **parts, **given)`."""

    build: Callable[..., Any]
    options: Mapping[str, Option] = NOTHING  # by argument
    # Rules that it is made of, by argument: the word that chooses one of a table, or always this.
    parts: Mapping[str, "str | Spec"] = NOTHING
    # flag -> what its text or code says, where that is not the option's general default. What a
    # part says holds for the rule that it is in.
    defaults: Mapping[str, Any] = NOTHING
    given: tuple[str, ...] = ()  # what only the experiment knows: network, tensors, rounds


Tables = Mapping[str, Mapping[str, Spec]]  # argument of a part -> name -> declaration

# What is chosen by the name of an entry of a table.
PARTS = {
    "contribution": "contribution measure",
    "aggregation": "how uploads become the aggregate",
    "reward": "reward rule",
    "game": "what a coalition is worth to a measure of a game",
    "quotient_of": "measure of which near-duplicates have one share",
    "echo_of": "measure of who still agrees when what its client was sent is taken out",
    "s2_wef_of": "measure of who does not send what it was sent",
}
# Parts of measures that are measures, the outermost first: none may be made of those before it.
OF_MEASURES = ("quotient_of", "echo_of", "s2_wef_of")


def with_measures(parts: Tables) -> Tables:
    """The tables with those of `OF_MEASURES`: the contributions that such a part may be."""
    inner = {}
    for place, part in enumerate(OF_MEASURES, 1):
        outer = {*OF_MEASURES[:place]}
        inner[part] = {k: s for k, s in parts["contribution"].items() if not outer & {*s.parts}}
    return {**parts, **inner}


def parts_within(spec: Spec, tables: Tables) -> set[str]:
    """The names of the parts that a rule may be made of, those of its parts among them."""
    found, left = set(), [spec]
    while left:
        for part, chosen in left.pop().parts.items():
            if isinstance(chosen, Spec):
                left.append(chosen)
            elif part not in found:
                found.add(part)
                left += tables.get(part, {}).values()
    return found


def options_of(spec: Spec, words: Mapping[str, Any], tables: Tables) -> dict[str, Option]:
    """What a rule and the parts chosen for it read, by flag.

    Args:
      spec: of the rule.
      words: part -> the name chosen; one that is no name has no options.
      tables: the names that exist.
    """
    found = {option.flag or argument: option for argument, option in spec.options.items()}
    words = _words(spec, words)
    for part, default in spec.parts.items():
        chosen = default
        if isinstance(chosen, str):
            found[part] = Choice(chosen, tuple(tables[part]), PARTS[part])
            chosen = _entry(tables[part], words.get(part, chosen))
        own = options_of(chosen, words, tables) if chosen else {}
        found |= {flag: option for flag, option in own.items() if flag not in found}
    return found


def defaults_of(spec: Spec, words: Mapping[str, Any], tables: Tables) -> dict[str, Any]:
    """What a rule and the parts chosen for it say instead of general defaults, by flag."""
    found, words = dict(spec.defaults), _words(spec, words)
    for part, chosen in spec.parts.items():
        if isinstance(chosen, str):
            chosen = _entry(tables[part], words.get(part, chosen))
        inner = defaults_of(chosen, words, tables) if chosen else {}
        found |= {k: v for k, v in inner.items() if k not in PARTS or k not in spec.defaults}
    return found


def needed(values: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """The values of options that mean something beside the other values."""
    return {
        name: values[name]
        for name, option in options.items()
        if option.when is None or option.when.holds(values)
    }


def made(spec: Spec, values: Mapping[str, Any], given: Mapping[str, Any], tables: Tables) -> Any:
    """The rule, from values by flag; an option without a value is the factory's own business.

    Args:
      spec: of the rule.
      values: numbers, traced or not, and words; those that nobody declares are not looked at.
      given: what only the experiment knows.
      tables: the names that parts may have.

    Raises:
      ValueError: as the factories do.
    """
    arguments = {
        argument: values[option.flag or argument]
        for argument, option in spec.options.items()
        if (option.flag or argument) in values and not getattr(option, "instead_of", "")
    }
    values = _words(spec, values)
    for part, chosen in spec.parts.items():
        if isinstance(chosen, str):
            chosen = tables[part][values.get(part, chosen)]
        arguments[part] = made(chosen, values, given, tables)
    return spec.build(**arguments, **{name: given[name] for name in spec.given})


def every_option(specs: Iterable[Spec], tables: Tables) -> dict[str, Option]:
    """All options that these rules read, whatever their parts are, by flag."""
    found: dict[str, Option] = {}
    for spec in specs:
        own = options_of(spec, NOTHING, tables)
        for part, chosen in spec.parts.items():
            others = tables[part].values() if isinstance(chosen, str) else (chosen,)
            own |= {k: v for k, v in every_option(others, tables).items() if k not in own}
        found |= {flag: option for flag, option in own.items() if flag not in found}
    return found


def switches(spec: Spec, name: str, values: Mapping[str, Any], tables: Tables) -> Iterable[When]:
    """What a rule would have to be told to read an option that it does not read now."""
    values = _words(spec, values)
    for argument, option in spec.options.items():
        if name == (option.flag or argument) and option.when is not None:
            yield option.when
    for part, chosen in spec.parts.items():
        if isinstance(chosen, str):
            readers = tuple(w for w, s in tables[part].items() if name in every_option([s], tables))
            word = values.get(part, chosen)
            if readers and word not in readers:
                yield When((part,), readers)
                continue
            chosen = tables[part].get(word)
        if chosen is not None:
            yield from switches(chosen, name, values, tables)


def _entry(table: Mapping[str, Spec], word: Any) -> Spec | None:
    return table.get(word) if isinstance(word, str) else None


def _words(spec: Spec, words: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what a rule says of its parts, and of theirs, where nobody says otherwise."""
    return {name: word for name, word in spec.defaults.items() if name in PARTS} | {**words}
