"""Compiled programs, kept for the next process.

JAX keeps them by what is compiled, the versions of JAX and XLA, and their flags. It does not know
for which processor XLA's code is, so that each has a folder of its own; and a process that is
killed while it writes leaves a piece that nothing would replace.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import time

import filelock
import jax

from cgsv_jax.host import files

MOST = 1 << 30  # bytes; of more, what was used longest ago goes
WORTH = 0.1  # seconds; what compiles faster is compiled again
WAIT = 10.0  # seconds for another process that is writing
LEAVE = "CGSV_NO_CACHE"  # an environment variable that leaves it all


def use() -> pathlib.Path | None:
    """Lets this process read and keep compiled programs, in `files.cache_folder()`.

    A cache that somebody chose for JAX itself (JAX_COMPILATION_CACHE_DIR) stays the one. It is a
    convenience: where there is no such folder, or it cannot be written, nothing is kept.

    Returns:
      The folder, if it was made just now; None: there is nothing to be said.
    """
    settings = jax.config.values
    chosen = settings["jax_compilation_cache_dir"] is not None
    if os.environ.get(LEAVE) or chosen or not settings["jax_enable_compilation_cache"]:
        return None
    try:
        folder = files.cache_folder() / "compiled" / _processor()
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lockfile", timeout=WAIT):  # JAX's own
            _tidy(folder)
    except (ValueError, OSError):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH)
    return folder if new else None


def _tidy(folder: pathlib.Path) -> None:
    """Removes pieces: JAX notes when a program was used after all of it is written."""
    for file in folder.glob("*-cache"):
        noted = file.with_name(file.name.removesuffix("-cache") + "-atime")
        if not noted.exists() or noted.stat().st_size != len(time.time_ns().to_bytes(8)):
            file.unlink(missing_ok=True)
            noted.unlink(missing_ok=True)


def _processor() -> str:
    """A name for what this processor can do: code for another one may not run on it."""
    what = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        what += re.findall(r"^(?:flags|Features)\s*:.*$", text, re.M)[:1]
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]
