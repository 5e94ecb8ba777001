"""Every experiment and benchmark runs at its smoke scale; see also test_benchmarks.py."""

import importlib
import importlib.util
import json
import os
import re
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import experiments
from benchmarks import __main__ as benchmarks
from benchmarks import methods, precision, table, variants
from cgsv_jax.core import attacks, vectors
from cgsv_jax.experiment import names, running
from cgsv_jax.results import directory, frames
from cgsv_jax.rules.contribution import CONTRIBUTIONS, games
from cgsv_jax.rules.contribution.shapley import exact
from cgsv_jax.types import Conduct, Download, Upload
from experiments import (
    attacked,
    common,
    digits_defaults,
    fairness,
    fedrac,
    fragility,
    free_riders,
    overhead,
    paper,
    psi_error,
    robustness,
    schedule,
    steadiness,
)

pytestmark = pytest.mark.long

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the yardstick needs PyTorch (extra [bench])"
)


def test_every_item_has_a_module_and_a_line():
    """In the README of experiments, with its command."""
    text = (Path(experiments.__file__).parent / "README.md").read_text()
    for item in experiments.__all__:
        assert callable(importlib.import_module(f"experiments.{item}").main)
        assert f"`python -m experiments.{item} --scale small`" in text


def test_digits_defaults(capsys):
    digits_defaults.main(["--scale", "smoke"])
    printed = capsys.readouterr().out
    assert "chosen: learning_rate" in printed
    assert "in use: learning_rate 0.1, gamma 0.5" in printed


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param("exact_shapley", 1, marks=needs_torch),
        ("methods", len(methods.KNOWN) - 1),
        ("sweeps", 1),
        ("sweep_command", 1),
        ("padding", 3),
        ("population", 6),
        ("compile_time", 1),
    ],
)
def test_smoke_of_a_question(name, count):
    """The results that it compares agree, or it raises; its rows can be shown."""
    rows = importlib.import_module(f"benchmarks.{name}").rows("smoke")
    assert len(rows) == count
    for row in rows:
        assert table.markdown(row).count("|") == table.HEADER.splitlines()[0].count("|")


def test_the_whole_table_is_printed_and_written(tmp_path, capsys):
    """One question that can be answered and one that fails, which does not end the others."""
    file = tmp_path / "table.json"

    def broken(scale):
        raise RuntimeError("no such machine\nand more")

    known = benchmarks.rows_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "rows_of", lambda n: broken if n == "sweeps" else known(n))
        argv = ["--scale", "smoke", "--only", "sweeps,padding", "--json", str(file)]
        assert benchmarks.main(argv) == 1
    printed = capsys.readouterr().out
    assert "not measured" in printed
    assert "no such machine |" in printed
    assert "layout all" in printed
    written = json.loads(file.read_text())
    assert written["failed"] == ["sweeps"]
    assert len(written["rows"]) == 3


def test_precisions_are_compared():
    lines = precision.table_of("smoke").splitlines()
    assert len(lines) == 2 + 2
    assert "| 0.0e+00 |" in lines[2]  # float32 from itself
    assert "bfloat16" in lines[3]
    assert "| 0.0e+00 |" not in lines[3]


def test_smoke_of_the_variants():
    assert variants.masks(variants.SCALES["smoke"]).count("\n") == 8


@pytest.fixture(scope="module")
def smoked(tmp_path_factory):
    """Runs a script of experiments/ once; gives its folder, its table and what it printed."""
    folder = tmp_path_factory.mktemp("experiments")
    seen = {}

    def run(item, capsys):
        if item not in seen:
            module = importlib.import_module(f"experiments.{item}")
            module.main(["--scale", "smoke", "--out", str(folder)])
            stem = folder / f"{item}-smoke"
            printed = capsys.readouterr().out
            assert printed.strip() == stem.with_suffix(".md").read_text().strip()
            assert stem.with_suffix(".png").stat().st_size > 10_000
            assert f"python -m experiments.{item} --scale smoke" in printed
            assert f"jax {jax.__version__}" in printed
            seen[item] = pl.read_parquet(stem.with_suffix(".parquet")), printed
        return seen[item]

    run.folder = folder
    return run


