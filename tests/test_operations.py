"""Killed, stopped, short of room, rights or a terminal: whole results in the end.

Commands of tests/forks.py, at every operation on files that they do.
"""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from cgsv_jax.command import main, stopping
from cgsv_jax.host import terminal
from cgsv_jax.results import directory as directory_lib

SMALL = ("--clients", "3", "--epochs", "1", "--seeds", "1", "--eval-every", "1", "--quiet")
SMALL += ("--checkpoint-every", "1", "--partition")
COMMANDS = {
    # Three checkpoints, so that the oldest is removed on the way.
    "run": ("run", *SMALL, "power_law", "--rounds", "3"),
    "compare": ("compare", *SMALL, "uniform,power_law", "--rounds", "1", "--algorithms", "cgsv"),
    "sweep": (
        *("sweep", *SMALL, "power_law", "--rounds", "2", "--algorithms", "standalone"),
        *("--learning-rate", "0.1,0.2"),
    ),
}
# The last of the tables and of the figures; where a kill leaves half of what comes before it.
LAST = {"run": (".summary.parquet", ".share-"), "sweep": (".points.parquet", ".line-")}


def files_of(directory):
    """Everything in a directory but the seconds."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if path.name != "timing.json"
    }


@pytest.fixture(scope="module")
def place():
    """A folder that every user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module", params=COMMANDS)
def whole(request, forks, place):
    """A command, the files that it ends with, and the names of its operations."""
    return _whole(request.param, forks, place)


@pytest.fixture(scope="module")
def ran(forks, place):
    """The same of one run."""
    return _whole("run", forks, place / "one")


@pytest.fixture(scope="module", params=LAST)
def either(request, forks, place):
    """The same of a run and of a sweep."""
    return _whole(request.param, forks, place / "either")


def _whole(name, forks, place):
    place.mkdir(exist_ok=True)
    out, log = place / name, place / f"{name}.log"
    done = forks(*COMMANDS[name], "--out", out, directory=out, log=log)
    assert (done.code, done.out, done.err) == (0, "", "")
    return COMMANDS[name], files_of(out), log.read_text().splitlines()


def goes_on(forks, out, command, **job):
    """As somebody would who finds what is left."""
    begun = (out / "config.json").exists()
    words = (resuming(command), "--resume", out, "--quiet") if begun else (*command, "--out", out)
    return forks(*words, **job)


def resuming(command):
    return "sweep" if command[0] == "sweep" else "run"


def late(command):
    """When all is written and drawn; of the checkpoints one is half removed."""
    return "os.remove manifest.json", 2 if command[0] == "sweep" else 1


def check_kills(whole, forks, place, moments):
    """Returns the first moment that no run reached, if there is one; it had ended by itself."""
    command, files, _ = whole
    for at in moments:
        out = place / f"killed-{at}"
        shutil.rmtree(out, ignore_errors=True)
        killed = forks(*command, "--out", out, directory=out, at=at, signal=signal.SIGKILL)
        if killed.code == 0:
            return at
        assert killed.code == -signal.SIGKILL, (at, killed)
        done = goes_on(forks, out, command)
        assert (done.code, done.err) == (0, ""), (at, done)
        assert files_of(out) == files, at
    return None


def test_killed_between_the_steps_that_matter(either, forks, place):
    """Begun but for the config; without the last table, the last figure, a part of a checkpoint."""
    moments = [("rename", 1), *((name, 1) for name in LAST[either[0][0]]), late(either[0])]
    assert check_kills(either, forks, place, moments) is None


@pytest.mark.nightly
def test_killed_at_every_operation(whole, forks, place):
    """How many there are differs by a few, since checkpoints are rotated by the clock."""
    ended = check_kills(whole, forks, place, itertools.count(1))
    assert abs(ended - 1 - len(whole[2])) <= 5


