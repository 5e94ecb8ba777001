"""PyTorch in a process of its own, which waits while JAX works and works while JAX waits.

Neither framework's threads ever meet the other's, and the process that measures JAX never imports
torch.
"""

import contextlib
import importlib.util
import multiprocessing
import subprocess
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol

from benchmarks.pytorch.work import Work


class Ask(Protocol):
    """`ask(what, *args, **kwargs)`: the answer of that method of the side in the worker."""

    def __call__(self, what: str, *args: Any, **kwargs: Any) -> Any:
        """Waits for the answer; a word through the pipe and back takes microseconds."""


class WorkerError(RuntimeError):
    """The worker could not answer; the text is its own traceback, or how it ended."""


@contextlib.contextmanager
def worker(threads: int = 2) -> Iterator[Ask]:
    """A process for `sequential.Sequential` and `stacked.Stacked`, one of them at a time.

        with worker() as ask:
            ask("start", "sequential", work, device="cpu")
            ask("train", round=0)
            ask("look", "deltas")

    "start" takes the kind of side, the work and the side's options, and replaces an older side. An
    answer is given when all of its work is done, on a GPU as well.

    Args:
        threads: of PyTorch on the CPU.

    Raises:
        WorkerError: in any `ask` whose method raises, or when the process has ended.
        ImportError: PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise ImportError("the yardstick needs PyTorch: pip install -e '.[bench]'")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, threads), daemon=True)
    process.start()
    # While this process holds a copy of the worker's end, a dead worker looks like a slow one.
    there.close()

    def ask(what: str, *args: Any, **kwargs: Any) -> Any:
        try:
            here.send((what, args, kwargs))
            fine, answer = here.recv()
        except (EOFError, OSError) as error:
            process.join(10)
            raise WorkerError(
                f"the PyTorch process ended, exit code {process.exitcode}, asked for {what}"
            ) from error
        if not fine:
            raise WorkerError(f"PyTorch, asked for {what}:\n{answer}")
        return answer

    try:
        yield ask
    finally:
        here.close()  # the worker, if it listens, reads the end of the stream and stops
        process.join(1)
        if process.is_alive():
            process.kill()
            process.join()


def sees_cuda() -> bool:
    """Whether PyTorch is installed and has a GPU, asked in a process that ends."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def _serve(connection: Connection, threads: int) -> None:
    side: Any = None
    while True:
        try:
            what, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            if what == "start":
                side = None  # its memory goes before the next one asks for some
                side, answer = _start(threads, *args, **kwargs), None
            else:
                answer = getattr(side, what)(*args, **kwargs)
            _synchronise()
            reply = True, answer
        except Exception:
            reply = False, traceback.format_exc()
        connection.send(reply)


def _start(threads: int, kind: str, work: Work, **options: Any) -> Any:
    import torch

    from benchmarks.pytorch.coalitions import Coalitions
    from benchmarks.pytorch.sequential import Sequential
    from benchmarks.pytorch.stacked import Stacked

    torch.set_num_threads(threads)
    kinds = {"sequential": Sequential, "stacked": Stacked, "coalitions": Coalitions}
    return kinds[kind](work, **options)


def _synchronise() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
