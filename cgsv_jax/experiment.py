"""From a `Config` to results: data, partition, model, compiled segments, the host's look at them.

Everything numerical happens in compiled functions; here they are built, timed and watched.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cgsv_jax import (
    attacks,
    checks,
    contribution,
    files,
    layout,
    local,
    models,
    results,
    runs,
    simulation,
    sweep,
    timing,
    vectors,
)
from cgsv_jax import config as config_lib
from cgsv_jax import data as data_lib
from cgsv_jax import network as network_lib
from cgsv_jax import participation as participation_lib
from cgsv_jax.aggregation import AGGREGATIONS
from cgsv_jax.algorithms import ALGORITHMS, READS, STAGED
from cgsv_jax.config import Config, ConfigError, Method
from cgsv_jax.contribution import GAMES, MEASURES
from cgsv_jax.data import attendance, lists, owners, partition
from cgsv_jax.participation import Participation
from cgsv_jax.reward import REWARDS
from cgsv_jax.runs import Batch, Chunk, Look, Programs, Seen
from cgsv_jax.types import (
    Algorithm,
    Clients,
    Dataset,
    Evaluation,
    Hyper,
    Model,
    Needs,
    Network,
    Options,
    Record,
    Settings,
    State,
    Trainer,
)

# name -> learning rate -> optax transformation
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}

TABLES = config_lib.Tables(
    datasets=data_lib.DATASETS,
    models=models.MODELS,
    partitions=partition.PARTITIONS,
    algorithms=ALGORITHMS,
    contributions=MEASURES,
    aggregations=AGGREGATIONS,
    rewards=REWARDS,
    optimizers=OPTIMIZERS,
    precisions=local.PRECISIONS,
    convs=models.FORMS,
    games=GAMES,
    reads=READS,
    read_by=config_lib.READ_BY | contribution.READ_BY,
    attacks=attacks.ATTACKS,
    label_attacks=attacks.LABELS,
)


# A segment ends, and a checkpoint may be written, before a slow CPU has computed for so long.
SECONDS = 30.0
# What such a CPU does in a second. Two busy cores reach 34 GFLOP/s on MNIST's CNN, and 40,000 steps
# per second on digits, where starting the operations is all (README, Long runs): these are three to
# four times less. What is too low cuts segments needlessly, at a dispatch of a millisecond each.
RATE = 1e10  # FLOP
STEPS = 1e4  # mini-batch steps, beside their arithmetic
BYTES = 2e9  # of the server's matrices
READINGS = 20  # of such a matrix [N, D] in a round: the ranks, the products, the download

# Bytes, as measured (see `memory_of`).
A_COALITION = 24  # of a coalition that is looked at in a round: its value, gain and order
A_ROW = 300  # of a row of rounds.parquet, while all are put together
AS_SEEN = 40  # of the same, as it is kept until then
REBUILT = 128  # models beside the clients' where the server judges models on rows of its own


class DataIdentity(TypedDict):
    """Which data were meant, by content; environment.json holds it as `data`."""

    sets: dict[str, data_lib.Identity]  # of all that a sweep reads
    files: dict[str, str]  # field of `config.FILES` -> SHA-256 of its bytes


class Problem(NamedTuple):
    """What all methods of one partition share."""

    partition: str
    data: Dataset  # the pool of training rows, the test set, the server's validation rows
    clients: Clients
    sizes: np.ndarray  # [N] rows held
    classes: np.ndarray  # [N] distinct labels held
    model: Model
    tensors: tuple[int, ...]
    network: Network  # the model, as rules see it
    chosen: np.ndarray | None  # [K] the clients that are evaluated; None: all
    cheats: tuple[str, ...] = ()  # [N] every client's attack, "" where honest; (): all are
    attendance: np.ndarray | None = None  # [T, C] who takes part in which round, if that is given
    identity: DataIdentity | None = None  # of the data as a config named them; None: of one's own
    own_model: bool = False  # whether the model was given too, and is not the config's
    owners: tuple[str, ...] = ()  # [N] whose rows a client holds; (): nobody's by name


class Memory(NamedTuple):
    """Something that takes memory."""

    size: int  # bytes
    what: str
    flags: tuple[str, ...]  # that decide it


class Progress(NamedTuple):
    """What the host sees between two segments; rounds are counted over all seeds of a method."""

    partition: str
    method: str
    round: int  # rounds completed
    rounds: int
    compiling: bool
    rounds_per_second: float  # of this method so far, compilation apart
    accuracy: np.ndarray | None  # [N] mean over the seeds that run, latest
    server_accuracy: float | None
    until: int  # rounds completed when the host looks again


class Result(NamedTuple):
    """A finished experiment, as arrays."""

    config: Config
    problems: tuple[Problem, ...]  # one per partition
    cells: tuple[results.Cell, ...]  # one per partition and method
    timing: dict[str, Any]  # seconds, of compiling and running; loading the data is not in it


def configure(**asked: Any) -> Config:
    """A complete configuration; see `config.resolve` for the names.

    >>> configure(dataset="digits", clients=5, algorithms=["cgsv"], beta=2.0).methods[0].beta
    2.0
    """
    if asked.get("devices") is None:
        asked["devices"] = jax.device_count()
    return config_lib.resolve(TABLES, jax.default_backend(), **asked)


def problems(config: Config) -> tuple[Problem, ...]:
    """Loads the data and deals them out, once per partition.

    Raises:
      ConfigError: when the data are not there, cannot be dealt out as asked, or are not what a
        method needs; and when the hardware is not there.
    """
    _devices(config)
    source = data_lib.DATASETS[config.dataset]
    try:
        full, found = data_lib.identified(**_named(config))
        identity = DataIdentity(sets={_label(config): found}, files=_digests(config))
        read: dict[str, Any] = {}  # partition -> what its file says
        if "by_owner" in config.partitions:
            read["by_owner"] = owners.load(config.owners, len(full.labels))
        if "from_lists" in config.partitions:
            read["from_lists"] = lists.load(config.lists)
        model = _model(config, full, source.num_classes)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    dealt, ids, wrong = [], [], []
    for name in config.partitions:
        try:
            *arrays, held = _deal(config, full, name, read.get(name))
            wrong += checks.problems(*arrays, model)
            dealt.append(arrays)
            ids.append(held)
        except (ValueError, OSError) as error:
            wrong += str(error).splitlines()
    _refuse(wrong)
    made = tuple(
        _problem(config, name, *arrays[:2], model)._replace(identity=identity)
        for name, arrays in zip(config.partitions, dealt, strict=True)
    )
    _refuse(wrong for problem in made for wrong in _unfit(config, problem))
    return tuple(_conducted(config, *each) for each in zip(made, ids, strict=True))


def data_identity(*configs: Config) -> DataIdentity:
    """Which data the configs mean, as they are now; those of a sweep name the same files.

    `problems` says the same of one config in `Problem.identity`, and has read them anyway.

    Raises:
      ConfigError: when the data are not there.
    """
    sets: dict[str, data_lib.Identity] = {}
    try:
        for config in configs:
            if _label(config) not in sets:
                sets[_label(config)] = data_lib.identified(**_named(config))[1]
        return DataIdentity(sets=sets, files=_digests(configs[0]))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def other_data(before: DataIdentity, now: DataIdentity) -> list[str]:
    """A sentence for each data set and file that is not what it was; where they lie is no matter.

    Args:
      before: as some environment.json has it.
      now: what the same config means.
    """
    wrong = []
    for name, found in now["sets"].items():
        was = before["sets"].get(name, found)
        if was["rows"] != found["rows"]:
            folders = [x["folder"] or "its package" for x in (found, was)]
            wrong.append(f"{name} in {folders[0]} has other rows than {folders[1]} had")
    for name in config_lib.FILES:
        if before["files"].get(name) != now["files"].get(name):
            wrong.append(f"the file of {config_lib.flag(name)} holds something else than it held")
    return wrong


def changed_data(directory: Any, now: DataIdentity) -> list[str]:
    """`other_data` than the environment.json of a directory names; nothing where it names none.

    Raises:
      ValueError: it cannot be read.
    """
    if not results.is_there(directory, "environment.json"):
        return []
    before = results.read_json(directory, "environment.json").get("data")
    if before is None:  # an earlier version wrote it, or it is of arrays of one's own
        return []
    with files.reading(files.inside(directory, "environment.json")):
        return other_data(files.judged(before, DataIdentity), now)


def _named(config: Config) -> dict[str, Any]:
    """The data set of a config, as `data.load` is asked for it."""
    options = {}
    if config.dataset == "synthetic":
        options = {"num_rows": config.synthetic_rows}
        each = 4 * math.prod(data_lib.DATASETS[config.dataset].input_shape)
        times = 3  # as drawn, as dealt out, and on the device
        rows = Memory(times * each * config.synthetic_rows, "the rows", ("--synthetic-rows",))
        _refuse(beyond("the data", [rows], files.host_memory()))
    return {"name": config.dataset, "data_dir": config.data_dir, **options}


def _label(config: Config) -> str:
    synthetic = config.dataset == "synthetic"
    return f"synthetic of {config.synthetic_rows} rows" if synthetic else config.dataset


def _digests(config: Config) -> dict[str, str]:
    chosen = {name: getattr(config, name) for name in config_lib.FILES}
    return {name: files.digest_of_file(path) for name, path in chosen.items() if path is not None}


def given(config: Config, data: Dataset, clients: Clients, model: Model | None = None) -> Problem:
    """A problem of one's own arrays, checked: `run(config, dealt=(given(config, ...),))`.

    The config says how to train; its data set, model and partitions are not looked at, and
    `--clients` must be the number of clients given.

    Args:
      config: see `configure`.
      data: the rows; validation rows are only needed by methods that judge models on them.
      clients: who holds which of the training rows.
      model: the network; default: the config's, for inputs of this shape.

    Raises:
      ConfigError: naming everything that is wrong with the arrays, see `checks.problems`, and
        what a method of the config cannot do with them.
    """
    _devices(config)
    own_model = model is not None
    if model is None:
        _refuse(checks.problems(data, clients))  # before their shape and labels are used
        held = (data.labels, data.test_labels, *(data.validation or ())[1:])
        classes = max(int(np.max(labels, initial=0)) for labels in held) + 1
        try:
            model = _model(config, data, classes)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    _refuse(checks.problems(data, clients, model))
    if len(clients.mask) != config.clients:
        raise ConfigError(
            f"--clients is {config.clients}, it must be {len(clients.mask)}, the clients given"
        )
    data, clients = checks.canonical(*jax.tree.map(np.asarray, (data, clients)))
    if data.validation is None:
        data = data._replace(validation=(data.inputs[:0], data.labels[:0]))
    problem = _problem(config, config_lib.GIVEN, data, clients, model)
    problem = problem._replace(own_model=own_model)
    _refuse(_unfit(config, problem))
    return _conducted(config, problem)


def _refuse(wrong: Iterable[str]) -> None:
    """One error for all that is wrong, each named once."""
    if lines := list(dict.fromkeys(wrong)):
        raise ConfigError("\n".join(lines))


def _model(config: Config, data: Dataset, num_classes: int) -> Model:
    builder = models.MODELS[config.model]
    if config.model == "mlp":
        builder = functools.partial(builder, hidden=config.hidden)
    if config.model in config_lib.CONVOLUTIONAL:
        builder = functools.partial(builder, conv=config.conv)
    if config.model in config_lib.OF_TOKENS:  # tokens are numbered without gaps
        builder = functools.partial(builder, vocabulary=int(data.inputs.max()) + 1)
    return builder(data.inputs.shape[1:], num_classes)


def _problem(config: Config, name: str, data: Dataset, clients: Clients, model: Model) -> Problem:
    """A problem whose clients are all honest and there from the first round."""
    listed = None
    if config.attendance is not None:
        try:
            listed = attendance.load(config.attendance, counts_of(config)[0])
        except ValueError as error:
            raise ConfigError(str(error)) from error
    network = network_lib.network(
        model,
        data.inputs.shape[1:],
        data.inputs.dtype,
        batch=config.eval_batch,
        width=_width_asked(config.layout),
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tensors = tuple(t.stop - t.start for t in vectors.tensors(shapes))
    holdings = partition.describe(clients, data.labels)
    return Problem(name, data, clients, *holdings, model, tensors, network, None, (), listed)


def _conducted(config: Config, problem: Problem, ids: np.ndarray | None = None) -> Problem:
    """The problem with the clients that cheat or come late, and who is evaluated.

    `ids` are the owners of the rows, where clients are owners.
    """
    clients, cheats = _conduct(config, problem.data, problem.clients, problem.model)
    clients = _joining(config, clients)
    sizes, classes = partition.describe(clients, problem.data.labels)
    chosen = None
    if config.eval_clients is not None and config.eval_clients < len(sizes):
        # Evenly from the fewest rows to the most, both ends included.
        places = np.linspace(0, len(sizes) - 1, config.eval_clients).round().astype(int)
        chosen = np.sort(np.argsort(sizes, kind="stable")[places])
    held = () if ids is None else tuple(ids[np.asarray(clients.rows)[:, 0]].astype(str).tolist())
    made = problem._replace(clients=clients, sizes=sizes, classes=classes, owners=held)
    return made._replace(chosen=chosen, cheats=cheats)


def counts_of(config: Config) -> tuple[int, int]:
    """Clients of a run, those that one poses as included, and how many of them are evaluated."""
    asked = map(config_lib.attacking, config.attacks)
    number = config.clients + sum(x.count - 1 for x in asked if x.name == attacks.REPLICATION)
    return number, min(number, config.eval_clients or number)


def _conduct(
    config: Config, data: Dataset, clients: Clients, model: Model
) -> tuple[Clients, tuple[str, ...]]:
    """The partition with the clients that cheat, drawn with the partition's seed."""
    if not config.attacks:
        return clients, ()
    params = jax.eval_shape(model.init, jax.random.key(0))
    logits = jax.eval_shape(model.apply, params, data.inputs[:1])
    return attacks.dishonest(
        np.random.default_rng([config.partition_seed, 3]),
        clients,
        data.labels,
        logits.shape[-1],
        [config_lib.attacking(text) for text in config.attacks],
        config.attackers,
    )


