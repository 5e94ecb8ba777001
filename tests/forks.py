"""Commands in processes that cost next to nothing: `python tests/forks.py`, jobs in, outcomes out.

All that a command imports is loaded once, and nothing of JAX is started; then every job is a fork.
What it computes is a walk of a few numbers in place of a simulation, in the same batches, segments
and keepers, and its figures are blank: this is for what happens to files, signals and streams. With
`real` behind the name of this file it computes what is asked for.

A job is a line of JSON with `words`, and what the child does before the command starts:

| key | |
|---|---|
| directory, at, signal | sends itself the signal before its at-th operation on files below; or, \
where at is (words, number), before the number-th, from 0, with the words in its line of the log |
| fill | a file, in place of a signal: it takes all the room that is left |
| log | a file for the names of these operations |
| uid, nofile | becomes another user; may open so many files |
| out, encoding | a file for its standard output, or "closed"; how that is encoded |
| env | variables |

An outcome is a line of JSON with `code`, as `subprocess` has it, and what it printed, `out`, `err`.
"""

import contextlib
import functools
import importlib
import itertools
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
import traceback

import jax
import jax.numpy as jnp
import orbax.checkpoint  # noqa: F401
import sklearn.datasets
from matplotlib.figure import Figure

from cgsv_jax import data
from cgsv_jax.command import main
from cgsv_jax.command import sweep as sweep_command
from cgsv_jax.experiment import execute as execute_lib
from cgsv_jax.results import environment, figures
from cgsv_jax.sweep import figures as sweep_figures
from cgsv_jax.types import Evaluation, Record

CLIENTS = 3
CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}


# ---------------------------------------------------------------- what is computed


def begin(seeds, hyper, origin):
    """The first state of runs; every number of a method has its part in it."""
    numbers = sum(jnp.nan_to_num(x, posinf=9.0) for x in jax.tree.leaves(hyper))
    return jax.vmap(lambda x: (jnp.zeros(CLIENTS) + x, jnp.int32(0)))(seeds + numbers)


def segment(rounds, seeds, hyper, state, shared, evaluated=True):
    """So many rounds, evaluated after each."""

    def step(state, _):
        x, done = jnp.cos(state[0] + jnp.arange(CLIENTS)), state[1] + 1
        part, whole, yes = x**2 / 2, jnp.ones(CLIENTS, jnp.int32), jnp.ones(CLIENTS, bool)
        record = Record(x, part, part, whole, yes, part, part, part, ~yes)
        return (x, done), (record, Evaluation(done, part, part, part, part[0], part[0]))

    state, (record, evaluation) = jax.vmap(lambda s: jax.lax.scan(step, s, None, rounds))(state)
    return state, record, evaluation


def execute(original, batches, *rest, **options):
    """`execute.execute`, computing this in place of what the batches are of."""
    made = execute_lib.Programs(lambda seeds: (), begin, segment, None, (), lambda *seen: seen)
    return original([b._replace(build=lambda: made) for b in batches], *rest, **options)


# ---------------------------------------------------------------- a child


def take_all_room(file):
    """Writes to a file until there is no room."""
    with open(file, "ab", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while stream.write(bytes(size)):
                    pass
            except OSError:
                continue


def watch(directory, at=None, number=None, fill=None, log=None):
    """Counts the operations on files below a directory, and acts before one of them."""
    count = itertools.count(1) if isinstance(at, int) else itertools.count()
    words, at = ("", at) if isinstance(at, int | None) else at

    def hook(event, args):
        if event == "open":
            path, _, flags = args
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            relative = False
        elif event in CHANGING:
            path, changes = args[0], True
            relative = args[-1] != -1  # a name in a folder that is open, as rmtree has them
        else:
            return
        if not changes or isinstance(path, int):
            return
        if relative or os.fsdecode(path).startswith(directory):
            line = f"{event} {os.fsdecode(path)}"
            if log is not None:
                os.write(log, f"{line}\n".encode())
            if words in line and next(count) == at:
                os.kill(os.getpid(), number) if fill is None else take_all_room(fill)
                time.sleep(0.3)  # a thread hears of it, and these rounds take no time at all

    sys.addaudithook(hook)


def child(words, env=None, uid=None, nofile=None, encoding="utf-8", log=None, signal=None, **job):
    """Becomes the command."""
    os.environ.update({name: str(value) for name, value in (env or {}).items()})
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    if log is not None:
        log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        jax.config.update("jax_enable_compilation_cache", False)  # it is not this user's
    if nofile is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
    if "directory" in job:
        watch(number=signal, log=log, **job)
    try:
        code = main.main(words)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def output(where):
    """A descriptor to write to."""
    if where == "closed":
        reading, writing = os.pipe()
        os.close(reading)
        return writing
    return os.open(where, os.O_WRONLY | os.O_CREAT)


@functools.cache
def load_all():
    """Loads what a run and its figures load while they run, which another user may not read."""
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        if not (pid := os.fork()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            words = ["run", "--clients", "3", "--rounds", "1", "--checkpoint-every", "1", "--out"]
            code = main.main([*words, f"{folder}/run"]) or main.main(["plot", f"{folder}/run"])
            os.write(writing, "\n".join(sys.modules).encode())
            os._exit(code)
        os.close(writing)
        names = open(reading).read().splitlines()  # noqa: SIM115
        assert os.waitpid(pid, 0)[1] == 0
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def outcome(job):
    """Runs a job to its end; who is stopped goes on after a moment."""
    if "uid" in job:
        load_all()
    with tempfile.TemporaryDirectory() as folder:
        out, err = pathlib.Path(folder, "out"), pathlib.Path(folder, "err")
        streams = output(job.pop("out", out)), output(err)
        pid = os.fork()
        if not pid:
            for number, stream in enumerate(streams, 1):
                os.dup2(stream, number)
            child(**job)
        for stream in streams:
            os.close(stream)
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            time.sleep(0.1)
            os.kill(pid, signal.SIGCONT)
        printed = {f.name: f.read_text(errors="replace") for f in (out, err) if f.exists()}
        return {"code": os.waitstatus_to_exitcode(status), "out": "", **printed}


if __name__ == "__main__":
    answers = os.dup(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and would stay so
    sklearn.datasets.load_digits = functools.cache(sklearn.datasets.load_digits)
    data.load("digits")
    if sys.argv[1:] != ["real"]:
        execute_lib.execute = functools.partial(execute, execute_lib.execute)
    environment._checkout = lambda package: {}  # somebody may be at work on it
    environment._version = lambda name: "1"  # which another user may not read
    figures.KINDS = dict.fromkeys(figures.KINDS, lambda run, partition: Figure((1, 1)))
    sweep_figures.line = lambda *_: Figure((1, 1))
    sweep_command._SECONDS_BETWEEN_PARTS = -1.0  # a part after every run
    for line in sys.stdin:
        os.write(answers, json.dumps(outcome(json.loads(line))).encode() + b"\n")
