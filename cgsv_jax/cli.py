"""The `cgsv` command: flags in, a run directory and tables out."""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import tyro
from rich.console import Console

from cgsv_jax import (
    checkpoint,
    experiment,
    files,
    plots,
    profiling,
    results,
    runs,
    searching,
    sweep_cli,
    sweep_plots,
    sweep_results,
    sweeping,
    terminal,
)
from cgsv_jax import config as config_lib
from cgsv_jax import data as data_lib
from cgsv_jax.config import SETTINGS, Config, ConfigError

# Exit codes; a signal's is 128 and its number, as shells have it.
_FAILED = 1
_BAD_INPUT = 2
_INTERRUPTED = 128 + signal.SIGINT


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
    """`64` or `32x16`: in a sweep, commas are between settings."""
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
            return searching.span(word, whole=cast is int)
        return tuple(one(item.strip()) for item in word.split(",") if item.strip())

    return parse


_INT, _FLOAT, _NAME = _value(int, "INT"), _value(float, "NUMBER"), _value(str, "NAME")
_NAMES, _INTS = _value(_list_of(str), "A,B,..."), _value(_list_of(int), "INT,INT,...")
_FLOATS = _value(_list_of(float), "NUMBER,NUMBER,...")
_SEEDS = _value(_number_or_list, "INT | INT,INT,...")


def _default(name: str) -> str:
    """What an option is when nobody gives it, and where it is something else."""

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    base, others = config_lib.default_of(name)
    texts = [] if base is None else [text(base)]
    return ", ".join([*texts, *(f"{who} {text(value)}" for who, value in others.items())])


_T = experiment.TABLES

