"""TFDS builders of the stored sets, from the archives that their authors publish.

TFDS lacks SST and MR, and needs TensorFlow to parse MNIST and CIFAR-10; to write array_record files
it needs none. What an archive holds is parsed by pure functions of its bytes; its members are read
in memory, so that no archive can write anywhere, and no pickle is read.
"""

import gzip
import hashlib
import io
import math
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cgsv_jax.host import files

Examples = dict[str, list[dict[str, Any]]]  # split -> examples, in the order of the archive

LEAF = re.compile(r" ([^()]+)\)")  # of a tree: the word behind its label


class Published(NamedTuple):
    """A file that the authors publish, or TFDS's copy of it."""

    url: str
    size: int  # bytes
    sha256: str

    @property
    def name(self) -> str:
        """Of the file, as it is published."""
        return self.url.rpartition("/")[2]


class Archive(NamedTuple):
    """A data set as its authors publish it."""

    files: tuple[Published, ...]
    homepage: str
    description: str
    # Of an example, besides its label: the shape of an image, () for a text. `supervised` is the
    # one that the label is of.
    features: dict[str, tuple[int, ...]]
    supervised: str
    classes: tuple[str, ...] | int  # names of the labels 0, 1, ..., or how many there are
    parse: Callable[..., Examples]  # of the files' contents
    version: str = "1.0.0"
    # Whether the rows are written in the order of a hash of their numbers, as TFDS does with its
    # own sets: with TFDS's numbers it is TFDS's order, row by row.
    hashed: bool = False
    refused: tuple[Published, str] | None = None  # another form of it, and why it is not read


