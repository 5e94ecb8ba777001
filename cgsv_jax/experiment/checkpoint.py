"""What a run has computed so far, on disk: saved whole or not at all, verified before it is used.

A run directory's folder `checkpoint` holds the last two, folders named by the rounds computed:

| file | holds |
|---|---|
| manifest.json | which experiment, versions and device; where the runs stand; every array's name, \
shape, type and digest; every file's size and digest; sealed, see files.py |
| arrays/ | the arrays, by orbax: the state and what was seen, numbered as in the manifest |

Orbax restores what it finds: a bit flipped in a float is a float. So the manifest is read first,
the files are held against it before orbax sees them, and the arrays after. Nothing is a pickle.
A manifest is no secret: whoever wrote it, it holds what `_schema` says, and of no size that these
runs do not have.

Orbax's CheckpointManager does not rotate them: it counts whatever has a step's name, so that
damaged checkpoints and folders of others push out the sound one before; digests of the files that
it writes cannot be a part of what it commits; and where the disk is full it leaves half of a
checkpoint there, and prints what its threads think.
"""

import contextlib
import errno
import functools
import json
import logging
import math
import os
import pathlib
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment.execute import Clock, Keeper, Kept, Place
from cgsv_jax.host import files
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import environment as environment_lib

FORMAT = 4  # raise when a manifest or the arrays mean something else
KIND = "cgsv_jax checkpoint"
MANIFEST, ARRAYS = "manifest.json", "arrays"
KEEP = 2
SPARE = 1 << 20  # bytes beside the arrays
FILES_OF_ONE = 1 << 16  # bytes that orbax writes of an array, beside what is in it
PIECE = 1 << 24  # bytes that orbax encodes at once; an array whole would be in memory once more
SECONDS = 60.0  # between two checkpoints where nobody says how many rounds
MIN_INTERVAL_RATIO = 9.0  # of that interval to what the last save took: ~10 % of the time at most


class Checkpoints(NamedTuple):
    """Those of one run directory, for one process."""

    keeper: Keeper
    latest: Callable[[], int | None]  # rounds computed in the last good one
    earlier: Callable[[], list[Any]]  # other environments that computed a part of the run
    remove: Callable[[], None]  # when the results are written


def begun_with(directory: directory_lib.Path) -> dict[str, Any] | None:
    """The identity in the newest checkpoint whose manifest is whole; None where there is none."""
    for path in reversed(directory_lib.checkpoints(directory)):
        try:
            return read_manifest(path)["identity"]
        except ValueError:
            continue
    return None


