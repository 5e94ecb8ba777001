"""Sweeps on a real Ray that the tests start: the same tables, also after processes are killed."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cgsv_jax.command import main
from cgsv_jax.results import frames
from cgsv_jax.sweep import results as sweep_results

pytest.importorskip("ray", reason="needs the extra [ray]")
pytest.importorskip("optuna", reason="needs the extra [search]")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc"),
]

ROOT = Path(__file__).parents[1]
SWEEP = [
    *("sweep", "--hidden", "8", "--clients", "4", "--epochs", "1", "--seeds", "2"),
    *("--partition", "uniform,class_imbalance"),
]
# Rounds that take some seconds in all, so that there is something to kill.
GRID = [*SWEEP, "--rounds", "300", "--beta", "0.5,1,2", "--alpha", "0.9,0.95"]
PATIENCE = 300  # seconds; on a busy machine Ray alone takes twenty to start


@pytest.fixture
def marked():
    """An environment that marks all processes of a test, none of which outlives it."""
    mark = f"CGSV_TEST={uuid.uuid4().hex}"
    name, value = mark.split("=")
    env = {name: value, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    # A cluster lets in who has its token.
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex + uuid.uuid4().hex}
    yield os.environ | env, mark
    for process in _processes(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _processes(mark, title=""):
    """Numbers of the processes that have the mark, and the title somewhere in their command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            own = mark.encode() in (folder / "environ").read_bytes()
            if own and title.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return [number for number in found if number != os.getpid()]


def _start(env, *argv):
    command = [sys.executable, "-m", "cgsv_jax", *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


def _until(what, process=None):
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, "nothing happened"
        if process is not None:
            assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    return found


def _end(process):
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The grid without Ray."""
    out = tmp_path_factory.mktemp("local") / "sweep"
    assert main.main([*GRID, "--quiet", "--out", str(out)]) == 0
    return out


def files_of(directory):
    """Everything in a directory but the seconds."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if path.name != "timing.json"
    }


def _same(out, local):
    """The tables of two sweeps, and their files by name.

    The programs are the same; a process of another thread count may add in another order, and 300
    rounds make of that what a few of the 360 test rows of a client are.
    """
    (_, one, ranks), (_, two, others) = (sweep_results.read(folder) for folder in (out, local))
    assert one.columns == two.columns
    keys = ["point", "beta", "alpha", *frames.KEYS]
    assert one.select(keys).equals(two.select(keys))
    for name in ("mean_accuracy", "share", "mean_gain"):
        a, b = (table[name].to_numpy() for table in (one, two))
        np.testing.assert_allclose(a, b, atol=5 / 360)
    assert ranks.columns == others.columns
    assert {p.name for p in out.iterdir()} == {p.name for p in local.iterdir()}
    assert (out / "config.json").read_bytes() == (local / "config.json").read_bytes()


def test_a_worker_is_killed(marked, local, tmp_path):
    """Its trial is started again, and the table is that of a sweep without Ray."""
    env, mark = marked
    out = tmp_path / "sweep"
    process = _start(env, *GRID, "--on", "ray", "--out", str(out))
    _until(lambda: list((out / "parts").glob("*.npz")), process)
    workers = _until(lambda: _processes(mark, "ray::_run_some"), process)
    os.kill(workers[0], signal.SIGKILL)
    assert "Points by fairness" in _end(process)
    _same(out, local)
    _until(lambda: not _processes(mark, "raylet"))  # its Ray has ended with it


@pytest.fixture
def cluster(marked):
    """A Ray of another process, two cores; its address."""
    env, _ = marked
    code = (
        "import ray, sys, time\n"
        "ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)\n"
        "print('at', ray.get_runtime_context().gcs_address, flush=True)\n"
        "time.sleep(3600)\n"
    )
    env = env | {"RAY_USAGE_STATS_ENABLED": "0"}
    head = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    address = next(line for line in head.stdout if line.startswith("at ")).split()[1]
    yield address
    head.terminate()
    head.wait(timeout=60)


def test_the_driver_is_killed(marked, cluster, local, tmp_path):
    """On a cluster that lives on: the same command with --resume runs what is missing."""
    env, _ = marked
    out = tmp_path / "sweep"
    where = ["--on", "ray", "--address", cluster]
    process = _start(env, *GRID, *where, "--out", str(out))
    _until(lambda: list((out / "parts").glob("*.npz")), process)
    process.kill()
    process.wait()
    done = len(sweep_results.parts(out))
    assert 0 < done < 28
    again = _start(env, "sweep", "--resume", str(out), *where)
    printed = _end(again)
    assert f"{done} further trials are through already" in " ".join(printed.split())
    assert f"{28 - done} trials by" in printed
    _same(out, local)


