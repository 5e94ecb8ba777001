"""What a run takes of time and memory, estimated before it begins, and what is too much."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from cgsv_jax.config.schema import GIVEN, Config
from cgsv_jax.core import ranges
from cgsv_jax.data import partition as partition_lib
from cgsv_jax.experiment import bind, execute, hardware
from cgsv_jax.experiment import timing as timing_lib
from cgsv_jax.experiment.bind import Bound
from cgsv_jax.experiment.hardware import Memory
from cgsv_jax.experiment.task import Task, counts_of, flags_of
from cgsv_jax.host import files as files_lib
from cgsv_jax.types import Dataset, Model

# A segment ends, and a checkpoint may be written, before a slow CPU has computed for so long.
SECONDS = 30.0
# What such a CPU does in a second. Two busy cores reach 34 GFLOP/s on MNIST's CNN, and 40,000 steps
# per second on digits, where starting the operations is all (docs/long-runs.md): these are three to
# four times less. What is too low cuts segments needlessly, at a dispatch of a millisecond each.
RATE = 1e10  # FLOP
STEPS = 1e4  # mini-batch steps, beside their arithmetic
BYTES = 2e9  # of the server's matrices
READINGS = 20  # of such a matrix [N, D] in a round: the ranks, the products, the download

# Bytes, as measured (see `memory_of`).
A_COALITION = 24  # of a coalition that is looked at in a round: its value, gain and order
A_ROW = 650  # of a row of rounds.parquet, while all are put together
AS_SEEN = 40  # of the same, as it is kept until then
REBUILT = 128  # models beside the clients' where the server judges models on rows of its own
AN_ANSWER = 5  # of one model to one test example: a truth and a float


def memory_of(bound: Bound) -> tuple[Memory, ...]:
    """What one run of a method takes while it is computed, the examples themselves apart.

    Of models and updates there are S (1 + C / N) + 4 C D bytes and 12 D for each client trained at
    the same time: S is the state, models [N, D] and whatever an optimizer, a rule or an attacker
    remembers of each, and C are the clients of a round. XLA's own count is .7 of it (cgsv) to 1.1
    (cgsv in cohorts), as tests/test_memory.py prints, and twice with gaussian_noise. Only shapes
    are traced, and nothing is allocated.

    Args:
      bound: a method on a task; clients as whom another one poses need not be in the task yet.

    Raises:
      ValueError: a rule cannot be for so many clients or parameters.
    """
    number, task, needs = bound.num_clients, bound.task, bound.needs
    parameters = sum(task.tensors)
    params = jax.eval_shape(task.model.init, jax.random.key(0))
    optimizer = number * _size(bound.trainer(bound.hyper).init, params)
    state = 4 * number * parameters + optimizer
    state += _size(lambda: bound.algorithm(bound.hyper).init(number, parameters))
    if attack := bound.attack:
        state += _size(lambda: attack.init(number, parameters))
    wide = min(bound.settings.width or number, number)
    copies = bound.cohort * (1 + needs.personal) + 3 * wide + REBUILT * needs.rows
    who, network = bound.flags
    network += ("--optimizer",) if optimizer else ()
    slots = number * task.clients.mask.shape[1]
    valued = needs.valuations(number)
    products = 12 * number**2 if valued else 0
    return (
        Memory(
            state + state * bound.cohort // number + 4 * parameters * copies,
            "models and updates",
            (*who, *network),
        ),
        Memory(partition_lib.SLOT * slots, "who holds which rows", (*who, "--partition")),
        Memory(
            A_COALITION * valued + products,
            f"{valued:,} coalitions a round",
            (*who, "--permutations"),
        ),
        Memory(AS_SEEN * number * bound.rounds, "what is recorded", (*who, "--rounds")),
        Memory(AN_ANSWER * _answers(bound), "the answers to test examples", (*who, "--eval-rows")),
    )


def _answers(bound: Bound) -> int:
    """Of all evaluations of a segment, and of the one that counts, on their way to the host."""
    if not bound.settings.answers:
        return 0
    evaluated = bound.evaluated * len(bound.task.data.test_labels)
    often = min(bound.settings.eval_every, bound.settings.rounds)
    length = execute.segment_length(bound.settings.rounds, often)
    return evaluated * (1 + -(-length // often))


def _size(function: Callable, *args: Any) -> int:
    """Bytes of what a function gives."""
    leaves = jax.tree.leaves(jax.eval_shape(function, *args))
    return sum(x.size * x.dtype.itemsize for x in leaves)


@functools.lru_cache(maxsize=64)
def _forward(model: Model, batch: jax.ShapeDtypeStruct) -> float:
    """FLOPs of one row's forward pass, by XLA's count; nothing is compiled."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    flops, _ = timing_lib.cost(model.apply, params, batch)
    return flops / batch.shape[0]


