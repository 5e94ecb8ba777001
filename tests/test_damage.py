"""Whatever happened to a file that a command reads: the same numbers, or sentences that name it.

Bits are flipped and structures changed in every kind of file; then the command itself runs, in this
process. Only what it would compute or draw is replaced, by numbers and files that follow from all
that it has read: so other numbers are other files.
"""

import contextlib
import dataclasses
import faulthandler
import hashlib
import io
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import polars as pl
import pytest
import test_data

from cgsv_jax.command import main
from cgsv_jax.config import schema
from cgsv_jax.experiment import execute, identity, running
from cgsv_jax.experiment.task import counts_of
from cgsv_jax.host import files as files_lib
from cgsv_jax.host import terminal
from cgsv_jax.results import directory, figures, frames
from cgsv_jax.results import environment as environment_lib
from cgsv_jax.sweep import figures as sweep_figures
from cgsv_jax.sweep import running as sweep_running
from cgsv_jax.types import Evaluation, Record

SECONDS = 5.0  # that a command may compute; each takes some hundredths
WAITING = 30.0  # what waits, waits for ever; others, on a machine with other work, never so long
SMALL = ["--clients", "3", "--rounds", "2", "--epochs", "1", "--hidden", "8", "--eval-rows", "20"]
RUN = ["compare", *SMALL, "--seeds", "1", "--algorithms", "standalone,cgsv"]
GRID = ["sweep", *SMALL, "--seeds", "1", "--beta", "0.5,2", "--alpha", "0.9,0.95"]
OWN = ["run", *SMALL, "--seeds", "1", "--dataset", "mnist", "--model", "mlp", "--batch-size", "4"]

# ---------------------------------------------------------------- numbers that follow from all


class Figure(NamedTuple):
    """A figure that shows nothing but the digest of what would be drawn."""

    digest: str

    def savefig(self, file, **_):
        file.write(self.digest.encode())


def figure_of(*what):
    """In place of whatever draws."""
    digest = hashlib.sha256()
    for x in what:
        for part in (x.rounds, x.clients, x.summary) if isinstance(x, directory.Run) else (x,):
            rows = part.rows() if isinstance(part, pl.DataFrame) else part
            digest.update(repr(rows).encode())
    return Figure(digest.hexdigest())


def numbers(shape, *what):
    """Floats between 0 and 1 that follow from what is given."""
    seed = int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).random(shape, np.float32)


STATE = {"x": np.arange(1000, dtype=np.float32)}
SEEN = [[np.arange(6.0)]]
PLAN = [{"segments": [[1, 0]] * 9, "chunks": [{}]}]


def expected(place):
    if not (place.batch == place.chunk == 0 < place.done < 9):
        raise ValueError(f"there is no {place}")
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (STATE, SEEN))
    return like


def computed(config, watch=None, dealt=None, keeper=None, track=None):
    """In place of `experiment.run`: of the config, the rows, and of what the checkpoint holds."""
    kept = keeper.restore(PLAN, expected)
    state = STATE if kept is None else kept.state
    nowhere = dataclasses.replace(config, **dict.fromkeys(schema.PATHS))
    cells = []
    for task in dealt:
        for method in config.methods:
            own = (nowhere, method, files_lib.digest_of_arrays([state["x"]]))
            own += (identity.fingerprint([task]),)
            shape = (len(config.seeds), config.rounds, len(task.sizes))
            record = Record(*(numbers(shape, own, name) for name in Record._fields))
            record = record._replace(
                quota=np.ones(shape, np.int32),
                present=np.ones(shape, bool),
                nonfinite=np.zeros(shape, bool),
            )
            last = (shape[0], 1)
            seen = [numbers((*last, shape[2]), own, i) for i in range(3)]
            seen += [numbers(last, own, 4), numbers(last, own, 5)]
            rounds = np.full(last, config.rounds, np.int32)
            names = (task.partition, method.name, config.seeds, task.sizes, task.classes)
            evaluation = Evaluation(rounds, *seen)
            cells.append(frames.Cell(*names, sum(task.tensors), record, evaluation))
    seconds = dict.fromkeys(("compile_seconds", "run_seconds", "rounds_per_second"), 1.0)
    spent = [{"partition": c.partition, "method": c.method, **seconds} for c in cells]
    timing = {"total_seconds": 1.0, "methods": spent}
    return running.Result(config, dealt, tuple(cells), timing)


