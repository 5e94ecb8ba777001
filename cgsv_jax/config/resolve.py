"""From what somebody asked for, or from a file, to a `Config`; and back."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cgsv_jax.config import defaults, schema, spelling, variants
from cgsv_jax.config import validate as validate_lib
from cgsv_jax.config.schema import Config, ConfigError, Method, Tables
from cgsv_jax.core.ranges import MAX_WHOLE
from cgsv_jax.core.ranges import shown as _shown
from cgsv_jax.host import words
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Count, Number, Option, When


def resolve(tables: "Tables", backend: str = "cpu", named: bool = True, **asked: Any) -> Config:
    """A complete `Config` from what was asked for; everything else is the data set's default.

    Args:
      tables: the names that exist.
      backend: decides what the layout "auto" means.
      named: whether choices that hold for all methods stand in their names; False where something
        else tells them, as the points of a sweep do.
      **asked: fields of `Config`, options of methods (they hold for every method that reads them),
        `algorithms` (each written as `variants.read` reads it), `methods` (name of one's own -> a
        dictionary with `algorithm`, and options and a `preset` of that method alone), `preset`,
        and `seed` in place of `seeds` of which there is one. None means default.

    Raises:
      ConfigError: naming every field that is unknown or out of range.
    """
    asked = {key: _of_numpy(value) for key, value in asked.items() if value is not None}
    if isinstance(asked.get("algorithms"), str):
        asked["algorithms"] = variants.split(asked["algorithms"])
    asked = spelling.spelled(asked, tables)
    one_seed = asked.pop("seed", None)
    dataset = asked.pop("dataset", defaults.DEFAULTS["dataset"])
    preset = asked.pop("preset", defaults.DEFAULTS["preset"])
    own = tables.options
    allowed = {*schema.FIELDS, *own, "preset", "algorithms", "methods", "seed"}
    wanted, complaints = _wanted(asked.pop("algorithms", None), asked.pop("methods", None), tables)
    complaints += [
        validate_lib.unknown("option", key, allowed) for key in asked if key not in allowed
    ]
    complaints += validate_lib.known("preset", preset, defaults.PRESETS)
    # What is no name of a data set or a preset is named; the rest is judged beside a known one.
    numbers_of = dataset if validate_lib.among(dataset, tables.datasets) else "digits"
    preset = preset if validate_lib.among(preset, defaults.PRESETS) else "paper"
    source = tables.datasets[numbers_of]

    for_all = {key: value for key, value in asked.items() if key in own}

    def method(one: _Wanted) -> Method:
        if not validate_lib.among(one.algorithm, tables.algorithms):
            return Method(one.text, one.algorithm, (), {})
        known = one.preset if validate_lib.among(one.preset, defaults.PRESETS) else preset
        made, usual = _method(one, known, for_all, numbers_of, tables)
        if one.name is not None:
            return made
        shown = _differing(made, usual, {*one.options}, for_all, named, tables)
        suffix = one.preset
        if suffix is None and named and preset != "paper" and one.algorithm != schema.YARDSTICK:
            # Where it says the same as the one that is meant otherwise, nobody need know it.
            paper, _ = _method(one, "paper", for_all, numbers_of, tables)
            suffix = preset if paper.options != made.options else None
        name = variants.written(one.algorithm, shown, suffix)
        return dataclasses.replace(made, name=name)

    given = {key: value for key, value in asked.items() if key in schema.FIELDS}
    fields: dict[str, Any] = {
        **{name: field.kind.default for name, field in schema.FIELDS.items()},
        **{n: value for n, value in defaults.DEFAULTS.items() if n in schema.FIELDS},
        **{n: value for n, value in source.training.items() if n in schema.FIELDS},
        **{n: getattr(source, n) for n in ("model", "rows_per_client", "validation_share")},
        **given,
        "dataset": dataset,
    }
    for name in schema.PATHS:
        fields[name] = validate_lib.absolute(name, fields[name])
    if one_seed is not None:
        wrong = validate_lib.number("seed", one_seed, schema.SEED)
        complaints += wrong
        one_seed = 0 if wrong else one_seed
        if "seeds" in given:
            complaints.append("--seed is one seed and --seeds are several, it must be one of them")
    several: Any = fields["seeds"]
    if one_seed is not None and "seeds" not in given:
        fields["seeds"] = (one_seed,)
    elif schema.whole(several):  # so many of them: 0, 1, 2, ...
        most = schema.MAX_SEEDS
        if not 1 <= several <= most:
            complaints.append(
                f"--seeds is {_shown(several)}, a number of seeds must be in 1..{most}"
            )
        fields["seeds"] = tuple(range(min(max(several, 1), most)))
    for name in schema.LISTS:
        fields[name] = _sequence(fields[name])
    if "clients" not in given and fields["shares"]:
        fields["clients"] = len(fields["shares"])
    if fields["layout"] in (None, "auto"):
        # As `layout.default_width` says, except that accelerators look at memory and the sizes of
        # clients too.
        on_cpu = "one" if fields["model"] in schema.CONVOLUTIONAL + schema.OF_TOKENS else "4"
        fields["layout"] = on_cpu if backend == "cpu" else "balanced"
    width: Any = fields["layout"]
    if schema.whole(width) and 1 <= width <= MAX_WHOLE:
        fields["layout"] = str(width)
    if fields["eval_every"] is None:  # about twenty points on a curve
        rounds = fields["rounds"]
        fields["eval_every"] = -(-rounds // 20) if schema.whole(rounds) and rounds > 0 else 1
    methods = tuple(map(method, wanted))
    complaints += _idle_of_variants(wanted, methods, for_all, tables)
    if same := _same_methods(wanted, methods):
        complaints += same
        methods = tuple({m.name: m for m in methods}.values())
    taken = _taken(methods, source.training, {*asked}, fields, tables)
    of_methods: Any = methods or (validate_lib.LACKING if complaints else ())
    config = Config(methods=of_methods, taken=taken, **_of_tables(tables), **fields)
    schema.refuse(
        complaints + validate_lib.complaints(config, tables) + _idle_options(config, asked, tables)
    )
    return config


class _Wanted(NamedTuple):
    """A method that somebody wants."""

    text: Any  # as it is written
    name: str | None  # of one's own; None: it is called what it is
    algorithm: Any
    options: dict[str, Any]  # of this method alone
    preset: Any = None  # of this method alone; None: that of all


def _wanted(algorithms: Any, methods: Any, tables: Tables) -> tuple[list[_Wanted], list[str]]:
    """The methods that are wanted, and what is wrong with how they are written.

    Args:
      algorithms: names as `variants.read` reads them, or those of `methods`; None: the default.
      methods: name of one's own -> what it is; None: there are none.
      tables: the names that exist.
    """
    found, complaints = {}, []
    if methods is not None and not isinstance(methods, Mapping):
        complaints = [f"methods is {_shown(methods)}, it must be an object with named methods"]
    for name, values in methods.items() if isinstance(methods, Mapping) else ():
        what = f"the key {_shown(name)} of methods"
        if not variants.is_own(name, tables.algorithms):
            complaints.append(
                f"{what} is no name of one's own: it must be up to 40 letters, digits, _, . and -, "
                "and no algorithm's"
            )
        elif not isinstance(values, Mapping) or not isinstance(values.get("algorithm"), str):
            complaints.append(f"{what} is no method: it must be an object with an algorithm")
        else:
            options = {k: unplain(k, _of_numpy(v)) for k, v in values.items() if v is not None}
            options["algorithms"] = options.pop("algorithm")
            options = spelling.spelled(options, tables)
            algorithm, own_preset = options.pop("algorithms"), options.pop("preset", None)
            found[name] = _Wanted(name, name, algorithm, options, own_preset)
    usual = (schema.YARDSTICK, *found) if found else defaults.DEFAULTS["algorithms"]
    algorithms = usual if algorithms is None else algorithms
    names = _sequence(algorithms)
    names = tuple(tables.algorithms) if names == ("all",) else names
    complaints += [
        f"methods holds {_shown(name)}, it must be one of --algorithms"
        for name in found
        if name not in names
    ]
    wanted = []
    for text in names:
        if isinstance(text, str) and text in found:
            wanted.append(found[text])
            continue
        try:
            algorithm, pairs, own_preset = variants.read(text)
        except ValueError as error:
            if isinstance(text, str):
                complaints.append(f"--algorithms is {_shown(text)}, {error}")
            else:
                wanted.append(_Wanted(text, None, text, {}))  # no name of a method
            continue
        options = {}
        for written, word in pairs:
            name = words.meant(written, tables.options)
            known = tables.options.get(name)
            options[name] = word if known is None else variants.value_of(known, word)
        options = spelling.spelled(options, tables)
        wanted.append(_Wanted(text, None, algorithm, options, own_preset))
    for one in wanted:
        complaints += [
            f"--algorithms holds {_shown(one.text)}: "
            + validate_lib.unknown("option", name, tables.options)
            for name in one.options
            if name not in tables.options
        ]
        if one.name is not None:  # of others their names are judged
            complaints += validate_lib.preset_complaints(one.text, one.preset)
    return wanted, complaints


def _method(
    wanted: _Wanted, preset: str, for_all: Mapping[str, Any], dataset: str, tables: Tables
) -> tuple[Method, dict[str, Any]]:
    """What an algorithm reads: as given, else as its text says, else as its data set does.

    Args:
      wanted: a method whose algorithm there is.
      preset: of it.
      for_all: options that hold for all methods that say nothing else.
      dataset: of its numbers.
      tables: the names that exist.

    Returns:
      The method, and what its options would be if nobody had asked for any.
    """
    given = {**for_all, **{k: v for k, v in wanted.options.items() if k in tables.options}}
    training = {**tables.datasets[dataset].training, **defaults.PRESETS[preset]}
    if preset == "released":
        training |= defaults.RELEASED_TRAINING.get(dataset, {})
    spec, parts = tables.algorithms[wanted.algorithm], tables.parts
    options = {**schema.TRAINING, **spec_lib.options_of(spec, given, parts)}
    values = {flag: option.default for flag, option in options.items()}
    values |= {**training, **spec_lib.defaults_of(spec, given, parts)}
    for flag, option in options.items():
        if isinstance(option, Number) and option.instead_of in given:
            values[flag] = None  # what is asked for holds on every partition
    name = wanted.name or wanted.algorithm
    return method_of(name, wanted.algorithm, {**values, **given}, options), values


def _differing(
    method: Method,
    usual: Mapping[str, Any],
    own: set[str],
    for_all: Mapping[str, Any],
    named: bool,
    tables: Tables,
) -> dict[str, Any]:
    """What a method's name says of it: what it alone was asked for, and the choices of its rules.

    Numbers that hold for all methods are not said in each name, and neither is how clients train
    where all do so; the yardstick is called by its name alone. What a method alone was asked for is
    left out only where it would be so without being asked for.

    Args:
      method: with all of its options.
      usual: what they would be if nobody had asked for any.
      own: options of this method alone.
      for_all: options that hold for all; a value that is refused is said of the option alone.
      named: whether the choices among them stand in names.
      tables: the names that exist.
    """
    told = _choices(method) if named and method.algorithm != schema.YARDSTICK else {}
    found = {}
    for name, value in method.options:
        otherwise = usual.get(name)
        of_its_own = name in own and value != for_all.get(name, otherwise)
        of_all = name in for_all and name in told and value != otherwise
        if of_its_own or (
            of_all and not validate_lib.judged(name, value, method.declared[name], tables)
        ):
            found[name] = value
    return found


def meaning(method: Method, dataset: str, tables: Tables) -> str:
    """A method as `variants.read` reads it, whatever it is called: in the fewest words there are.

    >>> from cgsv_jax.experiment import configure
    >>> config = configure(methods={"mine": {"algorithm": "cgsv", "beta": 5.0}})
    >>> meaning(config.methods[1], config.dataset, config.tables)
    'cgsv[beta=5]'
    """
    wanted = _Wanted(method.name, method.name, method.algorithm, method.values)
    texts = []
    for preset in defaults.PRESETS:
        _, usual = _method(wanted, preset, {}, dataset, tables)
        numbers = {n: getattr(option, "instead_of", "") for n, option in method.declared.items()}
        found = {n: v for n, v in method.options if v != usual.get(n) and not numbers[n]}
        suffix = preset if preset != "paper" else None
        texts.append(variants.written(method.algorithm, found, suffix))
    return min(texts, key=len)


def unsaid(method: Method, dataset: str, tables: Tables) -> str:
    """`meaning` where the method's name does not say it; else nothing.

    A label of one's own says nothing, and a config.json of earlier versions calls a method by its
    algorithm alone whatever it chose. Numbers that hold for all methods are never in names, and
    neither is how clients train.
    """
    if variants.is_label(method.name, tables.algorithms):
        return meaning(method, dataset, tables)
    (wanted,), _ = _wanted((method.name,), None, tables)
    named, _ = _method(wanted, wanted.preset or "paper", {}, dataset, tables)
    same = _choices(method) == _choices(named)
    return "" if same else meaning(method, dataset, tables)


def _choices(method: Method) -> dict[str, Any]:
    """Options that are told in names, see `_differing`."""
    counts = {name for name, option in method.declared.items() if isinstance(option, Count)}
    unnamed = schema.TRAINING.keys() | counts
    return {name: value for name, value in method.words().items() if name not in unnamed}


def unsaid_of(values: Mapping[str, Any], tables: Tables) -> dict[str, str]:
    """`unsaid` of the methods of a config.json, by name, of those that have something to say.

    Its methods alone are read, wherever its data are now. Nothing is said of one that these names
    cannot tell: only the plugin or the program that gave a rule knows what its options mean.
    """
    named = values.get("dataset")
    known = isinstance(named, str) and named in tables.datasets
    dataset: Any = named if known else defaults.DEFAULTS["dataset"]
    found = {}
    for written in _methods_of(values):
        method, wrong = _read(written, tables)
        if not wrong and not validate_lib.method_complaints(method, tables):
            found[method.name] = unsaid(method, dataset, tables)
    return {name: text for name, text in found.items() if text}


def _same_methods(wanted: Sequence[_Wanted], methods: Sequence[Method]) -> list[str]:
    """What is said of two methods that are written in two ways and are one."""
    first: dict[str, _Wanted] = {}
    complaints = []
    for one, method in zip(wanted, methods, strict=True):
        if not method.declared:  # of no algorithm that there is
            continue
        before = first.setdefault(method.name, one)
        if before.text != one.text:
            complaints.append(
                f"--algorithms holds {_shown(before.text)} and {_shown(one.text)}, it must hold "
                f"each method once: both are {method.name}"
            )
        if len(method.name) > variants.LONGEST:
            complaints.append(
                f"--algorithms holds {_shown(one.text)}, whose name is too long, it must have at "
                f"most {variants.LONGEST} characters: a file can name it, under methods"
            )
    return complaints


def _idle_of_variants(
    wanted: Sequence[_Wanted],
    methods: Sequence[Method],
    for_all: Mapping[str, Any],
    tables: Tables,
) -> list[str]:
    """Options of one method that it does not read, and options of all that no method is left."""
    complaints = []
    for one, method in zip(wanted, methods, strict=True):
        if not validate_lib.among(one.algorithm, tables.algorithms):
            continue
        for name in one.options:
            if name in tables.options:
                idle = _idle_option([method], name, one.options[name], tables)
                complaints += [f"{line} (in {one.text})" for line in idle]
    for name, value in for_all.items():
        readers = [one for one, m in zip(wanted, methods, strict=True) if name in m.values]
        if readers and all(one.options.get(name, value) != value for one in readers):
            complaints.append(
                f"{validate_lib.flag(name)} does nothing here: every method that reads it has one "
                "of its own, it must be left out"
            )
    return complaints


def _taken(
    methods: Iterable[Method],
    training: Mapping[str, Any],
    asked: set[str],
    fields: Mapping[str, Any],
    tables: Tables,
) -> tuple[tuple[str, Any], ...]:
    """What a data set says of training, where nobody else says it: neither a method nor a flag."""
    found = {}
    for name, value in training.items():
        if name in asked:
            continue
        if name in schema.FIELDS:
            found[name] = fields[name]
        for method in methods:
            if name in method.values and method.values[name] == value:
                spec = tables.algorithms[method.algorithm]
                if name not in spec_lib.defaults_of(spec, method.values, tables.parts):
                    found[name] = value
    return tuple(found.items())


def method_of(
    name: str, algorithm: str, values: Mapping[str, Any], options: Mapping[str, Option]
) -> Method:
    """A method of the values that mean something beside each other."""
    values = spec_lib.needed(values, options)
    return Method(name, algorithm, tuple(values.items()), {flag: options[flag] for flag in values})


def _idle_options(config: Config, asked: Mapping[str, Any], tables: "Tables") -> list[str]:
    """An option that would do nothing is a misunderstanding, so it is refused."""
    thinned = tuple(name for name in tables.partitions if name not in schema.CHOSEN_ROWS)
    on = {name: field.on for name, field in schema.FIELDS.items() if field.on}
    on["rows_per_client"] = thinned
    for name, option in tables.options.items():
        if isinstance(option, Number) and option.instead_of:
            on[name] = (option.partition,)
    beside = {name: field.when for name, field in schema.FIELDS.items() if field.when}
    beside |= {name: When(("partitions",), names) for name, names in on.items()}
    complaints = []
    for name in asked:
        if when := beside.get(name):
            complaints += _idle(name, when, config, tables)
        if name in tables.options:
            complaints += _idle_option(
                validate_lib.items(config.methods), name, asked[name], tables
            )
    if "epochs" in asked and config.local_steps is not None:
        complaints.append(
            "--epochs does nothing here: --local-steps says how long clients train, it must be one "
            "of them"
        )
    return complaints


def _idle_option(methods: Sequence[Method], name: str, value: Any, tables: Tables) -> list[str]:
    """What is said of an option that none of the methods reads."""
    if not methods or any(name in method.values for method in methods):
        return []
    wrong = validate_lib.judged(name, value, tables.options[name], tables)
    for method in methods:  # an unknown name cannot tell which options it reads
        words = method.words().items()
        if any(validate_lib.judged(n, v, method.declared[n], tables) for n, v in words):
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
    return [*wrong, _needs(name, other, allowed)]


def _idle(name: str, when: When, config: Config, tables: Tables) -> list[str]:
    (other,) = when.options
    value = getattr(config, other)
    # Of a name that does not exist nobody knows what it would have read.
    unclear = validate_lib.judged(other, value, schema.FIELDS[other].kind, tables)
    if unclear or any(word in when.words for word in _sequence(value)):
        return []
    return [_needs(name, other, when.words)]


def _needs(name: str, other: str, words: Iterable[str]) -> str:
    need = f"{validate_lib.flag(other)} {' or '.join(dict.fromkeys(words))}"
    return f"{validate_lib.flag(name)} does nothing here: it needs {need}"


def to_dict(config: Config) -> dict[str, Any]:
    """The config as `plain` has it."""
    values = {name: getattr(config, name) for name in schema.WRITTEN}
    methods = [{"name": m.name, "algorithm": m.algorithm, **m.values} for m in config.methods]
    return plain({**values, "methods": methods})


def plain(value: Any) -> Any:
    """Plain dictionaries, lists, numbers and strings; infinity is the string "inf"."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return "inf" if isinstance(value, float) and value == math.inf else value


