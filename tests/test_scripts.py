"""Every experiment and benchmark runs at its smoke scale; see also test_benchmarks.py."""

import importlib
import importlib.util
import json
from pathlib import Path

import jax
import polars as pl
import pytest

import experiments
from benchmarks import __main__ as benchmarks
from benchmarks import precision, table, variants
from experiments import common, digits_defaults

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


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param("exact_shapley", 1, marks=needs_torch),
        ("sweeps", 1),
        ("padding", 3),
        ("population", 2),
        ("compile_time", 1),
    ],
)
def test_a_question_is_answered(name, count):
    """The results that it compares agree, or it raises; its rows can be shown."""
    rows = importlib.import_module(f"benchmarks.{name}").rows("smoke")
    assert len(rows) == count
    for row in rows:
        assert row.ratio.median > 0
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
    assert written["environment"]["matrix_rate"] > 0


def test_precisions_are_compared():
    lines = precision.table_of("smoke").splitlines()
    assert len(lines) == 2 + 2
    assert "| 0.0e+00 |" in lines[2]  # float32 from itself
    assert "bfloat16" in lines[3]
    assert "| 0.0e+00 |" not in lines[3]


def test_variants_are_timed():
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


def test_populations_show_what_the_options_change(smoked, capsys):
    frame, printed = smoked("populations", capsys)
    assert set(frame["options"]) == {"as it is", "relative floor", "both options"}
    assert set(frame["N"]) == {4, 8}
    assert frame["reputation times N"].min() >= 0
    assert "| both options | 0.05 |" in printed  # 1 - alpha, by construction
    final = frame.filter(pl.col("round") == 4)
    assert final["distance"].min() > 0
