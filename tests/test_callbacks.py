"""Runs that end early: whom it ends and when, what is kept of them, and that it is resumed."""

import itertools

import jax
import numpy as np
import polars as pl
import pytest

from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import callbacks, checkpoint, deal, execute, names, running
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames, tables
from cgsv_jax.sweep import points

# Twelve evaluations of which the best comes early; each is the end of a segment.
SMALL = {"dataset": "digits", "hidden": (8,), "clients": 4, "epochs": 1, "rounds": 24, "seeds": 3}
SMALL |= {"eval_every": 2, "eval_rows": 90, "learning_rate": 0.5}
METHODS = ("standalone", "fedavg_finetuned")


@pytest.fixture(scope="module")
def runs():
    """One experiment that runs through, judged on the same rows, and one with patience."""
    whole = names.configure(**SMALL, algorithms=METHODS, select="validation")
    config = names.configure(**SMALL, algorithms=METHODS, patience=2)
    return config, running.run(whole), running.run(config)


def brute_force(counts, waits):
    """The first place whose `waits` latest scores are no better than the best before them."""
    for place in range(waits, len(counts)):
        if max(counts[place - waits + 1 : place + 1]) <= max(counts[: place - waits + 1]):
            return place
    return None


def test_patience_waits_for_a_better_one():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 5, size=12)
        waits = int(rng.integers(1, 5))
        place = brute_force(list(scores), waits)
        rounds = np.arange(3, 39, 3)
        want = 0 if place is None else rounds[place]
        assert callbacks.end_of(rounds, scores, waits) == want
        late = brute_force(list(scores[4:]), waits)
        want = 0 if late is None else rounds[4 + late]
        assert callbacks.end_of(rounds, scores, waits, first=12) == want


def test_each_seed_of_each_method_ends_by_its_own_validation_rows(runs):
    """Not by test rows, nor by another's; of two stages the second is judged by itself."""
    config, whole, early = runs
    rows = len(deal.tasks(config)[0].data.validation[1])
    ends = []
    for name, through, cell in zip(METHODS, whole.cells, early.cells, strict=True):
        right = np.rint(np.float64(through.evaluation.validation_accuracy) * rows).sum(-1)
        rounds = through.evaluation.round
        for place in range(3):
            first = 24 if name == "fedavg_finetuned" else 0
            counts = right[place][rounds[place] > first]
            at = brute_force(list(counts), 2)
            end = 0 if at is None else int(rounds[place][rounds[place] > first][at])
            stopped = 0 if cell.stopped is None else cell.stopped[place]
            assert stopped in (end, 0) if end == rounds[place][-1] else stopped == end
            ends.append(int(stopped))
    assert len({*ends}) > 2  # some end, at different rounds
    assert any(end == 0 for end in ends) or len({*ends[:3]}) > 1


def test_what_is_kept_is_the_same_run_cut_short(runs):
    """Round by round the numbers of the run that goes through; after the end there are no rows."""
    _, whole, early = runs
    tables_of = frames.frames_of(early.cells)
    cells = frames.ended(early.cells)
    for through, (place, cell) in zip(
        itertools.chain.from_iterable(itertools.repeat(c, 3) for c in whole.cells),
        enumerate(cells),
        strict=True,
    ):
        seed = place % 3
        last = cell.record.quota.shape[1]
        own = tables_of["rounds"].filter(method=cell.method, seed=seed)
        assert own["round"].max() == last
        assert len(own) == 4 * last
        for a, b in zip(*map(jax.tree.leaves, (cell.record, through.record)), strict=True):
            np.testing.assert_array_equal(a[0], b[seed, :last])
        number = cell.evaluation.round.shape[1]
        np.testing.assert_array_equal(
            cell.evaluation.accuracy[0], through.evaluation.accuracy[seed, :number]
        )
        # The answers are those of the end, whatever its neighbours in the program went on with.
        right = cell.answers.right[0].mean(-1)
        np.testing.assert_allclose(right, cell.evaluation.accuracy[0, -1], rtol=1e-6)
        row = tables_of["summary"].filter(method=cell.method, seed=seed).row(0, named=True)
        full = through.record.quota.shape[1]
        assert row["stopped_round"] == (None if last == full else last)
        assert row["mean_accuracy"] == pytest.approx(cell.evaluation.accuracy[0, -1].mean())
        ends = tables_of["fairness"].filter("counts", method=cell.method, seed=seed)
        assert ends["round"].to_list() == [last]
    said = "\n".join(tables.fairness(tables_of["summary"]).lines)
    assert "stopped early: standalone at round" in said
    assert "stopped early" not in "\n".join(
        tables.fairness(frames.summary_frame(whole.cells)).lines
    )


