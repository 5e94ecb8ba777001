"""Paths from words, files of strangers, and our own.

A stranger's file is read in bounded time and memory, or refused by name; ours are written whole or
not at all.

What lies in a file may be cut short, damaged, another kind of file altogether, or made to do harm:
a FIFO, a nest of 100,000, a header that claims terabytes. Whatever it is, reading it ends in a
value or in one `ValueError` that names the file. Documents are sealed with a digest of their
content, and of tables a digest stands elsewhere, so that no flipped bit becomes a result.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import re
import resource
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Path = str | os.PathLike[str]

SEAL = "sha256"  # the key of a document that holds the digest of the others
MOST_TEXT = 1 << 28  # bytes of a document
DEEPEST = 100  # lists within lists of a document
MOST = 1 << 33  # bytes that arrays or a table may take in memory
_LONGEST = 300  # characters of a foreign error that are repeated


# ---------------------------------------------------------------- paths


def path_of(word: Any, what: str) -> pathlib.Path:
    """The path that somebody wrote, `~` expanded.

    Args:
      word: a string or a path.
      what: how it is called in the refusal, for instance "--out".

    Raises:
      ValueError: it names nothing that could be a file or a folder.
    """

    def refusal(reason: str) -> ValueError:
        return ValueError(f"{what} is {word!r:.160}, {reason}")

    try:
        name = os.fspath(word)
    except TypeError:
        raise refusal("it must be a path") from None
    # A name of other bytes than UTF-8 could be opened, but not said in a sentence or in a config.
    if not isinstance(name, str) or not name or "\0" in name or not _is_utf8(name):
        raise refusal("it must be the name of a file or a folder")
    if max(map(len, name.encode().split(b"/"))) > 255:  # whatever is there of what leads to it
        raise refusal("a name in it is too long")
    try:
        path = pathlib.Path(name).expanduser()
        kind(path)
    except (OSError, RuntimeError) as error:  # expanduser: RuntimeError where there is no home
        raise refusal(f"which cannot be used: {reason_of(error)}") from error
    return path


def cache_folder() -> pathlib.Path:
    """CGSV_CACHE_DIR, or `cgsv_jax` in XDG_CACHE_HOME, or ~/.cache/cgsv_jax.

    Raises:
      ValueError: it can be no folder.
    """
    if chosen := os.environ.get("CGSV_CACHE_DIR"):
        return path_of(chosen, "CGSV_CACHE_DIR")
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return path_of(above, "the cache folder") / "cgsv_jax"


def _is_utf8(name: str) -> bool:
    return name == name.encode(errors="replace").decode()


def kind(path: pathlib.Path) -> str:
    """`"file"`, `"folder"`, `"other"` (a FIFO, a device, a socket) or `"nothing"`, links followed.

    Raises:
      OSError: nobody can say, since a name is too long or a folder may not be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def inside(directory: Path, *names: str) -> pathlib.Path:
    """The path of a file below a directory that a stranger may have made; it need not be there.

    Raises:
      ValueError: a name leads elsewhere, by what it says or because it is a symbolic link.
    """
    path = pathlib.Path(directory)
    for name in names:
        plain = name.isprintable() and not set(name) & set("/\\:\0") and name not in ("", ".", "..")
        if not plain or len(name.encode()) > 255:
            raise ValueError(f"{name[:80]!r} is no name for a file in {directory}")
        path /= name
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link, it must not lead elsewhere")
    return path


# ---------------------------------------------------------------- reading


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Any error in the body, whoever raised it, as one sentence with the file's name.

    Raises:
      ValueError: in place of every error but one of these.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # A library that was written in another language panics with a BaseException.
    except BaseException as error:
        raise ValueError(f"{os.fspath(file)} cannot be read: {reason_of(error)}") from error


@contextlib.contextmanager
def naming(file: Path | None) -> Iterator[None]:
    """What is wrong with what a file says, in the body, with the file's name before every line.

    Raises:
      ValueError: in place of another one; where there is no file, that one.
    """
    try:
        yield
    except ValueError as error:
        if file is None:
            raise
        lines = str(error).splitlines()
        raise ValueError("\n".join(f"{os.fspath(file)}: {line}" for line in lines)) from error


def reason_of(error: BaseException) -> str:
    """The first line of an error; a system's error without the path, which is said already."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit in the memory"
    line = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
    return line[:_LONGEST] or type(error).__name__


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """A regular file, for reading; nothing else is opened, since it might never answer.

    Raises:
      OSError: it is not there, or cannot be read.
      ValueError: it is no regular file.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise ValueError(f"it is {what}")
        yield stream


