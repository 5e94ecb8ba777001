"""What may be asked of the command, word by word."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import tyro

from cgsv_jax.config import defaults, fields, schema, validate, variants
from cgsv_jax.config.defaults import PRESETS
from cgsv_jax.config.fields import Kind, Name, Path, Several
from cgsv_jax.experiment import plugins
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Choice, Count, Number, Truth
from cgsv_jax.sweep import options


class Argument(NamedTuple):
    """What may follow a flag: one word, and what is made of it."""

    cast: Callable[[str], Any]
    metavar: str


class Flag(NamedTuple):
    """A line of `--help`: what may follow the flag, and what it means."""

    argument: Argument
    help: str
    default: str | None = None  # as shown; None: as the tables of defaults say
    alias: str | None = None


def _parser(argument: Argument) -> tyro.constructors.PrimitiveConstructorSpec:
    """Converts if it can: what cannot be stays a string, and config.validate says so."""

    def parse(words: Sequence[str]) -> Any:
        try:
            return argument.cast(words[0])
        except ValueError:
            return words[0]

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=argument.metavar,
        instance_from_str=parse,
        is_instance=lambda value: True,  # None stands for the data set's default
        str_from_instance=lambda value: [str(value)],
    )


def _list_of(cast: Callable[[str], Any]) -> Callable[[str], tuple]:
    return lambda word: tuple(cast(item.strip()) for item in word.split(",") if item.strip())


def _number_or_list(word: str) -> int | tuple[int, ...]:
    return _list_of(int)(word) if "," in word else int(word)


def _layers(word: str) -> tuple[int, ...]:
    """`64` or `32x16`: in a sweep, commas are between values."""
    return tuple(int(item) for item in word.split("x"))


def _truth(word: str) -> bool:
    if word not in ("true", "false"):
        raise ValueError(word)
    return word == "true"


def _several(cast: Callable[[str], Any]) -> Callable[[str], Any]:
    """Values of a swept flag; what cannot be one stays a word, for config.validate to refuse."""

    def one(word: str) -> Any:
        try:
            return cast(word)
        except ValueError:
            return word

    def parse(word: str) -> Any:
        if ":" in word and cast in (int, float):
            return options.span(word, whole=cast is int)
        return tuple(one(item.strip()) for item in word.split(",") if item.strip())

    return parse


INT, NUMBER, NAME = Argument(int, "INT"), Argument(float, "NUMBER"), Argument(str, "NAME")
PATH = Argument(str, "PATH")
SWITCH = Argument(_truth, "true|false")  # which needs no word, except in a sweep
_ARGUMENTS = {Number: NUMBER, Count: INT, Choice: NAME, Truth: SWITCH, Name: NAME, Path: PATH}
METHODS = Argument(variants.split, "NAME[OPTION=VALUE,...],...")
NAMES, INTS = Argument(_list_of(str), "NAME,..."), Argument(_list_of(int), "INT,...")
NUMBERS, SEEDS = Argument(_list_of(float), "NUMBER,..."), Argument(_number_or_list, "INT|INT,...")
LAYERS = Argument(_layers, "INT[xINT...]")


def _default(name: str, tables: schema.Tables) -> str:
    """What an option is when nobody gives it, and where it is something else."""

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    base, others = defaults.default_of(name, tables)
    alike: dict[str, list[str]] = {}  # value -> who has it
    for who, value in others.items():
        alike.setdefault(text(value), []).append(who)
    texts = ["" if base is None else text(base)]
    texts += [f"{', '.join(who)} {value}" for value, who in alike.items()]
    return "; ".join(filter(None, texts)) or "none"


def _argument_of(kind: Kind) -> Argument:
    if isinstance(kind, fields.Word):
        return NAME._replace(metavar=kind.metavar)
    if not isinstance(kind, Several):
        return _ARGUMENTS[type(kind)]
    if kind.counted:
        return SEEDS
    one = _argument_of(kind.of)
    return {int: INTS, float: NUMBERS, str: NAMES}[one.cast]._replace(metavar=f"{one.metavar},...")


def _of_option(option: Kind) -> Flag:
    """The flag of what a config, a rule or training declares."""
    words = ", ".join(option.allowed) if isinstance(option, Choice) else ""
    told = all(word in option.help for word in words.split(", "))
    return Flag(_argument_of(option), option.help if told else f"{option.help}: {words}")


def _of_field(field: fields.Field, tables: schema.Tables) -> Flag:
    """The flag of a field of a config; in braces its help names a table."""
    names = {table: ", ".join(getattr(tables, table)) for table in schema.NAMED}
    names["strengths"] = ", ".join(name + s.said for name, s in tables.strengths.items())
    flag = _of_option(field.kind)._replace(default=field.shown, alias=field.alias)
    on = f" ({', '.join(field.on)})" if field.on else ""
    return flag._replace(help=flag.help.format(**names) + on)


def of_group(group: str, tables: schema.Tables) -> dict[str, Flag]:
    """The flags of the fields of a config that are of a group; those of training's options too."""
    flags = {
        fields.flag_of(name, field): _of_field(field, tables)
        for name, field in schema.FIELDS.items()
        if field.group == group
    }
    if "seeds" in flags:
        flags["seed"] = Flag(INT, "one seed of this number, in place of --seeds", "none")
    for name, option in schema.TRAINING.items():
        if group == schema.ELSEWHERE.get(name, "training"):
            flags[name] = _of_option(option)._replace(alias=schema.ALIASES.get(name))
    return flags


