"""Programs of the batches to come, compiled side by side.

XLA compiles a program on about one core, so that a group of programs takes little longer than its
longest on as many cores. Nothing runs meanwhile: what is timed as running is running alone.
"""

import concurrent.futures
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.types import Array, ArrayTree, Hyper

# Programs of a group for every core: enough to fill the cores, few enough that the first result
# does not wait for the last program.
FOR_EVERY_CORE = 4


class Programs(NamedTuple):
    """What is compiled for runs of one shape, and the arguments that do not change."""

    origin: Callable  # seeds [R] uint32 -> what runs of any method begin with, leaves [R, ...]
    begin: Callable  # (seeds [R], hyper [R], origin) -> State [R, ...]
    # (rounds, seeds, hyper, State, shared, evaluated=True, alone=False)
    # -> (State, Record, Evaluation[, Counted])
    segment: Callable
    hyper: Hyper  # every number [1], of the method as it is configured
    shared: tuple  # what all runs read: the rows, the partition, which clients are evaluated
    # (Record, Evaluation[, Counted]) -> the same, clients in the order of their numbers
    in_order: Callable
    # What decides the compiled code besides the arguments' shapes: batches with equal ones share
    # it. None: it is this batch's own.
    code: Any = None
    origin_code: Any = None  # the same, of `origin` alone


class Chunk(NamedTuple):
    """Runs that one call computes, R of them."""

    seeds: np.ndarray  # [R] uint32
    hyper: Any  # Hyper, every number [R]; or whatever the programs take in its place, leaves [R]


class Segment(NamedTuple):
    """Rounds between two looks of the host."""

    rounds: int
    evaluations: int  # how many fall into it; the last of them ends it, where there is one
    alone: bool = False  # clients train alone, before round 0; nothing is recorded


class Batch(NamedTuple):
    """Chunks of one shape, which share their programs."""

    build: Callable[[], Programs]  # called just before the batch runs: its arrays are large
    chunks: tuple[Chunk, ...]
    segments: tuple[Segment, ...]  # of every run, from round 0

    @property
    def rounds(self) -> int:
        """T of every run."""
        return sum(segment.rounds for segment in self.segments)


class Call(NamedTuple):
    """A program of a batch, to be compiled for some arguments."""

    code: Any  # of those that share it
    name: tuple
    function: Callable
    donated: tuple[int, ...] = ()

    def key(self, args: Sequence[Any]) -> tuple:
        """Which one it is, of the programs with its code."""
        return self.name, *((np.shape(x), x.dtype) for x in jax.tree.leaves(args))

    def lowered(self, args: Sequence[Any]) -> jax.stages.Lowered:
        """The program before it is compiled; arguments may be shapes."""
        return jax.jit(self.function, donate_argnums=self.donated).lower(*args)


class Calls(NamedTuple):
    """The programs of a batch."""

    origin: Call
    begin: Call
    segment: Callable[[Segment], Call]


def calls(made: Programs, number: int) -> Calls:
    """The programs of the batch with this number."""
    code = ("batch", number) if made.code is None else made.code
    common = ("origin", code if made.origin_code is None else made.origin_code)

    def of(segment: Segment) -> Call:
        how = {"evaluated": segment.evaluations > 0} | ({"alone": True} if segment.alone else {})
        go_on = functools.partial(made.segment, segment.rounds, **how)
        return Call(code, (segment.rounds, *how.items()), go_on, donated=(2,))

    begin = functools.partial(_start, made.begin)
    return Calls(Call(common, (), made.origin), Call(code, (), begin), of)


def _start(begin: Callable[..., Any], seeds: Array, hyper: Hyper, origin: ArrayTree) -> ArrayTree:
    """Initial state with weak types removed, so that every program sees the same dtypes.

    Arrays made of Python's numbers are weakly typed, arrays from the host never are.
    """
    state = begin(seeds, hyper, origin)
    return jax.tree.map(
        lambda x: x if is_key(x) else jax.lax.convert_element_type(x, x.dtype), state
    )


def is_key(x: Any) -> bool:
    """Whether an array, or the shape of one, is of typed keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def state_of(made: Programs, chunk: Chunk) -> ArrayTree:
    """The state of a chunk's runs, as shapes."""
    origin = jax.eval_shape(made.origin, chunk.seeds)
    return jax.eval_shape(functools.partial(_start, made.begin), *chunk, origin)


class Shelf(NamedTuple):
    """Compiled programs, and how they come there."""

    # (number of a batch, rounds of its run that are through) -> (its share of the seconds in which
    # its group was compiled, what to add to the seconds that passed while it was at work)
    prepare: Callable[[int, int], tuple[float, float]]
    # -> (the compiled program, seconds for it: 0 where it was there)
    program: Callable[[Call, Sequence[Any]], tuple[Callable, float]]