PROBLEM = {
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
    "learning_rate": Flag(_FLOAT, "learning rate eta of round 0"),
    "decay": Flag(_FLOAT, "factor on the learning rate, in (0, 1]"),
    "decay_per": Flag(_NAME, "decay per round or per local epoch"),
    "optimizer": Flag(_NAME, f"local optimizer: {', '.join(_T.optimizers)}"),
    "optimizer_state": Flag(_NAME, "of the local optimizer between rounds: persist or restart"),
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
    "cohort_by": Flag(_NAME, f"how a cohort is drawn: {' or '.join(config_lib.COHORTS_BY)}"),
    "attendance": Flag(
        _NAME,
        "file with the clients of every round: .npy [T, C], or a line per round, commas between",
        "none",
    ),
    "dropout": Flag(_FLOAT, "probability in [0, 1) that a client does not take part after all"),
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
RULES = {
    "setting": Flag(_NAME, f"bundle of rules and numbers: {', '.join(SETTINGS)}"),
    "gamma": Flag(_FLOAT, "Gamma, the norm of every upload, above 0"),
    "alpha": Flag(_FLOAT, "alpha, weight of the old reputation, in [0, 1]"),
    "beta": Flag(_FLOAT, "beta, altruism degree, from 0 to inf"),
    "beta_on": Flag(_NAME, "beta acts on r summing to 1 (sum) or on r / max r (max)"),
    "floor": Flag(_FLOAT, "smallest reputation before normalising"),
    "relative_floor": Flag(bool, "use floor / N, for large populations"),
    "normalise_scores": Flag(bool, "bring scores to the scale of r before averaging"),
    "norm_epsilon": Flag(_FLOAT, "added to the norm of an update"),
    "cosine_epsilon": Flag(_FLOAT, "smallest norm in the cosine's denominator"),
    "mask_scope": Flag(_NAME, "one mask over the whole vector, or one per tensor"),
    "mask_count": Flag(
        _NAME,
        "entries kept: floor(len ratio), or ceil: min(ceil(len ratio), len - 1)",
    ),
    "mask_ties": Flag(
        _NAME,
        "equal magnitudes: broken by position, or all kept",
    ),
    "first_weights": Flag(_NAME, "weights of a client's first aggregation: size or uniform"),
    "contribution": Flag(_NAME, f"contribution measure: {', '.join(_T.contributions)}"),
    "aggregation": Flag(_NAME, f"weights of the aggregate: {', '.join(_T.aggregations)}"),
    "reward": Flag(_NAME, f"reward rule: {', '.join(_T.rewards)}"),
    "game": Flag(_NAME, f"what a coalition is worth to a measure of a game: {', '.join(_T.games)}"),
    "permutations": Flag(
        _INT,
        "permutations drawn per round by a sampled value (eci and banzhaf: beyond 10 clients)",
    ),
    "tolerance": Flag(_FLOAT, "gain below which a truncated sampling stops"),
    "scale_values": Flag(
        bool, "gtg_shapley: scale its values so that those of the gain's sign sum to the gain"
    ),
    "removal": Flag(
        _FLOAT,
        "share of the mean reputation below which a client is removed for good, from round 10 on "
        "(cffl: from the first), in [0, 1)",
    ),
    "removal_imbalanced": Flag(
        _FLOAT, "cffl: the same on the partition class_imbalance; --removal holds there too"
    ),
    "removed": Flag(
        _NAME,
        "a removed client keeps its model (frozen) or trains on by itself (alone)",
    ),
    "negative": Flag(
        _NAME,
        "rffl, shapfed_wa: reputations below 0 count as zero, or are kept, with weights below 0",
    ),
    "clip": Flag(_FLOAT, "cffl: greatest magnitude of an entry of an update, above 0"),
    "clip_by": Flag(_NAME, "cffl cuts updates entry by entry to --clip, or by norm to --gamma"),
    "growth": Flag(
        _FLOAT,
        "cffl: by how much the factor in sinh grows over the run, 1 doubles it, at least 0",
    ),
    "combine": Flag(_NAME, "cffl: the mean of updates by size, or their sum"),
    "own_off": Flag(
        _NAME,
        "cffl: a client's own update comes off its download after the mask, by n / max n (sum: "
        "whole), or before it, by its weight in the aggregate",
    ),
    "q": Flag(_FLOAT, "exponent of q_ffl, at least 0"),
    "kappa": Flag(_FLOAT, "iafl: 1 gives everybody everything, in [0, 1]"),
    "recovery": Flag(_FLOAT, "iafl: probability of starting a round from the reference model"),
    "broadcast": Flag(
        _NAME,
        "shapfed_wa: what a client receives of the server's model: gamma, or gamma over its sum or "
        "over its max",
    ),
    "contribution_by": Flag(
        _NAME,
        "iafl: what a client contributes: its size, the accuracy it reaches alone (trained before "
        "the run, judged on validation rows) or its participation in the rounds so far",
    ),
    "finetune_rounds": Flag(_INT, "rounds alone at the end of fedavg_finetuned"),
    "finetune_optimizer": Flag(
        _NAME, "there: new, at the rate of round 0, or kept, with its state and rate"
    ),
}
# The numbers of a method that are printed before it runs, and what they are called.
NUMBERS = {
    "gamma": "Gamma",
    "alpha": "alpha",
    "beta": "beta",
    "q": "q",
    "kappa": "kappa",
    "recovery": "recovery",
    "removal": "removal",
    "removal_imbalanced": "removal, imbalanced",
    "clip": "clip",
    "growth": "growth",
    "finetune_rounds": "rounds alone",
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
        _NAME, f"what the best setting is chosen by: {', '.join(sweeping.CRITERIA)}", "fairness"
    ),
    "judge": Flag(
        _NAME,
        "rows that accuracies are on: test, or validation, so that choosing does not touch the "
        "test set",
        "test",
    ),
    "search": Flag(
        _NAME,
        "draw --trials settings from ranges (--beta 0.1:10, :log or :linear behind) and lists "
        f"instead of running all: {', '.join(searching.SEARCHES)} (optuna needs --on ray)",
        "all combinations",
    ),
    "trials": Flag(_INT, "settings that a search runs", "20"),
    "search_seed": Flag(_INT, "seed of what a search draws", "0"),
    "together": Flag(
        _INT,
        "runs that one call of a program computes",
        "as many as half of the memory holds; on a CPU 1",
    ),
}
RAY = {
    "on": Flag(_NAME, "where: local, or ray (extra [ray])", "local"),
    "address": Flag(_NAME, "of a Ray cluster; without it --on ray starts a local one", "local"),
    "cpus_per_trial": Flag(_INT, "CPU cores of a trial, and its threads", "1"),
    "gpus_per_trial": Flag(_FLOAT, "GPUs of a trial", "0, or 1 where there are some"),
    "scheduler": Flag(
        _NAME,
        "ends trials of a search early that do badly: "
        f"{', '.join(searching.SCHEDULERS)} (needs --on ray)",
        "none",
    ),
}
OUTPUT = {
    "config": Flag(
        _NAME, "a config.json to repeat; then only the flags of this group count", "none"
    ),
    "out": Flag(_NAME, "run directory to write", "runs/<command>-<data set>-<number>"),
    "overwrite": Flag(bool, "replace the run that the directory holds"),
    "resume": Flag(
        _NAME, "an unfinished run's directory: go on with it; with --quiet, --profile only", "none"
    ),
    "profile": Flag(bool, "then time the phases of a round, beside what the device could do"),
    "quiet": Flag(bool, "print nothing but errors"),
}


