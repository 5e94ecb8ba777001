"""The first minutes on a GPU: the clock, the files, and that little needs to be installed there."""

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import first_minutes, gpu_questions
from benchmarks.first_minutes import Found, Question

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "first_minutes.sh"

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the yardstick needs PyTorch (extra [bench])"
)


# ---------------------------------------------------------------- the clock


@dataclasses.dataclass
class Machine:
    """Takes for each question what it is told, and keeps what it was asked and told."""

    takes: list[float]
    clock: float = 1_000.0
    put: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    told: list[Found] = dataclasses.field(default_factory=list)

    def answer(self, question, seconds):
        self.put.append((question.name, seconds))
        needed = self.takes[len(self.put) - 1]
        self.clock += min(needed, seconds + 1.0)  # ending a process takes a second more
        return "too slow" if needed > seconds else None


def asked(takes, questions, minutes=1.0):
    machine = Machine(takes)
    first_minutes.asked(
        questions, minutes, machine.answer, machine.told.append, clock=lambda: machine.clock
    )
    return machine


def test_all_limits_fit_into_the_minutes():
    limits = [question.seconds for question in first_minutes.QUESTIONS]
    assert sum(limits) <= 60 * first_minutes.MINUTES
    names = [question.name for question in first_minutes.QUESTIONS]
    assert set(names) == set(gpu_questions.QUESTIONS)
    assert names[-1] == "rounds"  # of which there is most to measure, and which has what is left


def test_the_last_question_has_the_time_that_is_left(monkeypatch):
    monkeypatch.setattr(first_minutes, "MINUTES", 1.0)
    machine = asked([5.0, 30.0], [Question("one", 20), Question("two", 35)])
    assert machine.put == [("one", 20.0), ("two", 55.0)]
    assert machine.told == []


def test_a_question_that_would_pass_the_minutes_is_left_out(monkeypatch):
    """The first runs into its limit, which costs a second more; then 39 are left for 40."""
    monkeypatch.setattr(first_minutes, "MINUTES", 1.0)
    questions = [Question("one", 20), Question("two", 40, "--flag"), Question("three", 39)]
    machine = asked([99.0, 1.0], questions)
    assert machine.put == [("one", 20.0), ("three", 39.0)]
    slow, out = machine.told
    assert (slow.question, slow.result, slow.note) == ("one", "not answered to its end", "too slow")
    assert (out.question, out.what, out.result) == ("two", "the whole question --flag", "left out")
    assert "may take 40 s, and 39 s were left of 1 minutes" in out.note


def test_limits_grow_with_the_minutes():
    questions = first_minutes.QUESTIONS[:2]
    machine = asked([1.0, 1.0], questions, 2 * first_minutes.MINUTES)
    assert machine.put[0] == (questions[0].name, 2 * questions[0].seconds)


def sleeper(folder):
    """An interpreter that starts a process, and waits for it longer than a test may take."""
    python, pid = folder / "python", folder / "pid"
    python.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {pid}.new\nmv {pid}.new {pid}\nwait\n")
    python.chmod(0o755)
    return python


