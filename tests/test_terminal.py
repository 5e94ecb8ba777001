"""What is printed costs no result, and no stranger's control character reaches a terminal."""

import contextlib
import io
import itertools
import os
import subprocess
import sys

import pytest
from rich.table import Table

from cgsv_jax.host import terminal

PRINTS = """
import sys
from cgsv_jax.host import terminal
with terminal.guarded() as lost:
    to = terminal.console()
    terminal.say(to, "[b] ‖x‖ 1 ± 2 :smile:")
    for _ in range(10_000):
        terminal.say(to, "a line")
    code = int(lost())
sys.exit(code)
"""


@pytest.fixture
def out(monkeypatch):
    def of(encoding):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return of


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "[b] ‖x‖ 1 ± 2 … é\n"),
        ("cp1252", "[b] ||x|| 1 ± 2 … é\n"),
        ("ascii", "[b] ||x|| 1 +- 2 ... ?\n"),
    ],
)
def test_what_an_encoding_lacks_is_spelled(out, encoding, shown):
    stream = out(encoding)
    with terminal.guarded() as lost:
        terminal.say(terminal.console(), "[b] ‖x‖ 1 ± 2 … é")
        table = Table("a")
        table.add_row("‖")
        terminal.console().print(table)
        assert not lost()
    text = stream.buffer.getvalue().decode(encoding)
    assert text.startswith(shown)


def test_control_characters_are_spelled(out):
    stream = out("utf-8")
    with terminal.guarded():
        terminal.say(terminal.console(), "a\x1b[2J\x07\x9b\r\x7f\u2028\u202e\udcff\nc")
    shown = stream.buffer.getvalue().decode()
    assert shown == r"a\x1b[2J\x07\x9b\x0d\x7f\u2028\u202e\udcff" + "\nc\n"


def python(**how):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", PRINTS], env=env, **how)


def test_a_closed_pipe_and_a_full_disk_end_nothing():
    with python(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"[b]")
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (1, b"")
    with open("/dev/full", "w") as full, python(stdout=full, stderr=subprocess.PIPE) as process:
        assert (process.wait(60), process.stderr.read()) == (1, b"")


def test_no_output_at_all_is_nobodys_loss():
    close = (
        "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", close, PRINTS], env=env, stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_streams_are_given_back():
    before = sys.stdout, sys.stderr
    with terminal.guarded():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr) == before


def test_progress_is_a_line_for_every_twentieth(out):
    """Elsewhere than in a terminal: where another twentieth is done, when asked, and at the end."""
    stream = out("utf-8")
    with terminal.watching(terminal.console(), 1200, "rounds") as watch:
        watch("a\x1b", 0, state="compiling", now=True)
        watch("a", 59, 2.5)  # less than a twentieth further
        watch("a", 60, 2.5, part=(60, 600, "rounds (300 × 2 seeds)"))
        watch("a", 61, 2.5, now=True)
        watch("b", 1200, 1234.5, "accuracy 90 %")
    assert stream.buffer.getvalue().decode().splitlines() == [
        r"a\x1b: 0 %, 0/1,200 rounds, compiling",
        "a: 5 %, 60/600 rounds (300 × 2 seeds), 2.5/s, 0:07:36 left",
        "a: 5 %, 61/1,200 rounds, 2.5/s, 0:07:36 left",
        "b: 100 %, 1,200/1,200 rounds, 1.23e+03/s, accuracy 90 %",
    ]
    with terminal.watching(terminal.console(quiet=True), 2, "rounds") as watch:
        watch("a", 1, now=True)
    assert len(stream.buffer.getvalue().decode().splitlines()) == 4


def test_a_long_run_writes_few_lines(out, monkeypatch):
    """Ten at their own pace, then one a minute; and the last one, whenever that is."""
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    stream = out("utf-8")
    with terminal.watching(terminal.console(), 10_000, "rounds") as watch:
        for done in range(10_000):
            clock[0] += 7.3  # twenty hours
            watch("a", done, now=done % 3 == 0)
        watch("a", 10_000)
    found = stream.buffer.getvalue().decode().splitlines()
    counts = [int(line.split()[3].split("/")[0].replace(",", "")) for line in found]
    assert counts[:10] == list(range(0, 30, 3))
    assert all(7.3 * (b - a) >= 60 for a, b in itertools.pairwise(counts[9:-1]))
    assert counts[-1] == 10_000
    assert 7.3 * 10_000 / 70 < len(found) < 7.3 * 10_000 / 60


NAMES = (
    "uniform fedavg",
    "class_imbalance 1 fedavg_finetuned",
    "class_imbalance 12 cgsv[contribution=shapley,beta=5]:released",
    "零 式" * 9,
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_shows_its_numbers_whole(name, width):
    """At every width the count, the share and the time left; names and states give way to them."""
    part = 12_000, 24_000, "rounds (12,000 × 2 seeds)"
    to = terminal.Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    shown = terminal._Shown(name, 5_400, "12,000/24,000", 12.5, "accuracy 88.1 %, best 91.2 %")
    to.print(terminal._bar(shown, 54_000, 3.0, width))
    (line,) = to.file.getvalue().splitlines()
    assert terminal.cell_len(line) <= width
    for text in (f"{part[0]:,}/{part[1]:,}", " 10 %", "1:04:48 left"):
        assert text in line
    # Without colours what is left to do is blank.
    assert line.index(" 10 %") - line.index("24,000 ") - len("24,000 ") >= terminal.LEAST_BAR
    assert line[:3] == name[:3]
    if width == 120:
        assert "accuracy 88.1 %" in line
    if len(name) < 20 and width >= 80:
        assert line.startswith(name + " ")
        assert "accuracy 88.1 %" in line


@pytest.mark.parametrize(("widgets", "lives"), [(True, True), (False, False)])
def test_a_notebook_has_a_bar_where_it_can_be_redrawn(monkeypatch, widgets, lives):
    """Rich draws it by ipywidgets; without them it could only be printed over and over."""
    begun, said = [], []

    class Live(contextlib.nullcontext):
        def __init__(self, **how):
            super().__init__()
            begun.append(how["get_renderable"])

    found = object() if widgets else None
    monkeypatch.setattr(terminal, "Live", Live)
    monkeypatch.setattr(terminal.importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(terminal, "say", lambda to, text: said.append(text))
    to = terminal.Console(force_jupyter=True)
    assert to.is_jupyter
    assert not to.is_terminal
    with terminal.watching(to, 4, "rounds") as watch:
        watch("a", 4)
    assert (bool(begun), said) == (lives, [] if lives else ["a: 100 %, 4/4 rounds"])
