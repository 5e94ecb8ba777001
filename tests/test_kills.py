"""Really killed, ten times: SIGKILL at a random moment, then --resume, then every byte compared.

    python -m pytest -m long tests/test_kills.py

Half of the moments are anywhere in a run, half while a checkpoint is being written. Programs are
compiled afresh in every process, as they would be.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cgsv_jax.experiment import checkpoint
from cgsv_jax.results import directory as directory_lib

ROOT = Path(__file__).parents[1]
# The command, except that the last checkpoint stays: it holds the parameters, which results do not.
COMMAND = """
import sys
from cgsv_jax.command import main
from cgsv_jax.results import directory
directory.remove_checkpoints = lambda directory: None
sys.exit(main.main(sys.argv[1:]))
"""
RUN = [
    *("compare", "--algorithms", "standalone,cgsv[beta=2]", "--optimizer", "adam"),
    *("--hidden", "16"),
    *("--clients", "5", "--epochs", "1", "--rounds", "8", "--seeds", "2", "--eval-every", "2"),
    *("--checkpoint-every", "1", "--partition-seeds", "2"),
]


def start(*argv, code=("-c", COMMAND)):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    return subprocess.Popen(
        [sys.executable, *code, *map(str, argv)],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def outcome(directory):
    """The bytes of every result, and every array of the last checkpoint."""
    files = {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and directory_lib.CHECKPOINT not in path.parts
        and path.name != "timing.json"
    }
    last = directory_lib.checkpoints(directory)[-1]
    manifest = checkpoint.read_manifest(last)
    entries = {f"{i:06d}": entry for i, entry in enumerate(manifest["arrays"])}
    shapes = {
        number: checkpoint.jax.ShapeDtypeStruct(tuple(entry["shape"]), np.dtype(entry["dtype"]))
        for number, entry in entries.items()
        if np.prod(entry["shape"])
    }
    arrays = checkpoint._get(last / checkpoint.ARRAYS, shapes)
    return files, {entries[number]["name"]: x for number, x in arrays.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a run that nobody kills ends with, and the seconds from its first file to its last."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    process = start(*RUN, "--out", directory)
    wait_for(process, (directory / "config.json").exists)
    began = time.monotonic()
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    return *outcome(directory), time.monotonic() - began


def wait_for(process, condition):
    """Whether it came true while the process lived."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def kill(process, directory, moment, seconds):
    """Kills at a random moment; whether there was still something to kill."""
    if not wait_for(process, (directory / "config.json").exists):
        return False
    if moment.random() < 0.5:
        time.sleep(moment.uniform(0, seconds))
    else:
        folder = directory / directory_lib.CHECKPOINT
        wanted = moment.randrange(1, 32)  # of the 32 that are written
        if not wait_for(process, (folder / f".{wanted:012d}.tmp").exists):
            return False
        time.sleep(moment.choice([0, moment.uniform(0, 0.05)]))
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    return alive


def moments(count, often):
    """Numbers of random moments, so many of them in every full run and the others by night."""
    marks = [pytest.mark.long] * often + [pytest.mark.nightly] * (count - often)
    return [pytest.param(number, marks=mark) for number, mark in enumerate(marks)]


@pytest.mark.parametrize("number", moments(10, often=2))
def test_killed_and_resumed_is_never_having_been_killed(number, uninterrupted, tmp_path):
    files, arrays, seconds = uninterrupted
    moment, directory = random.Random(number), tmp_path / "run"
    killed = False
    while not killed:
        shutil.rmtree(directory, ignore_errors=True)
        process = start(*RUN, "--out", directory)
        killed = kill(process, directory, moment, seconds)
        process.communicate(timeout=500)
    assert process.returncode == -signal.SIGKILL
    # It may have been drawing figures: then they are drawn again.
    finished = directory_lib.state_of(directory) == "finished"
    left = [path.name for path in directory_lib.checkpoints(directory, temporary=True)]
    print("killed, with", left)
    process = start("run", "--resume", directory)
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    assert "refused" not in printed
    sound = [name for name in left if not name.startswith(".")]
    if finished:
        assert "is finished" in printed
    elif sound:
        assert f"going on after {int(sound[-1])} of 64 rounds" in printed
    files_now, arrays_now = outcome(directory)
    assert files_now.keys() == files.keys()
    for name, data in files.items():
        assert files_now[name] == data, name
    assert arrays_now.keys() == arrays.keys()
    for name, x in arrays.items():
        assert arrays_now[name].tobytes() == x.tobytes(), name
    assert any("optimizer" in name for name in arrays)
    assert len(directory_lib.checkpoints(directory, temporary=True)) == checkpoint.KEEP