def _joining(config: Config, clients: Clients) -> Clients:
    """The partition with the first round of clients that come late, drawn likewise."""
    if not config.late:
        return clients
    joins = np.zeros(len(clients.mask), np.int32)
    order = np.random.default_rng([config.partition_seed, 4]).permutation(config.clients)
    for text in config.late:
        count, first = config_lib.late_joiners(text)
        joins[order[:count]] = first
        order = order[count:]
    return clients._replace(joins=joins)


def forged_uploads(config: Config, method: Method) -> attacks.Attack | None:
    """What cheating clients upload in a method; None where all uploads are honest.

    The yardstick has no server to deceive: its clients cheat at most with their labels.
    """
    names = [config_lib.attacking(text).name for text in config.attacks]
    names = [name for name in names if name in attacks.UPLOADS]
    return attacks.attack(names) if names and method.algorithm != results.YARDSTICK else None


def participation_of(
    config: Config, method: Method, problem: Problem, hyper: Hyper
) -> Participation | None:
    """Who takes part; None: everybody who has joined. The yardstick trains in the same rounds."""
    dropout = hyper.dropout if method.dropout > 0 else 0.0
    if problem.attendance is not None:
        return participation_lib.given(problem.attendance, dropout)
    if config.cohort is None:
        return participation_lib.everybody(dropout) if method.dropout > 0 else None
    drawn = {
        "uniform": participation_lib.uniform,
        "reputation": participation_lib.by_reputation,
    }[config.cohort_by]
    return drawn(config.cohort, dropout)


