"""Data sets by name, on the host: `load("digits")`, `available()`, `prepare("mnist")`.

A data set is one loader and one line in `DATASETS`; one that is read from disk has a line in
`store.SETS` as well, and its loader is given arrays. TFDS is imported only where a set is decoded
or prepared, TensorFlow nowhere.
"""

import functools
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

import jax

from cgsv_jax import types
from cgsv_jax.data import arrays, digits, images, store, synthetic, text
from cgsv_jax.host import files, words


class Source(NamedTuple):
    """A data set's loader and the numbers of the experiments that use it."""

    load: Callable[..., types.Dataset]
    input_shape: tuple[int, ...]
    num_classes: int  # 0: as its labels say
    model: str  # the default model
    rows_per_client: int | None  # the training pool is capped at N times this; None: no cap
    validation_share: float  # of the training rows, held out where the set has no such rows
    description: str
    num_rows: tuple[int, int]  # training and test rows
    training: Mapping[str, Any]  # rounds, epochs, batch size, rates and what else its methods read
    tokens: bool = False  # the inputs are numbers of words


class Identity(TypedDict):
    """Which rows a name stood for."""

    folder: str | None  # absolute; None: the set is built in
    version: str | None
    rows: str  # SHA-256 of all rows and labels, images and texts as they are stored


class Availability(NamedTuple):
    """A line of `cgsv data list`."""

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    num_rows: tuple[int, int]
    present: bool
    where: str  # "built in", the folder, or what is wrong
    description: str


# MNIST and CIFAR-10 have the released code's numbers (rounds, epochs, batch, Gamma). MNIST's
# learning rate is that of its argument file: with the 1e-3 that its main file sets, what does not
# rescale uploads hardly learns, and fairness would correlate untrained models.
# Digits has no published numbers: experiments/digits_defaults.py chooses them on validation rows.
# SST and MR have the released code's numbers, Adam included.
# Synthetic has digits' numbers and is for timing.
# `clip` and `growth` are CFFL's (commit 5c8f854), whose digits have those of its MNIST.
DATASETS: dict[str, Source] = {
    "digits": Source(
        digits.load,
        input_shape=(8, 8, 1),
        num_classes=10,
        model="mlp",
        rows_per_client=None,
        validation_share=0.1,
        description="handwritten digits, part of scikit-learn",
        num_rows=(1442, 355),
        training={
            "rounds": 60,
            "epochs": 3,
            "batch_size": 16,
            "learning_rate": 0.1,
            "decay": 0.99,
            "gamma": 0.5,
            "clip": 0.01,
            "growth": 1.0,
        },
    ),
    "mnist": Source(
        images.mnist,
        input_shape=(32, 32, 1),
        num_classes=10,
        model="mnist_cnn",
        rows_per_client=600,
        validation_share=0.1,
        description="handwritten digits, padded to 32 x 32",
        num_rows=(60_000, 10_000),
        training={
            "rounds": 200,
            "epochs": 3,
            "batch_size": 32,
            "learning_rate": 0.15,
            "decay": 0.977,
            "gamma": 0.5,
            "clip": 0.01,
            "growth": 1.0,
        },
    ),
    "cifar10": Source(
        images.cifar10,
        input_shape=(32, 32, 3),
        num_classes=10,
        model="cifar_cnn",
        rows_per_client=2000,
        validation_share=0.2,
        description="colour photographs of ten kinds of things",
        num_rows=(50_000, 10_000),
        training={
            "rounds": 200,
            "epochs": 3,
            "batch_size": 128,
            "learning_rate": 0.015,
            "decay": 0.977,
            "gamma": 0.15,
            "clip": 0.001,
            "growth": 0.0,
        },
    ),
    "sst": Source(
        text.sst,
        input_shape=(text.SST_LENGTH,),
        num_classes=5,
        model="text_cnn",
        rows_per_client=None,
        validation_share=0.0,
        description="sentences of film reviews, very negative to very positive",
        num_rows=(8544, 2210),
        training={
            "rounds": 200,
            "epochs": 3,
            "batch_size": 256,
            "learning_rate": 1e-4,
            "decay": 0.977,
            "gamma": 1.0,
            "clip": 0.001,
            "growth": 0.0,
            "optimizer": "adam",
        },
        tokens=True,
    ),
    "mr": Source(
        text.mr,
        input_shape=(text.MR_LENGTH,),
        num_classes=2,
        model="text_cnn",
        rows_per_client=None,
        validation_share=0.0,
        description="snippets of film reviews, negative or positive",
        num_rows=(8530, 1066),
        training={
            "rounds": 200,
            "epochs": 3,
            "batch_size": 128,
            "learning_rate": 5e-5,
            "decay": 0.977,
            "gamma": 1.0,
            "clip": 0.001,
            "growth": 0.0,
            "optimizer": "adam",
        },
        tokens=True,
    ),
    "synthetic": Source(
        synthetic.load,
        input_shape=(32,),
        num_classes=10,
        model="mlp",
        rows_per_client=None,
        validation_share=0.1,
        description="Gaussian classes of any size (the sizes shown are the defaults)",
        num_rows=(10_000, 2_000),
        training={
            "rounds": 30,
            "epochs": 1,
            "batch_size": 32,
            "learning_rate": 0.1,
            "decay": 0.99,
            "gamma": 0.5,
            "clip": 0.01,
            "growth": 1.0,
        },
    ),
}


