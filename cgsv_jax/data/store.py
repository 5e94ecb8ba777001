"""TFDS data sets on disk: where they lie, reading them without TensorFlow, caching, preparing.

TFDS decodes one example at a time, seconds for a whole set, so the decoded arrays are kept in the
user's cache folder. The data folder itself is only ever read.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cgsv_jax.data import builders

CACHE_FORMAT = 1  # raise when what the cached arrays mean changes
VERSION = re.compile(r"\d+\.\d+\.\d+")
Path = str | os.PathLike[str]


class Prepared(NamedTuple):
    """A data set that is there: everything that tells one copy from another."""

    name: str
    version: str
    folder: pathlib.Path  # <data_dir>/<name>/<version>
    num_rows: dict[str, int]  # of each split


def data_folder(data_dir: Path | None = None) -> pathlib.Path:
    """The folder that holds the data sets: the argument, TFDS_DATA_DIR, or TFDS's default."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser().resolve()


def find(name: str, data_dir: Path | None = None) -> Prepared:
    """The newest prepared version of a data set.

    Raises:
      ValueError: if it is not there, or its metadata or a file is missing.
    """
    root = data_folder(data_dir)
    versions = [
        path.name
        for path in (root / name).glob("*")  # of a folder that is not there: nothing
        if path.is_dir() and VERSION.fullmatch(path.name)
    ]
    if not versions:
        raise ValueError(
            f"{name} is not in {root}: run `{_command(name, root)}` (needs {_needs(name)}), or "
            "name the folder that holds it with --data-dir or TFDS_DATA_DIR"
        )
    version = max(versions, key=lambda version: [int(part) for part in version.split(".")])
    folder = root / name / version
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        json.loads((folder / "features.json").read_text())
        num_rows = {
            split["name"]: sum(int(length) for length in split["shardLengths"])
            for split in info["splits"]
        }
        file_format = info.get("fileFormat", "tfrecord")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(_damaged(name, folder, f"its metadata cannot be read: {error}")) from error
    if file_format != "array_record":
        raise ValueError(
            f"{name} in {folder} is stored as {file_format}, which only TensorFlow reads: prepare "
            f"it as array_record with `{_command(name, root)}` in another folder"
        )
    for split in info["splits"]:
        shards = len(split["shardLengths"])
        found = len(list(folder.glob(f"{name}-{split['name']}.array_record-*-of-{shards:05d}")))
        if found != shards:
            missing = f"{found} of the {shards} files of split {split['name']} are there"
            raise ValueError(_damaged(name, folder, missing))
    return Prepared(name, version, folder, num_rows)


def read(prepared: Prepared, split: str) -> list[dict[str, Any]]:
    """Every example of a split, decoded, in TFDS's order.

    Raises:
      ValueError: if the files are truncated or hold fewer examples than their metadata says.
    """
    import tensorflow_datasets as tfds

    name, version, folder, _ = prepared
    try:
        with _quiet():
            source = tfds.data_source(
                f"{name}:{version}", data_dir=folder.parents[1], split=split, download=False
            )
            return source.__getitems__(range(len(source)))
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # array_record raises RuntimeError, TFDS a dozen others
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            _damaged(name, folder, f"split {split} cannot be read: {reason}")
        ) from error