def test_fairness_and_accuracy_are_of_the_same_runs(smoked, capsys):
    """The second script reads what the first one ran, and both show the cells' own numbers."""
    judged, printed = smoked("fairness", capsys)
    assert judged["method"].unique().to_list() == ["cgsv"]
    assert "| cgsv |" in printed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "run", lambda *args: pytest.fail("the cells are there already"))
        frame, printed = smoked("accuracy", capsys)
    assert set(frame["method"]) == {"standalone", "cgsv"}
    shown = f"{100 * frame.filter(method='cgsv')['mean_accuracy'].mean():.1f} ("
    assert shown in printed
    assert frame["cell"].unique().to_list() == ["digits CLA-3"]


def test_beta_acts_more_on_the_ratio_to_the_largest(smoked, capsys):
    frame, printed = smoked("beta", capsys)
    assert len(frame) == 2 * 9 * 2  # scales, betas, seeds
    share = frame.group_by("beta on", "beta").agg(pl.col("lowest_share").mean())

    def spread(on):
        own = share.filter(pl.col("beta on") == on, pl.col("beta") <= 2)["lowest_share"]
        return own.max() - own.min()

    assert spread("r / max r") > 2 * spread("r, sum 1")
    everything = frame.filter(pl.col("beta") == float("inf"))
    assert everything["mean_share"].to_list() == [1.0] * len(everything)
    assert "points" in printed


def test_weights_differ_in_the_aggregation_alone(smoked, capsys):
    frame, printed = smoked("weights", capsys)
    assert sorted(frame["weights"].unique()) == ["reputation", "size", "uniform"]
    # All clients of this partition hold equally many rows, so that size is uniform.
    size, uniform = (frame.filter(weights=w)["mean_accuracy"] for w in ("size", "uniform"))
    assert size.to_list() == uniform.to_list()
    assert "paired over seeds" in printed


def test_released_takes_one_line_at_a_time(smoked, capsys):
    frame, _ = smoked("released", capsys)
    lines = frame["as released"].unique(maintain_order=True).to_list()
    assert lines[0] == "paper"
    assert lines[-1] == "released"
    assert {"mask_scope tensor", "mask_count ceil", "decay_per epoch"} <= set(lines)
    shares = dict(frame.group_by("as released").agg(pl.col("share").mean()).iter_rows())
    assert shares["mask_count ceil"] != shares["paper"]
    assert shares["norm_epsilon 1e-07"] == pytest.approx(shares["paper"], abs=0.02)
    mnist = importlib.import_module("experiments.released").lines("mnist")
    assert mnist["learning rate, decay"] == {"learning_rate": 1e-3, "decay": 0.955}


@pytest.mark.nightly
def test_rivals_take_one_choice_at_a_time(smoked, capsys):
    frame, printed = smoked("rivals", capsys)
    lines = frame["line"].unique(maintain_order=True).to_list()
    assert {"cffl", "cffl, own off before", "rffl", "rffl, beta 2"} <= set(lines)
    assert all(len(own) == 2 for _, own in frame.group_by("line"))
    accuracy = dict(frame.group_by("line").agg(pl.col("mean_accuracy").mean()).iter_rows())
    assert accuracy["cffl"] != accuracy["cffl, own off before"]
    assert all(f"| {line} |" in printed for line in lines)


@pytest.mark.nightly
def test_populations_show_what_the_options_change(smoked, capsys):
    frame, printed = smoked("populations", capsys)
    assert set(frame["options"]) == {"as it is", "relative floor", "both options"}
    assert set(frame["N"]) == {10, 20}
    assert frame["reputation times N"].min() >= 0
    assert "| both options | 0.05 |" in printed  # 1 - alpha, by construction
    final = frame.filter(pl.col("round") == 4)
    assert final["distance"].min() > 0


def _smoke(script, folder, *more):
    """The tidy rows, which are what the written file holds, and the printed page."""
    frame = script.main(["--scale", "smoke", "--out", str(folder), *more])
    stem = folder / f"{script.__name__.rpartition('.')[2]}-smoke"
    assert stem.with_suffix(".png").stat().st_size > 10_000
    assert frame.equals(pl.read_parquet(stem.with_suffix(".parquet")))
    return frame, stem.with_suffix(".md").read_text()