def shelf(
    batches: Sequence[Batch],
    build: Callable[[int], Programs],
    compiled: dict[Any, dict] | None = None,
) -> Shelf:
    """The compiled programs of batches.

    Args:
      batches: in the order in which they run.
      build: number of a batch -> its programs.
      compiled: code -> its programs, for others to share. Where nobody keeps them, those of a group
        are kept while its batches run: batches that share a code are neighbours.
    """
    known: dict[Any, dict] = {} if compiled is None else compiled
    shares: dict[int, tuple[float, float]] = {}  # of batches whose group is compiled

    def prepare(number: int, through: int) -> tuple[float, float]:
        if number not in shares:
            began = time.perf_counter()
            codes, spent = _side_by_side(batches, number, through, build, known)
            for code in known.keys() - codes if compiled is None else ():
                del known[code]
            wall = time.perf_counter() - began
            whole = sum(spent.values()) or 1.0
            parts = {other: wall * own / whole for other, own in spent.items()}
            shares.clear()
            shares.update({other: (own, own) for other, own in parts.items()})
            shares[number] = parts[number], parts[number] - wall
        return shares.pop(number)

    def program(call: Call, args: Sequence[Any]) -> tuple[Callable, float]:
        there, key = known.setdefault(call.code, {}), call.key(args)
        if key in there:
            return there[key], 0.0
        clock = time.perf_counter()
        there[key] = call.lowered(args).compile()
        return there[key], time.perf_counter() - clock

    return Shelf(prepare, program)


def _side_by_side(
    batches: Sequence[Batch],
    first: int,
    through: int,
    build: Callable[[int], Programs],
    known: dict[Any, dict],
) -> tuple[set[Any], dict[int, float]]:
    """Compiles what a batch needs, and with it what those after it do, if they fit in.

    Over several devices, and on accelerators, where a compiler tries kernels out on the device,
    programs are compiled one by one when they are needed, and nothing is done here.

    Args:
      batches: all of them.
      first: number of the batch.
      through: rounds of its run that need no program any more.
      build: number of a batch -> its programs.
      known: code -> its programs, which is added to.

    Returns:
      The codes of the group, and the number of each of its batches -> seconds for its programs.
    """
    codes: set[Any] = set()
    spent: dict[int, float] = {}
    jobs: dict[tuple[Any, tuple], tuple[int, concurrent.futures.Future]] = {}
    cores = _cores()
    # Tracing holds Python's lock and stays on this thread; XLA works without it.
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        for number in range(first, len(batches)):
            if len(jobs) >= FOR_EVERY_CORE * cores:
                break
            made = needed = None  # whose arrays go before the next ones come
            try:
                made = build(number)
                alone = not _on_one_cpu(made.shared)
                if alone and number > first:
                    break
                needed = _needed(made, number, batches[number], 0 if number > first else through)
                spent[number] = 0.0
                for call, args in needed:
                    codes.add(call.code)
                    place = call.code, call.key(args)
                    if alone or place in jobs or place[1] in known.get(call.code, {}):
                        continue
                    clock = time.perf_counter()
                    jobs[place] = number, pool.submit(_timed, call.lowered(args))
                    spent[number] += time.perf_counter() - clock
            except Exception:
                if number == first:
                    raise
                break  # raised again when it is this batch's turn
        del made, needed
        for (code, key), (number, job) in jobs.items():
            if number == first or job.exception() is None:
                program, seconds = job.result()
                known.setdefault(code, {})[key] = program
                spent[number] += seconds
    return codes, spent


def _needed(
    made: Programs, number: int, batch: Batch, through: int
) -> Iterator[tuple[Call, tuple[Any, ...]]]:
    """The programs of a batch with the shapes of their arguments, from some round on."""
    own = calls(made, number)
    ends = itertools.accumulate(segment.rounds for segment in batch.segments)
    left = [segment for segment, end in zip(batch.segments, ends, strict=True) if end > through]
    shapes = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype))
    for chunk in {len(chunk.seeds): chunk for chunk in batch.chunks}.values():
        numbers = shapes(tuple(chunk))
        origin = jax.eval_shape(made.origin, chunk.seeds)
        yield own.origin, numbers[:1]
        yield own.begin, (*numbers, origin)
        state = state_of(made, chunk)
        for segment in dict.fromkeys(left):
            yield own.segment(segment), (*numbers, state, shapes(made.shared))


def _on_one_cpu(shared: Any) -> bool:
    arrays = [x for x in jax.tree.leaves(shared) if isinstance(x, jax.Array)]
    return jax.default_backend() == "cpu" and all(len(x.devices()) == 1 for x in arrays)


def _timed(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, float]:
    clock = time.perf_counter()
    return lowered.compile(), time.perf_counter() - clock


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
