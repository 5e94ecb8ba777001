"""What the README and the docstrings show is what happens."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import cgsv_jax

ROOT = Path(__file__).parents[1]
MODULES = [
    m.name
    for m in pkgutil.walk_packages(cgsv_jax.__path__, "cgsv_jax.")
    if not m.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert not result.failed


def test_readme_examples():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted > 5
    assert not result.failed


def test_readme_names_what_exists():
    """Every path in the README is there, and every test that its lists name."""
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", text):
        assert (ROOT / path).exists(), path
    sources = {p.name: p.read_text() for p in (ROOT / "tests").glob("test_*.py")}
    named = re.findall(r"`(test_\w+)`", text)
    assert named
    for name in named:
        assert f"{name}.py" in sources or any(f"def {name}(" in s for s in sources.values()), name


def test_every_public_name_is_there():
    assert all(hasattr(cgsv_jax, name) for name in cgsv_jax.__all__)
