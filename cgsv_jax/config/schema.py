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

from cgsv_jax.core.ranges import MAX_WHOLE, RANGES
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.spec import Choice, Number, Option, Spec, When
from cgsv_jax.types import Hyper

MAX_SEEDS = 10_000
LONGEST = MAX_SEEDS + 1  # items of a sequence that are looked at: one more than any may have
MAX_LAYERS = 100  # of the mlp: beyond, to trace it takes minutes

# What every method reads of how its clients train; all other options are declared by rules.
TRAINING: dict[str, Option] = {
    "learning_rate": Number(0.1, RANGES["learning_rate"], "learning rate eta of round 0"),
    "decay": Number(0.99, RANGES["decay"], "factor on the learning rate, in (0, 1]"),
    "decay_per": Choice("round", ("round", "epoch"), "decay per round or per local epoch"),
    "optimizer": Choice("sgd", ("sgd", "momentum", "adam"), "local optimizer"),
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

# What a config.json means that was written before there was such a key.
EARLIER = {"plugin": None, "plugin_sha256": None}
EARLIER_OF_METHODS = {"gamma_decay": 1.0}

CONVOLUTIONAL = ("mnist_cnn", "cifar_cnn", "tutorial_cnn")  # models whose convolution has forms
OF_TOKENS = ("text_cnn",)  # models whose inputs are numbers of words

# Files beside the data; which they are is told by their content.
FILES = ("owners", "lists", "attendance")
PATHS = ("data_dir", *FILES)  # absolute in a config, since it may be read from another folder
# Partitions whose rows somebody has chosen: they are not thinned out by --rows-per-client.
CHOSEN_ROWS = ("by_owner", "from_lists")
# Partitions that cannot be without an option, and what that says.
NEEDS = {
    "by_owner": ("owners", "a file with an owner id per row"),
    "from_lists": ("lists", "a file with the row numbers of every client"),
    "by_shares": ("shares", "a number per client"),
}

# Options that mean something only beside certain values of another one.
ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "hidden": ("model", ("mlp",)),
    "owners": ("partitions", ("by_owner",)),
    "lists": ("partitions", ("from_lists",)),
    "repeated_rows": ("partitions", ("from_lists",)),
    "shares": ("partitions", ("by_shares",)),
    "classes_per_client": ("partitions", ("k_classes",)),
    "concentration": ("partitions", ("dirichlet", "size_dirichlet")),
    "dirichlet_balanced": ("partitions", ("dirichlet",)),
    "min_rows": ("partitions", ("dirichlet", "size_dirichlet", "by_owner")),
    "synthetic_rows": ("dataset", ("synthetic",)),
    "conv": ("model", CONVOLUTIONAL),
}

# What stands for arrays from Python in a config.json, and the fields that say nothing about them:
# how the rows of a data set are found and dealt out, and which network the config's own is.
GIVEN = "given"
OF_DATA = (
    *("dataset", "partitions", "data_dir", "owners", "lists", "repeated_rows", "shares"),
    *("classes_per_client", "rows_per_client", "validation_share", "concentration", "min_rows"),
    *("synthetic_rows", "eval_rows"),
)
OF_MODEL = ("model", "hidden", "conv")

LAYOUTS = ("all", "one", "balanced")
COHORTS_BY = ("uniform", "reputation")


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


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment with nothing left open; equal configs give equal results.

    Every method runs on every partition with every seed, from the same start.
    """

    dataset: str
    model: str
    clients: int
    partitions: tuple[str, ...]
    seeds: tuple[int, ...]
    rounds: int
    epochs: int
    batch_size: int
    eval_every: int
    layout: str
    methods: tuple[Method, ...]
    data_dir: str | None = None
    owners: str | None = None
    lists: str | None = None
    repeated_rows: bool = False
    shares: tuple[float, ...] = ()
    classes_per_client: int = 2
    hidden: tuple[int, ...] = (64,)
    rows_per_client: int | None = None
    validation_share: float = 0.1
    partition_seed: int = 0
    concentration: float = 0.5
    dirichlet_balanced: bool = False
    min_rows: int = 1
    synthetic_rows: int = 10_000
    eval_batch: int = 500
    eval_rows: int | None = None  # None: the whole test set
    eval_clients: int | None = None  # None: all of them
    devices: int = 1
    precision: str = "default"
    conv: str = "auto"
    cohort: int | None = None  # clients drawn per round; None: all take part
    cohort_by: str = "uniform"
    attendance: str | None = None  # a file that says who takes part in which round
    late: tuple[str, ...] = ()  # "clients:round"
    attacks: tuple[str, ...] = ()  # "name:clients" or "name:clients:strength"
    attackers: tuple[int, ...] = ()  # who they are; empty: drawn with the partition's seed
    checkpoint_every: int | None = None  # rounds; None: by the time, see checkpoint.py
    plugin: str | None = None  # a file of rules of one's own, absolute
    plugin_sha256: str | None = None  # of its content
    tables: Any = dataclasses.field(default=None, compare=False, repr=False)  # `Tables`


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


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_WHOLE))):
        raise ValueError(text)
    return int(text)


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


@dataclasses.dataclass(frozen=True)
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
    label_attacks: Mapping[str, Any]
    plugin: Plugin | None = None  # that some of the names are from

    @property
    def parts(self) -> spec_lib.Tables:
        """What a rule may be made of."""
        return {part: getattr(self, f"{part}s") for part in spec_lib.PARTS}

    @functools.cached_property
    def options(self) -> dict[str, Option]:
        """Every option of a method that some rule, or training, reads, by flag."""
        return TRAINING | spec_lib.every_option(self.algorithms.values(), self.parts)
