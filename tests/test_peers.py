"""The comparison with other simulators, with a NumPy FedAvg in the place of a peer."""

import ast
import importlib.util
import io
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import benchmarks.peers
from benchmarks.peers import __main__ as command
from benchmarks.peers import comparison, environments, ours, protocol, work
from cgsv_jax import models
from cgsv_jax.experiment import timing

pytestmark = pytest.mark.nightly

FOLDER = Path(benchmarks.peers.__file__).parent
TINY = work.Case(
    kind="tiny MLP",
    network="mlp",
    hidden=(3,),
    shape=(5,),
    clients=4,
    rows=6,
    spread=0.6,
    batch=4,
    epochs=2,
    learning_rate=0.5,
    tolerance=1e-4,
    width=1,
)

# A peer in NumPy loops and float64. Its one environment variable breaks it in a chosen way.
PEER = """
import os
import time

import numpy as np

from benchmarks.peers import protocol

BROKEN = os.environ.get("BROKEN_PEER", "")


def gradient(params, x, y):
    depth = len(params) // 2
    layers = [x]
    for i in range(1, depth + 1):
        x = x @ params[f"fc{i}.weight"].T + params[f"fc{i}.bias"]
        x = np.maximum(x, 0) if i < depth else x
        layers.append(x)
    chances = np.exp(x - x.max(axis=1, keepdims=True))
    error = chances / chances.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    slopes = {}
    for i in range(depth, 0, -1):
        slopes[f"fc{i}.weight"] = error.T @ layers[i - 1]
        slopes[f"fc{i}.bias"] = error.sum(axis=0)
        error = error @ params[f"fc{i}.weight"] * (layers[i - 1] > 0)
    return slopes


def one_round(work, server):
    case, total = work.case, {n: np.zeros(p.shape) for n, p in server.items()}
    for i, size in enumerate(work.sizes):
        params = dict(server)
        held = slice(work.offsets[i], work.offsets[i + 1])
        rows, labels = np.float64(work.inputs[held]), work.labels[held]
        for _ in range(case.epochs):
            for at in range(0, size, case.batch):
                batch = slice(at, at + case.batch)
                slopes = gradient(params, rows[batch], labels[batch])
                params = {n: p - case.learning_rate * slopes[n] for n, p in params.items()}
        weight = 1 / case.clients if BROKEN == "weights" else size / work.sizes.sum()
        total = {n: t + weight * params[n] for n, t in total.items()}
    return total


def build(work):
    print("a library that prints where it should not")
    if BROKEN == "build":
        raise ValueError("no such\\nlibrary")
    state = {}

    def reset():
        state["server"] = {n: np.float64(p) for n, p in work.start.items()}

    def advance(rounds):
        if BROKEN == "advance":
            raise ArithmeticError("out of luck")
        if BROKEN == "exit":
            raise SystemExit("gave up")
        time.sleep(60 if BROKEN == "slow" else 0)
        for _ in range(rounds):
            state["server"] = one_round(work, state["server"])

    reset()
    return protocol.Federation(advance, reset, lambda: state["server"])


if __name__ == "__main__":
    protocol.serve(build, ("numpy",))
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "numpy_peer.py"
    path.write_text(PEER)
    return path


@pytest.fixture
def peer_of(script, tmp_path):
    """A running peer at the tiny case."""
    work.save(work.make(TINY), tmp_path)
    return lambda limit=60: protocol.Peer((sys.executable, str(script)), tmp_path, limit)


def numpy_build(script):
    spec = importlib.util.spec_from_file_location("numpy_peer", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build


# ---------------------------------------------------------------- the work and our side


def test_work_survives_the_folder(tmp_path):
    made = work.make(TINY)
    work.save(made, tmp_path)
    read = work.load(tmp_path)
    assert read.case == made.case
    assert np.unique(made.sizes).size > 1  # ragged
    assert made.offsets[-1] == len(made.inputs) == len(made.labels)
    for name in ("inputs", "labels", "offsets"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert list(read.start) == list(made.start)


@pytest.mark.parametrize(("hidden", "width"), [((3,), 1), ((3,), None), ((), 3)])
def test_ours_is_fedavg(script, hidden, width):
    """Two rounds, so that the second starts where the first ended; then the start again."""
    made = work.make(TINY._replace(hidden=hidden))
    theirs, mine = numpy_build(script)(made), ours.build(made, width)
    for federation in (theirs, mine):
        federation.advance(2)
    assert work.gap(made.start, theirs.parameters(), mine.parameters()) < 1e-5
    mine.reset()
    mine.advance(1)
    theirs.reset()
    theirs.advance(1)
    assert work.gap(made.start, theirs.parameters(), mine.parameters()) < 1e-5


@pytest.mark.parametrize("name", work.CASES)
def test_a_case_starts_with_the_parameters_of_its_network(name):
    case = work.smoke(work.CASES[name])
    start = models.params_from_torch(work.make(case).start)
    expected = jax.eval_shape(ours.model_of(case).init, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, start) == jax.tree.map(lambda x: x.shape, expected)


# ---------------------------------------------------------------- the pipe


def test_a_peer_does_what_it_is_asked(script, peer_of):
    reference = numpy_build(script)(work.make(TINY))
    with peer_of() as peer:
        assert peer.versions == {"numpy": np.__version__}
        assert peer.startup > 0
        assert 0 < peer.advance(1) < 10
        assert peer.advance(2) > 0
        reference.advance(3)
        for name, array in peer.parameters().items():
            np.testing.assert_allclose(array, reference.parameters()[name])
        peer.reset()
        reference.reset()
        for name, array in peer.parameters().items():
            np.testing.assert_array_equal(array, reference.parameters()[name])


def test_a_peer_tells_more_than_versions():
    wire = protocol.Wire(io.StringIO('{"do": "stop"}\n'), io.StringIO())
    nothing = protocol.Federation(lambda rounds: None, lambda: None, dict)
    protocol.answer(wire, nothing, ("numpy",), workers="threads")
    ready, stopped = map(json.loads, wire.write.getvalue().splitlines())
    assert ready == {
        "ready": True,
        "versions": {"numpy": np.__version__, "workers": "threads"},
    }
    assert stopped == {}


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("build", "ValueError: no such library"),
        ("advance", "ArithmeticError: out of luck"),
        ("exit", "it ended: gave up"),
        ("slow", "it took longer than 2 s and was stopped"),
    ],
)
def test_a_peer_that_fails_says_why(peer_of, monkeypatch, how, sentence):
    monkeypatch.setenv("BROKEN_PEER", how)
    started = time.monotonic()
    limit = 2 if how == "slow" else 60
    with pytest.raises(comparison.PeerError, match=sentence), peer_of(limit) as peer:
        peer.advance(1)
    assert time.monotonic() - started < 30


def test_a_program_that_cannot_start_says_why(tmp_path):
    work.save(work.make(TINY), tmp_path)
    with pytest.raises(comparison.PeerError, match="No module named"):
        protocol.Peer((sys.executable, "-m", "no_such_module"), tmp_path, 30)


def test_a_peer_that_ends_elsewhere_is_not_timed(script, monkeypatch):
    monkeypatch.setenv("BROKEN_PEER", "weights")
    made = work.make(TINY)
    with pytest.raises(comparison.PeerError, match="relative gap"):
        comparison.measure("N", (sys.executable, str(script)), made, ours.build(made, 1), 1)


# ---------------------------------------------------------------- environments


def test_an_installation_that_fails_is_a_sentence(tmp_path):
    """The whole of it, pip included; a path that is not there fails without a network."""
    missing = tmp_path / "not" / "there.whl"
    peer = environments.Peer("Nothing", "nothing", (str(missing),), ())
    found = environments.prepare("nothing", peer, tmp_path)
    assert found.python is None
    assert found.error.startswith("Nothing could not be installed: ERROR")
    assert "there.whl" in found.error
    assert "\n" not in found.error
    # What is incomplete is not taken for an environment.
    assert "is not installed" in environments.present("nothing", peer, tmp_path).error


def test_an_environment_with_other_requirements_is_not_used(tmp_path):
    home = tmp_path / "fake"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").touch()
    (home / "requirements.txt").write_text("fake==1\n")
    fake = environments.Peer("Fake", "fake", ("fake==1",), ())
    assert environments.present("fake", fake, tmp_path).python == home / "bin" / "python"
    newer = fake._replace(requirements=("fake==2",))
    assert environments.present("fake", newer, tmp_path).python is None


def test_a_peer_is_made_by_the_best_interpreter_there_is(tmp_path, monkeypatch):
    """Without one it has a sentence; and what another one made is not its environment."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"python-{name}").write_text("#!/bin/sh\necho no venv of mine; exit 1\n")
        (tmp_path / name / f"python-{name}").chmod(0o755)
    fake = environments.Peer("Fake", "fake", ("fake==1",), (), ("python-new", "python-old"))
    monkeypatch.setenv("PATH", "")
    refused = environments.prepare("fake", fake, tmp_path).error
    assert refused == "Fake could not be installed: the PATH has no python-new or python-old."
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    assert environments.interpreter(fake) == str(tmp_path / "old" / "python-old")
    # It is the one that is run.
    assert environments.prepare("fake", fake, tmp_path).error.endswith(": no venv of mine")
    home = tmp_path / "fake"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").touch()
    (home / "requirements.txt").write_text(f"# {tmp_path}/old/python-old\nfake==1\n")
    assert environments.present("fake", fake, tmp_path).python == home / "bin" / "python"
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}:{tmp_path / 'new'}")
    assert environments.interpreter(fake) == str(tmp_path / "new" / "python-new")
    assert environments.present("fake", fake, tmp_path).python is None


