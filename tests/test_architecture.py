"""Who may import whom, who may touch files, and what is loaded only when it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cgsv_jax"

# folder (or module of the root) -> folders below it, which it may import; its own goes without
# saying, and a folder of rules imports no other. What is not here may not exist.
BELOW = {
    "types": set(),
    "host": set(),
    "core": {"types"},
    "models": {"types", "core"},
    "data": {"types", "core", "host"},
    "rules": {"types", "core"},
    "config": {"types", "core", "host", "rules"},
    "results": {"types", "core", "host", "models", "config"},
    "experiment": {"types", "core", "host", "models", "data", "rules", "config", "results"},
    "sweep": {"types", "core", "host", "rules", "config", "results", "experiment"},
    "command": {
        *("types", "core", "host", "data", "rules", "config", "results", "experiment", "sweep"),
    },
    "__init__": {"types", "core", "models", "data", "rules", "experiment"},
    "__main__": {"command"},
}
FAMILIES = {"contribution", "reputation", "aggregation", "reward"}  # of rules
# Outside libraries, and who may import them at the top of a module.
ONLY = {
    "flax": {"models"},
    "sklearn": set(),
    "scipy": set(),
    "polars": {"results", "sweep", "command/sweep", "command/show"},
    "matplotlib": {"results/figures", "sweep/figures"},
    "orbax": {"experiment/checkpoint"},
    "tyro": {"command/flags", "command/main"},
    "rich": {"host/terminal", "results/tables", "sweep/results", "command"},
    "msgspec": set(),
    "optax": {"core/local", "experiment/names", "rules/aggregation/stepped"},
    **{name: set() for name in ("ray", "optuna", "tensorboardX", "wandb", "mlflow")},
    **{name: set() for name in ("tensorflow", "tensorflow_datasets", "torch", "torchvision")},
    **{name: set() for name in ("experiments", "benchmarks", "tests")},
}
# These open files; the others ask them to. Ray has a folder of its own, which goes with it.
FILES = {"host", "data", "results", "experiment/checkpoint", "sweep/results", "sweep/figures"}
FILES |= {"sweep/on_ray", "experiment/tracking"}
HOLDERS = {"command", "experiment", "sweep"}  # may hold a path, and hand it on
FILE_MODULES = {"io", "os", "pathlib", "pickle", "shutil", "tempfile", "zipfile", "urllib"}
FILE_CALLS = {
    *("open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink", "rename"),
    *("np.save", "np.savez", "np.savez_compressed", "np.savetxt", "np.load", "np.loadtxt"),
}


def folder_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def among(path, places):
    """Whether a module, or a folder that it is in, is one of these."""
    name = path.relative_to(PACKAGE).with_suffix("")
    return any(str(each) in places for each in (name, *name.parents))


MODULES = {path.relative_to(ROOT): path for path in sorted(PACKAGE.rglob("*.py"))}
modules = pytest.mark.parametrize("path", MODULES.values(), ids=map(str, MODULES))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes):
    """Dotted names of what the import statements among the nodes bind or load."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_lies_flat():
    assert {folder_of(path) for path in MODULES.values()} == set(BELOW)


@modules
def test_imports_go_one_way(path):
    folder = folder_of(path)
    names = [n.split(".") for n in imported(ast.walk(tree_of(path)))]
    inside = {n[1] for n in names if n[0] == "cgsv_jax"}
    # `import cgsv_jax` and `from cgsv_jax import *` would hide everything.
    assert not [n for n in names if n in (["cgsv_jax"], ["cgsv_jax", "*"])]
    assert inside <= BELOW[folder] | {folder}, f"{folder} imports {sorted(inside)}"


@modules
def test_rules_do_not_know_each_other(path):
    """A rule that needs one of another folder is handed it; methods are made of all of them."""
    parts = path.relative_to(PACKAGE).parts
    if parts[0] != "rules" or parts[1] not in FAMILIES:
        return
    names = [n.split(".") for n in imported(ast.walk(tree_of(path)))]
    rules = {n[2] for n in names if n[:2] == ["cgsv_jax", "rules"]}
    assert not rules & ({*FAMILIES, "methods", "compose"} - {parts[1]})


@modules
def test_libraries_stay_where_they_belong(path):
    """What is heavy or optional is imported in one place, or in the function that needs it."""
    tree = tree_of(path)
    for name in imported(tree.body):
        library = name.split(".")[0]
        assert library not in ONLY or among(path, ONLY[library]), f"{library} at the top"
    for name in imported(ast.walk(tree)):
        assert name.split(".")[0] not in ("experiments", "benchmarks", "tests")


@modules
def test_only_some_touch_files(path):
    if among(path, FILES):
        return
    tree = tree_of(path)
    if not among(path, HOLDERS):
        libraries = {name.split(".")[0] for name in imported(ast.walk(tree))}
        assert not libraries & FILE_MODULES
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            names = {called, called.split(".")[-1]}
            assert not names & FILE_CALLS, f"line {node.lineno} calls {called}"


@modules
def test_only_the_command_prints(path):
    if folder_of(path) == "command":
        return
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert not [c.lineno for c in calls if getattr(c.func, "id", None) == "print"]


def test_no_file_is_a_pickle():
    """Ray has its own; what is written here and read back is not."""
    for path in MODULES.values():
        libraries = {name.split(".")[0] for name in imported(ast.walk(tree_of(path)))}
        assert not libraries & {"pickle", "cloudpickle", "dill", "shelve"}, path


# Each takes a good part of a second, and is needed by some of what one may do.
LATER = {
    *("sklearn", "scipy.stats", "matplotlib", "polars", "orbax", "ray", "optuna", "tensorflow"),
    *("tensorflow_datasets", "torch"),
}


def loaded_by(statement):
    """Which of LATER, and of a few that are there for certain, a fresh Python has loaded then."""
    names = (*sorted(LATER), "jax", "tyro")
    code = f"{statement}\nimport sys; print(*(n for n in {names} if n in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


def test_the_package_loads_what_it_needs():
    assert loaded_by("import cgsv_jax") == {"jax"}


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"], ["sweep", "--help"]])
def test_help_loads_what_it_needs(words):
    shown = f"try: main({words})\nexcept SystemExit as end: assert not end.code"
    loaded = loaded_by(f"from cgsv_jax.command.main import main\n{shown}")
    assert {"jax", "tyro"} <= loaded
    assert not loaded & LATER


def test_only_bind_reads_a_configuration_for_a_method_on_a_task():
    """After it there are functions, shapes and arrays; whoever needs more is handed a `Bound`."""
    kinds = {"Config", "Method", "Task"}
    found = []
    for name, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                words = {
                    ast.unparse(a.annotation).split(".")[-1] for a in arguments if a.annotation
                }
                if kinds <= words or {"config", "method", "task"} <= {a.arg for a in arguments}:
                    found.append(f"{name}: {node.name}")
    assert found == ["cgsv_jax/experiment/bind.py: bind"]


def test_the_body_of_the_round_is_its_box():
    """Who takes part wraps it; what is left are the paper's steps, in the paper's order."""
    tree = tree_of(PACKAGE / "core" / "simulation.py")
    (round_,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "round_"]
    body = round_.body[1:]  # without the docstring
    lines = sum(node.end_lineno - node.lineno + 1 for node in body)
    assert lines <= 15
