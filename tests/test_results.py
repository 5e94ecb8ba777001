"""Run directories: tidy frames, null rules, strict and equal bytes, and what is refused."""

import errno
import io
import json
import math
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy import stats

from cgsv_jax.core import metrics, uncertainty
from cgsv_jax.host import files
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import environment, frames
from cgsv_jax.results import tables as tables_lib
from cgsv_jax.types import Answers, Evaluation, Record

SEEDS, ROUNDS, CLIENTS, PARAMETERS = 2, 5, 4, 8
SHAPE = (SEEDS, ROUNDS, CLIENTS)


def cell(method="cgsv", partition="power_law", final=None, rounds=(2, 4, 5), shape=SHAPE):
    """A cell whose numbers say where they come from: seed, round and client as digits."""
    seeds, _, clients = shape
    seed, round_, client = np.meshgrid(
        *(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"
    )
    code = 10_000 * seed + 100 * (round_ + 1) + client
    record = Record(
        score=code,
        reputation=np.full(shape, 1 / clients, np.float32),
        weight=code + 0.25,
        quota=(client % (PARAMETERS + 1)).astype(np.int32),
        present=client != 1,
        loss=code + 0.5,
        norm=code + 0.75,
        energy=np.where(client > 0, 1 / 2 ** (round_ + 1), 0).astype(np.float32),
        nonfinite=client == 1,
    )
    index = np.asarray(rounds) - 1
    accuracy = np.broadcast_to(np.linspace(0.5, 0.8, clients, dtype=np.float32), shape).copy()
    accuracy += 0.01 * round_
    if final is not None:
        accuracy[:, -1] = final
    evaluation = Evaluation(
        round=np.tile(np.asarray(rounds, np.int32), (seeds, 1)),
        accuracy=accuracy[:, index],
        loss=code[:, index],
        distance=code[:, index] + 0.125,
        server_accuracy=accuracy[:, index, -1],
        server_loss=code[:, index, 0],
    )
    sizes, classes = np.arange(clients) * 10 + 10, np.arange(clients) + 1
    seeds = tuple(range(7, 7 + seeds))
    held = np.tril(np.full((clients, clients), 10, np.int32))  # client 2 holds 10 of 0, 1 and 2
    what = partition, method, seeds, sizes, classes, PARAMETERS, record, evaluation
    return frames.Cell(*what, held=held)


@pytest.fixture(scope="module")
def cells():
    alone = [0.3, 0.5, 0.4, 0.6]
    return (
        cell("standalone", final=alone),
        cell("fedavg", final=0.9),
        cell("cgsv", final=[[0.6, 0.7, 0.65, 0.75], [0.75, 0.65, 0.7, 0.6]]),
        cell("cgsv", "uniform"),
    )


@pytest.fixture
def run(tmp_path, cells):
    directory = directory_lib.create(tmp_path / "run")
    directory_lib.write(directory, {"beta": math.inf}, {"x": None}, {"seconds": 1.5}, cells)
    return directory


# ---------------------------------------------------------------- frames


def test_rounds_are_tidy(cells):
    frame = frames.rounds_frame(cells)
    assert frame.schema == frames.ROUND_COLUMNS
    assert len(frame) == len(cells) * math.prod(SHAPE)
    keys = [*frames.KEYS, "round", "client"]
    assert not frame.select(keys).is_duplicated().any()
    assert frame["round"].unique().sort().to_list() == [1, 2, 3, 4, 5]
    assert frame["client"].unique().sort().to_list() == [0, 1, 2, 3]
    assert frame["seed"].unique().sort().to_list() == [7, 8]


def test_every_number_stands_in_its_own_row(cells):
    frame = frames.rounds_frame(cells[:1])
    code = (frame["seed"] - 7) * 10_000 + frame["round"] * 100 + frame["client"]
    for column, offset in {"score": 0, "weight": 0.25, "loss": 0.5, "update_norm": 0.75}.items():
        np.testing.assert_array_equal(frame[column], code + offset)
    np.testing.assert_array_equal(frame["quota"], frame["client"])
    np.testing.assert_allclose(frame["share"], frame["client"] / PARAMETERS)
    np.testing.assert_array_equal(frame["present"], frame["client"] != 1)
    energy = np.where(frame["client"] > 0, 0.5 ** frame["round"].to_numpy(), 0)
    np.testing.assert_allclose(frame["energy"], energy)
    evaluated = frame["round"].is_in([2, 4, 5])
    np.testing.assert_array_equal(frame["test_loss"].is_not_null(), evaluated)
    np.testing.assert_array_equal(frame["test_loss"].filter(evaluated), code.filter(evaluated))
    distance = (code + 0.125).cast(pl.Float32)
    np.testing.assert_array_equal(frame["distance"].filter(evaluated), distance.filter(evaluated))
    np.testing.assert_array_equal(
        frame["server_test_loss"].filter(evaluated), (code - frame["client"]).filter(evaluated)
    )
    for column in ("accuracy", "distance", "server_accuracy", "server_test_loss"):
        np.testing.assert_array_equal(frame[column].is_not_null(), evaluated)


def test_what_is_not_finite_is_null(cells):
    loss = cells[0].record.loss.copy()
    loss[0, 0, :3] = np.nan, np.inf, -np.inf
    accuracy = cells[0].evaluation.accuracy.copy()
    accuracy[0, -1, 0] = np.nan
    broken = cells[0]._replace(
        record=cells[0].record._replace(loss=loss),
        evaluation=cells[0].evaluation._replace(accuracy=accuracy),
    )
    frame = frames.rounds_frame([broken])
    assert frame["loss"].null_count() == 3
    assert frame["loss"][:3].to_list() == [None] * 3
    summary = frames.summary_frame([broken, cells[2]])
    assert summary["mean_accuracy"][0] is None
    assert summary["max_accuracy"][0] is None
    row = summary.row(2, named=True)
    assert (row["fairness"], row["mean_gain"], row["no_worse"]) == (None, None, None)
    assert row["fairness_undefined"] == "an accuracy is not finite"
    for written in (frame, frames.clients_frame([broken]), summary):
        for column in written.select(pl.selectors.float()):
            assert column.drop_nulls().is_finite().all(), column.name


def test_clients(cells):
    frame = frames.clients_frame(cells)
    assert frame.schema == frames.CLIENT_COLUMNS
    assert len(frame) == len(cells) * SEEDS * CLIENTS
    own = frame.filter(method="cgsv", partition="power_law", seed=8)
    np.testing.assert_array_equal(own["rows"], [10, 20, 30, 40])
    np.testing.assert_array_equal(own["classes"], [1, 2, 3, 4])
    np.testing.assert_allclose(own["standalone_accuracy"], [0.3, 0.5, 0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(own["accuracy"], [0.75, 0.65, 0.7, 0.6], rtol=1e-6)
    np.testing.assert_allclose(own["share"], np.arange(4) / PARAMETERS)
    # 1/2 + 1/4 + ... + 1/32 of all energy over five rounds, after the last of which code is 1050x.
    np.testing.assert_allclose(own["energy"], np.array([0, 1, 1, 1]) * 31 / 32 / 5, rtol=1e-6)
    np.testing.assert_array_equal(own["distance"], np.float32([10500, 10501, 10502, 10503]) + 0.125)
    # Five rounds, D = 8: dense updates of all but the absent client; a number and a byte of bitmap.
    assert own["upload_bytes"].to_list() == [5 * 32, 0, 5 * 32, 5 * 32]
    assert own["download_bytes"].to_list() == [0, 5 * 5, 5 * 9, 5 * 13]
    assert frame["upload_bytes"].dtype == frame["download_bytes"].dtype == pl.Int64
    assert frame.filter(partition="uniform")["standalone_accuracy"].null_count() == 8


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_that_is_too_wide_goes_on_below(width):
    """Every column is there and whole, beside the method's name; one table where that will do."""
    cells = {f"quantity {n}": [f"{n}2.5 ± 1.25", "1"] for n in range(8)}
    cells = pl.DataFrame({"method": ["fedavg", "cgsv:released"], **cells})
    report = tables_lib.Report(cells, "A title")
    console = Console(width=width, file=io.StringIO())
    console.print(report)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    for n in range(8):
        assert text.count(f"{n}2.5 ± 1.25") == 1, n
    names = sum(line.startswith("fedavg") for line in lines)
    assert names == text.count("method") == {40: 4, 80: 2, 200: 1}[width]
    assert text.count("A title") == 1


def test_a_table_goes_on_below_with_all_that_tells_its_rows_apart():
    """The partition and the method of seconds; the draw and the client of clients."""
    seconds = {"compile_seconds": 1.0, "run_seconds": 1.0, "rounds_per_second": 1.0}
    phases = [{"name": f"phase {n} of a round", "seconds": {"median": 0.1}} for n in range(5)]
    named = [{"partition": p, "method": m} for p in ("uniform", "power_law") for m in ("a", "b")]
    timing = {
        "methods": [own | seconds for own in named],
        "profiles": [own | {"phases": phases} for own in named],
    }
    shown = printed(tables_lib.seconds(timing))
    heads = [line for line in shown.splitlines() if line.startswith("partition")]
    assert len(heads) > 1
    assert all("method" in line for line in heads)
    wide = frames.clients_frame([cell("standalone"), cell("cgsv")])
    draws = [wide.with_columns(partition_seed=n, rows=wide["rows"] + n) for n in (0, 1)]
    (report,) = tables_lib.clients_after(pl.concat(draws).with_columns(present=1.0))
    assert report.keys == 2
    assert report.cells.columns[:2] == ["draw", "client"]


def test_a_submodel_sends_what_it_holds(cells):
    """A client trains what its last quota counts, the whole model before it was served one."""
    quota = np.zeros(SHAPE, np.int32)
    quota[:, :, 0] = [4, 6, 2, 8, 3]
    quota[:, :, 2] = [0, 5, 0, 0, 7]  # absent in rounds 0, 2 and 3
    present = quota > 0
    record = cells[2].record._replace(quota=quota, present=present, work=np.zeros(SHAPE))
    frame = frames.clients_frame([cells[2]._replace(record=record, work=1)]).filter(seed=8)
    held = [8 + 4 + 6 + 2 + 8, 0, 8 + 5, 0]
    assert frame["upload_bytes"].to_list() == [4 * entries for entries in held]


def test_who_is_not_paid_yet_has_sent_nevertheless(cells):
    """As in fedave's first round; after the last in which anybody is paid all are alone."""
    quota = np.zeros(SHAPE, np.int32)
    quota[:, 1:3] = 4
    record = cells[2].record._replace(quota=quota)
    frame = frames.clients_frame([cells[2]._replace(record=record)]).filter(seed=8)
    assert frame["upload_bytes"].to_list() == [3 * 32, 0, 3 * 32, 3 * 32]


def test_whose_rows_a_client_holds(cells):
    """Null where clients are no owners; in a table as a terminal can show it, cut to its room."""
    names = ("ann", "[/b]", "c\x1b[2J", "d" * 50)
    frame = frames.clients_frame([cells[0], cells[2]._replace(owners=names)])
    assert frame["owner"].dtype == pl.String
    assert frame.filter(method="standalone")["owner"].null_count() == 2 * CLIENTS
    assert frame.filter(method="cgsv", seed=8)["owner"].to_list() == list(names)
    assert "owner" not in tables_lib.clients_of(frames.clients_frame(cells[:1])).columns
    owned = [cell._replace(owners=names) for cell in cells[:3]]
    shown = tables_lib.clients_of(frames.clients_frame(owned))
    assert shown["owner"].to_list() == ["ann", "[/b]", "c\\x1b[2J", "d" * 23 + "…"]
    assert "[/b]" in printed(reports(owned)[-1])


def test_share_is_the_mean_over_rounds(cells):
    quota = np.zeros(SHAPE, np.int32)
    quota[:, :2] = PARAMETERS
    frame = frames.clients_frame([cells[0]._replace(record=cells[0].record._replace(quota=quota))])
    np.testing.assert_allclose(frame["share"], 2 / ROUNDS)


def test_summary(cells):
    frame = frames.summary_frame(cells)
    assert frame.schema == frames.SUMMARY_COLUMNS
    expected = [None, None, None, None, 100.0, -80.0, None, None]
    rho = np.corrcoef([0.3, 0.5, 0.4, 0.6], [0.75, 0.65, 0.7, 0.6])[0, 1]
    expected[5] = 100 * rho
    for found, wanted in zip(frame["fairness"], expected, strict=True):
        assert found == (wanted if wanted is None else pytest.approx(wanted, abs=1e-3))
    assert frame["fairness_undefined"].to_list() == [
        *["standalone is the yardstick"] * 2,
        *["all clients end with the same accuracy"] * 2,
        *[None] * 2,
        *["no standalone run to compare with"] * 2,
    ]
    cgsv = frame.row(4, named=True)
    assert cgsv["mean_accuracy"] == pytest.approx(0.675)
    assert cgsv["max_accuracy"] == pytest.approx(0.75)
    assert cgsv["min_accuracy"] == pytest.approx(0.6)
    assert cgsv["server_accuracy"] == pytest.approx(0.75)
    assert cgsv["mean_gain"] == pytest.approx(0.225)
    assert cgsv["gain_spread"] == pytest.approx(np.std([0.3, 0.2, 0.25, 0.15]))
    assert cgsv["no_worse"] == 1.0
    assert cgsv["distance"] == pytest.approx(501.625)  # of seed 7: 500 + mean client + 1/8
    assert cgsv["energy"] == pytest.approx(0.75 * 31 / 32 / 5)
    assert cgsv["share"] == pytest.approx(1.5 / PARAMETERS)
    assert cgsv["upload_bytes"] == 120
    assert cgsv["download_bytes"] == 135 / 4


def test_standalone_is_matched_by_seed():
    shape = (2, 1, 4)
    alone = cell(
        "standalone", final=[[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], shape=shape, rounds=(1,)
    )
    same = cell("cgsv", final=[0.1, 0.2, 0.3, 0.4], shape=shape, rounds=(1,))
    fairness = frames.summary_frame([same, alone])["fairness"]
    np.testing.assert_allclose(fairness[:2], [100, -100], atol=1e-3)
    other = frames.summary_frame([alone, same._replace(seeds=(8, 9))])["fairness_undefined"]
    assert other[2:].to_list() == [None, "no standalone run to compare with"]


# ---------------------------------------------------------------- fairness over rounds


def course(accuracy, loss, method="cgsv", rounds=None, **fields):
    """A cell with these accuracies and losses [S, E, N] at its evaluations."""
    accuracy, loss = (np.asarray(x, np.float32) for x in (accuracy, loss))
    seeds, number, clients = accuracy.shape
    rounds = np.arange(1, number + 1) if rounds is None else rounds
    own = cell(method, rounds=rounds, shape=(seeds, max(rounds), clients))
    evaluation = own.evaluation._replace(accuracy=accuracy, loss=loss, distance=accuracy)
    return own._replace(evaluation=evaluation, **fields)


@pytest.fixture(scope="module")
def courses():
    """Standalone and a method, of 2 seeds, 9 evaluations and 6 clients."""
    rng = np.random.default_rng(0)
    shape = (2, 9, 6)
    right = rng.integers(30, 60, (2, *shape)) / 60
    loss = rng.uniform(0.2, 2, (2, *shape))
    rounds = [2, 4, 6, 8, 10, 12, 14, 16, 17]
    return tuple(
        course(right[i], loss[i], name, rounds) for i, name in enumerate(("standalone", "cgsv"))
    )


def correlations(alone, final):
    """100 x Pearson's and Spearman's, SciPy's."""
    x, y = (np.asarray(v, np.float64) for v in (alone, final))
    return [100 * kind(x, y).statistic for kind in (stats.pearsonr, stats.spearmanr)]


def test_fairness_at_every_evaluation_is_scipys(courses):
    alone, own = (c.evaluation for c in courses)
    frame = frames.fairness_frame(courses)
    assert frame.schema == frames.FAIRNESS_COLUMNS
    assert len(frame) == 2 * 2 * 9
    mine = frame.filter(method="cgsv", seed=8)
    assert mine["round"].to_list() == [2, 4, 6, 8, 10, 12, 14, 16, 17]
    assert mine["counts"].to_list() == [False] * 8 + [True]
    for place, row in enumerate(mine.iter_rows(named=True)):
        accuracy, loss = own.accuracy[1, place], own.loss[1, place]
        # Of log-likelihoods, on both sides: more is better.
        want = [
            *correlations(alone.accuracy[1, -1], accuracy),
            *correlations(-alone.loss[1, -1], -loss),
        ]
        found = [row[name] for name in ("fairness", "rank_fairness")]
        found += [row[name] for name in ("fairness_by_loss", "rank_fairness_by_loss")]
        assert found == pytest.approx(want, abs=2e-3)
        assert row["mean_accuracy"] == pytest.approx(accuracy.mean(), rel=1e-6)
        assert row["accuracy_spread"] == pytest.approx(np.std(accuracy, dtype=float), rel=1e-5)
    yardstick = frame.filter(method="standalone")
    assert yardstick["mean_accuracy"].null_count() == 0
    for name in (*frames.BY, "bounded_rate"):
        assert yardstick[name].null_count() == len(yardstick), name


def test_the_end_of_a_run_is_where_it_counts(courses):
    """Of both sides: the standalone accuracies of a round that its own validation chose."""
    alone, own = courses
    alone = alone._replace(counts=np.array([3, 0]))
    frame = frames.fairness_frame([alone, own._replace(counts=np.array([8, 5]))])
    assert frame.filter(pl.col("counts"))["round"].to_list() == [8, 2, 17, 12]
    ends = alone.evaluation.accuracy[[0, 1], [3, 0]]
    row = frame.filter(method="cgsv", seed=8, round=12).row(0, named=True)
    assert row["fairness"] == pytest.approx(
        correlations(ends[1], own.evaluation.accuracy[1, 5])[0], abs=2e-3
    )


def test_a_summary_ends_where_the_rounds_do(courses):
    summary = frames.summary_frame(courses).filter(method="cgsv")
    last = frames.fairness_frame(courses).filter(pl.col("counts"), method="cgsv")
    for name in (*frames.BY, "bounded_rate", "accuracy_spread"):
        np.testing.assert_allclose(summary[name], last[name], rtol=1e-5, err_msg=name)
    alone = courses[0].evaluation.accuracy[:, -1]
    np.testing.assert_allclose(summary["standalone_spread"], alone.std(axis=1), rtol=1e-5)


def test_the_last_quarter_of_nine_evaluations_is_three(courses):
    summary = frames.summary_frame(courses).filter(method="cgsv")
    late = frames.fairness_frame(courses).filter(pl.col("round") > 12, method="cgsv")
    for row, (_, own) in zip(
        summary.iter_rows(named=True), late.group_by("seed", maintain_order=True), strict=True
    ):
        for by in ("", "_by_loss"):
            values = own[f"fairness{by}"].to_numpy()
            found = [row[f"late_fairness{by}{end}"] for end in ("", "_min", "_max")]
            assert found == pytest.approx([values.mean(), values.min(), values.max()], abs=1e-3)
            assert row[f"unsettled{by}"] == (np.ptp(np.sign(values)) > 0)
    (row,) = frames.fairness_table(summary).to_dicts()
    assert row["late_fairness"] == pytest.approx(summary["late_fairness"].mean())
    assert row["late_fairness_min"] == summary["late_fairness_min"].min()
    assert row["late_fairness_max"] == summary["late_fairness_max"].max()
    assert row["unsettled"] == summary["unsettled"].sum()


def test_how_many_evaluations_are_the_last_quarter():
    assert [*map(frames.late_evaluations, (1, 2, 4, 5, 8, 9, 20, 60))] == [1, 1, 1, 2, 2, 3, 5, 15]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([90, 95, 99], False),
        ([-90, -1], False),  # unfair, and steadily so
        ([90, -1, 95], True),
        ([90, 0, 95], True),  # 0 has no sign
        ([90, np.nan, 95], True),  # it comes and goes
        ([np.nan, np.nan], None),  # one model for all: nothing that could change
        ([90], None),  # of one evaluation nobody can tell
        ([np.nan], None),
    ],
)
def test_what_is_settled(values, verdict):
    assert frames.unsettled(np.array(values, float)) is verdict


def test_what_is_undefined_late_leaves_the_mean_and_unsettles():
    alone, good = [0.3, 0.5, 0.6], [0.4, 0.5, 0.7]
    own = [[good, good, good, good, [0.9] * 3, good, [0.9] * 3, good]]
    loss = np.tile([3.0, 2.0, 1.0], (1, 8, 1))
    made = [course([[alone] * 8], loss, "standalone"), course(own, loss)]
    row = frames.summary_frame(made).row(1, named=True)
    want = correlations(alone, good)[0]
    assert row["fairness"] == pytest.approx(want, abs=1e-3)
    assert row["late_fairness"] == row["late_fairness_min"] == pytest.approx(want, abs=1e-3)
    assert (row["unsettled"], row["unsettled_by_loss"]) == (True, False)
    assert row["late_fairness_by_loss_min"] == pytest.approx(100, abs=1e-3)
    table = frames.fairness_table(frames.summary_frame(made)).to_dicts()
    assert [r["unsettled"] for r in table] == [None, 1]
    without = frames.fairness_frame(made).filter(method="cgsv")["fairness"]
    assert without.is_null().to_list() == [False] * 4 + [True, False, True, False]


def test_one_model_for_all_until_the_end_is_no_lost_fairness():
    """Fine-tuned FedAvg: what it ends with is its only evaluation of models that differ."""
    alone, good, losses = [0.3, 0.5, 0.6], [0.4, 0.5, 0.7], [3.0, 2.0, 1.0]
    yardstick = course([[alone] * 12], [[losses] * 12], "standalone")
    for last, verdict in ((1, None), (2, False)):
        own = [[[0.9] * 3] * (12 - last) + [good] * last]
        loss = [[[0.2] * 3] * (12 - last) + [losses] * last]
        summary = frames.summary_frame([yardstick, course(own, loss)])
        row = summary.row(1, named=True)
        assert row["late_fairness"] == pytest.approx(correlations(alone, good)[0], abs=1e-3)
        assert (row["unsettled"], row["unsettled_by_loss"]) == (verdict, verdict)


def test_equal_models_are_as_fair_as_nobody_can_tell(cells):
    row = frames.summary_frame(cells).filter(method="fedavg").row(0, named=True)
    for name in (*frames.BY, "late_fairness", "unsettled"):
        assert row[name] is None or name.endswith("by_loss"), name
    assert row["bounded_rate"] == 0.25  # of .9 only who is best alone may have so much
    assert row["accuracy_spread"] == pytest.approx(0, abs=1e-7)


def test_rounds_alone_give_the_same_fairness(courses, cells):
    """Of some clients, and of a run that diverged, too."""
    assert frames.fairness_of_rounds(frames.rounds_frame(courses)).equals(
        frames.fairness_frame(courses), null_equal=True
    )
    some = [c._replace(evaluated=np.array([0, 3, 4]), sizes=np.arange(7)) for c in cells[:3]]
    some = [
        c._replace(
            evaluation=jax.tree.map(lambda x: x[..., :3] if x.ndim == 3 else x, c.evaluation),
            record=jax.tree.map(lambda x: np.resize(x, (*x.shape[:2], 7)), c.record),
        )
        for c in some
    ]
    some[1].evaluation.accuracy[0, 1, 1] = np.nan
    frame = frames.fairness_frame(some)
    assert frame.filter(method="fedavg", seed=7)["mean_accuracy"].null_count() == 1
    again = frames.fairness_of_rounds(frames.rounds_frame(some))
    assert again.equals(frame, null_equal=True)
    nothing = frames.rounds_frame([])
    assert frames.fairness_of_rounds(nothing).schema == frames.FAIRNESS_COLUMNS


def test_an_earlier_summary_is_completed_from_the_evaluations(courses):
    whole = frames.summary_frame(courses)
    without = whole.with_columns(pl.lit(None, kind).alias(n) for n, kind in frames.TRUST.items())
    again = frames.trust_of_rounds(without, frames.fairness_frame(courses))
    assert again.schema == whole.schema
    for name in whole.columns:
        found, want = again[name], whole[name]
        if want.dtype == pl.Float64:
            assert found.is_null().to_list() == want.is_null().to_list(), name
            np.testing.assert_allclose(found.drop_nulls(), want.drop_nulls(), rtol=1e-5)
        else:
            assert found.to_list() == want.to_list(), name
    diverged = frames.trust_of_rounds(without, frames.fairness_frame(courses[:1]))
    assert diverged.filter(method="cgsv")["accuracy_spread"].null_count() == 2


def test_many_evaluations_are_judged_as_few(courses):
    alone, own = courses
    pair = np.stack([alone.evaluation.accuracy, alone.evaluation.loss], axis=2)[0, -1]
    finals = np.stack([own.evaluation.accuracy, own.evaluation.loss], axis=2)[0]
    many = np.resize(finals, (100, *finals.shape[1:]))
    each = frames.judged(pair, finals)
    for name, values in frames.judged(pair, many).items():
        np.testing.assert_array_equal(values, np.resize(each[name], 100))


def answered(method, place=0, draw=0, clients=5, rows=200, seeds=(7, 8), **fields):
    """A cell with answers, of clients that are right ever more often; `place` shifts the noise."""
    rng = np.random.default_rng([place, draw])
    chance = np.linspace(0.4, 0.8, clients)[:, None]
    right = rng.random((len(seeds), clients, rows)) < chance
    loss = (rng.exponential(size=right.shape) * (2 - chance)).astype(np.float32)
    own = course(right.mean(2)[:, None], loss.mean(2)[:, None], method)
    answers = Answers(right, loss)
    return own._replace(seeds=seeds, answers=answers, partition_seed=draw)._replace(**fields)


def test_the_interval_of_the_rows_is_that_of_all_seeds_and_draws():
    pairs = [(answered("standalone", 0, draw), answered("cgsv", 1, draw)) for draw in (0, 1)]
    summary = frames.summary_frame([cell for pair in pairs for cell in pair])
    for name, of in (("fairness", lambda x: x.right), ("fairness_by_loss", lambda x: -x.loss)):
        sides = (np.concatenate([of(c.answers) for c in side]) for side in zip(*pairs, strict=True))
        want = uncertainty.fairness_interval(np.random.default_rng(0), *sides, [0, 0, 1, 1])
        for row in summary.filter(method="cgsv").iter_rows(named=True):
            assert (row[f"{name}_low"], row[f"{name}_high"]) == (want.low, want.high)
            assert row[f"{name}_width_by_rows"] == want.by_rows
            assert row[f"{name}_width_by_partitions"] == want.by_partitions
    assert summary.filter(method="standalone")["fairness_low"].null_count() == 4
    row = frames.fairness_table(summary).row(1, named=True)
    want = frames.intervals([cell for pair in pairs for cell in pair])["power_law", "cgsv"]
    assert {name: row[name] for name in want} == want
    assert row["interval_over"] == "test rows, seeds, partitions"
    # Draws that have rows of their own, as validation rows are, are resampled each by itself.
    apart = frames.intervals([c for pair in pairs for c in pair], False)["power_law", "cgsv"]
    sides = (np.concatenate([c.answers.right for c in side]) for side in zip(*pairs, strict=True))
    rng = np.random.default_rng(0)
    own = uncertainty.fairness_interval(rng, *sides, [0, 0, 1, 1], tested=[0, 0, 1, 1])
    assert (apart["fairness_low"], apart["fairness_high"]) == (own.low, own.high)
    assert apart["fairness_width_by_rows"] < want["fairness_width_by_rows"]
    assert row["fairness_low"] < row["fairness"] < row["fairness_high"]


def test_without_the_answers_of_all_the_interval_is_that_of_seeds():
    alone, own = answered("standalone"), answered("cgsv", 1)
    for cells in (
        [alone, own._replace(answers=None)],
        [alone._replace(answers=None), own],
        [alone, own, answered("standalone", 0, 1), answered("cgsv", 1, 1, answers=None)],
    ):
        row = frames.fairness_table(frames.summary_frame(cells)).row(1, named=True)
        assert row["interval_over"] == "seeds"
        assert row["fairness_width_by_rows"] is row["fairness_by_loss_low"] is None
        values = frames.summary_frame(cells).filter(method="cgsv")["fairness"]
        assert (row["fairness_low"], row["fairness_high"]) == metrics.interval(values.to_numpy())
    # Of one seed there is none but that of the rows.
    one = [answered(name, place, seeds=(7,)) for place, name in enumerate(("standalone", "cgsv"))]
    table = frames.fairness_table(frames.summary_frame(one))
    assert table["interval_over"].to_list() == [None, "test rows"]
    assert table["fairness_width_by_seeds"].null_count() == 2
    # Rows of other runs beside them: no interval is that of all.
    both = pl.concat([frames.summary_frame(one), frames.summary_frame([alone, own])])
    assert frames.fairness_table(both)["interval_over"].to_list() == [None, "seeds"]


def test_equal_models_have_no_interval():
    alone = answered("standalone")
    right, loss = (np.repeat(x[:, :1], 5, axis=1) for x in alone.answers)
    equal = alone._replace(method="fedavg", answers=Answers(right, loss))
    equal = equal._replace(
        evaluation=equal.evaluation._replace(
            accuracy=right.mean(2, dtype=np.float32)[:, None], loss=loss.mean(2)[:, None]
        )
    )
    row = frames.fairness_table(frames.summary_frame([alone, equal])).row(1, named=True)
    assert (row["fairness"], row["fairness_low"], row["interval_over"]) == (None, None, None)
    diverged = alone._replace(answers=Answers(right, np.full_like(loss, np.nan)), method="cgsv")
    assert frames.intervals([alone, diverged])["power_law", "cgsv"] == {}


def test_fairness_table(cells):
    frame = frames.fairness_table(frames.summary_frame(cells))
    assert frame["method"].to_list() == ["standalone", "fedavg", "cgsv", "cgsv"]
    row = frame.row(2, named=True)
    values = frames.summary_frame(cells)["fairness"][4:6].to_numpy()
    assert row["fairness"] == pytest.approx(values.mean())
    assert row["fairness_sd"] == pytest.approx(values.std(ddof=1))
    assert (row["fairness_seeds"], row["seeds"]) == (2, 2)
    assert (row["fairness_low"], row["fairness_high"]) == pytest.approx((-100, 100), abs=1e-3)
    assert row["no_worse"] == 1
    assert row["gain_spread_seeds"] == 2
    assert frame.row(1, named=True)["fairness"] is None
    assert frame.row(1, named=True)["fairness_low"] is None
    yardstick = frame.row(0, named=True)
    assert yardstick["upload_bytes"] == 0  # alone, nothing is sent
    assert (yardstick["no_worse"], yardstick["no_worse_seeds"]) == (None, 0)
    assert frame.row(1, named=True)["fairness_seeds"] == 0


def test_draws_of_a_partition_stand_apart_and_are_averaged_together():
    """Each is held against its own standalone run, whatever the order; a mean is over both seeds.

    On draw 3 the clients end in the order of their standalone accuracies, on draw 4 the other way
    round: either draw's standalone run beside the other's methods would give the other sign.
    """
    rising, falling = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    draws = [
        cell(method, final=final)._replace(partition_seed=seed)
        for method, own in (("cgsv", (rising, rising)), ("standalone", (rising, falling)))
        for seed, final in zip((3, 4), own, strict=True)
    ]
    summary = frames.summary_frame(draws)
    assert summary.schema == frames.SUMMARY_COLUMNS
    runs = [("cgsv", draw, seed) for draw in (3, 4) for seed in (7, 8)]
    own = summary.filter(method="cgsv")
    assert own.select("method", "partition_seed", "seed").rows() == runs
    np.testing.assert_allclose(own["fairness"], [100, 100, -100, -100], atol=1e-3)
    clients = frames.clients_frame(draws).filter(method="cgsv", client=0)
    np.testing.assert_allclose(clients["standalone_accuracy"], [0.1, 0.1, 0.4, 0.4])
    row = frames.fairness_table(summary).row(0, named=True)
    assert (row["seeds"], row["fairness_seeds"], row["draws"]) == (4, 4, 2)
    assert row["fairness"] == pytest.approx(0, abs=1e-3)
    assert row["fairness_sd"] == pytest.approx(own["fairness"].to_numpy().std(ddof=1))


def test_fairness_defined_in_some_seeds(cells):
    final = np.array([[0.6, 0.7, 0.65, 0.75], [0.9] * 4])
    table = frames.fairness_table(frames.summary_frame([cells[0], cell(final=final)]))
    row = table.row(1, named=True)
    assert row["fairness"] == pytest.approx(100)
    assert row["fairness_sd"] is row["fairness_low"] is None  # of one seed
    assert row["mean_accuracy_sd"] is not None
    assert (row["fairness_seeds"], row["seeds"]) == (1, 2)
    assert tables_lib.why_undefined(table) == [
        "undefined for cgsv in 1 of 2 seeds: all clients end with the same accuracy"
    ]


def test_fairness_that_rests_on_little_says_so(cells):
    final = np.array([[0.9, 0.9, 0.9, 0.905], [0.6, 0.7, 0.8, 0.9]])
    summary = frames.summary_frame([*cells[:2], cell(final=final)])
    assert tables_lib.close_accuracies(summary) == [
        "fairness rests on little where final accuracies are within a point: cgsv 0.50"
    ]
    assert tables_lib.close_accuracies(frames.summary_frame(cells)) == []
    assert "rests on little" in printed(tables_lib.fairness(summary))


def test_ten_thousand_clients_are_quick():
    shape = (1, 100, 10_000)
    many = cell(shape=shape, rounds=(50, 100))
    frame = frames.rounds_frame([many])
    assert frame.shape == (1_000_000, len(frames.ROUND_COLUMNS))
    assert frame["accuracy"].null_count() == 980_000


def test_no_cells_are_empty_frames():
    assert frames.rounds_frame([]).schema == frames.ROUND_COLUMNS
    assert frames.clients_frame([]).schema == frames.CLIENT_COLUMNS
    assert frames.summary_frame([]).schema == frames.SUMMARY_COLUMNS


# ---------------------------------------------------------------- for people


def reports(cells, *width):
    return tables_lib.reports(frames.frames_of(cells), *width)


def printed(table, width=80):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def unbroken(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_tables_fit_and_say_what_is_undefined(cells):
    tables = reports(cells, 80)
    texts = [printed(table) for table in tables]
    assert not any("…" in text for text in texts)
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80
    assert "undefined for fedavg: all clients end with the same accuracy" in texts[0]
    assert re.search(r"standalone +yardstick +45.0 ± 0.0 \(60.0\) +–", texts[0])
    assert re.search(r"cgsv +±\? \[-100.0, 100.0\] +67.5 ± 0.0 \(75.0\) +22.5 +5.6", texts[0])
    assert re.search(r"method +fairness +\(max\), % +gain +spread", unbroken(texts[0]))
    assert "95 % bootstrap interval" in texts[0]
    assert "How far to trust it, on power_law" in texts[1]
    assert "Gains, distance and traffic on power_law" in texts[2]
    assert re.search(r"standalone +– +– +5500 +14.5 +18.8 +0 ", texts[2])
    assert re.search(r"cgsv +11.2 +100.0 +5500 +14.5 +18.8 +0.00012", texts[2])
    wide = reports(cells, 200)
    # Two pairs, how far to trust one, two of clients, and all partitions in one.
    assert len(wide) == 8 < len(tables)
    assert re.search(
        r" 3 +40 +4 +60.0 +90.0 +0.2500 +37.5 +67.5 +0.2500 +37.5 ", printed(wide[5], 200)
    )


def doubtful(accuracy=(0.4, 0.5, 0.7), late=(0.7, 0.5, 0.4), number=8):
    """Standalone and a method whose order of clients turns at the last evaluation but one."""
    own = [[accuracy] * number]
    own[0][-2] = late
    loss = np.tile([3.0, 2.0, 1.0], (1, number, 1))
    alone = course([[[0.3, 0.5, 0.6]] * number], loss, "standalone")
    return [alone, course(own, loss, "cgsv")]


def test_a_sign_that_changes_is_marked_wherever_the_number_stands():
    settled, turning = doubtful(late=(0.4, 0.5, 0.7)), doubtful()
    parts = [c._replace(partition=name) for c, name in zip(turning * 2, "aabb", strict=True)]
    for made, mark in ((settled, ""), (turning, "*")):
        table, trust, *_ = reports(made)
        assert table.cells["fairness"].to_list() == ["yardstick", f"92.9{mark}"]
        assert trust.cells["by loss"].to_list() == [None, "100"]  # by which the order stays
        explained = [line for line in table.lines if line.startswith("* ")]
        assert len(explained) == bool(mark)
    assert trust.cells["last quarter"].to_list() == [None, "-4 (-100, 93)"]
    assert trust.cells["by loss, last quarter"].to_list() == [None, "100"]
    assert tables_lib.markdown(table.cells).splitlines()[-1].startswith("| cgsv | 92.9* |")
    shown = tables_lib.overview(frames.summary_frame(parts))
    assert shown.cells.row(1) == ("cgsv", "93* (53.3)", "93* (53.3)")
    assert sum(line.startswith("* ") for line in shown.lines) == 1
    lost = frames.summary_frame(doubtful(late=(0.5,) * 3))
    assert tables_lib.fairness(lost).cells["fairness"][1] == "92.9*"  # it comes and goes


def test_an_interval_with_both_signs_leaves_no_number():
    pair = [answered("standalone"), answered("cgsv", 1)]
    right = np.roll(pair[1].answers.right, (1, 2), axis=(0, 1))
    unsure = pair[1]._replace(answers=pair[1].answers._replace(right=right))
    row = frames.fairness_table(frames.summary_frame([pair[0], unsure])).row(1, named=True)
    assert row["fairness_low"] < 0 < row["fairness_high"]
    for digits, ends in ((1, ".1f"), (0, ".0f")):
        low, high = (format(row[f"fairness_{end}"], ends) for end in ("low", "high"))
        assert tables_lib.fairness_text(row, digits=digits) == f"±? [{low}, {high}]"
    assert tables_lib.fairness_text(row, with_interval=False) == "±?"
    assert tables_lib.both_signs(row)
    table, trust, *_ = reports([pair[0], unsure])
    assert table.cells["fairness"][1].startswith("±? [")
    assert "[95 % interval over test rows, seeds]" in table.lines
    assert any(line.startswith("±? ") for line in table.lines)
    widths = [row[f"fairness_width_{by}"] for by in ("by_rows", "by_seeds")]
    line = f"the interval's width by test rows, seeds alone: cgsv {widths[0]:.0f}, {widths[1]:.0f}"
    assert line in trust.lines
    sure = tables_lib.fairness(frames.summary_frame(pair))
    assert re.fullmatch(r"9\d\.\d \[\d+\.\d, \d+\.\d\]", sure.cells["fairness"][1])
    assert not any(line.startswith("±?") for line in sure.lines)


def test_a_method_that_reads_the_standalone_accuracies_is_marked():
    """Wherever its fairness is a number; not the losses, and not where nobody said so."""
    alone, other = cell("standalone", final=[0.3, 0.5, 0.4, 0.6]), cell("cgsv")
    told = other._replace(method="iafl[contribution_by=accuracy]", oracle=True)
    summary = frames.summary_frame([alone, other, told])
    assert summary["oracle"].to_list() == [False] * 4 + [True] * 2
    table = frames.fairness_table(summary)
    assert table["oracle"].to_list() == [False, False, True]
    texts = [tables_lib.fairness_text(row) for row in table.iter_rows(named=True)]
    assert [text.count("†") for text in texts] == [0, 0, 1]
    row = table.row(2, named=True)
    assert "†" not in tables_lib.fairness_text(row, "fairness_by_loss")
    assert tables_lib.signs(row | {"fairness": None, "unsettled": 0}) == []
    line = "† oracle: an input is the standalone accuracy that fairness compares with"
    for report in (tables_lib.fairness(summary), tables_lib.overview(summary)):
        (said,) = (own for own in report.lines if own.startswith("†"))
        assert said.startswith(line)
        assert "†" in tables_lib.markdown_of(report)
        assert "†" in tables_lib.html(report)
        assert r"\textdagger{}" in tables_lib.latex(report)
    for nobody in (
        summary.filter(pl.col("method") != told.method),
        summary.with_columns(oracle=pl.lit(None, pl.Boolean)),
    ):
        assert not any("†" in own for own in tables_lib.fairness(nobody).lines)


def test_how_far_to_trust_it_says_what_scipy_does(courses):
    summary = frames.summary_frame(courses)
    (report,) = tables_lib.trust(summary)
    spreads = tables_lib.fairness(summary).cells["spread"]
    last = frames.fairness_frame(courses).filter(pl.col("counts"))
    methods = ("standalone", "cgsv")
    for method, row, spread in zip(methods, report.cells.to_dicts(), spreads, strict=True):
        own = last.filter(method=method)
        assert spread == f"{100 * own['accuracy_spread'].mean():.1f}"
        rank = own["rank_fairness"].mean()
        assert row["by rank"] == (None if rank is None else f"{rank:.0f}")
    assert tables_lib.trust(frames.summary_frame(courses[:1])) == []


def test_how_far_to_trust_it_fits_however_long_its_numbers_are():
    table = frames.fairness_table(frames.summary_frame(doubtful()))
    worst = {name: -100.0 for name in table.columns if "fairness" in name and "_un" not in name}
    worst |= {name: 100.0 for name in table.columns if name.endswith(("_max", "_high"))}
    worst |= {"late_fairness": -99.0, "late_fairness_by_loss": -99.0, "accuracy_spread": 0.3}
    worst |= {"unsettled": 1, "unsettled_by_loss": 1, "method": "size_weighted:released"}
    row = table.row(1, named=True) | worst
    cells = tables_lib.texts(tables_lib.TRUST, [table.row(0, named=True), row])
    text = printed(tables_lib.Report(cells))
    assert "…" not in text
    assert "±?* [-100, 100]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_means_over_some_seeds_say_over_how_many(cells):
    """A client that diverged in one seed: its seed leaves the means of accuracy and distance."""
    final = np.array([[0.6, 0.7, 0.65, 0.75], [np.nan] * 4])
    broken = cell(final=final)
    distance = broken.evaluation.distance.copy()
    distance[1, -1, 0] = np.inf
    broken = broken._replace(evaluation=broken.evaluation._replace(distance=distance))
    summary = frames.summary_frame([cells[0], broken])
    row = frames.fairness_table(summary).row(1, named=True)
    assert row["mean_accuracy"] == pytest.approx(0.675)
    assert row["distance"] == pytest.approx(501.625)
    counted = ("mean_accuracy", "fairness", "no_worse", "distance", "energy")
    assert [row[f"{name}_seeds"] for name in counted] == [1, 1, 1, 1, 2]
    text = printed(tables_lib.fairness(summary))
    assert re.search(r"cgsv +100.0 \(1 of 2\) +67.5 \(75.0\) \(1 of 2\) ", text)
    assert "(k of n)" in text
    assert re.search(r"502 \(1 of 2\) +14.5 ", printed(tables_lib.traffic(summary)))
    assert "(k of n)" not in printed(tables_lib.fairness(frames.summary_frame(cells[:3])))


def test_seconds():
    own = {"partition": "uniform", "compile_seconds": 1.25, "run_seconds": 0.5}
    timing = {"methods": [own | {"method": m, "rounds_per_second": 120.4} for m in ("a", "b")]}
    assert tables_lib.seconds(timing).cells.row(0) == ("a", "1.2", "0.5", "120")
    elsewhere = {"methods": [*timing["methods"], timing["methods"][0] | {"partition": "power_law"}]}
    assert tables_lib.seconds(elsewhere).cells["partition"].to_list() == [
        "uniform",
        "uniform",
        "power_law",
    ]
    phases = [
        {"name": name, "seconds": {"median": median}}
        for name, median in (("training", 0.0321), ("server", 4e-4), ("evaluation", 2.0))
    ]
    timing["profiles"] = [{"partition": "uniform", "method": "b", "phases": phases}]
    text = printed(tables_lib.seconds(timing))
    assert re.search(r"a +1.2 +0.5 +120 +– +– +–", text)
    assert re.search(r"b +1.2 +0.5 +120 +32.1 +0.400 +2000", text)
    assert "Seconds" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (None, "–"), (12.345, "12.3"), (0.012345, "0.0123"), (1234.5, "1230"),
     (9.999, "10.0"), (1e-7, "1e-07"), (2.5e9, "2.5e+09")],
)  # fmt: skip
def test_three_digits(value, text):
    assert tables_lib.number(value, digits=None) == text


def test_long_method_names_fit_too(cells):
    """And those too long for any width break, so that no number is cut."""
    for name in ("cgsv:released", "size_weighted:released", "a_method_of_thirty_letters:xyz"):
        named = [cells[0], cells[2]._replace(method=name)]
        texts = [printed(table) for table in reports(named, 80)[:2]]
        assert not any("…" in text for text in texts), name
        assert "±? [-100.0, 100.0]" in texts[0]
    tables = reports([cells[0], cells[2]._replace(method="cgsv:released")], 80)
    assert not any("…" in printed(table) for table in tables)


def test_all_partitions_in_one_table():
    """Methods down, partitions across; what is undefined says why below."""
    names = ("standalone", "fedavg", "cgsv")
    final = {"standalone": [0.3, 0.5, 0.4, 0.6], "fedavg": 0.9, "cgsv": [0.6, 0.7, 0.65, 0.75]}
    made = [cell(name, part, final[name]) for part in ("uniform", "dirichlet") for name in names]
    shown = tables_lib.overview(frames.summary_frame(made)).cells
    assert shown["method"].to_list() == list(names)
    want = ["yardstick (45.0)", "undefined (90.0)", "100 (67.5)"]
    assert shown["dirichlet"].to_list() == shown["uniform"].to_list() == want
    last = printed(reports(made)[-1])
    assert "All partitions" in last
    assert "undefined for fedavg on uniform, dirichlet: all clients end with" in " ".join(
        last.split()
    )
    assert not any("All partitions" in printed(t) for t in reports(made[:3]))


def test_the_table_of_all_partitions_fits_a_terminal():
    parts = ("uniform", "power_law", "class_imbalance")
    final = [0.6, 0.7, 0.65, 0.75]
    names = {"standalone": [0.3, 0.5, 0.4, 0.6], "fedavg_finetuned": final}
    made = [cell(name, part, accuracy) for part in parts for name, accuracy in names.items()]
    text = printed(reports(made)[-1])
    assert "…" not in text
    assert re.search(r"fedavg_finetuned( +100 \(67.5\)){3}", text)


def test_of_many_methods_no_clients_are_printed():
    made = [cell(name) for name in ("standalone", *"abcdefg")]
    assert not any("at the end" in t.title for t in reports(made))
    assert any("at the end" in t.title for t in reports(made[:3]))


def test_many_clients_are_a_selection_that_says_so():
    shape = (1, 1, 1000)
    many = [cell(name, shape=shape, rounds=(1,)) for name in ("standalone", "cgsv")]
    shown = tables_lib.clients_of(frames.clients_frame(many))
    assert len(shown) == 11
    assert shown["rows"].to_list()[0] == "10"
    assert shown["rows"].to_list()[-1] == "10000"
    text = " ".join(printed(reports(many)[-1]).split())
    assert "11 of 1,000 clients" in text
    sizes = np.random.default_rng(0).permutation(1000)
    held = tables_lib.holdings(sizes, np.ones(1000, int)).cells
    assert held["rows"].to_list() == [str(i) for i in np.linspace(0, 999, 11).round().astype(int)]
    for row in held.iter_rows(named=True):
        assert str(sizes[int(row["client"])]) == row["rows"]


def test_holdings_show_everybody_when_few(cells):
    text = printed(tables_lib.holdings(cells[0].sizes, cells[0].classes, "power_law"))
    assert re.search(r"3 +40 +40.00 +4", text)
    assert "4 clients, 100 rows in all" in " ".join(text.split())
    assert len(tables_lib.holdings(np.zeros(20, int), np.zeros(20, int)).cells) == 20


def test_a_column_without_any_text_is_left_out():
    columns = [
        tables_lib.plain("a", "a"),
        tables_lib.plain("b, %", "b", 100),
        tables_lib.Column("c", lambda row: row["c"]),
        tables_lib.Column("d", lambda row: row["d"]),
    ]
    rows = [{"a": 1, "b": 0.125, "c": None, "d": None}, {"a": 2, "b": None, "c": None, "d": "x"}]
    cells = tables_lib.texts(columns, rows)
    assert cells.to_dict(as_series=False) == {
        "a": ["1", "2"],
        "b, %": ["12.5", "–"],
        "d": [None, "x"],
    }
    text = unbroken(printed(tables_lib.Report(cells, "title", ("below", "it"))))
    lines = [line.split() for line in text.splitlines()]
    assert [line for line in lines if line and "─" not in line[0]] == [
        *(["title"], ["a", "b,", "%", "d"]),
        *(["1", "12.5", "–"], ["2", "–", "x"], ["below"], ["it"]),
    ]
    assert tables_lib.markdown(cells).splitlines()[2:] == ["| 1 | 12.5 | – |", "| 2 | – | x |"]


def test_markdown():
    frame = pl.DataFrame({"a|b": ["x\ny", None], "n": [1.5, None], "text": ["0.1 ± 0.2", "–"]})
    assert tables_lib.markdown(frame).splitlines() == [
        r"| a\|b | n | text |",
        "|---|---:|---:|",
        "| x y | 1.5000 | 0.1 ± 0.2 |",
        "| – | – | – |",
    ]


# ---------------------------------------------------------------- files


def test_written_is_read(run, cells):
    read = directory_lib.read(run)
    assert read.config == {"beta": "inf"}
    assert read.environment.pop("tables").keys() == {
        "rounds.parquet",
        "clients.parquet",
        "fairness.parquet",
        "summary.parquet",
        "holdings.parquet",
    }
    assert read.environment == {"x": None}
    assert read.timing == {"seconds": 1.5}
    assert read.rounds.equals(frames.rounds_frame(cells), null_equal=True)
    assert read.clients.equals(frames.clients_frame(cells), null_equal=True)
    assert read.summary.equals(frames.summary_frame(cells), null_equal=True)
    assert read.holdings.equals(frames.holdings_frame(cells))
    assert sorted(os.listdir(run)) == sorted(directory_lib.FILES)  # nothing temporary is left
    table = json.loads((run / "summary.json").read_text())
    assert table[0]["fairness"] is None
    assert table[1]["fairness_undefined"] == "all clients end with the same accuracy"


def test_holdings_are_a_row_per_draw_client_and_label_that_is_held(cells):
    """Not one per method or seed, which hold the same."""
    table = frames.holdings_frame([*cells, cells[0]._replace(partition_seed=4)])
    keys = table.select("partition", "partition_seed").unique(maintain_order=True)
    assert keys.rows() == [("power_law", 0), ("uniform", 0), ("power_law", 4)]
    own = table.filter(partition="uniform").select("client", "label", "rows")
    assert own.rows() == [(client, label, 10) for client in range(4) for label in range(client + 1)]


def test_holdings_of_other_clients_are_refused_and_none_are_of_an_earlier_version(cells, tmp_path):
    directory = tmp_path / "run"
    directory_lib.write(directory, {}, {}, {}, [cell._replace(held=None) for cell in cells])
    assert len(directory_lib.read(directory).holdings) == 0
    environment = directory_lib.read_json(directory, "environment.json")
    holdings = directory / "holdings.parquet"
    other = frames.holdings_frame([cells[0]._replace(held=np.ones((5, 1), np.int32))])
    content = directory_lib.parquet(other)
    environment["tables"] |= directory_lib.digests({"holdings.parquet": content})
    documents = {"environment.json": files.document(environment), "holdings.parquet": content}
    files.write_files(directory, documents)
    with pytest.raises(ValueError, match="holdings and clients are not of the same"):
        directory_lib.read(directory)
    del environment["tables"]["holdings.parquet"]
    files.write_files(directory, {"environment.json": files.document(environment)})
    holdings.unlink()
    assert len(directory_lib.read(directory).holdings) == 0


def test_equal_results_are_equal_bytes(run, cells, tmp_path):
    again = tmp_path / "again"
    directory_lib.write(again, {"beta": math.inf}, {"x": None}, {"seconds": 1.5}, cells)
    for name in directory_lib.FILES:
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_json_is_strict_and_sorted(tmp_path, cells):
    config = {"z": np.float32(0.5), "a": (1, np.int64(2)), "n": math.nan, "m": {"b": -math.inf}}
    config["p"] = tmp_path
    directory_lib.write(tmp_path, config, {}, {"x": np.array([1.0, np.inf])}, cells)
    text = (tmp_path / "config.json").read_text()

    def refuse(word):
        raise AssertionError(word)

    assert files.read_json(tmp_path / "config.json", must_be_sealed=True) == {
        "a": [1, 2],
        "m": {"b": "-inf"},
        "n": None,
        "p": str(tmp_path),
        "z": 0.5,
    }
    assert re.findall(r'^  "(\w+)"', text, re.MULTILINE) == ["a", "m", "n", "p", "sha256", "z"]
    for name in directory_lib.FILES:
        if name.endswith(".json"):
            json.loads((tmp_path / name).read_text(), parse_constant=refuse)


def test_nothing_is_replaced_when_something_cannot_be_written(run, cells, monkeypatch):
    before = {name: (run / name).read_bytes() for name in directory_lib.FILES}
    with pytest.raises(TypeError):
        directory_lib.write(run, {"model": object()}, {}, {}, cells)

    def full(file, content):
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"run cannot be written to: No space left on device$"):
        directory_lib.write(run, {"other": 1}, {}, {}, cells)
    assert {name: (run / name).read_bytes() for name in directory_lib.FILES} == before
    assert sorted(os.listdir(run)) == sorted(directory_lib.FILES)


