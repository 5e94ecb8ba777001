"""How a command ends: interrupted, failed or whole, and what is kept of it."""

import contextlib
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from rich.console import Console

from cgsv_jax.experiment import checkpoint, execute
from cgsv_jax.host import files, terminal
from cgsv_jax.results import directory as directory_lib

# Exit codes; a signal's is 128 and its number, as shells have it.
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT


class Ended(Exception):
    """The command ends here: an exit code and the sentence that says why."""

    def __init__(self, code: int, sentence: str):
        super().__init__(sentence)
        self.code = code


@contextlib.contextmanager
def kept(
    console: Console,
    directory: pathlib.Path,
    identity: Callable[[], dict[str, Any]],
    every: int | None,
    work: Callable[[execute.Keeper | None, Callable[[Any], None]], Any],
    on: str | None = None,
) -> Iterator[tuple[Any, list[Any]]]:
    """Computes something long: saved as it goes, gone on with where it was left.

    A signal stops it after the running segment. In the body the results are written, and drawn;
    then the checkpoints have served and are removed.

    Args:
      console: where it says what it does.
      directory: the run directory, which is held.
      identity: all that decides what is computed (see `checkpoint.of_run`).
      every: rounds that may be lost at most.
      work: (keeper, see) -> what is computed; `see` is to be called with every look at it: whatever
        has `until`, `round` and `rounds`.
      on: what goes on with it; None: the command on the run directory.

    Yields:
      What was computed, and the other environments that computed a part of it.
    """
    if jax.process_count() > 1:  # each holds a part of the state
        yield work(None, lambda look: None), []
        return
    doing = ["stopping after what is loading, and saving"]

    def see(look: Any) -> None:
        rounds = f"round {look.until:,} of {look.rounds:,} of this method"
        doing[:] = [f"stopping after {rounds}, and saving"]

    def say(sentence: str) -> None:
        terminal.say(console, sentence)

    on = on or directory_lib.resuming(directory)
    first, second = (
        lambda: f"{doing[0]}; once more stops at once",
        lambda: f"stopped at once; go on with: {on}",
    )
    with _signals(console, first, second) as received:
        checkpoints = checkpoint.of_run(
            directory, identity, every, lambda: bool(received), terminal.complain, say
        )
        try:
            result = work(checkpoints.keeper, see)
        except execute.Stopped:
            done = checkpoints.latest()
            where = "at round 0" if done is None else f"after {done:,} rounds"
            sentence = f"stopped; go on {where} with: {on}"
            raise Ended(128 + received[0], sentence) from None
        doing[:] = ["the results are being written"]
        yield result, checkpoints.earlier()
        with written(directory):
            checkpoints.remove()


@contextlib.contextmanager
def written(directory: pathlib.Path) -> Iterator[None]:
    """Writes results in its body; what has been computed is not lost when that fails."""
    try:
        yield
    except OSError as error:
        sentence = f"{error}; when that is mended: {directory_lib.resuming(directory)}"
        raise Ended(FAILED, sentence) from error


@contextlib.contextmanager
def clearing(directory: pathlib.Path) -> Iterator[None]:
    """Removes in its body what has served; where that fails, too much is there and nothing lost."""
    try:
        with files.writing(directory):
            yield
    except OSError as error:
        terminal.complain(str(error))


@contextlib.contextmanager
def _signals(
    console: Console, first: Callable[[], str], second: Callable[[], str]
) -> Iterator[list[int]]:
    """What SIGINT, SIGTERM and SIGHUP asked for, as a list of their numbers that grows.

    The first is answered with a sentence, the second ends the process. A thread does both, since
    Python's own handlers wait until a compiled program has ended.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # nobody but the main thread may ask for signals
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        numbers.append(signal.SIGHUP)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        while number := os.read(reading, 1)[0]:
            if number not in numbers:
                continue
            received.append(number)
            terminal.complain(first() if len(received) == 1 else second())
            if len(received) > 1:
                console.show_cursor(True)  # the bar had hidden it
                os._exit(128 + number)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    handlers = [signal.signal(number, lambda *_: None) for number in numbers]
    wakeup = signal.set_wakeup_fd(writing)
    thread.start()
    try:
        yield received
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        os.write(writing, b"\0")
        thread.join()
        os.close(reading)
        os.close(writing)