def _unfit(config: Config, problem: Problem) -> list[str]:
    """What the methods, or the local epochs, cannot do on this problem; nothing is compiled."""
    wrong = []
    visits = config.epochs * problem.clients.mask.shape[1]
    if visits > config_lib.MAX_WHOLE:
        wrong.append(
            f"--epochs is {config.epochs}, which makes {visits} visits of the largest client's "
            f"rows in a round, it must make at most {config_lib.MAX_WHOLE}"
        )
    there = memory() * (config.devices if timing.memory_limit() else 1)
    number, who = _population(config)
    network = "--hidden" if config.model == "mlp" else "--model"
    alone = Memory(4 * number * sum(problem.tensors), "models", (*who, network))
    if large := beyond("every method", [alone], there):  # before a rule looks at such a model
        return wrong + large
    for method in config.methods:
        try:  # what a rule says of N, D or the model, it says before anything is compiled
            needs = needs_of(config, method)
            if needs.rows and not len(problem.data.validation[1]):
                wrong.append(
                    f"{method.name} judges models on the server's validation rows, "
                    f"but --validation-share {config.validation_share:g} leaves none"
                )
                continue
            needed = memory_of(config, method, problem)
        except ValueError as error:
            wrong.append(str(error))
            continue
        wrong += beyond(method.name, needed, there)
    rows = number * len(config.partitions) * len(config.seeds)
    rows *= sum(rounds_of(config, method) for method in config.methods)
    told = (*who, "--rounds", "--seeds", "--algorithms", "--partition")
    table = Memory(A_ROW * rows, f"{rows:,} rows of rounds.parquet", told)
    return wrong + beyond("the tables", [table], files.host_memory())