def parse_sst(content: bytes) -> Examples:
    """The sentences of the zip file of trees, one tree a line; the root's label is a sentence's.

    A no-break space inside a token is part of it.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {
            split: [_of_tree(line) for line in _lines(file.read(f"trees/{name}.txt"), "utf-8")]
            for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
        }


def _read(archive: tarfile.TarFile, name: str | tarfile.TarInfo) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is no file of the archive")
    return member.read()


def parse_mr(content: bytes) -> Examples:
    """The snippets of the tar file, the negative ones first, as one split.

    Most of the bytes above 127 are Latin-1 and some are cp1252. Latin-1 decodes them all, each to
    one character, which is all that a token needs.
    """
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        lines = [
            _lines(_read(file, f"rt-polaritydata/rt-polarity.{name}"), "latin-1")
            for name in ("neg", "pos")
        ]
    return {
        "train": [
            {"text": line.strip(" "), "label": label} for label in (0, 1) for line in lines[label]
        ]
    }


def _lines(content: bytes, encoding: str) -> list[str]:
    # Not str.splitlines, for which \x85, an ellipsis of cp1252 in the middle of MR's lines, ends
    # one.
    return [line.decode(encoding) for line in content.split(b"\n") if line]


def _of_tree(tree: str) -> dict[str, Any]:
    return {"text": " ".join(LEAF.findall(tree)), "tree": tree, "label": int(tree[1])}


MNIST_SHAPE, CIFAR_SHAPE = (28, 28, 1), (32, 32, 3)
NUM_CLASSES = 10  # of either
LARGEST = 2**27  # bytes of an unpacked IDX file: MNIST's largest has 47 million

_BATCHES = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}
_CIFAR = "cifar-10-batches-bin"
_BESIDE = {_CIFAR, f"{_CIFAR}/batches.meta.txt", f"{_CIFAR}/readme.html"}
LARGEST_BATCH = 10_000  # examples


def parse_mnist(*contents: bytes) -> Examples:
    """The images [28, 28, 1] of the four files, in the order of `ARCHIVES`."""
    splits: Examples = {}
    names = [file.name for file in ARCHIVES["mnist"].files]
    for first, split in ((0, "train"), (2, "test")):
        with files.reading(names[first]):
            images = read_idx(contents[first], MNIST_SHAPE[:2])[..., None]
        with files.reading(names[first + 1]):
            labels = read_idx(contents[first + 1])
            if len(labels) != len(images):
                raise ValueError(f"it has {len(labels)} labels of {len(images)} images")
            _judge(labels)
        rows = zip(images, labels.tolist(), strict=True)
        splits[split] = [{"image": image, "label": label} for image, label in rows]
    return splits


def read_idx(content: bytes, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Bytes [n, *shape] of a gzipped IDX file, whose numbers are big-endian.

    The first of them says that bytes follow (8) and how many axes they have; then come the axes.

    Raises:
      ValueError: it holds something else, or less, or more.
      OSError, EOFError, zlib.error: it is not gzipped, or damaged.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        magic, axes = (8 << 8) + 1 + len(shape), 1 + len(shape)
        head = file.read(4 + 4 * axes)
        if head[:4] != magic.to_bytes(4, "big") or len(head) < 4 + 4 * axes:
            raise ValueError(f"it starts with {head[:4].hex()}, not with {magic:08x} and its axes")
        count, *rest = (int(number) for number in np.frombuffer(head, ">u4")[1:])
        if tuple(rest) != shape:
            raise ValueError(f"its rows have shape {tuple(rest)}, not {shape}")
        size = count * math.prod(shape)
        if not 0 < size <= LARGEST:
            raise ValueError(f"it says that it holds {count:,} rows")
        body = file.read(size + 1)
    if len(body) != size:
        more = "more" if len(body) > size else f"{len(body):,}"
        raise ValueError(f"it must hold {size:,} bytes behind its head, it holds {more}")
    return np.frombuffer(body, np.uint8).reshape(count, *shape)


def _judge(labels: np.ndarray) -> None:
    if labels.max() >= NUM_CLASSES:
        raise ValueError(f"it has a label {labels.max()}: they go from 0 to {NUM_CLASSES - 1}")


def parse_cifar10(content: bytes) -> Examples:
    """The images [32, 32, 3] of the tar file of batches: a byte of label, then a plane a colour."""
    wanted = {f"{_CIFAR}/{name}" for names in _BATCHES.values() for name in names}
    batches, example = {}, 1 + math.prod(CIFAR_SHAPE)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as file:
        for member in file:  # one pass: going back would unpack it again
            name = member.name.rstrip("/")
            if name not in wanted | _BESIDE:
                raise ValueError(f"it has {name!r:.80}, which is no part of it")
            if name not in wanted:
                continue
            if not member.isfile() or name in batches:
                raise ValueError(f"{name} must be one file in it")
            if not 0 < member.size <= LARGEST_BATCH * example or member.size % example:
                raise ValueError(
                    f"{name} has {member.size:,} bytes, it must have {example:,} an example and at "
                    f"most {LARGEST_BATCH:,} examples"
                )
            batches[name] = np.frombuffer(_read(file, member), np.uint8).reshape(-1, example)
            _judge(batches[name][:, 0])
    if absent := sorted(wanted - set(batches)):
        raise ValueError(f"there is no {absent[0]} in it")
    height, width, colours = CIFAR_SHAPE
    splits: Examples = {}
    for split, names in _BATCHES.items():
        rows = np.concatenate([batches[f"{_CIFAR}/{name}"] for name in names])
        images = rows[:, 1:].reshape(-1, colours, height, width).transpose(0, 2, 3, 1)
        splits[split] = [
            {"id": f"{split}_{number:05d}", "image": image, "label": label}
            for number, (image, label) in enumerate(zip(images, rows[:, 0].tolist(), strict=True))
        ]
    return splits


# Where TFDS downloads the four files from.
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"

# Sizes and checksums of MNIST and CIFAR-10 are those of TFDS, in its `url_checksums/mnist.txt` and
# `url_checksums/cifar10.txt`; so are the versions. TFDS does not name the archive of pickles: its
# checksum only says which file somebody has taken.
ARCHIVES: dict[str, Archive] = {
    "mnist": Archive(
        files=(
            Published(
                f"{_MNIST}/train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Published(
                f"{_MNIST}/train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Published(
                f"{_MNIST}/t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Published(
                f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        homepage="http://yann.lecun.com/exdb/mnist/",
        description="The MNIST database of handwritten digits.",
        features={"image": MNIST_SHAPE},
        supervised="image",
        classes=NUM_CLASSES,
        parse=parse_mnist,
        version="3.0.1",
        hashed=True,
    ),
    "cifar10": Archive(
        files=(
            Published(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        description="The CIFAR-10 dataset consists of 60000 32x32 colour images in 10 classes, "
        "with 6000 images per class. There are 50000 training images and 10000 test images.",
        features={"id": (), "image": CIFAR_SHAPE},
        supervised="image",
        classes=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        parse=parse_cifar10,
        version="3.0.2",
        hashed=True,
        refused=(
            Published(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                170_498_071,
                "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
            "it holds pickles, and reading a pickle may run anything",
        ),
    ),
    "sst": Archive(
        files=(
            Published(
                "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",
                789_539,
                "5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
            ),
        ),
        homepage="https://nlp.stanford.edu/sentiment/",
        description="Stanford Sentiment Treebank, fine-grained (5 classes), whole sentences; "
        "`tree` is the PTB s-expression.",
        features={"text": (), "tree": ()},
        supervised="text",
        classes=("very negative", "negative", "neutral", "positive", "very positive"),
        parse=parse_sst,
    ),
    "mr": Archive(
        files=(
            Published(
                "https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz",
                487_770,
                "a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9",
            ),
        ),
        homepage="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        description="Movie review sentence polarity v1.0 (Pang & Lee, ACL 2005).",
        features={"text": ()},
        supervised="text",
        classes=("neg", "pos"),
        parse=parse_mr,
    ),
}


def source(name: str) -> str:
    """What the archive of a set is, in words: its address, or those of its files."""
    first, *others = ARCHIVES[name].files
    if not others:
        return first.url
    folder = first.url.rpartition("/")[0]
    return f"{', '.join(file.name for file in ARCHIVES[name].files)} of {folder}"


def examples(name: str, path: files.Path) -> Examples:
    """What the archive at `path` holds: a file, or the folder that has it under its own name.

    Raises:
      ValueError: if it is absent, not the published archive of the set, or damaged.
    """
    path = files.path_of(path, "--archive")
    published = ARCHIVES[name].files
    with files.reading(path):
        is_folder = files.kind(path) == "folder"
    if is_folder:
        return _examples(name, [path / file.name for file in published], path)
    if len(published) > 1:
        raise ValueError(f"{path} is no folder, --archive must be one with {source(name)}")
    return _examples(name, [path], path)


def _examples(name: str, paths: list[pathlib.Path], named: pathlib.Path) -> Examples:
    """What the files of an archive hold; what is wrong is said with the name `named`."""
    archive = ARCHIVES[name]
    contents = []
    for path, file in zip(paths, archive.files, strict=True):
        content = files.read_bytes(path)
        found = hashlib.sha256(content).hexdigest()
        if archive.refused is not None and found == archive.refused[0].sha256:
            other, reason = archive.refused
            raise ValueError(f"{path} is {other.name}, {reason}: {name} is made of {file.url}")
        if found != file.sha256:
            raise ValueError(
                f"{path} is not the archive of {name}: its sha256 is {found}, that of "
                f"{file.url} is {file.sha256}"
            )
        contents.append(content)
    with files.reading(named) if len(contents) == 1 else files.naming(named):
        return archive.parse(*contents)


def builder(name: str, data_dir: pathlib.Path, given: Examples | None = None) -> Any:
    """The TFDS builder of a set of `ARCHIVES`, writing array_record files.

    The class is not registered: a prepared set is read by its metadata alone, without it.

    Args:
      name: key of `ARCHIVES`.
      data_dir: where to write.
      given: what a local copy of the archive holds; None: TFDS downloads it.
    """
    import tensorflow_datasets as tfds

    archive = ARCHIVES[name]
    download: Any = tfds.download  # typed without its checksums
    snake = name  # a class body does not see a variable that it assigns itself

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Examples and their labels."""

        name = snake
        VERSION = tfds.core.Version(archive.version)
        # In place of a file of checksums: what TFDS holds a download against.
        url_infos = {  # noqa: RUF012 (the attribute is TFDS's)
            file.url: download.checksums.UrlInfo(file.size, file.sha256, None)
            for file in archive.files
        }

        def _info(self) -> Any:
            features = {
                key: tfds.features.Image(shape=shape) if shape else tfds.features.Text()
                for key, shape in archive.features.items()
            }
            labels = (
                tfds.features.ClassLabel(num_classes=archive.classes)
                if isinstance(archive.classes, int)
                else tfds.features.ClassLabel(names=archive.classes)
            )
            return tfds.core.DatasetInfo(
                builder=self,
                description=archive.description,
                features=tfds.features.FeaturesDict(features | {"label": labels}),
                supervised_keys=(archive.supervised, "label"),
                homepage=archive.homepage,
                disable_shuffling=not archive.hashed,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            splits = given
            if splits is None:
                found = dl_manager.download([file.url for file in archive.files])
                paths = [pathlib.Path(path) for path in found]
                splits = _examples(snake, paths, paths[0].parent)
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows: list) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, row in enumerate(rows):
                yield number, {key: _encoded(value) for key, value in row.items()}

    return Builder(data_dir=data_dir, file_format="array_record")


def _encoded(value: Any) -> Any:
    """An image as one of Pillow's: TFDS would hand an array to TensorFlow to make a PNG of it."""
    import PIL.Image

    return PIL.Image.fromarray(value.squeeze()) if isinstance(value, np.ndarray) else value