def stopped(config, watch=None, dealt=None, keeper=None, track=None):
    """Saves two checkpoints, and is interrupted."""
    keeper.restore(PLAN, expected)
    for done in (1, 2):
        kept = execute.Kept(execute.Place(0, 0, done), STATE, SEEN, [execute.Clock()])
        keeper.save(PLAN, done, kept)
    raise KeyboardInterrupt


def swept(plan, watch, keep, keeper=None, compiled=None):
    """In place of `running.execute`: an outcome of every trial, which follows from the trial."""
    ends = {}
    for run in (run for program in plan.programs for p in program.portions for run in p.trials):
        count, _ = counts_of(run.config)
        own = {name: numbers(count, run, name) for name in ("accuracy", "reputation")}
        one, many = np.ones(count), np.full(count, 7, np.int64)
        sides = {"share": one, "energy": one, "present": one, "distance": own["accuracy"]}
        sides |= {"upload_bytes": many, "download_bytes": many, "broken": many * 0}
        sides |= {"honest": one > 0, "honest_seen": one > 0, "loss": 1 - own["accuracy"]}
        sides |= {f"late_{name}": (sides | own)[name][None] for name in ("accuracy", "loss")}
        ends[run] = frames.Outcome(**own, **sides, server_accuracy=own["accuracy"][0])
    keep(ends)
    return ends, [execute.Clock() for program in plan.programs for _ in program.portions]


def half(plan, watch, keep, keeper=None, compiled=None):
    """Half of the trials; then it is interrupted."""
    ends, _ = swept(plan, watch, lambda done: None)
    keep(dict(list(ends.items())[::2]))
    raise KeyboardInterrupt