def rules(tables: schema.Tables) -> dict[str, Flag]:
    """The flags of what rules declare."""
    return {n: _of_option(o) for n, o in tables.options.items() if n not in schema.TRAINING}


def _by_reader(flags: dict[str, Flag], tables: schema.Tables) -> dict[str, dict[str, Flag]]:
    """The flags of rules, those that cgsv reads first."""
    read = spec_lib.every_option([tables.algorithms["cgsv"]], tables.parts)
    return {
        "cgsv": {name: flag for name, flag in flags.items() if name in read},
        "other methods": {name: flag for name, flag in flags.items() if name not in read},
    }


PRESET = Flag(NAME, f"bundle of rules and numbers: {', '.join(PRESETS)}", alias="--setting")
CLUSTER = {
    "coordinator": Flag(
        NAME,
        "host:port of process 0 where several processes share the clients, each started with the "
        "same flags; auto: as the cluster's scheduler says",
        "one process",
    ),
    "processes": Flag(INT, "how many processes there are, with --coordinator host:port", "none"),
    "process": Flag(INT, "which of them this is, from 0; only 0 prints and writes", "none"),
}
SWEEP = {
    "best": Flag(
        NAME, f"what the best point is chosen by: {', '.join(options.CRITERIA)}", "fairness"
    ),
    "eval_split": Flag(
        NAME,
        "examples that accuracies are on: test, or validation, so that choosing does not touch the "
        "test set",
        "test",
        "--judge",
    ),
    "search": Flag(
        NAME,
        "draw --points points from ranges (--beta 0.1:10, :log or :linear behind) and lists "
        f"instead of running all: {', '.join(options.SEARCHES)} (optuna: extra [search])",
        "all combinations",
    ),
    "points": Flag(INT, "points that a search runs", "20", "--trials"),
    "batch": Flag(
        INT,
        "points that a search draws before the first of them are compared",
        "1; on Ray as many as find place",
    ),
    "search_seed": Flag(INT, "seed of what a search draws", "0"),
    "scheduler": Flag(
        NAME,
        "stops points of a search early that do badly: "
        f"{', '.join(options.SCHEDULERS)} (extra [search])",
        "none",
    ),
    "together": Flag(
        INT,
        "trials that one call of a program computes",
        "as many as half of the memory holds; on a CPU 1",
    ),
}
RAY = {
    "on": Flag(NAME, "where: local, or ray (extra [ray])", "local"),
    "address": Flag(NAME, "of a Ray cluster; without it --on ray starts a local one", "local"),
    "cpus_per_task": Flag(INT, "CPU cores of a task, and its threads", "1", "--cpus-per-trial"),
    "gpus_per_task": Flag(
        NUMBER, "GPUs of a task", "0, or 1 where there are some", "--gpus-per-trial"
    ),
}
OUTPUT = {
    "config": Flag(
        PATH,
        "a config.json to repeat as it is: beside it only flags of this group, and --coordinator",
        "none",
    ),
    "out": Flag(PATH, "run directory to write", "runs/<command>-<data set>-<number>"),
    "overwrite": Flag(SWITCH, "replace the run that the directory holds"),
    "resume": Flag(
        PATH,
        "an unfinished run's directory: go on with it; beside it --plugin, --profile, --verbose, "
        "--quiet, --no-cache alone",
        "none",
    ),
    "plugin": Flag(
        PATH, f"a file with rules of your own: {', '.join(plugins.FIELDS)} by name", "none"
    ),
    "profile": Flag(SWITCH, "then time the phases of a round, beside what the device could do"),
    "verbose": Flag(SWITCH, "print all tables, as cgsv show does, not the first of them alone"),
    "quiet": Flag(SWITCH, "print nothing but errors"),
    "no_cache": Flag(SWITCH, "neither use nor keep the programs that were compiled before"),
}


