"""One validated description of an experiment, for the command, for files and for Python.

`resolve` turns the few things somebody asked for into a `Config` in which nothing is left open;
`from_dict` reads one back. Both judge values as `validate` does and raise once, with a line for
everything that is wrong: whatever is asked for, in whatever type, ends as a `Config` or as a
`ConfigError`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cgsv_jax.core.ranges import MAX_WHOLE
from cgsv_jax.types import Hyper, Options

MAX_SEEDS = 10_000
LONGEST = MAX_SEEDS + 1  # items of a sequence that are looked at: one more than any may have
MAX_LAYERS = 100  # of the mlp: beyond, to trace it takes minutes

# Fields of a method that every method reads; the others are the server's rules.
TRAINING_FIELDS = {
    *("learning_rate", "decay", "decay_per", "optimizer", "optimizer_state", "dropout"),
}

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
    "removal_imbalanced": ("partitions", ("class_imbalance",)),
    "synthetic_rows": ("dataset", ("synthetic",)),
    "conv": ("model", CONVOLUTIONAL),
}

# The same inside a method: options that only some rules or optimizers read. Those of a contribution
# measure are listed with the measures.
READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "beta": ("reward", ("sparsify", "scale")),
    "beta_on": ("reward", ("sparsify", "scale")),
    "mask_scope": ("reward", ("sparsify",)),
    "mask_count": ("reward", ("sparsify",)),
    "mask_ties": ("reward", ("sparsify",)),
    "first_weights": ("aggregation", ("reputation",)),
    "optimizer_state": ("optimizer", ("momentum", "adam")),
    "clip": ("clip_by", ("entry",)),
    "gamma": ("clip_by", ("norm",)),
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

CHOICES: dict[str, tuple[str, ...]] = {
    "mask_scope": ("vector", "tensor"),
    "mask_count": ("floor", "ceil"),
    "mask_ties": ("position", "all"),
    "first_weights": ("size", "uniform"),
    "beta_on": ("sum", "max"),
    "broadcast": ("gamma", "sum", "max"),
    "contribution_by": ("size", "accuracy", "participation"),
    "decay_per": ("round", "epoch"),
    "finetune_optimizer": ("new", "kept"),
    "optimizer_state": ("persist", "restart"),
    "clip_by": ("entry", "norm"),
    "combine": ("mean", "sum"),
    "own_off": ("after", "before"),
    "removed": ("frozen", "alone"),
    "negative": ("zero", "kept"),
}
LAYOUTS = ("all", "one", "balanced")
COHORTS_BY = ("uniform", "reputation")


@dataclasses.dataclass(frozen=True)
class Method:
    """One column of a comparison: an algorithm and every number it runs with."""

    name: str  # as asked for, for instance "cgsv:released"
    algorithm: str
    learning_rate: float
    decay: float
    gamma: float
    alpha: float = 0.95
    beta: float = 1.0
    floor: float = 1e-3
    norm_epsilon: float = 0.0
    cosine_epsilon: float = 0.0
    decay_per: str = "round"
    optimizer: str = "sgd"
    optimizer_state: str = "persist"
    contribution: str = "cosine"
    aggregation: str = "reputation"
    reward: str = "sparsify"
    mask_scope: str = "vector"
    mask_count: str = "floor"
    mask_ties: str = "position"
    first_weights: str = "size"
    beta_on: str = "sum"
    normalise_scores: bool = False
    relative_floor: bool = False
    q: float = 1.0
    kappa: float = 0.0
    recovery: float = 0.0
    contribution_by: str = "size"
    broadcast: str = "gamma"
    removal: float = 0.0
    removal_imbalanced: float | None = None  # of cffl under class_imbalance; None: as removal
    removed: str = "frozen"
    negative: str = "zero"
    clip: float = 0.01
    clip_by: str = "entry"
    growth: float = 0.0
    combine: str = "mean"
    own_off: str = "after"
    tolerance: float = 0.01
    game: str = "cosine"
    permutations: int = 100
    scale_values: bool = False
    finetune_rounds: int = 1
    finetune_optimizer: str = "new"
    dropout: float = 0.0

    def hyper(self, partition: str = "") -> Hyper:
        """The numbers that may be traced, on a partition."""
        numbers = Hyper(*(getattr(self, name) for name in Hyper._fields))
        if partition == "class_imbalance" and self.removal_imbalanced is not None:
            return numbers._replace(removal=self.removal_imbalanced)
        return numbers

    def options(self, **made: Any) -> Options:
        """The choices of rule, and what only the experiment can say: tensors, rounds, network."""
        names = [name for name in Options._fields if hasattr(self, name)]
        chosen = {name: getattr(self, name) for name in names}
        return Options(**chosen, removes=self.removal > 0, **made)


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


@dataclasses.dataclass(frozen=True)
class Tables:
    """The names that exist; given by whoever imports the parts."""

    datasets: Mapping[str, Any]
    models: Mapping[str, Any]
    partitions: Mapping[str, Any]
    algorithms: Mapping[str, Any]
    contributions: Mapping[str, Any]
    aggregations: Mapping[str, Any]
    rewards: Mapping[str, Any]
    optimizers: Mapping[str, Any]
    precisions: Sequence[str]
    convs: Sequence[str]
    games: Mapping[str, Any]
    reads: Mapping[str, Any]  # algorithm -> the rules' options that it reads
    read_by: Mapping[str, tuple[str, tuple[str, ...]]]  # as `READ_BY`, of all rules
    attacks: Sequence[str]
    label_attacks: Mapping[str, Any]