@contextlib.contextmanager
def without_work(run=computed, sweep=swept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run", run)
        patch.setattr(sweep_running, "execute", sweep)
        for kind in figures.KINDS:
            patch.setitem(figures.KINDS, kind, lambda *what, kind=kind: figure_of(kind, *what))
        for name in ("line", "pair"):
            patch.setattr(sweep_figures, name, lambda *what, kind=name: figure_of(kind, *what))
        environment = environment_lib.environment()
        patch.setattr(environment_lib, "environment", lambda: dict(environment))
        yield


# ---------------------------------------------------------------- commands, and what they read


class Reading(NamedTuple):
    """A command that reads files."""

    words: list[str]  # HERE stands for the folder, OUT for where it is to write
    files: tuple[str, ...]  # patterns of what it reads there
    out: str = "OUT"  # where its results are
    own: str = ""  # the field of environment.json that tells another file of the user's
    weight: int = 1


def reading(words, patterns, out="OUT", own="", weight=1):
    return Reading(words.split(), tuple(patterns.split()), out, own, weight)


DATA = f"{' '.join(OWN)} --data-dir HERE/data --out OUT --partition "
OWNERS = DATA + "by_owner --owners HERE/"
WHO = DATA + "uniform --attendance HERE/"
ROWS = DATA + "from_lists --repeated-rows --lists HERE/"
LAST = "begun/checkpoint/000000000002"
READINGS = {
    "plot a run": reading("plot HERE/run --out OUT", "run/*.json run/*.parquet", weight=4),
    "draw a run": reading("plot HERE/run", "run/*.json run/*.parquet", "HERE/run"),
    "a finished run": reading("run --resume HERE/run", "run/*.json run/*.parquet", "HERE/run"),
    "a config": reading("run --config HERE/run/config.json --out OUT", "run/config.json"),
    "beside a config": reading("run --config HERE/run/config.json --out OUT", "run/env*.json"),
    "a begun run": reading("run --resume HERE/begun", "begun/*.json", "HERE/begun"),
    "a manifest": reading("run --resume HERE/begun", "begun/checkpoint/*/*.json", "HERE/begun"),
    "arrays": reading("run --resume HERE/begun", "begun/checkpoint/*/arrays/**/*", "HERE/begun"),
    "plot a sweep": reading("plot HERE/sweep --out OUT", "sweep/*.json sweep/*.parquet", weight=4),
    "draw a sweep": reading("plot HERE/sweep", "sweep/*.json sweep/*.parquet", "HERE/sweep"),
    "a finished sweep": reading(
        "sweep --resume HERE/sweep", "sweep/*.json sweep/*.parquet", "HERE/sweep"
    ),
    "a sweep's config": reading("sweep --config HERE/sweep/config.json --out OUT", "sweep/c*.json"),
    "a begun sweep": reading("sweep --resume HERE/half", "half/*.json", "HERE/half"),
    "parts": reading("sweep --resume HERE/half", "half/parts/*", "HERE/half", weight=2),
    "owners .npy": reading(OWNERS + "owners.npy", "owners.npy", own="owners"),
    "owners .npz": reading(OWNERS + "owners.npz", "owners.npz", own="owners"),
    "attendance .npy": reading(WHO + "who.npy", "who.npy", own="attendance"),
    "attendance .txt": reading(WHO + "who.txt", "who.txt", own="attendance"),
    "lists .npy": reading(ROWS + "rows.npy", "rows.npy", own="lists"),
    "lists .npz": reading(ROWS + "rows.npz", "rows.npz", own="lists"),
    "lists .json": reading(ROWS + "rows.json", "rows.json", own="lists"),
    "lists .txt": reading(ROWS + "rows.txt", "rows.txt", own="lists"),
    "records": reading(DATA + "uniform", "data/mnist/3.0.1/*record*"),
    "metadata": reading(DATA + "uniform", "data/mnist/3.0.1/*.json", weight=2),
    "the cache": reading(DATA + "uniform", "cache/*"),
}


class World(NamedTuple):
    """A folder with all of it, and what every command makes of it where nothing is damaged."""

    folder: pathlib.Path
    right: dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    test_data.write_tiny(folder / "data", "mnist")
    np.save(folder / "owners.npy", np.arange(40) % 7)
    np.savez_compressed(folder / "owners.npz", np.arange(40) % 7)
    rounds = np.arange(6).reshape(2, 3) % 3
    np.save(folder / "who.npy", rounds)
    (folder / "who.txt").write_text("0,1,2\n2,0\n")
    for name in ("rows.npz", "rows.npy", "rows.json", "rows.txt"):
        test_data.WRITTEN[name.replace("rows", "a")](folder / name)
    with without_work():
        assert main.main([*RUN, "--out", str(folder / "run"), "--quiet"]) == 0
        assert main.main([*GRID, "--out", str(folder / "sweep"), "--quiet"]) == 0
    with without_work(stopped, half):
        assert main.main([*RUN, "--out", str(folder / "begun"), "--quiet"]) == 130
        assert main.main([*GRID, "--out", str(folder / "half"), "--quiet"]) == 130
    right = {}
    with without_work():
        for name, way in READINGS.items():
            ended = ended_of(way, copied(folder, way, tmp_path_factory.mktemp("right")))
            assert ended.code == 0, ended.said
            right[name] = ended.files
    assert len({*map(str, right.values())}) > 10
    return World(folder, right)


def copied(folder, way, to):
    """What a command reads, in a folder of its own; its cache is filled by an earlier call."""
    names = {pattern.partition("/")[0] for pattern in way.files}
    names |= {"data"} if "HERE/data" in way.words else set()
    for name in names - {"cache"}:
        source = folder / name
        if source.is_dir():
            shutil.copytree(source, to / name)
        else:
            shutil.copy(source, to / name)
    if "cache" in names:
        ended_of(way, to)
        shutil.rmtree(to / "out")
    return to


class Ended(NamedTuple):
    code: int
    said: str  # on the standard error
    files: dict[str, object]  # of the results, their seconds apart
    seconds: float  # of computing
    waited: float  # by the clock


def ended_of(way, folder):
    """What a command does in a folder."""
    out = folder / "out"
    words = [word.replace("HERE", str(folder)).replace("OUT", str(out)) for word in way.words]
    said, printed = io.StringIO(), io.StringIO()
    faulthandler.dump_traceback_later(120, exit=True)  # nothing else ends some that wait
    started, computed = time.monotonic(), time.process_time()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(printed),
    ):
        patch.setenv("CGSV_CACHE_DIR", str(folder / "cache"))
        code = main.main(words)
    faulthandler.cancel_dump_traceback_later()
    seconds, waited = time.process_time() - computed, time.monotonic() - started
    assert printed.getvalue() == terminal.plain(printed.getvalue())
    place = out if way.out == "OUT" else pathlib.Path(way.out.replace("HERE", str(folder)))
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_file() and not path.is_symlink() and name != "timing.json":
            found[name] = path.read_bytes()
            if path.suffix == ".json":  # a seal is of paths, too, which differ here
                with contextlib.suppress(ValueError, RecursionError):
                    text = found[name].decode().replace(str(folder), "HERE")
                    value = json.loads(text.replace("HERE/elsewhere", "HERE"))  # a user's own link
                    found[name] = (
                        {**value, files_lib.SEAL: ""} if isinstance(value, dict) else value
                    )
    return Ended(code, said.getvalue(), found, seconds, waited)


