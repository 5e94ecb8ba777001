"""A run directory: tidy tables and strict JSON, written whole or not at all, and read back.

| file | holds |
|---|---|
| config.json | every setting of the run; written first, so that a run that ends early can go on |
| environment.json | versions, device, commit |
| timing.json | seconds; the only file that differs between two equal runs |
| rounds.parquet | a row per partition, method, partition seed, seed, round and client |
| clients.parquet | a row per partition, method, partition seed, seed and client, at the end |
| fairness.parquet | a row per partition, method, partition seed, seed and evaluation |
| summary.parquet | a row per partition, method, partition seed and seed |
| holdings.parquet | a row per partition, partition seed, client and label that it holds |
| summary.json | mean and standard deviation over both kinds of seeds, per partition and method |

With --save-models there is a folder `models` as well (see saved.py).

What is not known is null in every file, never NaN.

A folder `tracking` holds what `--track` asked for, in the trackers' own formats (see tracking.py).

Until all of them are there the run is unfinished, and a folder `checkpoint` may hold what is
computed so far (see checkpoint.py). No name in a run directory is followed out of it.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import os
import pathlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import polars as pl

from cgsv_jax.config import schema, variants
from cgsv_jax.host import files
from cgsv_jax.host.files import Path
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results.frames import Cell

JSON_FILES = ("config", "environment", "timing")
FILES = (
    *(f"{name}.json" for name in (*JSON_FILES, "summary")),
    *(f"{name}.parquet" for name in frames_lib.COLUMNS),
)
# What not every version has written; of these, fairness follows from the other files.
LATER = ("fairness.parquet", "holdings.parquet")
REQUIRED = tuple(name for name in FILES if name not in LATER)
# What the directory of a sweep holds besides config, environment and timing (see sweep/results.py).
SWEEP_FILES = ("sweep.parquet", "points.parquet", "points.json")
PARTS = "parts"  # folder of a sweep where the trials are that are through
RAYS = "ray"  # folder of a sweep with Ray's own files, while it runs
PART_FILES = ("*.npz", "*.json")
FIGURES = "figures"  # folder where results/figures.py puts its own
REPORT = "report.html"  # which `cgsv report` puts beside the tables
MODELS = "models"  # folder where results/saved.py puts its own, where they are kept
MODEL_FILES = ("*.npz", "manifest.json")
CHECKPOINT = "checkpoint"  # folder where experiment/checkpoint.py puts its own, while it runs
TRACKING = "tracking"  # folder where experiment/tracking.py has one for every tracker
FOLDERS = (FIGURES, CHECKPOINT, PARTS, RAYS, TRACKING, MODELS)
FIGURE_KINDS = ("fairness_rounds", "accuracy", "reputation", "fairness", "share", "holdings")
SWEEP_FIGURE_KINDS = ("pair", "line")
FIGURE_FORMATS = ("png", "pdf", "svg")


class Run(NamedTuple):
    """A run directory that was read."""

    config: dict[str, Any]
    environment: dict[str, Any]
    timing: dict[str, Any]
    rounds: pl.DataFrame  # ROUND_COLUMNS
    clients: pl.DataFrame  # CLIENT_COLUMNS
    fairness: pl.DataFrame  # FAIRNESS_COLUMNS
    summary: pl.DataFrame  # SUMMARY_COLUMNS
    holdings: pl.DataFrame  # HOLDINGS_COLUMNS; of a run of an earlier version without rows
    directory: pathlib.Path | None = None


# ---------------------------------------------------------------- what a directory is


def state_of(directory: Path) -> Literal["fresh", "begun", "finished"]:
    """What a directory holds of a run or of a sweep: nothing yet, something, or all results.

    An environment alone began nothing: the config is written after it. Results are written whole
    or not at all.

    Raises:
      ValueError: one of the names leads elsewhere.
    """
    kinds = {name: files.kind(files.inside(directory, name)) for name in (*FILES, *SWEEP_FILES)}
    of_a_sweep = (*(f"{name}.json" for name in JSON_FILES), *SWEEP_FILES)
    if any(all(kinds[name] == "file" for name in names) for names in (REQUIRED, of_a_sweep)):
        return "finished"
    there = {name for name, kind in kinds.items() if kind != "nothing"}
    return "begun" if there - {"environment.json"} else "fresh"


def command_of(config: Mapping[str, Any]) -> Literal["run", "sweep"]:
    """Which command a config.json is of."""
    return "sweep" if {"axes", "search"} & config.keys() else "run"


def resuming(directory: Path) -> str:
    """The command that goes on with an unfinished run or sweep."""
    command = "run"
    with contextlib.suppress(ValueError):
        command = command_of(read_json(directory, "config.json"))
    return f"cgsv {command} --resume {shlex.quote(os.fspath(directory))}"


def is_there(directory: Path, name: str) -> bool:
    """Whether a directory holds something of this name.

    Raises:
      ValueError: it is a symbolic link.
    """
    return files.kind(files.inside(directory, name)) != "nothing"


def fresh(command: str, dataset: str) -> pathlib.Path:
    """A directory that is not there yet, for what a command makes of a data set.

    Its name can be typed in a shell, whatever the set is called.
    """
    name = re.sub(r"[^\w.-]", "_", dataset)
    paths = (pathlib.Path("runs") / f"{command}-{name}-{n:03d}" for n in itertools.count(1))
    return next(path for path in paths if not path.exists())


def keep_off(file: Path, flag: str) -> None:
    """Refuses a file that would take the place of something in a run directory.

    A folder is a run directory that holds both documents with which a run begins: a config.json
    alone, or a folder `models`, is somebody else's as often.

    Args:
      file: to be written.
      flag: how it is called in the refusal.

    Raises:
      ValueError: it lies in a folder that is a run's own, or beside its tables and is there.
    """
    path = pathlib.Path(file).resolve()
    for folder in path.parents:
        if all(files.kind(folder / f"{name}.json") == "file" for name in JSON_FILES[:2]):
            if (own := path.relative_to(folder).parts[0]) in FOLDERS:
                reason = f"which is in a run's folder {own}, it must lie elsewhere"
                raise _refusal(file, flag, reason)
            if path.parent == folder and files.kind(path) != "nothing":
                raise _refusal(file, flag, "which is in a run directory already, it must be new")


def _opened(path: Path, flag: str) -> pathlib.Path:
    """A directory that is there, or could be made.

    Raises:
      ValueError: it is a file, or a folder in it is one or leads elsewhere.
    """
    directory = files.path_of(path, flag)
    if files.kind(directory) not in ("folder", "nothing"):
        raise _refusal(path, flag, "which is a file, it must name a directory")
    for name in FOLDERS:
        if files.kind(files.inside(directory, name)) not in ("folder", "nothing"):
            raise _refusal(path, flag, f"whose {name} is a file, nothing could be put there")
    return directory


def _refusal(path: Path, flag: str, reason: str) -> ValueError:
    return ValueError(f"{flag} is {os.fspath(path)!r}, {reason}")


def create(path: Path, overwrite: bool = False) -> pathlib.Path:
    """Makes a run directory, before anything is computed.

    Args:
      path: the directory; parents are made as needed.
      overwrite: removes the files of a run that is there, finished or not, and only those.

    Raises:
      ValueError: when `path` is no directory, holds a run already, or leads elsewhere.
      OSError: when it cannot be made.
    """
    directory = _opened(path, "--out")
    state = state_of(directory)
    if state != "fresh" and not overwrite:
        reason = "which holds a run, it must be new unless --overwrite is given"
        if state == "begun":
            reason = f"which holds an unfinished run: go on with `{resuming(directory)}`, "
            reason += "or give --overwrite to replace it"
        raise _refusal(path, "--out", reason)
    with files.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with held(directory), files.writing(directory):
        tidy(directory)
        if overwrite:
            _empty(directory)
    return directory


def _empty(directory: pathlib.Path) -> None:
    """Removes what a run or a sweep has written, and nothing else."""
    remove_checkpoints(directory)
    drawn = itertools.product((*FIGURE_KINDS, *SWEEP_FIGURE_KINDS), FIGURE_FORMATS)
    ours = {
        MODELS: MODEL_FILES,
        PARTS: PART_FILES,
        FIGURES: [f"{kind}-*.{suffix}" for kind, suffix in drawn],
    }
    for folder, patterns in ours.items():
        for pattern in patterns:
            for file in (directory / folder).glob(pattern):
                file.unlink()
    tracked = files.inside(directory, TRACKING)
    for name in schema.TRACKERS:
        files.remove(files.inside(tracked, name))
    # The config last: without it nobody could go on with what is left.
    for name in reversed((*FILES, *SWEEP_FILES, REPORT)):
        if is_there(directory, name):
            (directory / name).unlink()


def resumable(path: Path, command: str = "run") -> tuple[pathlib.Path, dict[str, Any]]:
    """A directory that was begun by a command, and what its config.json says, unjudged.

    Raises:
      ValueError: when it is none.
    """
    directory = _opened(path, "--resume")
    if not is_there(directory, "config.json"):
        wanted = {"run": "a run directory", "sweep": "a sweep's directory"}[command]
        lacks = (
            "it is not there" if files.kind(directory) == "nothing" else "it holds no config.json"
        )
        raise _refusal(path, "--resume", f"it must be {wanted}, {lacks}")
    config = read_json(directory, "config.json")
    if (other := command_of(config)) != command:
        reason = f"which holds a {other}, with which `{resuming(directory)}` goes on"
        raise _refusal(path, "--resume", reason)
    return directory, config


def begin(
    directory: Path, config: Mapping[str, Any], environment: Mapping[str, Any] | None = None
) -> None:
    """Writes what a later command needs to go on, before anything is run.

    Raises:
      OSError: when it cannot be written; a directory that holds nothing else is removed.
    """
    try:  # the config last: a run has begun when it is there
        both = {"environment.json": environment or {}, "config.json": config}
        files.write_files(directory, {name: files.document(x) for name, x in both.items()})
    except OSError:
        with contextlib.suppress(OSError):
            pathlib.Path(directory).rmdir()
        raise


class InUse(ValueError):
    """Another process holds a run directory."""


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing to a run directory at the same time.

    The lock lies on the directory itself: nothing has to be removed, and it goes with the process,
    however that ends.

    Raises:
      InUse: another process holds it, or has removed it in between.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise InUse(
                    f"{directory} is in use: another process runs there, wait until it has ended"
                ) from error
            # A file system without such locks: then nobody is kept out.
        if not (
            os.path.isdir(directory) and os.path.samestat(os.fstat(handle), os.stat(directory))
        ):
            raise InUse(f"{directory} has been removed by another process")
        yield
    finally:
        os.close(handle)


def remove_checkpoints(directory: Path) -> None:
    """Removes what checkpoint.py wrote, and its folder unless somebody else's files are there.

    Raises:
      ValueError: the folder is a symbolic link.
      OSError: something cannot be removed.
    """
    folder = files.inside(directory, CHECKPOINT)
    for path in checkpoints(directory, temporary=True):
        files.remove(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def checkpoints(directory: Path, temporary: bool = False) -> list[pathlib.Path]:
    """The checkpoints of a run directory, the oldest first; with those half written, if asked."""
    folder = files.inside(directory, CHECKPOINT)
    pattern = r"\d{12}|\.\d{12}\.tmp" if temporary else r"\d{12}"
    found = [path for path in folder.glob("*") if re.fullmatch(pattern, path.name)]
    return sorted(found, key=lambda path: path.name)


def tidy(directory: Path) -> None:
    """Removes what a process that was killed had half written.

    Raises:
      ValueError: a folder of the run's is a symbolic link.
      OSError: something cannot be removed.
    """
    for folder in (
        directory,
        *(files.inside(directory, name) for name in (FIGURES, PARTS, MODELS)),
    ):
        files.remove_half_written(folder)


# ---------------------------------------------------------------- what is written, and read back


def write(
    directory: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
    cells: Iterable[Cell],
) -> dict[str, pl.DataFrame]:
    """Writes all files of a run; equal arguments give equal bytes.

    Returns:
      Its tables, see `frames.frames_of`.

    Raises:
      OSError: when something cannot be written.
    """
    frames = frames_lib.frames_of(cells)
    tables = {f"{name}.parquet": parquet(frame) for name, frame in frames.items()}
    documents = {
        "config.json": files.document(config),
        "environment.json": files.document({**environment, "tables": digests(tables)}),
        "timing.json": files.document(timing),
        "summary.json": files.document(frames_lib.fairness_table(frames["summary"]).to_dicts()),
    }
    files.write_files(directory, documents | tables)
    return frames


def parquet(frame: pl.DataFrame) -> bytes:
    """A parquet file; equal frames give equal bytes."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    return content.getvalue()