def given(args: Any) -> dict[str, Any]:
    """What somebody asked for, by flag: an option without a word and one that is off are not."""
    values = dataclasses.asdict(args).items()
    return {name: value for name, value in values if value is not None and value is not False}


def _note(
    text: str, default: str | None = None, metavar: str | None = None, alias: str | None = None
) -> Any:
    """What help says of an argument; without a default it is required, an empty one goes unsaid."""
    return tyro.conf.arg(
        help=text,
        help_behavior_hint=f"(default: {default})" if default else default,
        metavar=metavar,
        aliases=[alias] if alias else None,
    )


Groups = Mapping[str, Mapping[str, Flag]]  # title -> flags


class Action(NamedTuple):
    """What the command may be told to do."""

    record: type  # of what was asked for, flag by flag
    spoken: Any  # the same as the parser takes it, in groups
    flags: Mapping[str, Flag]


def _action(name: str, doc: str, groups: Groups, tables: schema.Tables) -> Action:
    """What an action may be told, as one record, which the parser and its help read in groups."""
    parts, flat = {}, []
    for number, (title, flags) in enumerate(groups.items()):
        made_of = []
        for flag, (argument, text, default, alias) in flags.items():
            switch = argument is SWITCH
            own = _default(validate.RENAMED.get(flag, flag), tables)
            note = _note(text, default or ("off" if switch else own), alias=alias)
            kind = bool if switch else Annotated[Any, _parser(argument)]
            made_of.append((flag, Annotated[kind, note], False if switch else None))
            flat.append((flag, Any, made_of[-1][-1]))
        # Of a part only the values are read; each further method of a class is compiled anew.
        part = dataclasses.make_dataclass("Part", made_of, repr=False, eq=False)
        parts[f"part_{number}"] = Annotated[part, tyro.conf.arg(name=title, help="")]
    record = dataclasses.make_dataclass(
        name, flat, frozen=True, namespace={"command": name.lower()}
    )

    def made(**given: Any) -> Any:
        return record(**{k: v for part in given.values() for k, v in vars(part).items()})

    record.__doc__ = made.__doc__ = doc
    made.__annotations__ = parts  # what the parser asks a function for
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter(name, keyword, annotation=part) for name, part in parts.items()]
    made.__signature__ = inspect.Signature(own)  # pyright: ignore[reportFunctionMemberAccess]
    spoken = Annotated[record, tyro.conf.subcommand(name.lower(), constructor=made)]
    return Action(record, spoken, {k: v for part in groups.values() for k, v in part.items()})


def _swept(flags: dict[str, Flag], tables: schema.Tables) -> dict[str, Flag]:
    """The flags as a sweep takes them: those that can be swept take several values."""
    there = options.sweepable(tables)

    def swept(flag: Flag) -> Flag:
        one = LAYERS if flag.argument == INTS else flag.argument
        span = "|LOW:HIGH" if one in (INT, NUMBER) else ""
        return flag._replace(
            argument=Argument(_several(one.cast), f"{one.metavar},...{span}"),
            help=f"{flag.help}; layers joined by x" if one == LAYERS else flag.help,
            default="false" if one == SWITCH else flag.default,
        )

    return {name: swept(flag) if name in there else flag for name, flag in flags.items()}


