"""Whatever a stranger's word or file is, it ends in a value or in one sentence that names it."""

import io
import json
import os
import pathlib

import numpy as np
import polars as pl
import pytest

from cgsv_jax.host import files


def npy(shape, kind="<i8", content=b""):
    """A .npy file whose header may claim anything."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def parquet(**columns):
    file = io.BytesIO()
    pl.DataFrame(columns).write_parquet(file)
    return file.getvalue()


def flipped(content, place, bit=0):
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


SEALED = json.dumps(files.sealed({"alpha": 0.95, "name": "ü"})).encode()


@pytest.mark.parametrize(
    ("read", "content", "says"),
    [
        (files.read_json, b"", "Expecting value"),
        (files.read_json, b"[" * 100_000, "nested too deeply"),
        (files.read_json, b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
        (files.read_json, b'{"a": 1, "a": 2}', "'a' twice"),
        (files.read_json, b'{"a": NaN}', "NaN"),
        (files.read_json, b'{"a": -Infinity}', "-Infinity"),
        (files.read_json, b"\xff{}", "decode"),
        (files.read_json, b"[1]", "must hold"),
        (files.read_json, b'{"a": "\\uD800"}', "surrogates not allowed"),
        (files.read_json, SEALED.replace(b"0.95", b"0.94"), "changed or damaged"),
        (files.read_arrays, b"", "EOF"),
        (files.read_arrays, b"text", "magic"),
        (files.read_arrays, npy((10**12,)), "claims 8,000,000,000,000 bytes"),
        (files.read_arrays, npy((10**8,), "<U100000000"), "claims"),
        (files.read_arrays, npy((3,), content=bytes(23)), "it has 23"),
        (files.read_arrays, npy((3,), content=bytes(25)), "it has 25"),
        (files.read_arrays, npy((1,), "|O", bytes(8)), "objects"),
        (files.read_arrays, b"PK\x03\x04" + bytes(100), "not a zip file"),
        (files.read_table, b"", "cannot be read"),
        (files.read_table, b"PAR1" + bytes(100) + b"PAR1", "cannot be read"),
    ],
)
def test_what_a_file_may_hold(tmp_path, read, content, says):
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"x cannot be read") as error:
        read(file)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [files.read_json, files.read_arrays, files.read_table])
def test_only_regular_files_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "link", tmp_path, "/dev/zero", tmp_path / "none"):
        with pytest.raises(ValueError, match="cannot be read"):
            read(path)


def test_every_flipped_bit_of_a_sealed_document_is_refused_or_changes_nothing(tmp_path):
    file, accepted = tmp_path / "x.json", 0
    for place in range(len(SEALED)):
        for bit in range(8):
            file.write_bytes(flipped(SEALED, place, bit))
            try:
                document = files.read_json(file, must_be_sealed=True)
            except ValueError as error:
                assert "cannot be read" in str(error)  # noqa: PT017
                continue
            assert document == {"alpha": 0.95, "name": "ü"}
            accepted += 1
    assert accepted < 40  # a blank between two tokens becomes another blank


def test_a_document_without_its_seal_is_another_one(tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(SEALED.replace(b"sha256", b"sha257"))
    with pytest.raises(ValueError, match="changed or damaged"):
        files.read_json(file, must_be_sealed=True)
    told = []
    assert files.read_json(file, edited=told.append, must_be_sealed=True)["alpha"] == 0.95
    assert told == [f"{file} was changed since it was written"]


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.zeros((0, 2))}
    arrays["d"] = np.asfortranarray(arrays["a"])
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    np.save(tmp_path / "x.npy", arrays["d"])
    for name, read in files.read_arrays(tmp_path / "x.npz").items():
        np.testing.assert_array_equal(read, arrays[name])
        assert read.dtype == arrays[name].dtype
    np.testing.assert_array_equal(files.read_arrays(tmp_path / "x.npy")[""], arrays["a"])
    with pytest.raises(ValueError, match="claims 16 bytes"):
        files.read_arrays(tmp_path / "x.npz", most=60)


def test_no_flipped_bit_of_an_archive_loses_an_array(tmp_path):
    file, arrays = tmp_path / "x.npz", [np.arange(3), np.arange(2)]
    np.savez(file, *arrays)
    content = file.read_bytes()
    for place in range(len(content)):
        file.write_bytes(flipped(content, place, place % 8))
        try:
            found = list(files.read_arrays(file).values())
        except ValueError:
            continue
        for read, array in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(read, array)


def test_a_table_is_held_against_digest_columns_and_size(tmp_path):
    file, content = tmp_path / "x.parquet", parquet(a=[1, 2], b=["x", None])
    file.write_bytes(content)
    digest = files.digest_of_file(file)
    assert files.read_table(file, ["a"], digest).rows() == [(1, "x"), (2, None)]
    for wrong in ({"columns": ["c"]}, {"digest": "0" * 64}, {"most": 8}):
        with pytest.raises(ValueError, match=r"x\.parquet cannot be read"):
            files.read_table(file, **wrong)
    for place in range(0, len(content), 7):
        file.write_bytes(flipped(content, place))
        with pytest.raises(ValueError, match="changed or damaged"):
            files.read_table(file, ["a"], digest)
    many = pl.repeat(1, 10**7, eager=True, dtype=pl.Int8)
    file.write_bytes(parquet(a=many))  # some thousand bytes
    with pytest.raises(ValueError, match="claims 10,000,000 rows"):
        files.read_table(file, most=10**7)


@pytest.mark.parametrize("word", ["", "a\0b", "a" * 300, "~nosuchuser/x", 3, None, b"x", "\udcff"])
def test_words_that_are_no_paths(word):
    with pytest.raises(ValueError, match=r"^--out is "):
        files.path_of(word, "--out")


def test_words_that_are_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.path_of("~/x", "--out") == tmp_path / "x"
    assert files.path_of(pathlib.Path("x"), "--out") == pathlib.Path("x")
    assert files.path_of("a\x1b[2J", "--out").name == "a\x1b[2J"


def test_nothing_leads_out_of_a_directory(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    assert files.inside(tmp_path / "run", "figures", "a-b.png").parent.name == "figures"
    for names in (("..",), ("a/b",), ("/x",), ("",), (".",), ("a\x1b",), ("é" * 128,), ("link",)):
        with pytest.raises(ValueError, match=r"is no name|symbolic link"):
            files.inside(tmp_path / "run", *names, "x")


def test_digests_tell_types_shapes_and_bits_apart():
    x = np.arange(4, dtype=np.int32)
    others = [x.astype(np.int64), x.reshape(2, 2), x[::-1], x.view(np.float32), x[:3]]
    digests = {files.digest_of_arrays([y]) for y in (x, *others)}
    assert len(digests) == 6
    assert files.digest_of_arrays([np.asfortranarray(x.reshape(2, 2))]) in digests