# ---------------------------------------------------------------- the command


def test_the_command_prints_what_it_measured_and_what_it_could_not(
    script, tmp_path, monkeypatch, capsys
):
    fake = environments.Peer("NumPy", "numpy", (), (str(script),))
    peers = {"numpy": fake, "gone": fake._replace(title="Gone")}

    def prepare(name):
        if name == "gone":
            return environments.Environment(None, "Gone could not be installed: ERROR: no.")
        return environments.Environment(Path(sys.executable))

    monkeypatch.setattr(environments, "PEERS", peers)
    monkeypatch.setattr(environments, "prepare", prepare)
    monkeypatch.setitem(work.CASES, "tiny", TINY._replace(rounds=2))
    monkeypatch.setattr(work, "smoke", lambda case: case)
    target = tmp_path / "numbers.json"
    command.main(["--smoke", "--cases", "tiny", "--json", str(target)])
    printed = capsys.readouterr().out
    assert f"| 4 tiny MLP clients, 2 epochs | NumPy {np.__version__} |" in printed
    assert "| Gone | not measured: Gone could not be installed: ERROR: no. |" in printed
    assert "2 rounds in all: NumPy" in printed
    measured, missing = json.loads(target.read_text())
    assert len(measured["theirs"]["seconds"]) == len(measured["ours"]["seconds"]) == 2
    assert measured["gap"] < 1e-5
    assert "could not be installed" in missing["error"]