# ---------------------------------------------------------------- changes


def flip(path, folder, rng):
    """One bit."""
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def rewritten(how):
    def change(path, folder, rng):
        content = path.read_bytes()
        a, b = sorted(rng.integers(0, len(content) + 1, 2))
        path.write_bytes(how(content, a, b, rng))

    return change


def replaced(how):
    def change(path, folder, rng):
        elsewhere = folder / "elsewhere" / path.name
        elsewhere.parent.mkdir(exist_ok=True)
        path.rename(elsewhere)
        how(path, elsewhere)

    return change


def swapped(path, folder, rng):
    """Another file of the world in its place, which is of another kind or of another run."""
    others = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != path]
    path.write_bytes(others[rng.integers(len(others))].read_bytes())


VALUES = (
    *(None, True, 0, -1, 3, 0.5, 10**30, 10**400, 1e308, "", "x", "\x1b[2J", "../x", "a" * 10**5),
    *([], [1], [[]], {}, {"a": 1}, [None] * 3, "\u202e", "/etc/passwd", "NaN", -(2**63)),
)


def places(value, at=()):
    """Every place in a document."""
    yield at
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*at, key))


def edited(value, rng):
    """A document with one thing in it changed."""
    ways = [at for at in places(value) if at and at != (files_lib.SEAL,)]
    *above, key = ways[rng.integers(len(ways))]
    inner = value
    for step in above:
        inner = inner[step]
    how = rng.integers(6)
    if how == 0:
        del inner[key]
    elif how == 1 and isinstance(inner, dict):
        inner[["more", "a\x1b[2Jb", "../x"][rng.integers(3)]] = inner.pop(key)
    elif how == 2 and isinstance(inner[key], list | dict) and inner[key]:
        inner[key] = [inner[key]] if rng.integers(2) else 3 * [*inner[key]]
    else:
        inner[key] = VALUES[rng.integers(len(VALUES))]
    return value


def document(path, folder, rng):
    """Its seal stays as it was."""
    path.write_text(json.dumps(edited(json.loads(path.read_text()), rng)))


def resealed(path, folder, rng):
    """A stranger's, who can seal what he likes."""
    value = json.loads(path.read_text())
    was_sealed = isinstance(value, dict) and value.pop(files_lib.SEAL, None)
    value = edited(value, rng)
    path.write_text(json.dumps(files_lib.sealed(value) if was_sealed else value))


def twice(path, folder, rng):
    text = path.read_text()
    value = json.loads(text)
    if isinstance(value, dict):
        key = sorted(value)[rng.integers(len(value))]
        path.write_text("{" + json.dumps(key) + ": 1," + text.lstrip()[1:])


def table(path, folder, rng):
    """A stranger's table, whose digest is right."""
    frame = pl.read_parquet(path)
    name = frame.columns[rng.integers(frame.width)]
    column = frame[name]
    others = [
        *(None, float("nan"), float("inf"), -1, 2**62, "a\x1b[2Jb", "../../x", True, [1, 2], b"x"),
    ]
    value = others[rng.integers(len(others))]
    how = rng.integers(6)
    if how == 0:
        frame = frame.drop(name)
    elif how == 1:
        frame = frame[: rng.integers(frame.height + 1)]
    elif how == 2:
        frame = pl.concat([frame, frame])
    elif how == 3:
        frame = frame.with_columns(pl.Series(name, [value] * frame.height, strict=False))
    elif how == 4:
        with contextlib.suppress(Exception):
            mixed = [value, *column.to_list()[1:]]
            frame = frame.with_columns(pl.Series(name, mixed, column.dtype, strict=False))
    else:
        frame = frame.rename({name: "a\x1b[2J/../b"})
    content = directory.parquet(frame)
    path.write_bytes(content)
    environment = json.loads((path.parent / "environment.json").read_text())
    environment["tables"][path.name] = hashlib.sha256(content).hexdigest()
    environment.pop(files_lib.SEAL)
    (path.parent / "environment.json").write_text(json.dumps(files_lib.sealed(environment)))


