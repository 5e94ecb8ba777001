"""No file that is written or read can hold code: nothing is a pickle."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest

from cgsv_jax.data import owners, store

ROOT = Path(__file__).parent.parent
FILES = {
    path.relative_to(ROOT): path
    for folder in ("cgsv_jax", "experiments", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
# Modules whose files are pickles, or that pickle on the way.
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# NumPy's writer pickles objects unless told not to; its reader refuses them, which is said as well.
# `np.savez` cannot be told in NumPy 2.0: what it is given is looked at, see the last test.
EXPLICIT = ("np.load", "numpy.load", "np.save", "numpy.save", "jnp.load", "jnp.save")
# Calls that read or write pickles whatever their arguments.
PICKLES = {"read_pickle", "to_pickle", "serialize_executable"}


def complaints(tree):
    """Every way in which a module could write or read a pickle."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            for name in (module, *(f"{module}.{n}" for n in names)) if module else names:
                if PICKLING & set(name.split(".")):
                    yield f"line {node.lineno} imports {name}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            refuses = isinstance(node.value, ast.Constant) and node.value.value is False
            yield from () if refuses else [f"line {node.value.lineno} may allow pickles"]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {k.arg: k.value for k in node.keywords}
            if called in EXPLICIT and "allow_pickle" not in given:
                yield f"line {node.lineno} calls {called} without allow_pickle=False"
            if called == "torch.load" and ast.unparse(given.get("weights_only", node)) != "True":
                yield f"line {node.lineno} calls torch.load without weights_only=True"
            if called == "torch.save":
                yield f"line {node.lineno} calls torch.save, which pickles"
            if called.split(".")[-1] in PICKLES:
                yield f"line {node.lineno} calls {called}"


@pytest.mark.parametrize("path", FILES.values(), ids=map(str, FILES))
def test_nothing_pickles(path):
    assert list(complaints(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import dump",
        "from concurrent import pickle",
        "import numpy as np; np.load('x')",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "np.save('x', y)",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "frame.to_pickle('x')",
    ],
)
def test_the_walk_finds_what_it_looks_for(line):
    assert list(complaints(ast.parse(line)))


class Evil:
    """Would leave a file behind if it were ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def evil_array(path):
    array = np.empty(3, object)
    array[0] = Evil(path)
    return array


@pytest.mark.parametrize("name", ["owners.npy", "owners.npz", "owners.pkl"])
def test_owners_that_are_a_pickle_are_refused(name, tmp_path):
    file, proof = tmp_path / name, tmp_path / "executed"
    write = {
        ".npy": lambda: np.save(file, evil_array(proof), allow_pickle=True),
        ".npz": lambda: np.savez(file, evil_array(proof)),
        ".pkl": lambda: file.write_bytes(pickle.dumps(Evil(proof))),
    }
    write[file.suffix]()
    with pytest.raises(ValueError, match=r"must be a \.npy or \.npz file"):
        owners.load(file, 3)
    assert not proof.exists()


def test_a_cache_that_is_a_pickle_is_rebuilt(tmp_path, monkeypatch):
    monkeypatch.setenv("CGSV_CACHE_DIR", str(tmp_path / "cache"))
    proof, good = tmp_path / "executed", (np.zeros((3, 28, 28, 1), np.uint8), np.arange(3))
    prepared = store.Prepared("mnist", "1.0.0", tmp_path, {})
    monkeypatch.setattr(store, "read", lambda prepared, split: good)
    store.arrays(prepared)
    (file,) = (tmp_path / "cache").iterdir()
    np.savez(file, **dict.fromkeys(store.arrays(prepared), evil_array(proof)))
    np.testing.assert_array_equal(store.arrays(prepared)["train_labels"], good[1])
    assert not proof.exists()
    np.testing.assert_array_equal(np.load(file, allow_pickle=False)["train_labels"], good[1])
