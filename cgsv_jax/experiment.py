"""From a `Config` to results: data, partition, model, compiled segments, the host's look at them.

Everything numerical happens in compiled functions; here they are built, timed and watched.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cgsv_jax import config as config_lib
from cgsv_jax import data as data_lib
from cgsv_jax import layout, local, models, results, runs, simulation, sweep, timing, vectors
from cgsv_jax import network as network_lib
from cgsv_jax.aggregation import AGGREGATIONS
from cgsv_jax.algorithms import ALGORITHMS, LOSS_FIRST, READS, STAGED, needs_validation
from cgsv_jax.config import Config, ConfigError, Method
from cgsv_jax.contribution import GAMES, MEASURES
from cgsv_jax.data import owners, partition
from cgsv_jax.reward import REWARDS
from cgsv_jax.runs import Batch, Chunk, Look, Programs, Seen
from cgsv_jax.types import (
    Algorithm,
    Clients,
    Dataset,
    Evaluation,
    Hyper,
    Model,
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
    network: Network  # the model, as rules see it
    chosen: np.ndarray | None  # [K] the clients that are evaluated; None: all


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
      ConfigError: when the data are not there, or cannot be dealt out as asked.
    """
    source = data_lib.DATASETS[config.dataset]
    try:
        options = {"num_rows": config.synthetic_rows} if config.dataset == "synthetic" else {}
        full = data_lib.load(config.dataset, config.data_dir, **options)
        by_owner = "by_owner" in config.partitions
        owner_ids = owners.load(config.owners, len(full.labels)) if by_owner else None
        builder = models.MODELS[config.model]
        if config.model == "mlp":
            builder = functools.partial(builder, hidden=config.hidden)
        if config.model in config_lib.CONVOLUTIONAL:
            builder = functools.partial(builder, conv=config.conv)
        if config.model in config_lib.OF_TOKENS:  # tokens are numbered without gaps
            builder = functools.partial(builder, vocabulary=int(full.inputs.max()) + 1)
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

    network = network_lib.network(
        model,
        full.inputs.shape[1:],
        full.inputs.dtype,
        batch=config.eval_batch,
        width=_width_asked(config.layout),
    )

    def problem(name: str, data: Dataset, clients: Clients) -> Problem:
        sizes, classes = partition.describe(clients, data.labels)
        chosen = None
        if config.eval_clients is not None and config.eval_clients < config.clients:
            # Evenly from the fewest rows to the most, both ends included.
            places = np.linspace(0, config.clients - 1, config.eval_clients).round().astype(int)
            chosen = np.sort(np.argsort(sizes, kind="stable")[places])
        return Problem(name, data, clients, sizes, classes, model, tensors, network, chosen)

    made = tuple(
        problem(name, data, clients)
        for name, (data, clients) in zip(config.partitions, dealt, strict=True)
    )
    for method in config.methods:
        judges = needs_validation(method.algorithm, options_of(config, method, made[0]))
        if judges and not len(made[0].data.validation[1]):
            raise ConfigError(
                f"{method.name} judges models on the server's validation rows, "
                f"but --validation-share {config.validation_share:g} leaves none"
            )
        try:  # what a rule says of N, D or the model, it says before anything is compiled
            algorithm = parts(config, method, made[0], method.hyper())["algorithm"]
            jax.eval_shape(lambda a=algorithm: a.init(config.clients, sum(tensors)))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return made