_RENAMED = {"partition": "partitions", "attack": "attacks"}


def _arguments(name: str, doc: str, flags: dict[str, Flag]) -> type:
    fields = []
    for flag, (kind, text, default, alias) in flags.items():
        default = default or ("off" if kind is bool else _default(_RENAMED.get(flag, flag)))
        hint = f"(default: {default})"
        aliases = [alias] if alias else None
        note = tyro.conf.arg(help=text, help_behavior_hint=hint, aliases=aliases)
        if kind is bool:
            fields.append((flag, Annotated[bool, note], False))
        else:
            fields.append((flag, Annotated[kind, note], None))
    made = dataclasses.make_dataclass(name, fields, frozen=True)
    made.__doc__ = doc
    return made


Run = _arguments(
    "Run",
    "One method on one partition.",
    PROBLEM
    | {
        "partition": Flag(_NAME, f"partition: {', '.join(_T.partitions)}", "power_law"),
        "algorithms": Flag(_NAME, f"method: {', '.join(_T.algorithms)}", "cgsv", "--algorithm"),
    }
    | TRAINING_FLAGS
    | WHO
    | HARDWARE
    | RULES
    | CLUSTER
    | OUTPUT,
)
Compare = _arguments(
    "Compare",
    "Several methods on the same partition, start and seeds: the fairness table.\n\n"
    "Without arguments: standalone, fedavg and cgsv on digits, 10 clients, power law, three seeds.",
    PROBLEM
    | {
        "partition": Flag(
            _NAMES, f"partitions, comma-separated: {', '.join(_T.partitions)}", "power_law"
        ),
        "algorithms": Flag(
            _NAMES,
            f"methods, comma-separated, or all: {', '.join(_T.algorithms)}; cgsv:released runs the "
            "released code's setting beside the paper's",
            "standalone,fedavg,cgsv",
            "--algorithm",
        ),
    }
    | TRAINING_FLAGS
    | WHO
    | HARDWARE
    | RULES
    | CLUSTER
    | OUTPUT,
)


def _swept(flags: dict[str, Flag]) -> dict[str, Flag]:
    """The flags as a sweep takes them: those that can be swept take several values."""
    kinds = (
        *((_INT, int, "INT"), (_FLOAT, float, "NUMBER"), (_NAME, str, "NAME")),
        *((bool, _truth, "true|false"), (_INTS, _layers, "INT[xINT...]")),
    )
    ranges = {int: " | LOW:HIGH", float: " | LOW:HIGH"}
    made = {}
    for name, flag in flags.items():
        if name in sweeping.SWEEPABLE:
            ((cast, word),) = (own for kind, *own in kinds if kind is flag.kind)
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


