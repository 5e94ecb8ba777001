"""What may be asked of the command, word by word."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import tyro

from cgsv_jax.config import defaults, schema, validate
from cgsv_jax.config.defaults import PRESETS
from cgsv_jax.experiment import names, plugins
from cgsv_jax.rules.spec import Choice, Count, Number, Option, Truth
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import search


class Flag(NamedTuple):
    """A line of `--help`: what may follow the flag, and what it means."""

    kind: Any
    help: str
    default: str | None = None  # as shown; None: as the tables of defaults say
    alias: str | None = None


def _value(cast: Callable[[str], Any], metavar: str) -> Any:
    """One word, converted if it can be: what cannot stays a string, and config.validate says so."""

    def parse(words: Sequence[str]) -> Any:
        try:
            return cast(words[0])
        except ValueError:
            return words[0]

    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: True,  # None stands for the data set's default
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[Any, spec]


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
            return search.span(word, whole=cast is int)
        return tuple(one(item.strip()) for item in word.split(",") if item.strip())

    return parse


_INT, _FLOAT, _NAME = _value(int, "INT"), _value(float, "NUMBER"), _value(str, "NAME")
_NAMES, _INTS = _value(_list_of(str), "A,B,..."), _value(_list_of(int), "INT,INT,...")
_FLOATS = _value(_list_of(float), "NUMBER,NUMBER,...")
_SEEDS = _value(_number_or_list, "INT | INT,INT,...")


def _default(name: str, tables: schema.Tables) -> str:
    """What an option is when nobody gives it, and where it is something else."""

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    base, others = defaults.default_of(name, tables)
    texts = [] if base is None else [text(base)]
    return ", ".join([*texts, *(f"{who} {text(value)}" for who, value in others.items())])


def _of_option(option: Option) -> Flag:
    """The flag of an option that a rule, or training, declares."""
    kinds = {Number: _FLOAT, Count: _INT, Choice: _NAME, Truth: bool}
    words = ", ".join(option.allowed) if isinstance(option, Choice) else ""
    told = all(word in option.help for word in words.split(", "))
    return Flag(kinds[type(option)], option.help if told else f"{option.help}: {words}")


_T = names.TABLES

TASK = {
    "dataset": Flag(_NAME, f"data set: {', '.join(_T.datasets)}"),
    "data_dir": Flag(_NAME, "folder of the TFDS sets", "TFDS_DATA_DIR, or TFDS's own"),
    "model": Flag(_NAME, f"network: {', '.join(_T.models)}", "the data set's"),
    "hidden": Flag(_INTS, "hidden units of the mlp, a number per layer"),
    "clients": Flag(_INT, "number of clients N", "10, or as many as --shares"),
    "rows_per_client": Flag(
        _INT,
        "cap: at most N times this many training rows are dealt out",
        "mnist 600, cifar10 2000",
    ),
    "validation_share": Flag(
        _FLOAT,
        "share of the training rows that no client gets",
        "0.1, cifar10 0.2, sst and mr 0 (they have such rows)",
    ),
    "partition_seed": Flag(_INT, "seed of the partition, the same for all seeds"),
    "concentration": Flag(_FLOAT, "above 0, small is uneven (dirichlet, size_dirichlet)"),
    "dirichlet_balanced": Flag(
        bool, "of the next class nobody gets rows who has n / N of them already (dirichlet)"
    ),
    "min_rows": Flag(_INT, "fewest rows of a client (dirichlet, size_dirichlet, by_owner)"),
    "shares": Flag(
        _FLOATS, "a number per client, sizes are proportional to them (by_shares)", "none"
    ),
    "classes_per_client": Flag(_INT, "classes that every client holds (k_classes)"),
    "owners": Flag(
        _NAME, "file with an owner id per training row, .npy or .npz (by_owner)", "none"
    ),
    "lists": Flag(
        _NAME,
        "file with the row numbers of every client: .npz, an array per client, .npy [N, M], .json, "
        "a list of lists, or a line per client, commas between (from_lists)",
        "none",
    ),
    "repeated_rows": Flag(bool, "a row may be listed more than once (from_lists)"),
    "synthetic_rows": Flag(_INT, "training rows of the data set synthetic"),
}
TRAINING_FLAGS = {
    "seeds": Flag(_SEEDS, "how many seeds (0, 1, ...), or a comma-separated list of them"),
    "rounds": Flag(_INT, "rounds of communication T"),
    "epochs": Flag(_INT, "local epochs per round E"),
    "batch_size": Flag(_INT, "rows per mini-batch step B"),
    **{name: _of_option(option) for name, option in schema.TRAINING.items()},
    "eval_every": Flag(
        _INT,
        "rounds between two evaluations on the test set",
        "rounds / 20",
        "--evaluate-every",
    ),
    "eval_rows": Flag(_INT, "test rows to evaluate on, drawn once with --partition-seed", "all"),
    "eval_clients": Flag(
        _INT, "clients to evaluate, evenly from the fewest rows to the most", "all"
    ),
    "eval_batch": Flag(_INT, "test rows per forward pass"),
    "checkpoint_every": Flag(
        _INT,
        "rounds of a seed that are lost at most when the run is killed; --resume goes on",
        "about a minute",
    ),
}
WHO = {
    "cohort": Flag(_INT, "clients that take part in a round, drawn anew each time", "all"),
    "cohort_by": Flag(_NAME, f"how a cohort is drawn: {' or '.join(schema.COHORTS_BY)}"),
    "attendance": Flag(
        _NAME,
        "file with the clients of every round: .npy [T, C], or a line per round, commas between",
        "none",
    ),
    "late": Flag(
        _NAMES, "clients:round, so many clients join in that round (from 0), drawn once", "none"
    ),
    "attack": Flag(
        _NAMES,
        "name:clients, so many clients cheat, drawn once; or name:clients:strength (label_flip and "
        "random_labels: the share of their rows, in (0, 1]); names: "
        f"{', '.join(_T.attacks)} (replication: one client poses as so many)",
        "none",
    ),
    "attackers": Flag(_INTS, "who they are by number, those of the first attack first", "drawn"),
}
HARDWARE = {
    "layout": Flag(
        _NAME,
        "clients computed at once: all, one, a number, or balanced (the widest chunks that fit the "
        "memory and whose padding costs at most a tenth)",
        "balanced; on a CPU one for models with convolutions, else 4",
    ),
    "devices": Flag(_INT, "devices that share the clients", "all there are"),
    "precision": Flag(_NAME, f"of local training: {', '.join(_T.precisions)}; scores are float32"),
    "conv": Flag(
        _NAME,
        f"form of the convolutions: {', '.join(_T.convs)}",
        "auto: block to train, lax to test",
    ),
}


def rules(tables: schema.Tables) -> dict[str, Flag]:
    """The flags of what rules declare."""
    declared = {n: _of_option(o) for n, o in tables.options.items() if n not in schema.TRAINING}
    return {
        "preset": Flag(
            _NAME, f"bundle of rules and numbers: {', '.join(PRESETS)}", alias="--setting"
        ),
        **declared,
    }


CLUSTER = {
    "coordinator": Flag(
        _NAME,
        "host:port of process 0 where several processes share the clients, each started with the "
        "same flags; auto: as the cluster's scheduler says",
        "one process",
    ),
    "processes": Flag(_INT, "how many processes there are, with --coordinator host:port", "none"),
    "process": Flag(_INT, "which of them this is, from 0; only 0 prints and writes", "none"),
}
SWEEP = {
    "best": Flag(
        _NAME, f"what the best point is chosen by: {', '.join(points_lib.CRITERIA)}", "fairness"
    ),
    "eval_split": Flag(
        _NAME,
        "examples that accuracies are on: test, or validation, so that choosing does not touch the "
        "test set",
        "test",
        "--judge",
    ),
    "search": Flag(
        _NAME,
        "draw --points points from ranges (--beta 0.1:10, :log or :linear behind) and lists "
        f"instead of running all: {', '.join(search.SEARCHES)} (optuna: extra [search])",
        "all combinations",
    ),
    "points": Flag(_INT, "points that a search runs", "20", "--trials"),
    "batch": Flag(
        _INT,
        "points that a search draws before the first of them are compared",
        "1; on Ray as many as find place",
    ),
    "search_seed": Flag(_INT, "seed of what a search draws", "0"),
    "scheduler": Flag(
        _NAME,
        "stops points of a search early that do badly: "
        f"{', '.join(search.SCHEDULERS)} (extra [search])",
        "none",
    ),
    "together": Flag(
        _INT,
        "trials that one call of a program computes",
        "as many as half of the memory holds; on a CPU 1",
    ),
}
RAY = {
    "on": Flag(_NAME, "where: local, or ray (extra [ray])", "local"),
    "address": Flag(_NAME, "of a Ray cluster; without it --on ray starts a local one", "local"),
    "cpus_per_task": Flag(_INT, "CPU cores of a task, and its threads", "1", "--cpus-per-trial"),
    "gpus_per_task": Flag(
        _FLOAT, "GPUs of a task", "0, or 1 where there are some", "--gpus-per-trial"
    ),
}
OUTPUT = {
    "config": Flag(
        _NAME, "a config.json to repeat; then only the flags of this group count", "none"
    ),
    "out": Flag(_NAME, "run directory to write", "runs/<command>-<data set>-<number>"),
    "overwrite": Flag(bool, "replace the run that the directory holds"),
    "resume": Flag(
        _NAME,
        "an unfinished run's directory: go on with it; with --plugin, --profile, --quiet only",
        "none",
    ),
    "plugin": Flag(
        _NAME, f"a file with rules of your own: {', '.join(plugins.FIELDS)} by name", "none"
    ),
    "profile": Flag(bool, "then time the phases of a round, beside what the device could do"),
    "quiet": Flag(bool, "print nothing but errors"),
}


def given(args: Any) -> dict[str, Any]:
    """What somebody asked for, by flag: an option without a word and one that is off are not."""
    values = dataclasses.asdict(args).items()
    return {name: value for name, value in values if value is not None and value is not False}


def fields_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The same by field."""
    return {validate.RENAMED.get(name, name): value for name, value in flags.items()}