@functools.lru_cache(maxsize=1)  # the same for all commands of a process
def training_actions(tables: schema.Tables) -> tuple[Action, Action, Action]:
    """What run, compare and sweep may be told, where there are these names.

    The groups stand in the order in which somebody who meets the command needs them.
    """
    methods, usual = ", ".join(tables.algorithms), defaults.DEFAULTS
    own = {group: of_group(group, tables) for group in schema.GROUPS}
    held = own["partition"]
    partitions = {"partition": held.pop("partition")}

    def groups(
        swept: Callable[[dict[str, Flag]], dict[str, Flag]],
        partition: dict[str, Flag],
        algorithms: Flag,
        **others: Mapping[str, Flag],
    ) -> Groups:
        of_rules = _by_reader(swept(rules(tables)), tables)
        return {
            "data and model": swept(own["data"]),
            "partition": partition | swept(held),
            "method": {"algorithms": algorithms} | swept({"preset": PRESET}),
            "training": swept(own["training"]),
            **others,
            "evaluation": swept(own["evaluation"]),
            "participation and attack": swept(own["participation"]),
            "cgsv rule": of_rules["cgsv"],
            "other methods' rule": of_rules["other methods"],
            "hardware": swept(own["hardware"]) | (RAY if "sweep" in others else CLUSTER),
        }

    def trained(name: str, doc: str, partition: dict[str, Flag], algorithms: Flag) -> Action:
        return _action(name, doc, groups(dict, partition, algorithms, output=OUTPUT), tables)

    one = Flag(NAME, f"partition: {', '.join(tables.partitions)}")
    run = trained(
        "Run",
        "One method on one partition.",
        {"partition": one},
        Flag(NAME, f"method: {methods}", "cgsv", "--algorithm"),
    )
    compare = trained(
        "Compare",
        "Several methods on the same partition, start and seeds: the fairness table. Several "
        "values are joined by commas: --partition uniform,power_law.\n\n"
        f"Without arguments: {', '.join(usual['algorithms'])} on {usual['dataset']}, "
        f"{usual['clients']} clients, {', '.join(usual['partitions'])}, {usual['seeds']} seeds.",
        partitions,
        Flag(
            METHODS,
            f"methods, or all: {methods}; cgsv:released runs the released code's preset beside the "
            "paper's, cgsv[contribution=shapley,beta=2] has options of its own",
            alias="--algorithm",
        ),
    )
    algorithms = Flag(
        METHODS,
        f"methods, or all: {methods}; standalone is run with them wherever fairness needs it",
        "cgsv",
        "--algorithm",
    )
    beside = {
        "config": OUTPUT["config"]._replace(help="the config.json of a sweep, to repeat it"),
        "out": OUTPUT["out"]._replace(help="directory to write"),
        "overwrite": OUTPUT["overwrite"]._replace(help="replace what the directory holds"),
        "resume": Flag(
            PATH, "the directory of a sweep that was stopped, to run what is missing", "none"
        ),
        "plugin": OUTPUT["plugin"],
        "quiet": OUTPUT["quiet"],
    }
    several = functools.partial(_swept, tables=tables)
    sweep = _action(
        "Sweep",
        "Many points at once: every flag of a number or a choice takes several values, joined by "
        "commas.\n\n"
        "`cgsv sweep --beta 0.5,1,2 --alpha 0.9,0.95 --seeds 5 --partition uniform,power_law` runs "
        "all combinations, as few compiled programs, and says which point is best.",
        groups(several, partitions, algorithms, sweep=SWEEP, output=beside),
        tables,
    )
    return run, compare, sweep


_DEVICE = (
    "JAX chooses the device: JAX_PLATFORMS=cuda or cpu in the environment says which, --devices "
    "how many, and `cgsv --version` what there is"
)
# Flags that people try, by what they should say.
_TRIED = {
    **dict.fromkeys(("gpu", "gpus", "cuda", "cpu", "tpu", "device"), _DEVICE),
    **dict.fromkeys(("method", "methods"), "it is called --algorithms"),
    **dict.fromkeys(("local-epochs", "num-epochs"), "it is called --epochs"),
    **dict.fromkeys(("num-steps", "max-steps"), "it is called --local-steps"),
    **dict.fromkeys(("iid", "non-iid"), "who holds what is --partition, for instance uniform"),
    "dirichlet-alpha": "it is called --concentration, with --partition dirichlet",
    "data": "it is called --dataset, and the folder of the data sets --data-dir",
    "output": "it is called --out",
    "momentum": "it is --optimizer momentum",
    "formats": "it is called --format",
}


_OTHERS = ("export",)  # actions with a --method of their own


def misheard(words: Sequence[str], actions: Sequence[Action]) -> str:
    """What is said of flags that people try, and of several values without commas; else nothing.

    Args:
      words: of the command.
      actions: those that train.
    """
    named = {action.record.__name__.lower(): action.flags for action in actions}
    if not words or words[0] in _OTHERS:
        return ""
    own = named.get(words[0], {})
    names = {f"--{name}".replace("_", "-"): name for name in own}
    names |= {flag.alias: name for name, flag in own.items() if flag.alias}
    for place, word in enumerate(words):
        tried = word.partition("=")[0].replace("_", "-")
        flag = own.get(names.get(tried, ""))
        if tried.startswith("--") and flag is None and (said := _TRIED.get(tried[2:])):
            return f"there is no {tried}: {said}"
        if flag is None or "=" in word or (words[0] != "sweep" and flag.argument == SWITCH):
            continue
        values = list(itertools.takewhile(_is_value, words[place + 1 :]))
        if len(values) > 1:
            joined = ",".join(value.strip(",") for value in values)
            if flag.argument.metavar.partition("|LOW")[0].endswith(",..."):
                return f"several values are joined by commas: {tried} {joined:.100}"
            hint = f", a sweep several: cgsv sweep {tried} {joined:.100}"
            swept = named["sweep"].get(names[tried], flag).argument != flag.argument
            return f"{tried} takes one value{hint * swept}"
    return ""