def of_file(path: str) -> Source:
    """A data set of one's own, see `arrays`; how to train on it is said, or as on digits."""
    return Source(
        functools.partial(arrays.load, path),
        input_shape=(),
        num_classes=0,
        model="mlp",
        rows_per_client=None,
        validation_share=0.0 if arrays.has_validation(path) else 0.1,
        description="a file of one's own",
        num_rows=(0, 0),
        training=DATASETS["digits"].training,
    )


def load(name: str, data_dir: files.Path | None = None, **options: Any) -> types.Dataset:
    """A data set as arrays.

    Only SST and MR have a validation set; of the others `partition.split` chooses its rows.

    Args:
      name: a key of `DATASETS`, or a .npz file (see `arrays`).
      data_dir: where the stored sets lie; by default TFDS_DATA_DIR, or TFDS's default.
      **options: of the loader; only `synthetic` has any.

    Raises:
      ValueError: if the name or an option is unknown, a value is out of range, or the files are
        absent or damaged.
    """
    sources = {name: of_file(name)} if arrays.is_file(name) else DATASETS
    return identified(words.meant(name, sources), data_dir, sources, **options)[0]


def identified(
    name: str,
    data_dir: files.Path | None = None,
    sources: Mapping[str, Source] = DATASETS,
    **options: Any,
) -> tuple[types.Dataset, Identity]:
    """`load` of one of the sources, and which rows they are."""
    load = _source(name, sources).load
    stored = name in store.SETS
    allowed = [] if stored else list(inspect.signature(load).parameters)
    for key, value in options.items():
        if key not in allowed:
            takes = f"takes {', '.join(allowed)}" if allowed else "takes no options"
            raise ValueError(f"data set {name} has no option {key} (got {value!r}): it {takes}")
    if not stored:
        full = load(**options)
        rows = files.digest_of_arrays(jax.tree.leaves(full))
        folder = name if arrays.is_file(name) else None
        return full, Identity(folder=folder, version=None, rows=rows)
    prepared = store.find(name, data_dir)
    decoded = store.arrays(prepared)
    rows = files.digest_of_arrays(list(decoded.values()))
    found = Identity(folder=str(prepared.folder), version=prepared.version, rows=rows)
    return load(decoded), found


def available(data_dir: files.Path | None = None) -> list[Availability]:
    """Every data set: its shape and size, and whether it is there and where.

    Raises:
      ValueError: if the folder can be none.
    """
    if data_dir is not None:
        store.data_folder(data_dir)  # what can be no folder is said once
    lines = []
    for name, source in DATASETS.items():
        present, where = True, "built in"
        if name in store.SETS:
            try:
                where = str(store.find(name, data_dir).folder)
            except ValueError as error:
                present, where = False, str(error)
        shape, classes, rows = source.input_shape, source.num_classes, source.num_rows
        lines.append(Availability(name, shape, classes, rows, present, where, source.description))
    return lines


def prepare(
    name: str, data_dir: files.Path | None = None, archive: files.Path | None = None
) -> pathlib.Path:
    """Download and write a stored data set.

    Args:
      name: a key of `DATASETS`.
      data_dir: where to write, as in `load`.
      archive: a local copy of what would be downloaded: a file, or a folder with the files.

    Returns:
      The folder of the prepared set.

    Raises:
      ValueError: if the name is unknown, the set is built in, the archive is another one, or the
        download fails.
    """
    name = words.meant(name, DATASETS)
    if name not in DATASETS:
        raise ValueError(
            f"data set must be one of {', '.join(store.SETS)} to be prepared, got {name!r}; any "
            "other is a file: --dataset FILE.npz"
        )
    if name not in store.SETS:
        raise ValueError(f"data set {name} is built in: there is nothing to prepare")
    return store.prepare(name, data_dir, archive)


def _source(name: str, sources: Mapping[str, Source] = DATASETS) -> Source:
    if name not in sources:
        raise ValueError(f"data set must be one of {', '.join(sources)}, got {name!r}")
    return sources[name]
