"""A data set of one's own in a file: what it must hold, and that all else is as for any other."""

import json

import jax
import numpy as np
import polars as pl
import pytest

from cgsv_jax import data
from cgsv_jax.command import main
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.data import arrays
from cgsv_jax.experiment import deal
from cgsv_jax.experiment import names as names_lib

QUICK = ["--clients", "2", "--rounds", "1", "--epochs", "1", "--seeds", "1", "--hidden", "3"]
QUICK += ["--partition", "uniform", "--algorithms", "fedavg", "--quiet"]


def content(rows=24, **other):
    rng = np.random.default_rng(3)
    made = {
        "inputs": rng.normal(size=(rows, 2, 3)),
        "labels": np.arange(rows) % 4,
        "test_inputs": rng.normal(size=(8, 2, 3)),
        "test_labels": np.arange(8) % 4,
    }
    return {name: x for name, x in (made | other).items() if x is not None}


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "mine.npz", **content())
    return tmp_path / "mine.npz"


def test_it_is_loaded_array_by_array(file):
    loaded, wanted = data.load("mine.npz"), content()
    for name in arrays.NEEDED:
        kind = np.float32 if name.endswith("inputs") else np.int32
        np.testing.assert_array_equal(getattr(loaded, name), wanted[name].astype(kind))
    assert loaded.validation is None
    held_out = {"validation_inputs": np.ones((2, 2, 3), np.uint8), "validation_labels": [5, 0]}
    np.savez(file, **content(**held_out))
    inputs, labels = data.load(file).validation
    assert (inputs.dtype, labels.tolist()) == (np.float32, [5, 0])
    config = names_lib.configure(dataset=file, clients=2, partitions="uniform")
    assert config.validation_share == 0
    (task,) = deal.tasks(config)
    assert task.validation_rows == 2
    assert task.model.apply(task.model.init(jax.random.key(0)), inputs, None).shape == (2, 6)


def test_its_name_may_end_in_capitals(file):
    wanted = data.load(file)
    upper = file.rename(file.with_name("MINE.NPZ"))
    np.testing.assert_array_equal(data.load("MINE.NPZ").inputs, wanted.inputs)
    assert names_lib.configure(dataset="MINE.NPZ", partitions="uniform").dataset == str(upper)


WRONG = {
    "lacks labels": {"labels": None},
    "holds 'weights', which is none of inputs, labels": {"weights": np.ones(3)},
    "must hold both of validation_inputs and": {"validation_labels": np.zeros(2, int)},
    "holds inputs of type <U1 and shape [2, 1]": {"inputs": np.array([["a"], ["b"]])},
    "holds inputs of type float64 and shape [24]": {"inputs": np.ones(24)},
    "holds test_inputs of shape [5] each, inputs are of [2, 3]": {"test_inputs": np.ones((8, 5))},
    "holds inputs that are not finite in float32": {"inputs": np.full((24, 2, 3), 1e39)},
    "holds labels of type float64": {"labels": np.zeros(24)},
    "holds labels of type int64 and shape [24, 1]": {"labels": np.zeros((24, 1), int)},
    "holds 23 labels for 24 inputs": {"labels": np.zeros(23, int)},
    "holds test_labels from -1 to 0": {"test_labels": np.r_[-1, np.zeros(7, int)]},
}


@pytest.mark.parametrize(("sentence", "other"), WRONG.items(), ids=WRONG)
def test_what_is_wrong_is_named_with_its_array(sentence, other, file):
    np.savez(file, **content(**other))
    with pytest.raises(ValueError, match=f"^--dataset {file} ") as caught:
        data.load(file)
    assert sentence in str(caught.value)
    with pytest.raises(ConfigError, match="--dataset"):
        deal.tasks(names_lib.configure(dataset=file))


def test_objects_are_refused(file):
    np.savez(file, **content(), objects=np.array([{}], object))
    with pytest.raises(ValueError, match="holds objects"):
        data.load(file)


def test_it_takes_no_options(file):
    with pytest.raises(ValueError, match=r"mine\.npz has no option rows \(got 5\): it takes no"):
        data.load("mine.npz", rows=5)


def test_the_config_is_complete_and_training_is_as_on_digits(file):
    config = names_lib.configure(dataset="mine.npz", rounds=7)
    digits = names_lib.configure(dataset="digits", rounds=7)
    assert config.dataset == str(file)
    assert (config.model, config.epochs) == ("mlp", digits.epochs)
    assert config.methods == digits.methods
    assert dict(config.taken)["epochs"] == digits.epochs
    assert "rounds" not in dict(config.taken)
    written = json.loads(json.dumps(resolve.to_dict(config)))
    assert resolve.from_dict(written, names_lib.tables(dataset=written["dataset"])) == config


def test_the_command_repeats_it_and_says_when_it_has_changed(file, tmp_path, capsys, monkeypatch):
    assert main.main(["run", "--dataset", "mine.npz", *QUICK, "--out", "first"]) == 0
    monkeypatch.chdir("/")
    again = ["run", "--config", str(tmp_path / "first/config.json"), "--quiet"]
    assert main.main([*again, "--out", str(tmp_path / "again")]) == 0
    first, second = (tmp_path / x / "rounds.parquet" for x in ("first", "again"))
    assert first.read_bytes() == second.read_bytes()
    environment = json.loads((tmp_path / "first/environment.json").read_text())
    assert environment["data"]["sets"].keys() == {str(file)}
    assert pl.read_parquet(tmp_path / "first/clients.parquet")["rows"].sum() == 24 - 2
    assert capsys.readouterr().err == ""
    np.savez(file, **content(labels=np.zeros(24, int)))
    for name in ("summary.json", "summary.parquet"):  # as if it had been killed
        (tmp_path / "first" / name).unlink()
    assert main.main(["run", "--resume", str(tmp_path / "first")]) == 2
    assert f"{file} holds other rows than it held" in capsys.readouterr().err


def test_a_run_is_named_after_the_file_and_says_whose_numbers_it_takes(file, capsys):
    assert main.main(["run", "--dataset", "mine.npz", *QUICK[:-1]]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "taken as on digits, since nobody says otherwise: batch_size = 16, learning" in said
    assert (file.parent / "runs/run-mine-001/config.json").exists()


def test_a_sweep_of_it_knows_the_file_from_anywhere(file, tmp_path):
    words = ["sweep", "--dataset", "mine.npz", *QUICK, "--lr", "0.1,0.2", "--out", "swept"]
    assert main.main(words) == 0
    config = json.loads((tmp_path / "swept/config.json").read_text())
    assert str(file) in json.dumps(config["options"])
    assert '"mine.npz"' not in json.dumps(config)


def test_a_partition_that_is_a_file_is_its_lists(file, tmp_path):
    (tmp_path / "who.json").write_text("[[0, 1, 2], [3, 4]]")
    config = names_lib.configure(dataset=file, partitions="who.json", clients=2)
    assert config.partitions == ("from_lists",)
    assert config.lists == str(tmp_path / "who.json")
    (task,) = deal.tasks(config)
    assert task.sizes.tolist() == [3, 2]
    both = names_lib.configure(partitions=["from_lists"], lists="who.json", clients=2)
    assert (both.partitions, both.lists) == (config.partitions, config.lists)
    with pytest.raises(ConfigError, match=r"--partition is 'who\.doc', it must be one of"):
        names_lib.configure(partitions="who.doc")


def test_a_file_that_is_not_there(capsys):
    assert main.main(["run", "--dataset", "/nowhere.npz"]) == 2
    assert "/nowhere.npz cannot be read: No such file" in capsys.readouterr().err
