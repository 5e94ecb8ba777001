"""Who may import whom, who may touch files, and what is loaded only when it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cgsv_jax"

# unit (module or folder) -> units of the package that it may import; its own folder goes without
# saying, and rules import each other's folders never. A unit that is not here may not exist.
RULES = {"types", "checks", "vectors", "rescale", "shares"}
MAY_IMPORT = {
    "__init__": None,  # None: anything
    "__main__": {"cli"},
    "types": set(),
    "files": set(),
    "ranges": set(),
    "terminal": set(),
    "vectors": {"types"},
    "rescale": {"types", "checks"},
    "shares": {"types"},
    "metrics": {"types", "vectors"},
    "uncertainty": {"metrics"},
    "timing": set(),
    "checks": {"types", "ranges", "vectors"},
    "config": {"types", "files", "ranges"},
    "contribution": RULES,
    "aggregation": RULES,
    "reward": RULES,
    "algorithms": RULES | {"contribution", "aggregation", "reward"},
    "local": {"types", "checks"},
    "layout": {"types"},
    "network": {"types", "vectors", "local", "layout"},
    "attacks": {"types", "checks", "vectors"},
    "participation": {"types", "checks", "vectors", "layout"},
    "simulation": {"types", "checks", "vectors", "local", "layout", "network"}
    | {"attacks", "participation"},
    "sweep": {"types", "layout", "simulation"},
    "runs": {"types"},
    "models": {"types", "checks", "vectors"},
    "data": {"types", "checks", "files"},
    "checkpoint": {"config", "files", "results", "runs"},
    "results": {"types", "config", "files", "metrics", "terminal"},
    "plots": {"types", "files", "metrics", "results"},
    "experiment": None,
    "profiling": {
        *("types", "config", "timing", "layout", "local", "simulation", "participation"),
        "experiment",
    },
    "searching": {"config", "files"},
    "sweeping": {
        *("types", "files", "config", "attacks", "layout", "results", "runs", "experiment"),
    },
    "sweep_results": {"files", "config", "results", "experiment", "sweeping"},
    "sweep_plots": {"files", "metrics", "plots", "results", "sweep_results", "sweeping"},
    "sweep_cli": {
        *("config", "runs", "results", "searching", "sweeping", "sweep_results", "sweep_plots"),
        *("ray_sweep", "checkpoint", "files", "terminal"),
    },
    "ray_sweep": {
        *("config", "experiment", "results", "runs", "searching", "sweeping", "sweep_results"),
        "files",
    },
    "cli": None,
}
# Outside libraries, and the units that may import them at the top of a module.
ONLY = {
    "flax": {"models"},
    "sklearn": {"data"},
    "polars": {"results", "plots", "sweep_results", "sweep_plots", "sweep_cli"},
    "matplotlib": {"plots", "sweep_plots"},
    "orbax": {"checkpoint"},
    "tyro": {"cli"},
    "rich": {"cli", "results", "sweep_cli", "terminal"},
    "msgspec": set(),
    "optax": {"local", "experiment"},
    **{name: set() for name in ("ray", "optuna")},
    **{name: set() for name in ("tensorflow", "tensorflow_datasets", "torch", "torchvision")},
    **{name: set() for name in ("experiments", "benchmarks", "tests")},
}
# These open files; the others ask them to. Ray has a folder of its own, which goes with it.
FILES = {
    "files",
    "terminal",
    "data",
    "checkpoint",
    "results",
    "plots",
    "sweep_results",
    "sweep_plots",
    "ray_sweep",
}
HOLDERS = {"cli", "sweep_cli", "experiment", "__init__"}  # may hold a path, and hand it on
FILE_MODULES = {"io", "os", "pathlib", "pickle", "shutil", "tempfile", "zipfile", "urllib"}
FILE_CALLS = {
    *("open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink", "rename"),
    *("np.save", "np.savez", "np.savez_compressed", "np.savetxt", "np.load", "np.loadtxt"),
}


def unit_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


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


def test_the_table_is_complete():
    assert {unit_of(path) for path in MODULES.values()} <= set(MAY_IMPORT)


@modules
def test_imports_go_one_way(path):
    unit = unit_of(path)
    allowed = MAY_IMPORT[unit]
    if allowed is None:
        return
    names = [n.split(".") for n in imported(ast.walk(tree_of(path)))]
    inside = {n[1] for n in names if n[0] == "cgsv_jax"}
    # `import cgsv_jax` and `from cgsv_jax import *` would hide everything.
    assert not [n for n in names if n in (["cgsv_jax"], ["cgsv_jax", "*"])]
    assert inside <= allowed | {unit}, f"{unit} imports {sorted(inside - allowed - {unit})}"


@modules
def test_libraries_stay_where_they_belong(path):
    """What is heavy or optional is imported in one place, or in the function that needs it."""
    unit = unit_of(path)
    tree = tree_of(path)
    for name in imported(tree.body):
        library = name.split(".")[0]
        assert unit in ONLY.get(library, {unit}), f"{unit} imports {library} at the top"
    for name in imported(ast.walk(tree)):
        assert name.split(".")[0] not in ("experiments", "benchmarks", "tests")


@modules
def test_only_some_touch_files(path):
    unit = unit_of(path)
    if unit in FILES:
        return
    tree = tree_of(path)
    if unit not in HOLDERS:
        libraries = {name.split(".")[0] for name in imported(ast.walk(tree))}
        assert not libraries & FILE_MODULES
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            names = {called, called.split(".")[-1]}
            assert not names & FILE_CALLS, f"line {node.lineno} calls {called}"


@modules
def test_only_the_command_prints(path):
    if unit_of(path) == "cli":
        return
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert not [c.lineno for c in calls if getattr(c.func, "id", None) == "print"]


def test_no_file_is_a_pickle():
    """Ray has its own; what is written here and read back is not."""
    for path in MODULES.values():
        libraries = {name.split(".")[0] for name in imported(ast.walk(tree_of(path)))}
        assert not libraries & {"pickle", "cloudpickle", "dill", "shelve"}, path


def loaded_by(module):
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_methods_load_nothing_heavy():
    heavy = {"tensorflow", "tensorflow_datasets", "torch", "polars", "matplotlib"}
    loaded = loaded_by("cgsv_jax.algorithms")
    assert "jax" in loaded
    assert not loaded & heavy


def test_the_command_does_not_load_ray():
    assert not loaded_by("cgsv_jax.cli") & {"ray", "optuna"}