def cached(
    prepared: Prepared, names: Iterable[str], build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays `names` of `build`, from the cache where it holds those of these very files.

    The cache is a convenience: one that is damaged is rebuilt, one that cannot be written is
    ignored.
    """
    path = cache_folder() / f"{prepared.name}-{prepared.version}-{_fingerprint(prepared)}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        pass
    arrays = build()
    for name, array in arrays.items():
        if array.dtype.hasobject:  # a file of them would be a pickle
            raise ValueError(f"{prepared.name}: {name} holds objects, it must be numbers or bytes")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, **arrays)
                file.close()
                os.replace(file.name, path)  # a reader sees the old file or the whole new one
            except BaseException:
                pathlib.Path(file.name).unlink(missing_ok=True)
                raise
    return arrays


def labelled(
    prepared: Prepared,
    feature: str,
    splits: Iterable[str],
    stack: Callable[[list[Any]], np.ndarray],
) -> dict[str, np.ndarray]:
    """`<split>_<feature>s` [n, ...] and `<split>_labels` int32 [n] of every split, cached.

    Args:
      prepared: the set.
      feature: which one the labels are of.
      splits: which of the set's.
      stack: the feature of all examples as one array.

    Raises:
      ValueError: if a split is absent or empty, or cannot be read.
    """
    splits = tuple(splits)

    def build() -> dict[str, np.ndarray]:
        arrays = {}
        for split in splits:
            if not prepared.num_rows.get(split):
                raise ValueError(
                    f"{prepared.name} in {prepared.folder} has no rows in split {split}"
                )
            examples = read(prepared, split)
            arrays[f"{split}_{feature}s"] = stack([example[feature] for example in examples])
            labels = [example["label"] for example in examples]
            arrays[f"{split}_labels"] = np.array(labels, np.int32)
        return arrays

    names = [f"{split}_{part}" for split in splits for part in (f"{feature}s", "labels")]
    return cached(prepared, names, build)


def cache_folder() -> pathlib.Path:
    """CGSV_CACHE_DIR, or `cgsv_jax` in XDG_CACHE_HOME, or ~/.cache/cgsv_jax."""
    if chosen := os.environ.get("CGSV_CACHE_DIR"):
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cgsv_jax"


def prepare(name: str, data_dir: Path | None = None, archive: Path | None = None) -> pathlib.Path:
    """Download a data set and write it as array_record files; TFDS's own sets need TensorFlow.

    Args:
      name: of the set.
      data_dir: where to write.
      archive: a local copy of what would be downloaded, for the sets of `builders.ARCHIVES`.

    Returns:
      The folder of the prepared version.

    Raises:
      ValueError: if the download fails, the archive is another one, or TensorFlow is needed and
        not installed.
    """
    root = data_folder(data_dir)
    given = None if archive is None else builders.examples(name, pathlib.Path(archive))
    try:
        with _quiet():
            if name in builders.ARCHIVES:
                builder = builders.builder(name, root, given)
            else:
                import tensorflow  # noqa: F401  (asked for before anything is downloaded)
                import tensorflow_datasets as tfds

                builder = tfds.builder(name, data_dir=root, file_format="array_record")
            builder.download_and_prepare()
    except ImportError as error:
        raise ValueError(
            f"preparing {name} needs TensorFlow and what TFDS uses with it, but {error.name} is "
            "not installed: run `pip install cgsv_jax[prepare]` (reading a prepared set does not "
            "need it)"
        ) from error
    except Exception as error:  # of the network, of the disk, or of TFDS's own checks
        reason = (str(error).splitlines() or [""])[0]
        need = "a writable folder" if archive else "a network and a writable folder"
        raise ValueError(
            f"{name} could not be prepared in {root} (needs {need}): "
            f"{type(error).__name__}: {reason}"
        ) from error
    return find(name, root).folder


def _fingerprint(prepared: Prepared) -> str:
    files = sorted(path for path in prepared.folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = json.dumps([CACHE_FORMAT, prepared.name, str(prepared.folder), stats])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _damaged(name: str, folder: pathlib.Path, reason: str) -> str:
    return (
        f"{name} in {folder} is incomplete or damaged ({reason}): delete that folder and run "
        f"`{_command(name, folder.parents[1])}`"
    )


def _needs(name: str) -> str:
    if name in builders.ARCHIVES:
        return f"a network, or --archive with a copy of {builders.ARCHIVES[name].url}"
    return "TensorFlow, `pip install cgsv_jax[prepare]`, and a network"


def _command(name: str, root: pathlib.Path) -> str:
    return f"cgsv data prepare {name} --data-dir {root}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's advice on OpenCV and its progress lines; errors still show."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
