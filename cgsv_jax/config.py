"""One validated description of an experiment, for the command, for files and for Python.

`resolve` turns the few things somebody asked for into a `Config` in which nothing is left open;
`from_dict` reads one back. Both end in `validate`, the only place where values are judged.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cgsv_jax.types import Hyper, Options

MAX_PARAMETERS = 2**31 - 1  # quotas are int32

# MNIST and CIFAR-10 have the released code's numbers (rounds, epochs, batch, Gamma). MNIST's
# learning rate is that of its argument file: with the 1e-3 that its main file sets, what does not
# rescale uploads hardly learns, and fairness would correlate untrained models.
# Digits has no published numbers: experiments/digits_defaults.py chooses them on validation rows.
# SST and MR have the released code's numbers, Adam included.
# Synthetic has digits' numbers and is for timing.
TRAINING: dict[str, dict[str, Any]] = {
    "digits": {
        "rounds": 60,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.1,
        "decay": 0.99,
        "gamma": 0.5,
    },
    "mnist": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 0.15,
        "decay": 0.977,
        "gamma": 0.5,
    },
    "cifar10": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 0.015,
        "decay": 0.977,
        "gamma": 0.15,
    },
    "sst": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 256,
        "learning_rate": 1e-4,
        "decay": 0.977,
        "gamma": 1.0,
        "optimizer": "adam",
    },
    "mr": {
        "rounds": 200,
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 5e-5,
        "decay": 0.977,
        "gamma": 1.0,
        "optimizer": "adam",
    },
    "synthetic": {
        "rounds": 30,
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 0.1,
        "decay": 0.99,
        "gamma": 0.5,
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
TRAINING_FIELDS = {"learning_rate", "decay", "decay_per", "optimizer", "optimizer_state"}

# What a method's own text says where it differs from the settings.
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "cffl": {"alpha": 0.5, "removal": 1 / 3},
    "rffl": {"removal": 1 / 3, "mask_scope": "tensor", "mask_count": "ceil"},
    "shapfed_wa": {"alpha": 0.9},
}
# Scores of every measure but the cosine sum to about 1, or have the scale of an accuracy: brought
# to the scale of reputations, they are neither swallowed by an absolute floor nor drowned.
SUMMED_SCORES = {"normalise_scores": True, "relative_floor": True}

CONVOLUTIONAL = ("mnist_cnn", "cifar_cnn", "tutorial_cnn")  # models whose convolution has forms
OF_TOKENS = ("text_cnn",)  # models whose inputs are numbers of words

# Options that mean something only beside certain values of another one.
ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "hidden": ("model", ("mlp",)),
    "owners": ("partitions", ("by_owner",)),
    "concentration": ("partitions", ("dirichlet",)),
    "min_rows": ("partitions", ("dirichlet", "by_owner")),
    "synthetic_rows": ("dataset", ("synthetic",)),
    "conv": ("model", CONVOLUTIONAL),
}

# Contribution measures of a game; those that draw permutations; those that stop early.
OF_GAMES = (
    *("shapley", "sampled_shapley", "leave_one_out", "banzhaf", "least_core"),
    *("gtg_shapley", "tmc_shapley"),
)
SAMPLED = ("sampled_shapley", "banzhaf", "gtg_shapley", "tmc_shapley")
TRUNCATED = ("gtg_shapley", "tmc_shapley")

# The same inside a method: options that only some rules or optimizers read.
READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "beta": ("reward", ("sparsify", "scale")),
    "beta_on": ("reward", ("sparsify", "scale")),
    "mask_scope": ("reward", ("sparsify",)),
    "mask_count": ("reward", ("sparsify",)),
    "mask_ties": ("reward", ("sparsify",)),
    "cosine_epsilon": ("contribution", ("cosine",)),
    "first_weights": ("aggregation", ("reputation",)),
    "game": ("contribution", OF_GAMES),
    "permutations": ("contribution", SAMPLED),
    "tolerance": ("contribution", TRUNCATED),
    "optimizer_state": ("optimizer", ("momentum", "adam")),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "mask_scope": ("vector", "tensor"),
    "mask_count": ("floor", "ceil"),
    "mask_ties": ("position", "all"),
    "first_weights": ("size", "uniform"),
    "beta_on": ("sum", "max"),
    "decay_per": ("round", "epoch"),
    "optimizer_state": ("persist", "restart"),
}
LAYOUTS = ("all", "one", "balanced")


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
    kappa: float = 0.5
    recovery: float = 0.1
    removal: float = 0.0
    tolerance: float = 0.01
    game: str = "cosine"
    permutations: int = 100
    finetune_rounds: int = 1

    def hyper(self) -> Hyper:
        """The numbers that may be traced."""
        return Hyper(*(getattr(self, name) for name in Hyper._fields))

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
    hidden: tuple[int, ...] = (64,)
    rows_per_client: int | None = None
    validation_share: float = 0.1
    partition_seed: int = 0
    concentration: float = 0.5
    min_rows: int = 1
    synthetic_rows: int = 10_000
    eval_batch: int = 500
    eval_rows: int | None = None  # None: the whole test set
    eval_clients: int | None = None  # None: all of them
    devices: int = 1
    precision: str = "default"
    conv: str = "auto"


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
    asked = {key: value for key, value in asked.items() if value is not None}
    dataset = asked.pop("dataset", "digits")
    setting = asked.pop("setting", "paper")
    algorithms = _strings(asked.pop("algorithms", ("standalone", "fedavg", "cgsv")))
    if algorithms == ("all",):
        algorithms = tuple(tables.algorithms)
    common = {f.name for f in dataclasses.fields(Config)} - {"methods", "dataset"}
    own = {f.name for f in dataclasses.fields(Method)} - {"name", "algorithm"}
    unknown = [key for key in asked if key not in common | own]
    if unknown:
        raise ConfigError(_lines(_unknown("option", key, common | own) for key in unknown))
    problems = [
        *_known("dataset", dataset, tables.datasets),
        *_known("setting", setting, SETTINGS),
    ]
    for name in algorithms:
        base, _, variant = name.partition(":")
        problems += _known("algorithms", base, tables.algorithms)
        problems += _known(f"setting of {base}", variant, SETTINGS) if ":" in name else []
    if problems:
        raise ConfigError(_lines(problems))

    def method(name: str) -> Method:
        algorithm, _, variant = name.partition(":")
        variant = variant or setting
        training = TRAINING[dataset] | SETTINGS[variant]
        if variant == "released":
            training |= RELEASED_TRAINING.get(dataset, {})
        fields = {key: value for key, value in training.items() if key in own}
        fields |= METHOD_DEFAULTS.get(algorithm, {})
        if asked.get("contribution", "cosine") != "cosine" and "contribution" in reads(algorithm):
            fields |= SUMMED_SCORES
        given = {key: value for key, value in asked.items() if key in own}
        return Method(name=name, algorithm=algorithm, **(fields | given))

    def reads(algorithm: str) -> Any:
        return tables.reads[algorithm]

    source = tables.datasets[dataset]
    fields = {
        "model": source.model,
        "clients": 10,
        "partitions": ("power_law",),
        "seeds": 3,
        "rounds": TRAINING[dataset]["rounds"],
        "epochs": TRAINING[dataset]["epochs"],
        "batch_size": TRAINING[dataset]["batch_size"],
        "rows_per_client": source.rows_per_client,
        "validation_share": source.validation_share,
        "layout": "auto",
    } | {key: value for key, value in asked.items() if key in common}
    fields["partitions"] = _strings(fields["partitions"])
    fields["seeds"] = _seeds(fields["seeds"])
    fields["hidden"] = _sequence(fields.get("hidden", (64,)))
    if fields["layout"] == "auto":
        # As `layout.default_width` says, except that accelerators look at the sizes of clients.
        on_cpu = "one" if fields["model"] in CONVOLUTIONAL + OF_TOKENS else "4"
        fields["layout"] = on_cpu if backend == "cpu" else "balanced"
    if isinstance(fields["layout"], int):
        fields["layout"] = str(fields["layout"])
    if "eval_every" not in fields:  # about twenty points on a curve
        rounds = fields["rounds"]
        fields["eval_every"] = -(-rounds // 20) if _whole(rounds) and rounds > 0 else 1
    config = Config(dataset=dataset, methods=tuple(method(name) for name in algorithms), **fields)
    validate(config, tables)
    _refuse_idle_options(config, asked, tables)
    return config


def _refuse_idle_options(config: Config, asked: Mapping[str, Any], tables: "Tables") -> None:
    """An option that would do nothing is a misunderstanding, so it is refused."""
    rules = {f.name for f in dataclasses.fields(Method)} - TRAINING_FIELDS
    problems = []
    for name in asked:
        if name in ONLY_WITH:
            other, allowed = ONLY_WITH[name]
            used = set(_strings(getattr(config, other)))
        elif name in rules | set(READ_BY):
            read = {a: read | TRAINING_FIELDS for a, read in tables.reads.items()}
            readers = [m for m in config.methods if name in read[m.algorithm]]
            other, allowed = "algorithms", [a for a, names in read.items() if name in names]
            used = {m.algorithm for m in readers}
            if name in READ_BY:
                switch, values = READ_BY[name]
                # A method without the switch reads the option whatever the switch says.
                free = any(switch not in read[m.algorithm] for m in readers)
                if readers and not free:
                    other, allowed = switch, values
                    used = {getattr(m, switch) for m in readers}
        else:
            continue
        if not used & set(allowed):
            need = f"{_flag(other)} {' or '.join(allowed)}"
            problems.append(f"{_flag(name)} does nothing here: it needs {need}")
    if problems:
        raise ConfigError(_lines(problems))


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


def validate(config: Config, tables: Tables) -> None:
    """Judges every value.

    Raises:
      ConfigError: one line for each that is not allowed.
    """
    c = config
    problems = [
        *_known("dataset", c.dataset, tables.datasets),
        *_known("model", c.model, tables.models),
        *_at_least("clients", c.clients, 1),
        *_at_least("rounds", c.rounds, 1),
        *_at_least("epochs", c.epochs, 1),
        *_at_least("batch_size", c.batch_size, 1),
        *_at_least("eval_every", c.eval_every, 1),
        *_at_least("eval_batch", c.eval_batch, 1),
        *_at_least("devices", c.devices, 1),
        *_known("precision", c.precision, tables.precisions),
        *_known("conv", c.conv, tables.convs),
        *_at_least("partition_seed", c.partition_seed, 0),
        *_at_least("min_rows", c.min_rows, 1),
        *_at_least("synthetic_rows", c.synthetic_rows, 1),
        *_number("concentration", c.concentration, 0, math.inf, open_low=True, open_high=True),
        *_number("validation_share", c.validation_share, 0, 1, open_high=True),
    ]
    if c.dataset in tables.datasets and c.model in tables.models:
        problems += _not_made_for_each_other(c, tables)
    for name in ("rows_per_client", "eval_rows", "eval_clients"):
        if getattr(c, name) is not None:
            problems += _at_least(name, getattr(c, name), 1)
    for name in ("data_dir", "owners"):
        value = getattr(c, name)
        if value is not None and not isinstance(value, str):
            problems.append(f"{_flag(name)} is {value!r}, it must be a path")
    if not isinstance(c.layout, str) or not (
        c.layout in LAYOUTS or (c.layout.isdigit() and int(c.layout) >= 1)
    ):
        problems.append(
            f"--layout is {c.layout!r}, it must be auto, {', '.join(LAYOUTS)} "
            "or a number of clients from 1"
        )
    if _whole(c.eval_clients) and _whole(c.clients) and c.eval_clients > c.clients:
        problems.append(
            f"--eval-clients is {c.eval_clients}, it must be at most --clients, {c.clients}"
        )
    for width in c.hidden:
        problems += _at_least("hidden", width, 1)
    problems += _list("seeds", c.seeds)
    for seed in c.seeds:
        if not _whole(seed) or not 0 <= seed < 2**32:
            problems.append(f"--seeds holds {seed!r}, every seed must be in 0..2^32-1")
    problems += _list("partitions", c.partitions)
    for partition in c.partitions:
        problems += _known("partition", partition, tables.partitions)
    if "by_owner" in c.partitions and c.owners is None:
        problems.append("--partition by_owner needs --owners, a file with an owner id per row")
    problems += _list("algorithms", tuple(m.name for m in c.methods))
    for method in c.methods:
        problems += _method_problems(method, tables)
    if problems:
        raise ConfigError(_lines(dict.fromkeys(problems)))


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
        *_known("algorithms", m.algorithm, tables.algorithms),
        *_known("optimizer", m.optimizer, tables.optimizers),
        *_known("contribution", m.contribution, tables.contributions),
        *_known("aggregation", m.aggregation, tables.aggregations),
        *_known("reward", m.reward, tables.rewards),
        *_number("learning_rate", m.learning_rate, 0, math.inf, open_low=True, open_high=True),
        *_number("decay", m.decay, 0, 1, open_low=True),
        *_number("gamma", m.gamma, 0, math.inf, open_low=True, open_high=True),
        *_number("alpha", m.alpha, 0, 1),
        *_number("beta", m.beta, 0, math.inf),
        *_number("floor", m.floor, 0, 1),
        *_number("norm_epsilon", m.norm_epsilon, 0, math.inf, open_high=True),
        *_number("cosine_epsilon", m.cosine_epsilon, 0, math.inf, open_high=True),
        *_number("q", m.q, 0, math.inf, open_high=True),
        *_number("kappa", m.kappa, 0, 1),
        *_number("recovery", m.recovery, 0, 1),
        *_number("removal", m.removal, 0, 1, open_high=True),
        *_number("tolerance", m.tolerance, 0, math.inf, open_high=True),
        *_known("game", m.game, tables.games),
        *_at_least("permutations", m.permutations, 1),
        *_at_least("finetune_rounds", m.finetune_rounds, 1),
    ]
    for name, allowed in CHOICES.items():
        problems += _known(name, getattr(m, name), allowed)
    for name in ("normalise_scores", "relative_floor"):
        if not isinstance(getattr(m, name), bool):
            problems.append(f"{_flag(name)} is {getattr(m, name)!r}, it must be true or false")
    return problems


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
    values = _exact_keys(values, Config, "the config")
    methods = values["methods"]
    if not isinstance(methods, list):
        raise ConfigError(f"methods is {methods!r} in the config, it must be a list")
    fields = dict(values)
    fields["methods"] = tuple(
        Method(**_exact_keys(_with_infinity(m), Method, "a method of the config")) for m in methods
    )
    for name in ("partitions", "seeds", "hidden"):
        if not isinstance(fields[name], list):
            raise ConfigError(f"{name} is {fields[name]!r} in the config, it must be a list")
        fields[name] = tuple(fields[name])
    config = Config(**fields)
    validate(config, tables)
    return config


def _with_infinity(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {k: math.inf if k == "beta" and v == "inf" else v for k, v in values.items()}


def _exact_keys(values: Any, kind: type, what: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{what} is {values!r}, it must be an object with named values")
    names = [field.name for field in dataclasses.fields(kind)]
    problems = [_unknown(f"key of {what}", key, names) for key in values if key not in names]
    problems += [f"{what} lacks the key {name!r}" for name in names if name not in values]
    if problems:
        raise ConfigError(_lines(problems))
    return values


def _flag(name: str) -> str:
    return "--" + {"partitions": "partition"}.get(name, name).replace("_", "-")


def _lines(problems: Iterable[str]) -> str:
    return "\n".join(problems)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _strings(value: str | Sequence[str]) -> tuple[str, ...]:
    return _sequence(value)


def _seeds(value: int | Sequence[int]) -> tuple[int, ...]:
    """A number of seeds means 0, 1, 2, ...; a list means those."""
    if _whole(value):
        if not 1 <= value <= 10_000:
            raise ConfigError(f"--seeds is {value}, a number of seeds must be in 1..10000")
        return tuple(range(value))
    return _sequence(value)


def _sequence(value: Any) -> tuple:
    """A tuple of what is a sequence; anything else as its only item, for `validate` to refuse."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _unknown(what: str, value: Any, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(value), list(allowed), n=1)
    return f"{value!r} is no {what}" + (f", did you mean {near[0]!r}?" if near else "")


def _known(name: str, value: Any, allowed: Iterable[str]) -> list[str]:
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return []
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return [f"{_flag(name)} is {value!r}, it must be one of {', '.join(allowed)}{hint}"]


def _at_least(name: str, value: Any, least: int) -> list[str]:
    if _whole(value) and value >= least:
        return []
    return [f"{_flag(name)} is {value!r}, it must be a whole number from {least}"]


def _number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> list[str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    above = number and (low < value if open_low else low <= value)
    if above and (value < high if open_high else value <= high):
        return []
    left = f"above {low}" if open_low else f"at least {low}"
    right = "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high}"
    right = ", infinity allowed" if high == math.inf and not open_high else right
    return [f"{_flag(name)} is {value!r}, it must be a number {left}{right}"]


def _list(name: str, values: Sequence[Any]) -> list[str]:
    if not values:
        return [f"{_flag(name)} is empty, it must name at least one"]
    if len(set(values)) != len(values):
        return [f"{_flag(name)} names something twice: {', '.join(map(str, values))}"]
    return []


# The same sentences for values that are judged elsewhere.
flag, known, at_least, number, distinct = _flag, _known, _at_least, _number, _list