def _arguments(name: str, doc: str, flags: dict[str, Flag], tables: schema.Tables) -> type:
    fields = []
    for flag, (kind, text, default, alias) in flags.items():
        default = default or (
            "off" if kind is bool else _default(validate.RENAMED.get(flag, flag), tables)
        )
        hint = f"(default: {default})"
        aliases = [alias] if alias else None
        note = tyro.conf.arg(help=text, help_behavior_hint=hint, aliases=aliases)
        if kind is bool:
            fields.append((flag, Annotated[bool, note], False))
        else:
            fields.append((flag, Annotated[kind, note], None))
    made = dataclasses.make_dataclass(
        name, fields, frozen=True, namespace={"command": name.lower()}
    )
    made.__doc__ = doc
    return made


def _swept(flags: dict[str, Flag], tables: schema.Tables) -> dict[str, Flag]:
    """The flags as a sweep takes them: those that can be swept take several values."""
    kinds: tuple[tuple[Any, Any, str], ...] = (
        *((_INT, int, "INT"), (_FLOAT, float, "NUMBER"), (_NAME, str, "NAME")),
        *((bool, _truth, "true|false"), (_INTS, _layers, "INT[xINT...]")),
    )
    ranges = {int: " | LOW:HIGH", float: " | LOW:HIGH"}
    made, there = {}, points_lib.sweepable(tables)
    for name, flag in flags.items():
        if name in there:
            ((cast, word),) = ((cast, word) for kind, cast, word in kinds if kind is flag.kind)
            kind = _value(_several(cast), f"{word},...{ranges.get(cast, '')}")
            default = "false" if flag.kind is bool else flag.default
            flag = flag._replace(kind=kind, default=default)
        made[name] = flag
    made |= {
        name: flag._replace(help=f"{flag.help}; layers joined by x")
        for name, flag in made.items()
        if name == "hidden"
    }
    return made


