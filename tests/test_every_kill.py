"""SIGKILL before every single change of a file, once each, then --resume: the same files.

python -m pytest -m long tests/test_every_kill.py
"""

import itertools
import signal

import killing
import pytest

# A part and a checkpoint after every run and round, so that there is much to be killed at.
SETUP = killing.TOY + "from cgsv_jax import sweep_cli; sweep_cli._SECONDS_BETWEEN_PARTS = -1.0"
SWEEP = [
    *("sweep", "--algorithms", "standalone", "--learning-rate", "0.1,0.2", "--hidden", "8"),
    *("--clients", "3", "--epochs", "1", "--rounds", "2", "--seeds", "1", "--eval-rows", "60"),
    *("--checkpoint-every", "1", "--quiet"),
]
SHARDS = 8


@pytest.fixture
def whole(tmp_path):
    """A server, what a sweep ends with that nobody kills, and its changes."""
    directory = tmp_path / "whole"
    with killing.server(tmp_path, SETUP) as run:
        ended = run([*SWEEP, "--out", directory], directory)
        assert ended.code == 0, ended.printed
        yield run, killing.files_of(directory), ended.changes


@pytest.mark.long
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_sweep_is_killed_everywhere(shard, whole, tmp_path):
    run, wanted, changes = whole
    killed = itertools.takewhile(
        lambda at: killing.must_go_on(run, "sweep", SWEEP, tmp_path / "killed", wanted, at),
        range(1 + shard, 10_000, SHARDS),
    )
    assert len(list(killed)) >= len(changes) // SHARDS > 10


def test_a_sweep_is_killed_where_it_matters(whole, tmp_path):
    """Before it has begun, before a checkpoint, the last table, the figure, the end of a part."""
    run, wanted, _ = whole
    for at in (
        *("os.rename config.json", "os.rename checkpoint/000000000002"),
        *("os.rename settings.parquet", "os.rename figures/line-learning_rate.png"),
        "os.rmdir parts",
    ):
        assert killing.must_go_on(run, "sweep", SWEEP, tmp_path / "killed", wanted, at)


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGSTOP"])
def test_a_sweep_is_told_to_stop(name, whole, tmp_path):
    """At ten moments: it saves and ends, or dies; what was only stopped goes on."""
    run, wanted, changes = whole
    for at in range(1, len(changes), len(changes) // 10):
        assert killing.must_go_on(
            run, "sweep", SWEEP, tmp_path / "told", wanted, at, getattr(signal, name)
        )
