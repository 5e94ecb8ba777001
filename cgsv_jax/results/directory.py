"""A run directory: tidy tables and strict JSON, written whole or not at all, and read back.

| file | holds |
|---|---|
| config.json | every setting of the run; written first, so that a run that ends early can go on |
| environment.json | versions, device, commit |
| timing.json | seconds; the only file that differs between two equal runs |
| rounds.parquet | a row per partition, method, seed, round and client |
| clients.parquet | a row per partition, method, seed and client, after the last round |
| summary.parquet | a row per partition, method and seed |
| summary.json | mean and standard deviation over seeds, per partition and method |

What is not known is null in every file, never NaN.

Until all of them are there the run is unfinished, and a folder `checkpoint` may hold what is
computed so far (see checkpoint.py). No name in a run directory is followed out of it.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl

from cgsv_jax.host import files
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results.frames import Cell

Path = str | os.PathLike[str]

JSON_FILES = ("config", "environment", "timing")
PARQUET_FILES = ("rounds", "clients", "summary")
FILES = tuple(f"{name}.json" for name in (*JSON_FILES, "summary")) + tuple(
    f"{name}.parquet" for name in PARQUET_FILES
)
# What the directory of a sweep holds besides config, environment and timing (sweep_results.py).
SWEEP_FILES = ("sweep.parquet", "settings.parquet", "settings.json")
PARTS = "parts"  # folder of a sweep where the runs are that are through
RAYS = "ray"  # folder of a sweep with Ray's own files, while it runs
PART_FILES = ("*.npz", "*.json")
FIGURES = "figures"  # folder of a run directory where plots.py puts its own
CHECKPOINT = (
    "checkpoint"  # folder of a run directory where checkpoint.py puts its own, while it runs
)
FOLDERS = (FIGURES, CHECKPOINT, PARTS, RAYS)
FIGURE_KINDS = ("accuracy", "reputation", "fairness", "share")
SWEEP_FIGURE_KINDS = ("pair", "line")
FIGURE_FORMATS = ("png", "pdf", "svg")
LONGEST = 100  # characters of the name of a partition or a method


class Run(NamedTuple):
    """A run directory that was read."""

    config: dict[str, Any]
    environment: dict[str, Any]
    timing: dict[str, Any]
    rounds: pl.DataFrame  # ROUND_COLUMNS
    clients: pl.DataFrame  # CLIENT_COLUMNS
    summary: pl.DataFrame  # SUMMARY_COLUMNS
    directory: pathlib.Path | None = None


# ---------------------------------------------------------------- files


def create(path: Path, overwrite: bool = False) -> pathlib.Path:
    """Makes a run directory, before anything is computed.

    Args:
      path: the directory; parents are made as needed.
      overwrite: removes the files of a run that is there, finished or not, and only those.

    Raises:
      ValueError: when `path` is no directory, holds a run already, or leads elsewhere.
      OSError: when it cannot be made.
    """

    def refusal(reason: str) -> ValueError:
        return ValueError(f"--out is {os.fspath(path)!r}, {reason}")

    directory = files.path_of(path, "--out")
    if files.kind(directory) not in ("folder", "nothing"):
        raise refusal("which is a file, it must name a directory")
    for name in FOLDERS:
        if files.kind(files.inside(directory, name)) not in ("folder", "nothing"):
            raise refusal(f"whose {name} is a file, nothing could be put there")
    old = [name for name in (*FILES, *SWEEP_FILES) if is_there(directory, name)]
    if old not in ([], ["environment.json"]) and not overwrite:  # that alone began nothing
        if finished(directory):
            raise refusal("which holds a run, it must be new unless --overwrite is given")
        raise refusal(
            f"which holds an unfinished run: go on with `{resuming(directory)}`, "
            "or give --overwrite to replace it"
        )
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with held(directory), writing(directory):
        tidy(directory)
        if overwrite:
            remove_checkpoints(directory)
            kinds = itertools.product((*FIGURE_KINDS, *SWEEP_FIGURE_KINDS), FIGURE_FORMATS)
            ours = {PARTS: PART_FILES, FIGURES: [f"{kind}-*.{suffix}" for kind, suffix in kinds]}
            for folder, patterns in ours.items():
                for pattern in patterns:
                    for file in (directory / folder).glob(pattern):
                        file.unlink()
            # The config last: without it nobody could go on with what is left.
            for name in reversed(old):
                files.inside(directory, name).unlink()
    return directory


def fresh(command: str, dataset: str) -> pathlib.Path:
    """A directory that is not there yet, for what a command makes of a data set."""
    paths = (pathlib.Path("runs") / f"{command}-{dataset}-{n:03d}" for n in itertools.count(1))
    return next(path for path in paths if not path.exists())


def begin(
    directory: Path, config: Mapping[str, Any], environment: Mapping[str, Any] | None = None
) -> None:
    """Writes what a later command needs to go on, before anything is run.

    Raises:
      OSError: when it cannot be written; a directory that holds nothing else is removed.
    """
    try:  # the config last: a run has begun when it is there
        both = {"environment.json": document(environment or {}), "config.json": document(config)}
        write_files(directory, both)
    except OSError:
        with contextlib.suppress(OSError):
            pathlib.Path(directory).rmdir()
        raise


def is_there(directory: Path, name: str) -> bool:
    """Whether a directory holds something of this name, which is no link.

    Raises:
      ValueError: it is a link.
    """
    return files.kind(files.inside(directory, name)) != "nothing"


def finished(directory: Path) -> bool:
    """Whether all results of a run or a sweep are there; each is written whole or not at all."""
    of_a_sweep = (*(f"{name}.json" for name in JSON_FILES), *SWEEP_FILES)
    kinds = {name: files.kind(files.inside(directory, name)) for name in {*FILES, *of_a_sweep}}
    return any(all(kinds[n] == "file" for n in names) for names in (FILES, of_a_sweep))


def resuming(directory: Path) -> str:
    """The command that goes on with an unfinished run or sweep."""
    command = "sweep" if begun_as_sweep(directory) else "run"
    return f"cgsv {command} --resume {shlex.quote(os.fspath(directory))}"


def begun_as_sweep(directory: Path) -> bool:
    """Whether the config.json of a directory is a sweep's."""
    try:
        return bool({"axes", "search"} & set(read_json(directory, "config.json")))
    except ValueError:
        return False