def digests(tables: Mapping[str, bytes]) -> dict[str, str]:
    """What environment.json says of tables, see `read_parquet`."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}


def read(directory: Path) -> Run:
    """A run directory as it was written.

    Raises:
      ValueError: when it is no run directory, or a file is missing or damaged.
    """
    directory = files.path_of(directory, "the run's directory")
    missing = [name for name in REQUIRED if not is_there(directory, name)]
    if len(missing) == len(REQUIRED):
        kind = files.kind(directory)
        what = {"folder": f"it holds none of {', '.join(FILES)}", "nothing": "it is not there"}
        raise ValueError(f"{directory} is no run directory: {what.get(kind, 'it is a file')}")
    if missing:
        on = "" if FILES[0] in missing else f": `{resuming(directory)}` goes on"
        raise ValueError(f"the run in {directory} lacks {', '.join(missing)}{on}")
    # What an earlier version wrote has neither seals nor digests.
    sealed = "tables" in read_json(directory, "environment.json")
    config, environment, timing = (
        read_json(directory, f"{name}.json", sealed) for name in JSON_FILES
    )
    known = _digests_of(environment)
    there = {name for name in FILES if name in REQUIRED or is_there(directory, name)}
    if gone := [name for name in LATER if name in known and name not in there]:
        raise ValueError(f"the run in {directory} lacks {', '.join(gone)}")
    tables = {
        name: read_parquet(directory, f"{name}.parquet", tuple(columns), environment, config)
        for name, columns in frames_lib.COLUMNS.items()
        if f"{name}.parquet" in there
    }
    # The tables are of the same cells, and two of them of the same clients.
    for keys, names in (
        (tuple(frames_lib.KEYS), ("rounds", "clients", "fairness", "summary")),
        ((*frames_lib.KEYS, "client"), ("rounds", "clients")),
    ):
        names = tuple(name for name in names if name in tables)
        if len({frozenset(tables[name].select(*keys).unique().iter_rows()) for name in names}) > 1:
            raise ValueError(
                f"the run in {directory} cannot be read: {', '.join(names)} are not of the same "
                f"{', '.join(keys)}"
            )
    if "holdings" in tables:
        keys = "partition", "partition_seed", "client"
        if len(tables["holdings"].join(tables["clients"], on=keys, how="anti")):
            raise ValueError(
                f"the run in {directory} cannot be read: holdings and clients are not of the same "
                f"{', '.join(keys)}"
            )
    if "fairness" not in tables:
        with files.reading(files.inside(directory, "rounds.parquet")):
            tables["fairness"] = frames_lib.fairness_of_rounds(tables["rounds"])
            tables["summary"] = frames_lib.trust_of_rounds(tables["summary"], tables["fairness"])
    tables.setdefault("holdings", pl.DataFrame(schema=frames_lib.HOLDINGS_COLUMNS))
    return Run(config, environment, timing, **tables, directory=directory)


def read_json(directory: Path, name: str, must_be_sealed: bool = False) -> dict[str, Any]:
    """A document of a run's or a sweep's.

    Raises:
      ValueError: when it cannot be read, or was changed since it was written.
    """
    return files.read_json(files.inside(directory, name), must_be_sealed=must_be_sealed)


def read_parquet(
    directory: Path,
    name: str,
    columns: Sequence[str],
    environment: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """A table that has the columns, those of `frames.LATER` filled in where they lack.

    Args:
      directory: of a run or a sweep.
      name: of the file.
      columns: what must be there; of those of a run the types are known.
      environment: what environment.json holds: of what was written by this version, digests.
      config: of a run; it knows the partition seed of one whose tables lack it, which had one.

    Raises:
      ValueError: when it cannot be read, or is another one.
    """
    digest = _digests_of(environment).get(name)
    file = files.inside(directory, name)
    frame = files.read_table(
        file, [name for name in columns if name not in frames_lib.LATER], digest
    )
    drawn = (config or {}).get("partition_seed")
    values = {
        "owner": pl.lit(None, pl.String),
        "partition_seed": pl.lit(drawn if isinstance(drawn, int) else 0, pl.Int64),
    }
    lacking = [name for name in columns if name not in frame.columns]
    frame = frame.with_columns(
        values.get(name, pl.lit(None, frames_lib.LATER[name])).alias(name) for name in lacking
    )
    with files.reading(file):
        for column in map(frame.get_column, columns):
            _must_hold(column)
    return frame


def _digests_of(environment: Mapping[str, Any] | None) -> dict[str, str]:
    """Those of the tables, by file; none of what an earlier version wrote."""
    known = (environment or {}).get("tables")
    return known if isinstance(known, dict) else {}


def _must_hold(column: pl.Series) -> None:
    """Refuses values that no column of this name has."""
    name, text = column.name, column.name in frames_lib.TEXTS
    # A column that nobody has a value of has no type; keys are what rows are found by.
    truths = name in (*frames_lib.TRUTHS, "best") and column.dtype == pl.Boolean
    fits = column.dtype == pl.String if text else column.dtype.is_numeric() or truths
    if not fits and len(column):  # a table without rows has no types
        raise ValueError(f"{name} holds {column.dtype}, not {'text' if text else 'numbers'}")
    if name in (*frames_lib.KEYS, "client", "round") and column.null_count():
        raise ValueError(f"{name} is unknown in some rows")
    if column.dtype.is_float() and not column.drop_nulls().is_finite().all():
        raise ValueError(f"{name} is not finite in some rows")
    if name in ("partition", "method"):
        for value in column.unique():
            if not value.isprintable() or len(value) > variants.LONGEST:
                raise ValueError(f"a {name} is named {value[:80]!r}, which is no name")