def test_a_constant_column_stands_once_where_the_table_has_it():
    """The seed of the partition is a column of every summary."""
    wanted = {"algorithms": "standalone", "clients": 3, "rounds": 1, "seeds": 1}
    summary = common.run([wanted | {"partition_seed": 2}], [{"partition_seed": 2}])["summary"]
    assert summary.columns[0] == "partition_seed"
    assert summary["partition_seed"].to_list() == [2]


@pytest.mark.nightly  # half a minute of compiling
def test_one_program_says_of_every_attack_what_the_command_says(smoked, capsys):
    """Runs that share a program with all attacks, draws and partitions, and each in a run alone."""
    means, printed = smoked("robustness", capsys)
    assert "## Against the lines: witness where some cheat" in printed
    runs = pl.read_parquet(smoked.folder / "robustness-runs-smoke.parquet")
    frame = robustness.tidy(runs).filter(pl.col("measure") != "standalone")
    assert set(frame["measure"]) == {"cosine", "witness"}
    assert means["runs"].sum() == len(frame)
    for row in means.iter_rows(named=True):
        own = frame.filter(pl.all_horizontal(pl.col(k) == row[k] for k in attacked.KEYS))
        assert row["accuracy"] == pytest.approx(own["accuracy"].mean())
    scale = robustness.SCALES["smoke"]
    for (measure, attack, count), own in frame.group_by("measure", "attack", "count"):
        if measure == "cosine":  # a program that has less in it
            continue
        cell = attacked.Cell("digits", "class_imbalance", measure, attack, count, (0,), 1)
        asked = robustness.asked_of(common.Asked("", "smoke", Path(), None, False), scale, cell)
        asked["algorithms"] = ["standalone", *asked["algorithms"]]
        cells = running.run(names.configure(named=False, **asked)).cells
        (want,) = frames.summary_frame(cells).filter(pl.col("method") != "standalone").to_dicts()
        (found,) = own.filter(seed=0).to_dicts()
        if attack == attacked.NOBODY:
            assert found["accuracy"] == pytest.approx(want["mean_accuracy"], abs=2 / 355)
            for name in ("share", "energy", "no_worse"):
                assert found[name] == pytest.approx(want[name], abs=0.01)
            assert found["fairness_by_loss"] == pytest.approx(want["fairness_by_loss"], abs=0.5)
            ends = cells[1].record.reputation[0, -1]
            assert found["rank_of_all_classes"] == 1 + (ends > ends[3]).sum()
            continue
        for name in ("separation", "attacker_share", "attacker_energy", "attacker_reputation"):
            assert found[name] == pytest.approx(want[name], abs=0.01)
        assert found["accuracy"] == pytest.approx(want["honest_accuracy"], abs=2 / 355)
        honest = [not name for name in cells[1].cheats]
        assert found["share"] == pytest.approx(
            cells[1].record.quota[0][:, honest].mean() / cells[1].num_parameters, abs=0.01
        )
        # Lost is against the same clients where nobody cheats.
        with_copies = np.flatnonzero(honest)
        quiet = frame.filter(measure=measure, attack=attacked.NOBODY, seed=0).to_dicts()[0]
        asked["attacks"] = []
        alone = running.run(names.configure(named=False, **asked)).cells[1]
        reached = alone.evaluation.accuracy[0, -1]
        assert quiet["accuracy"] == pytest.approx(reached.mean(), abs=2 / 355)
        lost = 100 * (reached[with_copies].mean() - found["accuracy"])
        assert found["lost"] == pytest.approx(lost, abs=100 * 2 / 355)