def of_run(
    directory: directory_lib.Path,
    identity: Callable[[], Mapping[str, Any]],
    every: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = lambda sentence: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Checkpoints:
    """The checkpoints of a run directory, which this process must hold (see `directory.held`).

    Args:
      directory: the run directory.
      identity: all that decides what is computed, as JSON; called when it is first needed.
      every: rounds that may be lost at most; None: about a minute.
      stop: whether to stop after the segment that runs.
      warn: called with a warning message.
      say: called with a message.
    """
    good: list[pathlib.Path] = []  # the oldest first
    earlier: list[Any] = []
    known: dict[str, Any] = {}
    last = {"time": time.monotonic(), "cost": 0.0, "done": 0}
    failure = [""]

    def fixed() -> dict[str, Any]:
        """What every manifest of this process says."""
        if not known:
            # Once through JSON, so that it equals what is read.
            found = {"identity": identity(), "environment": environment_lib.environment()}
            known.update(json.loads(json.dumps(found)))
        return known

    def restore(plan: Any, expect: Callable[[Place], tuple]) -> Kept | None:
        folder = pathlib.Path(directory) / directory_lib.CHECKPOINT
        try:
            with files.reading(folder):
                files.inside(directory, directory_lib.CHECKPOINT)
                for path in directory_lib.checkpoints(directory, temporary=True):
                    if path.name.startswith("."):
                        files.remove(path)
                found = directory_lib.checkpoints(directory)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        reasons = []
        for path in reversed(found):
            try:
                manifest = read_manifest(path)
                _verify(manifest, fixed(), plan)
                kept = read(path, manifest, expect)
            except ConfigError:  # of the run, not of this checkpoint
                raise
            except ValueError as error:
                reasons.append(f"{path} is refused: {error}")
                continue
            for reason in reasons:
                warn(reason)
            good.append(path)
            last.update(time=time.monotonic(), done=manifest["done"])
            for other in [*manifest["earlier"], manifest["environment"]]:
                if other != fixed()["environment"] and other not in earlier:
                    earlier.append(other)
            if manifest["environment"] != fixed()["environment"]:
                differs = _differences(manifest["environment"], fixed()["environment"])
                warn(f"{path} was saved elsewhere, so that the last bits may differ: {differs}")
            say(f"going on after {manifest['done']:,} of {_total(plan):,} rounds")
            return kept
        if reasons:
            reasons.append(f"nothing is left to go on from; without {folder} it begins at round 0")
            raise ConfigError("\n".join(reasons))
        return None

    def due(done: int, ahead: int) -> bool:
        if every is not None:
            return done > last["done"] and (not ahead or done + ahead - last["done"] > every)
        return time.monotonic() - last["time"] >= max(SECONDS, MIN_INTERVAL_RATIO * last["cost"])

    def save(plan: Any, done: int, kept: Kept) -> None:
        started = time.monotonic()
        try:
            path = write(directory, plan, done, kept, fixed() | {"earlier": earlier})
        except Exception as error:  # orbax passes on what its threads and tensorstore raise
            have = f"the last good one holds {last['done']:,}" if good else "there is none yet"
            reason = files.reason_of(error)
            text = f"the checkpoint of {done:,} rounds cannot be saved ({reason}); {have}"
            if reason != failure[0]:  # not the same sentence after every round
                warn(f"{text}. The run goes on, and tries again.")
            failure[0] = reason
            last["time"] = time.monotonic()
            return
        if failure[0]:
            warn(f"the checkpoint of {done:,} rounds is saved")
            failure[0] = ""
        good.append(path)
        now = time.monotonic()
        last.update(time=now, cost=now - started, done=done)
        del good[:-KEEP]
        for old in directory_lib.checkpoints(directory):
            if old not in good:  # those that were refused, too
                with contextlib.suppress(OSError):
                    files.remove(old)

    return Checkpoints(
        Keeper(restore, due, save, stop),
        lambda: last["done"] if good else None,
        lambda: list(earlier),
        lambda: directory_lib.remove_checkpoints(directory),
    )


def _total(plan: Any) -> int:
    return sum(len(own["chunks"]) * sum(n for n, *_ in own["segments"]) for own in plan)


# ---------------------------------------------------------------- writing


def write(
    directory: directory_lib.Path, plan: Any, done: int, kept: Kept, fixed: Mapping[str, Any]
) -> pathlib.Path:
    """Writes a checkpoint: under another name first, so that it is there whole or not at all.

    Args:
      directory: the run directory.
      plan: of the batches (see `execute.plan`).
      done: rounds computed.
      kept: what to keep.
      fixed: what the manifest says besides: `identity`, `environment`, `earlier`.

    Returns:
      Its folder.

    Raises:
      Exception: whatever orbax, or the system, says; nothing is left behind.
    """
    folder = files.inside(directory, directory_lib.CHECKPOINT)
    path = folder / f"{done:012d}"
    temporary = folder / f".{path.name}.tmp"
    leaves, _ = jax.tree.flatten_with_path({"state": kept.state, "seen": kept.seen})
    arrays = [np.asarray(x) for _, x in leaves]
    try:
        folder.mkdir(exist_ok=True)
        files.remove(temporary)
        temporary.mkdir()
        _reserve(temporary / "room", sum(x.nbytes for x in arrays) + SPARE)
        _put(temporary / ARRAYS, {_number(i): x for i, x in enumerate(arrays) if x.size})
        manifest = {
            "kind": KIND,
            "format": FORMAT,
            **fixed,
            "plan": files.digest_of(plan),
            "done": done,
            "place": list(kept.place),
            "clocks": [list(clock) for clock in kept.clocks],
            "arrays": [
                _described(jax.tree_util.keystr(name), x)
                for (name, _), x in zip(leaves, arrays, strict=True)
            ],
            "files": _files(temporary),
        }
        text = json.dumps(files.sealed(manifest), indent=1, sort_keys=True)
        with (temporary / MANIFEST).open("x", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        files.remove(path)  # one that was refused, and is computed again
        temporary.rename(path)
        _sync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(temporary)
        raise
    return path


def _reserve(path: pathlib.Path, size: int) -> None:
    """Finds out whether there is room for so many bytes, which costs no writing.

    Orbax would find out too, in many threads that go on for a while and print what they think.

    Raises:
      OSError: there is none.
    """
    try:
        with path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:  # a system that cannot say
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    finally:
        path.unlink(missing_ok=True)


def _described(name: str, x: np.ndarray) -> dict[str, Any]:
    digest = files.digest_of_arrays([x])
    return {"name": name, "shape": list(x.shape), "dtype": x.dtype.name, "sha256": digest}


def _number(index: int) -> str:
    """The name of an array for orbax: what is in the state names no file."""
    return f"{index:06d}"


def _files(path: pathlib.Path, most: float = math.inf) -> dict[str, Any]:
    """Size and digest of every file of a checkpoint's arrays.

    Args:
      path: the checkpoint's folder.
      most: bytes in all, of more nothing is read.

    Raises:
      ValueError: there is something else than files and folders, or more.
    """
    top, sizes = files.inside(path, ARRAYS), {}
    for root, folders, names in os.walk(top):
        for name in [*folders, *names]:
            own = pathlib.Path(root) / name
            kind = "link" if own.is_symlink() else files.kind(own)
            if kind not in ("file", "folder"):
                raise ValueError(f"{own.relative_to(top)} is neither a file nor a folder")
            if kind == "file":
                sizes[own.relative_to(top).as_posix()] = own.stat().st_size
    if sum(sizes.values()) > most:
        raise ValueError(f"its {ARRAYS} hold {sum(sizes.values()):,} bytes, at most {most:,}")
    return {name: [sizes[name], files.digest_of_file(top / name)] for name in sorted(sizes)}


def _sync(folder: pathlib.Path) -> None:
    """The names in a folder, onto the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------- reading


def read_manifest(path: pathlib.Path) -> dict[str, Any]:
    """The manifest of a checkpoint, whole and of this format.

    Raises:
      ValueError: why it is none.
    """
    file = files.inside(path.parent, path.name, MANIFEST)
    manifest = files.read_json(file, must_be_sealed=True)
    if manifest.get("kind") != KIND:
        raise ValueError(f"its {MANIFEST} is not that of a {KIND}")
    if manifest.get("format") != FORMAT:
        there = _SHORT.repr(manifest.get("format"))
        raise ValueError(f"it has format {there}, this version reads {FORMAT}")
    with files.reading(file):
        files.judged(manifest, _schema())
    return manifest


@functools.cache
def _schema() -> Any:
    """What a manifest holds."""
    import msgspec

    count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    place = Annotated[list[count], msgspec.Meta(min_length=3, max_length=3)]
    clock = Annotated[list[seconds], msgspec.Meta(min_length=3, max_length=3)]
    array = {"name": str, "shape": list[count], "dtype": str, "sha256": str}
    environment = msgspec.defstruct("environment", [("versions", dict[str, Any])])
    fields = {
        "kind": str,
        "format": int,
        "identity": dict[str, Any],
        "environment": environment,
        "earlier": list[dict[str, Any]],
        "plan": str,
        "done": count,
        "place": place,
        "clocks": list[clock],
        "arrays": list[msgspec.defstruct("array", array.items(), forbid_unknown_fields=True)],
        "files": dict[str, tuple[count, str]],
    }
    return msgspec.defstruct("manifest", fields.items(), forbid_unknown_fields=True)


def _verify(manifest: Mapping[str, Any], fixed: Mapping[str, Any], plan: Any) -> None:
    """Refuses a checkpoint of something else.

    Raises:
      ValueError: of what.
    """
    if manifest["identity"] != fixed["identity"]:
        differs = _differences(manifest["identity"], fixed["identity"])
        raise ValueError(f"it is of another experiment: {differs}")
    there, here = (x["environment"]["versions"].get("cgsv_jax") for x in (manifest, fixed))
    if there != here:
        there = _SHORT.repr(there)
        raise ValueError(f"it was saved by version {there} of cgsv_jax, this is {here!r}")
    if manifest["plan"] != files.digest_of(plan):
        raise ValueError(
            "its runs are grouped or cut otherwise: that follows from the device and its memory, "
            "so go on with it where it was begun"
        )


_SHORT = reprlib.Repr()  # what a stranger wrote, in a sentence
_SHORT.maxstring = _SHORT.maxother = 80


def _differences(there: Any, here: Any, most: int = 5) -> str:
    """The values in which two JSON documents differ, in words."""

    def pairs(name: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted({*a, *b}):
                yield from pairs(f"{name}.{key}" if name else key, a.get(key), b.get(key))
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for index, (x, y) in enumerate(zip(a, b, strict=True)):
                yield from pairs(f"{name}[{index}]", x, y)
        elif a != b:
            yield name, a, b

    found = [
        f"{name} is {_SHORT.repr(a)} there and {_SHORT.repr(b)} here"
        for name, a, b in pairs("", there, here)
    ]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def read(path: pathlib.Path, manifest: Mapping[str, Any], expect: Callable[[Place], tuple]) -> Kept:
    """What a checkpoint holds, every bit of it verified.

    Args:
      path: its folder.
      manifest: its manifest.
      expect: place -> (state, what was seen) as shapes, as in `execute.Keeper.restore`.

    Raises:
      ValueError: it is damaged, or not what is expected.
    """
    place = Place(*manifest["place"])
    wanted, structure = jax.tree.flatten_with_path(
        dict(zip(("state", "seen"), expect(place), strict=True))
    )
    if len(manifest["clocks"]) != place.batch + 1:
        raise ValueError(f"it has the seconds of {len(manifest['clocks'])} batches at {place}")
    entries = manifest["arrays"]
    _compare([(jax.tree_util.keystr(name), x) for name, x in wanted], entries)
    shapes = {_number(i): jax.ShapeDtypeStruct(x.shape, x.dtype) for i, (_, x) in enumerate(wanted)}
    most = sum(x.size * x.dtype.itemsize + FILES_OF_ONE for x in shapes.values()) + SPARE
    with files.reading(path / ARRAYS):
        found = _files(path, most)
    for name in sorted({*found, *manifest["files"]}):
        if name not in found:
            raise ValueError(f"its file {ARRAYS}/{name} is missing")
        if name not in manifest["files"]:
            raise ValueError(f"its file {ARRAYS}/{name} is not of it")
        if found[name] != manifest["files"][name]:
            raise ValueError(f"its file {ARRAYS}/{name} is damaged")
    full = {name: x for name, x in shapes.items() if x.size}
    with files.reading(path / ARRAYS):
        restored = _get(path / ARRAYS, full)
    arrays = [restored[n] if n in full else np.zeros(x.shape, x.dtype) for n, x in shapes.items()]
    for entry, x in zip(entries, arrays, strict=True):
        if _described(entry["name"], x) != entry:
            raise ValueError(f"its array {entry['name']} is damaged")
    whole = jax.tree.unflatten(structure, arrays)
    return Kept(place, whole["state"], whole["seen"], [Clock(*c) for c in manifest["clocks"]])


def _compare(wanted: Sequence[tuple[str, Any]], entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a tree of other arrays."""
    names, here = [entry["name"] for entry in entries], [name for name, _ in wanted]
    if names != here:
        odd = sorted({*names} ^ {*here}) or ["in another order"]
        odd = ", ".join(name[:200] for name in odd[:3])
        raise ValueError(f"it holds other arrays than these runs have: {odd}")
    for (name, x), entry in zip(wanted, entries, strict=True):
        there = f"{entry['dtype'][:80]} {entry['shape'][:80]}"
        here = f"{np.dtype(x.dtype).name} {list(x.shape)}"
        if there != here:
            raise ValueError(f"its array {name} is {there}, these runs have {here}")


# ---------------------------------------------------------------- orbax


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """The library, which takes seconds to load; what it logs of an error is in the error."""
    import orbax.checkpoint

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield orbax.checkpoint
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _put(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    with _orbax() as ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        pieces = {name: ocp.SaveArgs(chunk_byte_size=PIECE) for name in arrays}
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(dict(arrays), pieces))


def _get(path: pathlib.Path, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """The arrays of these names and shapes, if orbax has exactly those."""
    with _orbax() as ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        metadata = checkpointer.metadata(path.absolute()).item_metadata
        has = {name: tuple(x.shape) for name, x in getattr(metadata, "tree", metadata).items()}
        if has != {name: x.shape for name, x in shapes.items()}:
            raise ValueError("orbax has other arrays than the manifest")
        kinds = {
            name: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype)
            for name, x in shapes.items()
        }
        args = ocp.args.PyTreeRestore(item=dict(shapes), restore_args=kinds)
        return checkpointer.restore(path.absolute(), args=args)
