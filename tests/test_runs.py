"""The executor: how runs are cut, and going on from any cut to the same bits."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from declared import Hyper

from cgsv_jax.experiment import execute
from cgsv_jax.types import Answers, Evaluation, Record

N = 3


@pytest.mark.parametrize(
    ("rounds", "every", "most"),
    [
        *((60, 3, None), (60, 3, 1), (60, 3, 2), (60, 3, 7), (60, 3, 100), (7, 10**6, 2)),
        *((5, 2, 1), (5, 2, 3), (1, 1, 1), (200, 10, 4), (200, 10, 25), (11, 4, 3)),
    ],
)
def test_cuts_move_no_evaluation(rounds, every, most):
    segments = execute.segments(rounds, every, most)
    assert sum(s.rounds for s in segments) == rounds
    assert max(s.rounds for s in segments) <= (most or rounds)
    seen, done = [], 0
    for number, evaluations, alone in segments:
        assert not alone
        # As `simulation.advance` evaluates: after every k-th round of its own, and after the last.
        own = [t for t in range(1, number + 1) if t % every == 0 or t == number]
        assert evaluations in (0, len(own))
        seen += [done + t for t in own] if evaluations else []
        done += number
    assert seen == [t for t in range(1, rounds + 1) if t % every == 0 or t == rounds]


def _programs():
    """A walk with a typed key and a weakly typed number in its state."""
    shown = len(Record._fields)

    def begin(seeds, hyper, origin):
        def one(seed, eta):
            return {
                "key": jax.random.key(seed),
                "x": jnp.zeros(N) + eta,
                "n": 0,
                "rest": jnp.full(2, 0.5),
            }

        return jax.vmap(one)(seeds, hyper.learning_rate)

    def segment(rounds, seeds, hyper, state, shared, evaluated=True, alone=False):
        def one(state):
            def step(state, _):
                key, now = jax.random.split(state["key"])
                x = state["x"] * 0.9 + jax.random.normal(now, (N,)) * shared[0]
                state = {"key": key, "x": x, "n": state["n"] + 1, "rest": state["rest"] * 1.5}
                return state, Record(*[x] * shown)

            state, record = jax.lax.scan(step, state, None, rounds)
            counts = state["n"], *[state["x"]] * 3, *[state["x"].sum()] * 2
            # Of few values, so that some tie.
            score = jnp.int32(jnp.abs(state["x"][0] * 2)) if evaluated else jnp.int32(-1)
            answers = Answers(state["x"][:, None] > 0, state["x"][:, None])
            return (
                state,
                jax.tree.map(lambda x: x[:0] if alone else x, record),
                jax.tree.map(lambda x: x[None][: int(evaluated)], Evaluation(*counts)),
                execute.Counted(score, state["n"], answers),
            )

        return jax.vmap(one)(state)

    hyper = Hyper(*[np.ones(1, np.float32)] * len(Hyper._fields))
    shared = (np.float32(0.3),)
    return execute.Programs(lambda s: (), begin, segment, hyper, shared, lambda *seen: seen)


def _batches(built):
    def batch(index, seeds, segments):
        def build():
            built.append(index)
            return _programs()

        chunks = [
            execute.Chunk(
                np.array(s, np.uint32),
                Hyper(*[np.full(len(s), 0.7, np.float32)] * len(Hyper._fields)),
            )
            for s in seeds
        ]
        return execute.Batch(build, tuple(chunks), segments)

    return [
        batch(0, [[0, 1], [2]], execute.segments(5, 4, 2)),
        batch(1, [[3]], (execute.Segment(1, 0, alone=True), *execute.segments(2, 1))),
        batch(2, [[4], [5]], execute.segments(4, 2)),
    ]


def _keeper(saved, start=None, stop=lambda: False, due=lambda done, ahead: True):
    def restore(plan, expect):
        if start is not None:
            shapes = expect(start.place)
            for x, y in zip(jax.tree.leaves(shapes), jax.tree.leaves(start[1:3]), strict=True):
                assert (x.dtype, x.shape) == (y.dtype, y.shape)
        return start

    def save(plan, done, kept):
        # Copies: on a CPU the arrays of a state may be the program's own.
        copied = [jax.tree.map(np.array, x) for x in (kept.state, kept.seen)]
        saved.append((done, execute.Kept(kept.place, *copied, kept.clocks)))

    return execute.Keeper(restore, due, save, stop)


def test_from_every_cut_to_the_same_bits():
    saved, built = [], []
    whole, _ = execute.execute(_batches(built), keeper=_keeper(saved))
    assert [own[0].record.score.shape[1] for own in whole] == [5, 2, 4]  # of rounds alone, nothing
    assert [done for done, _ in saved] == [2, 4, 5, 7, 9, 10, 11, 12, 13, 15, 17, 19, 21]
    assert built == [0, 1, 2]
    for done, kept in saved[::2]:
        built, again, looks = [], [], []
        seen, clocks = execute.execute(_batches(built), looks.append, keeper=_keeper(again, kept))
        jax.tree.map(np.testing.assert_array_equal, seen, whole)
        assert [d for d, _ in again] == [d for d, _ in saved if d > done]
        for (_, a), (_, b) in zip(reversed(again), reversed(saved), strict=False):
            jax.tree.map(np.testing.assert_array_equal, a[1:3], b[1:3])
        assert len(clocks) == 3
        # One look at a batch that was finished before, which is not even built unless it was the
        # last to be looked at.
        assert set(range(kept.place.batch, 3)) >= set(built)
        assert [look.batch for look in looks if look.done == look.rounds].count(2) == 1
        assert all(look.done <= look.until <= look.rounds for look in looks)


def test_of_all_evaluations_the_one_of_the_largest_score_counts():
    """Of equal ones the earliest, for every run of a chunk by itself; and no others are kept."""
    saved = []
    whole, _ = execute.execute(_batches([]), keeper=_keeper(saved))
    places = []
    for seen in (seen for own in whole for seen in own):
        accuracy = seen.evaluation.accuracy  # [R, K, N]
        best = np.int32(np.abs(accuracy[..., 0] * 2)).argmax(1)
        runs = np.arange(len(best))
        np.testing.assert_array_equal(seen.counted.round, seen.evaluation.round[runs, best])
        np.testing.assert_array_equal(seen.counted.answers.loss[..., 0], accuracy[runs, best])
        places += best.tolist()
    assert len({*places}) > 1
    for _, kept in saved:
        for seen in (seen for own in kept.seen for seen in own):
            assert seen.counted.answers.loss.shape[1:] == (N, 1)


def test_due_knows_what_comes_next():
    asked = []
    execute.execute(_batches([]), keeper=_keeper([], due=lambda *x: asked.append(x)))
    done = np.array(asked)[:, 0]
    assert np.array(asked)[:-1, 1].tolist() == np.diff(done).tolist()
    assert asked[-1] == (21, 0)


def test_stopping_saves_first():
    saved, looks = [], []
    keeper = _keeper(saved, stop=lambda: looks[-1].done >= 2, due=lambda *x: False)
    with pytest.raises(execute.Stopped):
        execute.execute(_batches([]), looks.append, keeper=keeper)
    ((done, kept),) = saved
    assert (done, kept.place) == (2, execute.Place(0, 0, 2))
    # Nothing is left to stop when all is computed.
    looks.clear()
    keeper = _keeper([], stop=lambda: looks[-1].batch == 2 and looks[-1].done == 8)
    execute.execute(_batches([]), looks.append, keeper=keeper)


def test_places_that_are_none():
    saved = []
    execute.execute(_batches([]), keeper=_keeper(saved))
    for place in (
        execute.Place(3, 0, 2),
        execute.Place(0, 2, 2),
        execute.Place(0, 0, 3),
        execute.Place(-1, 0, 2),
    ):
        with pytest.raises(ValueError, match=r"there is no Place|no segment ends"):
            execute.execute(_batches([]), keeper=_keeper([], saved[0][1]._replace(place=place)))


def test_a_plan_is_json_and_tells_runs_apart():
    one, other = _batches([]), _batches([])
    assert execute.plan(one) == execute.plan(other)
    other[2] = other[2]._replace(segments=execute.segments(4, 2, 2))
    assert execute.plan(one) == execute.plan(other)
    other[2] = other[2]._replace(segments=execute.segments(4, 4, 2))
    assert execute.plan(one) != execute.plan(other)


def test_what_is_through_is_handed_over_once_and_again_when_going_on():
    saved, handed = [], []

    def finish(batch, chunk, seen):
        handed.append((batch, chunk))
        return seen.record.score.sum()

    whole, _ = execute.execute(_batches([]), finish=finish)
    assert handed == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    execute.execute(_batches([]), keeper=_keeper(saved))
    kept = next(kept for done, kept in saved if done == 12)  # within the second batch
    for start, first in ((kept, [(0, 0), (0, 1)]), (saved[-1][1], handed[:])):
        handed.clear()
        again, _ = execute.execute(_batches([]), finish=finish, keeper=_keeper([], start))
        assert handed == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
        assert handed[: len(first)] == first
        assert again == whole


def test_batches_of_equal_code_share_it():
    def batch(code):
        made = _programs()._replace(code=code)
        chunk = execute.Chunk(
            np.array([1], np.uint32), Hyper(*[np.ones(1, np.float32)] * len(Hyper._fields))
        )
        return execute.Batch(lambda: made, (chunk,), execute.segments(2, 1))

    seen, clocks = execute.execute([batch("same"), batch("same"), batch("other")])
    jax.tree.map(np.testing.assert_array_equal, seen[0], seen[1])
    assert clocks[1].compiling == 0.0 < clocks[2].compiling


def test_seconds_of_batches_add_up_to_those_that_passed():
    began = time.perf_counter()
    batches = _batches([])
    _, clocks = execute.execute(batches)
    passed = time.perf_counter() - began
    assert all(clock.compiling > 0 for clock in clocks)
    assert all(clock.elapsed >= clock.compiling + clock.running for clock in clocks)
    assert 0.5 * passed < sum(clock.elapsed for clock in clocks) <= passed


def test_what_is_wrong_with_a_batch_is_said_in_its_turn():
    def refuse():
        raise ValueError("this one cannot be")

    first, *others = _batches([])
    looks = []
    with pytest.raises(ValueError, match="this one cannot be"):
        execute.execute([first, others[0]._replace(build=refuse)], looks.append)
    assert looks[-1].batch == 1
    assert [look.done for look in looks if look.batch == 0][-1] == 5 * 3
