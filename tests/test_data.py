"""Data sets: the fixed split, preprocessing, the store on disk and its cache, the errors."""

import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from cgsv_jax import data as data_lib
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.data import attendance, images, lists, owners, store, synthetic
from cgsv_jax.experiment import deal, names
from cgsv_jax.experiment import identity as identity_lib
from cgsv_jax.host import files
from cgsv_jax.host.files import digest_of_arrays

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
VERSIONS = {"mnist": "3.0.1", "cifar10": "3.0.2"}

pytestmark = pytest.mark.usefixtures("own_folders")


# ---------------------------------------------------------------- digits


def test_digits_has_a_fixed_split():
    """The checksums pin which rows are test rows, and in which order; results depend on it."""
    digits = data_lib.load("digits")
    labels = digits.labels.tobytes() + digits.test_labels.tobytes()
    assert hashlib.sha256(labels).hexdigest()[:16] == "07a5eca1ddbe5194"
    low, high = digits.inputs.min(), digits.inputs.max()  # pixels 0 and 16
    pixels = np.rint((digits.inputs - low) / (high - low) * 16).astype(np.uint8)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "238ffe25c90c1cd4"


def test_digits_test_rows_are_disjoint_from_the_training_rows_and_balanced():
    digits = data_lib.load("digits")
    source = data_lib.DATASETS["digits"]
    assert digits.inputs.shape == (source.num_rows[0], *source.input_shape)
    assert digits.test_inputs.shape == (source.num_rows[1], *source.input_shape)
    assert (digits.inputs.dtype, digits.labels.dtype) == (np.float32, np.int32)
    assert digits.validation is None
    train, test = ({x.tobytes() for x in inputs} for inputs in (digits.inputs, digits.test_inputs))
    assert not train & test
    original = sklearn.datasets.load_digits()
    assert len(train) + len(test) == len({x.tobytes() for x in original.images})
    share = np.bincount(digits.test_labels) / np.bincount(original.target)
    assert np.abs(share - 0.2).max() < 0.01


def test_digits_is_standardised_by_the_training_rows():
    digits = data_lib.load("digits")
    assert abs(digits.inputs.mean()) < 1e-6
    assert abs(digits.inputs.std() - 1) < 1e-6
    assert abs(digits.test_inputs.mean()) > 1e-4  # by the training rows' mean, not its own


# ---------------------------------------------------------------- synthetic


def test_synthetic_is_nearly_linear():
    gaussians = data_lib.load("synthetic")
    assert gaussians.inputs.shape == (10_000, *data_lib.DATASETS["synthetic"].input_shape)
    means = np.stack([gaussians.inputs[gaussians.labels == c].mean(axis=0) for c in range(10)])
    scores = gaussians.test_inputs @ means.T - (means**2).sum(axis=1) / 2  # nearest mean
    assert 0.85 < (scores.argmax(axis=1) == gaussians.test_labels).mean() < 0.95


def test_synthetic_sizes_seeds_and_test_rows():
    small = data_lib.load("synthetic", num_rows=50, num_test=20, num_classes=5, num_features=3)
    large = data_lib.load("synthetic", num_rows=500, num_test=20, num_classes=5, num_features=3)
    other = data_lib.load(
        "synthetic", num_rows=50, num_test=20, num_classes=5, num_features=3, seed=1
    )
    assert small.inputs.shape == (50, 3)
    assert (small.inputs.dtype, small.labels.dtype) == (np.float32, np.int32)
    assert (np.bincount(small.labels) == 10).all()
    np.testing.assert_array_equal(small.test_inputs, large.test_inputs)
    assert (small.test_inputs != other.test_inputs).any()


def test_synthetic_of_a_million_rows_takes_seconds():
    start = time.perf_counter()
    gaussians = synthetic.load(num_rows=1_000_000)
    assert time.perf_counter() - start < 8  # measured 1.3 s on a busy core
    assert gaussians.inputs.shape == (1_000_000, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_rows": 9}, r"num_rows must be a whole number >= 10, one row per class, got 9"),
        ({"num_test": 0}, r"num_test must be a whole number >= 10, one row per class, got 0"),
        ({"num_classes": 0}, r"num_classes must be a whole number >= 1, got 0"),
        ({"num_features": 1.5}, r"num_features must be a whole number >= 1, got 1\.5"),
        ({"separation": -1.0}, r"separation must be a number >= 0, got -1\.0"),
        ({"seed": -1}, r"seed must be a whole number >= 0, got -1"),
        ({"rows": 10}, r"data set synthetic has no option rows \(got 10\): it takes num_rows, "),
    ],
)
def test_synthetic_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        data_lib.load("synthetic", **options)


