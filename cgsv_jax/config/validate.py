"""What is wrong with a `Config`, in one sentence for each thing."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cgsv_jax.config import defaults, fields, schema, variants
from cgsv_jax.config.fields import Field, Kind, Name, Path, Several, Word
from cgsv_jax.config.schema import Config, Method, Tables
from cgsv_jax.core.ranges import MAX_WHOLE, MOST_NUMBER, Interval, from_
from cgsv_jax.core.ranges import shown as _shown
from cgsv_jax.host import files
from cgsv_jax.rules.spec import Choice, Number, Truth

_Between = tuple[tuple[str, ...], Callable[[Config, Tables], Iterable[str]]]


def complaints(config: Config, tables: Tables) -> list[str]:
    """A line for every value that is not allowed, and for those that contradict each other."""
    wrong = {
        name: _field_complaints(name, getattr(config, name), field, tables)
        for name, field in schema.FIELDS.items()
    }
    sound = {n for n, lines in wrong.items() if not lines and getattr(config, n) is not LACKING}
    found = [line for lines in wrong.values() for line in lines]
    for names, between in _BETWEEN:
        if sound.issuperset(names):
            found += between(config, tables)
    if "partitions" in sound:
        found += [
            f"--partition {partition} needs {flag(name)}, {schema.FIELDS[name].needed}"
            for partition, name in schema.NEEDS.items()
            if partition in config.partitions and getattr(config, name) in (None, ())
        ]
    if config.methods is not LACKING:
        found += distinct("algorithms", tuple(m.name for m in config.methods))
    for method in items(config.methods):
        found += method_complaints(method, tables)
        found += _counted_too_high(config, method)
    return found


def _field_complaints(name: str, value: Any, field: Field, tables: Tables) -> list[str]:
    if value is LACKING or (value is None and field.optional):
        return []
    return judged(name, value, field.kind, tables)


def judged(name: str, value: Any, kind: Kind, tables: Tables, what: str = "is") -> list[str]:
    """What is wrong with the value of a field, or of an option of a method.

    Args:
      name: of the field or option.
      value: of any type.
      kind: as it is declared.
      tables: the names that exist.
      what: its flag does with the value.
    """
    match kind:
        case Name():
            return known(name, value, getattr(tables, kind.table))
        case Choice():
            return known(name, value, kind.allowed)
        case Truth():
            wrong = not isinstance(value, bool)
            return [f"{flag(name)} is {_shown(value)}, it must be true or false"] * wrong
        case Path():
            return _path(name, value)
        case Word():
            try:
                kind.read(value)
            except (ValueError, TypeError, AttributeError):
                return [f"{flag(name)} {what} {_shown(value)}, {kind.must}"]
            return []
        case Several():
            found = distinct(name, value, kind.most) if kind.distinct else []
            if len(value) > kind.most and not kind.distinct:
                found = [f"{flag(name)} {kind.too_many} at most {kind.most}"]
            return found + [
                line for item in value for line in judged(name, item, kind.of, tables, "holds")
            ]
    if isinstance(kind, Number) and kind.instead_of and value is None:
        return []
    return [line.replace(" is ", f" {what} ", 1) for line in number(name, value, kind.allowed)]


# ---------------------------------------------------------------- fields beside each other


def _words_or_none(c: Config, tables: Tables) -> Iterable[str]:
    """A network that reads words, on a data set without any, or the other way round."""
    if tables.datasets[c.dataset].tokens != (c.model in schema.OF_TOKENS):
        if c.model in schema.OF_TOKENS:
            having = " or ".join(name for name, own in tables.datasets.items() if own.tokens)
            yield f"--model {c.model} reads words, it needs --dataset {having}"
        else:
            reading = " or ".join(schema.OF_TOKENS)
            yield f"--dataset {c.dataset} is words, it needs --model {reading}"


def _one_dirichlet(c: Config, tables: Tables) -> Iterable[str]:
    if c.dirichlet_balanced and c.dirichlet_equal:
        yield "--dirichlet-balanced and --dirichlet-equal are two rules, it must be one of them"


def _at_most_all(name: str) -> _Between:
    def between(c: Config, tables: Tables) -> Iterable[str]:
        count = getattr(c, name)
        if count is not None and count > c.clients:
            yield f"{flag(name)} is {count}, it must be at most --clients, {c.clients}"

    return (name, "clients"), between


def _something_to_draw(c: Config, tables: Tables) -> Iterable[str]:
    # One partition would count as several, and every interval over draws would be too narrow.
    for partition in schema.NOT_DRAWN:
        if c.partition_seeds > 1 and partition in c.partitions:
            yield (
                f"--partition-seeds is {c.partition_seeds}, it must be 1 with --partition "
                f"{partition}, which says who holds what: there is nothing to draw anew"
            )


def _a_share_each(c: Config, tables: Tables) -> Iterable[str]:
    if c.shares and len(c.shares) != c.clients:
        yield (
            f"--shares names {len(c.shares)}, it must be one for each of the {c.clients} clients"
        )


def _drawn_or_told(c: Config, tables: Tables) -> Iterable[str]:
    if c.cohort is not None and c.attendance is not None:
        yield "--cohort draws who takes part and --attendance says so, ask for one"
    if c.cohort is None and c.cohort_by != "uniform":
        yield f"--cohort-by {_shown(c.cohort_by)} does nothing here: it needs --cohort"


def _late_in_time(c: Config, tables: Tables) -> Iterable[str]:
    for text in c.late:
        count, first = schema.late_joiners(text)
        if count < 1 or first >= c.rounds:
            yield (
                f"--late holds {_shown(text)}, it must be at least one client and "
                f"a round before --rounds, {c.rounds}"
            )


def _somebody_from_the_start(c: Config, tables: Tables) -> Iterable[str]:
    total = sum(schema.late_joiners(text)[0] for text in c.late)
    if total >= c.clients:
        yield f"--late delays {total} of {c.clients} clients, one must be there from the start"


def _attacks_there_are(c: Config, tables: Tables) -> Iterable[str]:
    names = []
    for text in c.attacks:
        name, count, strength = schema.attacking(text)
        names.append(name)
        says = f"--attack holds {_shown(text)}"
        if name not in tables.attacks:
            near = one_of(name, tables.attacks)
            yield f"--attack holds {_shown(name)}, it must be one of {near}"
        if count < 1:
            yield f"{says}, it must be at least one client"
        if strength is None:
            continue
        if name == "replication":
            yield f"{says}, but {name} has no strength"
        if name in tables.strengths:
            for complaint in tables.strengths[name].complaints(name, strength):
                yield f"{says}: {complaint}"
        if abs(strength) > MOST_NUMBER:
            yield f"{says}, whose strength is no number in float32"
    if len(set(names)) != len(names):
        yield f"--attack names an attack twice: {', '.join(map(_shown, c.attacks[:20]))}"


def _attackers_of(c: Config) -> int:
    """Clients that cheat: of those that are copies of one, the others come on top of N."""
    attacks = map(schema.attacking, c.attacks)
    return sum(1 if name == "replication" else count for name, count, _ in attacks)


def _somebody_honest(c: Config, tables: Tables) -> Iterable[str]:
    if (total := _attackers_of(c)) >= c.clients:
        yield f"--attack makes {total} of {c.clients} clients cheat, one must be honest"


def _attackers_there_are(c: Config, tables: Tables) -> Iterable[str]:
    outside = [number for number in c.attackers if number >= c.clients]
    for number in outside:
        yield (
            f"--attackers holds {_shown(number)}, it must hold clients from 0 to {c.clients - 1}"
        )
    if not c.attackers or outside:
        return
    twice = distinct("attackers", c.attackers)
    yield from twice
    if not c.attacks:
        yield "--attackers does nothing here: it needs --attack"
    elif not twice and len(c.attackers) != (total := _attackers_of(c)):
        yield f"--attackers names {len(c.attackers)} clients, --attack needs {total}"


# The fields that a sentence is about, each right by itself, and what it says of them together.
_BETWEEN: tuple[_Between, ...] = (
    (("dataset", "model"), _words_or_none),
    _at_most_all("eval_clients"),
    (("partition_seeds", "partitions"), _something_to_draw),
    (("shares", "clients"), _a_share_each),
    (("dirichlet_balanced", "dirichlet_equal"), _one_dirichlet),
    _at_most_all("cohort"),
    (("cohort", "cohort_by", "attendance"), _drawn_or_told),
    (("late", "rounds"), _late_in_time),
    (("late", "clients"), _somebody_from_the_start),
    (("attacks",), _attacks_there_are),
    (("attacks", "clients"), _somebody_honest),
    (("attacks", "attackers", "clients"), _attackers_there_are),
)


def _counted_too_high(c: Config, m: Method) -> list[str]:
    """Counts that no int32 holds, although each of their parts is one."""
    alone, permutations = m.get("finetune_rounds", 0), m.get("permutations", 0)
    counts = []
    # The schedule counts local epochs, of which there are at most as many as steps.
    name, each = ("epochs", c.epochs) if c.local_steps is None else ("local_steps", c.local_steps)
    if _countable(c.rounds, each, alone):
        counts.append((f"--rounds times {flag(name)}", (c.rounds + alone) * each))
    if _countable(c.clients, permutations):  # coalitions of a round
        counts.append(("--permutations times --clients", permutations * c.clients))
    return [
        f"{what} is {count}, it must be at most {MAX_WHOLE}"
        for what, count in counts
        if count > MAX_WHOLE
    ]


def method_complaints(m: Method, tables: Tables) -> list[str]:
    """What is wrong with a method's name and with its options, each beside nothing else."""
    found = _name_complaints(m, tables)
    for name, value in m.options:
        if value is not LACKING:
            wrong = judged(name, value, m.declared[name], tables)
            own = isinstance(m.name, str) and f"{name}=" in m.name
            found += [f"{line} (in {m.name})" if own else line for line in wrong]
    return found


