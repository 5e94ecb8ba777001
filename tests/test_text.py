"""SST and MR: archives, builders, tokens, splits, and how an experiment deals them out."""

import io
import json
import os
import pathlib
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from published import publish, served

from cgsv_jax import data
from cgsv_jax.command import main
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.data import builders, store
from cgsv_jax.data import text as text_lib
from cgsv_jax.experiment import deal, names, running

TREES = {
    "train": [
        "(3 (2 A) (4 (2 8\xa01\\/2) (3 joy)))",
        "(1 (2 Dull) (2 .))",
        "(4 (2 Pure) (4 joy))",
    ],
    "dev": ["(0 (2 a) (1 bore))"],
    "test": ["(4 (2 JOY) (3 unseen))", "(2 (2 a))"],
}
# An ellipsis of cp1252 inside a line, a Latin-1 letter, blanks at the end.
SNIPPETS = {
    "neg": [b"\x85dull , dull", b"clich\xe9 ", b"it fails", b"no plot", b"a bore"],
    "pos": [b"pure joy .", b"it works", b"a film\x85 to love  ", b"all heart", b"wit"],
}

pytestmark = pytest.mark.usefixtures("own_folders")


def sst_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, trees in TREES.items():
            file.writestr(f"trees/{name}.txt", "\n".join([*trees, ""]).encode())
    return buffer.getvalue()


def mr_archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, lines in SNIPPETS.items():
            content = b"\n".join([*lines, b""])
            member = tarfile.TarInfo(f"rt-polaritydata/rt-polarity.{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVES = {"sst": sst_archive, "mr": mr_archive}


def prepare(monkeypatch, tmp_path, name, content=None):
    content = content or ARCHIVES[name]()
    publish(monkeypatch, name, [content])
    path = tmp_path / "archive"
    path.write_bytes(content)
    return data.prepare(name, archive=path)


# ---------------------------------------------------------------- archives and builders


def test_trees_become_sentences():
    splits = builders.parse_sst(sst_archive())
    assert list(splits) == ["train", "validation", "test"]
    first, second, _ = splits["train"]
    assert first == {"text": "A 8\xa01\\/2 joy", "tree": TREES["train"][0], "label": 3}
    assert (second["text"], second["label"]) == ("Dull .", 1)
    assert [row["text"] for row in splits["test"]] == ["JOY unseen", "a"]


def test_an_ellipsis_ends_no_line():
    rows = builders.parse_mr(mr_archive())["train"]
    assert [row["label"] for row in rows] == [0] * 5 + [1] * 5
    assert rows[0]["text"] == "\x85dull , dull"
    assert rows[1]["text"] == "clich\xe9"
    assert rows[7]["text"] == "a film\x85 to love"


@pytest.mark.parametrize("name", ARCHIVES)
def test_prepared_from_a_local_archive_without_tensorflow(name, monkeypatch, tmp_path):
    """What is read back is what the archive holds, in its order; the download is not tried."""
    folder = prepare(monkeypatch, tmp_path, name)
    assert folder == tmp_path / "data" / name / "1.0.0"
    found = store.find(name)
    for split, rows in builders.ARCHIVES[name].parse(ARCHIVES[name]()).items():
        read = store.read(found, split)
        assert len(rows) == sum(found.shards[split])
        assert [text.decode() for text in read[0]] == [row["text"] for row in rows]
        assert read[1].tolist() == [row["label"] for row in rows]
    assert name in {line.name for line in data.available() if line.present}
    assert "tensorflow" not in sys.modules


def test_an_archive_is_held_against_its_checksum(monkeypatch, tmp_path):
    path = tmp_path / "archive"
    path.write_bytes(mr_archive() + b"more")
    with pytest.raises(ValueError, match=r"archive is not the archive of mr: its sha256 is \w+, t"):
        data.prepare("mr", archive=path)
    with pytest.raises(ValueError, match="/nowhere cannot be read: No such file"):
        data.prepare("mr", archive="/nowhere")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="fifo cannot be read: it is no regular file"):
        data.prepare("mr", archive=tmp_path / "fifo")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("intact", [True, False])
def test_downloaded_archives_are_held_against_their_checksum(intact, monkeypatch, tmp_path):
    content = mr_archive()
    sent = content if intact else content[:-1] + b"?"
    with served({builders.ARCHIVES["mr"].files[0].name: sent}) as address:
        publish(monkeypatch, "mr", [content], address)
        if intact:
            assert store.find("mr", data.prepare("mr").parents[1]).shards == {"train": [10]}
        else:
            with pytest.raises(ValueError, match=r"mr could not be prepared .*NonMatching"):
                data.prepare("mr")