# ---------------------------------------------------------------- preprocessing


def test_mnist_is_standardised_after_padding():
    digits = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), np.uint8)
    inputs = images.standardised_mnist(digits)
    padded = np.zeros((7, 32, 32, 1))
    padded[:, 2:30, 2:30] = digits / 255
    np.testing.assert_allclose(inputs, (padded - padded.mean()) / padded.std(), atol=1e-6)
    assert inputs.dtype == np.float32


def test_cifar_is_standardised_per_channel():
    photographs = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    inputs = images.standardised_cifar(photographs)
    for channel in range(3):
        mean, std = images.CIFAR_MEAN[channel], images.CIFAR_STD[channel]
        expected = (photographs[..., channel] / 255 - mean) / std
        np.testing.assert_allclose(inputs[..., channel], expected, atol=1e-6)
    assert inputs.dtype == np.float32


# ---------------------------------------------------------------- a tiny set in TFDS's own format


def varint(number):
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def message(*fields):
    """A protocol buffer of length-delimited fields, given as (number, bytes)."""
    return b"".join(bytes([n << 3 | 2]) + varint(len(value)) + value for n, value in fields)


def example(image, label):
    """A serialised tf.train.Example, since writing one properly would need TensorFlow."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image.squeeze()).save(buffer, "PNG")
    features = {
        b"image": message((1, message((1, buffer.getvalue())))),
        b"label": message((3, message((1, varint(label))))),
    }
    return message((1, message(*((1, message((1, k), (2, v))) for k, v in features.items()))))


def write_tiny(root, name, seed=0, num_rows=(40, 20)):
    """A prepared set of random images under `root`; returns its folder and the raw arrays."""
    from array_record.python import array_record_module

    shape = SHAPES[name]
    folder = root / name / VERSIONS[name]
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    raw, splits = {}, []
    for split, n in zip(("train", "test"), num_rows, strict=True):
        pixels, labels = rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 10
        writer = array_record_module.ArrayRecordWriter(
            str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for image, label in zip(pixels, labels, strict=True):
            writer.write(example(image, int(label)))
        writer.close()
        raw[split] = pixels, labels
        splits.append(
            {
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(n)],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": name, "version": VERSIONS[name], "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    module = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": [str(length) for length in shape]}}
    features = {
        "image": {"pythonClassName": f"{module}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{module}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "10"},
        },
    }
    (folder / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": f"{module}.features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    return folder, raw


def cache_files(tmp_path):
    return sorted((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize("name", SHAPES)
def test_a_stored_set_is_read_without_tensorflow(name, tmp_path, caplog):
    folder, raw = write_tiny(tmp_path / "data", name)
    dataset = data_lib.load(name)
    standardised = images.standardised_mnist if name == "mnist" else images.standardised_cifar
    for split, inputs, labels in zip(
        ("train", "test"), dataset[0:4:2], dataset[1:4:2], strict=True
    ):
        np.testing.assert_array_equal(inputs, standardised(raw[split][0]))
        np.testing.assert_array_equal(labels, raw[split][1])
        assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
        assert inputs.shape[1:] == data_lib.DATASETS[name].input_shape
    assert "tensorflow" not in sys.modules
    assert not caplog.records
    assert str(folder) in {line.where for line in data_lib.available() if line.present}


def test_data_dir_wins_over_the_environment(tmp_path):
    write_tiny(tmp_path / "data", "mnist", seed=0)
    _, raw = write_tiny(tmp_path / "elsewhere", "mnist", seed=1)
    dataset = data_lib.load("mnist", data_dir=tmp_path / "elsewhere")
    np.testing.assert_array_equal(dataset.inputs, images.standardised_mnist(raw["train"][0]))


# ---------------------------------------------------------------- which data they were


def identity(*name):
    return data_lib.identified(*name)[1]


def test_the_identity_is_of_the_rows_and_not_of_their_place(tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    write_tiny(tmp_path / "other", "mnist", seed=1)
    one, same, other = (identity("mnist", tmp_path / x) for x in ("data", "elsewhere", "other"))
    assert (one["folder"], one["version"]) == (str(folder), "3.0.1")
    assert one["rows"] == same["rows"] != other["rows"]
    assert one["folder"] != same["folder"]
    assert one == identity("mnist", tmp_path / "data")  # from the cache
    assert identity("digits") | {"rows": ""} == {"folder": None, "version": None, "rows": ""}


def test_of_several_versions_the_newest_is_read_and_recorded(tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    os.rename(folder, folder.parent / "3.0.9")
    write_tiny(tmp_path / "other", "mnist", seed=1)
    os.rename(tmp_path / "other" / "mnist" / "3.0.1", folder.parent / "3.0.10")
    found = identity("mnist")
    assert (found["folder"], found["version"]) == (str(folder.parent / "3.0.10"), "3.0.10")
    shutil.rmtree(folder.parent / "3.0.10")
    assert identity("mnist")["rows"] != found["rows"]


def test_what_a_config_means(tmp_path, monkeypatch):
    """Paths are of where somebody typed them; what they lead to is told by its content."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "data", "mnist")
    np.save("owners.npy", np.arange(40) % 4)
    (tmp_path / "who.txt").write_text("0,1\n")
    asked = {
        "dataset": "mnist", "data_dir": pathlib.Path("data"), "owners": "owners.npy",
        "attendance": "who.txt", "clients": 2, "partitions": "by_owner", "validation_share": 0.0,
    }  # fmt: skip
    config = names.configure(**asked)
    paths = [config.data_dir, config.owners, config.attendance]
    assert paths == [str(tmp_path / name) for name in ("data", "owners.npy", "who.txt")]
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    before = identity_lib.data_identity(config)
    assert deal.tasks(config)[0].identity == before
    assert identity_lib.other_data(json.loads(json.dumps(before)), before) == []
    (tmp_path / "who.txt").write_text("0\n")
    np.save(tmp_path / "owners.npy", np.arange(40) % 5)
    write_tiny(tmp_path / "data", "mnist", seed=1)
    wrong = identity_lib.other_data(before, identity_lib.data_identity(config))
    assert [next(word for word in ("mnist", "owners", "attendance") if word in line)
            for line in wrong] == ["mnist", "owners", "attendance"]  # fmt: skip


