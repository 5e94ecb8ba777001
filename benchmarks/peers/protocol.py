"""Both ends of the pipe between the process that measures and a peer's. Standard library and NumPy.

A peer is started with the folder of its work as its only argument and says one JSON line when it is
ready. Then it answers lines, one for one:

| asked | answered |
|---|---|
| `{"do": "advance", "rounds": R}` | `{"seconds": s}` of R further rounds |
| `{"do": "reset"}` | `{}`, back at the start |
| `{"do": "save", "path": P}` | `{}`, the server's parameters are in P (.npz) |
| `{"do": "stop"}` | `{}`, and it ends |

Whatever goes wrong on its side is answered as `{"error": "..."}`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from benchmarks.peers.work import Work, load

ROOT = Path(__file__).parents[2]


class Federation(NamedTuple):
    """A federation that can be driven: the same three functions on either side."""

    advance: Callable[[int], Any]  # so many further rounds; returns when they are done
    reset: Callable[[], Any]
    parameters: Callable[[], dict[str, np.ndarray]]  # of the server, PyTorch's names and layouts


# ---------------------------------------------------------------- the peer's end


class Wire(NamedTuple):
    """What this process was started with as its standard input and output."""

    read: TextIO
    write: TextIO

    def send(self, **message: Any) -> None:
        """One JSON line."""
        print(json.dumps(message), file=self.write, flush=True)


def claim() -> Wire:
    """Takes standard input and output; what a library prints from now on goes to the errors."""
    wire = Wire(os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w"))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return wire


def error_of(error: BaseException) -> str:
    """The error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def answer(
    wire: Wire, federation: Federation, distributions: Sequence[str] = (), **besides: str
) -> None:
    """Says ready, then answers until told to stop.

    Args:
        wire: from `claim`.
        federation: the federation.
        distributions: installed packages whose versions are told.
        **besides: what else is told with them, by name.
    """
    versions = {name: version(name) for name in distributions} | besides
    wire.send(ready=True, versions=versions)
    for line in wire.read:
        asked = json.loads(line)
        try:
            if asked["do"] == "advance":
                started = time.perf_counter()
                federation.advance(asked["rounds"])
                wire.send(seconds=time.perf_counter() - started)
            elif asked["do"] == "reset":
                federation.reset()
                wire.send()
            elif asked["do"] == "save":
                np.savez(asked["path"], **federation.parameters())
                wire.send()
            elif asked["do"] == "stop":
                wire.send()
                return
            else:
                wire.send(error=f"unknown request {asked['do']!r}")
        except Exception as error:  # the other side must learn of it, whatever it is
            wire.send(error=error_of(error))


def serve(build: Callable[[Work], Federation], distributions: Sequence[str] = ()) -> None:
    """A peer's whole program: builds the federation of the work that argv names, and answers."""
    wire = claim()
    try:
        federation = build(load(sys.argv[1]))
    except Exception as error:
        wire.send(error=error_of(error))
        return
    answer(wire, federation, distributions)


# ---------------------------------------------------------------- the end that measures


class PeerError(RuntimeError):
    """A peer that could not do what it was asked, and why."""


class Peer:
    """A running peer. It owns a process, hence a class; use it in a `with` statement.

    Attributes:
        versions: of the peer's distributions, and what else it tells of itself.
        startup: seconds from the start of the process until it was ready.
    """

    def __init__(self, command: Sequence[str], folder: Path, limit: float = 600):
        """Starts `command folder` and waits until it is ready.

        Args:
            command: interpreter and arguments.
            folder: of the work.
            limit: seconds that any answer may take; then the peer is stopped.

        Raises:
            PeerError: it says why it cannot start, says nothing, or takes too long.
        """
        started = time.perf_counter()
        self.limit = limit
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        # Its modules are its environment's and this repository's, and none of this process's.
        environment = {
            k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONHOME")
        }
        self._process = subprocess.Popen(
            [*command, str(folder)],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # so that all its processes can be ended together
        )
        try:
            self.versions = self._receive()["versions"]
        except BaseException:
            self.close()
            raise
        self.startup = time.perf_counter() - started

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, rounds: int = 1) -> float:
        """Seconds of so many further rounds, by the peer's own clock."""
        return self._ask(do="advance", rounds=rounds)["seconds"]

    def reset(self) -> None:
        """Back to the start."""
        self._ask(do="reset")

    def parameters(self) -> dict[str, np.ndarray]:
        """Of the server, now."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "parameters.npz"
            self._ask(do="save", path=str(path))
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)

    def close(self) -> None:
        """Asks it to stop, and ends what is left of it."""
        if self._process.poll() is None:
            with contextlib.suppress(PeerError, OSError):
                self.limit = min(self.limit, 30)
                self._ask(do="stop")
                self._process.wait(30)
        self._end()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):
                stream.close()

    def _ask(self, **message: Any) -> dict[str, Any]:
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except OSError as error:
            raise PeerError(f"it ended: {self._last_words()}") from error
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._end()

        watch = threading.Timer(self.limit, end)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        if late.is_set():
            raise PeerError(f"it took longer than {self.limit:g} s and was stopped")
        if not line:
            raise PeerError(f"it ended: {self._last_words()}")
        message = json.loads(line)
        if "error" in message:
            raise PeerError(message["error"])
        return message

    def _end(self) -> None:
        """Politely first: a launcher that is asked ends its workers, one that is killed cannot."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self._process.pid, how)
                self._process.wait(10)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "it said nothing"
