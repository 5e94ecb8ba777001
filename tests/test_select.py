"""Which evaluation of a run counts: the last, or the one that validation rows choose."""

import math

import jax
import numpy as np
import polars as pl
import pytest

import cgsv_jax as cg
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import bind, deal, names, programs, running
from cgsv_jax.results import frames, tables
from cgsv_jax.sweep import plan as plan_lib
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.types import Answers, Evaluation

# 23 evaluations in segments of two; the learning rate is large enough for runs to get worse again.
SMALL = {"dataset": "digits", "hidden": (8,), "clients": 4, "epochs": 1, "rounds": 23, "seeds": 2}
SMALL |= {"eval_every": 1, "eval_rows": 90, "learning_rate": 0.5}
METHODS = ("standalone", "cgsv", "cffl")  # the last of them judges models on validation rows


@pytest.fixture(scope="module")
def runs():
    """One experiment, with the last evaluations and with those that validation rows choose."""
    config = names.configure(**SMALL, algorithms=METHODS)
    chosen = names.configure(**SMALL, algorithms=METHODS, select="validation")
    return config, running.run(config), running.run(chosen)


def cells_of(runs):
    return zip(METHODS, runs[1].cells, runs[2].cells, strict=True)


def test_it_is_the_first_of_the_best_on_validation_rows(runs):
    """For every method and seed by itself, the standalone baseline's too; never by test rows."""
    rows = len(deal.tasks(runs[0])[0].data.validation[1])
    places = []
    for _, _, cell in cells_of(runs):
        right = np.rint(np.float64(cell.evaluation.validation_accuracy) * rows).sum(-1)
        np.testing.assert_array_equal(cell.counts, right.argmax(1))
        assert cell.evaluation.validation_accuracy.shape == (2, 23, 4)
        places += cell.counts.tolist()
    assert len({*places}) > 2
    assert min(places) < 22


def test_nothing_else_changes(runs):
    """The rounds themselves, to the last bit: no method is shown rows that it does not ask for."""
    for _, last, chosen in cells_of(runs):
        jax.tree.map(np.testing.assert_array_equal, last.record, chosen.record)
        same = chosen.evaluation._replace(validation_accuracy=None)
        np.testing.assert_array_equal(last.evaluation.accuracy, same.accuracy)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), last.evaluation, same
        )
        assert last.counts is last.evaluation.validation_accuracy is None


def test_whatever_is_said_of_the_end_is_of_that_round(runs):
    """Answers, and the tables; what sums a run up stays of the whole run."""
    _, last, chosen = runs
    summaries = [frames.summary_frame(result.cells) for result in (last, chosen)]
    before, after = (frame.rows_by_key(("method", "seed"), named=True, unique=True)
                     for frame in summaries)  # fmt: skip
    for name, _, cell in cells_of(runs):
        for place, seed in enumerate(cell.seeds):
            end = cell.counts[place]
            row = after[name, seed]
            want = cell.evaluation.accuracy[place, end]
            np.testing.assert_allclose(cell.answers.right[place].mean(-1), want, rtol=1e-6)
            loss = cell.evaluation.loss[place, end]
            np.testing.assert_allclose(cell.answers.loss[place].mean(-1), loss, rtol=1e-5)
            np.testing.assert_allclose(row["mean_accuracy"], want.mean(), rtol=1e-6)
            assert row["chosen_round"] == cell.evaluation.round[place, end] == end + 1
            assert before[name, seed]["chosen_round"] is None
            for kept in ("share", "upload_bytes", "energy"):
                assert row[kept] == before[name, seed][kept]
    said = "\n".join(tables.fairness(summaries[1]).lines)
    rounds = summaries[1]["chosen_round"]
    assert f"of the round that validation rows chose: {rounds.min()} to {rounds.max()}" in said
    assert "validation rows" not in "\n".join(tables.fairness(summaries[0]).lines)
    fairness = frames.frames_of(chosen.cells)["fairness"].filter("counts")
    assert fairness["round"].to_list() == rounds.to_list()


def test_of_equal_ones_the_earlier_counts():
    """Within a segment, in whole numbers: means that differ in a last bit are equal."""
    accuracy = np.float32([[0.5, 1.0], [1.0, 0.5], [0.5, 0.5]])
    accuracy[1] = np.nextafter(accuracy[1], 1, dtype=np.float32)
    nothing = np.zeros((3, 2), np.float32)
    answers = Answers(nothing[..., None] > 0, np.arange(6, dtype=np.float32).reshape(3, 2, 1))
    evaluation = Evaluation(
        np.int32([4, 5, 6]), *[nothing] * 3, *[nothing[:, 0]] * 2, accuracy, answers
    )
    counted = jax.jit(programs._counted, static_argnums=1)(evaluation, 4)
    assert (counted.score, counted.round) == (6, 4)
    assert counted.answers.loss.tolist() == [[0.0], [1.0]]
    last = jax.jit(programs._counted, static_argnums=1)(evaluation, None)
    assert (last.score, last.round) == (6, 6)
    assert last.answers.loss.tolist() == [[4.0], [5.0]]