@pytest.mark.nightly
def test_cells_that_are_there_are_not_run_again(tmp_path, monkeypatch, capsys):
    """Those of a part alone, and those before SIGTERM, which ends the running."""
    scale = robustness.SCALES["smoke"]
    monkeypatch.setitem(robustness.SCALES, "smoke", scale._replace(parts=scale.parts[:1]))
    argv = ["--scale", "smoke", "--out", str(tmp_path)]
    robustness.main(argv)
    there = pl.read_parquet(tmp_path / "robustness-smoke.parquet")
    monkeypatch.setitem(robustness.SCALES, "smoke", scale)
    ran, stop = [], [True]
    real = attacked.ran

    def run(one, cell, *args):
        if stop[0] and cell.attack == "replication":
            stop[0] = False
            os.kill(os.getpid(), signal.SIGTERM)
        ran.append(cell)
        return real(one, cell, *args)

    monkeypatch.setattr(attacked, "ran", run)
    before = signal.getsignal(signal.SIGTERM)
    capsys.readouterr()
    robustness.main(argv)
    assert " of 9 cells: interrupted" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before
    robustness.main(argv)
    assert "interrupted" not in capsys.readouterr().out
    assert {cell.attack for cell in ran} == {"none", "label_flip", "replication"}
    assert {cell.measure for cell in ran if cell.attack == "none"} == {"standalone"}
    after = pl.read_parquet(tmp_path / "robustness-smoke.parquet")
    kept = after.filter(pl.col("attack").is_in([*there["attack"].unique()]))
    assert kept.sort(attacked.KEYS).equals(there.sort(attacked.KEYS))
    ran.clear()
    robustness.main(argv)
    assert not ran


EPOCHS = 4  # of clients that know how many there are


def test_a_run_computes_the_attack_that_it_has_and_no_other():
    """Round for round what the attack alone makes, whatever else is on the list."""
    kinds = tuple(attacks.UPLOADS)
    key, rng = jax.random.key(3), np.random.default_rng(0)
    number, size = 5, 12
    conduct = Conduct(np.array([0, 1, 0, 1, 0], np.int32), np.full(number, 0.5, np.float32))

    @jax.jit  # one program for all
    def rounds(which, uploads, downloads):
        own, found = attacked.one_of(kinds, which, EPOCHS), []
        state = own.init(number, size)
        for upload, download in zip(uploads, downloads, strict=True):
            found.append(own.forge(key, upload, conduct, state))
            state = own.receive(download, upload.present, state)
        return found

    uploads, downloads = [], []
    for at in range(3):
        deltas, rewards = jnp.asarray(rng.normal(size=(2, number, size)), jnp.float32)
        nothing = jnp.zeros(number)
        uploads.append(
            Upload(
                jnp.zeros(size), jnp.zeros((number, size)), deltas, vectors.norms(deltas),
                nothing + 1, nothing == 0, nothing + 3, nothing, jnp.float32(0.1), None,
                jnp.int32(at),
            )
        )  # fmt: skip
        downloads.append(Download(rewards[0], nothing, rewards, jnp.full(number, size)))
    for place, kind in enumerate((None, *kinds)):
        alone = attacks.attack([kind] if kind else [], EPOCHS)
        state = alone.init(number, size)
        found = rounds(jnp.int32(place), uploads, downloads)
        for upload, download, forged in zip(uploads, downloads, found, strict=True):
            want = alone.forge(key, upload, conduct, state)
            np.testing.assert_allclose(forged, want, rtol=1e-5, atol=1e-6)
            state = alone.receive(download, upload.present, state)


def test_each_line_that_a_cell_fails_is_named():
    """By numbers of which the verdict is known."""
    cell = {"dataset": "digits", "partition": "uniform", "measure": "witness", "count": 3}
    runs = [
        # AUC, entries of attackers and of an honest client, accuracy and fairness, and without.
        ("free_rider_replay", 1.0, 0.1, 0.5, 0.95, 80.0, 0.955, 84.0),
        ("replication", 0.9, 0.2, 0.5, 0.93, 80.0, 0.95, 86.0),
    ]
    columns = ("attack", "separation", "attacker_share", "share", "accuracy", "late_fairness")
    names_ = (*columns, "none_accuracy", "none_late_fairness")
    frame = pl.DataFrame(
        [cell | dict(zip(names_, own, strict=True)) for own in runs for _ in range(2)]
    ).with_columns(
        late_fairness_by_loss=pl.lit(90.0), none_late_fairness_by_loss=pl.lit(90.0),
        attacker_energy=pl.lit(0.1), energy=pl.lit(0.5), partition_seed=pl.lit(0), seed=pl.lit(0),
    )  # fmt: skip
    zeros = frame.filter(pl.col("attack") == "free_rider_replay").with_columns(
        attack=pl.lit("free_rider"), accuracy=pl.lit(0.952)
    )
    both = pl.concat([frame, zeros]).with_columns(cheats=pl.lit([1, 2, 3]))
    both = robustness.differences(both)
    frame = both.filter(pl.col("attack") != "free_rider")
    held, failed = robustness.cell_by_cell(frame, both).to_dicts()
    assert held["verdict"] == "held"
    assert held["entries"] == "0.20"
    assert held["accuracy lost"] == "0.5 [0.5, 0.5]"
    assert held["lost beyond zeros"].startswith("0.2 [0.2, 0.2]")
    assert failed["verdict"] == "fails: AUC, entries, accuracy, fairness"
    found = robustness.overview(frame).to_dicts()
    assert [row["witness"] for row in found] == ["1 (1) of 1", "0 (0) of 1"]


