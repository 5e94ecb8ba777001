"""What trackers are told, read back by their own readers; and that nothing they do ends a run."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cgsv_jax.command import main as main_lib
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import checkpoint, execute, names, running, tracking
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames

SMALL = {"dataset": "digits", "hidden": (8,), "clients": 4, "epochs": 1, "rounds": 6, "seeds": 2}
SMALL |= {"eval_every": 2, "eval_rows": 90, "algorithms": ("standalone", "cgsv")}
STEPS = [2, 4, 6]


@pytest.fixture(scope="module")
def config():
    return names.configure(**SMALL)


@pytest.fixture(scope="module")
def told(config):
    """What a tracker is told, in order, and the run."""
    calls = []
    tracker = tracking.Tracker(lambda *call: calls.append(call))
    return calls, running.run(config, track=(tracker,))


def test_every_evaluation_of_every_seed_is_told_once(told):
    calls, result = told
    assert [(run.method, run.seed, step) for run, step, _ in calls] == [
        (method, seed, step)
        for method in ("standalone", "cgsv")
        for seed in (0, 1)
        for step in STEPS
    ]
    tables = frames.frames_of(result.cells)
    for run, step, numbers in calls:
        rows = tables["rounds"].filter(method=run.method, seed=run.seed, round=step)
        fair = (
            tables["fairness"]
            .filter(method=run.method, seed=run.seed, round=step)
            .row(0, named=True)
        )
        want = {
            **{f"accuracy/client_{i}": x for i, x in enumerate(rows["accuracy"])},
            **{f"reputation/client_{i}": x for i, x in enumerate(rows["reputation"])},
            "accuracy/server": rows["server_accuracy"][0],
            "accuracy/mean": fair["mean_accuracy"],
            "accuracy/min": rows["accuracy"].min(),
            "accuracy/max": rows["accuracy"].max(),
            "test_loss/mean": rows["test_loss"].mean(),
            **{name: fair[name] for name in frames.JUDGED},
        }
        assert numbers == pytest.approx({n: x for n, x in want.items() if x is not None}, rel=1e-5)


def test_of_many_clients_no_single_one_is_told(told):
    result = told[1]
    evaluation = result.cells[1].evaluation._replace(answers=None)
    one = evaluation._replace(**{n: np.asarray(getattr(evaluation, n))[0, 0] for n in (
        "round", "accuracy", "loss", "distance", "server_accuracy", "server_loss")})  # fmt: skip
    few = tracking.numbers_of(one, np.ones(4), chosen=np.array([0, 3, 5, 9]))
    assert {n for n in few if "accuracy/client" in n} == {
        f"accuracy/client_{i}" for i in (0, 3, 5, 9)
    }
    many = tracking.numbers_of(one, np.ones(tracking.CLIENTS + 1))
    assert not [n for n in many if "client" in n]
    assert "fairness" not in many


def scalars(folder):
    """Of every run below a folder: name -> [(step, value)], as TensorBoard itself reads it."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    reader = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    return {
        run: {
            tag: [(event.step, event.value) for event in reader.Scalars(run, tag)]
            for tag in found["scalars"]
        }
        for run, found in reader.Runs().items()
    }


def expected(calls):
    found = {}
    for run, step, numbers in calls:
        for name, value in numbers.items():
            found.setdefault(run.name, {}).setdefault(name, []).append((step, value))
    return found


def same(one, two):
    assert one.keys() == two.keys()
    for run, names_of in one.items():
        assert names_of.keys() == two[run].keys()
        for name, events in names_of.items():
            assert [step for step, _ in events] == [step for step, _ in two[run][name]]
            np.testing.assert_allclose([x for _, x in events], [x for _, x in two[run][name]])


@pytest.mark.parametrize("after", [6, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 8))])
def test_tensorboard_reads_a_run_that_was_gone_on_with(config, told, tmp_path, after):
    """No step is missing, none is there twice: wherever the run was stopped, whatever was saved."""
    looks = []

    def run(stop):
        """Every third round is saved, so that some steps are computed, and told, twice."""
        what = {"config": resolve.to_dict(config)}
        kept = checkpoint.of_run(tmp_path, lambda: what, 3, lambda: False).keeper

        def watch(progress):
            looks.append(progress)
            if stop and len(looks) == after:
                raise KeyboardInterrupt

        with tracking.opened(("tensorboard",), tmp_path, {"a": 1}, pytest.fail) as track:
            running.run(config, watch, keeper=kept, track=track)

    with pytest.raises(KeyboardInterrupt):
        run(stop=True)
    before = scalars(tmp_path / "tracking" / "tensorboard")
    assert 0 < len(before) < 5
    run(stop=False)
    same(scalars(tmp_path / "tracking" / "tensorboard"), expected(told[0]))


@pytest.mark.long
def test_the_tutorial_stops_early_and_is_tracked(tmp_path):
    """As a script of its own: under 25 lines, and TensorBoard reads what it wrote."""
    script = Path(__file__).parents[1] / "docs" / "tutorials" / "early_stopping_tensorboard.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) < 25
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, script], cwd=tmp_path, env=env, timeout=280, check=True)
    read = directory_lib.read(tmp_path / "runs" / "early")
    ends = {
        f"{partition}/{method}/draw {draw}/seed {seed}": stopped or 30
        for partition, method, draw, seed, stopped in read.summary.select(
            *frames.KEYS, "stopped_round"
        ).iter_rows()
    }
    found = scalars(tmp_path / "runs" / "early" / "tracking" / "tensorboard")
    assert {run: own["accuracy/mean"][-1][0] for run, own in found.items()} == ends
    assert min(ends.values()) < 30


