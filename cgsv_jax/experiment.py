"""From a `Config` to results: data, partition, model, compiled segments, the host's look at them.

Everything numerical happens in compiled functions; here they are built, timed and watched.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cgsv_jax import config as config_lib
from cgsv_jax import data as data_lib
from cgsv_jax import layout, local, models, results, simulation, sweep, vectors
from cgsv_jax.aggregation import AGGREGATIONS
from cgsv_jax.algorithms import ALGORITHMS
from cgsv_jax.config import Config, ConfigError, Method
from cgsv_jax.contribution import MEASURES
from cgsv_jax.data import owners, partition
from cgsv_jax.reward import REWARDS
from cgsv_jax.types import Algorithm, Clients, Dataset, Hyper, Model, Settings, State, Trainer

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
    ruled=("cgsv",),
)

# Rounds between two looks of the host are chosen so that a run has about this many segments: each
# costs one dispatch, and a person wants to see the bar move.
SEGMENTS = 20


class Problem(NamedTuple):
    """What all methods of one partition share."""

    partition: str
    data: Dataset  # the pool of training rows, the test set, the server's validation rows
    clients: Clients
    sizes: np.ndarray  # [N] rows held
    classes: np.ndarray  # [N] distinct labels held
    model: Model
    tensors: tuple[int, ...]


class Progress(NamedTuple):
    """What the host sees between two segments."""

    partition: str
    method: str
    round: int  # rounds completed
    rounds: int
    compiling: bool
    rounds_per_second: float  # of this method so far, compilation apart
    accuracy: np.ndarray | None  # [N] mean over seeds, latest
    server_accuracy: float | None


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
    return config_lib.resolve(TABLES, jax.default_backend(), **asked)


def problems(config: Config) -> tuple[Problem, ...]:
    """Loads the data and deals them out, once per partition.

    Raises:
      ConfigError: when the data are not there, or cannot be dealt out as asked.
    """
    source = data_lib.DATASETS[config.dataset]
    try:
        options = {"num_rows": config.synthetic_rows} if config.dataset == "synthetic" else {}
        full = data_lib.load(config.dataset, config.data_dir, **options)
        by_owner = "by_owner" in config.partitions
        owner_ids = owners.load(config.owners, len(full.labels)) if by_owner else None
        if config.model == "mlp":
            builder = functools.partial(models.mlp, hidden=config.hidden)
        else:
            builder = models.MODELS[config.model]
        model = builder(full.inputs.shape[1:], source.num_classes)
        dealt = [_deal(config, full, name, owner_ids) for name in config.partitions]
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tensors = tuple(t.stop - t.start for t in vectors.tensors(shapes))
    if sum(tensors) > config_lib.MAX_PARAMETERS:
        raise ConfigError(
            f"--model {config.model} has {sum(tensors)} parameters, "
            f"it must have at most {config_lib.MAX_PARAMETERS}"
        )
    return tuple(
        Problem(name, data, clients, *partition.describe(clients, data.labels), model, tensors)
        for name, (data, clients) in zip(config.partitions, dealt, strict=True)
    )


def _deal(
    config: Config, full: Dataset, name: str, owner_ids: np.ndarray | None
) -> tuple[Dataset, Clients]:
    # One generator per purpose: the cap or the partition never shifts the other's draws.
    split_rng, deal_rng = (np.random.default_rng([config.partition_seed, i]) for i in range(2))
    cap = config.rows_per_client and config.rows_per_client * config.clients
    cap = None if name == "by_owner" else cap  # a writer's rows are not thinned out
    pool, held_out = partition.split(split_rng, len(full.labels), config.validation_share, cap)
    if config.clients > len(pool):
        raise ConfigError(
            f"--clients is {config.clients}, it must be at most {len(pool)}, "
            f"the training rows of {config.dataset}"
        )
    data = full._replace(
        inputs=full.inputs[pool],
        labels=full.labels[pool],
        validation=(full.inputs[held_out], full.labels[held_out]),
    )
    options: dict[str, Any] = {}
    if name == "class_imbalance":
        options = {"num_classes": data_lib.DATASETS[config.dataset].num_classes}
    if name == "dirichlet":
        options = {"concentration": config.concentration, "min_rows": config.min_rows}
    if name == "by_owner":
        options = {"owners": owner_ids[pool], "min_rows": config.min_rows}
    clients = partition.PARTITIONS[name](deal_rng, data.labels, config.clients, **options)
    return data, clients


def parts(
    config: Config, method: Method, problem: Problem, hyper: Hyper
) -> dict[str, Model | Algorithm | Trainer]:
    """Model, algorithm and trainer of a method; the numbers of `hyper` may be traced."""
    schedule = local.decayed(
        hyper.learning_rate, hyper.decay, per=method.decay_per, epochs=config.epochs
    )
    optimizer = OPTIMIZERS[method.optimizer]
    return {
        "model": problem.model,
        "algorithm": ALGORITHMS[method.algorithm](hyper, method.options(problem.tensors)),
        "trainer": local.trainer(problem.model, optimizer, schedule, batch_size=config.batch_size),
    }


def settings(config: Config, rounds: int | None = None) -> Settings:
    """The static settings of a run, or of a segment of `rounds`."""
    return Settings(
        rounds=rounds or config.rounds,
        epochs=config.epochs,
        evaluate_every=config.evaluate_every,
        evaluation_batch=config.evaluation_batch,
        width=config.width,
    )


def segment_length(rounds: int, evaluate_every: int) -> int:
    """Rounds between two looks: a multiple of `evaluate_every`, counted from round 0."""
    evaluations = -(-rounds // evaluate_every)
    per_segment = -(-evaluations // SEGMENTS)
    return min(rounds, per_segment * evaluate_every)


def run(
    config: Config,
    watch: Callable[[Progress], None] | None = None,
    dealt: tuple[Problem, ...] | None = None,
) -> Result:
    """Every method of the config on every partition, all seeds of a method in one program.

    Args:
      config: see `configure`.
      watch: called before compilation, and between segments.
      dealt: what `problems(config)` gave, if it has been called already.

    Returns:
      Arrays; nothing is written.

    Raises:
      ConfigError: when data or partition cannot be had.
    """
    watch = watch or (lambda progress: None)
    dealt = problems(config) if dealt is None else dealt
    started = time.perf_counter()
    cells, clock = [], []
    for problem in dealt:
        for method in config.methods:
            cell, seconds = _run_method(config, method, problem, watch)
            cells.append(cell)
            clock.append({"partition": problem.partition, "method": method.name, **seconds})
    timing = {
        "total_seconds": time.perf_counter() - started,
        "methods": clock,
    }
    return Result(config, dealt, tuple(cells), timing)


def _run_method(
    config: Config, method: Method, problem: Problem, watch: Callable[[Progress], None]
) -> tuple[results.Cell, dict[str, float]]:
    def note(done: int, evaluation: Any = None) -> None:
        accuracy = server = None
        if evaluation is not None:
            accuracy = np.asarray(evaluation.accuracy[:, 0, -1]).mean(0)
            server = float(np.asarray(evaluation.server_accuracy[:, 0, -1]).mean())
        pace = done / seconds["run_seconds"] if done else 0.0
        place = (problem.partition, method.name, done, config.rounds)
        watch(Progress(*place, not done, pace, accuracy, server))

    seconds = {"compile_seconds": 0.0, "run_seconds": 0.0}
    note(0)
    # Seeds lie on the hardware as clients do.
    width = layout.default_width()
    keys = jax.vmap(jax.random.key)(jnp.asarray(config.seeds, jnp.uint32))
    hyper = jax.tree.map(lambda x: jnp.full(1, x, jnp.float32), method.hyper())
    data = jax.device_put(problem.data._replace(validation=None))
    clients = jax.device_put(problem.clients)

    def start(key: jax.Array, hyper: Hyper) -> State:
        return simulation.init(key, config.clients, **parts(config, method, problem, hyper))

    def segment(
        rounds: int, keys: jax.Array, hyper: Hyper, state: State, data: Dataset, clients: Clients
    ) -> Any:
        def one(key, hyper, state, data, clients):
            return simulation.advance(
                key,
                state,
                data,
                clients,
                settings=settings(config, rounds),
                **parts(config, method, problem, hyper),
            )

        return sweep.grid(one, keys, hyper, data, clients, carry=state, width=width)

    compiled: dict[int, Any] = {}
    state = jax.jit(lambda k, h: sweep.grid(start, k, h, width=width))(keys, hyper)
    step = segment_length(config.rounds, config.evaluate_every)
    records, evaluations = [], []
    for done in range(0, config.rounds, step):
        rounds = min(step, config.rounds - done)
        clock = time.perf_counter()
        if rounds not in compiled:
            function = jax.jit(segment, static_argnums=0, donate_argnums=3)
            lowered = function.lower(rounds, keys, hyper, state, data, clients)
            compiled[rounds] = lowered.compile()
            seconds["compile_seconds"] += time.perf_counter() - clock
            clock = time.perf_counter()
        state, record, evaluation = compiled[rounds](keys, hyper, state, data, clients)
        jax.block_until_ready(state)
        seconds["run_seconds"] += time.perf_counter() - clock
        records.append(jax.device_get(record))
        evaluations.append(jax.device_get(evaluation))
        note(done + rounds, evaluations[-1])

    def joined(pieces: list) -> Any:  # leaves [S, 1, time, ...] -> [S, time, ...]
        return jax.tree.map(lambda *xs: np.concatenate(xs, axis=2)[:, 0], *pieces)

    cell = results.Cell(
        partition=problem.partition,
        method=method.name,
        seeds=config.seeds,
        sizes=problem.sizes,
        classes=problem.classes,
        num_parameters=sum(problem.tensors),
        record=joined(records),
        evaluation=joined(evaluations),
    )
    return cell, seconds | {"rounds_per_second": config.rounds / seconds["run_seconds"]}


def save(directory: Any, result: Result) -> None:
    """Writes a run directory (see results.py); figures are drawn from it, not from here."""
    results.write(
        directory,
        config_lib.to_dict(result.config),
        results.environment(),
        result.timing,
        result.cells,
    )
