"""What a run takes of time and memory, estimated before it begins."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.config.schema import Config, Method
from cgsv_jax.data import partition as partition_lib
from cgsv_jax.experiment import bind, execute
from cgsv_jax.experiment import timing as timing_lib
from cgsv_jax.experiment.task import Task, counts_of
from cgsv_jax.host import files as files_lib

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


class Memory(NamedTuple):
    """Something that takes memory."""

    size: int  # bytes
    what: str
    flags: tuple[str, ...]  # that decide it


def memory_of(config: Config, method: Method, task: Task) -> tuple[Memory, ...]:
    """What one run of a method takes while it is computed, the rows themselves apart.

    Of models and updates there are S (1 + C / N) + 4 C D bytes and 12 D for each client trained at
    the same time: S is the state, models [N, D] and whatever an optimizer, a rule or an attacker
    remembers of each, and C are the clients of a round. XLA's own count is .7 of it (cgsv) to 1.7
    (cffl), twice with gaussian_noise. Only shapes are traced, and nothing is allocated.

    Args:
      config: how many clients, rounds and so on.
      method: whose rules they are.
      task: the model and who holds what; those as whom a client poses need not be there yet.

    Raises:
      ValueError: a rule cannot be for so many clients or parameters.
    """
    number, who = population(config)
    parameters, rounds = sum(task.tensors), bind.rounds_of(config, method)
    made = bind.parts(config, method, task, method.hyper(task.partition))
    attack = bind.forged_uploads(config, method)
    params = jax.eval_shape(task.model.init, jax.random.key(0))
    steps = number * _size(made["trainer"].init, params)
    state = 4 * number * parameters + steps
    state += _size(lambda: made["algorithm"].init(number, parameters))
    state += _size(lambda: attack.init(number, parameters)) if attack else 0
    taking = config.cohort or number
    if task.attendance is not None:
        taking = task.attendance.shape[1]
    wide = number if config.layout == "all" else min(bind.width_asked(config.layout) or 1, number)
    needs = bind.needs_of(config, method)
    copies = taking + 3 * wide + REBUILT * needs.rows
    network = ("--hidden" if config.model == "mlp" else "--model",)
    network += ("--optimizer",) if steps else ()
    slots = number * task.clients.mask.shape[1]
    looked = needs.valuations(number)
    products = 12 * number**2 if looked else 0
    return (
        Memory(
            state + state * taking // number + 4 * parameters * copies,
            "models and updates",
            (*who, *network),
        ),
        Memory(partition_lib.SLOT * slots, "who holds which rows", (*who, "--partition")),
        Memory(
            A_COALITION * looked + products,
            f"{looked:,} coalitions a round",
            (*who, "--permutations"),
        ),
        Memory(AS_SEEN * number * rounds, "what is recorded", (*who, "--rounds")),
    )


def population(config: Config) -> tuple[int, tuple[str, ...]]:
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


def memory() -> int:
    """Bytes of the device, or of the host where that is the device."""
    return timing_lib.memory_limit() or files_lib.host_memory()


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


def fitting(config: Config, task: Task, training: bool) -> int:
    """Models that may be computed at once: half of the memory is theirs, the rest the matrices'."""
    inputs = task.data.inputs
    rows = min(config.batch_size, task.clients.mask.shape[1]) if training else config.eval_batch
    shape = (min(rows, len(inputs)), *inputs.shape[1:])
    each = _scratch(task.model.apply, task.model.init, shape, inputs.dtype, training)
    return int(np.clip(memory() // 2 // max(each, 1), 1, len(task.sizes)))


@functools.lru_cache(maxsize=64)
def _forward(apply: Any, init: Any, shape: tuple[int, ...], dtype: Any) -> float:
    """FLOPs of one row's forward pass, by XLA's count; nothing is compiled."""
    params = jax.eval_shape(init, jax.random.key(0))
    flops, _ = timing_lib.cost(apply, params, jax.ShapeDtypeStruct(shape, dtype))
    return flops / shape[0]


def seconds_per_round(config: Config, method: Method, task: Task) -> float:
    """Seconds that a round of one seed takes on a slow CPU, by what is to be computed.

    It says how a run is cut, hence which programs compute it: so it follows from the config and the
    rows alone, and neither from a clock nor from the device.
    """
    inputs, clients = task.data.inputs, len(task.sizes)
    rows = min(config.batch_size, task.clients.mask.shape[1])
    forward = _forward(task.model.apply, task.model.init, (rows, *inputs.shape[1:]), inputs.dtype)
    taken = float(bind.steps(config, task).sum()) * (config.cohort or clients) / clients
    evaluated = 1 + (clients if task.chosen is None else len(task.chosen))
    often = min(config.eval_every, config.rounds)
    passes = 3 * taken * rows + evaluated * len(task.data.test_labels) / often
    needs = bind.needs_of(config, method)
    judged = len(task.data.validation[1]) if needs.rows else 0
    valued = needs.valuations(clients)
    flops = forward * (passes + valued * judged) + valued * clients**2
    return flops / RATE + taken / STEPS + READINGS * 4 * clients * sum(task.tensors) / BYTES


def segments_of(config: Config, method: Method, task: Task) -> tuple[execute.Segment, ...]:
    """How the runs of a method are cut: about twenty segments, none of which takes long."""
    most = max(1, int(SECONDS / seconds_per_round(config, method, task)))
    most = min(most, config.checkpoint_every or most)
    alone = config.rounds if bind.needs_of(config, method).alone else 0
    before = execute.segments(alone, config.eval_every, most) if alone else ()
    before = tuple(execute.Segment(segment.rounds, 0, alone=True) for segment in before)
    after = execute.segments(bind.rounds_of(config, method) - alone, config.eval_every, most)
    return before + after