def training_commands(tables: schema.Tables) -> tuple[type, type, type]:
    """What run, compare and sweep may be told, where there are these names."""
    partitions = Flag(
        _NAMES, f"partitions, comma-separated: {', '.join(tables.partitions)}", "power_law"
    )
    methods = ", ".join(tables.algorithms)

    def of(name: str, doc: str, partition: Flag, algorithms: Flag) -> type:
        which = {"partition": partition, "algorithms": algorithms}
        how = TRAINING_FLAGS | WHO | HARDWARE | rules(tables)
        return _arguments(name, doc, TASK | which | how | CLUSTER | OUTPUT, tables)

    run = of(
        "Run",
        "One method on one partition.",
        partitions._replace(kind=_NAME, help=f"partition: {', '.join(tables.partitions)}"),
        Flag(_NAME, f"method: {methods}", "cgsv", "--algorithm"),
    )
    compare = of(
        "Compare",
        "Several methods on the same partition, start and seeds: the fairness table.\n\n"
        "Without arguments: standalone, fedavg and cgsv on digits, 10 clients, power law, "
        "three seeds.",
        partitions,
        Flag(
            _NAMES,
            f"methods, comma-separated, or all: {methods}; cgsv:released runs the released code's "
            "preset beside the paper's",
            "standalone,fedavg,cgsv",
            "--algorithm",
        ),
    )
    sweep = _arguments(
        "Sweep",
        "Many points at once: every flag of a number or a choice takes several values.\n\n"
        "`cgsv sweep --beta 0.5,1,2 --alpha 0.9,0.95 --seeds 5 --partition uniform,power_law` runs "
        "all combinations, as few compiled programs, and says which point is best.",
        _swept(TASK, tables)
        | {
            "partition": partitions,
            "algorithms": Flag(
                _NAMES,
                f"methods, comma-separated, or all: {methods}; standalone is run with them "
                "wherever fairness needs it",
                "cgsv",
                "--algorithm",
            ),
        }
        | _swept(TRAINING_FLAGS | HARDWARE | rules(tables), tables)
        | _swept(WHO, tables)
        | SWEEP
        | RAY
        | {
            "config": OUTPUT["config"]._replace(help="the config.json of a sweep, to repeat it"),
            "out": OUTPUT["out"]._replace(help="directory to write"),
            "overwrite": OUTPUT["overwrite"]._replace(help="replace what the directory holds"),
            "resume": Flag(
                _NAME, "the directory of a sweep that was stopped, to run what is missing", "none"
            ),
            "plugin": OUTPUT["plugin"],
            "quiet": OUTPUT["quiet"],
        },
        tables,
    )
    return run, compare, sweep


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draws the figures of finished runs again; several runs are also compared with each other."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories."""
    out: str | None = None
    """Folder for the figures; default: figures/ inside the run, or here for several runs."""


@dataclasses.dataclass(frozen=True)
class List:
    """Which data sets there are, and which of them are on this machine."""

    data_dir: str | None = None
    """Folder of the TFDS sets; default: TFDS_DATA_DIR, or TFDS's own."""


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Downloads a data set and writes it for reading; mnist and cifar10 need TensorFlow for it."""

    name: tyro.conf.Positional[str]
    """Data set: mnist, cifar10, sst or mr."""
    data_dir: str | None = None
    """Folder to write to; default: TFDS_DATA_DIR, or TFDS's own."""
    archive: str | None = None
    """A local copy of the archive of sst or mr, in place of downloading it."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Data sets: list or prepare."""

    action: (
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")]
    )


def commands(tables: schema.Tables) -> Any:
    """All that the command may be told."""
    run, compare, sweep = training_commands(tables)
    return tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[compare, tyro.conf.subcommand("compare")]
            | Annotated[run, tyro.conf.subcommand("run")]
            | Annotated[sweep, tyro.conf.subcommand("sweep")]
            | Annotated[Plot, tyro.conf.subcommand("plot")]
            | Annotated[Data, tyro.conf.subcommand("data")]
        ]
    ]
