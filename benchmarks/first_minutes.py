"""The first ten minutes on a machine with a GPU: does it run, and what should its defaults be?

    benchmarks/first_minutes.sh [--scale smoke|full] [--out DIR] [--minutes 9] [--only alive,steps]

Questions are asked one after another (`gpu_questions` answers them), each in a process of its own:
one that fails, hangs or runs out of memory ends no other. Each has a limit, and all together have
the minutes: a question whose limit would pass them is left out, and the table says so. After every
answer DIR holds all that is known: numbers.jsonl, numbers.txt and table.md; errors.txt has what
the processes complained of. At smoke scale the same questions are asked about next to nothing, on
whatever there is.

Only the standard library is imported here: JAX would take the GPU's memory for itself.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MINUTES = 9.0


class Question(NamedTuple):
    """What is asked, and how long it may take."""

    name: str  # a key of gpu_questions.QUESTIONS
    seconds: float  # at most, of `MINUTES`
    flags: str = ""  # for XLA, beside those that are set
    beside: bool = False  # whether PyTorch works on the same GPU


QUESTIONS = (
    Question("alive", 80, beside=True),
    Question("rates", 40),
    Question("steps", 140),
    Question("loop", 30),
    Question("loop", 30, "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL"),
    Question("loop", 30, "--xla_gpu_enable_triton_gemm=false"),
    # A kernel of a CUDA graph is not told from the others of that graph.
    Question("profile", 30, "--xla_gpu_enable_command_buffer="),
    Question("server", 30),
    Question("rounds", 120, beside=True),
)


class Found(NamedTuple):
    """A line of the table."""

    question: str
    what: str
    result: str
    note: str = ""
    numbers: dict[str, Any] | None = None  # in numbers.jsonl only


HEADER = "| question | of what | found | note |\n|---|---|---|---|"


def table(found: Sequence[Found]) -> str:
    """All lines in Markdown."""
    rows = ("| " + " | ".join(map(_cell, one[:4])) + " |" for one in found)
    return "\n".join((HEADER, *rows))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def record(out: Path, found: Found) -> None:
    """Adds a line to every file and prints it."""
    line = f"{found.question}: {found.what}: {found.result}"
    line += f" ({found.note})" if found.note else ""
    print(line, flush=True)
    with (out / "numbers.txt").open("a", encoding="utf-8") as file:
        print(line, file=file)
    with (out / "numbers.jsonl").open("a", encoding="utf-8") as file:
        print(json.dumps(found._asdict()), file=file)
    (out / "table.md").write_text(table(read(out)) + "\n", encoding="utf-8")


def read(out: Path) -> list[Found]:
    """What is known so far."""
    lines = (out / "numbers.jsonl").read_text(encoding="utf-8").splitlines()
    return [Found(**json.loads(line)) for line in lines]


def ask(question: Question, scale: str, out: Path, seconds: float) -> str | None:
    """Has a process answer within so many seconds; what went wrong, if anything did."""
    until = time.time() + seconds
    command = [sys.executable, "-m", "benchmarks.gpu_questions", question.name]
    command += ["--scale", scale, "--out", str(out), "--until", str(until)]
    with (out / "errors.txt").open("a+", encoding="utf-8") as errors:
        print(f"== {question.name} {question.flags}", file=errors, flush=True)
        start = errors.tell()
        # A session of its own, so that PyTorch's process and the compilers' end with it.
        process = subprocess.Popen(
            command, env=_environment(question), stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(max(0.0, until - time.time()))
        except subprocess.TimeoutExpired:
            return f"ended at its limit of {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(start)
        lines = errors.read().split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"ended with {code}: {last[:300]}" if code else None


def _environment(question: Question) -> dict[str, str]:
    env = dict(os.environ)
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {question.flags}".strip()
    if question.beside:
        env.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".45")
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    return env


def asked(
    questions: Sequence[Question],
    minutes: float,
    put: Callable[[Question, float], str | None],
    tell: Callable[[Found], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Puts the questions, the last one with all the time that is left.

    Args:
        questions: in order.
        minutes: of all together; the limits are in proportion to it.
        put: a question and its seconds -> what went wrong, if anything did.
        tell: takes what there is to say of a question that was not answered to its end.
        clock: seconds.
    """
    start, total = clock(), 60 * minutes
    for question in questions:
        limit, left = question.seconds * minutes / MINUTES, total - (clock() - start)
        what = f"the whole question {question.flags}".strip()
        if limit > left:
            wanted = f"it may take {limit:.0f} s, and {left:.0f} s were left of {minutes:g} minutes"
            tell(Found(question.name, what, "left out", wanted))
            continue
        if complaint := put(question, left if question == questions[-1] else limit):
            tell(Found(question.name, what, "not answered to its end", complaint))


def main(argv: Sequence[str] | None = None) -> None:
    """Asks, and prints what it finds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", choices=("smoke", "full"), default="full")
    parser.add_argument("--out", type=Path, default=Path("build/first_minutes"), help="a folder")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limits are in proportion")
    known = list(dict.fromkeys(question.name for question in QUESTIONS))
    parser.add_argument("--only", default=",".join(known), help="questions, comma-separated")
    given = parser.parse_args(argv)
    names, out = given.only.split(","), given.out.absolute()
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no question {', '.join(unknown)}; there are {', '.join(known)}")
    if (out / "numbers.jsonl").exists():
        parser.error(f"{given.out} holds the numbers of another day: name another folder by --out")
    out.mkdir(parents=True, exist_ok=True)
    chosen = [question for question in QUESTIONS if question.name in names]
    # Who is ended ends what works for it: see `ask`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as cache:
        # What one question compiled and tuned, the next one need not.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        asked(
            chosen,
            given.minutes,
            lambda question, seconds: ask(question, given.scale, out, seconds),
            lambda found: record(out, found),
        )
    print(f"\n{out / 'table.md'}")


if __name__ == "__main__":
    main()