SWEEP = [
    *("sweep", "--alpha", "0.5,0.9", "--beta", "0.5,2", "--hidden", "8", "--clients", "4"),
    *("--epochs", "1", "--rounds", "6", "--seeds", "2", "--partition", "uniform,power_law"),
    *("--checkpoint-every", "1"),
]


@pytest.mark.parametrize("number", moments(3, often=1))
def test_a_sweep_killed_and_resumed_is_never_having_been_killed(number, tmp_path):
    """Three kills each, in whatever call of whatever program; the same tables, and only the rest.

    SIGTERM is answered with what goes on, and nothing that was through is computed again.
    """
    moment = random.Random(100 + number)
    whole, directory = tmp_path / "whole", tmp_path / "killed"
    process = start(*SWEEP, "--out", whole)
    wait_for(process, (whole / "environment.json").exists)
    began = time.monotonic()
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    seconds = time.monotonic() - began
    command = [*SWEEP, "--out", directory]
    how = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]
    for asked in how:
        process = start(*command)
        wait_for(process, (directory / "environment.json").exists)
        time.sleep(moment.uniform(0, seconds / 2))
        process.send_signal(asked)
        printed, _ = process.communicate(timeout=500)
        if process.returncode == 0:  # it was through before
            break
        # Below 0 also where it was still loading, and had begun nothing.
        assert process.returncode in (-asked, 128 + signal.SIGTERM), printed
        if process.returncode > 0:
            assert f"cgsv sweep --resume {directory}" in printed
        command = ["sweep", "--resume", directory]
    process = start("sweep", "--resume", directory)
    printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    assert "refused" not in printed
    for name in ("sweep.parquet", "points.parquet", "points.json", "config.json"):
        assert (directory / name).read_bytes() == (whole / name).read_bytes(), name


SEARCH = [
    *("sweep", "--search", "optuna", "--points", "3", "--beta", "0.1:10", "--hidden", "8"),
    *("--clients", "3", "--epochs", "1", "--rounds", "40", "--eval-every", "1", "--seeds", "1"),
    *("--best", "mean_accuracy", "--checkpoint-every", "1"),
]


@pytest.mark.nightly
def test_a_search_killed_and_resumed_draws_the_same_points(tmp_path):
    """Killed beside a checkpoint, which is gone on with; without Ray."""
    pytest.importorskip("optuna", reason="needs the extra [search]")
    whole, directory, code = tmp_path / "whole", tmp_path / "killed", ("-m", "cgsv_jax")
    process = start(*SEARCH, "--out", directory, code=code)
    assert wait_for(process, lambda: (directory / "parts").exists())
    assert wait_for(process, lambda: directory_lib.checkpoints(directory))
    process.kill()
    process.communicate(timeout=500)
    (left,) = directory_lib.checkpoints(directory)[-1:]
    printed, _ = start("sweep", "--resume", directory, code=code).communicate(timeout=500)
    assert f"going on after {int(left.name)} of" in printed
    assert "3/3 points" in printed
    printed, _ = start(*SEARCH, "--out", whole, code=code).communicate(timeout=500)
    for name in ("sweep.parquet", "points.parquet", "points.json", "config.json"):
        assert (directory / name).read_bytes() == (whole / name).read_bytes(), name
