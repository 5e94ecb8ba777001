"""MNIST and CIFAR-10 from their authors' archives: the same sets as TFDS's, without TensorFlow.

The archives are rebuilt here, since the official ones are too large to be kept; their checksums
stand in `builders.ARCHIVES` in place of the official ones, and are checked as those are.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile

import numpy as np
import pytest
from published import publish, served

from cgsv_jax import data
from cgsv_jax.command import main
from cgsv_jax.data import builders, store

FILES = [file.name for file in builders.ARCHIVES["mnist"].files]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
IN_TAR = "cifar-10-batches-bin/"
REAL = os.environ.get("TFDS_DATA_DIR")

pytestmark = pytest.mark.usefixtures("own_folders")


def rows(shape, seed=0, num_rows=(30, 12)):
    """Split -> random images and their labels."""
    rng = np.random.default_rng(seed)
    return {
        split: (rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n))
        for split, n in zip(("train", "test"), num_rows, strict=True)
    }


def idx(array):
    """The file of an array of bytes, before it is packed."""
    numbers = [2048 + array.ndim, *array.shape]
    return b"".join(number.to_bytes(4, "big") for number in numbers) + array.tobytes()


def mnist_files(splits):
    arrays = [part for split in ("train", "test") for part in splits[split]]
    return [idx(array.astype(np.uint8).squeeze()) for array in arrays]


def cifar_batches(splits):
    """Name -> content; the training rows in five batches."""
    made = {}
    for split, names in (("train", BATCHES[:5]), ("test", BATCHES[5:])):
        images, labels = splits[split]
        planes = np.moveaxis(images, -1, 1).reshape(len(images), -1)
        lines = np.column_stack([labels.astype(np.uint8), planes])
        for name, part in zip(names, np.array_split(lines, len(names)), strict=True):
            made[IN_TAR + name] = part.tobytes()
    return made


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            file.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


def write(monkeypatch, tmp_path, name, splits):
    """The archive of a set, published; returns its path."""
    if name == "cifar10":
        beside = {IN_TAR + "batches.meta.txt": "\n".join(CLASSES).encode()}
        contents = [tar((beside | cifar_batches(splits)).items())]
    else:
        contents = [gzip.compress(content, 1) for content in mnist_files(splits)]
    publish(monkeypatch, name, contents)
    folder = tmp_path / "archive"
    folder.mkdir()
    for file, content in zip(builders.ARCHIVES[name].files, contents, strict=True):
        (folder / file.name).write_bytes(content)
    return folder if name == "mnist" else folder / "cifar-10-binary.tar.gz"


def order(split, n):
    """TFDS's: by the MD5 of the split's name and the row's number."""
    return sorted(range(n), key=lambda row: hashlib.md5(f"{split}{row}".encode()).hexdigest())


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_an_archive_gives_its_rows_in_the_order_of_tfds(name, monkeypatch, tmp_path, capsys):
    splits = rows(store.SETS[name].shape)
    path = write(monkeypatch, tmp_path, name, splits)
    command = ["data", "prepare", name, "--archive", str(path), "--data-dir", str(tmp_path / "own")]
    assert main.main(command) == 0
    folder = pathlib.Path(capsys.readouterr().out.splitlines()[-1])
    assert folder == tmp_path / "own" / name / {"mnist": "3.0.1", "cifar10": "3.0.2"}[name]
    found = store.find(name, tmp_path / "own")
    for split, (images, labels) in splits.items():
        mine = store.read(found, split)
        there = order(split, len(labels))
        np.testing.assert_array_equal(mine[0], images[there])
        np.testing.assert_array_equal(mine[1], labels[there])
    assert len(data.load(name, data_dir=tmp_path / "own").inputs) == 30
    assert "tensorflow" not in sys.modules
    if name == "cifar10":
        assert (folder / "label.labels.txt").read_text().split() == CLASSES


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_folder_with_the_files_will_do(name, monkeypatch, tmp_path):
    path = write(monkeypatch, tmp_path, name, rows(store.SETS[name].shape))
    folder = path if name == "mnist" else path.parent
    assert builders.examples(name, folder).keys() == {"train", "test"}