def memory_of(config: Config, method: Method, problem: Problem) -> tuple[Memory, ...]:
    """What one run of a method takes while it is computed, the rows themselves apart.

    Of models and updates there are S (1 + C / N) + 4 C D bytes and 12 D for each client trained at
    the same time: S is the state, models [N, D] and whatever an optimizer, a rule or an attacker
    remembers of each, and C are the clients of a round. XLA's own count is .7 of it (cgsv) to 1.7
    (cffl), twice with gaussian_noise. Only shapes are traced, and nothing is allocated.

    Args:
      config: how many clients, rounds and so on.
      method: whose rules they are.
      problem: the model and who holds what; those as whom a client poses need not be there yet.

    Raises:
      ValueError: a rule cannot be for so many clients or parameters.
    """
    number, who = _population(config)
    parameters, rounds = sum(problem.tensors), rounds_of(config, method)
    made = parts(config, method, problem, method.hyper(problem.partition))
    attack = forged_uploads(config, method)
    params = jax.eval_shape(problem.model.init, jax.random.key(0))
    steps = number * _size(made["trainer"].init, params)
    state = 4 * number * parameters + steps
    state += _size(lambda: made["algorithm"].init(number, parameters))
    state += _size(lambda: attack.init(number, parameters)) if attack else 0
    taking = config.cohort or number
    if problem.attendance is not None:
        taking = problem.attendance.shape[1]
    wide = number if config.layout == "all" else min(_width_asked(config.layout) or 1, number)
    needs = needs_of(config, method)
    copies = taking + 3 * wide + REBUILT * needs.rows
    network = ("--hidden" if config.model == "mlp" else "--model",)
    network += ("--optimizer",) if steps else ()
    slots = number * problem.clients.mask.shape[1]
    looked = needs.valuations(number)
    products = 12 * number**2 if looked else 0
    return (
        Memory(
            state + state * taking // number + 4 * parameters * copies,
            "models and updates",
            (*who, *network),
        ),
        Memory(partition.SLOT * slots, "who holds which rows", (*who, "--partition")),
        Memory(
            A_COALITION * looked + products,
            f"{looked:,} coalitions a round",
            (*who, "--permutations"),
        ),
        Memory(AS_SEEN * number * rounds, "what is recorded", (*who, "--rounds")),
    )


def _population(config: Config) -> tuple[int, tuple[str, ...]]:
    """N, and the flags that make it."""
    number, _ = counts_of(config)
    return number, ("--clients", "--attack") if number > config.clients else ("--clients",)


