"""The tutorials of the pages are scripts that run as they stand, and hold what they claim."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OTHERS = {"early_stopping_tensorboard"}  # looked at more closely in test_tracking.py
SCRIPTS = {path.stem: path for path in sorted((ROOT / "docs" / "tutorials").glob("*.py"))}
EXPECTED = {"own_measure", "own_method", "own_model", "own_data", "export", "replay"}


def test_every_tutorial_is_tried():
    assert SCRIPTS.keys() == EXPECTED | OTHERS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_tutorial_is_short(name):
    lines = SCRIPTS[name].read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith("#")]) < 25


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_tutorial_runs_and_claims_what_is_so(name, tmp_path):
    path = SCRIPTS[name]
    assert "assert " in path.read_text(encoding="utf-8")
    code = f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
