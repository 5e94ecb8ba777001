"""Where a run was computed."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on besides its config; no times, no names of hosts."""
    return {
        "versions": versions(),
        "device": device(),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "git": _checkout(pathlib.Path(__file__).resolve().parent),
    }


def versions() -> dict[str, str | None]:
    """Of Python and the libraries that compute."""
    names = ("jax", "jaxlib", "numpy", "flax", "optax", "cgsv_jax")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def device() -> dict[str, Any]:
    """The first device, and how many there are."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checkout(package: pathlib.Path) -> dict[str, Any]:
    """Commit of the checkout that `package` belongs to, and whether it differs from it."""
    # A GIT_DIR of the caller's would answer for another repository.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*args: str) -> str | None:
        command = ["git", "--no-optional-locks", "-C", str(package), *args]
        try:
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An environment inside somebody's repository is not a checkout of this package.
    if git("ls-files", "--error-unmatch", "types.py") is None:
        return {"commit": None, "dirty": None}
    changed = git("status", "--porcelain", "--untracked-files=no")
    # Untracked files count where they would be imported; run directories elsewhere do not.
    added = git("ls-files", "--others", "--exclude-standard", "--", ".")
    dirty = None if changed is None or added is None else bool(changed or added)
    return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}
