"""From what somebody asked for, or from a file, to a `Config`; and back."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cgsv_jax.config import defaults, schema
from cgsv_jax.config import validate as validate_lib
from cgsv_jax.config.schema import Config, ConfigError, Method, Tables
from cgsv_jax.core.ranges import MAX_WHOLE
from cgsv_jax.core.ranges import shown as _shown
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Number, Option


def resolve(tables: "Tables", backend: str = "cpu", **asked: Any) -> Config:
    """A complete `Config` from what was asked for; everything else is the data set's default.

    Args:
      tables: the names that exist.
      backend: decides what the layout "auto" means.
      **asked: fields of `Config` except `methods`, fields of `Method` except `name` (they hold for
        every method), `algorithms` (names, or "name:preset") and `preset`. None means default.

    Raises:
      ConfigError: naming every field that is unknown or out of range.
    """
    asked = {key: _plain(value) for key, value in asked.items() if value is not None}
    dataset = asked.pop("dataset", defaults.DEFAULTS["dataset"])
    preset = asked.pop("preset", defaults.DEFAULTS["preset"])
    algorithms = _sequence(asked.pop("algorithms", defaults.DEFAULTS["algorithms"]))
    if algorithms == ("all",):
        algorithms = tuple(tables.algorithms)
    common = {f.name for f in dataclasses.fields(Config)} - {"methods", "dataset", "tables"}
    own = tables.options
    allowed = {*common, *own, "dataset", "preset", "algorithms"}
    complaints = [
        validate_lib.unknown("option", key, allowed) for key in asked if key not in allowed
    ]
    complaints += validate_lib.known("preset", preset, defaults.PRESETS)
    # What is no name of a data set or a preset is named; the rest is judged beside a known one.
    numbers_of = dataset if validate_lib.among(dataset, tables.datasets) else "digits"
    preset = preset if validate_lib.among(preset, defaults.PRESETS) else "paper"
    source = tables.datasets[numbers_of]

    def method(name: Any) -> Method:
        algorithm, _, variant = name.partition(":") if isinstance(name, str) else (name, "", "")
        variant = variant if variant in defaults.PRESETS else preset
        training = {**source.training, **defaults.PRESETS[variant]}
        if variant == "released":
            training |= defaults.RELEASED_TRAINING.get(numbers_of, {})
        given = {key: value for key, value in asked.items() if key in own}
        if not validate_lib.among(algorithm, tables.algorithms):
            return Method(name, algorithm, (), {})
        return _method(name, algorithm, training, given, tables)

    shares = _sequence(asked.get("shares", ()))
    fields = {
        "model": source.model,
        "clients": len(shares) or defaults.DEFAULTS["clients"],
        "partitions": defaults.DEFAULTS["partitions"],
        "seeds": defaults.DEFAULTS["seeds"],
        "rounds": source.training["rounds"],
        "epochs": source.training["epochs"],
        "batch_size": source.training["batch_size"],
        "rows_per_client": source.rows_per_client,
        "validation_share": source.validation_share,
        "layout": "auto",
    } | {key: value for key, value in asked.items() if key in common}
    fields |= {
        name: validate_lib.absolute(name, fields[name]) for name in schema.PATHS if name in fields
    }
    fields["partitions"] = _sequence(fields["partitions"])
    fields["hidden"] = _sequence(fields.get("hidden", (64,)))
    lists = ("late", "attacks", "attackers", "shares")
    fields |= {name: _sequence(fields.get(name, ())) for name in lists}
    if validate_lib.whole(fields["seeds"]):  # so many of them: 0, 1, 2, ...
        count = fields["seeds"]
        if not 1 <= count <= schema.MAX_SEEDS:
            complaints.append(
                f"--seeds is {_shown(count)}, a number of seeds must be in 1..{schema.MAX_SEEDS}"
            )
        fields["seeds"] = tuple(range(min(max(count, 1), schema.MAX_SEEDS)))
    else:
        fields["seeds"] = _sequence(fields["seeds"])
    if fields["layout"] == "auto":
        # As `layout.default_width` says, except that accelerators look at the sizes of clients.
        on_cpu = "one" if fields["model"] in schema.CONVOLUTIONAL + schema.OF_TOKENS else "4"
        fields["layout"] = on_cpu if backend == "cpu" else "balanced"
    layout: Any = fields["layout"]
    if validate_lib.whole(layout) and 1 <= layout <= MAX_WHOLE:
        fields["layout"] = str(layout)
    if "eval_every" not in fields:  # about twenty points on a curve
        rounds = fields["rounds"]
        fields["eval_every"] = -(-rounds // 20) if validate_lib.whole(rounds) and rounds > 0 else 1
    config = Config(
        dataset=dataset,
        methods=tuple(method(name) for name in algorithms),
        **_of_tables(tables),
        **fields,
    )
    schema.refuse(
        complaints + validate_lib.complaints(config, tables) + _idle_options(config, asked, tables)
    )
    return config


def _method(
    name: str,
    algorithm: str,
    training: Mapping[str, Any],
    given: Mapping[str, Any],
    tables: Tables,
) -> Method:
    """What an algorithm reads: as given, else as its text says, else as its data set does."""
    spec, parts = tables.algorithms[algorithm], tables.parts
    options = {**schema.TRAINING, **spec_lib.options_of(spec, given, parts)}
    values = {flag: option.default for flag, option in options.items()}
    values |= {**training, **spec_lib.defaults_of(spec, given, parts)}
    for flag, option in options.items():
        if isinstance(option, Number) and option.instead_of in given:
            values[flag] = None  # what is asked for holds on every partition
    return method_of(name, algorithm, {**values, **given}, options)


def method_of(
    name: str, algorithm: str, values: Mapping[str, Any], options: Mapping[str, Option]
) -> Method:
    """A method of the values that mean something beside each other."""
    values = spec_lib.needed(values, options)
    return Method(name, algorithm, tuple(values.items()), {flag: options[flag] for flag in values})


def _idle_options(config: Config, asked: Mapping[str, Any], tables: "Tables") -> list[str]:
    """An option that would do nothing is a misunderstanding, so it is refused."""
    thinned = tuple(name for name in tables.partitions if name not in schema.CHOSEN_ROWS)
    only_with = schema.ONLY_WITH | {"rows_per_client": ("partitions", thinned)}
    for name, option in tables.options.items():
        if isinstance(option, Number) and option.instead_of:
            only_with[name] = ("partitions", (option.partition,))
    complaints = []
    for name in asked:
        if name in only_with:
            other, allowed = only_with[name]
            used = _sequence(getattr(config, other))
            everything = getattr(tables, other if other == "partitions" else f"{other}s")
            complaints += _idle(name, other, allowed, used, everything)
        if name in tables.options:
            complaints += _idle_option(config, name, asked[name], tables)
    return complaints


def _idle_option(config: Config, name: str, value: Any, tables: Tables) -> list[str]:
    """What is said of an option that no method reads."""
    methods = config.methods
    if any(name in method.values for method in methods):
        return []
    wrong = validate_lib.judged(name, value, tables.options[name])
    for method in methods:  # an unknown name cannot tell which options it reads
        if any(validate_lib.judged(n, v, method.declared[n]) for n, v in method.words().items()):
            return wrong
        if not validate_lib.among(method.algorithm, tables.algorithms):
            return wrong
    switches: dict[str, list[str]] = {}
    for method in methods:
        training = schema.TRAINING.get(name)
        found = spec_lib.switches(
            tables.algorithms[method.algorithm], name, method.values, tables.parts
        )
        if training is not None and training.when is not None:
            found = [training.when]
        for when in found:
            switches.setdefault(when.options[0], []).extend(when.words or ("above 0",))
    readers = [
        algorithm
        for algorithm, spec in tables.algorithms.items()
        if name in spec_lib.every_option([spec], tables.parts)
    ]
    other, allowed = next(iter(switches.items()), ("algorithms", readers))
    need = f"{validate_lib.flag(other)} {' or '.join(dict.fromkeys(allowed))}"
    return [*wrong, f"{validate_lib.flag(name)} does nothing here: it needs {need}"]


def _idle(
    name: str, other: str, allowed: Iterable[str], used: Iterable[Any], everything: Iterable[str]
) -> list[str]:
    # Of a name that does not exist nobody knows what it would have read.
    if not used or not all(validate_lib.among(v, everything) and v not in allowed for v in used):
        return []
    need = f"{validate_lib.flag(other)} {' or '.join(allowed)}"
    return [f"{validate_lib.flag(name)} does nothing here: it needs {need}"]


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain lists, numbers and strings; infinity is the string "inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, Method):
            own = {"name": value.name, "algorithm": value.algorithm, **value.values}
            return {key: plain(item) for key, item in own.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return "inf" if isinstance(value, float) and value == math.inf else value

    fields = [field.name for field in dataclasses.fields(config) if field.name != "tables"]
    return {name: plain(getattr(config, name)) for name in fields}


def from_dict(values: Any, tables: Tables) -> Config:
    """The inverse of `to_dict`.

    Raises:
      ConfigError: on an unknown or missing key, a wrong type or a value out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(_no_object("the config", values))
    if values.get("dataset") == schema.GIVEN:
        raise ConfigError(
            "the config is of a run on arrays that were given from Python, which no file holds: "
            "it can only be repeated there, with experiment.given and experiment.run"
        )
    values = schema.EARLIER | values
    refuse_other_plugin(values["plugin"], values["plugin_sha256"], tables)
    fields, complaints = _fields(values, Config, "the config")
    lists = ("partitions", "seeds", "hidden", "methods", "late", "attacks", "attackers", "shares")
    for name in lists:
        value = fields[name]
        if value is not validate_lib.LACKING and not isinstance(value, list):
            complaints.append(f"{name} is {_shown(value)} in the config, it must be a list")
        fields[name] = (
            tuple(value[: schema.LONGEST]) if isinstance(value, list) else validate_lib.LACKING
        )
    methods = []
    for method in validate_lib.items(fields["methods"]):
        if not isinstance(method, dict):
            complaints.append(_no_object("a method of the config", method))
            continue
        made, wrong = _read(method, tables)
        methods.append(made)
        complaints += wrong
    if validate_lib.items(fields["methods"]):
        fields["methods"] = tuple(methods) or validate_lib.LACKING
    fields |= {
        name: validate_lib.absolute(name, fields[name])
        for name in schema.PATHS
        if fields[name] is not None
    }
    names: dict[str, Any] = _of_tables(tables) if fields["plugin"] else {"tables": tables}
    config = Config(**fields | names)
    schema.refuse(complaints + validate_lib.complaints(config, tables))
    return config


