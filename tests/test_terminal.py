"""What is printed costs no result, and no stranger's control character reaches a terminal."""

import io
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


def test_progress_is_a_line_now_and_then(out):
    """Elsewhere than in a terminal: what is known, at once when asked, else every two seconds."""
    stream = out("utf-8")
    with terminal.watching(terminal.console(), 1200, "rounds") as watch:
        watch("a\x1b", 0, state="compiling", now=True)
        watch("a", 300, 2.5)  # within two seconds of the line before
        watch("a", 600, 2.5, now=True)
        watch("b", 1200, 1234.5, "accuracy 90 %", now=True)
    assert stream.buffer.getvalue().decode().splitlines() == [
        r"a\x1b: 0/1,200 rounds, compiling",
        "a: 600/1,200 rounds, 2.5/s, 240 s left",
        "b: 1,200/1,200 rounds, 1.23e+03/s, 0 s left, accuracy 90 %",
    ]
    with terminal.watching(terminal.console(quiet=True), 2, "rounds") as watch:
        watch("a", 1, now=True)
    assert len(stream.buffer.getvalue().decode().splitlines()) == 3