def resumable(path: Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """A run directory that was begun, and what its config.json says, unjudged.

    Raises:
      ValueError: when it is none.
    """

    def refusal(reason: str) -> ValueError:
        return ValueError(f"--resume is {os.fspath(path)!r}, {reason}")

    directory = files.path_of(path, "--resume")
    if (kind := files.kind(directory)) != "folder":
        what = "not there" if kind == "nothing" else "a file"
        raise refusal(f"it must be a run directory, it is {what}")
    if not is_there(directory, "config.json"):
        raise refusal("it must be a run directory, it holds no config.json")
    for name in FOLDERS:
        files.inside(directory, name)
    config = read_json(directory, "config.json")
    if begun_as_sweep(directory):
        raise refusal(f"which holds a sweep, with which `{resuming(directory)}` goes on")
    return directory, config


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing to a run directory at the same time.

    The lock lies on the directory itself: nothing has to be removed, and it goes with the process,
    however that ends.

    Raises:
      ValueError: another process holds it.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"{directory} is in use: another process runs there, wait until it has ended"
                ) from error
            # A file system without such locks: then nobody is kept out.
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Any error of the system in the body, as a sentence with the directory's name.

    Raises:
      OSError: in place of another one.
    """
    try:
        yield
    except OSError as error:
        reason = files.reason_of(error)
        raise OSError(f"{os.fspath(directory)} cannot be written to: {reason}") from error


def remove_checkpoints(directory: Path) -> None:
    """Removes what checkpoint.py wrote, and its folder unless somebody else's files are there.

    Raises:
      ValueError: the folder is a symbolic link.
      OSError: something cannot be removed.
    """
    folder = files.inside(directory, CHECKPOINT)
    for path in checkpoints(directory, temporary=True):
        remove(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def checkpoints(directory: Path, temporary: bool = False) -> list[pathlib.Path]:
    """The checkpoints of a run directory, the oldest first; with those half written, if asked."""
    folder = files.inside(directory, CHECKPOINT)
    pattern = r"\d{12}|\.\d{12}\.tmp" if temporary else r"\d{12}"
    found = [path for path in folder.glob("*") if re.fullmatch(pattern, path.name)]
    return sorted(found, key=lambda path: path.name)


def remove(path: Path) -> None:
    """A file, a link (not what it leads to) or a folder with all that is in it."""
    path = pathlib.Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy(directory: Path) -> None:
    """Removes what a process that was killed had half written (see `write_files`).

    Raises:
      ValueError: a folder of the run's is a symbolic link.
      OSError: something cannot be removed.
    """
    folders = [files.inside(directory, name) for name in (FIGURES, PARTS)]
    for folder in (pathlib.Path(directory), *folders):
        for path in folder.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(path.name):
                remove(path)


_SUFFIXES = ("json", "npz", "parquet", *FIGURE_FORMATS)
_TEMPORARY = re.compile(rf"\..+\.({'|'.join(_SUFFIXES)})\.\d+\.tmp")


def write(
    directory: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
    cells: Iterable[Cell],
) -> None:
    """Writes all files of a run; equal arguments give equal bytes.

    Raises:
      OSError: when something cannot be written.
    """
    cells = list(cells)
    summary = frames_lib.summary_frame(cells)
    tables = {
        "rounds.parquet": parquet(frames_lib.rounds_frame(cells)),
        "clients.parquet": parquet(frames_lib.clients_frame(cells)),
        "summary.parquet": parquet(summary),
    }
    documents = {
        "config.json": document(config),
        "environment.json": document({**environment, "tables": digests(tables)}),
        "timing.json": document(timing),
        "summary.json": document(frames_lib.fairness_table(summary).to_dicts()),
    }
    write_files(directory, documents | tables)


def write_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files by name, all of them or none.

    Every file is written under a temporary name first, so that a file is there whole or not at all,
    and nothing is replaced before everything could be written.

    Raises:
      ValueError: a name leads out of the directory.
      OSError: when something cannot be written.
    """
    to = {files.inside(directory, name): content for name, content in contents.items()}
    temporary = {file: file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in to}
    with writing(directory):
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
        try:
            tidy(directory)  # also: nothing is written through a link
            for file, content in to.items():
                temporary[file].write_bytes(content)
            for file in to:
                os.replace(temporary[file], file)
        except BaseException:
            for file in temporary.values():
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            raise