@pytest.mark.parametrize("intact", [True, False])
def test_files_that_are_downloaded(intact, monkeypatch, tmp_path):
    """Every one under its own address, and held against its own checksum."""
    splits = rows((28, 28, 1))
    folder = write(monkeypatch, tmp_path, "mnist", splits)
    contents = {name: (folder / name).read_bytes() for name in FILES}
    damage = {} if intact else {FILES[3]: contents[FILES[3]] + b"?"}
    with served(contents | damage) as address:
        publish(monkeypatch, "mnist", contents.values(), address)
        if intact:
            data.prepare("mnist")
            images, labels = store.read(store.find("mnist"), "test")
            there = order("test", 12)
            np.testing.assert_array_equal(images, splits["test"][0][there])
            np.testing.assert_array_equal(labels, splits["test"][1][there])
        else:
            with pytest.raises(ValueError, match=r"mnist could not be prepared .*NonMatching"):
                data.prepare("mnist")


def test_checksums_are_of_every_file(monkeypatch, tmp_path):
    path = write(monkeypatch, tmp_path, "mnist", rows((28, 28, 1)))
    for name in FILES:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[:-1] + b"?")
        with pytest.raises(ValueError, match=rf"{name} is not the archive of mnist: its sha256 is"):
            data.prepare("mnist", archive=path)
        (path / name).write_bytes(content)
    (path / FILES[3]).unlink()
    with pytest.raises(ValueError, match=f"{FILES[3]} cannot be read: No such file"):
        data.prepare("mnist", archive=path)
    for other in (path / FILES[0], path / "absent"):
        with pytest.raises(ValueError, match=r"is no folder, --archive must be one with train-im"):
            data.prepare("mnist", archive=other)
    monkeypatch.setattr("cgsv_jax.host.files.read_bytes.__defaults__", (10,))
    with pytest.raises(ValueError, match=f"{FILES[0]} cannot be read: it is larger than 10 bytes"):
        data.prepare("mnist", archive=path)
    assert not (tmp_path / "data").exists()


def test_the_archive_of_pickles_is_refused(monkeypatch, tmp_path):
    """By its content, whatever it is called; nothing in it is read."""
    content = b"cos\nsystem\n(S'exit'\ntR."
    archive = builders.ARCHIVES["cifar10"]
    assert archive.refused is not None
    published, reason = archive.refused
    assert published.name == "cifar-10-python.tar.gz"
    digest = hashlib.sha256(content).hexdigest()
    changed = archive._replace(refused=(published._replace(sha256=digest), reason))
    monkeypatch.setitem(builders.ARCHIVES, "cifar10", changed)
    (tmp_path / "mine.tar.gz").write_bytes(content)
    expected = r"mine.tar.gz is cifar-10-python.tar.gz, it holds pickles, .*cifar-10-binary.tar.gz$"
    with pytest.raises(ValueError, match=expected):
        data.prepare("cifar10", archive=tmp_path / "mine.tar.gz")


IMAGES, LABELS = np.zeros((3, 28, 28), np.uint8), np.arange(3, dtype=np.uint8)
BAD_IDX = {
    "plain": (0, idx(IMAGES), "Not a gzipped file"),
    "cut": (0, gzip.compress(idx(IMAGES))[:-9], "end-of-stream marker"),
    "swapped": (0, gzip.compress(idx(LABELS)), "it starts with 00000801, not with 00000803"),
    "empty": (1, gzip.compress(b""), "it starts with , not with 00000801"),
    "head": (0, gzip.compress(idx(IMAGES)[:10]), "not with 00000803 and its axes"),
    "shape": (0, gzip.compress(idx(IMAGES[:, 1:])), r"shape \(27, 28\), not \(28, 28\)"),
    "short": (0, gzip.compress(idx(IMAGES)[:-1]), "2,352 bytes behind its head, it holds 2,351"),
    "long": (0, gzip.compress(idx(IMAGES) + b"\0"), "2,352 bytes behind its head, it holds more"),
    "none": (0, gzip.compress(idx(IMAGES[:0])), "says that it holds 0 rows"),
    "bomb": (0, gzip.compress(b"\0\0\x08\x03" + b"\xff" * 4 + idx(IMAGES)[8:]), "4,294,967,295 r"),
    "count": (1, gzip.compress(idx(LABELS[:2])), "it has 2 labels of 3 images"),
    "label": (1, gzip.compress(idx(LABELS + 8)), "it has a label 10: they go from 0 to 9"),
}