def part(path, folder, rng):
    """A stranger's part of a sweep, whose name is right."""
    with np.load(path) as file:
        arrays = dict(file)
    key = sorted(arrays)[rng.integers(len(arrays))]
    x = arrays[key]
    values = [x[:-1], x * np.nan, x + 1e300, x.astype(np.float32), x[None], np.array("x"), x[0]]
    arrays[key] = values[rng.integers(len(values))]
    if rng.integers(3) == 0:
        arrays["../../x" if rng.integers(2) else "more"] = arrays.pop(key)
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.unlink()
    name = hashlib.sha256(content.getvalue()).hexdigest()
    path.with_name(f"{name}.npz").write_bytes(content.getvalue())


THINGS: dict[str, Callable] = {
    "missing": lambda path, old: None,
    "folder": lambda path, old: path.mkdir(),
    "fifo": lambda path, old: os.mkfifo(path),
    "endless": lambda path, old: path.symlink_to("/dev/zero"),
    "dangling": lambda path, old: path.symlink_to("nowhere"),
    "loop": lambda path, old: path.symlink_to(path),
    "linked": lambda path, old: path.symlink_to(old),
}
DAMAGE: dict[str, Callable] = {
    "empty": rewritten(lambda x, a, b, rng: b""),
    "cut": rewritten(lambda x, a, b, rng: x[:a]),
    "hole": rewritten(lambda x, a, b, rng: x[:a] + x[b:]),
    "blank": rewritten(lambda x, a, b, rng: x[:a] + bytes(b - a) + x[b:]),
    "noise": rewritten(lambda x, a, b, rng: x[:a] + rng.bytes(b - a) + x[b:]),
    "double": rewritten(lambda x, a, b, rng: x + x),
    "grown": rewritten(lambda x, a, b, rng: x + x[a:b]),
    "head": rewritten(lambda x, a, b, rng: x[:8] + rng.bytes(100)),
    "nest": rewritten(lambda x, a, b, rng: b"[" * 100_000),
    "zip": rewritten(lambda x, a, b, rng: b"PK\x03\x04" + rng.bytes(200)),
    "swapped": swapped,
    **{name: replaced(how) for name, how in THINGS.items()},
}
OF_KIND: dict[str, dict[str, Callable]] = {
    ".json": {"edited": document, "edited again": document, "a name twice": twice},
    ".parquet": {},
    ".npz": {},
}
# What a stranger makes, who knows the digests; then other numbers are his.
STRANGERS: dict[str, dict[str, Callable]] = {
    ".json": {"resealed": resealed, "resealed again": resealed, "and again": resealed},
    ".parquet": {"his table": table, "his other table": table, "his third": table},
    ".npz": {"his part": part},
}


def wrong_with(way, folder, ended, right, stranger):
    """What is not as it should be, or None."""
    lines = ended.said.splitlines()
    if ended.seconds > SECONDS or ended.waited > WAITING:
        return f"it computed for {ended.seconds:.1f} s and took {ended.waited:.1f} s"
    if ended.code not in (0, 1, 2):
        return f"it ended with {ended.code}"
    if ended.said != terminal.plain(ended.said):
        return "control characters were printed"
    if not all(line.startswith("cgsv: ") for line in lines):
        return "more than sentences were printed"
    if max(map(len, lines), default=0) > 2000:
        return f"a sentence of {max(map(len, lines))} characters"
    if ended.code:
        named = str(folder) in ended.said or "--data-dir" in ended.said
        return None if lines and named else "it names no file"
    if ended.files == right or stranger or "changed since it was written" in ended.said:
        return None
    if way.own:
        told, was = (x["environment.json"]["data"]["files"] for x in (ended.files, right))
        if told[way.own] != was[way.own]:  # the user's own numbers, which nothing can judge
            return None
    return "other numbers"