Sweep = _arguments(
    "Sweep",
    "Many settings at once: every flag of a number or a choice takes several values.\n\n"
    "`cgsv sweep --beta 0.5,1,2 --alpha 0.9,0.95 --seeds 5 --partition uniform,power_law` runs all "
    "combinations, as few compiled programs, and says which setting is best.",
    _swept(PROBLEM)
    | {
        "partition": Flag(
            _NAMES, f"partitions, comma-separated: {', '.join(_T.partitions)}", "power_law"
        ),
        "algorithms": Flag(
            _NAMES,
            f"methods, comma-separated, or all: {', '.join(_T.algorithms)}; standalone is run with "
            "them wherever fairness needs it",
            "cgsv",
            "--algorithm",
        ),
    }
    | _swept(TRAINING_FLAGS | HARDWARE | RULES)
    | _swept(WHO)
    | SWEEP
    | RAY
    | {
        "config": OUTPUT["config"]._replace(help="the config.json of a sweep, to repeat it"),
        "out": OUTPUT["out"]._replace(help="directory to write"),
        "overwrite": OUTPUT["overwrite"]._replace(help="replace what the directory holds"),
        "resume": Flag(
            _NAME, "the directory of a sweep that was stopped, to run what is missing", "none"
        ),
        "quiet": OUTPUT["quiet"],
    },
)


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


Command = tyro.conf.OmitSubcommandPrefixes[
    tyro.conf.OmitArgPrefixes[
        Annotated[Compare, tyro.conf.subcommand("compare")]
        | Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Plot, tyro.conf.subcommand("plot")]
        | Annotated[Data, tyro.conf.subcommand("data")]
    ]
]