def test_a_mean_over_runs_ends_with_the_first_of_them(runs):
    """In figures; of a run that nobody ended nothing is left out."""
    _, whole, early = runs
    for cells, name in itertools.product((whole.cells, early.cells), ("rounds", "fairness")):
        rows = frames.frames_of(cells)[name]
        kept = frames.while_all_run(rows)
        for method in METHODS:
            own = rows.filter(method=method)
            last = min(seed["round"].max() for seed in own.partition_by("seed"))
            want = own.filter(pl.col("round") <= last)
            assert kept.filter(method=method).equals(want)
            assert (len(want) < len(own)) == (own.group_by("seed").max()["round"].n_unique() > 1)


@pytest.mark.long
def test_seeds_in_one_program_end_where_they_end_alone(runs, monkeypatch):
    """On an accelerator all seeds are one program, which goes on until the last of them ends."""
    config, _, early = runs
    monkeypatch.setattr(running.programs_lib, "_together", lambda bound: [bound.seeds])
    together = running.run(config)
    for a, b in zip(early.cells, together.cells, strict=True):
        np.testing.assert_array_equal(a.stopped, b.stopped)
        leaves = (
            jax.tree.leaves((cell.record, cell.evaluation._replace(answers=None)))
            for cell in (a, b)
        )
        for x, y in zip(*leaves, strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)
        right = b.answers.right.mean(-1)
        ends = frames.ended([b])
        want = np.concatenate([cell.evaluation.accuracy[:, -1] for cell in ends])
        np.testing.assert_allclose(right, want, rtol=1e-6)


def test_a_run_that_ends_early_is_written_and_read(runs, tmp_path):
    config, _, early = runs
    written = running.save(tmp_path / "run", early)
    read = directory_lib.read(tmp_path / "run")
    assert read.summary.equals(written["summary"])
    assert resolve.from_dict(read.config, config.tables) == config


@pytest.mark.long
@pytest.mark.parametrize("after", [1, 9, 13, 20])
def test_it_is_resumed_bit_for_bit(runs, tmp_path, after):
    """Wherever it was stopped: within a run, after one that ended early, in the next method."""
    config, _, early = runs
    looks = []

    def keeper(stop):
        return checkpoint.of_run(
            tmp_path, lambda: {"config": resolve.to_dict(config)}, 1, stop
        ).keeper

    def look(progress):
        looks.append(progress)

    with pytest.raises(execute.Stopped):
        running.run(config, look, keeper=keeper(lambda: len(looks) > after))
    resumed = running.run(config, keeper=keeper(lambda: False))
    for a, b in zip(early.cells, resumed.cells, strict=True):
        jax.tree.map(
            np.testing.assert_array_equal,
            (a.record, a.evaluation, a.answers, a.stopped),
            (b.record, b.evaluation, b.answers, b.stopped),
        )


