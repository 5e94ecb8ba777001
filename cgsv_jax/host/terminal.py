"""What the command prints: no control character of a stranger's, and never at a result's cost.

A terminal that lacks a character gets another. A stream that is closed or full is given up after
the first failure, silently; whoever opened the guard is told at the end.
"""

import codecs
import contextlib
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

# Lines of progress, where there is no bar to redraw: one for every twentieth, and of a long run,
# whose log somebody keeps, few.
TWENTIETHS, FIRST_LINES, SECONDS_BETWEEN_LINES = 20, 10, 60.0
LEAST_BAR, LEAST_NAME = 8, 20  # columns
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
    """How far something long is: a bar in a terminal or a notebook, a line now and then elsewhere.

    Args:
      to: where; nothing where that is quiet.
      total: how many of these units there are.
      unit: of what is counted.
      done: before it starts.

    Yields:
      watch(name, done, rate=0.0, state="", now=False, part=None): a look at it, `rate` in units per
      second where it is known; `part` is (done, of how many, unit) of what has the name, which is
      shown in place of the whole's. Of a state that has no room the bar leaves out what stands
      behind commas. A line comes where another twentieth is done, or now; after the first ten at
      most one a minute, and the last one always.
    """
    shown = _Shown("start", done, f"{done:,}/{total:,}", 0.0, "")
    began = time.monotonic()
    live = not to.quiet and (to.is_terminal or _is_notebook(to))
    lines, before, when = 0, -total, began  # how many; what was done at the last one, and when

    def bar() -> Table:
        return _bar(shown, total, time.monotonic() - began, to.width)

    def watch(
        name: str,
        done: int,
        rate: float = 0.0,
        state: str = "",
        now: bool = False,
        part: tuple[int, int, str] | None = None,
    ) -> None:
        nonlocal shown, lines, before, when
        own, of, what = part or (done, total, unit)
        shown = _Shown(plain(name), done, f"{own:,}/{of:,}", rate, plain(state))
        if live:
            return
        often = lines >= FIRST_LINES and time.monotonic() - when < SECONDS_BETWEEN_LINES
        due = now or TWENTIETHS * (done - before) >= total
        if done < total and (often or not due):
            return
        lines, before, when = lines + 1, done, time.monotonic()
        left = f"{_clock((total - done) / rate)} left" if rate and done < total else ""
        pace = f"{rate:.3g}/s" if rate else ""
        said = _percent(done, total), f"{shown.count} {what}", pace, left, state
        say(to, f"{name}: {', '.join(filter(None, said))}")

    if not live:
        yield watch
        return
    with Live(console=to, get_renderable=bar, transient=True, refresh_per_second=4):
        yield watch


class _Shown(NamedTuple):
    """What the latest look at something long was."""

    name: str
    done: int
    count: str  # of what has the name
    rate: float  # units per second, 0 where it is not known
    state: str


def _bar(shown: _Shown, total: int, seconds: float, width: int) -> Table:
    """The bar as a line of `width` columns; states and names give way, numbers do not."""
    name, done, count, rate, state = shown
    percent = _percent(done, total)
    left = f"{_clock((total - done) / rate)} left" if rate else _clock(seconds)
    room = width - sum(len(text) + 1 for text in (percent, count, left)) - LEAST_BAR - 2
    parts = state.split(", ")
    states = [", ".join(parts[:number]) for number in range(len(parts), 0, -1)]
    states += [parts[0].partition(" ")[2], ""]  # of `accuracy 90.1 %` the number
    rooms = {text: room - cell_len(text) for text in states}
    whole = (text for text in states if rooms[text] >= cell_len(name))
    cut = (text for text in states if rooms[text] >= LEAST_NAME)
    state = next(whole, next(cut, ""))
    name = _cut(name, max(room - cell_len(state), 1))
    line = Table.grid(padding=(0, 1, 0, 0), expand=True)
    for ratio in (None, None, 1, None, None, None):
        line.add_column(no_wrap=True, ratio=ratio)
    line.add_row(name, count, ProgressBar(max(total, 1), done), percent, left, state)
    return line


def _percent(done: int, total: int) -> str:
    return f"{100 * done // max(total, 1)} %"


def _cut(text: str, room: int) -> str:
    """The two ends of a text that is too long: names differ there."""
    if cell_len(text) <= room:
        return text
    head = (room - 1) // 2
    tail = set_cell_size(text[::-1], max(room - 1 - head, 0))[::-1]
    return f"{set_cell_size(text, head)}…{tail}"


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss.

    >>> _clock(59.6), _clock(86400 + 61)
    ('0:01:00', '24:01:01')
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def _is_notebook(to: Console) -> bool:
    """Whether a bar can live there: without widgets rich could only print it over and over."""
    return to.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


def complain(sentence: str) -> None:
    """Prints what is wrong to the standard error, every line of it with the command's name."""
    to = console(stderr=True)
    for line in sentence.splitlines():
        say(to, f"cgsv: {line}")