def test_files_are_replaced_not_rewritten(run, cells, tmp_path):
    # Whoever has the old file open, here by a second name, keeps all of it.
    kept = tmp_path / "kept.json"
    os.link(run / "config.json", kept)
    directory_lib.write(run, {"other": 1}, {}, {}, cells)
    assert files.read_json(kept) == {"beta": "inf"}
    assert directory_lib.read(run).config == {"other": 1}


A_SWEEP = ("environment.json", "config.json", "timing.json", *directory_lib.SWEEP_FILES)


@pytest.mark.parametrize("names", [directory_lib.FILES, A_SWEEP], ids=["run", "sweep"])
def test_what_a_directory_is(names, tmp_path):
    """Fresh while it holds an environment at most, finished when all of one kind is there."""
    state = directory_lib.state_of
    assert state(tmp_path / "nowhere") == state(tmp_path) == "fresh"
    (tmp_path / "environment.json").touch()
    assert state(tmp_path) == "fresh"
    found = []
    names = [name for name in names if name not in directory_lib.LATER]
    for name in set(names) - {"environment.json"}:
        (tmp_path / name).touch()
        found.append(state(tmp_path))
    assert found == ["begun"] * (len(names) - 2) + ["finished"]
    for name in names:
        (tmp_path / name).rename(tmp_path / "away")
        (tmp_path / name).mkdir()
        assert state(tmp_path) == "begun"  # a folder is no result
        (tmp_path / name).rmdir()
        (tmp_path / "away").rename(tmp_path / name)
    (tmp_path / names[1]).unlink()
    (tmp_path / names[1]).symlink_to("/etc/hosts")
    with pytest.raises(ValueError, match="symbolic link"):
        state(tmp_path)


