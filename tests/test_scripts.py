"""Every experiment and benchmark runs at its smoke scale; see also test_benchmarks.py."""

import importlib
import importlib.util
import json

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import precision, table, variants
from experiments import digits_defaults

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the yardstick needs PyTorch (extra [bench])"
)


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
