"""The command, killed with SIGKILL before the n-th change that it makes to a directory's files.

A server imports what is slow to import and forks a child for every command, so that a kill costs
what is computed and no more. Run as a script it is that server; tests call `server`.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


# In place of training, which takes most of the time and touches no file: a few sines, which go on
# from their state, so that a result tells whether all of it was computed, once and in order.
TOY = """
import jax
import jax.numpy as jnp
from cgsv_jax import experiment
from cgsv_jax.runs import Programs
from cgsv_jax.types import Evaluation, Record

def programs(config, method, problem):
    number = len(problem.sizes)

    def begin(seeds, hyper):
        first = jnp.arange(1.0, number + 1) / number + seeds[:, None]
        return {"x": first, "round": jnp.zeros(len(seeds), jnp.int32)}

    def segment(rounds, seeds, hyper, state, shared, evaluated=True):
        def step(x, _):
            x = jnp.sin(3 * x + hyper.learning_rate[:, None] + hyper.beta[:, None])
            return x, x

        x, seen = jax.lax.scan(step, state["x"], length=rounds)
        seen, done = jnp.abs(jnp.swapaxes(seen, 0, 1)), state["round"] + rounds
        true, last = jnp.ones(seen.shape, bool), jnp.abs(x)[:, None][:, :evaluated]
        quota = (seen * sum(problem.tensors)).astype(jnp.int32)
        record = Record(seen, seen, seen, quota, true, seen, seen, seen, ~true)
        at, server = done[:, None][:, :evaluated], last.mean(-1)
        return {"x": x, "round": done}, record, Evaluation(at, last, last, last, server, server)

    hyper = jax.tree.map(lambda x: jnp.full(1, x), method.hyper())
    return Programs(begin, segment, hyper, (), lambda *seen: seen)

experiment.programs = programs
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int  # below 0: by that signal
    printed: str
    changes: list[str]  # all that it made to the directory, in order, the fatal one included


# ---------------------------------------------------------------- in the tests


@contextlib.contextmanager
def server(folder, setup="", **environment):
    """Starts a server.

    Args:
      folder: for its own files.
      setup: Python that every command finds executed, `cgsv_jax` imported.
      **environment: beside that of the tests.

    Yields:
      run(words, directory, at=None, number=SIGKILL): executes the command in a child that gets a
      signal before its at-th change below the directory, or before the first one that is called
      so, and returns an `Ended`. What is stopped by it goes on a little later.
    """
    log, changes = Path(folder, "printed"), Path(folder, "changes")
    command = [sys.executable, str(Path(__file__)), setup]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **environment}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=env, **pipes)

    def run(words, directory, at=None, number=signal.SIGKILL):
        asked = [list(map(str, words)), str(log), str(directory), at, int(number), str(changes)]
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return Ended(code, log.read_text(), changes.read_text().splitlines())

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()


def must_go_on(run, command, words, directory, wanted, at, number=signal.SIGKILL):
    """Kills a command before its at-th change, and ends it with --resume: the files are as wanted.

    Args:
      run: see `server`.
      command: which goes on, "run" or "sweep".
      words: the command to kill, without --out.
      directory: where.
      wanted: `files_of` a directory that nobody was killed in.
      at: when, a number or a change.
      number: the signal; another one than SIGKILL may be answered.

    Returns:
      Whether there was something to kill.
    """
    ended = run([*words, "--out", directory], directory, at, number)
    assert "Traceback" not in ended.printed
    assert number != signal.SIGKILL or ended.code in (0, -number), ended.printed
    if ended.code != 0:
        begun = (Path(directory) / "config.json").exists()
        again = run([command, "--resume", directory], directory)
        assert "Traceback" not in again.printed
        if not begun:  # there is nothing to go on with, and nothing in the way
            assert again.code == 2
            again = run([*words, "--out", directory], directory)
        assert again.code == 0, (ended.changes[-1], again.printed)
    assert files_of(directory) == wanted, ended.changes[-1]
    shutil.rmtree(directory)
    return ended.changes[-1] == at if isinstance(at, str) else len(ended.changes) >= at


def files_of(directory):
    """The bytes of every file but the seconds, and the folders."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(directory).rglob("*"))
        if path.name != "timing.json"
    }


# ---------------------------------------------------------------- in the server


def watch(directory, at, number, log):
    """Logs what is about to change below a directory; a signal comes before `at` does."""
    directory = os.path.abspath(directory)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    done = [0]

    def hook(event, arguments):
        found = _changed(event, arguments)
        if found is None:
            return
        path, folder = found
        if isinstance(folder, int) and folder >= 0:  # a name in a folder that is open
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        path = os.path.abspath(os.fsdecode(path))
        if path != directory and not path.startswith(directory + os.sep):
            return
        done[0] += 1
        change = re.sub(r"\.\d+\.tmp", ".tmp", f"{event} {os.path.relpath(path, directory)}")
        os.write(file, f"{change}\n".encode())
        if at in (done[0], change):
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def _changed(event, arguments):
    """The path that an audited event is about to change, and the folder it is relative to."""
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return (path, None) if writes and isinstance(path, str | bytes) else None
    if event == "os.rename":
        return arguments[1], arguments[3]
    if event in ("os.remove", "os.rmdir"):
        return arguments
    if event == "os.mkdir":
        return arguments[0], arguments[2]
    return (arguments[0], None) if event in ("os.truncate", "shutil.rmtree") else None


def _serve():
    from cgsv_jax import cli

    for module in ("orbax.checkpoint", "msgspec", "sklearn.datasets"):
        __import__(module)
    exec(sys.argv[1], {})
    # What prints does so into a file of its own.
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        words, printed, *watched = json.loads(line)
        child = os.fork()
        if child == 0:
            stream = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            code = 1
            try:
                watch(*watched)
                code = cli.main(words)
            except SystemExit as exit_:
                code = exit_.code
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
            time.sleep(0.1)
            os.kill(child, signal.SIGCONT)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