def seconds_per_round(bound: Bound) -> float:
    """Seconds that a round of one seed takes on a slow CPU, by what is to be computed.

    It says how a run is cut, hence which programs compute it: so it follows from the config and the
    examples alone, and neither from a clock nor from the device.
    """
    task, needs = bound.task, bound.needs
    inputs, clients = task.data.inputs, len(task.sizes)
    batch = jax.ShapeDtypeStruct((bound.batch, *inputs.shape[1:]), inputs.dtype)
    forward = _forward(task.model, batch)
    taken = float(bound.steps.sum()) * bound.cohort / clients * (1 + needs.personal)
    evaluated = 1 + (clients if task.chosen is None else len(task.chosen))
    often = min(bound.settings.eval_every, bound.settings.rounds)
    judged = len(task.data.test_labels)
    judged += 0 if bound.choosing is None else task.validation_rows
    passes = 3 * taken * bound.batch + evaluated * judged / often
    validated = task.validation_rows if needs.rows else 0
    valued = needs.valuations(clients)
    flops = forward * (passes + valued * validated) + valued * clients**2
    return flops / RATE + taken / STEPS + READINGS * 4 * clients * sum(task.tensors) / BYTES


def segments_of(bound: Bound) -> tuple[execute.Segment, ...]:
    """How the runs of a method are cut: about twenty segments, none of which takes long."""
    most = max(1, int(SECONDS / seconds_per_round(bound)))
    most = min(most, bound.checkpoint_every or most)
    every = bound.settings.eval_every
    if bound.patience is not None:  # a run may end with any evaluation
        most = min(most, every)
    if bound.save_models and bound.select == "validation":
        most = min(most, every)  # any evaluation may turn out to count: each ends a segment
    alone = bound.settings.rounds if bound.needs.alone else 0
    before = execute.segments(alone, every, most) if alone else ()
    before = tuple(execute.Segment(segment.rounds, 0, alone=True) for segment in before)
    return before + execute.segments(bound.rounds - alone, every, most)


def unfit_data(config: Config, full: Dataset) -> list[str]:
    """A sentence where the pools of several partition seeds do not fit, each a copy of its rows."""
    if config.partition_seeds == 1:
        return []
    cap = config.clients * (config.rows_per_client or len(full.labels))
    rows = min(len(full.labels), cap)
    size = rows * full.inputs[:1].nbytes
    many = ("--partition-seeds", *(("--rows-per-client",) if rows == cap else ()))
    pools = Memory(len(config.draws) * size, f"{len(config.draws):,} pools of {rows:,} rows", many)
    return hardware.beyond("the data", [pools], files_lib.host_memory())


def models_kept(config: Config, task: Task) -> tuple[int, int]:
    """How many runs there are, and bytes of the models of them all, the server's among them."""
    runs = bind.runs_of_each(config) * len(config.methods)
    return runs, 4 * (counts_of(config)[0] + 1) * sum(task.tensors) * runs


def _no_rows(config: Config, task: Task) -> str:
    """Why the server holds no validation rows: of arrays that are given no share is taken."""
    if task.partition == GIVEN:
        return "but the data given have none: cg.Dataset(..., validation=(inputs, labels)) does"
    return f"but --validation-share {config.validation_share:g} leaves none"


def unfit(config: Config, task: Task) -> list[str]:
    """What the methods, or the local epochs, cannot do on this task; nothing is compiled."""
    wrong = []
    judging = {
        "--select validation chooses": config.select == "validation",
        f"--patience {config.patience} ends runs": config.patience is not None,
    }
    wrong += [
        f"{what} by the server's validation rows, {_no_rows(config, task)}"
        for what, asked in judging.items()
        if asked and not task.validation_rows
    ]
    epochs = bind.epochs_of(config, task)
    visits = epochs * task.clients.mask.shape[1]
    if visits > ranges.MAX_WHOLE:
        asked = f"--epochs is {config.epochs}"
        if config.local_steps is not None:
            asked = f"--local-steps is {config.local_steps}"
        wrong.append(
            f"{asked}, which makes {visits} visits of the largest client's rows in a round, it "
            f"must make at most {ranges.MAX_WHOLE}"
        )
    there = hardware.memory() * (config.devices if timing_lib.memory_limit() else 1)
    number, _ = counts_of(config)
    flags = flags_of(config)
    models_ = Memory(4 * number * sum(task.tensors), "models", flags.clients + flags.model)
    # Before a rule looks at such a model.
    if large := hardware.beyond("every method", [models_], there):
        return wrong + large
    for method in config.methods:
        try:  # what a rule says of N, D or the model, it says before anything is compiled
            bound = bind.bind(config, method, task)
            if bound.needs.rows and not task.validation_rows:
                wrong.append(
                    f"{method.name} judges models on the server's validation rows, "
                    f"{_no_rows(config, task)}"
                )
                continue
            needed = memory_of(bound)
        except ValueError as error:
            wrong.append(str(error))
            continue
        wrong += hardware.beyond(method.name, needed, there)
    if config.save_models:
        runs, size = models_kept(config, task)
        kept = Memory(size, f"{runs:,} times {number + 1:,} models", ("--save-models", "--seeds"))
        wrong += hardware.beyond("what is kept", [kept], files_lib.host_memory())
    rows = number * bind.runs_of_each(config)
    rows *= sum(bind.rounds_of(config, method) for method in config.methods)
    seeds = ("--seeds", "--partition-seeds") if config.partition_seeds > 1 else ("--seeds",)
    decide = (*flags.clients, "--rounds", *seeds, "--algorithms", "--partition")
    table = Memory(A_ROW * rows, f"{rows:,} rows of rounds.parquet", decide)
    return wrong + hardware.beyond("the tables", [table], files_lib.host_memory())
