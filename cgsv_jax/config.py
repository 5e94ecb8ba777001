"""One validated description of an experiment, for the command, for files and for Python.

`resolve` turns the few things somebody asked for into a `Config` in which nothing is left open;
`from_dict` reads one back. Both judge values as `validate` does and raise once, with a line for
everything that is wrong: whatever is asked for, in whatever type, ends as a `Config` or as a
`ConfigError`.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cgsv_jax import files as files_lib
from cgsv_jax.ranges import MAX_WHOLE, MOST_NUMBER, RANGES, Interval, from_
from cgsv_jax.ranges import shown as _shown
from cgsv_jax.types import Hyper, Options

MAX_SEEDS = 10_000
_LONGEST = MAX_SEEDS + 1  # items of a sequence that are looked at: one more than any may have
MAX_LAYERS = 100  # of the mlp: beyond, to trace it takes minutes

# MNIST and CIFAR-10 have the released code's numbers (rounds, epochs, batch, Gamma). MNIST's
# learning rate is that of its argument file: with the 1e-3 that its main file sets, what does not
# rescale uploads hardly learns, and fairness would correlate untrained models.
# Digits has no published numbers: experiments/digits_defaults.py chooses them on validation rows.
# SST and MR have the released code's numbers, Adam included.
# Synthetic has digits' numbers and is for timing.
# `clip` and `growth` are CFFL's (commit 5c8f854), whose digits have those of its MNIST.
TRAINING: dict[str, dict[str, Any]] = {
    "digits": {
        "rounds": 60,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.1,
        "decay": 0.99,
        "gamma": 0.5,
        "clip": 0.01,
        "growth": 1.0,
    },
    "mnist": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 0.15,
        "decay": 0.977,
        "gamma": 0.5,
        "clip": 0.01,
        "growth": 1.0,
    },
    "cifar10": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 0.015,
        "decay": 0.977,
        "gamma": 0.15,
        "clip": 0.001,
        "growth": 0.0,
    },
    "sst": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 256,
        "learning_rate": 1e-4,
        "decay": 0.977,
        "gamma": 1.0,
        "clip": 0.001,
        "growth": 0.0,
        "optimizer": "adam",
    },
    "mr": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 5e-5,
        "decay": 0.977,
        "gamma": 1.0,
        "clip": 0.001,
        "growth": 0.0,
        "optimizer": "adam",
    },
    "synthetic": {
        "rounds": 30,
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 0.1,
        "decay": 0.99,
        "gamma": 0.5,
        "clip": 0.01,
        "growth": 1.0,
    },
}

# The two settings of the option table. `paper` is what the text says, `released` what the released
# PyTorch code (commit 7376663) does; every line is a flag of its own.
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {
        "mask_scope": "vector",
        "mask_count": "floor",
        "mask_ties": "position",
        "norm_epsilon": 0.0,
        "cosine_epsilon": 0.0,
        "floor": 1e-3,
        "first_weights": "size",
        "decay_per": "round",
        "beta": 1.0,
    },
    "released": {
        "mask_scope": "tensor",
        "mask_count": "ceil",
        "mask_ties": "all",
        "norm_epsilon": 1e-7,
        "cosine_epsilon": 1e-10,
        "floor": 1e-3,
        "first_weights": "size",
        "decay_per": "epoch",
        "beta": 1.0,
    },
}
# What the released code sets for a data set where it differs from TRAINING.
RELEASED_TRAINING: dict[str, dict[str, Any]] = {"mnist": {"learning_rate": 1e-3, "decay": 0.955}}

# Fields of a method that every method reads; the others are the server's rules.
TRAINING_FIELDS = {
    *("learning_rate", "decay", "decay_per", "optimizer", "optimizer_state", "dropout"),
}

# What a method's own text or code says where it differs from the settings.
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "fedavg_finetuned": {"aggregation": "uniform"},
    "cffl": {"alpha": 0.8, "removal": 1 / 3, "removal_imbalanced": 1 / 6, "removed": "alone"}
    | {"mask_ties": "all"},
    "rffl": {"removal": 1 / 3, "removed": "alone", "beta": 0.0, "beta_on": "max"}
    | {"mask_scope": "tensor", "mask_count": "ceil", "mask_ties": "all"},
    "shapfed_wa": {"alpha": 0.9},
}
# Scores of every measure but the cosine sum to about 1, or have the scale of an accuracy: brought
# to the scale of reputations, they are neither swallowed by an absolute floor nor drowned.
SUMMED_SCORES = {"normalise_scores": True, "relative_floor": True}
# What the code of a measure's authors has where it differs from the defaults.
MEASURE_DEFAULTS: dict[str, dict[str, Any]] = {"gtg_shapley": {"tolerance": 1e-3}}

# What an experiment is when nobody says otherwise, beside the fields' own defaults.
DEFAULTS: dict[str, Any] = {
    "dataset": "digits",
    "setting": "paper",
    "algorithms": ("standalone", "fedavg", "cgsv"),
    "clients": 10,
    "partitions": ("power_law",),
    "seeds": 3,
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


def resolve(tables: "Tables", backend: str = "cpu", **asked: Any) -> Config:
    """A complete `Config` from what was asked for; everything else is the data set's default.

    Args:
      tables: the names that exist.
      backend: decides what the layout "auto" means.
      **asked: fields of `Config` except `methods`, fields of `Method` except `name` (they hold for
        every method), `algorithms` (names, or "name:setting") and `setting`. None means default.

    Raises:
      ConfigError: naming every field that is unknown or out of range.
    """
    asked = {key: _plain(value) for key, value in asked.items() if value is not None}
    dataset = asked.pop("dataset", DEFAULTS["dataset"])
    setting = asked.pop("setting", DEFAULTS["setting"])
    algorithms = _sequence(asked.pop("algorithms", DEFAULTS["algorithms"]))
    if algorithms == ("all",):
        algorithms = tuple(tables.algorithms)
    common = {f.name for f in dataclasses.fields(Config)} - {"methods", "dataset"}
    own = {f.name for f in dataclasses.fields(Method)} - {"name", "algorithm"}
    allowed = {*common, *own, "dataset", "setting", "algorithms"}
    problems = [_unknown("option", key, allowed) for key in asked if key not in allowed]
    problems += _known("setting", setting, SETTINGS)
    # What is no name of a data set or a setting is named; the rest is judged beside a known one.
    numbers_of = dataset if _among(dataset, tables.datasets) else "digits"
    setting = setting if _among(setting, SETTINGS) else "paper"

    def method(name: Any) -> Method:
        algorithm, _, variant = name.partition(":") if isinstance(name, str) else (name, "", "")
        variant = variant if variant in SETTINGS else setting
        training = TRAINING[numbers_of] | SETTINGS[variant]
        if variant == "released":
            training |= RELEASED_TRAINING.get(numbers_of, {})
        fields = {key: value for key, value in training.items() if key in own}
        if _among(algorithm, tables.algorithms):
            fields |= METHOD_DEFAULTS.get(algorithm, {})
            measured = asked.get("contribution", "cosine") != "cosine"
            if measured and "contribution" in tables.reads[algorithm]:
                named = asked["contribution"]
                known = _among(named, MEASURE_DEFAULTS)  # else what is no name may have no hash
                fields |= SUMMED_SCORES | (MEASURE_DEFAULTS[named] if known else {})
        given = {key: value for key, value in asked.items() if key in own}
        if "removal" in given:  # what is asked for holds on every partition
            fields.pop("removal_imbalanced", None)
        return Method(name=name, algorithm=algorithm, **(fields | given))

    source, numbers = tables.datasets[numbers_of], TRAINING[numbers_of]
    shares = _sequence(asked.get("shares", ()))
    fields = {
        "model": source.model,
        "clients": len(shares) or DEFAULTS["clients"],
        "partitions": DEFAULTS["partitions"],
        "seeds": DEFAULTS["seeds"],
        "rounds": numbers["rounds"],
        "epochs": numbers["epochs"],
        "batch_size": numbers["batch_size"],
        "rows_per_client": source.rows_per_client,
        "validation_share": source.validation_share,
        "layout": "auto",
    } | {key: value for key, value in asked.items() if key in common}
    fields |= {name: absolute(name, fields[name]) for name in PATHS if name in fields}
    fields["partitions"] = _sequence(fields["partitions"])
    fields["hidden"] = _sequence(fields.get("hidden", (64,)))
    lists = ("late", "attacks", "attackers", "shares")
    fields |= {name: _sequence(fields.get(name, ())) for name in lists}
    if _whole(fields["seeds"]):  # so many of them: 0, 1, 2, ...
        count = fields["seeds"]
        if not 1 <= count <= MAX_SEEDS:
            problems.append(
                f"--seeds is {_shown(count)}, a number of seeds must be in 1..{MAX_SEEDS}"
            )
        fields["seeds"] = tuple(range(min(max(count, 1), MAX_SEEDS)))
    else:
        fields["seeds"] = _sequence(fields["seeds"])
    if fields["layout"] == "auto":
        # As `layout.default_width` says, except that accelerators look at the sizes of clients.
        on_cpu = "one" if fields["model"] in CONVOLUTIONAL + OF_TOKENS else "4"
        fields["layout"] = on_cpu if backend == "cpu" else "balanced"
    if _whole(fields["layout"]) and 1 <= fields["layout"] <= MAX_WHOLE:
        fields["layout"] = str(fields["layout"])
    if "eval_every" not in fields:  # about twenty points on a curve
        rounds = fields["rounds"]
        fields["eval_every"] = -(-rounds // 20) if _whole(rounds) and rounds > 0 else 1
    config = Config(dataset=dataset, methods=tuple(method(name) for name in algorithms), **fields)
    _raise(problems + _problems(config, tables) + _idle_options(config, asked, tables))
    return config


def default_of(name: str) -> tuple[Any, dict[str, Any]]:
    """An option's value where nobody gives it, None if there is no general one, and other values.

    Returns:
      The value, and data set, setting, method or measure -> the value that it has instead.
    """
    fields = {f.name: f.default for kind in (Config, Method) for f in dataclasses.fields(kind)}
    fields = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    base, others = (fields | DEFAULTS).get(name), {}
    for table in (TRAINING, SETTINGS, METHOD_DEFAULTS, MEASURE_DEFAULTS):
        own = {who: values[name] for who, values in table.items() if name in values}
        if table in (TRAINING, SETTINGS) and len(own) == len(
            table
        ):  # no general one, or they agree
            base = next(iter(own.values())) if len(set(own.values())) == 1 else None
        others |= own
    return base, {who: value for who, value in others.items() if value != base}


def _idle_options(config: Config, asked: Mapping[str, Any], tables: "Tables") -> list[str]:
    """An option that would do nothing is a misunderstanding, so it is refused."""
    rules = {f.name for f in dataclasses.fields(Method)} - TRAINING_FIELDS
    methods = [m for m in config.methods if _among(m.algorithm, tables.algorithms)]
    thinned = tuple(name for name in tables.partitions if name not in CHOSEN_ROWS)
    only_with = ONLY_WITH | {"rows_per_client": ("partitions", thinned)}
    problems = []
    for name in asked:
        if name in only_with:
            other, allowed = only_with[name]
            used = _sequence(getattr(config, other))
            everything = getattr(tables, other if other == "partitions" else f"{other}s")
            problems += _idle(name, other, allowed, used, everything)
        if name in rules | set(tables.read_by):
            read = {a: read | TRAINING_FIELDS for a, read in tables.reads.items()}
            readers = [m for m in methods if name in read[m.algorithm]]
            other, allowed = "algorithms", [a for a, names in read.items() if name in names]
            used = [m.algorithm for m in config.methods]
            everything = tables.algorithms
            if name in tables.read_by:
                switch, values = tables.read_by[name]
                # A method without the switch reads the option whatever the switch says.
                free = any(switch not in read[m.algorithm] for m in readers)
                if readers and not free:
                    other, allowed = switch, values
                    used = [getattr(m, switch) for m in readers]
                    everything = CHOICES.get(switch) or getattr(tables, f"{switch}s")
            problems += _idle(name, other, allowed, used, everything)
    removing = [m for m in methods if "removed" in tables.reads[m.algorithm]]
    if (
        "removed" in asked
        and removing
        and not any(m.removal or m.removal_imbalanced for m in removing)
    ):
        problems.append("--removed does nothing here: it needs --removal above 0")
    return problems


def _idle(
    name: str, other: str, allowed: Iterable[str], used: Iterable[Any], everything: Iterable[str]
) -> list[str]:
    # Of a name that does not exist nobody knows what it would have read.
    if not used or not all(_among(v, everything) and v not in allowed for v in used):
        return []
    need = f"{_flag(other)} {' or '.join(allowed)}"
    return [f"{_flag(name)} does nothing here: it needs {need}"]


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


def validate(config: Config, tables: Tables) -> None:
    """Judges every value.

    Raises:
      ConfigError: one line for each that is not allowed.
    """
    _raise(_problems(config, tables))


def _problems(config: Config, tables: Tables) -> list[str]:
    """A line for every value that is not allowed, and for those that contradict each other."""
    c = config
    problems = [
        *_known("dataset", c.dataset, tables.datasets),
        *_known("model", c.model, tables.models),
        *_ranged(c),
        *_known("precision", c.precision, tables.precisions),
        *_known("conv", c.conv, tables.convs),
        *_truth("repeated_rows", c.repeated_rows),
        *_truth("dirichlet_balanced", c.dirichlet_balanced),
    ]
    if _among(c.dataset, tables.datasets) and _among(c.model, tables.models):
        problems += _not_made_for_each_other(c, tables)
    for name in PATHS:
        if getattr(c, name) is not None:
            problems += _path(name, getattr(c, name))
    if c.layout is not _LACKING and not _is_layout(c.layout):
        problems.append(
            f"--layout is {_shown(c.layout)}, it must be auto, {', '.join(LAYOUTS)} "
            "or a number of clients from 1"
        )
    if _whole(c.eval_clients) and _whole(c.clients) and c.eval_clients > c.clients:
        problems.append(
            f"--eval-clients is {_shown(c.eval_clients)}, "
            f"it must be at most --clients, {_shown(c.clients)}"
        )
    for width in _items(c.hidden):
        problems += _at_least("hidden", width, 1)
    if len(_items(c.hidden)) > MAX_LAYERS:
        problems.append(f"--hidden has too many layers, it must have at most {MAX_LAYERS}")
    problems += _list("seeds", c.seeds, MAX_SEEDS)
    for seed in _items(c.seeds):
        if not _whole(seed) or not 0 <= seed < 2**32:
            problems.append(f"--seeds holds {_shown(seed)}, every seed must be in 0..2^32-1")
    problems += _list("partitions", c.partitions)
    for partition in _items(c.partitions):
        problems += _known("partition", partition, tables.partitions)
    for partition, (name, what) in NEEDS.items():
        if partition in _items(c.partitions) and getattr(c, name) in (None, ()):
            problems.append(f"--partition {partition} needs {_flag(name)}, {what}")
    if len(_items(c.shares)) > MAX_SEEDS:
        problems.append(f"--shares names too many, it must name at most {MAX_SEEDS}")
    for share in _items(c.shares):
        problems += _number("shares", share, Interval(0, math.inf, "()"))
    if _items(c.shares) and _whole(c.clients) and len(c.shares) != c.clients:
        problems.append(
            f"--shares names {len(c.shares)}, it must be one for each of the "
            f"{_shown(c.clients)} clients"
        )
    if c.methods is not _LACKING:
        problems += _list("algorithms", tuple(m.name for m in c.methods))
    for method in _items(c.methods):
        problems += _method_problems(method, tables)
        problems += _counted_too_high(c, method, tables)
    return problems + _presence_problems(c) + _attack_problems(c, tables)


def _presence_problems(c: Config) -> list[str]:
    """Who takes part: a cohort is drawn or given, and somebody is there from the first round."""
    problems = _known("cohort_by", c.cohort_by, COHORTS_BY)
    if c.cohort is not None:
        if _countable(c.cohort, c.clients) and c.cohort > c.clients:
            problems.append(f"--cohort is {c.cohort}, it must be at most --clients, {c.clients}")
        if c.attendance is not None:
            problems.append("--cohort draws who takes part and --attendance says so, ask for one")
    elif c.cohort_by != "uniform":
        problems.append(f"--cohort-by {_shown(c.cohort_by)} does nothing here: it needs --cohort")
    total = 0
    for text in _items(c.late):
        try:
            count, first = late_joiners(text)
        except (ValueError, TypeError, AttributeError):
            problems.append(
                f"--late holds {_shown(text)}, it must hold clients:round, for instance 3:20"
            )
            continue
        total += count
        if count < 1 or (_whole(c.rounds) and first >= c.rounds):
            problems.append(
                f"--late holds {_shown(text)}, it must be at least one client and "
                f"a round before --rounds, {_shown(c.rounds)}"
            )
    if _countable(c.clients) and total >= c.clients > 0:
        problems.append(
            f"--late delays {total} of {c.clients} clients, one must be there from the start"
        )
    return problems


def _attack_problems(c: Config, tables: Tables) -> list[str]:
    problems, total = [], 0
    for text in _items(c.attacks):
        try:
            name, count, strength = attacking(text)
        except (ValueError, TypeError, AttributeError):
            problems.append(
                f"--attack holds {_shown(text)}, it must hold name:clients or "
                "name:clients:strength, for instance sign_flip:3 or scaled:3:100"
            )
            continue
        if name not in tables.attacks:
            near = _one_of(name, tables.attacks)
            problems.append(f"--attack holds {_shown(name)}, it must be one of {near}")
        if count < 1:
            problems.append(f"--attack holds {_shown(text)}, it must be at least one client")
        if strength is not None and name == "replication":
            problems.append(f"--attack holds {_shown(text)}, but {name} has no strength")
        if strength is not None and name in tables.label_attacks and not 0 < strength <= 1:
            problems.append(
                f"--attack holds {_shown(text)}, the strength of {name} is a share of rows, "
                "it must be above 0 and at most 1"
            )
        if strength is not None and abs(strength) > MOST_NUMBER:
            problems.append(
                f"--attack holds {_shown(text)}, whose strength is no number in float32"
            )
        # One client poses as several, and the others come on top of N.
        total += 1 if name == "replication" else count
    texts = [text for text in _items(c.attacks) if isinstance(text, str)]
    names = [text.partition(":")[0] for text in texts]
    if len(set(names)) != len(names):
        shown = ", ".join(map(_shown, texts[:20]))
        problems.append(f"--attack names an attack twice: {shown}")
    if _countable(c.clients) and total >= c.clients > 0:
        problems.append(f"--attack makes {total} of {c.clients} clients cheat, one must be honest")
    for number in _items(c.attackers):
        if not _whole(number) or (_countable(c.clients) and not 0 <= number < c.clients):
            problems.append(
                f"--attackers holds {_shown(number)}, it must hold clients from 0 to "
                f"{c.clients - 1 if _countable(c.clients) else 'N - 1'}"
            )
    if _items(c.attackers):
        problems += _list("attackers", c.attackers)
        if not _items(c.attacks) and c.attacks is not _LACKING:
            problems.append("--attackers does nothing here: it needs --attack")
        elif not problems and len(c.attackers) != total:
            problems.append(f"--attackers names {len(c.attackers)} clients, --attack needs {total}")
    return problems


def _counted_too_high(c: Config, m: Method, tables: Tables) -> list[str]:
    """Counts that no int32 holds, although each of their parts is one."""
    reads = tables.reads.get(m.algorithm, ()) if isinstance(m.algorithm, str) else ()
    alone = m.finetune_rounds if "finetune_rounds" in reads else 0
    counts = []
    if _countable(c.rounds, c.epochs, alone):  # the schedule counts local epochs
        counts.append(("--rounds times --epochs", (c.rounds + alone) * c.epochs))
    if "permutations" in reads and _countable(c.clients, m.permutations):  # coalitions of a round
        counts.append(("--permutations times --clients", m.permutations * c.clients))
    return [
        f"{what} is {count}, it must be at most {MAX_WHOLE}"
        for what, count in counts
        if count > MAX_WHOLE
    ]


def _not_made_for_each_other(c: Config, tables: Tables) -> list[str]:
    """A network that reads words, on a data set without any, or the other way round."""
    if tables.datasets[c.dataset].tokens == (c.model in OF_TOKENS):
        return []
    if c.model in OF_TOKENS:
        having = [name for name, source in tables.datasets.items() if source.tokens]
        return [f"--model {c.model} reads words, it needs --dataset {' or '.join(having)}"]
    return [f"--dataset {c.dataset} is words, it needs --model {' or '.join(OF_TOKENS)}"]


def _method_problems(m: Method, tables: Tables) -> list[str]:
    problems = [
        *_name_problems(m, tables),
        *_known("optimizer", m.optimizer, tables.optimizers),
        *_known("contribution", m.contribution, tables.contributions),
        *_known("aggregation", m.aggregation, tables.aggregations),
        *_known("reward", m.reward, tables.rewards),
        *_ranged(m),
        *_known("game", m.game, tables.games),
    ]
    for name, allowed in CHOICES.items():
        problems += _known(name, getattr(m, name), allowed)
    for name in ("normalise_scores", "relative_floor", "scale_values"):
        problems += _truth(name, getattr(m, name))
    return problems


def _name_problems(m: Method, tables: Tables) -> list[str]:
    """A method is named after what it runs, since tables, files and figures bear its name."""
    problems = _known("algorithms", m.algorithm, tables.algorithms)
    if problems or _LACKING in (m.name, m.algorithm):
        return problems
    algorithm, colon, variant = m.name.partition(":") if isinstance(m.name, str) else ("", "", "")
    if algorithm != m.algorithm:
        return [
            f"--algorithms is {_shown(m.name)}, a method that runs {m.algorithm} must be named "
            f"{m.algorithm} or {m.algorithm}:setting"
        ]
    if colon and variant not in SETTINGS:
        return [
            f"--algorithms is {_shown(m.name)}, whose setting is {_shown(variant)}, "
            f"it must be one of {_one_of(variant, SETTINGS)}"
        ]
    return []


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain lists, numbers and strings; infinity is the string "inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return "inf" if value == math.inf else value

    return plain(dataclasses.asdict(config))


def from_dict(values: Any, tables: Tables) -> Config:
    """The inverse of `to_dict`.

    Raises:
      ConfigError: on an unknown or missing key, a wrong type or a value out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(_no_object("the config", values))
    if values.get("dataset") == GIVEN:
        raise ConfigError(
            "the config is of a run on arrays that were given from Python, which no file holds: "
            "it can only be repeated there, with experiment.given and experiment.run"
        )
    fields, problems = _fields(values, Config, "the config")
    lists = ("partitions", "seeds", "hidden", "methods", "late", "attacks", "attackers", "shares")
    for name in lists:
        value = fields[name]
        if value is not _LACKING and not isinstance(value, list):
            problems.append(f"{name} is {_shown(value)} in the config, it must be a list")
        fields[name] = tuple(value[:_LONGEST]) if isinstance(value, list) else _LACKING
    methods = []
    for method in _items(fields["methods"]):
        if not isinstance(method, dict):
            problems.append(_no_object("a method of the config", method))
            continue
        own, lacking = _fields(method, Method, "a method of the config")
        if isinstance(own["beta"], str) and own["beta"] == "inf":
            own["beta"] = math.inf
        methods.append(Method(**own))
        problems += lacking
    if _items(fields["methods"]):
        fields["methods"] = tuple(methods) or _LACKING
    fields |= {name: absolute(name, fields[name]) for name in PATHS if fields[name] is not None}
    config = Config(**fields)
    _raise(problems + _problems(config, tables))
    return config