def test_a_watch_ends_the_seeds_that_run():
    """Those alone: the method's other seeds, and other methods, go on."""
    config = names.configure(**SMALL | {"seeds": 2}, algorithms=METHODS, select="validation")
    looks = []

    def watch(progress):
        looks.append(progress)
        return (progress.method, progress.seeds) == (METHODS[1], (0,)) and progress.seed_round >= 8

    found = running.run(config, watch)
    alone, own = found.cells
    assert alone.stopped is None
    assert own.stopped.tolist() == [8, 0]
    whole = own.record.quota.shape[1]
    own_looks = [p for p in looks if p.method == METHODS[1] and not p.compiling]
    seen = [(p.seeds, p.seed_round) for p in own_looks]
    ends = [*range(2, whole, 2), whole]
    assert seen == [((0,), n) for n in (2, 4, 6, 8)] + [((1,), n) for n in ends]
    assert own_looks[-1].round == own_looks[-1].rounds == 2 * whole
    rounds = frames.rounds_frame(found.cells).filter(method=METHODS[1])
    assert rounds.group_by("seed", maintain_order=True).max()["round"].to_list() == [8, whole]
    cell = found.timing["methods"][1]
    assert cell["rounds_per_second"] == pytest.approx((8 + whole) / cell["run_seconds"])


def test_the_ready_made_watches(runs):
    """As the flag, a look at a time; and it says where nobody evaluates validation rows."""
    _, _, early = runs
    config = names.configure(**SMALL, algorithms=METHODS[:1], select="validation")
    seen = []
    found = running.run(config, callbacks.both(seen.append, callbacks.patience(2)))
    for cell, want in zip(found.cells, early.cells[:1], strict=True):
        np.testing.assert_array_equal(cell.stopped, want.stopped)
    assert len(seen) == sum(
        len(own.evaluation.round[0]) for own in frames.ended(found.cells)
    ) + len(found.cells)
    with pytest.raises(ValueError, match='select="validation"'):
        callbacks.patience(2)(seen[-1]._replace(validation_accuracy=None))
    with pytest.raises(ValueError, match="at least 1"):
        callbacks.patience(0)


def test_a_watch_does_for_several_runs():
    asked = {**SMALL, "seeds": 1, "algorithms": METHODS[:1], "select": "validation"}
    config, watch = names.configure(**asked), callbacks.patience(2)
    one, two = (running.run(config, watch).cells[0].stopped for _ in range(2))
    assert one.tolist() == two.tolist()
    assert 0 < one < SMALL["rounds"]


def test_a_watch_begins_anew_where_rounds_do():
    """A look before an evaluation is one too; what is compiled in between ends nothing."""
    nothing = (None,) * len(running.Progress._fields)
    base = running.Progress(*nothing)._replace(partition="p", method="m", seeds=(0,))

    def look(watch, round_, accuracy):
        seen = None if accuracy is None else np.ones(2)
        return watch(base._replace(seed_round=round_, accuracy=seen, validation_accuracy=accuracy))

    falling = [(2, 0.5), (4, 0.4), (4, None), (6, 0.3)]
    watch = callbacks.patience(2)
    for first in ([], [], [(0, None), (1, None)]):
        looks = [*first, *falling]
        assert [look(watch, *own) for own in looks] == [False] * (len(looks) - 1) + [True]
    watch = callbacks.patience(2)
    assert not any(look(watch, *own) for own in [(2, 0.5), (4, 0.4), (0, None), (6, 0.3)])


def test_a_sweep_says_what_stops_its_runs():
    with pytest.raises(ConfigError, match="--patience ends single runs"):
        points.grid({**SMALL, "patience": 2}, {"beta": (1.0, 2.0)})


def test_patience_needs_validation_rows():
    asked = {**SMALL, "algorithms": ("cgsv",), "patience": 2, "validation_share": 0.0}
    with pytest.raises(ConfigError, match="--patience 2 ends runs by the server's validation rows"):
        deal.tasks(names.configure(**asked))
    with pytest.raises(ConfigError, match="--patience is 0, it must be"):
        names.configure(**SMALL, patience=0)
