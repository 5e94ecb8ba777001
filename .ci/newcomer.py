#!/usr/bin/env python3
"""A newcomer's way, from a fresh clone: `.ci/newcomer.py`, or some steps of it by name.

What the README tells is read from the README: its two commands, in a clone of what is committed.
Then the site, strictly; every tutorial, as a script of its own; and the wheel in fresh
environments, away from the repository. A Python that is not on this machine is a skip that says so.
Ends with 1 if a step failed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.13")


class Step(NamedTuple):
    """Something that a newcomer does, or why it cannot be done here."""

    name: str
    command: str  # of a shell
    where: Path
    skipped: str = ""


def steps(clone: Path, elsewhere: Path) -> Iterator[Step]:
    """All steps, in order; each needs those before it."""
    yield Step("clone", f"git clone --quiet '{ROOT}' '{clone}'", elsewhere)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^```sh\n(.*?)\n```", readme, re.M | re.S)[:2]
    yield Step("first command", first, clone)
    yield Step("second command", second, clone)
    site = ".venv/bin/pip install -q -e '.[docs]' && .venv/bin/mkdocs build --strict --quiet"
    yield Step("site", site, clone)
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
        where = elsewhere / path.stem
        where.mkdir()
        script = f"'{clone}/.venv/bin/python' '{clone}/docs/tutorials/{path.name}'"
        yield Step(f"tutorial {path.stem}", script, where)
    wheel = elsewhere / "dist"
    yield Step("wheel", f".venv/bin/pip wheel -q --no-deps -w '{wheel}' .", clone)
    for version in PYTHONS:
        where = elsewhere / f"python{version}"
        where.mkdir()
        made = environment(version)
        commands = (
            made,
            f"{installer(made)} '{wheel}'/*.whl",
            "env/bin/cgsv --version",
            "env/bin/cgsv compare --out run",
            "env/bin/cgsv compare --config run/config.json --out again",
            "cmp run/summary.parquet again/summary.parquet",
        )
        missing = "" if made else f"neither uv nor python{version} is here"
        yield Step(f"wheel, Python {version}", " && ".join(commands), where, missing)


def environment(version: str) -> str:
    """What makes an environment `env` of a version of Python; nothing where none can be made."""
    if shutil.which("uv"):
        ask = ["uv", "python", "find", version]
        if not subprocess.run(ask, capture_output=True, check=False).returncode:
            return f"uv venv --quiet --python {version} env"
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))  # whatever is chosen
    python = kept[-1] if kept else shutil.which(f"python{version}")
    return f"'{python}' -m venv env" if python else ""


def installer(made: str) -> str:
    """What installs into it."""
    return "uv pip install -q --python env" if made.startswith("uv") else "env/bin/pip install -q"


def main() -> int:
    """Runs the steps, prints a line each, and says how many failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("only", nargs="*", help="words that the names of steps contain")
    parser.add_argument("--where", type=Path, help="an empty folder to work in, which is kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as made:
        elsewhere = asked.where or Path(made)
        elsewhere.mkdir(exist_ok=True)
        failed = []
        for step in steps(elsewhere / "clone", elsewhere):
            if asked.only and step.name != "clone" and not any(w in step.name for w in asked.only):
                continue
            if step.skipped:
                print(f"SKIPPED  {step.name}: {step.skipped}", flush=True)
                continue
            began = time.monotonic()
            done = subprocess.run(
                step.command,
                shell=True,
                cwd=step.where,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            word = "FAILED " if done.returncode else "passed "
            print(f"{word}  {step.name}, {time.monotonic() - began:.0f} s", flush=True)
            if done.returncode:
                failed.append(step.name)
                print(f"$ {step.command}\n{done.stdout[-5000:]}", flush=True)
    print(f"{len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