def test_a_sweep_means_every_set_that_its_settings_read():
    configs = [names.configure(dataset="digits")] + [
        names.configure(dataset="synthetic", synthetic_rows=rows) for rows in (100, 200, 100)
    ]
    found = identity_lib.data_identity(*configs)["sets"]
    assert list(found) == ["digits", "synthetic of 100 rows", "synthetic of 200 rows"]
    assert len({each["rows"] for each in found.values()}) == 3


# ---------------------------------------------------------------- the cache


def forbid_reading(monkeypatch):
    def refuse(*_):
        raise AssertionError("read the files again")

    monkeypatch.setattr(store, "read", refuse)


def test_the_second_load_comes_from_the_cache(tmp_path, monkeypatch):
    write_tiny(tmp_path / "data", "mnist")
    first = data_lib.load("mnist")
    (cached,) = cache_files(tmp_path)  # one file, and nothing temporary is left
    assert cached.suffix == ".npz"
    forbid_reading(monkeypatch)
    for one, other in zip(first[:4], data_lib.load("mnist")[:4], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_cache_is_rebuilt(damage, tmp_path):
    write_tiny(tmp_path / "data", "mnist")
    first = data_lib.load("mnist")
    (cached,) = cache_files(tmp_path)
    content = bytearray(cached.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 255
    elif damage == "empty":
        content = b""
    if damage == "other":
        np.savez(cached, something=np.zeros(3))
    else:
        cached.write_bytes(content)
    cached.with_name(f"{cached.name}.left.tmp").touch()  # by a process that was killed
    np.testing.assert_array_equal(data_lib.load("mnist").inputs, first.inputs)
    (cached,) = cache_files(tmp_path)
    with np.load(cached) as file:
        assert len(file["train_images"]) == 40


def test_other_files_are_another_cache_entry(tmp_path):
    write_tiny(tmp_path / "data", "mnist", seed=0)
    first = data_lib.load("mnist")
    write_tiny(tmp_path / "data", "mnist", seed=1)  # prepared again, in the same folder
    assert (data_lib.load("mnist").inputs != first.inputs).any()
    assert len(cache_files(tmp_path)) == 2


def test_an_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    write_tiny(tmp_path / "data", "mnist")
    (tmp_path / "file").write_text("a file, so no folder can be made below it")
    monkeypatch.setenv("CGSV_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert len(data_lib.load("mnist").inputs) == 40


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("CGSV_CACHE_DIR", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert files.cache_folder() == pathlib.Path("/a")
    monkeypatch.delenv("CGSV_CACHE_DIR")
    assert files.cache_folder() == pathlib.Path("/b/cgsv_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == pathlib.Path("~/.cache/cgsv_jax").expanduser()


# ---------------------------------------------------------------- absent and damaged files


@pytest.mark.parametrize("name", SHAPES)
def test_an_absent_set_names_the_command_that_prepares_it(name, tmp_path):
    with pytest.raises(ValueError, match="is not in") as error:
        data_lib.load(name)
    sentence = str(error.value)
    assert f"`cgsv data prepare {name} --data-dir {tmp_path / 'data'}`" in sentence
    archives = {"mnist": "train-images-idx3-ubyte.gz, ", "cifar10": "cifar-10-binary.tar.gz"}
    for word in ("network", "--data-dir", "TFDS_DATA_DIR", "--archive", archives[name]):
        assert word in sentence
    assert "TensorFlow" not in sentence
    assert {line.name for line in data_lib.available() if line.present} == {"digits", "synthetic"}


def truncate(path, share=0.5):
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * share))


TRAIN = "mnist-train.array_record-00000-of-00001"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: truncate(folder / TRAIN), "split train cannot be read"),
        (lambda folder: truncate(folder / TRAIN, 0), "split train cannot be read"),
        (lambda folder: (folder / TRAIN).unlink(), "there is no file mnist-train.array_record"),
        (
            lambda folder: (folder / "dataset_info.json").unlink(),
            "dataset_info.json cannot be read",
        ),
        (lambda folder: truncate(folder / "features.json"), "features.json cannot be read"),
        (lambda folder: (folder / "dataset_info.json").write_text("[]"), "it must hold"),
    ],
)
def test_damaged_files_are_one_clear_error(damage, reason, tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    damage(folder)
    with pytest.raises(ValueError, match="is incomplete or damaged") as error:
        data_lib.load("mnist")
    assert reason in str(error.value)
    assert "delete that folder and run `cgsv data prepare mnist" in str(error.value)
    assert "\n" not in str(error.value)
    assert not cache_files(tmp_path)


def edit_info(folder, **changes):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_fewer_examples_than_promised(tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["41"]
    edit_info(folder, splits=info["splits"])
    with pytest.raises(ValueError, match="is incomplete or damaged"):
        data_lib.load("mnist")


def test_a_set_stored_for_tensorflow_only(tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    edit_info(folder, fileFormat="tfrecord")
    with pytest.raises(ValueError, match="is stored as tfrecord, which only TensorFlow reads"):
        data_lib.load("mnist")


def edit_features(folder, change):
    path = folder / "features.json"
    features = json.loads(path.read_text())
    change(features, features["featuresDict"]["features"])
    path.write_text(json.dumps(features))


@pytest.mark.parametrize("prepares", [False, True])
@pytest.mark.parametrize("part", ["image", "label", "another", None])
def test_nothing_that_a_folder_names_is_imported(part, prepares, tmp_path, monkeypatch):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    strange = {"pythonClassName": "stranger.Image"}
    edit_features(folder, lambda top, parts: (parts.setdefault(part, {}) if part else top)
                  .update(strange))  # fmt: skip
    with pytest.raises(ValueError, match=r"has other features: .*stranger.Image"):
        data_lib.prepare("mnist") if prepares else data_lib.load("mnist")
    assert "stranger" not in sys.modules


def test_a_set_without_labels_says_what_it_has(tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    edit_features(folder, lambda top, parts: parts.update(digit=parts.pop("label")))
    with pytest.raises(ValueError, match=r"digit class_label\S+; it must have .*label class_label"):
        data_lib.load("mnist")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "[]", "{}", "null", '{"splits": 3}', '{"featuresDict": []}', "\ufeff{}"),
        '{"splits": [{"name": "train", "shardLengths": [Infinity]}]}',
        '{"fileFormat": "array_record", "splits": [{"name": "train", "shardLengths": ["%s"]}]}'
        % ("9" * 5000),
        '{"splits": [{"name": ["train"], "shardLengths": ["40"]}]}',
        '{"pythonClassName": "X", "pythonClassName": "Y"}',
    ],
)
def test_metadata_of_strangers(name, text, tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=r"mnist in .* is incomplete or damaged") as error:
        data_lib.load("mnist")
    assert len(str(error.value)) < 800
    assert "mnist in" in next(x.where for x in data_lib.available() if x.name == "mnist")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", TRAIN, "cache"])
def test_a_fifo_in_place_of_a_file(name, tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    first = data_lib.load("mnist")
    (path,) = cache_files(tmp_path) if name == "cache" else [folder / name]
    path.unlink()
    os.mkfifo(path)
    if name == "cache":
        np.testing.assert_array_equal(data_lib.load("mnist").inputs, first.inputs)
        assert path.is_file()
        return
    with pytest.raises(ValueError, match=f"damaged .*{name}"):
        data_lib.load("mnist")


def test_an_image_of_another_size(tmp_path, monkeypatch):
    write_tiny(tmp_path / "data", "mnist")
    monkeypatch.setitem(SHAPES, "cifar10", (28, 28, 3))
    write_tiny(tmp_path / "data", "cifar10")
    with pytest.raises(ValueError, match=r"split train .*shape \(28, 28, 3\), not \(32, 32, 3\)"):
        data_lib.load("cifar10")


@pytest.mark.parametrize("word", ["a" * 300, "~nosuchuser/x", "a\0b"])
def test_folders_that_cannot_be(word, monkeypatch, tmp_path):
    for call in (data_lib.load, data_lib.prepare):
        with pytest.raises(ValueError, match="--data-dir is "):
            call("mnist", data_dir=word)
    with pytest.raises(ValueError, match="--data-dir is "):
        data_lib.available(word)
    with pytest.raises(ValueError, match="--archive is "):
        data_lib.prepare("mr", tmp_path, archive=word)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    write_tiny(tmp_path / "data", "mnist")
    root = str(tmp_path / "data" / "mnist")
    scan = os.scandir

    def refuse(path="."):
        if str(path) == root:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="data/mnist cannot be read: Permission denied"):
        data_lib.load("mnist")


def test_without_a_home_there_is_no_cache(tmp_path, monkeypatch):
    """A container whose user nobody knows."""

    def unknown(uid):
        raise KeyError(uid)

    for name in ("HOME", "CGSV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    write_tiny(tmp_path / "data", "mnist")
    assert len(data_lib.load("mnist").inputs) == 40
    monkeypatch.delenv("TFDS_DATA_DIR")
    with pytest.raises(ValueError, match=r"folder of the data sets is .*no home|home directory"):
        data_lib.load("mnist")
    assert {x.name for x in data_lib.available() if x.present} == {"digits", "synthetic"}


def test_unfinished_preparations_are_not_versions(tmp_path):
    folder, _ = write_tiny(tmp_path / "data", "mnist")
    (folder.parent / "3.0.1.incompleteABC").mkdir()
    shutil.copytree(folder, folder.parent / "3.0.0")
    assert store.find("mnist").version == "3.0.1"


def test_unknown_data_sets_and_options():
    with pytest.raises(ValueError, match=r"data set must be one of digits, mnist, .*, got 'minst'"):
        data_lib.load("minst")
    with pytest.raises(ValueError, match=r"digits has no option num_rows \(got 5\): it takes no"):
        data_lib.load("digits", num_rows=5)


def test_what_cannot_be_prepared():
    with pytest.raises(ValueError, match="data set digits is built in: there is nothing"):
        data_lib.prepare("digits")
    with pytest.raises(ValueError, match=r"one of mnist, cifar10, sst, mr .*--dataset FILE\.npz"):
        data_lib.prepare("fashion_mnist")


def test_preparing_without_a_network(monkeypatch, tmp_path):
    class Builder:
        def download_and_prepare(self):
            raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr("cgsv_jax.data.builders.builder", lambda *_: Builder())
    with pytest.raises(ValueError, match=r"mnist could not be prepared in .*no route to host$"):
        data_lib.prepare("mnist", tmp_path)


# ---------------------------------------------------------------- owners and attendance


def npy(shape, kind="<i8", content=b""):
    """A .npy file whose header may claim anything."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def test_owners_in_three_layouts(tmp_path):
    ids = np.array([5, 5, 7, 9])
    np.save(tmp_path / "a.npy", ids)
    np.savez(tmp_path / "b.npz", anything=ids)
    order = np.array([3, 0, 2, 1])
    np.savez(tmp_path / "c.npz", train_writer=ids, train_tfds_to_raw=order, test_writer=ids[:2])
    np.testing.assert_array_equal(owners.load(tmp_path / "a.npy", 4), ids)
    np.testing.assert_array_equal(owners.load(tmp_path / "b.npz", 4), ids)
    np.testing.assert_array_equal(owners.load(tmp_path / "c.npz", 4), [9, 5, 7, 5])


def ordered(order):
    return lambda path: np.savez(path, train_writer=np.arange(4), train_tfds_to_raw=order)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.mkdir(), "Is a directory|a folder"),
        (lambda path: path.write_text("id\n1\n"), r"must be a \.npy or \.npz .*magic"),
        (lambda path: path.write_bytes(b""), r"must be a \.npy or \.npz file"),
        (lambda path: path.write_bytes(npy((10**12,))), r"claims 8,000,000,000,000 bytes"),
        (lambda path: path.write_bytes(npy((10**8,), "<U100000000")), "claims"),
        (lambda path: np.savez(path, a=np.arange(4), b=np.arange(4)), "must hold one array, or"),
        (lambda path: np.savez(path, a=np.arange(3)), r"each of the 4 training rows, got int64 of"),
        (lambda path: np.savez(path, a=np.zeros(4)), "one integer or string for each of the 4"),
        (ordered(np.array([0, 1, 2, 2])), "must hold every number from 0 to 3 once"),
        (ordered(np.arange(4.0)), "must hold every number from 0 to 3 once"),
        (ordered(np.arange(4).reshape(2, 2)), "must hold every number from 0 to 3 once"),
    ],
)
def test_owners_that_do_not_fit(write, message, tmp_path):
    path = tmp_path / "owners.npz"
    write(path)
    with pytest.raises(ValueError, match=message) as error:
        owners.load(path, 4)
    assert "pickle" not in str(error.value)


def test_owners_that_no_file_could_hold_are_spelled(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["a\ud800", "b"]))
    assert owners.load(tmp_path / "a.npy", 2).tolist() == ["a\\ud800", "b"]
    np.save(tmp_path / "b.npy", np.array([b"\xff", "é".encode()]))
    assert owners.load(tmp_path / "b.npy", 2).tolist() == ["\\xff", "é"]


WHO = {
    "0, 1\n\n2,1,\n": [[0, 1], [-1, -1], [1, 2]],
    "\ufeff0,1\r\n2": [[0, 1], [2, -1]],
    "\n3": [[-1], [3]],
}


@pytest.mark.parametrize(("text", "expected"), WHO.items())
def test_attendance_by_lines(text, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "who.txt").write_bytes(text.encode())
    found = attendance.load("~/who.txt", 4)
    assert found.dtype == np.int32
    assert found.tolist() == expected
    np.save(tmp_path / "who.npy", np.array(expected, ">i2")[:, ::-1])
    assert attendance.load(tmp_path / "who.npy", 4).tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0,9\n", "client 9 in round 0"),
        ("0,1\n2,2\n", "a client twice in round 1"),
        ("\n\n", "no round with a client"),
        *((text, "line 1 must hold whole numbers between commas") for text in
          ("0;1", "-1", "٣", "0\u20281", "0\v1", "0\r1", "0\x851", "1_0", "+1", "0\xa0", "nan")),
        ("1 2", "cannot be read"),
        ("9" * 5000, "cannot be read"),
        ("9" * 30, "cannot be read"),
        (b"\xff0", "cannot be read"),
        ("0," * 20_000 + "\n" * 20_000, "20,000 rounds of up to 20,000 clients"),
        (npy((10**12, 3)), "claims"),
        (npy((1, 1), "<u8", b"\xff" * 8), "holds client 18446744073709551615"),
        (npy((1, 2), "<i8", b"\xfe" + b"\xff" * 15), "client -2 in round 0"),
        (npy((2,), "<i8", bytes(16)), "whole numbers"),
        (npy((1, 1), "<f8", bytes(8)), "whole numbers"),
        (npy((0, 3)), "no round with a client"),
    ],
)  # fmt: skip
def test_attendance_that_does_not_fit(content, message, tmp_path):
    text = isinstance(content, str)
    path = tmp_path / ("who.txt" if text or content[0] == 255 else "who.npy")
    path.write_bytes(content.encode() if text else content)
    with pytest.raises(ValueError, match=message) as error:
        attendance.load(path, 4)
    assert path.name in str(error.value)
    with pytest.raises(ConfigError, match=r"who\.\w+"):
        deal.tasks(names.configure(clients=4, attendance=path))


# ---------------------------------------------------------------- lists of rows

LISTS = [[5, 0], [7], [2, 1, 3]]
TABLE = np.array([[5, 0, -1], [7, -1, -1], [2, 1, 3]])
WRITTEN = {
    "a.npz": lambda path: np.savez(path, *map(np.array, LISTS)),
    "a.npy": lambda path: np.save(path, TABLE),
    "a.json": lambda path: path.write_text(json.dumps(LISTS)),
    "a.txt": lambda path: path.write_text("5,0\n7\n2, 1,3\n"),
    "a.csv": lambda path: path.write_bytes(b"\xef\xbb\xbf5,0\r\n7\r\n2,1,3"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_lists_in_every_layout(name, tmp_path):
    WRITTEN[name](tmp_path / name)
    read = lists.load(str(tmp_path / name))
    assert [rows.tolist() for rows in read] == LISTS
    assert {rows.dtype for rows in read} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "none.txt cannot be read: No such file"),
        ("a.txt", "1,2\n3;4\n", "a.txt cannot be read: line 2 must hold whole numbers between"),
        ("a.txt", "9" * 30, "a.txt cannot be read"),
        ("a.json", "[[1], [2.5]]", "a.json cannot be read: .*int"),
        ("a.json", '{"0": [1]}', "a.json cannot be read: .*array"),
        ("a.json", "[" * 100_000, "a.json cannot be read"),
        ("a.npz", "PK", "a.npz cannot be read"),
        ("a.npy", "", "a.npy cannot be read"),
    ],
)
def test_lists_that_cannot_be_read(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        lists.load(tmp_path / name)


def test_a_table_of_lists_has_two_axes(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"is no .npy file of whole numbers \[N, M\]"):
        lists.load(tmp_path / "a.npy")


# ---------------------------------------------------------------- damage of every kind of file


class Reader(NamedTuple):
    """A kind of file that is read, and how."""

    files: tuple[pathlib.Path, ...]
    read: Callable[[], str]  # the digest of what was read
    guarded: bool = True  # no damage gives other numbers; else another digest of the file tells


KINDS = (
    *("owners.npy", "owners.npz", "packed.npz", "who.npy", "who.txt"),
    *("rows.npz", "rows.npy", "rows.json", "rows.txt", "records", "metadata", "cache"),
)


def readers(folder):
    """Every kind of file that lies in a data folder or beside it, made below a folder."""
    prepared, _ = write_tiny(folder / "data", "mnist")
    ids, rounds = np.arange(40) % 7, np.arange(30).reshape(10, 3)
    np.save(folder / "owners.npy", ids)
    np.savez(folder / "owners.npz", ids)
    np.savez_compressed(folder / "packed.npz", ids=ids)
    np.save(folder / "who.npy", rounds)
    (folder / "who.txt").write_text("\n".join(",".join(map(str, row)) for row in rounds))

    for name, write in WRITTEN.items():
        write(folder / name.replace("a.", "rows."))

    def rows(name):
        return Reader(
            (folder / name,),
            lambda: digest_of_arrays(lists.load(folder / name)),
            name == "rows.npz",
        )

    def digest(load, name, count):
        path = folder / name
        return Reader((path,), lambda: digest_of_arrays([load(path, count)]), path.suffix == ".npz")

    def data_set():
        for path in cache_files(folder):
            path.unlink()
        return identity("mnist", folder / "data")["rows"]

    data_set()
    records = [
        prepared / f"mnist-{split}.array_record-00000-of-00001" for split in ("train", "test")
    ]
    return {
        **{name: digest(owners.load, name, 40) for name in ("owners.npy", "owners.npz")},
        "packed.npz": digest(owners.load, "packed.npz", 40),
        **{name: digest(attendance.load, name, 30) for name in ("who.npy", "who.txt")},
        **{name: rows(name) for name in KINDS if name.startswith("rows.")},
        "records": Reader(tuple(records), data_set),
        "metadata": Reader((prepared / "dataset_info.json", prepared / "features.json"), data_set),
        "cache": Reader(
            tuple(cache_files(folder)), lambda: identity("mnist", folder / "data")["rows"]
        ),
    }


def flipped(content, rng):
    place, bit = rng.integers(len(content)), rng.integers(8)
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def changed(content, rng):
    """Cut, grown, a part lost, twice, blanked or replaced; or nothing but a kind's first bytes."""
    a, b = sorted(rng.integers(0, len(content) + 1, 2))
    noise = rng.bytes(b - a)
    return [
        *(content[:a], content[:a] + content[b:], content[:b] + content[a:], content + noise),
        *(content[:a] + bytes(b - a) + content[b:], content[:a] + noise + content[b:]),
        *(b"", content[:8], content[:64], b"[" * 100_000, b"PK\x03\x04" + noise),
    ][rng.integers(11)]


@pytest.mark.parametrize(
    "times", [pytest.param(12, id="few"), pytest.param(600, id="many", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_a_sentence_or_the_same_numbers(kind, times, tmp_path):
    reader = readers(tmp_path)[kind]
    right, rng = reader.read(), np.random.default_rng(0)
    for number in range(times):
        path = reader.files[number % len(reader.files)]
        content = path.read_bytes()
        path.write_bytes((changed if number % 4 == 3 else flipped)(content, rng))
        try:
            found = reader.read()
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert str(tmp_path) in str(error)  # noqa: PT017
        else:
            assert found == right or not reader.guarded, (number, path)
        path.write_bytes(content)
    assert reader.read() == right


# ---------------------------------------------------------------- the real sets, where they are

REAL = os.environ.get("TFDS_DATA_DIR")


@pytest.mark.parametrize(
    ("name", "rows", "first"),
    [
        ("mnist", 60_000, 5923),
        pytest.param("cifar10", 50_000, 5000, marks=pytest.mark.long),  # half a minute to decode
    ],
)
def test_the_real_sets(name, rows, first):
    if not REAL or not (pathlib.Path(REAL) / name).is_dir():
        pytest.skip(f"{name} is not in TFDS_DATA_DIR")
    dataset = data_lib.load(name, data_dir=REAL)
    source = data_lib.DATASETS[name]
    assert dataset.inputs.shape == (rows, *source.input_shape)
    assert dataset.test_inputs.shape == (10_000, *source.input_shape)
    assert (len(dataset.inputs), len(dataset.test_inputs)) == source.num_rows
    assert np.bincount(dataset.labels)[0] == first
    assert len(np.unique(dataset.labels)) == source.num_classes
    if name == "mnist":
        # -mean/std of the padded images: the input_mean_std of the released code's traces.
        np.testing.assert_allclose(dataset.inputs.min(), -0.10003693 / 0.27521735, rtol=1e-6)
        assert abs(dataset.test_inputs.mean()) < 1e-6
        assert abs(dataset.test_inputs.std() - 1) < 1e-6
    else:
        # In float64: NumPy adds 51 million float32 along these axes with an error of 7 %.
        mean, std = (
            moment(dataset.inputs, axis=(0, 1, 2), dtype=np.float64) for moment in (np.mean, np.std)
        )
        np.testing.assert_allclose(mean, 0, atol=1e-3)
        np.testing.assert_allclose(std, 1, atol=1e-3)