def parquet(frame: pl.DataFrame) -> bytes:
    """A parquet file; equal frames give equal bytes."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    return content.getvalue()


def digests(tables: Mapping[str, bytes]) -> dict[str, str]:
    """What environment.json says of tables, see `read_parquet`."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}


def document(value: Any) -> bytes:
    """Strict JSON, sealed where it holds names (see `files.sealed`); equal values, equal bytes."""
    value = _plain(value)
    return json_text(files.sealed(value) if isinstance(value, dict) else value).encode()


def json_text(value: Any) -> str:
    """Strict JSON, the same for equal values."""
    text = json.dumps(_plain(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def _plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts; "inf" for infinity, None for NaN."""
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value))
    if isinstance(value, str):  # what is no Unicode, of a variable say, is no JSON either
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def read(directory: Path) -> Run:
    """A run directory as it was written.

    Raises:
      ValueError: when it is no run directory, or a file is missing or damaged.
    """
    directory = files.path_of(directory, "the run's directory")
    missing = [name for name in FILES if not is_there(directory, name)]
    if len(missing) == len(FILES):
        kind = files.kind(directory)
        what = {"folder": f"it holds none of {', '.join(FILES)}", "nothing": "it is not there"}
        raise ValueError(f"{directory} is no run directory: {what.get(kind, 'it is a file')}")
    if missing:
        on = "" if FILES[0] in missing else f": `{resuming(directory)}` goes on"
        raise ValueError(f"the run in {directory} lacks {', '.join(missing)}{on}")
    # What an earlier version wrote has neither seals nor digests.
    sealed = "tables" in read_json(directory, "environment.json")
    documents = [read_json(directory, f"{name}.json", sealed) for name in JSON_FILES]
    columns = (frames_lib.ROUND_COLUMNS, frames_lib.CLIENT_COLUMNS, frames_lib.SUMMARY_COLUMNS)
    frames = (
        read_parquet(directory, f"{name}.parquet", expected, documents[1])
        for name, expected in zip(PARQUET_FILES, columns, strict=True)
    )
    run = Run(*documents, *frames, directory)
    _must_agree(run)
    return run


def _must_agree(run: Run) -> None:
    """The three tables are of the same cells, and two of them of the same clients.

    Raises:
      ValueError: when one of them comes from another run.
    """
    tables = {name: getattr(run, name) for name in PARQUET_FILES}
    for keys, names in (
        (frames_lib.KEYS, PARQUET_FILES),
        ((*frames_lib.KEYS, "client"), ("rounds", "clients")),
    ):
        first, *others = (set(tables[name].select(*keys).unique().iter_rows()) for name in names)
        if any(other != first for other in others):
            raise ValueError(
                f"the run in {run.directory} cannot be read: {', '.join(names)} are not of the "
                f"same {', '.join(keys)}"
            )


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
) -> pl.DataFrame:
    """A table that has the columns.

    Args:
      directory: of a run or a sweep.
      name: of the file.
      columns: what must be there; of those of a run the types are known.
      environment: what environment.json holds: of what was written by this version, digests.

    Raises:
      ValueError: when it cannot be read, or is another one.
    """
    known = (environment or {}).get("tables")
    digest = known.get(name) if isinstance(known, dict) else None
    file = files.inside(directory, name)
    frame = files.read_table(
        file, [name for name in columns if name not in frames_lib.LATER], digest
    )
    lacking = [name for name in columns if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)
    with files.reading(file):
        for column in map(frame.get_column, columns):
            _must_hold(column)
    return frame


def _must_hold(column: pl.Series) -> None:
    """Refuses values that no column of this name has."""
    name, text = column.name, column.name in frames_lib.TEXTS
    # A column that nobody has a value of has no type; keys are what rows are found by.
    truths = name in ("present", "broken", "best") and column.dtype == pl.Boolean
    fits = column.dtype == pl.String if text else column.dtype.is_numeric() or truths
    if not fits and len(column):  # a table without rows has no types
        raise ValueError(f"{name} holds {column.dtype}, not {'text' if text else 'numbers'}")
    if name in (*frames_lib.KEYS, "client", "round") and column.null_count():
        raise ValueError(f"{name} is unknown in some rows")
    if column.dtype.is_float() and not column.drop_nulls().is_finite().all():
        raise ValueError(f"{name} is not finite in some rows")
    if name in ("partition", "method"):
        for value in column.unique():
            if not value.isprintable() or len(value) > LONGEST:
                raise ValueError(f"a {name} is named {value[:80]!r}, which is no name")
