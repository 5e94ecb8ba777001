"""The command as a person meets it: tables, files, one clear sentence for bad input."""

import json
import os
import subprocess
import sys

import jax
import polars as pl
import pytest

from cgsv_jax import data
from cgsv_jax.command import flags as flags_lib
from cgsv_jax.command import main
from cgsv_jax.config import defaults, schema, validate
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.results import directory

SMALL = ["--hidden", "8", "--clients", "4", "--epochs", "1", "--rounds", "3", "--seeds", "2"]


def _fails(capsys, *argv):
    """The sentence that a command fails with, exit code 2."""
    try:
        code = main.main(list(argv))
    except SystemExit as exit_:  # the parser's own errors
        code = exit_.code
    captured = capsys.readouterr()
    assert code == 2, captured.out + captured.err
    assert "Traceback" not in captured.err
    return captured.err


def test_compare_ends_with_table_directory_and_figures(tmp_path, capsys):
    out = tmp_path / "run"
    algorithms = "standalone,fedavg,cgsv:released"
    argv = ["compare", *SMALL, "--algorithms", algorithms, "--out", str(out)]
    assert main.main(argv) == 0
    printed = capsys.readouterr().out
    assert "Fairness and accuracy" in printed
    assert "undefined" in printed
    for percent in (33, 100):  # the first ten lines of a file, and the last
        assert f" {percent} %, 6/6 rounds (3 × 2 seeds), " in printed
    assert "cgsv:released" in printed
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "environment.json", "rounds.parquet", "clients.parquet"} <= names
    assert {"timing.json", "figures", "holdings.parquet"} <= names
    held, clients = (pl.read_parquet(out / f"{name}.parquet") for name in ("holdings", "clients"))
    own = held.group_by("client").agg(pl.col("rows").sum(), classes=pl.len())
    own = own.sort("client").cast({"classes": pl.Int32})
    assert own.equals(
        clients.unique(["client", "rows", "classes"]).select(own.columns).sort("client")
    )
    assert len(list((out / "figures").glob("*.png"))) == 6
    rounds = pl.read_parquet(out / "rounds.parquet")
    assert rounds.height == 3 * 2 * 3 * 4  # methods, seeds, rounds, clients
    summary = json.loads((out / "summary.json").read_text())
    assert any(cell is None for cell in _leaves(summary))

    capsys.readouterr()
    assert "--overwrite" in _fails(capsys, *argv)
    repeat = ["run", "--config", str(out / "config.json"), "--out", str(tmp_path / "again")]
    assert main.main([*repeat, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "again" / "rounds.parquet").read_bytes() == (
        out / "rounds.parquet"
    ).read_bytes()

    assert main.main(["plot", str(out), str(tmp_path / "again"), "--out", str(tmp_path / "f")]) == 0
    assert list((tmp_path / "f").glob("*.png"))


def _leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [x for item in value for x in _leaves(item)] if isinstance(value, list) else [value]


def test_run_one_method_overwriting(tmp_path):
    out = str(tmp_path / "run")
    argv = ["run", *SMALL, "--algorithm", "fedavg", "--seeds", "4,9", "--quiet", "--out", out]
    assert main.main(argv) == 0
    assert main.main([*argv, "--overwrite"]) == 0
    assert directory.read(out).config["seeds"] == [4, 9]


BAD = {
    "--clients 0": "--clients is 0",
    "--clients 5000": "--clients is 5000, it must be at most 1298",
    "--clients x": "--clients is 'x'",
    "--beta -1": "--beta is -1",
    "--beta nan": "--beta is nan",
    "--gamma 0": "--gamma is 0",
    "--alpha 1.5": "--alpha is 1.5",
    "--dataset digit": "did you mean digits?",
    "--model mpl": "did you mean mlp?",
    "--algorithms cgvs": "did you mean cgsv?",
    "--partition dirichle": "did you mean dirichlet?",
    "--partition dirichlet --min-rows 500": "min_rows",
    "--dataset mnist --data-dir /nowhere": "cgsv data prepare mnist",
    "--config /nowhere/config.json": "/nowhere/config.json cannot be read: No such file",
    "--no-such-flag 3": "no-such-flag",
    "--seeds 0": "--seeds is 0",
    "--model cifar_cnn": "needs inputs (height, width, channels) of at least 16 x 16 pixels, got",
}


@pytest.mark.parametrize(("flags", "sentence"), BAD.items(), ids=BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(flags, sentence, tmp_path, capsys):
    out = tmp_path / "run"
    message = _fails(capsys, "compare", *flags.split(), "--out", str(out))
    assert sentence in message
    assert not out.exists()


LONG = "a" * 300
NO_PATHS = {
    f"plot {LONG}": "too long",
    "plot ~nosuchuser/x": "home directory",
    "plot \x1b[2Jx": r"cgsv: \x1b[2Jx is no run directory: it is not there",
    "plot fifo": "cgsv: fifo is no run directory: it is a file",
    f"data list --data-dir {LONG}": "--data-dir",
    "data list --data-dir ~nosuchuser": "--data-dir is '~nosuchuser'",
    "data prepare sst --archive fifo --data-dir ~nosuchuser": "--data-dir is '~nosuchuser'",
    "run --dataset mnist --data-dir ~nosuchuser": "--data-dir is '~nosuchuser'",
    "run --dataset mnist --data-dir \x1b[2J": r"\x1b[2J",
    "run --config ~nosuchuser/x": "--config is '~nosuchuser/x'",
    "run --config fifo": "cgsv: fifo cannot be read: it is no regular file",
    "run --resume fifos": "config.json cannot be read: it is no regular file",
    f"run --resume {LONG}": "--resume",
    "run --resume ~nosuchuser": "--resume is '~nosuchuser'",
    "run --out ~nosuchuser": "--out is '~nosuchuser'",
    f"run --out new/{LONG}": "too long",
    "run --attendance fifo": "fifo",
    "run --\x1b[2J x": r"--\x1b[2J",
}


@pytest.mark.parametrize(
    ("words", "sentence"), NO_PATHS.items(), ids=map(str, range(len(NO_PATHS)))
)
def test_words_that_are_no_paths(words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "fifos").mkdir()
    os.mkfifo("fifos/config.json")
    said = _fails(capsys, *words.split())
    assert sentence in said
    assert "\x1b[2J" not in said
    assert sorted(os.listdir()) == ["fifo", "fifos"]


def test_a_refusal_shows_where_it_comes_from_on_demand(monkeypatch):
    monkeypatch.setenv("CGSV_DEBUG", "1")
    with pytest.raises(ValueError, match="is no run directory"):
        main.main(["plot", "nothing"])


def test_hardware_that_is_not_there(capsys, monkeypatch):
    """JAX fails with an assertion where JAX_PLATFORMS names what it has no plugin for."""

    def devices():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    said = _fails(capsys, "run")
    assert "cgsv: JAX finds no device of JAX_PLATFORMS=cuda, it must name one that" in said


def test_run_takes_one_method_and_one_partition(capsys):
    assert "run takes one" in _fails(capsys, "run", "--algorithm", "cgsv,fedavg")
    assert "run takes one" in _fails(capsys, "run", "--partition", "uniform,power_law")


def test_a_class_that_the_partition_needs(capsys, tmp_path):
    """Two clients of three rows need classes 0 to 2 among six rows of ten classes."""
    flags = "--dataset synthetic --synthetic-rows 12 --validation-share 0.5 --clients 2"
    flags += f" --partition class_imbalance --out {tmp_path / 'r'}"
    assert "has none among" in _fails(capsys, "compare", *flags.split())


def test_broken_config_files(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text("{not json")
    assert "cannot be read" in _fails(capsys, "run", "--config", str(path))
    path.write_text(json.dumps({"dataset": "digits", "beta": 1}))
    message = _fails(capsys, "run", "--config", str(path))
    assert "'beta' is no key" in message
    assert "lacks the key 'rounds'" in message
    assert "cannot be combined with --beta" in _fails(
        capsys, "run", "--config", str(path), "--beta", "2"
    )


def test_a_file_in_the_way(tmp_path, capsys):
    (tmp_path / "r").write_text("")
    assert "which is a file" in _fails(capsys, "run", *SMALL, "--out", str(tmp_path / "r"))


def test_data_list_and_prepare(capsys):
    assert main.main(["data", "list"]) == 0
    assert "handwritten digits" in capsys.readouterr().out
    assert "built in" in _fails(capsys, "data", "prepare", "digits")


def test_help_explains_symbols_and_defaults():
    run = subprocess.run(
        [sys.executable, "-m", "cgsv_jax", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    for words in (
        "altruism degree",
        "Gamma",
        "mnist 0.15",
        "released epoch",
        "number of clients N",
    ):
        assert words in run.stdout
    assert not run.stderr


@pytest.mark.parametrize("dataset", data.DATASETS)
@pytest.mark.parametrize("preset", defaults.PRESETS)
def test_the_defaults_that_the_help_shows_are_what_is_run(dataset, preset):
    """Of every option, for every method; words of the help's own start with it."""
    config = names_lib.configure(dataset=dataset, preset=preset, algorithms="all")
    flags = flags_lib.rules(names_lib.TABLES)
    for group in schema.GROUPS:
        flags |= flags_lib.of_group(group, names_lib.TABLES)
    released = defaults.RELEASED_TRAINING.get(dataset, {}) if preset == "released" else {}
    for name in set(flags) - {"dataset", "preset", "seeds", "devices", *released}:
        flag, name = flags[name], validate.RENAMED.get(name, name)
        base, others = defaults.default_of(name, names_lib.TABLES)
        base = others.get(preset, others.get(dataset, base))
        if flag.default is None and flag.argument is not flags_lib.SWITCH:
            readers = [method for method in config.methods if name in method.values]
            for holder in readers or ([config] if hasattr(config, name) else []):
                own = others.get(getattr(holder, "algorithm", None), base)
                assert own == getattr(holder, name), (name, holder)
        elif flag.default is not None and base not in (None, ()):
            first = flag.default.replace(":", ",").replace(";", ",").split(",")[0]
            assert first == flags_lib._default(name, names_lib.TABLES).split(",")[0], name


def test_profile_prints_and_is_kept(tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["run", *SMALL, "--seeds", "1", "--rounds", "1", "--profile", "--out", str(out)]
    assert main.main(argv) == 0
    printed = capsys.readouterr().out
    assert "steps computed / needed" in printed
    (profile,) = json.loads((out / "timing.json").read_text())["profiles"]
    assert [phase["name"] for phase in profile["phases"]] == ["training", "server", "evaluation"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--coordinator", "localhost:1"],
        ["--processes", "2"],
        ["--coordinator", "localhost:1", "--processes", "2", "--process", "2"],
        ["--coordinator", "localhost:1", "--processes", "two", "--process", "0"],
    ],
)
def test_half_a_cluster_is_refused(flags, capsys):
    assert main.main(["run", *SMALL, *flags]) == 2
    assert "--process" in capsys.readouterr().err
