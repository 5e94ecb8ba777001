"""What is wrong with a `Config`, in one sentence for each thing."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

from cgsv_jax.config import defaults, schema
from cgsv_jax.config.schema import Config, Method, Tables
from cgsv_jax.core.ranges import MAX_WHOLE, MOST_NUMBER, RANGES, Interval, from_
from cgsv_jax.core.ranges import shown as _shown
from cgsv_jax.host import files
from cgsv_jax.rules.spec import Choice, Number, Option, Truth


def validate(config: Config, tables: Tables) -> None:
    """Judges every value.

    Raises:
      ConfigError: one line for each that is not allowed.
    """
    schema.refuse(complaints(config, tables))


def complaints(config: Config, tables: Tables) -> list[str]:
    """A line for every value that is not allowed, and for those that contradict each other."""
    c = config
    complaints = [
        *known("dataset", c.dataset, tables.datasets),
        *known("model", c.model, tables.models),
        *_ranged(c),
        *known("precision", c.precision, tables.precisions),
        *known("conv", c.conv, tables.convs),
        *_truth("repeated_rows", c.repeated_rows),
        *_truth("dirichlet_balanced", c.dirichlet_balanced),
    ]
    if among(c.dataset, tables.datasets) and among(c.model, tables.models):
        complaints += _not_made_for_each_other(c, tables)
    for name in schema.PATHS:
        if getattr(c, name) is not None:
            complaints += _path(name, getattr(c, name))
    if c.layout is not LACKING and not _is_layout(c.layout):
        complaints.append(
            f"--layout is {_shown(c.layout)}, it must be auto, {', '.join(schema.LAYOUTS)} "
            "or a number of clients from 1"
        )
    most: Any = c.eval_clients
    if whole(most) and whole(c.clients) and most > c.clients:
        complaints.append(
            f"--eval-clients is {_shown(c.eval_clients)}, "
            f"it must be at most --clients, {_shown(c.clients)}"
        )
    for width in items(c.hidden):
        complaints += at_least("hidden", width, 1)
    if len(items(c.hidden)) > schema.MAX_LAYERS:
        complaints.append(f"--hidden has too many layers, it must have at most {schema.MAX_LAYERS}")
    complaints += distinct("seeds", c.seeds, schema.MAX_SEEDS)
    for seed in items(c.seeds):
        if not whole(seed) or not 0 <= seed < 2**32:
            complaints.append(f"--seeds holds {_shown(seed)}, every seed must be in 0..2^32-1")
    complaints += distinct("partitions", c.partitions)
    for partition in items(c.partitions):
        complaints += known("partition", partition, tables.partitions)
    for partition, (name, what) in schema.NEEDS.items():
        if partition in items(c.partitions) and getattr(c, name) in (None, ()):
            complaints.append(f"--partition {partition} needs {flag(name)}, {what}")
    if len(items(c.shares)) > schema.MAX_SEEDS:
        complaints.append(f"--shares names too many, it must name at most {schema.MAX_SEEDS}")
    for share in items(c.shares):
        complaints += number("shares", share, Interval(0, math.inf, "()"))
    if items(c.shares) and whole(c.clients) and len(c.shares) != c.clients:
        complaints.append(
            f"--shares names {len(c.shares)}, it must be one for each of the "
            f"{_shown(c.clients)} clients"
        )
    if c.methods is not LACKING:
        complaints += distinct("algorithms", tuple(m.name for m in c.methods))
    for method in items(c.methods):
        complaints += _method_complaints(method, tables)
        complaints += _counted_too_high(c, method)
    return complaints + _presence_complaints(c) + _attack_complaints(c, tables)


def _presence_complaints(c: Config) -> list[str]:
    """Who takes part: a cohort is drawn or given, and somebody is there from the first round."""
    complaints = known("cohort_by", c.cohort_by, schema.COHORTS_BY)
    if c.cohort is not None:
        if _countable(c.cohort, c.clients) and c.cohort > c.clients:
            complaints.append(f"--cohort is {c.cohort}, it must be at most --clients, {c.clients}")
        if c.attendance is not None:
            complaints.append("--cohort draws who takes part and --attendance says so, ask for one")
    elif c.cohort_by != "uniform":
        complaints.append(f"--cohort-by {_shown(c.cohort_by)} does nothing here: it needs --cohort")
    total = 0
    for text in items(c.late):
        try:
            count, first = schema.late_joiners(text)
        except (ValueError, TypeError, AttributeError):
            complaints.append(
                f"--late holds {_shown(text)}, it must hold clients:round, for instance 3:20"
            )
            continue
        total += count
        if count < 1 or (whole(c.rounds) and first >= c.rounds):
            complaints.append(
                f"--late holds {_shown(text)}, it must be at least one client and "
                f"a round before --rounds, {_shown(c.rounds)}"
            )
    if _countable(c.clients) and total >= c.clients > 0:
        complaints.append(
            f"--late delays {total} of {c.clients} clients, one must be there from the start"
        )
    return complaints


def _attack_complaints(c: Config, tables: Tables) -> list[str]:
    complaints, total = [], 0
    for text in items(c.attacks):
        try:
            name, count, strength = schema.attacking(text)
        except (ValueError, TypeError, AttributeError):
            complaints.append(
                f"--attack holds {_shown(text)}, it must hold name:clients or "
                "name:clients:strength, for instance sign_flip:3 or scaled:3:100"
            )
            continue
        if name not in tables.attacks:
            near = _one_of(name, tables.attacks)
            complaints.append(f"--attack holds {_shown(name)}, it must be one of {near}")
        if count < 1:
            complaints.append(f"--attack holds {_shown(text)}, it must be at least one client")
        if strength is not None and name == "replication":
            complaints.append(f"--attack holds {_shown(text)}, but {name} has no strength")
        if strength is not None and name in tables.label_attacks and not 0 < strength <= 1:
            complaints.append(
                f"--attack holds {_shown(text)}, the strength of {name} is a share of rows, "
                "it must be above 0 and at most 1"
            )
        if strength is not None and abs(strength) > MOST_NUMBER:
            complaints.append(
                f"--attack holds {_shown(text)}, whose strength is no number in float32"
            )
        # One client poses as several, and the others come on top of N.
        total += 1 if name == "replication" else count
    texts = [text for text in items(c.attacks) if isinstance(text, str)]
    names = [text.partition(":")[0] for text in texts]
    if len(set(names)) != len(names):
        shown = ", ".join(map(_shown, texts[:20]))
        complaints.append(f"--attack names an attack twice: {shown}")
    if _countable(c.clients) and total >= c.clients > 0:
        complaints.append(
            f"--attack makes {total} of {c.clients} clients cheat, one must be honest"
        )
    for number in items(c.attackers):
        if not whole(number) or (_countable(c.clients) and not 0 <= number < c.clients):
            complaints.append(
                f"--attackers holds {_shown(number)}, it must hold clients from 0 to "
                f"{c.clients - 1 if _countable(c.clients) else 'N - 1'}"
            )
    if items(c.attackers):
        complaints += distinct("attackers", c.attackers)
        if not items(c.attacks) and c.attacks is not LACKING:
            complaints.append("--attackers does nothing here: it needs --attack")
        elif not complaints and len(c.attackers) != total:
            complaints.append(
                f"--attackers names {len(c.attackers)} clients, --attack needs {total}"
            )
    return complaints


def _counted_too_high(c: Config, m: Method) -> list[str]:
    """Counts that no int32 holds, although each of their parts is one."""
    alone, permutations = m.get("finetune_rounds", 0), m.get("permutations", 0)
    counts = []
    if _countable(c.rounds, c.epochs, alone):  # the schedule counts local epochs
        counts.append(("--rounds times --epochs", (c.rounds + alone) * c.epochs))
    if _countable(c.clients, permutations):  # coalitions of a round
        counts.append(("--permutations times --clients", permutations * c.clients))
    return [
        f"{what} is {count}, it must be at most {MAX_WHOLE}"
        for what, count in counts
        if count > MAX_WHOLE
    ]


def _not_made_for_each_other(c: Config, tables: Tables) -> list[str]:
    """A network that reads words, on a data set without any, or the other way round."""
    if tables.datasets[c.dataset].tokens == (c.model in schema.OF_TOKENS):
        return []
    if c.model in schema.OF_TOKENS:
        having = [name for name, source in tables.datasets.items() if source.tokens]
        return [f"--model {c.model} reads words, it needs --dataset {' or '.join(having)}"]
    return [f"--dataset {c.dataset} is words, it needs --model {' or '.join(schema.OF_TOKENS)}"]


def _method_complaints(m: Method, tables: Tables) -> list[str]:
    complaints = _name_complaints(m, tables)
    for name, value in m.options:
        complaints += judged(name, value, m.declared[name])
    return complaints


def judged(name: str, value: Any, option: Option) -> list[str]:
    """What is wrong with the value of an option of a method."""
    if isinstance(option, Choice):
        return known(name, value, option.allowed)
    if isinstance(option, Truth):
        return _truth(name, value)
    if isinstance(option, Number) and option.instead_of and value is None:
        return []
    return number(name, value, option.allowed)


def _name_complaints(m: Method, tables: Tables) -> list[str]:
    """A method is named after what it runs, since tables, files and figures bear its name."""
    complaints = known("algorithms", m.algorithm, tables.algorithms)
    if complaints or LACKING in (m.name, m.algorithm):
        return complaints
    algorithm, colon, variant = m.name.partition(":") if isinstance(m.name, str) else ("", "", "")
    if algorithm != m.algorithm:
        return [
            f"--algorithms is {_shown(m.name)}, a method that runs {m.algorithm} must be named "
            f"{m.algorithm} or {m.algorithm}:preset"
        ]
    if colon and variant not in defaults.PRESETS:
        return [
            f"--algorithms is {_shown(m.name)}, whose preset is {_shown(variant)}, "
            f"it must be one of {_one_of(variant, defaults.PRESETS)}"
        ]
    return []


class _Lacking:
    """Stands where a file has no value, so that the rest can be judged; nothing is said of it."""


LACKING = _Lacking()


# Flags that are called otherwise than their fields.
RENAMED = {"partition": "partitions", "attack": "attacks"}


def flag(name: str) -> str:
    """The flag of a field."""
    words = {field: flag for flag, field in RENAMED.items()}
    return "--" + words.get(name, name).replace("_", "-")


def whole(value: Any) -> bool:
    """Whether a value is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _countable(*values: Any) -> bool:
    return all(whole(value) and 0 <= value <= MAX_WHOLE for value in values)


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
    return next(iter(difflib.get_close_matches(text, sorted(allowed), 1)), None)