def test_where_nobody_cheats_a_gain_is_against_the_same_seed_and_draw():
    keys = {"dataset": "digits", "partition": "class_imbalance", "attack": "none", "count": 0}
    values = {  # accuracy, fairness, share no worse, rank
        "cosine": [(0.80, 60, 0.8, 9), (0.70, 50, 0.8, 9)],
        "witness": [(0.82, 80, 0.9, 1), (0.71, 90, 0.9, 2)],
    }
    rows = [
        keys | {"measure": measure, "partition_seed": 0, "seed": seed, "accuracy": accuracy}
        | {"late_fairness": float(fair), "late_fairness_by_loss": float(fair)}
        | {"no_worse": no_worse, "rank_of_all_classes": float(rank)}
        for measure, runs in values.items()
        for seed, (accuracy, fair, no_worse, rank) in enumerate(runs)
    ]  # fmt: skip
    (row,) = robustness.where_nobody_cheats(pl.DataFrame(rows).reverse()).to_dicts()
    assert row["accuracy gained"].startswith("1.5 [1.0, 2.0]")
    assert row["fairness gained"].startswith("30 [20, 40]")
    assert row["all classes first in"] == "1 of 2"
    assert row["verdict"] == "fails: rank"


def test_every_cell_of_the_committed_table_is_once_in_the_order():
    cells = robustness.cells(robustness.SCALES["small"])
    keys = [cell[:5] for cell in cells]
    assert len(set(keys)) == len(keys)
    first = {cell.attack for cell in cells[: 2 * 3 * 19]}
    assert first == {attacked.NOBODY, *robustness.AGAINST}
    assert all(len(c.seeds) * c.draws == 15 for c in cells if c.measure in robustness.LEADING)


def test_free_riders_are_detected_as_published(smoked, capsys):
    """The cosine of models knows noise and not a replay; who knows what it sent, the other way."""
    frame, printed = smoked("free_riders", capsys)
    assert "4 clients: accuracy of honest clients, %" in printed
    assert set(frame["detector"]) == set(free_riders.SCALES["smoke"].detectors)
    for kind, detector, detected in (
        ("random weights", "rffl of models", 1),
        ("replay", "rffl of models", 0),
        ("random weights", "s2_wef", 0),
        ("replay", "s2_wef", 1),
    ):
        assert frame.filter(kind=kind, detector=detector)["detected"].to_list() == [detected]
    nobody = frame.filter(kind="none")
    assert nobody["riders"].to_list() == [0] * len(nobody)
    assert nobody.filter(detector="rffl of models")["false"].to_list() == [0]


def test_free_riders_are_counted_as_published():
    rows = free_riders.published(10).rows_by_key("detector", named=True, unique=True)
    assert rows["wef"]["replay, 30 %"] == "0.89 (0.7)"
    assert rows["rffl of models"]["nobody"] == "(0)"
    assert free_riders.published(100).columns == free_riders.published(10).columns