class _Ended(Exception):
    """The command ends here: an exit code and the sentence that says why."""

    def __init__(self, code: int, sentence: str):
        super().__init__(sentence)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0; 1 when results cannot be written, or what was to be printed could not be; 2 for bad input,
    files that cannot be read among it; 129, 130 or 143 when it was told to stop. With CGSV_DEBUG in
    the environment a refusal shows where it comes from.
    """
    with terminal.guarded() as lost:
        return _answered(_parsed(sys.argv[1:] if argv is None else list(argv))) or _FAILED * lost()


def _parsed(words: list[str]) -> Any:
    """The command that was asked for; the parser prints help, and what is wrong, and exits."""
    cli = functools.partial(tyro.cli, Command, prog="cgsv", description=__doc__)
    if words != (plain := [terminal.plain(word) for word in words]):
        # The parser repeats what it does not know as it is.
        nowhere = io.StringIO()
        with (
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            contextlib.suppress(SystemExit),
        ):
            return cli(args=words)
        words = plain
    return cli(args=words)


def _answered(command: Any) -> int:
    """The border: what is wrong with a word or a file is a sentence, and an exit code."""
    command = command.action if isinstance(command, Data) else command
    action = {
        Compare: _train,
        Run: _train,
        Sweep: _sweep,
        Plot: _plot,
        List: _list,
        Prepare: _prepare,
    }
    try:
        action[type(command)](command)
    except (ValueError, OSError) as error:
        if "CGSV_DEBUG" in os.environ:
            raise
        named = isinstance(error, OSError) and error.filename is not None
        reason = f"{error.filename}: {files.reason_of(error)}" if named else str(error)
        terminal.complain(reason or repr(error))
        return _BAD_INPUT
    except _Ended as end:
        terminal.complain(str(end))
        return end.code
    except KeyboardInterrupt as stopped:
        terminal.complain(str(stopped) or "interrupted, no results are written")
        return _INTERRUPTED
    return 0


def _must_have_devices() -> None:
    """JAX fails in a dozen ways where the hardware that it was told to use is not there."""
    try:
        jax.devices()
    except Exception as error:
        asked = os.environ.get("JAX_PLATFORMS")
        which = f" of JAX_PLATFORMS={asked}, it must name one that is there" if asked else ""
        raise ConfigError(f"JAX finds no device{which} ({files.reason_of(error)})") from error


def _connect(args: Any) -> None:
    """Joins the other processes, if there are any; before JAX looks at its devices."""
    given = {name: getattr(args, name) for name in CLUSTER if getattr(args, name) is not None}
    if not given:
        return
    if args.coordinator == "auto" and len(given) == 1:
        jax.distributed.initialize()
        return
    numbers = (args.processes, args.process)
    if "coordinator" not in given or not all(type(number) is int for number in numbers):
        raise ConfigError(
            "--coordinator host:port, --processes and --process belong together: an address and "
            f"two whole numbers, got {', '.join(f'--{k} {v}' for k, v in given.items())}"
        )
    if not 0 <= args.process < args.processes:
        raise ConfigError(f"--process is {args.process}, it must be in 0..{args.processes - 1}")
    jax.distributed.initialize(args.coordinator, args.processes, args.process)


def _configuration(args: Any) -> Config:
    asked = {
        name: value
        for name, value in dataclasses.asdict(args).items()
        if name not in OUTPUT | CLUSTER and value is not None and value is not False
    }
    if args.config is not None:
        if asked:
            flags = ", ".join("--" + name.replace("_", "-") for name in asked)
            raise ConfigError(f"--config is a whole experiment, it cannot be combined with {flags}")
        path = files.path_of(args.config, "--config")
        values = files.read_json(path, edited=terminal.complain)
        with files.naming(args.config):
            return config_lib.from_dict(values, experiment.TABLES)
    if isinstance(args, Run):
        asked.setdefault("algorithms", "cgsv")
        for name in ("algorithms", "partition"):
            if "," in asked.get(name, "") or (name, asked.get(name)) == ("algorithms", "all"):
                raise ConfigError(f"--{name} is {asked[name]!r}, run takes one, compare a list")
    renamed = {"partitions": asked.pop("partition", None), "attacks": asked.pop("attack", None)}
    return experiment.configure(**renamed, **asked)


def _train(args: Any) -> None:
    if args.resume is not None:
        _refuse_beside_resume(args)
        directory, values = results.resumable(args.resume)
        with results.held(directory):
            if results.finished(directory):
                _is_finished(args, directory)
                return
            _must_have_devices()
            with files.naming(directory / "config.json"):
                config = config_lib.from_dict(values, experiment.TABLES)
            dealt = experiment.problems(config)
            if wrong := experiment.changed_data(directory, dealt[0].identity):
                lines = (f"--resume is {os.fspath(directory)!r}, but {line}" for line in wrong)
                raise ConfigError("\n".join(lines))
            _compute(args, config, directory, dealt)
        return
    together = [f"--{name}" for name in CLUSTER if getattr(args, name) is not None]
    if together and args.checkpoint_every is not None:
        raise ConfigError(_NOT_TOGETHER)
    _connect(args)
    _must_have_devices()
    config = _configuration(args)
    if jax.process_count() > 1 and config.checkpoint_every is not None:
        raise ConfigError(_NOT_TOGETHER)
    dealt = experiment.problems(config)
    _warn_of_other_data(args.config, dealt[0].identity)
    if jax.process_index() > 0:
        experiment.run(config, dealt=dealt)  # its share of the work; process 0 has all results
        return
    command = "run" if isinstance(args, Run) else "compare"
    out = args.out or results.fresh(command, config.dataset)
    directory = results.create(out, args.overwrite)
    with results.held(directory):
        _compute(args, config, directory, dealt)


_NOT_TOGETHER = (
    "--checkpoint-every does nothing with --coordinator: several processes save no checkpoints, "
    "so that such a run cannot be resumed"
)


def _refuse_beside_resume(args: Any) -> None:
    beside = [
        "--" + name.replace("_", "-")
        for name, value in dataclasses.asdict(args).items()
        if name not in ("resume", "quiet", "profile") and value is not None and value is not False
    ]
    if beside:
        raise ConfigError(
            f"--resume goes on with a run as it was begun, it cannot be combined with "
            f"{', '.join(beside)}"
        )


def _warn_of_other_data(config: str | None, now: experiment.DataIdentity) -> None:
    """Where the config of a run or sweep is repeated, and its data are others now."""
    file = pathlib.Path(config or "")
    if file.name != "config.json":
        return
    try:
        wrong = experiment.changed_data(files.path_of(file.parent, "--config"), now)
    except ValueError as error:
        wrong = [str(error)]
    for line in wrong:
        terminal.complain(f"--config is {config!r}, but {line}")


def _is_finished(args: Any, directory: pathlib.Path) -> None:
    """Does what follows the tables, in case that the process was killed there."""
    with _written(directory):
        plots.draw([directory], missing=True)
    try:
        with results.writing(directory):
            results.tidy(directory)
            results.remove_checkpoints(directory)
    except OSError as error:  # nothing is missing, there is too much
        terminal.complain(str(error))
    to = terminal.console(args.quiet)
    terminal.say(to, f"the run in {directory} is finished, there is nothing to go on with")


def _compute(
    args: Any, config: Config, directory: pathlib.Path, dealt: tuple[experiment.Problem, ...]
) -> None:
    """Runs what a config says, or the rest of it, and writes a run directory, which is held."""
    environment = results.environment() | {"data": dealt[0].identity}
    results.begin(directory, config_lib.to_dict(config), environment)
    console = terminal.console(args.quiet)
    _announce(console, config, dealt)

    def work(keeper: runs.Keeper | None, see: Callable[[experiment.Progress], None]) -> Any:
        with _watching(console, config) as watch:
            return experiment.run(config, lambda p: (see(p), watch(p)), dealt, keeper)

    def settings() -> dict[str, Any]:
        rows = experiment.fingerprint(dealt)
        return {"config": config_lib.to_dict(config), "rows": rows}

    every = config.checkpoint_every
    with _kept(console, directory, settings, every, work) as (result, earlier):
        with _written(directory):
            experiment.save(directory, result, earlier)
        for table in results.tables(result.cells, console.width):
            console.print(table)
        with _written(directory):
            figures = plots.draw([directory])
    try:
        _profile(args, console, config, directory, dealt, result.timing)
    except KeyboardInterrupt:
        raise _Ended(_INTERRUPTED, f"interrupted, the results are in {directory}") from None
    console.print(results.seconds_table(result.timing))
    total = result.timing["total_seconds"]
    compiling = sum(cell["compile_seconds"] for cell in result.timing["methods"])
    terminal.say(console, f"{total:.1f} s in all, {compiling:.1f} s of them compiling")
    where = f"{len(figures)} figures in {directory / results.FIGURES}"
    terminal.say(console, f"results: {directory}  ({where})")


@contextlib.contextmanager
def _kept(
    console: Console,
    directory: pathlib.Path,
    settings: Callable[[], dict[str, Any]],
    every: int | None,
    work: Callable[[runs.Keeper | None, Callable[[Any], None]], Any],
) -> Iterator[tuple[Any, list[Any]]]:
    """Computes something long: saved as it goes, gone on with where it was left.

    A signal stops it after the running segment. In the body the results are written, and drawn;
    then the checkpoints have served and are removed.

    Args:
      console: where it says what it does.
      directory: the run directory, which is held.
      settings: all that decides what is computed (see `checkpoint.of_run`).
      every: rounds that may be lost at most.
      work: (keeper, see) -> what is computed; `see` is to be called with every look at it: whatever
        has `until`, `round` and `rounds`.

    Yields:
      What was computed, and the other environments that computed a part of it.
    """
    if jax.process_count() > 1:  # each holds a part of the state
        yield work(None, lambda look: None), []
        return
    doing = ["stopping after what is loading, and saving"]

    def see(look: Any) -> None:
        rounds = f"round {look.until:,} of {look.rounds:,} of this method"
        doing[:] = [f"stopping after {rounds}, and saving"]

    def say(sentence: str) -> None:
        terminal.say(console, sentence)

    on = results.resuming(directory)
    first, second = (
        lambda: f"{doing[0]}; once more stops at once",
        lambda: f"stopped at once; go on with: {on}",
    )
    with _signals(console, first, second) as received:
        checkpoints = checkpoint.of_run(
            directory, settings, every, lambda: bool(received), terminal.complain, say
        )
        try:
            result = work(checkpoints.keeper, see)
        except runs.Stopped:
            done = checkpoints.latest()
            where = "at round 0" if done is None else f"after {done:,} rounds"
            sentence = f"stopped; go on {where} with: {on}"
            raise _Ended(128 + received[0], sentence) from None
        doing[:] = ["the results are being written"]
        yield result, checkpoints.earlier()
        with _written(directory):
            checkpoints.remove()


@contextlib.contextmanager
def _written(directory: pathlib.Path) -> Iterator[None]:
    """Writes results in its body; what has been computed is not lost when that fails."""
    try:
        yield
    except OSError as error:
        sentence = f"{error}; when that is mended: {results.resuming(directory)}"
        raise _Ended(_FAILED, sentence) from error


@contextlib.contextmanager
def _signals(
    console: Console, first: Callable[[], str], second: Callable[[], str]
) -> Iterator[list[int]]:
    """What SIGINT, SIGTERM and SIGHUP asked for, as a list of their numbers that grows.

    The first is answered with a sentence, the second ends the process. A thread does both, since
    Python's own handlers wait until a compiled program has ended.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # nobody but the main thread may ask for signals
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        numbers.append(signal.SIGHUP)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        while number := os.read(reading, 1)[0]:
            if number not in numbers:
                continue
            received.append(number)
            terminal.complain(first() if len(received) == 1 else second())
            if len(received) > 1:
                console.show_cursor(True)  # the bar had hidden it
                os._exit(128 + number)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    handlers = [signal.signal(number, lambda *_: None) for number in numbers]
    wakeup = signal.set_wakeup_fd(writing)
    thread.start()
    try:
        yield received
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        os.write(writing, b"\0")
        thread.join()
        os.close(reading)
        os.close(writing)