def _deal(
    config: Config, full: Dataset, name: str, owner_ids: np.ndarray | None
) -> tuple[Dataset, Clients]:
    # One generator per purpose: the cap or the partition never shifts the other's draws.
    split_rng, deal_rng, test_rng = (
        np.random.default_rng([config.partition_seed, i]) for i in range(3)
    )
    cap = config.rows_per_client and config.rows_per_client * config.clients
    cap = None if name == "by_owner" else cap  # a writer's rows are not thinned out
    if full.validation is not None and config.validation_share > 0:
        raise ConfigError(
            f"--validation-share is {config.validation_share:g}, it must be 0: "
            f"{config.dataset} has validation rows of its own"
        )
    pool, held_out = partition.split(split_rng, len(full.labels), config.validation_share, cap)
    validation = full.validation or (full.inputs[held_out], full.labels[held_out])
    if config.clients > len(pool):
        raise ConfigError(
            f"--clients is {config.clients}, it must be at most {len(pool)}, "
            f"the training rows of {config.dataset}"
        )
    test = slice(None)
    if config.eval_rows is not None:
        rows = len(full.test_labels)
        if config.eval_rows > rows:
            raise ConfigError(
                f"--eval-rows is {config.eval_rows}, it must be at most {rows}, "
                f"the test rows of {config.dataset}"
            )
        test = np.sort(test_rng.permutation(rows)[: config.eval_rows])
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
    if name == "dirichlet":
        options = {"concentration": config.concentration, "min_rows": config.min_rows}
    if name == "by_owner":
        options = {"owners": owner_ids[pool], "min_rows": config.min_rows}
    clients = partition.PARTITIONS[name](deal_rng, data.labels, config.clients, **options)
    return data, clients


def options_of(config: Config, method: Method, problem: Problem) -> Options:
    """The choices of rule of a method on a problem."""
    return method.options(tensors=problem.tensors, rounds=config.rounds, network=problem.network)


def rounds_of(config: Config, method: Method) -> int:
    """Rounds of a method: T, and those of its second stage where it has one."""
    return config.rounds + (method.finetune_rounds if method.algorithm in STAGED else 0)


def data_of(config: Config, method: Method, problem: Problem) -> Dataset:
    """The data as a method's programs are given them: validation rows only to whom they serve."""
    if needs_validation(method.algorithm, options_of(config, method, problem)):
        return problem.data
    return problem.data._replace(validation=None)


