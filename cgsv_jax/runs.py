"""Many runs on the host's side: which calls of which compiled programs, one after another.

Nothing here knows what is computed; a caller says what begins, what continues and how far.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cgsv_jax.types import Evaluation, Hyper, Record


class Programs(NamedTuple):
    """What is compiled for runs of one shape, and the arguments that do not change."""

    begin: Callable  # (seeds [R] uint32, hyper [R]) -> State [R, ...]
    segment: Callable  # (rounds, seeds, hyper, State, shared) -> (State, Record, Evaluation)
    hyper: Hyper  # every field [1], of the method as it is configured
    shared: tuple  # what all runs read: the rows, the partition, which clients are evaluated
    in_order: Callable  # (Record, Evaluation) -> the same, clients in the order of their numbers
    # What decides the compiled code besides the arguments' shapes: batches with equal ones share
    # it. None: it is this batch's own.
    code: Any = None


class Chunk(NamedTuple):
    """Runs that one call computes, R of them."""

    seeds: np.ndarray  # [R] uint32
    hyper: Any  # Hyper, every field [R]; or whatever the programs take in its place, leaves [R]


class Batch(NamedTuple):
    """Chunks of one shape, which share their programs."""

    build: Callable[[], Programs]  # called when its turn has come: its arrays are large
    chunks: tuple[Chunk, ...]
    rounds: int  # T of every run
    step: int  # rounds between two looks of the host, counted from round 0


class Seen(NamedTuple):
    """What a chunk's runs showed, as NumPy arrays; T and K grow from segment to segment."""

    record: Record  # leaves [R, T, ...]
    evaluation: Evaluation  # leaves [R, K, ...]


class Look(NamedTuple):
    """What the host sees between two segments; rounds are counted over all runs of a batch."""

    batch: int
    done: int  # rounds completed
    rounds: int
    compiling: bool
    pace: float  # rounds per second of this batch so far, compilation apart
    evaluation: Evaluation | None  # of the latest segment


class Clock(NamedTuple):
    """Seconds of a batch."""

    compiling: float
    running: float


def execute(
    batches: Sequence[Batch],
    watch: Callable[[Look], None] = lambda look: None,
    finish: Callable[[int, int, Seen], Any] = lambda batch, chunk, seen: seen,
) -> tuple[list[list[Any]], list[Clock]]:
    """Runs every chunk of every batch from its first to its last round.

    Args:
      batches: what to run, in order.
      watch: called before a batch compiles, and after every segment.
      finish: (batch, chunk, what its runs showed) -> what is kept of it; called when a chunk is
        through, so that of many runs only little need stay in memory.

    Returns:
      What was kept, per batch and chunk, clients in the order of their numbers; and the seconds of
      every batch.
    """
    results, clocks = [], []
    known: dict[Any, dict] = {}  # compiled code that batches share
    for index, batch in enumerate(batches):
        results_of_batch, clock = _execute_one(batch, index, watch, finish, known)
        results.append(results_of_batch)
        clocks.append(clock)
    return results, clocks


def _execute_one(
    batch: Batch,
    index: int,
    watch: Callable[[Look], None],
    finish: Callable[[int, int, Seen], Any],
    known: dict[Any, dict],
) -> tuple[list[Any], Clock]:
    total = batch.rounds * sum(len(chunk.seeds) for chunk in batch.chunks)
    compiling = running = 0.0
    done = 0

    def note(evaluation: Evaluation | None = None) -> None:
        watch(Look(index, done, total, not done, done / running if done else 0.0, evaluation))

    note()
    made = batch.build()
    compiled: dict[Any, Any] = {} if made.code is None else known.setdefault(made.code, {})

    def call(function: Callable, name: Any, *args: Any, **options: Any) -> Any:
        """The function's result; compiled once per name and shapes, and the two timed apart."""
        nonlocal compiling, running
        clock = time.perf_counter()
        name = (name, *((np.shape(x), x.dtype) for x in jax.tree.leaves(args)))
        if name not in compiled:
            compiled[name] = jax.jit(function, **options).lower(*args).compile()
            compiling += time.perf_counter() - clock
            clock = time.perf_counter()
        result = jax.block_until_ready(compiled[name](*args))
        running += time.perf_counter() - clock
        return result

    results = []
    for place, chunk in enumerate(batch.chunks):
        count = len(chunk.seeds)
        state = call(made.begin, ("begin", count), chunk.seeds, chunk.hyper)
        pieces = []
        for first in range(0, batch.rounds, batch.step):
            rounds = min(batch.step, batch.rounds - first)
            function = functools.partial(made.segment, rounds)
            arguments = (chunk.seeds, chunk.hyper, state, made.shared)
            state, *seen = call(function, (rounds, count), *arguments, donate_argnums=2)
            pieces.append(Seen(*made.in_order(*jax.device_get(seen))))
            done += rounds * count
            note(pieces[-1].evaluation)
        del state, arguments  # the next chunk's matrices take their place
        seen = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *pieces)
        results.append(finish(index, place, seen))
    return results, Clock(compiling, running)
