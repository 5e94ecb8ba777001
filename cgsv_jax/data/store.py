"""TFDS data sets on disk: where they lie, reading them without TensorFlow, caching, preparing.

Decoding takes seconds for a whole set, so the decoded arrays are kept in the user's cache folder.
The data folder itself is only ever read, and somebody else may have made it: of its metadata
nothing decides how its records are decoded, which `SETS` says, and nothing in it is imported.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shlex
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from cgsv_jax.data import builders
from cgsv_jax.host import files
from cgsv_jax.host.files import Path

CACHE_FORMAT = 1  # raise when what the cached arrays mean changes
VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)


class Stored(NamedTuple):
    """What a data set on disk holds, besides labels."""

    feature: str  # what a label is of: image or text
    splits: tuple[str, ...]
    shape: tuple[int, ...] = ()  # of an image, uint8


SETS = {
    "mnist": Stored("image", ("train", "test"), builders.MNIST_SHAPE),
    "cifar10": Stored("image", ("train", "test"), builders.CIFAR_SHAPE),
    "sst": Stored("text", ("train", "test", "validation")),
    "mr": Stored("text", ("train",)),
}


class Prepared(NamedTuple):
    """A data set that is there: everything that tells one copy from another."""

    name: str
    version: str
    folder: pathlib.Path  # <data_dir>/<name>/<version>
    shards: dict[str, list[int]]  # split -> examples in each of its files


class _Split(TypedDict):
    name: str
    shardLengths: list[int | str]  # TFDS writes them as strings


class _Info(TypedDict):
    splits: list[_Split]
    fileFormat: NotRequired[str]


class _Feature(TypedDict):
    pythonClassName: str
    featuresDict: NotRequired[dict[str, dict[str, "_Feature"]]]


# The classes of features, without the module that all of them are in.
_MODULE = "tensorflow_datasets.core.features."
_CLASSES = {
    "all": "features_dict.FeaturesDict",
    "image": "image_feature.Image",
    "text": "text_feature.Text",
    "label": "class_label_feature.ClassLabel",
}


def data_folder(data_dir: Path | None = None) -> pathlib.Path:
    """The folder that holds the data sets: the argument, TFDS_DATA_DIR, or TFDS's default.

    Raises:
      ValueError: it can be no folder.
    """
    word, what = "~/tensorflow_datasets", "the folder of the data sets"
    if chosen := os.environ.get("TFDS_DATA_DIR"):
        word, what = chosen, "TFDS_DATA_DIR"
    if data_dir:
        word, what = data_dir, "--data-dir"
    return files.path_of(word, what).resolve()


def find(name: str, data_dir: Path | None = None) -> Prepared:
    """The newest prepared version of a data set.

    Raises:
      ValueError: if it is not there, its metadata cannot be read or are another set's, or a file is
        missing.
    """
    root = data_folder(data_dir)
    versions = _versions(root / name)
    if not versions:
        raise ValueError(
            f"{name} is not in {root}: run `{_command(name, root)}` (needs {_needs(name)}), or "
            "name the folder that holds it with --data-dir or TFDS_DATA_DIR"
        )
    folder = root / name / versions[-1]
    with _whole(name, folder):
        info = files.read_json(folder / "dataset_info.json", _Info)
        features = files.read_json(folder / "features.json", _Feature)
    parts = {"all": features, **features.get("featuresDict", {}).get("features", {})}
    classes = {key: part["pythonClassName"].removeprefix(_MODULE) for key, part in parts.items()}
    needed = {key: _CLASSES[key] for key in ("all", SETS[name].feature, "label")}
    if not (needed.items() <= classes.items() and set(classes.values()) <= set(_CLASSES.values())):
        found, wanted = (", ".join(map(" ".join, x.items())) for x in (classes, needed))
        raise ValueError(
            f"{name} in {folder} has other features: {found:.300}; it must have {wanted}"
        )
    if (file_format := info.get("fileFormat", "tfrecord")) != "array_record":
        raise ValueError(
            f"{name} in {folder} is stored as {file_format:.40}, which only TensorFlow reads: "
            f"prepare it as array_record with `{_command(name, root)}` in another folder"
        )
    with _whole(name, folder):
        lengths = {x["name"]: [int(length) for length in x["shardLengths"]] for x in info["splits"]}
        shards = {split: lengths.get(split, []) for split in SETS[name].splits}
        prepared = Prepared(name, versions[-1], folder, shards)
        for split in shards:
            if not sum(shards[split]):
                raise ValueError(f"it has no rows in split {split}")
            for path in _files(prepared, split):
                if files.kind(path) != "file":
                    raise ValueError(f"there is no file {path.name}")
    return prepared


def _versions(folder: pathlib.Path) -> list[str]:
    """The versions of a set that are there, the newest last."""
    with files.reading(folder):
        if files.kind(folder) != "folder":
            return []
        names = [
            path.name
            for path in folder.iterdir()
            if VERSION.fullmatch(path.name) and files.kind(path) == "folder"
        ]
        return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def _files(prepared: Prepared, split: str) -> Iterator[pathlib.Path]:
    count = len(prepared.shards[split])
    for number in range(count):
        name = f"{prepared.name}-{split}.array_record-{number:05d}-of-{count:05d}"
        yield prepared.folder / name


def read(prepared: Prepared, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, ...] or texts, bytes [n], and labels int32 [n] of a split, in TFDS's order.

    Raises:
      ValueError: if the files are damaged, or hold something else than is said of them.
    """
    import tensorflow_datasets as tfds
    from array_record.python import array_record_data_source

    (key, _, shape), expected = SETS[prepared.name], sum(prepared.shards[split])
    feature = tfds.features.Image(shape=shape) if shape else tfds.features.Text()
    features = tfds.features.FeaturesDict({key: feature, "label": tfds.features.ClassLabel()})
    values, labels = [], []
    with _whole(prepared.name, prepared.folder), files.reading(f"split {split}"), _quiet():
        paths = [str(path) for path in _files(prepared, split)]
        source = array_record_data_source.ArrayRecordDataSource(paths)
        if len(source) != expected:
            raise ValueError(f"it has {len(source)} examples, its metadata say {expected}")
        for record in source.__getitems__(range(expected)):
            example: Any = features.deserialize_example_np(record)
            value = example[key]
            if not shape:
                value.decode()  # or raises
            elif (value.shape, value.dtype) != (shape, np.uint8):
                raise ValueError(f"it holds an image of shape {value.shape}, not {shape}")
            values.append(value)
            labels.append(example["label"])
        return np.stack(values) if shape else np.array(values), np.array(labels, np.int32)


