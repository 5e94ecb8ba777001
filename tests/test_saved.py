"""Models that a run keeps: evaluated elsewhere they are as right as they were, to the last row."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cgsv_jax as cg
from cgsv_jax import results
from cgsv_jax.command import main
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import checkpoint, execute, running
from cgsv_jax.results import directory, frames, saved
from cgsv_jax.sweep import points

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 30).astype(np.int32)
INPUTS = (np.eye(3)[LABELS] + RNG.normal(0, 0.7, (90, 3))).astype(np.float32)
DATA = cg.Dataset(INPUTS, LABELS, INPUTS[::2], LABELS[::2], (INPUTS[1::2], LABELS[1::2]))
CLIENTS = cg.partition.from_lists([[0, 1], [2, 30, 31], [32, 60, 61, 62], range(3, 29)])
# Of four clients two take part in a round: where one model is for all, who was absent is evaluated
# on the server's. An evaluation after every round, so that validation rows choose an early one.
ASKED = {"rounds": 6, "seeds": 2, "eval_every": 1, "cohort": 2, "learning_rate": 2.0}
ASKED |= {"quiet": True, "save_models": True}


def linear():
    def init(key):
        return {"kernel": jax.random.normal(key, (3, 3)), "bias": [jnp.zeros(3), jnp.zeros(())]}

    def apply(params, inputs, key=None):
        return inputs @ params["kernel"] + params["bias"][0][None, :] + params["bias"][1]

    return cg.Model(init, apply)


MODEL = linear()


def compared(**asked):
    return cg.compare(DATA, CLIENTS, MODEL, "fedavg", **{**ASKED, **asked})


@pytest.fixture(scope="module")
def result():
    return compared()


@pytest.fixture(scope="module")
def chosen():
    return compared(select="validation", eval_clients=3)


@pytest.fixture(scope="module")
def ended():
    """Seeds that end early, each with an evaluation of its own."""
    return compared(patience=1)


@pytest.fixture
def run(result, tmp_path):
    return result.save(tmp_path / "run")


def right(model, params, data=DATA):
    return np.asarray(jnp.argmax(model.apply(params, data.test_inputs), 1)) == data.test_labels


@pytest.mark.parametrize(
    "which", ["result", "chosen", pytest.param("ended", marks=pytest.mark.long)]
)
def test_they_are_those_of_the_evaluation_that_counts(which, request, tmp_path):
    result = request.getfixturevalue(which)
    kept = results.models(result.save(tmp_path / "run"), MODEL)
    early = 0
    for cell in frames.ended(result.cells):
        assert np.isfinite(100 * float(repr(cell).rsplit("accuracy ")[1].split(" ")[0]))
        for place, seed in enumerate(cell.seeds):
            own = kept["given", cell.method, 0, seed]
            counts = -1 if cell.counts is None else cell.counts[place]
            early += own.round < 6
            assert own.round == cell.evaluation.round[place, counts]
            evaluated = range(4) if cell.evaluated is None else cell.evaluated
            assert np.flatnonzero(~np.isnan(own.accuracy)).tolist() == [*evaluated]
            for column, client in enumerate(evaluated):
                found = right(MODEL, own.params(client))
                np.testing.assert_array_equal(found, cell.answers.right[place, column])
                assert own.accuracy[client] == cell.evaluation.accuracy[place, counts, column]
                assert own.accuracy[client] == np.float32(found.mean())
            server = right(MODEL, own.params("server")).mean()
            assert np.float32(server) == np.float32(own.server_accuracy)
            assert own.server_accuracy == cell.evaluation.server_accuracy[place, counts]
    assert (early > 0) == (which != "result")
    assert len(kept) == sum(len(cell.seeds) for cell in result.cells)


@pytest.mark.long
def test_whoever_keeps_them_computes_the_same(result):
    plain = compared(save_models=False)
    assert all(cell.models is None for cell in plain.cells)
    for name, frame in plain.frames.items():
        assert frame.equals(result.frames[name])


def test_equal_runs_have_equal_files(result, tmp_path):
    one, two = (result.save(tmp_path / name) / directory.MODELS for name in "ab")
    names_of = sorted(path.name for path in one.iterdir())
    assert names_of == [*(f"{n:04d}.npz" for n in range(4)), "manifest.json"]
    for name in names_of:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    (tmp_path / "a" / directory.MODELS / "mine.txt").write_text("not the run's")
    directory.create(tmp_path / "a", overwrite=True)
    assert [path.name for path in one.iterdir()] == ["mine.txt"]


def test_a_network_of_ones_own_has_to_be_handed_over(run):
    own = results.models(run)["given", "standalone", 0, 1]
    assert own.model is None
    nested = own.params(2)  # names alone are known: a list is a dictionary
    params = results.models(run, MODEL)["given", "standalone", 0, 1].params(2)
    np.testing.assert_array_equal(nested["kernel"], params["kernel"])
    np.testing.assert_array_equal(nested["bias"]["0"], params["bias"][0])
    with pytest.raises(ValueError, match="model has other parameters than the one that was train"):
        results.models(run, cg.models.mlp((3,), 3))


def test_what_is_damaged_is_refused(run, capsys):
    file = run / directory.MODELS / "0003.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    own = results.models(run, MODEL)["given", "fedavg", 0, 1]
    assert own.file == file
    with pytest.raises(ValueError, match=r"0003\.npz cannot be read: it is not what was written"):
        own.params(0)
    assert results.models(run, MODEL)["given", "fedavg", 0, 0].params(0)
    manifest = run / directory.MODELS / saved.MANIFEST
    said = json.loads(manifest.read_text())
    del said[directory.files.SEAL]
    for change, sentence in (
        ({"format": 2}, "its format is 2, 1 is read"),
        ({"files": 3}, r"it must hold `array`"),
        ({"files": [{**said["files"][0], "file": "../../secret.npz"}]}, "secret"),
    ):
        manifest.write_bytes(directory.files.document({**said, **change}))
        with pytest.raises(ValueError, match=sentence):
            results.models(run)
    manifest.write_text(json.dumps({**said, "format": 1, "files": []}))
    with pytest.raises(ValueError, match=r"manifest\.json"):  # its seal is that of another content
        results.models(run)
    manifest.unlink()
    assert main.main(["export", str(run), "--client", "0", "--out", str(run / "a.npz")]) == 2
    assert "holds no models, a run keeps them with --save-models" in capsys.readouterr().err


def test_one_is_taken_out(run, tmp_path, capsys):
    own = results.models(run, MODEL)["given", "standalone", 0, 1]
    asked = ["export", str(run), "--method", "standalone", "--seed", "1", "--client", "2", "--out"]
    for name in ("a.npz", "a.safetensors"):
        assert main.main([*asked, str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    from safetensors.numpy import load_file

    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:
        for arrays in (plain, load_file(tmp_path / "a.safetensors")):
            assert sorted(arrays) == ["bias/0", "bias/1", "kernel"]
            params = own.params(2)
            np.testing.assert_array_equal(arrays["kernel"], params["kernel"])
            assert arrays["bias/1"] == params["bias"][1]
    for flags, sentence in (
        ((run, "x.npz", 0), "--method is missing, it must be one of standalone, fedavg"),
        ((run, "x.npz", 0, "fedavg"), "--seed is missing, it must be one of 0, 1"),
        ((run, "x.npz", 0, "fedavg", 7), "--seed is 7, it must be one of 0, 1"),
        ((run, "x.npz", 9, "fedavg", 0), r"--client is 9, it must be in 0\.\.3, or server"),
        (
            (run, "x.pkl", 0, "fedavg", 0),
            r"--out is 'x\.pkl', it must end in \.npz or \.safetensors",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            saved.export(*flags)


def test_none_takes_the_place_of_a_file_of_a_run(run, tmp_path):
    own = run / directory.MODELS / "0001.npz"
    before = own.read_bytes()
    (tmp_path / "link").symlink_to(run / directory.MODELS)
    for out in (own, run / directory.MODELS / "new.npz", tmp_path / "link" / "0001.npz"):
        with pytest.raises(ValueError, match="which is in a run's folder models, it must lie else"):
            saved.export(run, out, 0, "fedavg", 0)
    assert own.read_bytes() == before
    saved.export(run, run / "mine.npz", 0, "fedavg", 0)
    with pytest.raises(ValueError, match="which is in a run directory already, it must be new"):
        saved.export(run, run / "mine.npz", 1, "fedavg", 0)
    (tmp_path / "config.json").write_text("{}")  # somebody's project, as many have one
    file = tmp_path / "models" / "a.npz"
    for client in (0, 1):
        assert saved.export(run, file, client, "fedavg", 0) == file


@pytest.mark.long
def test_a_run_that_was_stopped_ends_with_the_same_bits(result, tmp_path):
    config = result.config

    def go_on(after):
        looks = []
        kept = checkpoint.of_run(
            tmp_path, lambda: {"config": "this"}, 1, lambda: len(looks) >= after
        )
        return running.run(config, looks.append, result.tasks, kept.keeper)

    for after in (3, 9):
        with pytest.raises(execute.Stopped):
            go_on(after)
    again = go_on(10**6)
    for one, other in zip(result.cells, again.cells, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.models, other.models)


def test_what_it_takes_is_said_before(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cgsv_jax.host.files.host_memory", lambda: 500_000)
        with pytest.raises(ConfigError, match=r"--save-models.* 4 times 5 models"):
            cg.compare(DATA, CLIENTS, "mlp", "fedavg", hidden=(2000,), **ASKED)
    with pytest.raises(ConfigError, match="--save-models does nothing in a sweep"):
        points.grid({"algorithms": "cgsv", "save_models": True, "rounds": 2}, {"beta": [1, 2]})


ELSEWHERE = """
import sys
import numpy as np
import cgsv_jax as cg
from cgsv_jax import experiment, results
run, method, seed, client = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
(key, own), = [(k, v) for k, v in results.models(run).items() if k[1] == method and k[3] == seed]
data = np.load(sys.argv[5])
logits = own.model.apply(own.params(client), data["inputs"])
print(float(np.float32((np.argmax(logits, 1) == data["labels"]).mean())))
"""


@pytest.mark.long
@pytest.mark.parametrize("model", ["mlp", "mnist_cnn"])
def test_another_process_has_the_same_accuracy(model, tmp_path):
    shape = {"mlp": (8, 8, 1), "mnist_cnn": (19, 22, 2)}[model]
    inputs = RNG.normal(size=(90, *shape)).astype(np.float32) + LABELS[:, None, None, None] - 1
    data = cg.Dataset(inputs, LABELS, inputs[::2], LABELS[::2])
    asked = {**ASKED, "rounds": 1, "cohort": None, "learning_rate": 0.05, "seeds": 1}
    result = cg.compare(data, CLIENTS, model, "cgsv", **asked, out=tmp_path / "run")
    test = {"inputs": data.test_inputs, "labels": data.test_labels}
    np.savez(tmp_path / "test.npz", **test)
    words = [str(tmp_path / "run"), "cgsv", "0", "3", str(tmp_path / "test.npz")]
    out = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *words], capture_output=True, text=True, cwd=ROOT
    )
    assert out.returncode == 0, out.stderr
    accuracy = result.cells[1].evaluation.accuracy[0, -1, 3]
    assert float(out.stdout) == accuracy
    assert accuracy > 1 / 3