def test_the_command_prepares_from_an_archive(monkeypatch, tmp_path, capsys):
    content = mr_archive()
    publish(monkeypatch, "mr", [content])
    (tmp_path / "archive").write_bytes(content)
    command = ["data", "prepare", "mr", "--archive", str(tmp_path / "archive")]
    assert main.main([*command, "--data-dir", str(tmp_path / "own")]) == 0
    folder = tmp_path / "own" / "mr" / "1.0.0"
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    (tmp_path / "archive").write_bytes(content[1:])
    assert main.main(command) == 2
    assert "is not the archive of mr" in capsys.readouterr().err


def test_an_absent_set_names_the_command_and_the_archive(tmp_path):
    with pytest.raises(ValueError, match="mr is not in") as error:
        data.load("mr")
    for word in ("`cgsv data prepare mr --data-dir", "--archive", "rt-polaritydata.tar.gz"):
        assert word in str(error.value)
    assert "TensorFlow" not in str(error.value)


# ---------------------------------------------------------------- tokens


def test_vocabulary_is_of_the_training_rows():
    """A word that only a validation or test row has is unknown, whatever its count there."""
    labels = np.zeros(2, np.int32)
    made = text_lib.dataset(
        ([b"b a b", b"A"], labels),
        ([b"c c c", b"a c"], labels),
        ([b"c b", b""], labels),
        length=3,
    )
    assert made.inputs.tolist() == [[3, 2, 3], [2, 0, 0]]  # a and b twice each: by the alphabet
    assert made.test_inputs.tolist() == [[1, 1, 1], [2, 1, 0]]
    assert made.validation[0].tolist() == [[1, 3, 0], [0, 0, 0]]
    assert made.inputs.dtype == np.int32


def test_what_is_cut_off_is_in_no_vocabulary():
    """So the largest token of the training inputs is the last word's."""
    one = np.zeros(1, np.int32)
    made = text_lib.dataset(([b"a b zz zz"], one), ([b"zz"], one), ([b"zz"], one), length=2)
    assert made.inputs.tolist() == [[2, 3]]
    assert made.test_inputs.tolist() == [[1, 0]]


def test_words_are_cut_at_spaces_alone():
    assert text_lib.tokens("A 8\xa01\\/2\x85 \u2003B".encode()) == [
        "a",
        "8\xa01\\/2\x85",
        "\u2003b",
    ]


def test_sst_keeps_its_splits(monkeypatch, tmp_path):
    prepare(monkeypatch, tmp_path, "sst")
    sst = data.load("sst")
    assert sst.inputs.shape == (3, text_lib.SST_LENGTH)
    assert sst.labels.tolist() == [3, 1, 4]
    assert sst.test_labels.tolist() == [4, 2]
    assert sst.validation[1].tolist() == [0]
    joy, a = sst.inputs[0, 2], sst.inputs[0, 0]
    assert sst.test_inputs[:, :2].tolist() == [[joy, text_lib.UNKNOWN], [a, 0]]
    for one, other in zip(data.load("sst"), sst, strict=True):  # from the cache
        np.testing.assert_array_equal(one[0], other[0])


def test_mr_is_shuffled(monkeypatch, tmp_path):
    """Both classes in every split, no row in two, and the same split again."""
    lines = {
        "neg": [f"bad film number {i}".encode() for i in range(100)],
        "pos": [f"good film number {i}".encode() for i in range(100)],
    }
    monkeypatch.setattr(sys.modules[__name__], "SNIPPETS", lines)
    prepare(monkeypatch, tmp_path, "mr")
    mr = data.load("mr")
    splits = (mr.labels, mr.validation[1], mr.test_labels)
    assert [len(labels) for labels in splits] == [160, 20, 20]
    for labels in splits:
        # A draw of n from equal classes without replacement; six deviations.
        assert abs(labels.mean() - 0.5) < 6 * 0.5 / np.sqrt(len(labels))
    order = text_lib.scattered([line for side in lines.values() for line in side])
    assert sorted(order) == list(range(200))
    np.testing.assert_array_equal(data.load("mr").inputs, mr.inputs)


def test_copies_of_a_text_lie_side_by_side():
    texts = [b"a", b"b", b"a", b"c", b"a"]
    order = text_lib.scattered(texts)
    places = [order.index(row) for row in (0, 2, 4)]
    assert places == list(range(places[0], places[0] + 3))


def test_texts_that_are_no_unicode(tmp_path):
    """Even where the halves of a letter would make a whole one."""
    rows = [{"text": half, "label": 0} for half in (b"a\xc3", b"\xa9b")]
    builders.builder("mr", tmp_path / "data", {"train": rows}).download_and_prepare()
    with pytest.raises(ValueError, match=r"mr in .*split train cannot be read: 'utf-8' codec"):
        data.load("mr")