def test_the_driver_is_killed_at_every_operation(marked, cluster, forking, tmp_path):
    """On files: while Ray computes, while its folder goes, and where all runs are through.

    Of what is inside of Ray's own folder only the first removal: nobody reads it again.
    """
    env, _ = marked
    whole, killed, through = (tmp_path / name for name in ("whole", "killed", "through"))
    where = ["--on", "ray", "--address", cluster]
    small = [
        *("sweep", "--algorithms", "standalone", "--learning-rate", "0.1,0.2", "--hidden", "8"),
        *("--clients", "3", "--epochs", "1", "--rounds", "2", "--seeds", "1", "--quiet"),
    ]
    with forking("real", **env) as forks:

        def goes_on(at):
            begun = (killed / "config.json").exists()
            rest = ["sweep", "--resume", killed] if begun else [*small, "--out", killed]
            done = forks(*rest)
            assert (done.code, done.err) == (0, ""), (at, done)
            assert files_of(killed) == wanted, at
            shutil.rmtree(killed)

        assert forks(*small, "--out", whole).code == 0
        wanted = files_of(whole)
        of_ray = [("killed/ray", 0), ("-cache", 0)]
        for at in [*range(1, 13), *of_ray]:
            job = {"directory": killed, "at": at, "signal": signal.SIGKILL}
            assert forks(*small, *where, "--out", killed, **job).code == -signal.SIGKILL
            goes_on(at)
        job = {"directory": through, "at": (".sweep.parquet", 0), "signal": signal.SIGKILL}
        assert forks(*small, *where, "--out", through, **job).code == -signal.SIGKILL
        for at in itertools.count(1):
            shutil.copytree(through, killed)
            job = {"directory": killed, "at": at, "signal": signal.SIGKILL}
            code = forks("sweep", "--resume", killed, "--quiet", *where, **job).code
            if code == 0:
                break
            assert code == -signal.SIGKILL
            goes_on(at)
        assert at > 15


PLUGIN = """
import cgsv_jax as cg
from cgsv_jax.rules.spec import Interval, Number, Spec


def patient(patience):
    reputation = cg.reputation.moving_average(cg.contribution.cosine(), patience)
    return cg.compose(reputation, cg.aggregation.by_size(), cg.reward.sparsify(2.0))


METHODS = {
    "patient": Spec(patient, {"patience": Number(0.5, Interval(0, 1), "of the past", "patience")})
}
"""


def test_a_plugins_own_number_is_swept(marked, tmp_path):
    """Tasks find the file by themselves; to the bit, on one thread as each task of Ray's has."""
    env, _ = marked
    plugin, one, two = (tmp_path / name for name in ("my_rules.py", "one", "two"))
    plugin.write_text(PLUGIN)
    words = [*SWEEP, "--plugin", str(plugin), "--algorithms", "patient", "--patience", "0.1,0.9"]
    words += ["--rounds", "6", "--best", "mean_accuracy", "--quiet"]
    _end(_start(env | {"NPROC": "1"}, *words, "--out", str(one)))
    _end(_start(env, *words, "--on", "ray", "--cpus-per-task", "1", "--out", str(two)))
    for name in ("points.parquet", "sweep.parquet", "config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert pl.read_parquet(two / "points.parquet")["patience"].n_unique() == 2
    table = pl.read_parquet(two / "sweep.parquet")
    assert table.group_by("patience").agg(pl.col("share").mean())["share"].n_unique() == 2


def test_a_search_is_stopped_and_goes_on(marked, cluster, tmp_path):
    """The same points are drawn again, and those that are through are not run again."""
    env, _ = marked
    out = tmp_path / "search"
    where = ["--on", "ray", "--address", cluster]
    asked = [*SWEEP, "--rounds", "100", "--beta", "0.1:10", "--mask-ties", "position,all"]
    asked += ["--search", "optuna", "--points", "4", "--best", "mean_accuracy"]
    process = _start(env, *asked, *where, "--out", str(out))
    _until(lambda: list((out / "parts").glob("*.npz")), process)
    process.kill()
    process.wait()
    before = sweep_results.parts(out)
    assert before
    printed = _end(_start(env, "sweep", "--resume", str(out), *where))
    assert "4/4 points" in " ".join(printed.split())
    config, table, points = sweep_results.read(out)
    assert len(config["scores"]) == table["point"].n_unique() == 4
    assert points["rank"].n_unique() == 4
    best = points.filter("best")
    assert best["criterion"][0] == points["criterion"].max()
    assert (out / "figures").is_dir()
    # A finished search is a sweep of known points.
    again = tmp_path / "again"
    argv = ["sweep", "--config", str(out / "config.json"), "--quiet", "--out", str(again)]
    assert main.main(argv) == 0
    repeated = pl.read_parquet(again / "sweep.parquet")
    np.testing.assert_allclose(repeated["mean_accuracy"], table["mean_accuracy"], atol=5 / 360)


def test_a_scheduler_ends_what_does_badly(marked, tmp_path):
    """Learning rates over four decades, of which most learn nothing in the first rounds."""
    env, _ = marked
    out = tmp_path / "search"
    asked = [*SWEEP, "--rounds", "18", "--learning-rate", "0.0001:1", "--search", "random"]
    asked += ["--points", "5", "--scheduler", "asha", "--best", "mean_accuracy", "--on", "ray"]
    _end(_start(env, *asked, "--out", str(out)))
    scores = json.loads((out / "config.json").read_text())["scores"]
    assert len(scores) == 5
    states = {score["state"] for score in scores}
    assert "finished" in states
    assert states <= {"finished", "stopped"}
    assert all(score["looks"][-1][0] < 18 for score in scores)