@pytest.mark.nightly
def test_a_score_is_shown_beside_the_aggregate_that_it_reads(smoked, capsys):
    frame, printed = smoked("fragility", capsys)
    chosen = fragility.SCALES["smoke"]
    assert set(frame["aggregation"]) == set(chosen["aggregations"])
    assert len(frame) == len(chosen["aggregations"]) * len(chosen["attacks"]) * 3
    # Means by hand, and no AUC where nobody cheats.
    attacked = frame.filter(method="cgsv", aggregation="median", attack="sign_flip")
    shown = f"{100 * attacked['honest_accuracy'].mean():.1f}"
    assert re.search(rf"\| cgsv \| median \| [\d.]+ \| {shown} \|", printed)
    assert frame.filter(attack="none")["separation"].null_count() == len(frame) / 2
    # The aggregate of cgsv differs with the rule, and so do its models.
    accuracy = frame.filter(method="cgsv", attack="none")["honest_accuracy"]
    assert accuracy.n_unique() == 2


def test_every_scale_of_fragility_can_be_asked_for():
    """Its attacks and rules exist, and may be together."""
    for chosen in fragility.SCALES.values():
        configs, columns = fragility.asked_of(chosen, None)
        assert len(configs) == len(columns) == len(chosen["aggregations"]) * len(chosen["attacks"])
        for wanted in configs:
            names.configure(named=False, **wanted)


@pytest.mark.nightly
def test_fedracs_cells_are_run_one_by_one(smoked, capsys, tmp_path):
    frame, printed = smoked("fedrac", capsys)
    assert "## CLA: 4 rounds of 5 local steps" in printed
    assert len(frame) == 2 * 4
    with pytest.raises(SystemExit, match="nothing is there yet"):
        fedrac.main(["--scale", "smoke", "--there", "--out", str(tmp_path)])


def test_fedracs_cells_are_compared_with_the_published():
    """Pearson's correlation with standalone, its rate, and three published deviations."""
    accuracy = {"standalone": [0.1, 0.2, 0.4], "cgsv": [0.2, 0.5, 0.4], "fedavg": [0.3] * 3}
    rows = [
        {"cell": "CLA", "method": method, "seed": 0, "client": client, "accuracy": value}
        for method, own in accuracy.items()
        for client, value in enumerate(own)
    ]
    found = fedrac.measured(pl.DataFrame(rows).reverse())
    (own,) = found.filter(method="cgsv").to_dicts()
    expected = 100 * np.corrcoef(accuracy["standalone"], accuracy["cgsv"])[0, 1]
    assert own["fairness"] == pytest.approx(expected, rel=1e-6)
    # Bounds .5 times (a / .4 + 1) times .5: .3125, .375, .5. The second has too much, the third no
    # more than alone.
    assert own["rate"] == pytest.approx(1 / 3)
    assert found.filter(method="fedavg")["fairness"].to_list() == [None]
    shown = fedrac.table(found, "CLA").rows_by_key("method", named=True, unique=True)
    assert shown["cgsv"]["difference"] == f"{expected - 98.5:+.1f}, more than 3 sd"
    assert shown["fedavg"]["difference"] == ""
    near = found.with_columns(pl.lit(98.7).alias("fairness"))
    shown = fedrac.table(near, "CLA").rows_by_key("method", named=True, unique=True)
    assert shown["cgsv"]["difference"] == "+0.2"


def test_every_scale_of_fedracs_cells_can_be_asked_for():
    for scale in fedrac.SCALES.values():
        configs, columns = fedrac.asked_of(scale, None)
        assert (
            len(configs) == len(columns) == len(scale.cells) * len(scale.methods or fedrac.METHODS)
        )
        for wanted in configs:
            names.configure(named=False, **wanted)


def test_psi_is_compared_with_the_exact_value(tmp_path):
    frame, page = _smoke(psi_error, tmp_path)
    assert (tmp_path / "psi_error_time-smoke.png").stat().st_size > 10_000
    assert "L1 of pairs" in page
    assert frame["trial"].n_unique() == 3
    assert frame.filter(pl.col("method") == "exact")["l1"].max() == 0
    assert (frame.filter(pl.col("method") != "exact")["l1"] > 0).all()
    assert (frame["l2"] <= frame["l1"]).all()
    assert (frame["seconds"] > 0).all()
    # Unequal lengths are most of psi's error on random vectors, and uploads have equal ones.
    l1 = {kind: own["l1"].mean() for (kind,), own in
          frame.filter(pl.col("method") == "psi").group_by("kind")}  # fmt: skip
    assert l1["unit"] < l1["random"]
    # The same client, honest, with random labels and with the wrong sign.
    for _, own in frame.filter(pl.col("kind").is_in(psi_error.KINDS)).group_by("method"):
        value = {kind: rows["odd"].mean() for (kind,), rows in own.group_by("kind")}
        assert value["honest"] > value["noisy"] > value["reversed"]
        assert value["reversed"] < 0 < value["honest"]