def _of_tables(tables: Tables) -> dict[str, Any]:
    """The fields of a config that say which names there were."""
    path, digest = tables.plugin or (None, None)
    return {"tables": tables, "plugin": path, "plugin_sha256": digest}


def missing_plugin(path: Any) -> str:
    """What is said where only a file names a plugin."""
    named = _shown(path) if not isinstance(path, str) else path[:200]
    return (
        "--plugin is missing: no code is executed only because a config names it, "
        f"it must be --plugin {named!r}"
    )


def refuse_other_plugin(path: Any, digest: Any, tables: Tables) -> None:
    """Refuses a file that needs a plugin, where none was named or its content is another.

    Raises:
      ConfigError: it is so.
    """
    if path is None:
        return
    if tables.plugin is None:
        raise ConfigError(missing_plugin(path))
    if digest != tables.plugin.sha256:
        raise ConfigError(
            f"--plugin is {tables.plugin.path!r}, which is not the file that the config was made "
            "with: its SHA-256 is another"
        )


def _read(values: Mapping[str, Any], tables: Tables) -> tuple[Method, list[str]]:
    """A method from a file, and what is to be said of it.

    Options that the algorithm does not read are judged and left out: files of earlier versions hold
    all there are in every method.
    """
    what, lacking = "a method of the config", validate_lib.LACKING
    values = schema.EARLIER_OF_METHODS | values
    unread = {**values}
    name, algorithm = (unread.pop(key, lacking) for key in ("name", "algorithm"))
    unread = {k: math.inf if v == "inf" and k == "beta" else v for k, v in unread.items()}
    known = validate_lib.among(algorithm, tables.algorithms)
    options = dict(schema.TRAINING) if known else {}
    if known:
        options |= spec_lib.options_of(tables.algorithms[algorithm], unread, tables.parts)
    complaints = [
        validate_lib.unknown(f"key of {what}", key, tables.options)
        for key in unread
        if key not in tables.options
    ]
    keys = ["name", "algorithm", *spec_lib.needed(dict.fromkeys(options) | unread, options)]
    complaints += [f"{what} lacks the key {key!r}" for key in keys if key not in values]
    for key in unread.keys() & tables.options.keys() - options.keys():
        if unread[key] is not None:
            complaints += validate_lib.judged(key, unread[key], tables.options[key])
    found = {key: unread.get(key, lacking) for key in options}
    return method_of(name, algorithm, found, options), complaints


