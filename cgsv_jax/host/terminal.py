"""What the command prints: no control character of a stranger's, and never at a result's cost.

A terminal that lacks a character gets another. A stream that is closed or full is given up after
the first failure, silently; whoever opened the guard is told at the end.
"""

import codecs
import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 2.0  # of progress, where there is no bar to redraw
# What stands for a character where the terminal's encoding lacks it; "?" for all others.
_SPELLED = {"‖": "||", "±": "+-", "–": "-", "…": "...", "×": "x", "≥": ">=", "≤": "<="}
_SPELLED |= {"²": "^2", "\N{NO-BREAK SPACE}": " "}
_CONTROL = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)
}
# Line and paragraph ends, and what turns the direction of the text around.
_CONTROL |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F))}
_CONTROL |= {code: f"\\u{code:04x}" for code in range(0x2066, 0x206A)}


def plain(text: str) -> str:
    """The text with control characters, and what is no Unicode, spelled out.

    >>> plain("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return text.translate(_CONTROL).encode(errors="backslashreplace").decode()


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SPELLED.get(c, "?") for c in lacking), error.end


codecs.register_error("cgsv_spelled", _spell)


class _Stream:
    """A text stream that outlives its reader: after a failed write it leads to nowhere."""

    def __init__(self, stream: TextIO | None):
        # A process that was started without the stream has nobody who reads it.
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._tried(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, call: Callable[..., Any], *text: str) -> None:
        if self.failed:
            return
        try:
            call(*text)
        except (OSError, ValueError):  # ValueError: somebody has closed it
            self.failed = True
            # What is left in its buffer would fail again when Python ends.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def guarded() -> Iterator[Callable[[], bool]]:
    """In the body nothing that is printed can fail.

    Yields:
      Whether something that was meant for the standard output has been lost so far.
    """
    before = sys.stdout, sys.stderr
    guards = [_Stream(stream) for stream in before]
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cgsv_spelled")
    sys.stdout, sys.stderr = guards

    def lost() -> bool:
        guards[0].flush()
        return guards[0].failed

    try:
        yield lost
    finally:
        for guard in guards:
            guard.flush()
        sys.stdout, sys.stderr = before


def console(quiet: bool = False, stderr: bool = False) -> Console:
    """A console that takes every text as it is: no markup, no emoji, no colours of its own."""
    return Console(quiet=quiet, stderr=stderr, highlight=False, markup=False, emoji=False)


def say(to: Console, text: str) -> None:
    """Prints a text as it is, in as many lines as it has; words of a stranger may be in it."""
    to.print(plain(text), soft_wrap=True)


@contextlib.contextmanager
def watching(to: Console, total: int, unit: str, done: int = 0) -> Iterator[Callable[..., None]]:
    """How far something long is: a bar in a terminal, a line now and then elsewhere.

    Args:
      to: where; nothing where that is quiet.
      total: how many of these units there are.
      unit: of what is counted.
      done: before it starts.

    Yields:
      watch(name, done, rate=0.0, state="", now=False): a look at it, `rate` in units per second
      where it is known. Lines come every two seconds, or now.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[pace]}}  left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
        console=to,
        disable=not to.is_terminal or to.quiet,
        transient=True,
    )
    task = bar.add_task("start", total=total, completed=done, pace="", state="")
    next_line = [0.0]

    def watch(name: str, done: int, rate: float = 0.0, state: str = "", now: bool = False) -> None:
        pace = f"{rate:.3g}/s" if rate else ""
        bar.update(task, description=plain(name), completed=done, pace=pace, state=plain(state))
        if not to.is_terminal and (now or time.monotonic() > next_line[0]):
            left = f"{(total - done) / rate:.0f} s left" if rate else ""
            parts = f"{done:,}/{total:,} {unit}", pace, left, state
            say(to, f"{name}: {', '.join(filter(None, parts))}")
            next_line[0] = time.monotonic() + _SECONDS_BETWEEN_LINES

    with bar:
        yield watch


def complain(sentence: str) -> None:
    """Prints what is wrong to the standard error, every line of it with the command's name."""
    to = console(stderr=True)
    for line in sentence.splitlines():
        say(to, f"cgsv: {line}")
