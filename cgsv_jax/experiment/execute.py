"""Host-side executor: runs batches of compiled segments in order, with saving and resuming.

Nothing here knows what is computed; a caller says what begins, what continues and how far. Nothing
here knows of files either: between two segments a `Keeper` may save, or stop everything.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.types import Answers, Array, ArrayTree, Evaluation, Hyper, Record

# Segments are chosen so that a run has about this many: each costs one dispatch, and a person wants
# to see the bar move.
SEGMENTS = 20


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
    origin_code: Any = None  # the same, of `origin` alone; None: as `code`


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


class Counted(NamedTuple):
    """Of every run the evaluation that counts, among those of a segment or of all so far.

    The one of the largest score; of equal ones the earliest.
    """

    score: Array  # [R] int32; -1 where there is no evaluation yet
    round: Array  # [R] int32, rounds completed
    answers: Answers | None  # leaves [R, N, n]; None: nobody wants them
    # The server's [R, D] and the clients' [R, N, D] models; None: nobody wants them.
    models: tuple[Array, Array] | None = None


class Seen(NamedTuple):
    """Outputs of a chunk's runs, as NumPy arrays; T and K grow from segment to segment."""

    record: Record  # leaves [R, T, ...]
    evaluation: Evaluation  # leaves [R, K, ...]
    counted: Counted | None = None  # None: the programs choose none


class Look(NamedTuple):
    """What the host sees between two segments; rounds are counted over all runs of a batch.

    Of runs that ended early those count that they would have had, from the next look on.
    """

    batch: int
    done: int  # rounds completed
    rounds: int
    compiling: bool
    pace: float  # rounds per second of this batch so far, compilation apart
    evaluation: Evaluation | None  # of the latest segment; None where it has none
    until: int  # rounds completed when the next segment is
    seeds: np.ndarray  # [R] of the chunk that runs, or that runs next
    round: int  # rounds completed by each of these


class Clock(NamedTuple):
    """Seconds of a batch."""

    compiling: float = 0.0
    running: float = 0.0
    elapsed: float = 0.0  # these two, and what the host did between


# ---------------------------------------------------------------- stopping, and going on


class Place(NamedTuple):
    """Where a sequence of batches stands, between two segments."""

    batch: int
    chunk: int  # of that batch
    done: int  # rounds of that chunk


class Kept(NamedTuple):
    """All that a later process needs to go on; NumPy arrays."""

    place: Place
    state: ArrayTree  # of the place's chunk; typed keys as their numbers
    seen: list[list[Seen]]  # per batch and chunk up to the place, whose own is not finished
    clocks: list[Clock]  # per batch up to the place


class Restore(Protocol):
    """`restore(plan, expect) -> Kept | None`."""

    def __call__(self, plan: Any, expect: Callable[[Place], tuple]) -> Kept | None:
        """What was kept of these batches, if anything was.

        Args:
          plan: the batches as JSON, see `plan`.
          expect: place -> (State, [[Seen]]) as shapes, by which what was kept is verified; it
            raises ValueError where the batches have no such place.
        """


class Keeper(NamedTuple):
    """Who saves what is computed, and knows when to stop."""

    restore: Restore
    # (rounds computed, rounds of the next segment, 0 at the end) -> whether to save between them.
    # Rounds are counted per chunk: all runs of a chunk advance together.
    due: Callable[[int, int], bool]
    save: Callable[[Any, int, Kept], None]  # (plan, rounds computed, what to keep)
    stop: Callable[[], bool]  # after every segment: whether to save and raise `Stopped`


NO_KEEPER = Keeper(
    restore=lambda plan, expect: None,
    due=lambda done, ahead: False,
    save=lambda plan, done, kept: None,
    stop=lambda: False,
)


class Stopped(Exception):
    """The keeper wanted to stop, and was given all that was computed to save."""