def _name_complaints(m: Method, tables: Tables) -> list[str]:
    """A method is named after what it runs, since tables, files and figures bear its name."""
    complaints = []
    if m.algorithm is not LACKING:
        complaints = known("algorithms", m.algorithm, tables.algorithms)
    if complaints or LACKING in (m.name, m.algorithm):
        return complaints
    if variants.is_label(m.name, tables.algorithms):
        return []
    try:
        algorithm, pairs, preset = variants.read(m.name)
    except ValueError:
        algorithm, pairs, preset = None, (), None
    if algorithm != m.algorithm or len(m.name) > variants.LONGEST:
        return [
            f"--algorithms is {_shown(m.name)}, a method that runs {m.algorithm} must be named "
            f"{m.algorithm}, {m.algorithm}[option=value,...]:preset or a name of one's own"
        ]
    return preset_complaints(m.name, preset) or [
        f"--algorithms is {_shown(m.name)}, it must be named after its options: its {name} is "
        f"{_shown(m.get(name))}"
        for name, word in pairs
        if m.get(name, LACKING) is not LACKING
        and variants.value_of(m.declared[name], word) != m.get(name)
    ] + [
        f"--algorithms is {_shown(m.name)}, it must be named after its options: it reads no {name}"
        for name, _ in pairs
        if name not in m.values
    ]