def _profile(
    args: Any,
    console: Console,
    config: Config,
    directory: pathlib.Path,
    dealt: Sequence[experiment.Problem],
    timing: dict[str, Any],
) -> None:
    """Times the phases of a round if that is asked for, and adds what it finds to the timing."""
    if not args.profile:
        return
    profiles = [
        profiling.profile(config, method, problem) for problem in dealt for method in config.methods
    ]
    timing["profiles"] = [profiling.plain(profile) for profile in profiles]
    with _written(directory):
        results.write_files(directory, {"timing.json": results.document(timing)})
    for profile in profiles:
        terminal.say(console, "\n".join(["", *profiling.lines(profile), ""]))


def _announce(console: Console, config: Config, dealt: Sequence[experiment.Problem]) -> None:
    shown = {
        "data set": config.dataset,
        "model": f"{config.model}, D = {sum(dealt[0].tensors):,} parameters",
        "clients": f"N = {config.clients}",
        "seeds": ", ".join(map(str, config.seeds)),
        "rounds": f"T = {config.rounds}, E = {config.epochs} local epochs, "
        f"B = {config.batch_size} rows per step",
        "layout": f"clients computed at once: {config.layout}, devices: {config.devices}",
    }
    if taking := _who_takes_part(config):
        shown["takes part"] = taking
    if dealt[0].cheats:
        shown["dishonest"] = _who_cheats(dealt[0].cheats)
    wide = max(10, *(len(method.name) for method in config.methods))
    for name, text in shown.items():
        terminal.say(console, f"{name:>{wide}}  {text}")
    for method in config.methods:
        numbers = f"eta = {method.learning_rate:g}, decay = {method.decay:g} per {method.decay_per}"
        read = experiment.TABLES.reads[method.algorithm]
        for name, letter in NUMBERS.items():
            if name in read and getattr(method, name) is not None:
                numbers += f", {letter} = {getattr(method, name):.3g}"
        terminal.say(console, f"{method.name:>{wide}}  {numbers}")
    for problem in dealt:
        console.print(results.holdings_table(problem.sizes, problem.classes, problem.partition))
        if problem.partition == "class_imbalance":
            terminal.say(console, "class_imbalance draws with replacement: clients share rows")