def test_a_row_says_which_workers_it_measured():
    """Of one release, threads under a lock and threads without one are different peers."""
    once = timing.Timing(1.0, 1.0, 1.0, (1.0,))
    result = comparison.Comparison(
        peer="Fast",
        versions={"fast": "3.0", "numpy": "2.0", "workers": "threads"},
        case=TINY,
        theirs=once,
        ours=once,
        ratio=once,
        gap=0.0,
        last_gap=0.0,
        startup=1.0,
        first=1.0,
        our_first=1.0,
    )
    assert "| Fast 3.0, threads |" in command.row(result)
    plain = result._replace(versions={"fast": "3.0"})
    assert "| Fast 3.0 |" in command.row(plain)


def test_compare_alternates_and_pairs(script, monkeypatch):
    fake = environments.Peer("NumPy", "numpy", (), (str(script),))
    found = environments.Environment(Path(sys.executable))
    monkeypatch.setitem(environments.PEERS, "numpy", fake)
    monkeypatch.setattr(environments, "prepare", lambda name: found)
    result = benchmarks.peers.compare("numpy", TINY, repeats=3)
    pairs = zip(result.theirs.seconds, result.ours.seconds, strict=True)
    assert result.ratio.seconds == tuple(a / b for a, b in pairs)
    assert result.peer == "NumPy"


# ---------------------------------------------------------------- the peers


THEIRS = ["__init__", "work", "protocol", "jax_networks", "torch_networks"]
THEIRS += [f"with_{name}" for name in environments.PEERS]


@pytest.mark.parametrize("name", THEIRS)
def test_a_peer_needs_nothing_of_ours(name):
    """Their environments hold neither this package nor its libraries."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    for node in tree.body:  # what is imported inside a function is imported when it is called
        names = [alias.name for alias in getattr(node, "names", ())]
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias}" for alias in names]
        elif not isinstance(node, ast.Import):
            continue
        for imported in names:
            assert imported.split(".")[0] not in ("cgsv_jax", "flax", "optax")
            if imported.startswith("benchmarks"):
                assert imported.split(".")[2] in THEIRS


@pytest.mark.parametrize("name", environments.PEERS)
def test_an_installed_peer_agrees(name):
    found = environments.present(name)
    if found.python is None:
        pytest.skip(found.error)
    result = comparison.compare(name, "logistic", repeats=1, smoke=True, limit=120)
    assert result.gap < result.case.tolerance