def test_psi_of_identical_clients_is_exact_and_orders_converge():
    key = jax.random.key(0)
    rows = psi_error.errors(key, jnp.ones((4, 16)), odd=1)
    assert [row["method"] for row in rows] == list(psi_error.METHODS)
    for row in rows:
        if row["method"] in ("exact", "psi"):  # a sampled gain depends on the place even here
            assert row["l1"] == pytest.approx(0, abs=1e-6)
            assert row["pearson"] is None
            assert row["odd"] == pytest.approx(1 / 4)
    gram = jnp.asarray([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 3.0]])
    drawn = psi_error.plain(key, games.cosine_value(gram), 3, 20_000)
    assert np.asarray(drawn) == pytest.approx(np.asarray(exact(gram)), abs=0.01)


def test_fairness_over_rounds_is_that_of_the_runs(smoked, capsys):
    """Of d = 1 those that the command makes, by NumPy; a decay changes nothing in round 1."""
    frame, printed = smoked("steadiness", capsys)
    assert "## steady less paper" in printed
    part = steadiness.SCALES["smoke"][0]
    config = names.configure(
        *(None,), clients=10, partitions=list(part.partitions), seeds=part.seeds, partition_seed=1,
        algorithms=["standalone", *part.methods], **part.asked,
    )  # fmt: skip
    cells = running.run(config).cells
    alone = {cell.partition: cell for cell in cells if cell.method == "standalone"}
    for cell in cells:
        own = frame.filter(partition=cell.partition, method=cell.method, partition_seed=1)
        for seed in range(part.seeds if cell.method != "standalone" else 0):
            paper = own.filter(decay=1.0, seed=seed).sort("round")
            accuracy = cell.evaluation.accuracy[seed]
            # Two programs of the same numbers: an example may be at the edge of two classes.
            close = {"atol": 2 / 355}
            np.testing.assert_allclose(paper["accuracy"], accuracy.mean(-1), **close)
            losses = -alone[cell.partition].evaluation.loss[seed, -1]
            want = [100 * np.corrcoef(losses, -at)[0, 1] for at in cell.evaluation.loss[seed]]
            np.testing.assert_allclose(paper["by_loss"], want, atol=0.5)
    first = frame.filter(round=1).pivot(
        "decay", index=(*steadiness.KEYS[:4], "seed"), values="by_loss"
    )
    np.testing.assert_allclose(first["1.0"], first[str(steadiness.STEADY)], atol=1e-3)
    # The first u_N has none before it.
    assert (frame.filter(round=1)["cosine"] == 0).all()
    assert frame["cosine"].is_between(-1 - 1e-6, 1 + 1e-6).all()


