"""One validated description of an experiment, for the command, for files and for Python.

`resolve` turns the few things somebody asked for into a `Config` in which nothing is left open;
`from_dict` reads one back. Both judge values as `validate` does and raise once, with a line for
everything that is wrong: whatever is asked for, in whatever type, ends as a `Config` or as a
`ConfigError`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cgsv_jax.config import fields as fields_lib
from cgsv_jax.config.fields import Name, Path, Several, Word
from cgsv_jax.core.ranges import MAX_WHOLE, RANGES, Interval, from_
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Choice, Count, Number, Option, Spec, Truth, When
from cgsv_jax.types import Hyper

MAX_SEEDS = fields_lib.MOST
LONGEST = MAX_SEEDS + 1  # items of a sequence that are looked at: one more than any may have

# What every method reads of how its clients train; all other options are declared by rules.
TRAINING: dict[str, Option] = {
    "learning_rate": Number(0.1, RANGES["learning_rate"], "learning rate eta of round 0"),
    "decay": Number(0.99, RANGES["decay"], "factor on the learning rate, in (0, 1]"),
    "decay_per": Choice("round", ("round", "epoch"), "decay per round or per local epoch"),
    "optimizer": Choice(
        "sgd",
        ("sgd", "clipped_sgd", "momentum", "adam"),
        "local optimizer; clipped_sgd cuts the gradient of a step to norm 1",
    ),
    "optimizer_state": Choice(
        "persist",
        ("persist", "restart"),
        "of the local optimizer between rounds: persist or restart",
        when=When(("optimizer",), ("momentum", "adam")),
    ),
    "dropout": Number(
        0.0,
        RANGES["dropout"],
        "probability in [0, 1) that a client does not take part after all",
        switch=True,
    ),
}

# Of these options, the group of flags that they belong to where that is not training.
ELSEWHERE = {"dropout": "participation"}
ALIASES = {"learning_rate": "--lr"}  # of their flags

# What a config.json means that was written before there was such a key.
EARLIER = {
    "patience": None,
    "track": [],
    "plugin": None,
    "plugin_sha256": None,
    "select": "last",
    "partition_seeds": 1,
    "save_models": False,
    "local_steps": None,
    "dirichlet_equal": False,
    "own_test_share": 0.0,
}
EARLIER_OF_METHODS = {"gamma_decay": 1.0, "standalone_on": "validation"}
EARLIER_OF_METHOD = {"fedavg": {"aggregation": "size"}}  # of one algorithm alone

CONVOLUTIONAL = ("mnist_cnn", "cifar_cnn", "tutorial_cnn")  # models whose convolution has forms
OF_TOKENS = ("text_cnn",)  # models whose inputs are numbers of words

# Partitions whose rows somebody has chosen: they are not thinned out by --rows-per-client.
CHOSEN_ROWS = ("by_owner", "from_lists")
# Partitions in which a seed decides nothing about who holds what.
NOT_DRAWN = ("from_lists",)

# Names of `experiment.tracking.TRACKERS`.
TRACKERS = ("tensorboard", "wandb", "mlflow")
YARDSTICK = "standalone"  # the method that fairness compares with

LAYOUTS = ("all", "one", "balanced")


def earlier_of(algorithm: Any) -> dict[str, Any]:
    """What a method of a config.json means that was written before there were such keys."""
    own = EARLIER_OF_METHOD.get(algorithm, {}) if isinstance(algorithm, str) else {}
    return EARLIER_OF_METHODS | own


@dataclasses.dataclass(frozen=True)
class Method:
    """One column of a comparison: an algorithm and every number and word it runs with.

    An option is read as a field: `method.beta`. Only those are there that the algorithm, its parts
    and training read.
    """

    name: str  # as asked for, for instance "cgsv:released"
    algorithm: str
    options: tuple[tuple[str, Any], ...]  # flag and value, in the order of the flags
    declared: Mapping[str, Option] = dataclasses.field(compare=False, repr=False)

    def __getattr__(self, name: str) -> Any:
        for flag, value in self.__dict__.get("options", ()):
            if flag == name:
                return value
        raise AttributeError(f"a method has no {name!r}")

    @property
    def values(self) -> dict[str, Any]:
        """The options by flag."""
        return dict(self.options)

    def get(self, name: str, otherwise: Any = None) -> Any:
        """An option, or something else where the method does not read it."""
        return self.values.get(name, otherwise)

    def replace(self, **values: Any) -> "Method":
        """The method with other values of options that it has."""
        unknown = values.keys() - self.values.keys()
        if unknown:
            raise KeyError(f"{self.name} does not read {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, options=tuple((self.values | values).items()))

    def hyper(self, partition: str = "") -> Hyper:
        """The numbers that may be traced, on a partition; what is switched off is not there."""
        numbers = {n: o for n, o in self.declared.items() if isinstance(o, Number)}
        values = {n: v for n, v in self.options if n in numbers}
        found = {n: v for n, v in values.items() if v or not numbers[n].switch}
        for name, value in values.items():
            if number := numbers[name].instead_of:
                del found[name]
                if value is not None and partition == numbers[name].partition:
                    found[number] = value
        return found

    def words(self) -> dict[str, Any]:
        """What may not be traced: words, truths and counts."""
        return {n: v for n, v in self.options if not isinstance(self.declared[n], Number)}


class Attacking(NamedTuple):
    """What some clients do, as asked for."""

    name: str
    count: int
    strength: float | None  # None: the attack's own default


def attacking(text: str) -> Attacking:
    """Reads "sign_flip:3" or "scaled:2:100".

    Raises:
      ValueError: it is written otherwise.
    """
    name, _, rest = text.partition(":")
    count, _, strength = rest.partition(":")
    found = Attacking(name, _digits(count), float(strength) if strength else None)
    if found.strength is not None and not math.isfinite(found.strength):
        raise ValueError(text)
    return found


def late_joiners(text: str) -> tuple[int, int]:
    """Reads "3:20": three clients whose first round is 20, counted from 0.

    Raises:
      ValueError: it is written otherwise.
    """
    count, _, first = text.partition(":")
    return _digits(count), _digits(first)


def _digits(text: Any) -> int:
    # int() and isdigit() know digits of other alphabets as well, and int() none of 5,000 digits.
    if not (
        isinstance(text, str)
        and text.isascii()
        and text.isdigit()
        and len(text) <= len(str(MAX_WHOLE))
    ):
        raise ValueError(text)
    return int(text)


def layout_of(text: Any) -> str:
    """A layout's name, or how many clients are computed at once.

    Raises:
      ValueError: it is neither.
    """
    if text not in LAYOUTS and not 1 <= _digits(text) <= MAX_WHOLE:
        raise ValueError(text)
    return text


def whole(value: Any) -> bool:
    """Whether a value is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