def segment_length(rounds: int, eval_every: int) -> int:
    """Rounds between two looks: a multiple of `eval_every`, counted from round 0."""
    evaluations = -(-rounds // eval_every)
    per_segment = -(-evaluations // SEGMENTS)
    return min(rounds, per_segment * eval_every)


def segments(rounds: int, eval_every: int, most: int | None = None) -> tuple[Segment, ...]:
    """How a run is cut. It depends on its arguments alone, so that a later process cuts the same.

    Evaluations come after every `eval_every`-th round and after the last, wherever the cuts are.

    Args:
      rounds: T.
      eval_every: rounds between two evaluations.
      most: of a segment; where it is below `eval_every`, only the last of several segments ends in
        an evaluation.

    >>> segments(60, 3)[0][:2], len(segments(60, 3))
    ((3, 1), 20)
    >>> [segment[:2] for segment in segments(5, 10**6, most=2)]
    [(2, 0), (2, 0), (1, 1)]
    """
    eval_every = min(eval_every, rounds)
    length = segment_length(rounds, eval_every)
    if most is not None and most < eval_every:
        cut = []
        for first in range(0, rounds, eval_every):
            block = min(eval_every, rounds - first)
            pieces = [min(most, block - start) for start in range(0, block, most)]
            cut += [Segment(piece, 0) for piece in pieces[:-1]] + [Segment(pieces[-1], 1)]
        return tuple(cut)
    if most is not None:
        length = min(length, most // eval_every * eval_every)
    lengths = [min(length, rounds - first) for first in range(0, rounds, length)]
    return tuple(Segment(n, -(-n // eval_every)) for n in lengths)


def plan(batches: Sequence[Batch]) -> list[Any]:
    """The batches as JSON: which runs stand together and how they are cut."""
    return [
        {
            "segments": [list(segment) for segment in batch.segments],
            "chunks": [
                {
                    "seeds": np.asarray(chunk.seeds).tolist(),
                    # As written: equal floats have equal texts, and infinity has one.
                    "hyper": [[str(x) for x in np.ravel(v)] for v in jax.tree.leaves(chunk.hyper)],
                }
                for chunk in batch.chunks
            ],
        }
        for batch in batches
    ]


def execute(
    batches: Sequence[Batch],
    watch: Callable[[Look], bool | None] = lambda look: None,
    finish: Callable[[int, int, Seen], Any] = lambda batch, chunk, seen: seen,
    keeper: Keeper | None = None,
    whole: bool = True,
    compiled: dict[Any, dict] | None = None,
    ended: Callable[[int, Evaluation], np.ndarray] | None = None,
    show: Callable[[int, int, np.ndarray, Seen, np.ndarray], None] = lambda *seen: None,
) -> tuple[list[list[Any]], list[Clock]]:
    """Runs every chunk of every batch from its first to its last round, or until it ends early.

    What a run showed that ended early is as long as that of a whole one: after its end the rounds
    of its evaluations are 0, its numbers 0 or NaN (see `ends_of`).

    Args:
      batches: what to run, in order.
      watch: called before a batch compiles, and after every segment; once for a batch that was
        finished before. Where it returns True, the runs of the chunk end with this evaluation, or
        with the next if the segment had none.
      finish: (batch, chunk, what its runs showed) -> what is returned of it; called when a chunk is
        through, so that of many runs only little need stay in memory.
      keeper: saves between segments, and may have something to go on from: then what was finished
        is neither compiled nor run again, and the rest computes the same bits.
      whole: if True, outputs of finished chunks are saved too, and `finish` is replayed on resume;
        all batches must record equally many clients. Otherwise the caller keeps what `finish` made.
      compiled: programs by the `code` of their batches, which calls with equal ones share.
      ended: (batch, a chunk's evaluations so far, leaves [R, K, ...]) -> [R] the round of the
        evaluation with which each run ends, 0 where it goes on. Needs `whole`, where it is to be
        gone on with.
      show: (batch, chunk, seeds [R], what its runs showed in the latest segment, the rounds [R] at
        which they end, 0: they go on); of what an earlier process computed, all at once.

    Returns:
      What `finish` made of what was seen, per batch and chunk, clients in the order of their
      numbers, None where it was called in an earlier process; and the seconds of every batch.

    Raises:
      Stopped: the keeper said so.
    """
    whole = whole and keeper is not None
    keeper = keeper or NO_KEEPER
    sketch = plan(batches)
    build = _one_at_a_time(batches)
    kept = keeper.restore(sketch, lambda place: _expected(batches, place, build, whole))
    # Per batch and chunk the pieces that the segments gave; joined where somebody wants them.
    pieces = [[[seen] for seen in own] for own in kept.seen] if kept else []
    clocks = list(kept.clocks) if kept else []
    first = kept.place if kept else Place(0, 0, 0)
    states = [kept.state] if kept else []  # popped below, so that no second reference is left
    del kept
    known, origins = _shared(compiled), _shared(compiled)
    results: list[list[Any]] = []
    for index, batch in enumerate(batches):
        if index == len(pieces):
            pieces.append([])
            clocks.append(Clock())
        resumed = states.pop() if states and index == first.batch else None
        done = first.done if index == first.batch else 0
        asked, early = False, set[int]()  # to end what runs; the chunks that ended early
        started = time.perf_counter() - clocks[index].elapsed
        over = functools.partial(_over, functools.partial(ended, index) if ended else None)
        moments = _moments(
            *(batch, index, build, known, origins, pieces[index], done, resumed, clocks[index]),
            *(over, early),
        )
        del resumed
        for number, (seen,) in enumerate(pieces[index]):
            show(index, number, batch.chunks[number].seeds, seen, over([seen]))
        before = pieces[index][: len(pieces[index]) - (0 < done < batch.rounds)]
        results.append(
            [finish(index, i, _joined(own)) if whole else None for i, own in enumerate(before)]
        )
        for moment in moments:
            elapsed = time.perf_counter() - started
            clocks[index] = Clock(moment.compiling, moment.running, elapsed)
            place, number = moment.place, moment.place.chunk
            if moment.state is None:
                asked = bool(watch(moment.look)) or asked
                continue
            own = pieces[index][number]
            ends = over(own)
            show(index, number, batch.chunks[number].seeds, own[-1], ends)
            asked = bool(watch(moment.look)) or asked
            if asked and own[-1].evaluation.round.shape[1]:
                ends = np.where(ends > 0, ends, own[-1].evaluation.round[:, -1])
            if ends.all() or (place.done == batch.rounds and ends.any()):
                own[:] = [_cut(_joined(own), ends, batch)]
                early.update([number] * (place.done < batch.rounds))
                place, asked = place._replace(done=batch.rounds), False
            if place.done == batch.rounds:
                seen = _joined(own)
                results[index].append(finish(index, number, seen))
                if not whole:
                    own[:] = [jax.tree.map(_nothing_of, seen)]
            computed, (ahead, _) = _behind(batches, place), _next(batches, place)
            stop = ahead > 0 and keeper.stop()
            if stop or keeper.due(computed, ahead):
                joined = [[_joined(own) for own in chunks] for chunks in pieces]
                kept = Kept(place, moment.state(), joined, list(clocks))
                keeper.save(sketch, computed, kept)
                del kept
            if stop:
                raise Stopped
        clocks[index] = clocks[index]._replace(elapsed=time.perf_counter() - started)
    return results, clocks


class _Moment(NamedTuple):
    """Between two segments of a batch."""

    look: Look
    place: Place
    compiling: float  # seconds so far
    running: float
    state: Callable[[], ArrayTree] | None  # on the host, while the moment lasts; None: no segment


def _moments(
    batch: Batch,
    index: int,
    build: Callable[[int], Programs],
    known: Callable[[Any], dict],
    origins: Callable[[Any], dict],
    pieces: list[list[Seen]],
    first: int,
    resumed: ArrayTree | None,
    clock: Clock,
    over: Callable[[list[Seen]], np.ndarray],
    early: set[int],
) -> Iterator[_Moment]:
    """Computes what is left of a batch, and appends what is seen to the pieces of its chunks.

    Args:
      batch: what to compute.
      index: its number.
      build: makes its programs.
      known: code -> the compiled programs of those that share it.
      origins: the same of their origins, which more of them share.
      pieces: per chunk that was begun; the last one has `first` rounds behind it.
      first: as said, or all of them.
      resumed: the state there.
      clock: the seconds so far.
      over: what a chunk showed -> [R] the rounds at which its runs ended, 0: they go on.
      early: the chunks that have ended before their last round; it grows between two moments.
    """
    runs = [len(chunk.seeds) for chunk in batch.chunks]
    compiling, running = clock.compiling, clock.running
    finished = len(pieces) - (0 < first < batch.rounds)  # chunks
    first = first % batch.rounds
    done = batch.rounds * sum(runs[:finished]) + (first * runs[finished] if first else 0)
    skipped = sum(_skipped(own, batch) for (own,) in pieces[:finished])  # of these
    state = None

    def moment(place: Place, held: bool, evaluation: Evaluation | None = None) -> _Moment:
        ahead, count = _next([batch], place._replace(batch=0))
        look = Look(
            batch=index,
            done=done,
            rounds=batch.rounds * sum(runs),
            compiling=not held and ahead > 0,
            pace=(done - skipped) / running if running else 0.0,
            evaluation=evaluation,
            until=done + ahead * count,
            seeds=batch.chunks[place.chunk].seeds,
            round=place.done,
        )
        return _Moment(look, place, compiling, running, on_host if held else None)

    def on_host() -> ArrayTree:
        return _on_host(state)

    if finished == len(runs):
        last = pieces[-1][-1].evaluation
        last = last if last.round.shape[1] else None  # nobody kept what was seen
        yield moment(Place(index, finished - 1, batch.rounds), False, last)
        return
    yield moment(Place(index, finished, first), False)
    made = build(index)
    start = functools.partial(_start, made.begin)
    compiled = known(made.code)
    common = origins(made.code if made.origin_code is None else made.origin_code)

    def ready(there: dict, function: Callable, name: Any, *args: Any, **options: Any) -> Any:
        """The compiled function, compiled once per name and shapes."""
        nonlocal compiling
        name = (name, *((np.shape(x), x.dtype) for x in jax.tree.leaves(args)))
        if name not in there:
            clock = time.perf_counter()
            there[name] = jax.jit(function, **options).lower(*args).compile()
            compiling += time.perf_counter() - clock
        return there[name]

    def call(there: dict, function: Callable, name: Any, *args: Any, **options: Any) -> Any:
        """The function's result; compiling and running are timed apart."""
        nonlocal running
        program = ready(there, function, name, *args, **options)
        clock = time.perf_counter()
        result = jax.block_until_ready(program(*args))
        running += time.perf_counter() - clock
        return result

    for number in range(finished, len(runs)):
        numbers, count = batch.chunks[number], runs[number]
        if first:
            # Compiled, although it does not run: it says where every array of a state lies.
            origin = jax.eval_shape(made.origin, numbers.seeds)
            program = ready(compiled, start, ("begin", count), *numbers, origin)
            like = jax.eval_shape(start, *numbers, origin)
            state = _on_devices(resumed, like, program.output_shardings)
            resumed = None
        else:
            # By way of the host: over several devices the state alone says what lies where.
            origin = jax.device_get(call(common, made.origin, "origin", numbers.seeds))
            state = call(compiled, start, ("begin", count), *numbers, origin)
            pieces.append([])
        behind = 0
        for segment in batch.segments:
            behind += segment.rounds
            if behind <= first:
                continue
            how = {"evaluated": segment.evaluations > 0}
            how |= {"alone": True} if segment.alone else {}
            function = functools.partial(made.segment, segment.rounds, **how)
            name = (segment.rounds, *how.items(), count)
            arguments = (*numbers, state, made.shared)
            state, *seen = call(compiled, function, name, *arguments, donate_argnums=2)
            new = Seen(*made.in_order(*jax.device_get(seen)))
            _append(pieces[number], new, over(pieces[number]) > 0)
            done += segment.rounds * count
            evaluation = pieces[number][-1].evaluation if segment.evaluations else None
            yield moment(Place(index, number, behind), True, evaluation)
            if number in early:
                done += (batch.rounds - behind) * count
                skipped += (batch.rounds - behind) * count
                break
        # The next chunk's matrices take their place.
        first, state, arguments = 0, None, None


def _shared(compiled: dict[Any, dict] | None) -> Callable[[Any], dict]:
    """Finds the compiled programs of the batches with some code.

    Where nobody keeps them, those of the latest code are kept alone: batches that share it are
    neighbours.
    """
    known: dict[Any, dict] = {} if compiled is None else compiled

    def of(code: Any) -> dict:
        if code is None:
            return {}
        if compiled is None and code not in known:
            known.clear()
        return known.setdefault(code, {})

    return of


def _one_at_a_time(batches: Sequence[Batch]) -> Callable[[int], Programs]:
    """Builds programs by the batch's number; remembers the latest."""
    built: dict[int, Programs] = {}

    def build(index: int) -> Programs:
        if index not in built:
            built.clear()  # first, since the arrays of two batches need not fit
            built[index] = batches[index].build()
        return built[index]

    return build


def _nothing_of(x: np.ndarray) -> np.ndarray:
    """[R, T, ...] -> [R, 0, ...], what is left of what nobody keeps."""
    return np.zeros((len(x), *[0] * (x.ndim - 1)), x.dtype)


def _append(pieces: list[Seen], new: Seen, over: np.ndarray) -> None:
    """Adds what a segment gave; the answers of one evaluation stay, whatever their number.

    Args:
      pieces: of a chunk so far.
      new: what its runs showed in the segment.
      over: [R] which of them had ended before; no later evaluation counts.
    """
    if pieces and (before := pieces[-1].counted) is not None and new.counted is not None:
        wins = (new.counted.score > before.score) & ~over
        counted = jax.tree.map(
            lambda old, own: np.where(wins.reshape(-1, *[1] * (own.ndim - 1)), own, old),
            before,
            new.counted,
        )
        pieces[-1], new = pieces[-1]._replace(counted=None), new._replace(counted=counted)
    pieces.append(new)


def _joined(pieces: Sequence[Seen]) -> Seen:
    record, evaluation = _grown([piece[:2] for piece in pieces])
    return Seen(record, evaluation, pieces[-1].counted)


def _grown(parts: Sequence[Any]) -> Any:
    """Leaves [R, T, ...] of some segments as one."""
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)


def _over(ended: Callable[[Evaluation], np.ndarray] | None, pieces: Sequence[Seen]) -> np.ndarray:
    """The rounds [R] at which the runs of a chunk ended, 0 where they go on; [1] before any."""
    if ended is None or not any(piece.evaluation.round.shape[1] for piece in pieces):
        return np.zeros(len(pieces[0].evaluation.round) if pieces else 1, np.int32)
    return ended(_grown([piece.evaluation for piece in pieces]))


def _recorded(batch: Batch) -> tuple[int, int]:
    """Rounds and evaluations of a run that is not ended early."""
    recorded = [segment for segment in batch.segments if not segment.alone]
    return sum(s.rounds for s in recorded), sum(s.evaluations for s in recorded)


def ends_of(evaluation: Evaluation) -> np.ndarray:
    """The rounds [R] at which runs ended, of which nothing is known after their end."""
    return np.asarray(evaluation.round).max(axis=1)


def stopped(record: Record, evaluation: Evaluation) -> np.ndarray | None:
    """The rounds [R] at which runs ended early, 0 where they did not; None where none did."""
    ends = ends_of(evaluation)
    early = ends < record.quota.shape[1]
    return np.where(early, ends, 0) if early.any() else None


def _skipped(seen: Seen, batch: Batch) -> int:
    """Rounds that the runs of a chunk were spared, all together."""
    if not seen.evaluation.round.shape[1]:  # nobody kept what was seen
        return 0
    ends = ends_of(seen.evaluation)
    return len(ends) * (_recorded(batch)[0] - int(ends.max()))


def _cut(seen: Seen, ends: np.ndarray, batch: Batch) -> Seen:
    """What a chunk showed whose runs ended early, as long as if they had not.

    Args:
      seen: all so far; the answers are those of the evaluation that counts.
      ends: [R] rounds at which the runs ended, each with an evaluation; 0: they did not.
      batch: of the chunk.
    """
    rounds, evaluations = _recorded(batch)
    last = np.where(ends > 0, ends, rounds)[:, None]
    recorded = np.arange(seen.record.quota.shape[1]) < last
    evaluated = np.asarray(seen.evaluation.round) <= last

    def cut(x: np.ndarray, there: np.ndarray, length: int) -> np.ndarray:
        nothing = np.nan if np.issubdtype(x.dtype, np.floating) else 0
        whole = np.full((len(x), length, *x.shape[2:]), nothing, x.dtype)
        place = np.nonzero(there)
        whole[place] = x[place]
        return whole

    record = jax.tree.map(lambda x: cut(x, recorded, rounds), seen.record)
    evaluation = jax.tree.map(lambda x: cut(x, evaluated, evaluations), seen.evaluation)
    return Seen(record, evaluation, seen.counted)


def _behind(batches: Sequence[Batch], place: Place) -> int:
    """Rounds computed at a place; those of the runs of a chunk count once."""
    before = sum(batch.rounds * len(batch.chunks) for batch in batches[: place.batch])
    return before + batches[place.batch].rounds * place.chunk + place.done


def _next(batches: Sequence[Batch], place: Place) -> tuple[int, int]:
    """Rounds and runs of the segment that follows a place; (0, 0) at the end of everything."""
    batch, number, done = batches[place.batch], place.chunk, place.done
    if done == batch.rounds:
        number, done = number + 1, 0
    if number == len(batch.chunks):
        if place.batch + 1 == len(batches):
            return 0, 0
        batch, number = batches[place.batch + 1], 0
    for segment in batch.segments:
        if done < segment.rounds:
            return segment.rounds, len(batch.chunks[number].seeds)
        done -= segment.rounds
    raise ValueError(f"{place} lies beyond its batch")


# ---------------------------------------------------------------- the state, here and there


def _start(begin: Callable[..., Any], seeds: Array, hyper: Hyper, origin: ArrayTree) -> ArrayTree:
    """Initial state with weak types removed, so that every program sees the same dtypes.

    Arrays made of Python's numbers are weakly typed, arrays from the host never are.
    """
    state = begin(seeds, hyper, origin)
    return jax.tree.map(
        lambda x: x if _is_key(x) else jax.lax.convert_element_type(x, x.dtype), state
    )


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def state_of(made: Programs, chunk: Chunk) -> ArrayTree:
    """The state of a chunk's runs, as shapes."""
    origin = jax.eval_shape(made.origin, chunk.seeds)
    return jax.eval_shape(functools.partial(_start, made.begin), *chunk, origin)


def _on_host(state: ArrayTree) -> ArrayTree:
    """NumPy arrays; typed keys as their numbers."""
    return jax.device_get(_numbers(state))


def _on_devices(state: ArrayTree, like: ArrayTree, shardings: ArrayTree) -> ArrayTree:
    """The inverse of `_on_host`; copies, since a state is donated."""

    def put(x: np.ndarray, like: jax.ShapeDtypeStruct, sharding: Any) -> Array:
        if _is_key(like):
            impl = []  # what only an array, or a traced one, tells
            jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
            x = jax.random.wrap_key_data(jnp.asarray(x), impl=impl[0])
        return jax.device_put(x, sharding, may_alias=False)

    return jax.tree.map(put, state, like, shardings)


def _expected(
    batches: Sequence[Batch], place: Place, build: Callable[[int], Programs], whole: bool
) -> tuple[ArrayTree, list[list[Seen]]]:
    """Shapes of the state and of all that was seen up to a place, or of what is left of it.

    Raises:
      ValueError: the batches have no such place between two segments.
    """
    if not (
        0 <= place.batch < len(batches) and 0 <= place.chunk < len(batches[place.batch].chunks)
    ):
        raise ValueError(f"there is no {place}")
    batch = batches[place.batch]
    ends = np.cumsum([segment.rounds for segment in batch.segments]).tolist()
    if place.done not in ends:
        raise ValueError(f"no segment ends at {place}")
    made, chunk = build(place.batch), batch.chunks[place.chunk]
    state = state_of(made, chunk)
    _, *shown = jax.eval_shape(functools.partial(made.segment, 1), *chunk, state, made.shared)
    *shown, counted = Seen(*shown)

    def seen(chunk: Chunk, segments: Sequence[Segment]) -> Seen:
        def leaf(x: jax.ShapeDtypeStruct, length: int) -> jax.ShapeDtypeStruct:
            rest = x.shape[2:] if segments else (0,) * (len(x.shape) - 2)
            return jax.ShapeDtypeStruct((len(chunk.seeds), length, *rest), x.dtype)

        rounds = sum(s.rounds for s in segments if not s.alone)
        lengths = (rounds, sum(s.evaluations for s in segments))
        record, evaluation = (
            jax.tree.map(lambda x, n=n: leaf(x, n), t) for t, n in zip(shown, lengths, strict=True)
        )

        def chosen(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            rest = x.shape[1:] if segments else (0,) * (len(x.shape) - 1)
            return jax.ShapeDtypeStruct((len(chunk.seeds), *rest), x.dtype)

        return Seen(record, evaluation, jax.tree.map(chosen, counted))

    def through(own: Batch) -> Sequence[Segment]:
        return own.segments if whole else ()

    finished = [
        [seen(chunk, through(own)) for chunk in own.chunks] for own in batches[: place.batch]
    ]
    here = [seen(chunk, through(batch)) for chunk in batch.chunks[: place.chunk]]
    part = batch.segments[: ends.index(place.done) + 1]
    if place.done == batch.rounds:
        part = through(batch)
    return jax.eval_shape(_numbers, state), [*finished, [*here, seen(chunk, part)]]


def _numbers(state: ArrayTree) -> ArrayTree:
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)