def test_a_cell_of_the_papers_scale_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    """SIGTERM ends it after a segment; what it then records is what it would have, bit for bit."""
    cells = [paper.Cell("digits", 5, "power_law", m) for m in ("standalone", "cgsv", "cgsv:steady")]
    monkeypatch.setattr(paper, "CELLS", cells)
    monkeypatch.setattr(paper, "SCALE", {"rounds": 6, "eval_every": 2})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    argv = ["--scale", "paper", "--out"]
    fairness.main([*argv, str(whole)])
    printed = capsys.readouterr().out
    assert "| digits power_law-5 | cgsv |" in printed
    assert "Not run" not in printed

    run = running.run

    def ended(config, look, tasks, keeper):
        def stop(at):
            look(at)
            if at.method == "cgsv:steady" and at.round == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        return run(config, stop, tasks, keeper)

    with monkeypatch.context() as patch:
        patch.setattr(running, "run", ended)
        fairness.main([*argv, str(stopped)])
    assert "## Not run\n\n* digits power_law: cgsv:steady" in capsys.readouterr().out
    fairness.main([*argv, str(stopped), "--there"])
    assert "## Not run\n\n* digits power_law: cgsv:steady" in capsys.readouterr().out
    assert not paper.file_of(common.Asked("", "paper", stopped, None, False), cells[2]).exists()
    fairness.main([*argv, str(stopped)])
    assert not list((stopped / paper.UNFINISHED).iterdir())
    for cell in cells:
        one, other = (
            dict(np.load(paper.file_of(common.Asked("", "paper", out, None, False), cell)))
            for out in (whole, stopped)
        )
        assert one.keys() == other.keys()
        for name in one.keys() - {"said"}:
            np.testing.assert_array_equal(one[name], other[name])
    # What another process computes is passed over, and left to it.
    paper.file_of(common.Asked("", "paper", stopped, None, False), cells[1]).unlink()
    folder = stopped / paper.UNFINISHED / cells[1].name
    folder.mkdir()
    with directory.held(folder):
        fairness.main([*argv, str(stopped)])
    said = capsys.readouterr()
    assert f"{cells[1].name}: another process computes it" in said.err
    assert "## Not run\n\n* digits power_law: cgsv" in said.out
    # Another number of rounds is another cell.
    monkeypatch.setitem(paper.SCALE, "rounds", 4)
    assert paper.read(common.Asked("", "paper", whole, None, False), cells[0]) is None


@pytest.mark.nightly
def test_every_measure_is_timed_against_local_training(tmp_path, monkeypatch):
    both = overhead.SCALES["smoke"]._replace(datasets=("digits", "mnist"))
    monkeypatch.setitem(overhead.SCALES, "smoke", both)
    frame, page = _smoke(overhead, tmp_path, "--data-dir", str(tmp_path))
    assert "Not measured: mnist is not in" in page
    assert set(frame["measure"]) == set(CONTRIBUTIONS)
    of = {(m, g): k for m, g, k in frame.select("measure", "game", "evaluations").rows()}
    assert of["cosine", None] == of["shapley", "cosine"] == 0
    assert of["shapley", "accuracy"] == 2**3


def test_a_measure_is_refused_or_estimated_where_it_would_take_too_long(monkeypatch):
    few = {name: CONTRIBUTIONS[name] for name in ("cosine", "shapley")}
    monkeypatch.setattr(overhead, "CONTRIBUTIONS", few)
    scale = overhead.SCALES["smoke"]._replace(patience=1e-9)
    refused = pl.DataFrame(overhead.measured("digits", 30, scale, None), infer_schema_length=None)
    assert refused["reason"].is_null().to_list() == [True, False, False]
    assert "not for 30 clients: an exact value of 30 clients" in overhead.table(refused).row(1)[-1]
    cosine, of_cosines, of_models = overhead.measured("digits", 4, scale, None)
    assert not cosine["estimated"]
    assert not of_cosines["estimated"]
    assert of_models["estimated"]
    assert of_models["evaluations"] == 2**4
    assert of_models["share"] == pytest.approx(of_models["seconds"] / of_models["training"])


def test_a_vanishing_learning_rate_stops_changing_parameters(tmp_path):
    frame, page = _smoke(schedule, tmp_path)
    assert "hardly any product underflows" in page
    for (per, _), own in frame.group_by("schedule", "client"):
        own = own.sort("round")
        rates, norms = own["learning_rate"].to_numpy(), own["dw"].to_numpy()
        assert (np.diff(rates) < 0).all()
        assert (np.diff(norms) <= 0).all()
        early, last = own.row(0, named=True), own.row(-1, named=True)
        assert early["dw"] == pytest.approx(early["wanted"], rel=1e-2)
        assert early["changed"] > 0.95
        assert early["descent"] > 0.9
        assert last["wanted"] > 0
        # Per epoch, additions round back to where they were; per round they do not yet.
        assert (last["dw"] == 0) == (last["changed"] == 0) == (per == "epoch")
        assert (last["descent"] is None) == (per == "epoch")
    assert frame["lost_products"].max() == 0
    with pytest.raises(SystemExit, match="needs mnist: mnist is not in"):
        schedule.main(["--scale", "small", "--data-dir", str(tmp_path), "--out", str(tmp_path)])