def _size(function: Callable, *args: Any) -> int:
    """Bytes of what a function gives."""
    leaves = jax.tree.leaves(jax.eval_shape(function, *args))
    return sum(x.size * x.dtype.itemsize for x in leaves)


def beyond(what: str, needed: Sequence[Memory], there: int) -> list[str]:
    """A sentence where all of it does not fit in `there` bytes, about what takes most of it."""
    total = sum(own.size for own in needed)
    if total <= there:
        return []
    most = [own for own in needed if 10 * own.size > total]
    flags = ", ".join(dict.fromkeys(flag for own in most for flag in own.flags))
    size, has = (f"{bytes_ / 2**30:,.1f} GiB" for bytes_ in (total, there))
    parts_ = " and ".join(own.what for own in most)
    return [f"{flags}: {what} would take {size} of memory for {parts_}, there are {has}"]


def _deal(
    config: Config, full: Dataset, name: str, read: Any
) -> tuple[Dataset, Clients, np.ndarray | None]:
    """The pool, who holds what of it, and the owners of its rows where clients are owners."""
    # One generator per purpose: the cap or the partition never shifts the other's draws.
    split_rng, deal_rng, test_rng = (
        np.random.default_rng([config.partition_seed, i]) for i in range(3)
    )
    cap = config.rows_per_client and config.rows_per_client * config.clients
    cap = None if name in config_lib.CHOSEN_ROWS else cap
    listed = np.concatenate([*read, ()]) if name == "from_lists" else None
    wrong = []
    if full.validation is not None and config.validation_share > 0:
        wrong.append(
            f"--validation-share is {config.validation_share:g}, it must be 0: "
            f"{config.dataset} has validation rows of its own"
        )
    pool, held_out = partition.split(
        split_rng, len(full.labels), config.validation_share, cap, listed
    )
    if listed is not None:  # they number the rows of the whole training set
        pool = np.arange(len(full.labels))
    validation = full.validation or (full.inputs[held_out], full.labels[held_out])
    if config.clients > len(pool):
        wrong.append(
            f"--clients is {config.clients}, it must be at most {len(pool)}, "
            f"the training rows of {config.dataset}"
        )
    test, rows = slice(None), len(full.test_labels)
    if config.eval_rows is not None:
        if config.eval_rows > rows:
            wrong.append(
                f"--eval-rows is {config.eval_rows}, it must be at most {rows}, "
                f"the test rows of {config.dataset}"
            )
        test = np.sort(test_rng.permutation(rows)[: config.eval_rows])
    _refuse(wrong)
    data = full._replace(
        test_inputs=full.test_inputs[test],
        test_labels=full.test_labels[test],
        inputs=full.inputs[pool],
        labels=full.labels[pool],
        validation=validation,
    )
    options: dict[str, Any] = {}
    if name == "class_imbalance":
        options = {"num_classes": data_lib.DATASETS[config.dataset].num_classes}
    if name in ("dirichlet", "size_dirichlet"):
        options = {"concentration": config.concentration, "min_rows": config.min_rows}
    if name == "dirichlet":
        options["balanced"] = config.dirichlet_balanced
    if name == "by_shares":
        options = {"shares": config.shares}
    if name == "k_classes":
        options = {"classes_per_client": config.classes_per_client}
    if name == "by_owner":
        options = {"owners": read[pool], "min_rows": config.min_rows}
    if name == "from_lists":
        options = {"lists": read, "repeated_rows": config.repeated_rows}
    with files.naming({"by_owner": config.owners, "from_lists": config.lists}.get(name)):
        clients = partition.PARTITIONS[name](deal_rng, data.labels, config.clients, **options)
    return data, clients, options.get("owners")


def options_of(config: Config, method: Method, problem: Problem) -> Options:
    """The choices of rule of a method on a problem."""
    return method.options(tensors=problem.tensors, rounds=config.rounds, network=problem.network)


# What rules are made of where they are asked what they need, and compute nothing.
_ANY_NETWORK = Network(lambda weights, inputs, labels: None, lambda: np.zeros((1, 1), np.int32))


def needs_of(config: Config, method: Method) -> Needs:
    """What the rules of a method need and cost, as they say themselves."""
    options = method.options(tensors=(1,), rounds=config.rounds, network=_ANY_NETWORK)
    return ALGORITHMS[method.algorithm](method.hyper(), options).needs


def rounds_of(config: Config, method: Method) -> int:
    """Rounds of a method: T, those of its second stage, and those alone before, if it has them."""
    alone = needs_of(config, method).alone
    staged = method.finetune_rounds if method.algorithm in STAGED else 0
    return config.rounds * (1 + alone) + staged


def data_of(config: Config, method: Method, problem: Problem) -> Dataset:
    """The data as a method's programs are given them: validation rows only to whom they serve."""
    if needs_of(config, method).rows:
        return problem.data
    return problem.data._replace(validation=None)


def settings_of(config: Config, method: Method, problem: Problem) -> Settings:
    """`settings`, and what the method's uploads must carry."""
    needs = needs_of(config, method)
    return settings(config, problem)._replace(start_loss=needs.start_loss, alone=needs.alone)