def settings_of(config: Config, method: Method, problem: Problem) -> Settings:
    """`settings`, and what the method's uploads must carry."""
    return settings(config, problem)._replace(start_loss=method.algorithm in LOSS_FIRST)


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
        "algorithm": ALGORITHMS[method.algorithm](hyper, options_of(config, method, problem)),
        "trainer": local.trainer(
            problem.model,
            optimizer,
            schedule,
            batch_size=config.batch_size,
            precision=config.precision,
            restart=method.optimizer_state == "restart",
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
    mesh = layout.mesh_of(available[:wanted])
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


def _width_asked(layout: str) -> int | None:
    """Clients computed together where the layout is a number of them; None: as many as fit."""
    if layout == "one":
        return 1
    return int(layout) if layout.isdigit() else None


def memory() -> int:
    """Bytes of the device, or of the host where that is the device."""
    return timing.memory_limit() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
    return int(np.clip(memory() // 2 // max(each, 1), 1, config.clients))


def segment_length(rounds: int, eval_every: int) -> int:
    """Rounds between two looks: a multiple of `eval_every`, counted from round 0."""
    evaluations = -(-rounds // eval_every)
    per_segment = -(-evaluations // SEGMENTS)
    return min(rounds, per_segment * eval_every)


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
    dealt = problems(config) if dealt is None else dealt
    started = time.perf_counter()
    asked = [(problem, method) for problem in dealt for method in config.methods]

    def look(look: Look) -> None:
        problem, method = asked[look.batch]
        accuracy = server = None
        if look.evaluation is not None:
            accuracy = look.evaluation.accuracy[:, -1].mean(0)
            server = float(look.evaluation.server_accuracy[:, -1].mean())
        counts = look.done, look.rounds, look.compiling, look.pace
        watch(Progress(problem.partition, method.name, *counts, accuracy, server))

    batches = [batch_of(config, method, problem) for problem, method in asked]
    seen, clocks = runs.execute(batches, look if watch else lambda look: None)
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
    timing = {"total_seconds": time.perf_counter() - started, "methods": clock}
    return Result(config, dealt, tuple(cells), timing)


def programs(config: Config, method: Method, problem: Problem) -> Programs:
    """The pure functions behind a run; `run` jits them.

    Raises:
      ConfigError: more devices are asked for than there are.
    """
    static = settings_of(config, method, problem)
    mesh = static.mesh
    # Rows of the matrices in an order that gives every device its share of the work.
    order = np.arange(config.clients)
    if mesh is not None:
        order = layout.dealt(steps(config, problem), mesh.size)
    places = np.argsort(order)
    clients = jax.tree.map(lambda x: x[order], problem.clients)
    clients = clients._replace(numbers=order.astype(np.int32))
    chosen = None if problem.chosen is None else places[problem.chosen].astype(np.int32)
    shared = (data_of(config, method, problem), clients, chosen)
    shared = jax.device_put(shared, None if mesh is None else layout.everywhere(mesh))

    def start(key: jax.Array, hyper: Hyper) -> State:
        made = parts(config, method, problem, hyper)
        return simulation.init(key, config.clients, mesh=mesh, **made)

    def begin(seeds: jax.Array, hyper: Hyper) -> State:
        return sweep.runs(start, jax.vmap(jax.random.key)(seeds), hyper)

    def segment(rounds: int, seeds: jax.Array, hyper: Hyper, state: State, shared: tuple) -> Any:
        def one(key, hyper, state, data, clients, chosen):
            state, *seen = simulation.advance(
                key,
                state,
                data,
                clients,
                settings=static._replace(rounds=rounds),
                chosen=chosen,
                **parts(config, method, problem, hyper),
            )
            return state, *layout.keep_whole(seen, mesh)

        return sweep.runs(one, jax.vmap(jax.random.key)(seeds), hyper, *shared, carry=state)

    def in_order(record: Record, evaluation: Evaluation) -> tuple[Record, Evaluation]:
        record = jax.tree.map(lambda x: x[..., places], record)
        if problem.chosen is None:
            fields = {n: getattr(evaluation, n)[..., places] for n in simulation.PER_CLIENT}
            evaluation = evaluation._replace(**fields)
        return record, evaluation

    # The numbers stay off the mesh: rules and trainers close over them (see `layout.over_clients`).
    hyper = jax.tree.map(lambda x: np.full(1, x, np.float32), method.hyper())
    return Programs(begin, segment, hyper, shared, in_order)


def batch_of(config: Config, method: Method, problem: Problem) -> Batch:
    """The runs of one method on one partition: all seeds."""
    length = rounds_of(config, method)

    def chunk(seeds: tuple[int, ...]) -> Chunk:
        numbers = jax.tree.map(lambda x: np.full(len(seeds), x, np.float32), method.hyper())
        return Chunk(np.asarray(seeds, np.uint32), numbers)

    chunks = tuple(chunk(seeds) for seeds in _together(config, problem))
    return Batch(
        build=lambda: programs(config, method, problem),
        chunks=chunks,
        rounds=length,
        step=segment_length(length, config.eval_every),
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
    )


def matrices_of(config: Config, problem: Problem) -> int:
    """Bytes of what a run holds per client and parameter: models, updates, sorts, chunks."""
    return 4 * 4 * config.clients * sum(problem.tensors)


def _together(config: Config, problem: Problem) -> list[tuple[int, ...]]:
    """The seeds in groups, each of which is one program.

    On a CPU width does not pay, and over several devices the clients already fill them: there one
    after another, so that one state is in memory at a time. Elsewhere all at once if their matrices
    take half of the memory.
    """
    fits = 2 * matrices_of(config, problem) * len(config.seeds) <= memory()
    if jax.default_backend() == "cpu" or config.devices > 1 or not fits:
        return [(seed,) for seed in config.seeds]
    return [config.seeds]


def save(directory: Any, result: Result) -> None:
    """Writes a run directory (see results.py); figures are drawn from it, not from here."""
    results.write(
        directory,
        config_lib.to_dict(result.config),
        results.environment(),
        result.timing,
        result.cells,
    )