@pytest.mark.parametrize("which", BAD_IDX)
@pytest.mark.parametrize("first", [0, 2])
def test_idx_files_that_hold_something_else(first, which, monkeypatch, tmp_path):
    """Behind a checksum that fits, so that nothing but the parser can see it."""
    contents = [gzip.compress(idx(array)) for array in (IMAGES, LABELS, IMAGES, LABELS)]
    number, content, message = BAD_IDX[which]
    contents[first + number] = content
    publish(monkeypatch, "mnist", contents)
    for name, written in zip(FILES, contents, strict=True):
        (tmp_path / name).write_bytes(written)
    with pytest.raises(ValueError, match=f"{FILES[first + number]} cannot be read: .*{message}"):
        data.prepare("mnist", archive=tmp_path)
    assert not (tmp_path / "data").exists()


def _members(**changes):
    made = cifar_batches(rows((32, 32, 3)))
    return [*(made | {IN_TAR + key + ".bin": value for key, value in changes.items()}).items()]


BAD_TAR = {
    "cut": (tar(_members())[:-2000], "end-of-stream marker"),
    "no tar": (gzip.compress(b"?" * 2000), "file could not be opened|header|truncated"),
    "plain": (b"?" * 2000, "not a gzip file"),
    "outside": (tar([*_members(), ("../../evil", b"1")]), r"it has '../../evil', which is no part"),
    "pickle": (tar([(IN_TAR + "data_batch_1", b"1")]), "data_batch_1', which is no part of it"),
    "link": (tar(_members(data_batch_2=None)), r"data_batch_2\.bin must be one file"),
    "twice": (tar([*_members(), _members()[0]]), r"data_batch_1\.bin must be one file"),
    "absent": (tar(_members()[1:]), r"there is no cifar-10-batches-bin/data_batch_1\.bin in it"),
    "uneven": (tar(_members(test_batch=b"1" * 3074)), r"test_batch\.bin has 3,074 bytes, it must"),
    "empty": (tar(_members(test_batch=b"")), r"test_batch\.bin has 0 bytes"),
    "large": (tar(_members(data_batch_5=bytes(3073 * 10_001))), r"has 30,733,073 bytes.*10,000 ex"),
    "label": (tar(_members(data_batch_4=b"\x0a" + bytes(3072))), "it has a label 10: they go from"),
}


@pytest.mark.parametrize("which", BAD_TAR)
def test_tar_files_that_hold_something_else(which, monkeypatch, tmp_path):
    content, message = BAD_TAR[which]
    publish(monkeypatch, "cifar10", [content])
    (tmp_path / "mine.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"mine\.tar\.gz cannot be read: .*({message})"):
        data.prepare("cifar10", archive=tmp_path / "mine.tar.gz")
    assert not (tmp_path / "data").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tar.gz"]


# Of the official IDX files, unpacked: what the rows of a prepared set must give in their own order.
UNPACKED = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


@pytest.mark.long
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_archive_of_the_set_that_is_there_gives_that_set(name, monkeypatch, tmp_path):
    """The same images and labels row by row, the same features and classes."""
    if not REAL or not (pathlib.Path(REAL) / name).is_dir():
        pytest.skip(f"{name} is not in TFDS_DATA_DIR")
    there, splits = store.find(name, REAL), {}
    for split in ("train", "test"):
        images, labels = store.read(there, split)
        first = np.argsort(order(split, len(labels)))
        splits[split] = images[first], labels[first]
    if name == "mnist":
        assert hashlib.sha256(mnist_files(splits)[0]).hexdigest() == UNPACKED
        assert splits["train"][1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    folder = data.prepare(name, archive=write(monkeypatch, tmp_path, name, splits))
    mine = store.find(name)
    for split in splits:
        for one, other in zip(store.read(mine, split), store.read(there, split), strict=True):
            np.testing.assert_array_equal(one, other)
    for file in ("features.json", "label.labels.txt"):
        if (there.folder / file).exists():
            assert (folder / file).read_text().rstrip() == (
                there.folder / file
            ).read_text().rstrip()
    infos = [json.loads((f / "dataset_info.json").read_text()) for f in (folder, there.folder)]
    for key in ("name", "version", "description", "supervisedKeys", "fileFormat", "location"):
        assert infos[0][key] == infos[1][key]
    shards = [[split["shardLengths"] for split in info["splits"]] for info in infos]
    assert shards[0] == shards[1]
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in there.folder.iterdir()
    }