def preset_complaints(method: Any, preset: Any) -> list[str]:
    """What is wrong with the preset of one method, None of one that has none of its own."""
    if preset is None or among(preset, defaults.PRESETS):
        return []
    return [
        f"--algorithms is {_shown(method)}, whose preset is {_shown(preset)}, "
        f"it must be one of {one_of(preset, defaults.PRESETS)}"
    ]


class _Lacking:
    """Stands where a file has no value, so that the rest can be judged; nothing is said of it."""


LACKING = _Lacking()


_FLAGS = {name: fields.flag_of(name, field) for name, field in schema.FIELDS.items()}
# Flags that are called otherwise than their fields.
RENAMED = {flag: name for name, flag in _FLAGS.items() if flag != name}


def fields_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for by flag, by field."""
    return {RENAMED.get(name, name): value for name, value in flags.items()}


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + _FLAGS.get(name, name).replace("_", "-")


def _countable(*values: Any) -> bool:
    return all(schema.whole(value) and 0 <= value <= MAX_WHOLE for value in values)


def among(value: Any, names: Iterable[str]) -> bool:
    """Whether a value of any type, hashable or not, is one of these names."""
    return isinstance(value, str) and value in names


def items(values: Any) -> tuple:
    """The items of a sequence; none where a file lacks it."""
    return () if values is LACKING else values


def unknown(what: str, value: Any, allowed: Iterable[str]) -> str:
    """What is said of a name that does not exist, with the nearest one that does."""
    near = _near(value, allowed)
    return f"{_shown(value)} is no {what}" + (f", did you mean {near!r}?" if near else "")


def _near(value: Any, allowed: Iterable[str]) -> str | None:
    # Cut, because the comparison takes time by the square of the length.
    text = value[:80] if isinstance(value, str) else ""
    names = {name.casefold(): name for name in sorted(allowed)}
    near = difflib.get_close_matches(text.casefold(), names, 1)
    return names[near[0]] if near else None


def one_of(value: Any, allowed: Iterable[str]) -> str:
    """The names that there are, and the one that is nearest to a value."""
    near = _near(value, allowed)
    return ", ".join(allowed) + (f" (did you mean {near}?)" if near else "")


def known(name: str, value: Any, allowed: Iterable[str]) -> list[str]:
    """What is wrong with a field that must be one of some words."""
    if among(value, allowed):
        return []
    return [f"{flag(name)} is {_shown(value)}, it must be one of {one_of(value, allowed)}"]


def _path(name: str, value: Any) -> list[str]:
    if not isinstance(value, str):
        return [f"{flag(name)} is {_shown(value)}, it must be a path"]
    try:
        files.path_of(value, flag(name))
    except ValueError as error:
        return [str(error)]
    return []


def absolute(name: str, value: Any) -> Any:
    """A path from where this process is; what is none as it is, for `_path` to refuse."""
    if not (isinstance(value, str) or hasattr(value, "__fspath__")):
        return value
    try:
        return str(files.path_of(value, flag(name)).absolute())
    except ValueError:
        return value


def at_least(name: str, value: Any, least: int) -> list[str]:
    """What is wrong with a field that must be an integer from `least` on."""
    return number(name, value, from_(least))


def number(name: str, value: Any, allowed: Interval) -> list[str]:
    """What is wrong with a field that must be a number of an interval."""
    return allowed.complaints(flag(name), value)


def distinct(name: str, values: Any, most: int | None = None) -> list[str]:
    """What is wrong with a field that must hold at least one value, and none twice."""
    if not values:
        return [f"{flag(name)} is empty, it must name at least one"]
    if most is not None and len(values) > most:
        return [f"{flag(name)} names too many, it must name at most {most}"]
    if len(set(map(_identity, values))) != len(values):
        shown = ", ".join(
            value if isinstance(value, str) and value.isprintable() else _shown(value)
            for value in values[:20]
        )
        return [f"{flag(name)} names something twice: {shown}"]
    return []


def _identity(value: Any) -> Any:
    """What makes a value another one; of what is refused for its type anyway, the object."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return value if isinstance(value, str | int | float) else id(value)