@pytest.mark.parametrize(("config", "own"), [({}, "run"), ({"axes": []}, "sweep")])
def test_who_goes_on_with_what_another_began_is_told_the_command(config, own, tmp_path):
    (other,) = {"run", "sweep"} - {own}
    directory_lib.begin(tmp_path, config)
    assert directory_lib.resumable(tmp_path, own) == (tmp_path, config)
    message = f"which holds a {own}, with which `cgsv {own} --resume {tmp_path}` goes on"
    with pytest.raises(ValueError, match=re.escape(message)):
        directory_lib.resumable(tmp_path, other)
    wanted = {"run": "a run directory", "sweep": "a sweep's directory"}[own]
    with pytest.raises(ValueError, match=f"it must be {wanted}, it is not there"):
        directory_lib.resumable(tmp_path / "nowhere", own)
    with pytest.raises(ValueError, match="which is a file, it must name a directory"):
        directory_lib.resumable(tmp_path / "config.json", own)


def test_create_makes_parents(tmp_path):
    directory = directory_lib.create(tmp_path / "a" / "b")
    assert directory.is_dir()
    assert directory_lib.create(directory) == directory  # empty: still free
    (directory / "notes.txt").write_text("mine")
    assert directory_lib.create(str(directory)) == directory


def test_create_refuses_a_run_and_overwrites_only_what_it_knows(run):
    with pytest.raises(ValueError, match=r"^--out is '.*run', which holds a run, .* --overwrite"):
        directory_lib.create(run)
    assert sorted(os.listdir(run)) == sorted(directory_lib.FILES)
    mine = [run / "notes.txt", run / "figures" / "mine.png", run / "figures" / "notes.txt"]
    stale = run / "figures" / "accuracy-power_law.png"
    stale.parent.mkdir()
    for file in (*mine, stale):
        file.write_text("x")
    directory_lib.create(run, overwrite=True)
    assert [name for name in directory_lib.FILES if (run / name).exists()] == []
    assert all(file.exists() for file in mine)
    assert not stale.exists()