def unplain(name: str, value: Any) -> Any:
    """The value of an option that `plain` made, but for what is a tuple."""
    return math.inf if name == "beta" and value == "inf" else value


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
            "it can only be repeated there, with experiment.again and the same arrays"
        )
    given = [
        str(method.get("name"))
        for method in _methods_of(values)
        if str(method.get("algorithm")).startswith(schema.GIVEN_METHOD)
        and not validate_lib.among(method.get("algorithm"), tables.algorithms)
    ]
    if given:
        raise ConfigError(
            f"the config is of a run with methods given from Python ({', '.join(given)}), "
            "which no file holds: it can only be repeated there, with cgsv_jax.compare"
        )
    values = schema.EARLIER | values
    refuse_other_plugin(values["plugin"], values["plugin_sha256"], tables)
    what, lacking = "the config", validate_lib.LACKING
    names = schema.WRITTEN
    complaints = [
        validate_lib.unknown(f"key of {what}", key, names) for key in values if key not in names
    ]
    complaints += [f"{what} lacks the key {name!r}" for name in names if name not in values]
    fields = {name: values.get(name, lacking) for name in names}
    for name in (*schema.LISTS, "methods"):
        value = fields[name]
        if value is not lacking and not isinstance(value, list):
            complaints.append(f"{name} is {_shown(value)} in the config, it must be a list")
        fields[name] = tuple(value[: schema.LONGEST]) if isinstance(value, list) else lacking
    methods = []
    for method in validate_lib.items(fields["methods"]):
        if not isinstance(method, dict):
            complaints.append(_no_object("a method of the config", method))
            continue
        made, wrong = _read(method, tables)
        methods.append(made)
        complaints += wrong
    if validate_lib.items(fields["methods"]):
        fields["methods"] = tuple(methods) or lacking
    for name in schema.PATHS:
        fields[name] = validate_lib.absolute(name, fields[name])
    there: dict[str, Any] = _of_tables(tables) if fields["plugin"] else {"tables": tables}
    config = Config(**fields | there)
    schema.refuse(complaints + validate_lib.complaints(config, tables))
    return config