def _is_value(word: str) -> bool:
    """Whether a word is no flag; a number below 0 is none."""
    return not word.startswith("-") or word[1:2].isdigit()


_PATH = Annotated[str | None, _parser(PATH)]
_RUNS = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    _note("directories of runs or sweeps", "", metavar="RUN ..."),
]
_DATA_DIR = Annotated[_PATH, _note("folder of the data sets", "TFDS_DATA_DIR, or TFDS's own")]
_IF_ONE = "the only one there is"


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draws the figures of finished runs again; several runs are also compared with each other."""

    runs: _RUNS
    out: Annotated[
        _PATH, _note("folder for the figures", "figures/ inside the run, or here for several runs")
    ] = None
    format: Annotated[str, _note("of the files: png, pdf, svg", "png", metavar="A,B,...")] = "png"


@dataclasses.dataclass(frozen=True)
class Show:
    """Prints all tables of finished runs and sweeps again, and what differs between several."""

    runs: _RUNS
    markdown: Annotated[bool, _note("as Markdown", "")] = False
    latex: Annotated[bool, _note("as LaTeX with booktabs", "")] = False
    csv: Annotated[
        bool,
        _note("the means over seeds, unrounded: a row per run, partition, method and point", ""),
    ] = False


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes finished runs and sweeps as one HTML page: tables that sort, figures that tell."""

    runs: _RUNS
    out: Annotated[
        _PATH, _note("the page", "report.html inside the run, or here for several runs")
    ] = None


@dataclasses.dataclass(frozen=True)
class Export:
    """Takes a client's model out of a run that was started with --save-models."""

    run: Annotated[str, tyro.conf.Positional, _note("run directory", metavar="RUN")]
    client: Annotated[str, _note("the client's number, or server", metavar="INT|server")]
    out: Annotated[
        str,
        _parser(PATH),
        _note("file: .npz, or .safetensors where that package is installed"),
    ]
    method: Annotated[str | None, _note("whose", _IF_ONE, metavar="NAME")] = None
    seed: Annotated[int | None, _note("of the run", _IF_ONE, metavar="INT")] = None
    partition: Annotated[str | None, _note("of the run", _IF_ONE, metavar="NAME")] = None
    partition_seed: Annotated[int | None, _note("of the run", _IF_ONE, metavar="INT")] = None


@dataclasses.dataclass(frozen=True)
class List:
    """Which data sets there are, and which of them are on this machine."""

    data_dir: _DATA_DIR = None


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Downloads a data set, or takes a copy of its archive, and writes it for reading."""

    name: Annotated[
        str,
        tyro.conf.Positional,
        _note("data set: mnist, cifar10, sst or mr", metavar="NAME"),
    ]
    data_dir: _DATA_DIR = None
    archive: Annotated[
        _PATH,
        _note(
            "a local copy of what would be downloaded: the folder with the four .gz files of "
            "mnist; cifar-10-binary.tar.gz; trainDevTestTrees_PTB.zip of sst; "
            "rt-polaritydata.tar.gz of mr",
            "it is downloaded",
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class Data:
    """Data sets: list or prepare."""

    action: (
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")]
    )


def commands(actions: tuple[Action, Action, Action]) -> Any:
    """All that the command may be told; of what trains, see `training_actions`."""
    run, compare, sweep = actions
    return tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            tyro.conf.FlagCreatePairsOff[
                compare.spoken
                | run.spoken
                | sweep.spoken
                | Annotated[Show, tyro.conf.subcommand("show")]
                | Annotated[Plot, tyro.conf.subcommand("plot")]
                | Annotated[Report, tyro.conf.subcommand("report")]
                | Annotated[Export, tyro.conf.subcommand("export")]
                | Annotated[Data, tyro.conf.subcommand("data")]
            ]
        ]
    ]