def parts(
    config: Config, method: Method, problem: Problem, hyper: Hyper
) -> dict[str, Model | Algorithm | Trainer]:
    """Model, algorithm and trainer of a method; the numbers of `hyper` may be traced."""
    schedule = local.decayed(
        hyper.learning_rate, hyper.decay, per=method.decay_per, epochs=config.epochs
    )
    optimizer = OPTIMIZERS[method.optimizer]
    again = method.algorithm in STAGED and method.finetune_optimizer == "new"
    return {
        "model": problem.model,
        "algorithm": ALGORITHMS[method.algorithm](hyper, options_of(config, method, problem)),
        "trainer": local.trainer(
            problem.model,
            optimizer,
            schedule,
            batch_size=config.batch_size,
            precision=config.precision,
            restart=method.optimizer_state == "restart",
            afresh=config.rounds if again else None,
        ),
    }


def steps(config: Config, problem: Problem) -> np.ndarray:
    """Mini-batch steps of each client in a round, [N]."""
    batch = min(config.batch_size, problem.clients.mask.shape[1])
    return config.epochs * -(-problem.sizes // batch)


def settings(config: Config, problem: Problem) -> Settings:
    """The static settings of a run.

    Raises:
      ConfigError: more devices are asked for than there are.
    """
    mesh = layout.mesh_of(_devices(config))
    width = eval_width = _width_asked(config.layout)
    if config.layout == "balanced":
        width = layout.balanced_width(steps(config, problem), most=_fitting(config, problem, True))
    if eval_width is None:
        eval_width = _fitting(config, problem, False)
    return Settings(
        rounds=config.rounds,
        epochs=config.epochs,
        eval_every=config.eval_every,
        eval_batch=config.eval_batch,
        width=width,
        eval_width=eval_width,
        mesh=mesh,
    )


def _devices(config: Config) -> list[jax.Device]:
    """The devices that share the clients.

    Raises:
      ConfigError: more of them are asked for than there are.
    """
    available = jax.devices()
    if config.devices > len(available):
        raise ConfigError(
            f"--devices is {config.devices}, it must be at most {len(available)}, what there is"
        )
    if jax.process_count() > 1 and config.devices < len(available):
        raise ConfigError(
            f"--devices is {config.devices}, it must be {len(available)}: "
            f"each of the {jax.process_count()} processes takes part with all it has"
        )
    wanted = config.devices if jax.process_count() > 1 else min(config.devices, config.clients)
    return available[:wanted]


def _width_asked(layout: str) -> int | None:
    """Clients computed together where the layout is a number of them; None: as many as fit."""
    if layout == "one":
        return 1
    return int(layout) if layout.isdigit() else None


def memory() -> int:
    """Bytes of the device, or of the host where that is the device."""
    return timing.memory_limit() or files.host_memory()


@functools.lru_cache(maxsize=64)
def _scratch(apply: Any, init: Any, shape: tuple[int, ...], dtype: Any, training: bool) -> int:
    """Bytes that one model needs beside its parameters to compute one batch, as compiled."""

    def forward(params: Any, inputs: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.sum(apply(params, inputs, key if training else None))

    params = jax.eval_shape(init, jax.random.key(0))
    arguments = (params, jax.ShapeDtypeStruct(shape, dtype), jax.random.key(0))
    function = jax.grad(forward) if training else forward
    analysis = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _fitting(config: Config, problem: Problem, training: bool) -> int:
    """Models that may be computed at once: half of the memory is theirs, the rest the matrices'."""
    inputs = problem.data.inputs
    rows = min(config.batch_size, problem.clients.mask.shape[1]) if training else config.eval_batch
    shape = (min(rows, len(inputs)), *inputs.shape[1:])
    each = _scratch(problem.model.apply, problem.model.init, shape, inputs.dtype, training)
    return int(np.clip(memory() // 2 // max(each, 1), 1, len(problem.sizes)))


@functools.lru_cache(maxsize=64)
def _forward(apply: Any, init: Any, shape: tuple[int, ...], dtype: Any) -> float:
    """FLOPs of one row's forward pass, by XLA's count; nothing is compiled."""
    params = jax.eval_shape(init, jax.random.key(0))
    flops, _ = timing.cost(apply, params, jax.ShapeDtypeStruct(shape, dtype))
    return flops / shape[0]


def seconds_per_round(config: Config, method: Method, problem: Problem) -> float:
    """Seconds that a round of one seed takes on a slow CPU, by what is to be computed.

    It says how a run is cut, hence which programs compute it: so it follows from the config and the
    rows alone, and neither from a clock nor from the device.
    """
    inputs, clients = problem.data.inputs, len(problem.sizes)
    rows = min(config.batch_size, problem.clients.mask.shape[1])
    forward = _forward(
        problem.model.apply, problem.model.init, (rows, *inputs.shape[1:]), inputs.dtype
    )
    taken = float(steps(config, problem).sum()) * (config.cohort or clients) / clients
    evaluated = 1 + (clients if problem.chosen is None else len(problem.chosen))
    often = min(config.eval_every, config.rounds)
    passes = 3 * taken * rows + evaluated * len(problem.data.test_labels) / often
    needs = needs_of(config, method)
    judged = len(problem.data.validation[1]) if needs.rows else 0
    valued = needs.valuations(clients)
    flops = forward * (passes + valued * judged) + valued * clients**2
    return flops / RATE + taken / STEPS + READINGS * 4 * clients * sum(problem.tensors) / BYTES


def segments_of(config: Config, method: Method, problem: Problem) -> tuple[runs.Segment, ...]:
    """How the runs of a method are cut: about twenty segments, none of which takes long."""
    most = max(1, int(SECONDS / seconds_per_round(config, method, problem)))
    most = min(most, config.checkpoint_every or most)
    alone = config.rounds if needs_of(config, method).alone else 0
    before = runs.segments(alone, config.eval_every, most) if alone else ()
    before = tuple(runs.Segment(segment.rounds, 0, alone=True) for segment in before)
    after = runs.segments(rounds_of(config, method) - alone, config.eval_every, most)
    return before + after


def fingerprint(dealt: Sequence[Problem]) -> str:
    """A digest of all rows and who holds them: a config names files, which may have changed."""
    arrays = []
    for problem in dealt:
        leaves = (problem.data, problem.clients, problem.chosen, problem.attendance)
        names = (problem.cheats, problem.owners)
        arrays += [*jax.tree.leaves(leaves), *(np.asarray(x, np.str_) for x in names)]
    return files.digest_of_arrays(arrays)


def described(problem: Problem) -> dict[str, Any]:
    """What is known of arrays that no file holds: shapes and types, and digests of their content.

    That of the model is of its program: of what initialises it and of what it computes, as lowered.
    """
    arrays = {
        name: f"{x.dtype} {list(x.shape)}"
        for part in (problem.data, problem.clients)
        for path, x in jax.tree_util.tree_flatten_with_path(part)[0]
        for name in [f"{type(part).__name__}{jax.tree_util.keystr(path)}"]
    }
    found = {"arrays": arrays, "digest": fingerprint([problem])}
    if problem.own_model:
        key, row = jax.random.key(0), problem.data.inputs[:1]
        params = jax.eval_shape(problem.model.init, key)
        programs = [
            jax.jit(problem.model.init).lower(key).as_text(),
            jax.jit(problem.model.apply).lower(params, row, key).as_text(),
        ]
        digest = hashlib.sha256("".join(programs).encode()).hexdigest()
        found["model"] = {"parameters": sum(problem.tensors), "digest": digest}
    return found


def run(
    config: Config,
    watch: Callable[[Progress], None] | None = None,
    dealt: tuple[Problem, ...] | None = None,
    keeper: runs.Keeper | None = None,
) -> Result:
    """Every method of the config on every partition, all seeds of a method in one program.

    Args:
      config: see `configure`.
      watch: called before compilation, and between segments.
      dealt: what `problems(config)` gave, if it has been called already.
      keeper: saves what is computed, and may know where to go on (see `runs.execute`).

    Returns:
      Arrays; nothing is written, unless by the keeper.

    Raises:
      ConfigError: when data or partition cannot be had.
      runs.Stopped: when the keeper says so.
    """
    dealt = problems(config) if dealt is None else dealt
    asked = [(problem, method) for problem in dealt for method in config.methods]

    def look(look: Look) -> None:
        problem, method = asked[look.batch]
        accuracy = server = None
        if look.evaluation is not None:
            accuracy = look.evaluation.accuracy[:, -1].mean(0)
            server = float(look.evaluation.server_accuracy[:, -1].mean())
        counts = look.done, look.rounds, look.compiling, look.pace
        watch(Progress(problem.partition, method.name, *counts, accuracy, server, look.until))

    batches = [batch_of(config, method, problem) for problem, method in asked]
    seen, clocks = runs.execute(batches, look if watch else lambda look: None, keeper=keeper)
    cells = [
        cell_of(config, method, problem, own)
        for (problem, method), own in zip(asked, seen, strict=True)
    ]
    clock = [
        {
            "partition": problem.partition,
            "method": method.name,
            "compile_seconds": seconds.compiling,
            "run_seconds": seconds.running,
            "rounds_per_second": rounds_of(config, method) * len(config.seeds) / seconds.running,
        }
        for (problem, method), seconds in zip(asked, clocks, strict=True)
    ]
    timing = {"total_seconds": sum(seconds.elapsed for seconds in clocks), "methods": clock}
    return Result(config, dealt, tuple(cells), timing)


def programs(config: Config, method: Method, problem: Problem) -> Programs:
    """The pure functions behind a run; `run` jits them.

    Raises:
      ConfigError: more devices are asked for than there are.
    """
    static = settings_of(config, method, problem)
    mesh = static.mesh
    # Rows of the matrices in an order that gives every device its share of the work.
    number = len(problem.sizes)
    order = np.arange(number)
    if mesh is not None:
        order = layout.dealt(steps(config, problem), mesh.size)
    places = np.argsort(order)
    clients = jax.tree.map(lambda x: x[order], problem.clients)
    clients = clients._replace(numbers=order.astype(np.int32))
    chosen = None if problem.chosen is None else places[problem.chosen].astype(np.int32)
    shared = (data_of(config, method, problem), clients, chosen)
    shared = jax.device_put(shared, None if mesh is None else layout.everywhere(mesh))

    attack = forged_uploads(config, method)

    def start(key: jax.Array, hyper: Hyper) -> State:
        made = parts(config, method, problem, hyper)
        return simulation.init(key, number, attack=attack, mesh=mesh, alone=static.alone, **made)

    def begin(seeds: jax.Array, hyper: Hyper) -> State:
        return sweep.runs(start, jax.vmap(jax.random.key)(seeds), hyper)

    def segment(
        rounds: int,
        seeds: jax.Array,
        hyper: Hyper,
        state: State,
        shared: tuple,
        evaluated: bool = True,
        alone: bool = False,
    ) -> Any:
        def one(key, hyper, state, data, clients, chosen):
            arguments = (key, state, data, clients)
            options = {
                "settings": static._replace(rounds=rounds),
                "participation": participation_of(config, method, problem, hyper),
                **parts(config, method, problem, hyper),
            }

            def go_on() -> tuple[State, Record, Evaluation]:
                looks = {"attack": attack, "chosen": chosen, "evaluated": evaluated}
                return simulation.advance(*arguments, **options, **looks)

            if alone:  # nothing is seen of it: what would be, with no rounds
                state = simulation.train_alone(*arguments, rounds=config.rounds, **options)
                seen = jax.tree.map(
                    lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), jax.eval_shape(go_on)[1:]
                )
            else:
                state, *seen = go_on()
            return state, *layout.keep_whole(seen, mesh)

        return sweep.runs(one, jax.vmap(jax.random.key)(seeds), hyper, *shared, carry=state)

    def in_order(record: Record, evaluation: Evaluation) -> tuple[Record, Evaluation]:
        record = jax.tree.map(lambda x: x[..., places], record)
        if problem.chosen is None:
            fields = {n: getattr(evaluation, n)[..., places] for n in simulation.PER_CLIENT}
            evaluation = evaluation._replace(**fields)
        return record, evaluation

    # The numbers stay off the mesh: rules and trainers close over them (see `layout.over_clients`).
    hyper = jax.tree.map(lambda x: np.full(1, x, np.float32), method.hyper(problem.partition))
    return Programs(begin, segment, hyper, shared, in_order)


def batch_of(config: Config, method: Method, problem: Problem) -> Batch:
    """The runs of one method on one partition: all seeds."""

    def chunk(seeds: tuple[int, ...]) -> Chunk:
        numbers = jax.tree.map(
            lambda x: np.full(len(seeds), x, np.float32), method.hyper(problem.partition)
        )
        return Chunk(np.asarray(seeds, np.uint32), numbers)

    chunks = tuple(chunk(seeds) for seeds in _together(config, method, problem))
    return Batch(
        build=lambda: programs(config, method, problem),
        chunks=chunks,
        segments=segments_of(config, method, problem),
    )


def cell_of(config: Config, method: Method, problem: Problem, seen: Sequence[Seen]) -> results.Cell:
    """What the chunks of a method showed, as the results keep it."""
    record, evaluation = jax.tree.map(lambda *x: np.concatenate(x), *seen)
    return results.Cell(
        partition=problem.partition,
        method=method.name,
        seeds=config.seeds,
        sizes=problem.sizes,
        classes=problem.classes,
        num_parameters=sum(problem.tensors),
        record=record,
        evaluation=evaluation,
        evaluated=problem.chosen,
        cheats=problem.cheats,
        owners=problem.owners,
    )


def _together(config: Config, method: Method, problem: Problem) -> list[tuple[int, ...]]:
    """The seeds in groups, each of which is one program.

    On a CPU width does not pay, and over several devices the clients already fill them: there one
    after another, so that one state is in memory at a time. Elsewhere all at once if their matrices
    take half of the memory.
    """
    if jax.default_backend() != "cpu" and config.devices == 1:
        each = sum(own.size for own in memory_of(config, method, problem))
        if 2 * each * len(config.seeds) <= memory():
            return [config.seeds]
    return [(seed,) for seed in config.seeds]


def save(directory: Any, result: Result, earlier: Sequence[Any] = ()) -> None:
    """Writes a run directory (see results.py); figures are drawn from it, not from here.

    Args:
      directory: where.
      result: what `run` gave.
      earlier: other environments in which a part of it was computed.

    Raises:
      OSError: when it cannot be written.
    """
    environment = results.environment() | {"data": result.problems[0].identity}
    own = [problem for problem in result.problems if problem.identity is None]
    described_ = config_lib.of_given(result.config, described(own[0])) if own else None
    results.write(
        directory,
        described_ or config_lib.to_dict(result.config),
        environment | ({"earlier": list(earlier)} if earlier else {}),
        result.timing,
        result.cells,
    )