def arrays(prepared: Prepared) -> dict[str, np.ndarray]:
    """`<split>_<feature>s` and `<split>_labels` of every split, as `read` gives them.

    They come from the cache where it holds those of these very files. It is a convenience: one that
    is damaged is rebuilt, one that cannot be written is ignored.

    Raises:
      ValueError: if a split cannot be read, or holds something else.
    """
    feature, splits, _ = SETS[prepared.name]
    names = [f"{split}_{part}" for split in splits for part in (f"{feature}s", "labels")]
    path = _cache(prepared)
    if path is not None:
        with contextlib.suppress(ValueError, KeyError):
            found = files.read_arrays(path)
            return {name: found[name] for name in names}
    found = [array for split in splits for array in read(prepared, split)]
    made: dict[str, Any] = dict(zip(names, found, strict=True))
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            where = {"dir": path.parent, "prefix": f"{path.name}.", "suffix": ".tmp"}
            try:
                with tempfile.NamedTemporaryFile(**where, delete=False) as file:
                    np.savez(file, **made)
                os.replace(file.name, path)  # a reader sees the old file or all of the new one
            finally:  # those of processes that were killed as well
                for left in path.parent.glob(f"{path.name}.*.tmp"):
                    left.unlink(missing_ok=True)
    return made


def _cache(prepared: Prepared) -> pathlib.Path | None:
    """The file of a decoded set, named by the files it was made of; None: there is no such folder.

    A user without a home has none, for instance in a container.
    """
    try:
        folder = files.cache_folder()
    except ValueError:
        return None
    with files.reading(prepared.folder):
        inside = sorted(path for path in prepared.folder.iterdir() if path.is_file())
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in inside]
    key = json.dumps([CACHE_FORMAT, prepared.name, str(prepared.folder), stats])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return folder / f"{prepared.name}-{prepared.version}-{digest}.npz"


def prepare(name: str, data_dir: Path | None = None, archive: Path | None = None) -> pathlib.Path:
    """Download a data set and write it as array_record files.

    One that is there already stays as it is.

    Args:
      name: of the set.
      data_dir: where to write.
      archive: a local copy of what would be downloaded: a file, or a folder with the files.

    Returns:
      The folder of the prepared version.

    Raises:
      ValueError: if the download fails, the archive is another one, or what is there is damaged.
    """
    root = data_folder(data_dir)
    given = None if archive is None else builders.examples(name, archive)
    if _versions(root / name):  # TFDS would import what its metadata name
        return find(name, root).folder
    try:
        with _quiet():
            builders.builder(name, root, given).download_and_prepare()
    except Exception as error:  # of the network, of the disk, or of TFDS's own checks
        need = "a writable folder" if archive else "a network and a writable folder"
        raise ValueError(
            f"{name} could not be prepared in {root} (needs {need}): "
            f"{type(error).__name__}: {files.reason_of(error)}"
        ) from error
    return find(name, root).folder


@contextlib.contextmanager
def _whole(name: str, folder: pathlib.Path) -> Iterator[None]:
    """What is wrong with a prepared set, with its name and the cure."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{name} in {folder} is incomplete or damaged ({error}): delete that folder and run "
            f"`{_command(name, folder.parents[1])}`"
        ) from error


def _needs(name: str) -> str:
    return f"a network, or --archive with a copy of {builders.source(name)}"


def _command(name: str, root: pathlib.Path) -> str:
    return shlex.join(["cgsv", "data", "prepare", name, "--data-dir", str(root)])


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