def tried(world, tmp_path, times, changes, seed):
    """Runs so many cases; what was wrong with which."""
    wrong, codes, slowest = [], [0, 0, 0], 0.0
    names = [name for name, way in READINGS.items() for _ in range(way.weight)]
    with without_work():
        for number in range(times):
            rng = np.random.default_rng([seed, number])
            name = names[number % len(names)]
            way, folder = READINGS[name], tmp_path / "case"
            folder.mkdir()
            copied(world.folder, way, folder)
            found = [p for pattern in way.files for p in folder.glob(pattern) if p.is_file()]
            path = sorted(found)[rng.integers(len(found))]
            options = changes(path, way)
            change, stranger = options[rng.integers(len(options))]
            said = f"case {number}, {name}: {change} of {path.relative_to(folder)}"
            function = change if callable(change) else {**ALL, "flip": flip}[change]
            function(path, folder, rng)
            damaged = path.read_bytes() if path.is_file() and change != "endless" else None
            before = {p: p.read_bytes() for p in (folder / "elsewhere").rglob("*")}
            right = world.right[name]
            try:
                ended = ended_of(way, folder)
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                if damaged is not None and path.is_file() and path.read_bytes() == damaged:
                    # It lies among the results, and is no result of this command.
                    for those in (ended.files, right := dict(world.right[name])):
                        those.pop(path.name, None)
                reason = wrong_with(way, folder, ended, right, stranger)
                codes[min(ended.code, 2)] += 1
                slowest = max(slowest, ended.seconds)
                if reason:
                    reason += f" ({ended.said[-300:]!r})"
            if before != {p: p.read_bytes() for p in (folder / "elsewhere").rglob("*")}:
                reason = "it wrote elsewhere"
            if reason:
                wrong.append(f"{said}: {reason}")
            shutil.rmtree(folder)
    print(f"{times} cases, exit codes 0, 1, 2: {codes}, slowest {slowest:.2f} s")
    return wrong


ALL = {
    name: x for group in (OF_KIND, STRANGERS) for own in group.values() for name, x in own.items()
}
ALL |= DAMAGE


def structural(path, way):
    own = [(name, False) for name in (*DAMAGE, *OF_KIND.get(path.suffix, {}))]
    return own + [(name, True) for name in STRANGERS.get(path.suffix, {})]


@pytest.mark.parametrize("times", [150, pytest.param(5000, marks=pytest.mark.nightly)])
def test_a_flipped_bit(world, tmp_path, times):
    wrong = tried(world, tmp_path, times, lambda path, way: [("flip", False)], 1)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("times", [150, pytest.param(500, marks=pytest.mark.nightly)])
def test_another_structure(world, tmp_path, times):
    wrong = tried(world, tmp_path, times, structural, 2)
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------- folders

FOLDERS = {
    "draw a run": ("run/figures",),
    "a finished run": ("run/figures", "run/checkpoint", "run/parts"),
    "a begun run": ("begun/figures", "begun/checkpoint", *(f"{LAST}{x}" for x in ("", "/arrays"))),
    "draw a sweep": ("sweep/figures",),
    "a finished sweep": ("sweep/figures", "sweep/checkpoint", "sweep/parts"),
    "a begun sweep": ("half/figures", "half/checkpoint", "half/parts"),
    "records": ("data", "data/mnist", "data/mnist/3.0.1", "cache"),
}


@pytest.mark.parametrize("change", [*THINGS, "file"])
@pytest.mark.parametrize("name", FOLDERS)
def test_another_thing_in_place_of_a_folder(name, change, world, tmp_path):
    """Nothing is written through it, and nothing in it is lost."""
    way, wrong = READINGS[name], []
    for number, place in enumerate(FOLDERS[name]):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = copied(world.folder, way, folder) / place
        path.mkdir(parents=True, exist_ok=True)
        replaced(THINGS.get(change, lambda path, old: path.write_text("x")))(path, folder, None)
        before = {p: p.read_bytes() for p in (folder / "elsewhere").rglob("*") if p.is_file()}
        with without_work():
            ended = ended_of(way, folder)
        right = dict(world.right[name])
        if path.is_file():  # it is still there
            ended.files.pop(path.name, None)
        if reason := wrong_with(way, folder, ended, right, stranger=False):
            wrong.append(f"{place}: {reason} ({ended.said!r})")
        after = {p: p.read_bytes() for p in (folder / "elsewhere").rglob("*") if p.is_file()}
        if before != after and place != "cache":  # which may be anywhere
            wrong.append(f"{place}: it wrote elsewhere")
    assert not wrong, "\n".join(wrong)