def _one_of(value: Any, allowed: Iterable[str]) -> str:
    near = _near(value, allowed)
    return ", ".join(allowed) + (f" (did you mean {near}?)" if near else "")


def known(name: str, value: Any, allowed: Iterable[str]) -> list[str]:
    """What is wrong with a field that must be one of some words."""
    if value is LACKING or among(value, allowed):
        return []
    return [f"{flag(name)} is {_shown(value)}, it must be one of {_one_of(value, allowed)}"]


def _truth(name: str, value: Any) -> list[str]:
    if value is LACKING or isinstance(value, bool):
        return []
    return [f"{flag(name)} is {_shown(value)}, it must be true or false"]


def _path(name: str, value: Any) -> list[str]:
    if value is LACKING:
        return []
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


def _is_layout(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    # int() and isdigit() know digits of other alphabets as well, and int() none of 5,000 digits.
    number = value.isascii() and value.isdigit() and len(value) <= len(str(MAX_WHOLE))
    return value in schema.LAYOUTS or (number and 1 <= int(value) <= MAX_WHOLE)


def _ranged(config: Config) -> list[str]:
    """What is wrong with the numbers of `RANGES`; None stands where a field's default is None."""
    complaints = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in RANGES and not (value is None and field.default is None):
            complaints += number(field.name, value, RANGES[field.name])
    return complaints


def at_least(name: str, value: Any, least: int) -> list[str]:
    """What is wrong with a field that must be an integer from `least` on."""
    return number(name, value, from_(least))


def number(name: str, value: Any, allowed: Interval) -> list[str]:
    """What is wrong with a field that must be a number of an interval."""
    return [] if value is LACKING else allowed.complaints(flag(name), value)


def distinct(name: str, values: Any, most: int | None = None) -> list[str]:
    """What is wrong with a field that must hold at least one value, and none twice."""
    if values is LACKING:
        return []
    if not values:
        return [f"{flag(name)} is empty, it must name at least one"]
    if most is not None and len(values) > most:
        return [f"{flag(name)} names too many, it must name at most {most}"]
    if len(set(map(_identity, values))) != len(values):
        shown = ", ".join(
            value if isinstance(value, str) else _shown(value) for value in values[:20]
        )
        return [f"{flag(name)} names something twice: {shown}"]
    return []


def _identity(value: Any) -> Any:
    """What makes a value another one; of what is refused for its type anyway, the object."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return value if isinstance(value, str | int | float) else id(value)