def _who_takes_part(config: Config) -> str:
    """A sentence, empty where it is everybody."""
    parts = []
    if config.cohort is not None:
        how = "by reputation" if config.cohort_by == "reputation" else "at random"
        parts.append(f"{config.cohort} of {config.clients} clients a round, drawn {how}")
    if config.attendance is not None:
        parts.append(f"the clients listed in {config.attendance}")
    dropout = max(method.dropout for method in config.methods)
    if dropout > 0:
        parts.append(f"each drops out with probability {dropout:g}")
    for text in config.late:
        count, first = config_lib.late_joiners(text)
        parts.append(f"{count} clients join in round {first}")
    return "; ".join(parts)


def _who_cheats(cheats: Sequence[str]) -> str:
    """The attackers of every attack by number, the first of many."""
    found: dict[str, list[str]] = {}
    for client, name in enumerate(cheats):
        if name:
            found.setdefault(name, []).append(str(client))
    return "; ".join(
        f"{name}: {', '.join(who[:10])}{f' and {len(who) - 10} more' if len(who) > 10 else ''}"
        for name, who in found.items()
    )


@contextlib.contextmanager
def _watching(console: Console, config: Config) -> Iterator[Callable[[experiment.Progress], None]]:
    """Shows how far the rounds of all methods are, while the body lasts."""
    total = sum(experiment.rounds_of(config, method) for method in config.methods)
    total *= len(config.seeds) * len(config.partitions)
    unit = "rounds" if len(config.seeds) == 1 else f"rounds of {len(config.seeds)} seeds"
    finished, state = 0, ""  # rounds of the methods before this one; its latest accuracies

    def watch(p: experiment.Progress) -> None:
        nonlocal finished, state
        name, done = f"{p.partition} {p.method}", finished + p.round
        if p.compiling:
            state = ""
            show(done, f"{name}: compiling", name, state="compiling", now=True)
            return
        if p.accuracy is not None:  # not every segment ends in an evaluation
            mean, most = 100 * p.accuracy.mean(), 100 * p.accuracy.max()
            state = f"accuracy mean {mean:.1f} %, max {most:.1f} %"
        pace = f"{p.rounds_per_second:.3g}/s"
        left = (p.rounds - p.round) / p.rounds_per_second
        line = f"{name}: {p.round}/{p.rounds} {unit}, {pace}, {left:.0f} s left"
        line += f", {state}" if state else ""
        show(done, line, name, pace, state, now=p.round == p.rounds)
        if p.round == p.rounds:
            finished += p.rounds

    with terminal.progress(console, total, unit) as show:
        yield watch