@pytest.mark.long
def test_the_command_tracks_and_repeats(tmp_path, capsys):
    words = [f"--{n.replace('_', '-')}={v}" for n, v in SMALL.items() if n not in
             ("algorithms", "hidden")]  # fmt: skip
    words += ["--hidden=8", "--algorithms=standalone,cgsv"]
    words += ["--track=tensorboard", f"--out={tmp_path / 'run'}", "--patience=1"]
    assert main_lib.main(["compare", *words]) == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["track"], saved["patience"]) == (["tensorboard"], 1)
    found = scalars(tmp_path / "run" / "tracking" / "tensorboard")
    rounds = pl.read_parquet(tmp_path / "run" / "rounds.parquet")
    ends = {
        f"class_imbalance/{method}/draw 0/seed {seed}": end
        for method, seed, end in rounds.group_by("method", "seed").agg(pl.max("round")).iter_rows()
    }
    assert {run: own["accuracy/mean"][-1][0] for run, own in found.items()} == ends
    again = ["compare", f"--config={tmp_path / 'run' / 'config.json'}", f"--out={tmp_path / 'b'}"]
    assert main_lib.main(again) == 0
    same(scalars(tmp_path / "b" / "tracking" / "tensorboard"), found)
    assert main_lib.main([*again[:2], f"--out={tmp_path / 'b'}", "--overwrite"]) == 0
    same(scalars(tmp_path / "b" / "tracking" / "tensorboard"), found)


def test_what_is_not_installed_is_said_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "run"
    assert main_lib.main(["run", "--track=wandb,mlflow", f"--out={out}"]) == 2
    said = capsys.readouterr().err.split("\n")
    assert said[0].startswith("cgsv: --track wandb needs wandb, which is not installed: pip inst")
    assert said[1].startswith("cgsv: --track mlflow needs mlflow")
    assert not out.exists()
    with pytest.raises(ConfigError, match="did you mean tensorboard"):
        names.configure(track=("tensorbord",))


def test_a_tracker_that_fails_is_given_up(config, told):
    """It is said once; the run, and the other trackers, go on."""
    said, calls = [], []

    def full(*call):
        raise OSError(28, "No space left on device")

    failing = tracking.guarded("mine", lambda: tracking.Tracker(full, full), said.append)
    sound = tracking.Tracker(lambda *call: calls.append(call))
    running.run(config, track=(failing, sound))
    failing.finish()
    assert said == ["mine is given up (No space left on device); the run goes on without it"]
    assert len(calls) == len(told[0])


WRITES = """
import os, sys
from cgsv_jax.experiment import tracking
runs = [tracking.Run("uniform", "cgsv", 0, seed) for seed in (0, 1)]
killed = sys.argv[3] == "killed"
with tracking.opened((sys.argv[1],), sys.argv[2], {"rounds": 6}, sys.exit) as (tracker,):
    for run in runs[: 1 if killed else 2]:
        for step in (2, 4) if killed else (2, 4, 6):
            tracker.log(run, step, {"accuracy/mean": step / 8, "fairness": -50.0})
    if killed:
        os._exit(0)
"""
LOGGED = {
    f"uniform/cgsv/draw 0/seed {seed}": {
        "accuracy/mean": [(step, step / 8) for step in STEPS],
        "fairness": [(step, -50.0) for step in STEPS],
    }
    for seed in (0, 1)
}


def write(name, directory):
    """In processes of their own, of which the second goes on with the first, which was killed."""
    keep = {n: x for n, x in os.environ.items() if not n.startswith(("WANDB", "MLFLOW"))}
    env = keep | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for how in ("killed", "whole"):
        done = subprocess.run(
            [sys.executable, "-c", WRITES, name, directory, how],
            env=env, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_reads_it(tmp_path):
    write("mlflow", tmp_path)
    from mlflow.tracking import MlflowClient

    file = tmp_path / "tracking" / "mlflow" / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{file}")
    (experiment,) = [e for e in client.search_experiments() if e.name == tmp_path.name]
    runs = client.search_runs([experiment.experiment_id])
    found = {
        run.info.run_name: {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in runs
    }
    same(found, LOGGED)
    assert {(run.info.status, run.data.params["rounds"]) for run in runs} == {("FINISHED", "6")}
    with sqlite3.connect(file) as store:  # nothing is left of the process that was killed
        assert store.execute("select count(*) from runs").fetchone() == (2,)


def records(file):
    """What a run of Weights & Biases holds: a log of LevelDB's form, of its own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, message = file.read_bytes()[7:], b""
    place, block = 0, 7  # a block has 32 KiB, with the header of the first
    while place < len(content):
        if 32768 - block < 7:
            place, block = place + 32768 - block, 0
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        message += content[place + 7 : place + 7 + size]
        place, block = place + 7 + size, (block + 7 + size) % 32768
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_has_it_offline(tmp_path):
    write("wandb", tmp_path)
    found = {}
    for file in (tmp_path / "tracking" / "wandb").rglob("*.wandb"):
        name, own = "", {}
        for record in records(file):
            if record.HasField("run"):
                name = record.run.display_name
                assert record.run.run_group == tmp_path.name
                assert record.run.project == "cgsv_jax"
            if record.HasField("history"):
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                for key in ("accuracy/mean", "fairness"):
                    own.setdefault(key, []).append((row["_step"], row[key]))
        assert name not in found
        found[name] = own
    same(found, LOGGED)


def test_the_folder_is_a_directory_of_the_run(tmp_path):
    (tmp_path / "tracking").write_text("")
    with pytest.raises(ValueError, match="whose tracking is a file"):
        directory_lib.create(tmp_path)
    assert Path(tmp_path / "tracking").is_file()
    assert execute.NO_KEEPER.due(0, 0) is False