def read_bytes(file: Path, most: int = MOST_TEXT) -> bytes:
    """All of a file of at most so many bytes.

    Raises:
      ValueError: it cannot be read, or is larger.
    """
    with reading(file), opened(file) as stream:
        content = stream.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it is larger than {most:,} bytes")
        return content


def read_text(file: Path) -> str:
    """A file of UTF-8, with or without a byte order mark.

    Raises:
      ValueError: it cannot be read, or is something else.
    """
    content = read_bytes(file)
    with reading(file):
        return content.decode("utf-8-sig")


def read_numbers(file: Path) -> list[list[int]]:
    """A line per list of whole numbers from 0, between commas; an empty line is an empty list.

    Raises:
      ValueError: it cannot be read, or holds something else.
    """
    lines = read_text(file).replace("\r\n", "\n").removesuffix("\n").split("\n")
    with reading(file):
        for number, line in enumerate(lines, 1):
            if not _NUMBERS.fullmatch(line):
                raise ValueError(f"line {number} must hold whole numbers between commas")
        return [[int(word) for word in line.split(",") if word.strip()] for line in lines]


_NUMBERS = re.compile(r"[0-9, \t]*")  # int() alone takes digits of every alphabet


def read_json(
    file: Path,
    schema: Any = dict[str, Any],
    edited: Callable[[str], None] | None = None,
    must_be_sealed: bool = False,
) -> Any:
    """A document that holds what the schema says; its seal, if it has one, is broken or taken off.

    Args:
      file: which.
      schema: a type as msgspec knows them, for instance `dict[str, Any]` or a NamedTuple.
      edited: told, in a sentence, that somebody changed the document; None: it is refused.
      must_be_sealed: a document without a seal is one that was changed.

    Raises:
      ValueError: it cannot be read, holds a name twice, a number or a text that is none, or
        something else.
    """
    text = read_text(file)
    with reading(file):
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        _not_too_deep(value)
        if "\\ud" in text.lower():  # half a character, which could neither be said nor written
            json.dumps(value, ensure_ascii=False).encode()
        sealed = isinstance(value, dict) and (must_be_sealed or SEAL in value)
        if sealed and value.pop(SEAL, None) != digest_of(value):
            if edited is None:
                raise ValueError("it was changed or damaged since it was written")
            edited(f"{os.fspath(file)} was changed since it was written")
        return judged(value, schema)


def read_toml(file: Path) -> dict[str, Any]:
    """A document of names and values that a person wrote.

    Raises:
      ValueError: it cannot be read, or is something else.
    """
    import tomllib

    text = read_text(file)
    with reading(file):
        return tomllib.loads(text)


def judged(value: Any, schema: Any) -> Any:
    """A value of JSON as what a schema says.

    Raises:
      ValueError: where it is something else.
    """
    import msgspec

    try:
        return msgspec.convert(value, schema)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("Expected", "it must hold", 1)) from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds the name {twice!r} twice")
    return value


def _not_too_deep(value: Any) -> None:
    """Whoever looks at a document calls itself at every level of it."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise RecursionError


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def read_arrays(file: Path, most: int = MOST) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name, or the one of a .npy file as `""`; never objects.

    Every header is held against what the file has before memory is taken.

    Raises:
      ValueError: it is neither, is damaged, or claims more than it has or than `most` bytes.
    """
    with reading(file), opened(file) as stream:
        if stream.read(4) != b"PK\x03\x04":
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            return {"": _array(stream, size, most)}
        arrays: dict[str, np.ndarray] = {}
        stream.seek(-22, io.SEEK_END)
        count = int.from_bytes(stream.read(22)[10:12], "little")  # in a record that ends the file
        with zipfile.ZipFile(stream) as archive:
            # One flipped bit of the length of a comment makes the next members a part of it.
            if len(archive.infolist()) != count:
                raise ValueError(f"it says that it holds {count} arrays, it shows others")
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"it holds {name!r} twice")
                left = most - sum(x.nbytes for x in arrays.values())
                with archive.open(member) as part:
                    arrays[name] = _array(part, member.file_size, left)
        return arrays