@pytest.mark.filterwarnings("ignore:arrays of your own")
def test_without_validation_rows_it_is_refused(tmp_path):
    config = names.configure(**SMALL, algorithms="cgsv", select="validation", validation_share=0.0)
    with pytest.raises(ConfigError) as refused:
        deal.tasks(config)
    assert str(refused.value) == (
        "--select validation chooses by the server's validation rows, "
        "but --validation-share 0 leaves none"
    )
    rows = np.eye(3, dtype=np.float32)
    data = cg.Dataset(rows, np.arange(3), rows, np.arange(3))
    clients = cg.partition.from_lists([[0], [1, 2]])
    asked = {"clients": 2, "rounds": 1, "epochs": 1}
    asked |= {"learning_rate": 0.1, "batch_size": 1, "decay": 1.0}
    for choice, sentence in (
        ({"algorithms": "fedavg", "select": "validation"}, "--select validation chooses by"),
        ({"algorithms": "cffl"}, "cffl judges models on"),
    ):
        with pytest.raises(ConfigError) as refused:
            deal.given(names.configure(**asked, **choice), data, clients)
        assert str(refused.value) == (
            f"{sentence} the server's validation rows, but the data given have none: "
            "cg.Dataset(..., validation=(inputs, labels)) does"
        )
    with pytest.raises(ConfigError, match="--select is 'best', it must be one of last, validation"):
        names.configure(**SMALL, select="best")


def test_a_config_of_an_earlier_version_counts_the_last():
    config = names.configure(**SMALL, algorithms="cgsv")
    values = resolve.to_dict(config)
    assert values.pop("select") == "last"
    assert resolve.from_dict(values, names.TABLES) == config


def test_no_method_is_shown_the_rows_that_choose():
    config = names.configure(**SMALL, algorithms=METHODS, select="validation")
    (task,) = deal.tasks(config)
    bounds = [bind.bind(config, method, task) for method in config.methods]
    assert [bound.data.validation is None for bound in bounds] == [True, True, False]
    assert all(bound.choosing is task.data.validation for bound in bounds)


def test_a_sweep_chooses_as_a_run_does(runs):
    """The same rounds and numbers, and an outcome is read back as it was."""
    asked = {**SMALL, "algorithms": ("cgsv",), "select": "validation"}
    sweep = points_lib.grid(asked, {"beta": (1.0, math.inf)})
    ends, _ = sweep_running.execute(plan_lib.plan(plan_lib.trials_of(sweep)))
    table = sweep_results.frame(sweep_running.rows(sweep, ends), sweep.axes)
    want = frames.summary_frame(runs[2].cells).filter(method="cgsv")
    got = table.filter(beta=runs[2].config.methods[1].beta)
    assert got["chosen_round"].to_list() == want["chosen_round"].to_list()
    np.testing.assert_allclose(got["mean_accuracy"], want["mean_accuracy"], rtol=1e-5)
    for end in ends.values():
        back = sweep_results.unpacked(sweep_results.packed(end), 4, 4)
        jax.tree.map(np.testing.assert_array_equal, back, end)
    assert table["chosen_round"].dtype == pl.Int32


def test_a_scheduler_compares_by_the_best_so_far(runs):
    """At every look the round that counts were the run to end there, not the latest."""
    asked = {**SMALL, "algorithms": ("cffl",), "select": "validation"}
    sweep = points_lib.grid(asked, {}, "mean_accuracy")
    looks = []

    def report(rounds, criterion):
        looks.append((rounds, criterion))
        return False

    _, score = sweep_running.score(sweep, "", {}, report)
    (cell,) = (own for own in runs[2].cells if own.method == "cffl")
    rows = len(runs[2].tasks[0].data.validation[1])
    right = np.rint(np.asarray(cell.evaluation.validation_accuracy, np.float64) * rows).sum(-1)
    means = np.asarray(cell.evaluation.accuracy, np.float64).mean(-1)
    assert len(looks) > 5
    earlier = 0
    for rounds, criterion in looks:  # a round is an evaluation
        at = right[:, :rounds].argmax(1)
        earlier += int((at < rounds - 2).any())  # before this look's segment
        assert criterion == pytest.approx(means[np.arange(len(at)), at].mean(), rel=1e-5)
    assert earlier > 1
    last = frames.summary_frame([cell])["mean_accuracy"].mean()
    assert score["criterion"] == pytest.approx(last, rel=1e-5)


def test_a_sweep_keeps_what_an_interval_needs(runs):
    """Of every trial whether each row is right, as bits; so it tells the interval that a run tells.

    By accuracy alone, and of those points alone that it shows.
    """
    asked = {**SMALL, "algorithms": ("cgsv",), "select": "validation"}
    sweep = points_lib.grid(asked, {"beta": (1.0, math.inf)})
    ends, _ = sweep_running.execute(plan_lib.plan(plan_lib.trials_of(sweep)))
    made = sweep_running.rows(sweep, ends)
    place = sweep.axes["beta"].index(runs[2].config.methods[1].beta)
    told = sweep_running.with_intervals(made, sweep, ends, {(place, "cgsv")})
    table = sweep_results.frame(told, sweep.axes)
    want = frames.summary_frame(runs[2].cells).filter(method="cgsv")
    got = table.filter(point=place)
    for name in frames.INTERVALS:
        if "_by_loss" in name:
            assert got[name].null_count() == 2
        else:
            assert got[name].to_list() == pytest.approx(want[name].to_list(), abs=1e-6), name
    assert want["fairness_low"].null_count() == 0
    others = table.filter(pl.col("point") != place)
    assert others["fairness_low"].null_count() == len(others) > 0
    for end in ends.values():
        right = frames.answers_of(end).right
        np.testing.assert_allclose(right[0].mean(-1), end.accuracy, rtol=1e-6)