def ended(folder):
    """Whether that process has gone, or waits to be buried, within five seconds."""
    state = Path(f"/proc/{(folder / 'pid').read_text().strip()}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_process_ends_at_its_limit_with_all_that_it_started(tmp_path, monkeypatch):
    """As PyTorch's worker and the compilers' processes must, or they go on using the GPU."""
    monkeypatch.setattr(first_minutes.sys, "executable", str(sleeper(tmp_path)))
    complaint = first_minutes.ask(Question("steps", 1), "smoke", tmp_path, 1.0)
    assert complaint == "ended at its limit of 1 s"
    assert ended(tmp_path)


def test_who_is_ended_ends_what_works_for_it(tmp_path):
    code = "import sys; from benchmarks import first_minutes; "
    code += f"sys.executable = {str(sleeper(tmp_path))!r}; first_minutes.main()"
    options = ["--out", str(tmp_path / "out"), "--only", "steps"]
    process = subprocess.Popen([sys.executable, "-c", code, *options], cwd=ROOT)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert ended(tmp_path)


def test_a_process_that_fails_says_why(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $XLA_FLAGS >&2\necho no memory >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(first_minutes.sys, "executable", str(python))
    question = Question("loop", 9, "--xla_gpu_enable_triton_gemm=false")
    assert first_minutes.ask(question, "smoke", tmp_path, 9.0) == "ended with 3: no memory"
    assert question.flags in (tmp_path / "errors.txt").read_text().splitlines()[1]


def test_pytorch_is_left_a_part_of_the_gpu(monkeypatch):
    """JAX reads the variable when its backend starts, which importing `benchmarks.common` does."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    for question in first_minutes.QUESTIONS:
        env = first_minutes._environment(question)
        assert ("XLA_PYTHON_CLIENT_MEM_FRACTION" in env) == (question.name in ("alive", "rounds"))


# ---------------------------------------------------------------- what is found


def test_every_answer_is_in_every_file_at_once(tmp_path, capsys):
    one = Found("steps", "a | b", "3 us\nand more", "note", {"seconds": [1.0, 2.0]})
    two = Found("loop", "c", "4 us")
    for count, found in enumerate((one, two), start=1):
        first_minutes.record(tmp_path, found)
        assert first_minutes.read(tmp_path) == [one, two][:count]
        lines = (tmp_path / "table.md").read_text().splitlines()
        assert (
            lines[2:]
            == ["| steps | a / b | 3 us and more | note |", "| loop | c | 4 us |  |"][:count]
        )
    assert (tmp_path / "numbers.txt").read_text() == capsys.readouterr().out


def test_numbers_of_another_day_are_kept(tmp_path, capsys):
    (tmp_path / "numbers.jsonl").touch()
    with pytest.raises(SystemExit):
        first_minutes.main(["--out", str(tmp_path)])
    assert "another folder" in capsys.readouterr().err


def test_a_case_that_fails_ends_no_other_and_time_ends_them(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(gpu_questions.time, "time", lambda: now[0])

    def take(seconds):
        now[0] += seconds
        return gpu_questions.Answer("fine")

    def fail():
        raise MemoryError("no room\nat all")

    measures = {
        "one": lambda: take(5),
        "two": fail,
        "three": lambda: take(1),
        "four": lambda: take(1),
    }
    found = dict(gpu_questions.cases(measures, until=110.5))
    assert [found[name].result for name in measures] == ["fine", "failed", "fine", "left out"]
    assert found["two"].note == "MemoryError: no room"


def test_one_thing_is_changed_before_two():
    """Where time ends them, what each choice does alone is known; nothing is asked twice."""
    size = gpu_questions.SCALES["full"]
    cases = gpu_questions.by_distance(size.batches, size.widths)
    first = cases[0]
    assert first == ("mnist_cnn", "winner", "default", 64)
    apart = [sum(a != b for a, b in zip(case, first, strict=True)) for case in cases]
    assert apart == sorted(apart)
    assert len(set(cases)) == len(cases) == 2 * 3 * 3 * len(size.widths)


# ---------------------------------------------------------------- what must be installed


@pytest.fixture
def bare(tmp_path):
    """An environment without what the command and tables need: importing it is an error.

    flax imports three modules of rich, whose contents it needs for summaries alone; here they are
    empty, so that whoever imports a name from them fails.
    """
    folder = tmp_path / "bare"
    for name in ("tyro", "polars", "tensorflow_datasets", "array_record", "msgspec"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('{name} is not here')\n")
    (folder / "rich").mkdir()
    for name in ("__init__", "console", "table", "text"):
        (folder / "rich" / f"{name}.py").touch()
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHON": sys.executable}


def test_the_path_is_free_of_what_a_gpu_machine_may_lack(bare):
    """Every question and what it imports; what must fail shows that the others are missing."""
    code = """
import importlib
from benchmarks import gpu_questions
for name in ("cgsv_jax.results.tables", "cgsv_jax.host.terminal", "cgsv_jax.command.flags"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is there")
"""
    env = {**bare, "PYTHONPATH": f"{bare['PYTHONPATH']}{os.pathsep}{ROOT}"}
    run = [sys.executable, "-c", code]
    made = subprocess.run(run, cwd=ROOT.parent, env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def run_bare(bare, tmp_path, *questions, minutes="60"):
    """The very script, from another folder; what it found."""
    out = tmp_path / "out"
    command = [SCRIPT, "--scale", "smoke", "--out", out, "--minutes", minutes]
    made = subprocess.run(
        [*map(str, command), "--only", ",".join(questions)],
        **{"cwd": tmp_path, "env": bare, "capture_output": True, "text": True},
    )
    assert made.returncode == 0, made.stderr
    return first_minutes.read(out)


@pytest.mark.long
@needs_torch
def test_it_is_alive_without_them(bare, tmp_path):
    """Both frameworks on this machine, in float64 and in float32."""
    machine, *rounds = run_bare(bare, tmp_path, "alive")
    assert "jax" in machine.note
    assert len(rounds) == len(gpu_questions.gpu_rounds.KINDS)
    assert all(row.result == "the same" and "dw agree within" in row.note for row in rounds)


@pytest.mark.long
def test_steps_are_timed_without_them(bare, tmp_path):
    """All forms and precisions: on a CPU one dw in float32, another in bfloat16."""
    *steps, last = run_bare(bare, tmp_path, "steps")
    gaps = {}
    for found in steps:
        if gap := re.search(r"dw within (\S+) of", found.note):
            numbers = found.numbers
            gaps[numbers["form"], numbers["precision"]] = float(gap[1])
            assert numbers["temporary"] > 0
            assert min(numbers["seconds"]) > 0
    assert set(gaps) == {(f, p) for f in gpu_questions.FORMS for p in gpu_questions.PRECISIONS}
    for (form, precision), gap in gaps.items():
        if precision == "bfloat16":
            assert 1e-4 < gap < 2e-1
        else:
            assert gap <= (1e-4 if form == "lax" else 0.0)
    assert last.what == "fastest, mnist_cnn, float32"