def _array(stream: Any, size: int, most: int) -> np.ndarray:
    """The array that a stream of so many bytes holds, and nothing else."""
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"it is an array file of version {version}, 1.0 and 2.0 are read")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds objects, it must hold numbers or strings")
    needed = math.prod(shape) * dtype.itemsize
    if needed > most:
        raise ValueError(f"it claims {needed:,} bytes, at most {most:,} are read")
    if needed != size - stream.tell():
        raise ValueError(f"its header claims {needed:,} bytes, it has {size - stream.tell():,}")
    content = stream.read()  # to its end, where an archive checks what it has read
    order = "F" if fortran else "C"
    return np.frombuffer(content, dtype).reshape(shape, order=order).copy()


def read_table(
    file: Path, columns: Sequence[str] = (), digest: str | None = None, most: int = MOST
) -> Any:
    """A parquet file as a polars frame that has these columns, among others.

    Args:
      file: which.
      columns: what it must have.
      digest: of its bytes, if it is known; then nothing is decoded of a file that has another.
      most: bytes that it may take in memory.

    Raises:
      ValueError: it cannot be read, is another file, lacks a column, or is larger.
    """
    import polars as pl

    content = read_bytes(file, most)
    with reading(file):
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("it was changed or damaged since it was written")
        has = pl.read_parquet_schema(io.BytesIO(content))
        if lacking := [name for name in columns if name not in has]:
            raise ValueError(f"it lacks the column {', '.join(lacking)}")
        rows = pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item()
        if 8 * rows * len(has) > most:
            raise ValueError(f"it claims {rows:,} rows of {len(has)} columns")
        return pl.read_parquet(io.BytesIO(content))


def host_memory() -> int:
    """Bytes of this machine, or of the container in it."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError):  # it is not there, or holds "max"
            there = min(there, int(read_text(file)))
    return there


def peak_memory() -> int:
    """Most bytes that this process ever had in use.

    Where the system says it of this process alone (Linux): in `ru_maxrss` the peak of whoever
    started the process counts as well.
    """
    with contextlib.suppress(ValueError, IndexError):
        return 1024 * int(read_text("/proc/self/status").partition("VmHWM:")[2].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Any error of the system in the body, as a sentence with the directory's name.

    Raises:
      OSError: in place of another one.
    """
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        raise OSError(f"{os.fspath(directory)} cannot be written to: {reason}") from error


def write_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files by name, all of them or none.

    Every file is written under a temporary name first, so that a file is there whole or not at all,
    and nothing is replaced before everything could be written.

    Raises:
      ValueError: a name leads out of the directory.
      OSError: when something cannot be written.
    """
    to = {inside(directory, name): content for name, content in contents.items()}
    temporary = {file: file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in to}
    with writing(directory):
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
        try:
            remove_half_written(directory)  # also: nothing is written through a link
            for file, content in to.items():
                temporary[file].write_bytes(content)
            for file in to:
                os.replace(temporary[file], file)
        except BaseException:
            for file in temporary.values():
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            raise


def remove_half_written(directory: Path) -> None:
    """Removes what a process that was killed in `write_files` has left."""
    for path in pathlib.Path(directory).glob(".*.tmp"):
        if _HALF_WRITTEN.fullmatch(path.name):
            remove(path)


_HALF_WRITTEN = re.compile(r"\..+\.(json|npz|parquet|png|pdf|svg|html?|safetensors)\.\d+\.tmp")


def remove(path: Path) -> None:
    """A file, a link (not what it leads to) or a folder with all that is in it."""
    path = pathlib.Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def document(value: Any) -> bytes:
    """Strict JSON, sealed where it holds names (see `sealed`); equal values, equal bytes."""
    value = _plain(value)
    return json_text(sealed(value) if isinstance(value, dict) else value).encode()


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
    if isinstance(value, np.ndarray | np.generic):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value))
    if isinstance(value, str):  # what is no Unicode, of a variable say, is no JSON either
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


# ---------------------------------------------------------------- digests


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, the same however it is written."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(file: Path) -> str:
    """SHA-256 of a file's bytes, streamed.

    Raises:
      ValueError: it cannot be read.
    """
    with reading(file), opened(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_arrays(arrays: Sequence[Any]) -> str:
    """SHA-256 of arrays: types, shapes and every bit, in this order."""
    digest = hashlib.sha256()
    for x in map(np.asarray, arrays):
        digest.update(f"{x.dtype.str}{x.shape}".encode())
        digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A document with the digest of its content, which `read_json` verifies and takes off."""
    return {**value, SEAL: digest_of(value)}