def _methods_of(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a config.json says of its methods, as far as they are any."""
    methods = values.get("methods")
    return [m for m in methods if isinstance(m, dict)] if isinstance(methods, list) else []


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
    algorithm = values.get("algorithm", lacking)
    known = validate_lib.among(algorithm, tables.algorithms)
    values = {**schema.earlier_of(algorithm), **values}
    if known and algorithm in schema.EARLIER_OF_METHOD:
        # What is read only now stood there unread, where a file held all options in every method.
        readers = spec_lib.every_option([tables.algorithms[algorithm]], tables.parts)
        read = {*schema.TRAINING, *readers, *schema.EARLIER_OF_METHODS}
        if values.keys() & tables.options.keys() - read:
            values |= schema.EARLIER_OF_METHOD[algorithm]
    unread = {key: unplain(key, value) for key, value in values.items()}
    name = unread.pop("name", lacking)
    unread.pop("algorithm", None)
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
            complaints += validate_lib.judged(key, unread[key], tables.options[key], tables)
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


def from_given(values: Mapping[str, Any], tables: Tables) -> Config:
    """The inverse of `of_given`; what such a file does not say is as if nobody had asked for it.

    Raises:
      ConfigError: as `from_dict`, and where the file is of a data set.
    """
    if values.get("dataset") != schema.GIVEN:
        raise ConfigError(
            "the config is of a run on a data set, which needs no arrays: "
            "experiment.run(experiment.read(file)) repeats it"
        )
    said = {name: value for name, value in values.items() if name != schema.GIVEN}
    usual = {**said, "dataset": defaults.DEFAULTS["dataset"]}
    if said.get("model") in schema.OF_TOKENS:
        usual["dataset"] = next(name for name, own in tables.datasets.items() if own.tokens)
    default = to_dict(resolve(tables, dataset=usual["dataset"]))
    usual["partitions"] = default["partitions"]
    if said.get("model") == schema.GIVEN:
        usual["model"] = default["model"]
    unsaid = {name: default[name] for name in (*schema.OF_DATA, *schema.OF_MODEL)}
    return from_dict(unsaid | usual, tables)


def _no_object(what: str, value: Any) -> str:
    return f"{what} is {_shown(value)}, it must be an object with named values"


def _of_numpy(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _sequence(value: Any) -> tuple:
    """A tuple of what is a sequence; anything else as its only item, for `validate` to refuse."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        # Of a range that no memory holds, enough.
        return tuple(itertools.islice(value, schema.LONGEST))
    return (value,)