@pytest.mark.nightly
def test_killed_while_another_run_is_replaced(ran, forks, place):
    """The command again ends in its own files, whatever was left of the other's."""
    command, files, _ = ran
    other, out, log = place / "another", place / "replaced", place / "replaced.log"
    words = (*command, "--overwrite", "--out", out)
    assert forks(*COMMANDS["compare"], "--out", other).code == 0
    shutil.copytree(other, out)
    forks(*words, directory=out, log=log)
    for at in range(1, 1 + log.read_text().split("checkpoint/")[0].count("\n")):
        shutil.rmtree(out)
        shutil.copytree(other, out)
        killed = forks(*words, directory=out, at=at, signal=signal.SIGKILL)
        assert killed.code == -signal.SIGKILL
        done = forks(*words)
        assert (done.code, done.err) == (0, "")
        assert files_of(out) == files


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", [*STOPPING, signal.SIGSTOP])
@pytest.mark.nightly
def test_signals_at_ten_moments(number, either, forks, place):
    command, files, log = either
    codes = set()
    for at in [1 + i * (len(log) - 1) // 9 for i in range(10)]:
        out = place / f"{command[0]}-{number.name}-{at}"
        done = forks(*command, "--out", out, directory=out, at=at, signal=number)
        codes.add(done.code)
        assert "Traceback" not in done.err
        assert (directory_lib.state_of(out) == "finished") == (done.code == 0)
        done = goes_on(forks, out, command)
        assert done.code == 0
        assert files_of(out) == files
    assert codes == ({0} if number == signal.SIGSTOP else {0, 128 + number} | codes & {-number})


def test_a_terminal_that_is_closed_ends_a_run_as_sigterm_does(ran, forks, place):
    command, files, _ = ran
    out = place / "hung up"
    at = ("manifest.json", 0)
    done = forks(*command, "--out", out, directory=out, at=at, signal=signal.SIGHUP)
    assert done.code == 128 + signal.SIGHUP
    assert f"cgsv: stopped; go on after 2 rounds with: cgsv run --resume '{out}'" in done.err
    assert goes_on(forks, out, command).code == 0
    assert files_of(out) == files


def test_nohup_is_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping._signals(main.terminal.console(), lambda: "", lambda: "") as received:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            while not received:
                pass
            assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- what is printed


def loud(command):
    return [word for word in command if word != "--quiet"]


@pytest.mark.parametrize(
    ("columns", "encoding"), [(20, "utf-8"), (400, "utf-8"), (80, "ascii"), (80, "cp1252")]
)
def test_terminals_of_every_width_and_encoding(columns, encoding, ran, forks, place):
    command, files, _ = ran
    out = place / f"{columns}-{encoding}"
    how = {"env": {"COLUMNS": columns}, "encoding": encoding}
    done = forks(*loud(command), "--out", out, **how)
    assert (done.code, done.err) == (0, "")
    assert files_of(out) == files
    assert f"results: {out}  (6 figures in {out / 'figures'})" in done.out.splitlines()


@pytest.mark.parametrize("where", ["/dev/full", "closed"])
def test_what_cannot_be_printed_costs_nothing_else(where, ran, forks, place):
    command, files, _ = ran
    out = place / f"to {where.strip('/').replace('/', ' ')}"
    done = forks(*loud(command), "--out", out, out=where)
    assert (done.code, done.err) == (1, "")
    assert files_of(out) == files
    done = forks("data", "list", out=where)
    assert (done.code, done.err) == (1, "")


@pytest.mark.parametrize("name", ["a[/b]", "bad$\\frac$ :smile:", "a\x1b[2J\x07b", "ü \u202e"])
def test_names_are_printed_as_they_are_but_for_control_characters(name, ran, forks, place):
    command, files, _ = ran
    out = place / name
    done = forks(*loud(command), "--out", out)
    assert (done.code, done.err) == (0, "")
    assert files_of(out) == files
    assert f"results: {terminal.plain(str(out))}  (" in done.out
    for words in (["plot", out / "x"], ["run", "--resume", out / "x"], ["run", f"--{name}", name]):
        done = forks(*words)
        assert done.code == 2
        assert "Traceback" not in done.err
        assert not {"\x1b", "\x07", "\u202e"} & set(done.out + done.err)


# ---------------------------------------------------------------- room, descriptors, rights


@pytest.fixture
def disk(place):
    """A file system of 64 MiB."""
    at = place / "disk"
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(at)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system may be mounted here, so that none can be filled")
    yield at
    subprocess.run(["umount", str(at)], check=True)
    at.rmdir()


@pytest.mark.parametrize(
    ("kind", "code"),
    [(".config.json", 2), ("checkpoint/.", 1), ("table", 1), ("figure", 1)],
)
@pytest.mark.nightly
def test_a_file_system_that_is_full(kind, code, either, forks, disk):
    """In a run and in its --resume: a sentence, and the same files when there is room again."""
    command, files, _ = either
    kind = dict(zip(("table", "figure"), LAST[command[0]], strict=True)).get(kind, kind)
    out, filler = disk / "run", disk / "filler"
    full = {"directory": out, "at": (kind, 0), "fill": filler}
    done = forks(*command, "--out", out, **full)
    assert done.code == code
    for _ in range(2):
        assert "No space left on device" in done.err
        assert "Traceback" not in done.err
        done = goes_on(forks, out, command)
        assert done.code in (1, 2)
    filler.unlink()
    # Again while it goes on: what it had is not lost.
    if out.exists():
        done = goes_on(forks, out, command, **full | {"at": 20})
        filler.unlink(missing_ok=True)
    done = goes_on(forks, out, command)
    assert (done.code, done.err) == (0, "")
    assert files_of(out) == files


@pytest.mark.nightly
def test_a_file_system_that_is_read_only(either, forks, disk):
    """A finished run is finished; one that was begun says why it cannot go on."""
    command, files, _ = either
    again = resuming(command)
    done, begun = disk / "done", disk / "begun"
    for out, at in ((done, late(command)), (begun, ("rename", 3))):
        forks(*command, "--out", out, directory=out, at=at, signal=signal.SIGKILL)
    before = files_of(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found = forks(again, "--resume", done)
    assert found.code == 0
    assert "is finished" in found.out
    assert found.err == f"cgsv: {done} cannot be written to: Read-only file system\n"
    for words in ([again, "--resume", begun], ["plot", done], [*command, "--out", disk / "new"]):
        found = forks(*words)
        assert found.code == 2
        assert found.err.endswith("cannot be written to: Read-only file system\n")
    assert files_of(disk) == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    for out in (done, begun):
        assert goes_on(forks, out, command).code == 0
        assert files_of(out) == files


@pytest.mark.parametrize("number", [64, 40])
def test_few_descriptors(number, either, forks, place):
    """Enough, or a sentence and nothing lost."""
    command, files, _ = either
    out = place / f"{command[0]} with {number} descriptors"
    done = forks(*command, "--out", out, nofile=number)
    assert done.code in ((0,) if number == 64 else (0, 1, 2)), done
    assert "Traceback" not in done.err
    assert goes_on(forks, out, command).code == 0
    assert files_of(out) == files


NOBODY = {} if os.geteuid() else {"uid": 65534}


def test_a_user_without_rights(either, forks, place):
    """A sentence that names what it is about, exit code 2, and nothing left; or it is finished."""
    command, files, _ = either
    again = resuming(command)
    done, begun, locked = (place / f"{command[0]} {x}" for x in ("done", "begun", "locked"))
    for out, at in ((done, late(command)), (begun, ("rename", 3))):
        forks(*command, "--out", out, directory=out, at=at, signal=signal.SIGKILL)
        for path in (out, out / "checkpoint", out / "figures"):
            if path.exists():
                path.chmod(0o555)
    shutil.copytree(done, locked)
    before = files_of(place)
    locked.chmod(0)
    place.chmod(0o555)
    try:
        found = forks(again, "--resume", done, **NOBODY)
        assert (found.code, "is finished" in found.out) == (0, True), found.err
        assert found.err == f"cgsv: {done} cannot be written to: Permission denied\n"
        for words in (
            [again, "--resume", begun],
            ["plot", done],
            [*command, "--out", place / "new"],
            [*command, "--out", begun, "--overwrite"],
            ["plot", locked],
            [again, "--resume", locked],
            [again, "--config", locked / "config.json"],
            ["data", "list", "--data-dir", locked / "x"],
            ["run", "--dataset", "mnist", "--data-dir", locked / "x"],
            ["run", "--attendance", locked / "who.txt"],
        ):
            found = forks(*words, **NOBODY)
            assert found.code == 2, words
            assert "Permission denied" in found.err
            assert all(line.startswith("cgsv: ") for line in found.err.splitlines()), found.err
            assert str(place) in found.err
    finally:
        place.chmod(0o755)
        locked.chmod(0o755)
    assert files_of(place) == before
    for out in (done, begun):
        for path in (out, out / "checkpoint", out / "figures"):
            if path.exists():
                path.chmod(0o755)
        assert goes_on(forks, out, command).code == 0
        assert files_of(out) == files


# ---------------------------------------------------------------- which data


def test_other_data_are_refused_or_warned_of(ran, forks, place):
    """What a file holds, not what it is called."""
    who, out = place / "who.txt", place / "attended"
    who.write_text("0,1\n1,2\n0,2\n")
    command = (*ran[0], "--attendance", who)
    at = ("checkpoint/", 0)
    forks(*command, "--out", out, directory=out, at=at, signal=signal.SIGKILL)
    before = files_of(out)
    who.write_text("0,1\n1,2\n0,1\n")
    done = forks("run", "--resume", out)
    assert done.code == 2
    assert "but the file of --attendance holds something else than it held" in done.err
    assert files_of(out) == before
    done = forks("run", "--config", out / "config.json", "--out", place / "repeated", "--quiet")
    assert done.code == 0
    assert "but the file of --attendance holds something else than it held" in done.err
    who.write_text("0,1\n1,2\n0,2\n")
    done = forks("run", "--config", out / "config.json", "--out", place / "again", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert goes_on(forks, out, command).code == 0
    assert files_of(out) == files_of(place / "again")


def test_a_config_edited_by_hand(ran, forks, place):
    """It may be repeated, with a warning; a run of it does not go on."""
    command, files, _ = ran
    out, home = place / "edited", place / "home"
    forks(*command, "--out", out)
    home.mkdir()
    text = (out / "config.json").read_text()
    (home / "c.json").write_text("\ufeff" + text)
    words = ("run", "--config=~/c.json", "--quiet", "--out")
    done = forks(*words, place / "same", env={"HOME": str(home)})
    assert (done.code, done.err) == (0, "")
    assert files_of(place / "same") == files
    for path in (home / "c.json", out / "config.json"):
        path.write_text(text.replace('"rounds": 3', '"rounds": 2'))
    done = forks(*words, place / "other", env={"HOME": str(home)})
    assert (done.code, done.err) == (
        0,
        f"cgsv: {home / 'c.json'} was changed since it was written\n",
    )
    for words in (["run", "--resume", out], ["plot", out]):
        done = forks(*words)
        assert done.code == 2
        assert "config.json cannot be read: it was changed or damaged" in done.err
    (home / "c.json").write_text('{"rounds": 3, "rounds": 2}')
    done = forks("run", "--config", home / "c.json")
    assert done.code == 2
    assert "it holds the name 'rounds' twice" in done.err