# ---------------------------------------------------------------- an experiment


def test_a_set_keeps_its_own_validation_rows(monkeypatch, tmp_path):
    """All training rows are dealt out, and the server's rows are the official ones."""
    prepare(monkeypatch, tmp_path, "sst")
    config = names.configure(dataset="sst", clients=2, partitions="uniform")
    assert config.validation_share == 0
    (task,) = deal.tasks(config)
    assert task.sizes.sum() == 3
    sst = data.load("sst")
    for mine, official in zip(task.data.validation, sst.validation, strict=True):
        np.testing.assert_array_equal(mine, official)
    words = 2 + len({word for tree in TREES["train"] for word in _words(tree)})
    assert words * 300 in task.tensors
    share = names.configure(dataset="sst", clients=1, validation_share=0.5)
    with pytest.raises(ConfigError, match="validation rows of its own"):
        deal.tasks(share)


def _words(tree):
    return [word.lower() for word in builders.LEAF.findall(tree)]


def test_a_text_run_from_end_to_end(monkeypatch, tmp_path):
    prepare(monkeypatch, tmp_path, "sst")
    config = names.configure(
        dataset="sst", clients=3, partitions="uniform", rounds=2, epochs=1, seeds=1,
        algorithms="cgsv", optimizer_state="restart",
    )  # fmt: skip
    (cell,) = running.run(config).cells
    assert cell.evaluation.accuracy.shape == (1, 2, 3)
    assert np.isfinite(cell.record.loss).all()


# ---------------------------------------------------------------- the real sets, where they are

REAL = os.environ.get("TFDS_DATA_DIR")
UNKNOWN_SHARE = {"sst": 0.0525, "mr": 0.0563}  # of the test rows' words


def _real(name):
    if not REAL or not (pathlib.Path(REAL) / name).is_dir():
        pytest.skip(f"{name} is not in TFDS_DATA_DIR")
    return pathlib.Path(REAL)


@pytest.mark.parametrize(("name", "vocabulary"), [("sst", 16_583), ("mr", 19_142)])
def test_the_real_sets(name, vocabulary):
    root = _real(name)
    source, loaded = data.DATASETS[name], data.load(name, data_dir=root)
    assert loaded.inputs.shape == (source.num_rows[0], *source.input_shape)
    assert loaded.test_inputs.shape == (source.num_rows[1], *source.input_shape)
    assert len(np.unique(loaded.labels)) == source.num_classes
    assert np.array_equal(np.unique(loaded.inputs), np.delete(np.arange(vocabulary), 1))
    held_out = loaded.validation[0]
    lengths = [(x != 0).sum(axis=1) for x in (loaded.inputs, loaded.test_inputs, held_out)]
    assert max(map(max, lengths)) == source.input_shape[0]  # nothing is cut, nothing longer
    unknown = (loaded.test_inputs == text_lib.UNKNOWN).sum() / lengths[1].sum()
    assert abs(unknown - UNKNOWN_SHARE[name]) < 1e-4
    if name == "sst":
        assert np.bincount(loaded.labels).tolist() == [1092, 2218, 1624, 2322, 1288]
        assert np.bincount(loaded.validation[1]).tolist() == [139, 289, 229, 279, 165]
    else:
        for labels in (loaded.labels, loaded.test_labels, loaded.validation[1]):
            assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(labels))
        train = {row.tobytes() for row in loaded.inputs}
        assert not train & {row.tobytes() for row in loaded.test_inputs}


@pytest.mark.parametrize("name", ["sst", "mr"])
def test_the_original_archive_gives_the_set_that_is_there(name, tmp_path):
    """The same examples in the same order, the same features, classes and sizes."""
    root = _real(name)
    archive = root.parent / "raw" / name / builders.ARCHIVES[name].files[0].name
    if not archive.is_file():
        pytest.skip(f"there is no original archive {archive}")
    folder = data.prepare(name, tmp_path / "own", archive)
    there = store.find(name, root)
    for split, shards in there.shards.items():
        mine = store.read(store.find(name, tmp_path / "own"), split)
        for one, other in zip(mine, store.read(there, split), strict=True):
            assert len(one) == sum(shards)
            np.testing.assert_array_equal(one, other)
    for file in ("features.json", "label.labels.txt", "dataset_info.json"):
        mine, theirs = ((f / file).read_text() for f in (folder, there.folder))
        if file == "dataset_info.json":
            mine, theirs = (json.loads(x) | {"moduleName": ""} for x in (mine, theirs))
        assert mine == theirs