def _sweep(args: Any) -> None:
    flags = {
        name: value
        for name, value in dataclasses.asdict(args).items()
        if value is not None and value is not False
    }
    where = [*SWEEP, *RAY, "config", "out", "overwrite", "resume", "quiet"]
    own = {name: flags.pop(name) for name in where if name in flags}
    for flag, name in (("partition", "partitions"), ("attack", "attacks")):
        if flag in flags:
            flags[name] = flags.pop(flag)
    border = sweep_cli.Border(_must_have_devices, _warn_of_other_data, _kept, _written)
    sweep_cli.command(flags, own, border)


def _plot(args: Plot) -> None:
    if not args.runs:
        raise ConfigError("cgsv plot needs at least one run directory")
    paths = [files.path_of(word, "the run's directory") for word in args.runs]
    sweeps = [path for path in paths if sweep_results.is_sweep(path)]
    runs = [path for path in paths if path not in sweeps]
    several = "figures" if len(paths) > 1 else None
    out = args.out or several
    drawn = plots.draw(runs, out) if runs else []
    for path in sweeps:
        own = out and files.path_of(out, "--out") / (path.resolve().name if several else "")
        drawn += sweep_plots.again(path, own)
    for file in drawn:
        terminal.say(terminal.console(), str(file))


def _list(args: List) -> None:
    for line in data_lib.available(args.data_dir):
        train, test = line.num_rows
        shape = " x ".join(map(str, line.input_shape))
        what = f"{line.num_classes} classes  {train:>6} + {test:>5} rows  {line.description}"
        where = f"{'here' if line.present else 'not here'}: {line.where}"
        terminal.say(terminal.console(), f"{line.name:10} {shape:>12}  {what}\n{'':10} {where}")


def _prepare(args: Prepare) -> None:
    folder = data_lib.prepare(args.name, args.data_dir, args.archive)
    terminal.say(terminal.console(), str(folder))