def of_given(config: Config, described: Mapping[str, Any]) -> dict[str, Any]:
    """`to_dict` of a run on arrays from Python: what the config says of other data is left out.

    Args:
      config: how it was trained.
      described: what is known of the arrays; with "model", the config's own was not used either.
    """
    unused = {*schema.OF_DATA, *(schema.OF_MODEL if "model" in described else ())}
    values = {name: value for name, value in to_dict(config).items() if name not in unused}
    named = {"dataset": schema.GIVEN, "partitions": [schema.GIVEN]}
    named |= {"model": schema.GIVEN} if "model" in described else {}
    return {**named, **values, schema.GIVEN: dict(described)}


def _fields(values: dict, kind: type, what: str) -> tuple[dict[str, Any], list[str]]:
    """A value for every field, and what is to be said of the keys."""
    names = [field.name for field in dataclasses.fields(kind) if field.name != "tables"]
    complaints = [
        validate_lib.unknown(f"key of {what}", key, names) for key in values if key not in names
    ]
    complaints += [f"{what} lacks the key {name!r}" for name in names if name not in values]
    return {name: values.get(name, validate_lib.LACKING) for name in names}, complaints


def _no_object(what: str, value: Any) -> str:
    return f"{what} is {_shown(value)}, it must be an object with named values"


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _sequence(value: Any) -> tuple:
    """A tuple of what is a sequence; anything else as its only item, for `_problems` to refuse."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(
            itertools.islice(value, schema.LONGEST)
        )  # of a range that no memory holds, enough
    return (value,)