def of_given(config: Config, described: Mapping[str, Any]) -> dict[str, Any]:
    """`to_dict` of a run on arrays from Python: what the config says of other data is left out.

    Args:
      config: how it was trained.
      described: what is known of the arrays; with "model", the config's own was not used either.
    """
    unused = {*OF_DATA, *(OF_MODEL if "model" in described else ())}
    values = {name: value for name, value in to_dict(config).items() if name not in unused}
    named = {"dataset": GIVEN, "partitions": [GIVEN]}
    named |= {"model": GIVEN} if "model" in described else {}
    return {**named, **values, GIVEN: dict(described)}


class _Lacking:
    """Stands where a file has no value, so that the rest can be judged; nothing is said of it."""


_LACKING = _Lacking()


def _fields(values: dict, kind: type, what: str) -> tuple[dict[str, Any], list[str]]:
    """A value for every field, and what is to be said of the keys."""
    names = [field.name for field in dataclasses.fields(kind)]
    problems = [_unknown(f"key of {what}", key, names) for key in values if key not in names]
    problems += [f"{what} lacks the key {name!r}" for name in names if name not in values]
    return {name: values.get(name, _LACKING) for name in names}, problems


def _no_object(what: str, value: Any) -> str:
    return f"{what} is {_shown(value)}, it must be an object with named values"