def test_create_refuses_what_is_no_directory(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"^--out is '.*', which is a file, it must"):
            directory_lib.create(file, overwrite)
        with pytest.raises(OSError, match=r"below cannot be written to: Not a directory$"):
            directory_lib.create(file / "below", overwrite)
    assert file.read_text() == "x"
    new = tmp_path / "new"
    for path in ("", "a\0b", "a\udcffb", "x" * 300, new / ("x" * 300), "~nobody-of-this-name/run"):
        with pytest.raises(ValueError, match=r"^--out is "):
            directory_lib.create(path)
    assert not new.exists()
    (tmp_path / "odd" / "config.json").mkdir(parents=True)
    with pytest.raises(OSError, match=r"odd cannot be written to: Is a directory$"):
        directory_lib.create(tmp_path / "odd", overwrite=True)
    for name in directory_lib.FOLDERS:
        (tmp_path / name).write_text("mine")
        with pytest.raises(ValueError, match=f"whose {name} is a file"):
            directory_lib.create(tmp_path)
        (tmp_path / name).unlink()


def test_no_name_in_a_run_is_followed_out_of_it(run, tmp_path):
    """Whoever made the directory: what its names lead to is neither read, written nor removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("accuracy-a.png", "000000000001", "x.json", ".config.json.1.tmp"):
        (outside / name).write_text("mine")
    before = sorted(outside.rglob("*"))
    for name in directory_lib.FOLDERS:
        (run / name).symlink_to(outside)
        with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
            directory_lib.create(run, overwrite=True)
        (run / name).unlink()
    (run / "config.json").rename(outside / "config.json")
    (run / "config.json").symlink_to(outside / "config.json")
    for use in (directory_lib.read, directory_lib.resumable, lambda d: directory_lib.begin(d, {})):
        with pytest.raises(ValueError, match=r"config\.json is a symbolic link"):
            use(run)
    assert sorted(outside.rglob("*")) == sorted([*before, outside / "config.json"])


def test_what_a_killed_process_left_is_tidied(run):
    half = [".config.json.1.tmp", "figures/.pair-a-b.png.22.tmp", "parts/.x.parquet.3.tmp"]
    half += [".report.html.4.tmp"]
    others = [".config.json.tmp", "figures/.mine.tmp", "parts/x.parquet.1.tmp", ".notes.1.tmp"]
    for name in (*half, *others):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    directory_lib.tidy(run)
    assert [name for name in (*half, *others) if (run / name).exists()] == others


def test_a_folder_has_a_name_that_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert directory_lib.fresh("run", "my set\n1").as_posix() == "runs/run-my_set_1-001"
    assert directory_lib.fresh("run", "a/..\\b-1.2é").as_posix() == "runs/run-a_.._b-1.2é-001"
    (tmp_path / "runs" / "run-my_set_1-001").mkdir(parents=True)
    assert directory_lib.fresh("run", "my set\n1").name == "run-my_set_1-002"


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path, monkeypatch):
    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    directory = directory_lib.create(tmp_path / "run")
    with pytest.raises(OSError, match="run cannot be written to: No space left on device"):
        directory_lib.begin(directory, {})
    assert not directory.exists()


def test_read_refuses_what_is_no_run(tmp_path, run):
    with pytest.raises(ValueError, match="is no run directory: it is not there"):
        directory_lib.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no run directory: it is a file"):
        directory_lib.read(run / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is no run directory: it holds none of config\.json"):
        directory_lib.read(tmp_path / "empty")


@pytest.mark.parametrize("name", [n for n in directory_lib.FILES if n != "summary.json"])
def test_read_refuses_a_damaged_run(run, name):
    whole = (run / name).read_bytes()
    for length in (0, 1, 4, len(whole) // 2, len(whole) - 3):
        (run / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{name} cannot be read: "):
            directory_lib.read(run)
    (run / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        directory_lib.read(run)


@pytest.mark.parametrize("name", [n for n in directory_lib.FILES if n != "summary.json"])
def test_a_flipped_bit_is_refused_or_changes_nothing(run, name):
    good, whole = directory_lib.read(run), (run / name).read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        (run / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            read = directory_lib.read(run)
        except ValueError as error:
            assert f"{name} cannot be read: " in str(error)  # noqa: PT017
        else:  # a blank between two tokens became another
            assert read[:3] == good[:3]


@pytest.fixture
def earlier(run):
    """A run of an earlier version, which had no digests."""
    for name in directory_lib.JSON_FILES:
        (run / f"{name}.json").write_text("{}")
    for name in frames.COLUMNS:
        table = pl.read_parquet(run / f"{name}.parquet")
        table.drop(frames.LATER, strict=False).write_parquet(run / f"{name}.parquet")
    for name in directory_lib.LATER:
        (run / name).unlink()
    return run


def test_a_run_of_an_earlier_version_is_read(earlier, cells):
    read = directory_lib.read(earlier)
    assert directory_lib.state_of(earlier) == "finished"
    made = frames.summary_frame(cells)
    known = [name for name in made.columns if name not in frames.LATER]
    assert read.summary.select(known).equals(made.select(known), null_equal=True)
    assert dict(read.summary.schema) == frames.SUMMARY_COLUMNS  # in whatever order
    # What only this version writes of the evaluations is found from the rounds, to the last bit.
    assert read.fairness.equals(frames.fairness_frame(cells), null_equal=True)
    for name in frames.TRUST:
        np.testing.assert_allclose(
            read.summary[name].cast(pl.Float64).fill_null(np.nan),
            made[name].cast(pl.Float64).fill_null(np.nan),
            rtol=1e-5,
            atol=1e-7,
            err_msg=name,
        )
    made = frames.clients_frame(cells)
    assert read.clients.select(made.columns).equals(made, null_equal=True)
    (earlier / "config.json").write_text('{"partition_seed": 4}')
    for table in directory_lib.read(earlier)[3:7]:
        assert set(table["partition_seed"]) == {4}
    (earlier / "timing.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"timing\.json cannot be read: it must hold"):
        directory_lib.read(earlier)


def test_read_refuses_other_contents(earlier):
    run = earlier
    pl.DataFrame({"seed": [1]}).write_parquet(run / "summary.parquet")
    with pytest.raises(ValueError, match=r"summary.parquet cannot be read: it lacks .*fairness"):
        directory_lib.read(run)


@pytest.mark.parametrize(
    ("name", "column", "values", "message"),
    [
        ("rounds", "partition", pl.lit(1), "partition holds Int32, not text"),
        ("summary", "method", pl.lit(None, pl.String), "method is unknown in some rows"),
        ("clients", "accuracy", pl.lit("high"), "accuracy holds String, not numbers"),
        ("clients", "rows", pl.lit(b"x"), "rows holds Binary, not numbers"),
        ("rounds", "score", pl.lit([1.0]), r"score holds List\(Float64\), not numbers"),
        ("summary", "method", pl.lit("other"), "not of the same partition, method, partition_seed"),
        ("clients", "client", pl.col("client") + 1, "are not of the same .*, client"),
        ("clients", "energy", pl.lit(math.nan), "energy is not finite in some rows"),
        ("rounds", "accuracy", pl.lit(math.inf), "accuracy is not finite in some rows"),
        (
            "rounds",
            "method",
            pl.lit("a\x1b[2J"),
            r"a method is named 'a\\x1b\[2J', which is no name",
        ),
        ("rounds", "method", pl.lit("x" * 301), "which is no name"),
        ("summary", "partition", pl.lit("a\u202eb"), "which is no name"),
    ],
)
def test_read_refuses_other_types_and_other_runs(earlier, name, column, values, message):
    run = earlier
    file = run / f"{name}.parquet"
    pl.read_parquet(file).with_columns(values.alias(column)).write_parquet(file)
    with pytest.raises(ValueError, match=message):
        directory_lib.read(run)


def test_environment():
    found = environment.environment()
    assert found["versions"]["jax"] == jax.__version__
    assert set(found["versions"]) == {
        "python",
        "jax",
        "jaxlib",
        "numpy",
        "flax",
        "optax",
        "cgsv_jax",
    }
    assert found["device"]["count"] == jax.device_count()
    assert found["xla_flags"] == os.environ.get("XLA_FLAGS")
    assert set(found["git"]) == {"commit", "dirty"}
    json.dumps(found, allow_nan=False)


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


@needs_git
def test_checkout_is_the_packages_own(tmp_path, monkeypatch):
    import subprocess

    monkeypatch.setenv("HOME", str(tmp_path))

    def git(*args):
        subprocess.run(["git", "-C", str(tmp_path), *args], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "types.py").write_text("")
    nothing = {"commit": None, "dirty": None}
    assert environment._checkout(package) == nothing
    git("init")
    assert environment._checkout(package) == nothing  # lies in a checkout, but is not part of it
    git("add", "package/types.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "x")
    clean = environment._checkout(package)
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.json").write_text("{}")
    assert environment._checkout(package) == clean
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert environment._checkout(package) == clean
    (package / "new.py").write_text("")
    assert environment._checkout(package)["dirty"] is True
    (package / "new.py").unlink()
    (package / "types.py").write_text("changed")
    assert environment._checkout(package) == {**clean, "dirty": True}


def test_of_many_methods_the_clients_accuracies_stand_side_by_side(cells):
    """Of two all that is known of a client; of more one column each, and nothing else."""
    names = ("standalone", "a", "b", "c")
    several = [cells[0]._replace(method=name) for name in names]
    (table,) = tables_lib.clients_after(frames.clients_frame(several))
    assert table.cells.columns == ["client", "rows", "classes", *names]
    assert table.cells["a"].to_list() == table.cells["standalone"].to_list()
    few = tables_lib.clients_after(frames.clients_frame(several[:3]), console_width=200)
    assert "a reputation" in few[0].cells.columns