# Of flags, in the order of help.
GROUPS = ("data", "partition", "training", "participation", "evaluation", "hardware")
_data, _partition, _training, _participation, _evaluation, _hardware = (
    functools.partial(fields_lib.declared, group) for group in GROUPS
)


_rows, _held = (functools.partial(group, rows=True) for group in (_data, _partition))
SEED = Interval(0, 2**32 - 1, whole=True)
_ONE, _POSITIVE = from_(1), Interval(0, math.inf, "()")


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment with nothing left open; equal configs give equal results.

    Every method runs on every draw of every partition with every seed, from the same start. A
    default that is None is the data set's, or follows from other fields, see `resolve`; where None
    is a value, the field is optional.
    """

    dataset: str = _data(
        Name(None, "datasets", "data set: {datasets}; or a file of your own, .npz")
    )
    data_dir: str | None = _rows(Path("folder of the TFDS sets"), "TFDS_DATA_DIR, or TFDS's own")
    model: str = _data(Name(None, "models", "network: {models}"), "the data set's")
    hidden: tuple[int, ...] = _data(
        Several(
            (64,),
            Count(None, _ONE, ""),
            "hidden units of the mlp, a number per layer",
            100,  # beyond, to trace it takes minutes
            "has too many layers, it must have",
        ),
        when=When(("model",), ("mlp",)),
    )
    clients: int = _partition(
        Count(None, RANGES["clients"], "number of clients N"), "10, or as many as --shares"
    )
    rows_per_client: int | None = _rows(
        Count(None, _ONE, "cap: at most N times this many training rows are dealt out"),
        "mnist 600, cifar10 2000",
    )
    validation_share: float = _rows(
        Number(0.1, Interval(0, 1, "[)"), "share of the training rows that no client gets"),
        "0.1, cifar10 0.2, sst and mr 0 (they have such rows)",
    )
    partition_seed: int = _partition(
        Count(0, from_(0), "seed of the partition, the same for all seeds")
    )
    partition_seeds: int = _partition(
        Count(
            1,
            Interval(1, MAX_SEEDS, whole=True),
            "draws of the partition, with --partition-seed, the next, ...: every method runs on "
            "each with every seed",
        )
    )
    concentration: float = _held(
        Number(0.5, _POSITIVE, "above 0, small is uneven"), on=("dirichlet", "size_dirichlet")
    )
    dirichlet_balanced: bool = _held(
        Truth(False, "of the next class nobody gets rows who has n / N of them already"),
        on=("dirichlet",),
    )
    dirichlet_equal: bool = _held(
        Truth(False, "every client draws the classes of its rows, and all have equal sizes"),
        on=("dirichlet",),
    )
    min_rows: int = _held(
        Count(1, _ONE, "fewest rows of a client"), on=("dirichlet", "size_dirichlet", "by_owner")
    )
    shares: tuple[float, ...] = _held(
        Several(
            (),
            Number(None, _POSITIVE, ""),
            "a number per client, sizes are proportional to them",
        ),
        on=("by_shares",),
        needed="a number per client",
    )
    classes_per_client: int = _held(
        Count(2, _ONE, "classes that every client holds"), on=("k_classes",)
    )
    owners: str | None = _held(
        Path("file with an owner id per training row, .npy or .npz"),
        on=("by_owner",),
        needed="a file with an owner id per row",
    )
    lists: str | None = _held(
        Path(
            "file with the row numbers of every client: .npz, an array per client, .npy [N, M], "
            ".json, a list of lists, or a line per client, commas between"
        ),
        on=("from_lists",),
        needed="a file with the row numbers of every client",
    )
    repeated_rows: bool = _held(
        Truth(False, "a row may be listed more than once"), on=("from_lists",)
    )
    synthetic_rows: int = _rows(
        Count(10_000, _ONE, "training rows of the data set synthetic"),
        when=When(("dataset",), ("synthetic",)),
    )
    partitions: tuple[str, ...] = _partition(
        Several(
            None,
            Name(None, "partitions"),
            "partitions: {partitions}; or a file as of --lists",
            distinct=True,
            flag="partition",
        )
    )
    seeds: tuple[int, ...] = _training(
        Several(
            None,
            Count(None, SEED, ""),
            "how many seeds (0, 1, ...), or a list of them",
            distinct=True,
            counted=True,
        )
    )
    rounds: int = _training(Count(None, RANGES["rounds"], "rounds of communication T"))
    epochs: int = _training(Count(None, RANGES["epochs"], "local epochs per round E"))
    local_steps: int | None = _training(
        Count(
            None,
            RANGES["steps"],
            "mini-batch steps of every client in a round, in place of epochs; the last short batch "
            "of an epoch is one",
        ),
        "those of --epochs",
    )
    batch_size: int = _training(Count(None, RANGES["batch_size"], "rows per mini-batch step B"))
    eval_every: int = _evaluation(
        Count(None, RANGES["eval_every"], "rounds between two evaluations on the test set"),
        "rounds / 20",
        "--evaluate-every",
    )
    eval_rows: int | None = _evaluation(
        Count(None, _ONE, "test rows to evaluate on, drawn once, the same in every draw"), "all"
    )
    eval_clients: int | None = _evaluation(
        Count(None, _ONE, "clients to evaluate, evenly from the fewest rows to the most"), "all"
    )
    own_test_share: float = _evaluation(
        Number(
            0.0,
            Interval(0, 1, "[)"),
            "share of each client's examples on which it does not train but is judged, beside the "
            "common test set",
        )
    )
    eval_batch: int = _evaluation(Count(500, RANGES["eval_batch"], "test rows per forward pass"))
    select: str = _evaluation(
        Choice(
            "last",
            ("last", "validation"),
            "which evaluation counts: last, or validation (where the mean accuracy over clients on "
            "the server's validation rows is best, for every method and seed)",
        )
    )
    patience: int | None = _evaluation(
        Count(
            None,
            _ONE,
            "ends a method's seed after so many evaluations without a better mean accuracy over "
            "clients on the server's validation rows; a second stage is judged by itself",
        ),
        "every round is run",
    )
    track: tuple[str, ...] = _evaluation(
        Several(
            (),
            Choice("", TRACKERS, ""),
            f"who is told accuracies, reputations and fairness as they come: {', '.join(TRACKERS)} "
            "(extras of these names), into the run directory's folder tracking",
        ),
        "nobody",
    )
    save_models: bool = _evaluation(
        Truth(
            False,
            "keep the models of the evaluation that counts, of every method, seed and client, in "
            "the folder models of the run (cgsv export takes them out)",
        )
    )
    checkpoint_every: int | None = _evaluation(
        Count(
            None,
            _ONE,
            "rounds of a seed that are lost at most when the run is killed; --resume goes on",
        ),
        "about a minute",
    )
    cohort: int | None = _participation(
        Count(None, RANGES["cohort"], "clients that take part in a round, drawn anew each time"),
        "all",
    )
    cohort_by: str = _participation(
        Choice("uniform", ("uniform", "reputation"), "how a cohort is drawn: uniform or reputation")
    )
    attendance: str | None = _participation(
        Path(
            "file with the clients of every round: .npy [T, C], or a line per round, commas between"
        )
    )
    late: tuple[str, ...] = _participation(
        Several(
            (),
            Word(
                late_joiners,
                "it must hold clients:round, for instance 3:20",
                metavar="CLIENTS:ROUND",
            ),
            "clients:round, so many clients join in that round (from 0), drawn once",
        )
    )
    attacks: tuple[str, ...] = _participation(
        Several(
            (),
            Word(
                attacking,
                "it must hold name:clients or name:clients:strength, for instance sign_flip:3 or "
                "scaled:3:100",
                metavar="NAME:CLIENTS[:STRENGTH]",
            ),
            "name:clients, so many clients cheat, drawn once; or name:clients:strength; names, "
            "with what a strength counts and its default: {strengths}, replication (one client "
            "poses as so many)",
            flag="attack",
        )
    )
    attackers: tuple[int, ...] = _participation(  # none: drawn with the partition's seed
        Several(
            (),
            Count(None, from_(0), ""),
            "who they are by number, those of the first attack first",
        ),
        "drawn",
    )
    layout: str = _hardware(
        Word(
            layout_of,
            f"it must be auto, {', '.join(LAYOUTS)} or a number of clients from 1",
            "clients computed at once: all, one, a number, or balanced (the widest chunks that fit "
            "the memory, on a GPU of at most 64, and whose padding costs at most a tenth)",
            metavar="NAME|INT",
        ),
        "balanced; on a CPU one for models with convolutions, else 4",
    )
    devices: int = _hardware(Count(1, _ONE, "devices that share the clients"), "all there are")
    precision: str = _hardware(
        Name("default", "precisions", "of local training: {precisions}; scores are float32"),
        "default: what JAX takes on the device",
    )
    conv: str = _hardware(
        Name("auto", "convs", "form of the convolutions: {convs}"),
        "auto: block to train, lax to test",
        when=When(("model",), CONVOLUTIONAL),
    )
    methods: tuple[Method, ...] = ()
    plugin: str | None = None  # a file of rules of one's own, absolute
    plugin_sha256: str | None = None  # of its content
    tables: Any = dataclasses.field(default=None, compare=False, repr=False)  # `Tables`
    # Option -> value, of those that nobody asked for and that are the data set's own, of which
    # arrays from Python know nothing. Of a config from a file it is empty.
    taken: tuple[tuple[str, Any], ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def draws(self) -> range:
        """The seeds with which every partition is drawn."""
        return range(self.partition_seed, self.partition_seed + self.partition_seeds)


FIELDS = fields_lib.of(Config)
# The keys of a config.json: all that makes one config another.
WRITTEN = tuple(field.name for field in dataclasses.fields(Config) if field.compare)
# Tables whose names a field's help may show.
NAMED = ("datasets", "models", "partitions", "precisions", "convs")
PATHS = tuple(name for name, field in FIELDS.items() if isinstance(field.kind, Path))
FILES = tuple(name for name in PATHS if name != "data_dir")  # told by their content
# Partitions that cannot be without a field.
NEEDS = {partition: name for name, own in FIELDS.items() if own.needed for partition in own.on}
# What stands for arrays from Python in a config.json, and the fields that say nothing about them:
# how the rows of a data set are found and dealt out, and which network the config's own is.
GIVEN = "given"
GIVEN_METHOD = "given_"  # how methods from Python, which no file holds, are told from others
ROWS = tuple(name for name, field in FIELDS.items() if field.rows)
OF_DATA = ("dataset", "partitions", *ROWS, "eval_rows")
OF_MODEL = ("model", "hidden", "conv")
LISTS = tuple(name for name, field in FIELDS.items() if isinstance(field.kind, Several))


class ConfigError(ValueError):
    """A value that cannot be: the message names the option, the value and what is allowed."""


def refuse(wrong: Iterable[str]) -> None:
    """One `ConfigError` for all that is wrong, each sentence once; none where nothing is."""
    if lines := list(dict.fromkeys(wrong)):
        raise ConfigError("\n".join(lines))


class Plugin(NamedTuple):
    """A file of rules of one's own."""

    path: str  # absolute
    sha256: str  # of its content


@dataclasses.dataclass(frozen=True, eq=False)  # the same is the one: what follows is remembered
class Tables:
    """The names that exist; given by whoever imports the parts."""

    datasets: Mapping[str, Any]
    models: Mapping[str, Any]
    partitions: Mapping[str, Any]
    algorithms: Mapping[str, Spec]
    contributions: Mapping[str, Spec]
    aggregations: Mapping[str, Spec]
    rewards: Mapping[str, Spec]
    optimizers: Mapping[str, Any]
    precisions: Sequence[str]
    convs: Sequence[str]
    games: Mapping[str, Spec]
    attacks: Sequence[str]
    strengths: Mapping[str, Any]  # of attacks
    plugin: Plugin | None = None  # that some of the names are from

    @functools.cached_property
    def parts(self) -> spec_lib.Tables:
        """What a rule may be made of."""
        named = (part for part in spec_lib.PARTS if part not in spec_lib.OF_MEASURES)
        return spec_lib.with_measures({part: getattr(self, f"{part}s") for part in named})

    @functools.cached_property
    def options(self) -> dict[str, Option]:
        """Every option of a method that some rule, or training, reads, by flag."""
        return TRAINING | spec_lib.every_option(self.algorithms.values(), self.parts)