def _raise(problems: Sequence[str]) -> None:
    """One error for all problems, each named once."""
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _flag(name: str) -> str:
    words = {"partitions": "partition", "attacks": "attack"}
    return "--" + words.get(name, name).replace("_", "-")


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _countable(*values: Any) -> bool:
    return all(_whole(value) and 0 <= value <= MAX_WHOLE for value in values)


def _among(value: Any, names: Iterable[str]) -> bool:
    """Whether a value of any type, hashable or not, is one of these names."""
    return isinstance(value, str) and value in names


def _sequence(value: Any) -> tuple:
    """A tuple of what is a sequence; anything else as its only item, for `_problems` to refuse."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(itertools.islice(value, _LONGEST))  # of a range that no memory holds, enough
    return (value,)


def _items(values: Any) -> tuple:
    return () if values is _LACKING else values


def _unknown(what: str, value: Any, allowed: Iterable[str]) -> str:
    near = _near(value, allowed)
    return f"{_shown(value)} is no {what}" + (f", did you mean {near!r}?" if near else "")


def _near(value: Any, allowed: Iterable[str]) -> str | None:
    # Cut, because the comparison takes time by the square of the length.
    text = value[:80] if isinstance(value, str) else ""
    return next(iter(difflib.get_close_matches(text, sorted(allowed), 1)), None)


def _one_of(value: Any, allowed: Iterable[str]) -> str:
    near = _near(value, allowed)
    return ", ".join(allowed) + (f" (did you mean {near}?)" if near else "")


def _known(name: str, value: Any, allowed: Iterable[str]) -> list[str]:
    if value is _LACKING or _among(value, allowed):
        return []
    return [f"{_flag(name)} is {_shown(value)}, it must be one of {_one_of(value, allowed)}"]


def _truth(name: str, value: Any) -> list[str]:
    if value is _LACKING or isinstance(value, bool):
        return []
    return [f"{_flag(name)} is {_shown(value)}, it must be true or false"]


def _path(name: str, value: Any) -> list[str]:
    if value is _LACKING:
        return []
    if not isinstance(value, str):
        return [f"{_flag(name)} is {_shown(value)}, it must be a path"]
    try:
        files_lib.path_of(value, _flag(name))
    except ValueError as error:
        return [str(error)]
    return []


def absolute(name: str, value: Any) -> Any:
    """A path from where this process is; what is none as it is, for `_path` to refuse."""
    if not (isinstance(value, str) or hasattr(value, "__fspath__")):
        return value
    try:
        return str(files_lib.path_of(value, _flag(name)).absolute())
    except ValueError:
        return value


def _is_layout(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    # int() and isdigit() know digits of other alphabets as well, and int() none of 5,000 digits.
    number = value.isascii() and value.isdigit() and len(value) <= len(str(MAX_WHOLE))
    return value in LAYOUTS or (number and 1 <= int(value) <= MAX_WHOLE)


def _ranged(values: Config | Method) -> list[str]:
    """What is wrong with the numbers of `RANGES`; None stands where a field's default is None."""
    problems = []
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if field.name in RANGES and not (value is None and field.default is None):
            problems += _number(field.name, value, RANGES[field.name])
    return problems


def _at_least(name: str, value: Any, least: int) -> list[str]:
    return _number(name, value, from_(least))


def _number(name: str, value: Any, allowed: Interval) -> list[str]:
    return [] if value is _LACKING else allowed.problems(_flag(name), value)


def _list(name: str, values: Any, most: int | None = None) -> list[str]:
    if values is _LACKING:
        return []
    if not values:
        return [f"{_flag(name)} is empty, it must name at least one"]
    if most is not None and len(values) > most:
        return [f"{_flag(name)} names too many, it must name at most {most}"]
    if len(set(map(_identity, values))) != len(values):
        shown = ", ".join(
            value if isinstance(value, str) else _shown(value) for value in values[:20]
        )
        return [f"{_flag(name)} names something twice: {shown}"]
    return []


def _identity(value: Any) -> Any:
    """What makes a value another one; of what is refused for its type anyway, the object."""
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return value if isinstance(value, str | int | float) else id(value)


# The same sentences for values that are judged elsewhere.
flag, known, at_least, number, distinct = _flag, _known, _at_least, _number, _list
