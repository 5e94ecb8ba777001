"""Compiled programs outlive their process, and nothing else does: no piece, no foreign choice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What is compiled, which of it was found, and what is said of the folder.
PROGRAM = """
import jax, jax.numpy as jnp
from cgsv_jax.host import compile_cache
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
compile_cache.WORTH = 0.0
print(compile_cache.use())
jax.jit(lambda x: jnp.sort(jnp.cos(x) @ x.T, axis=0))(jnp.ones((7, 7))).block_until_ready()
print(found.count("/jax/compilation_cache/cache_hits"))
print(found.count("/jax/compilation_cache/cache_misses"))
"""


def process(folder, **environment):
    """(what `use` said, programs found, programs compiled) of a new process."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "CGSV_"))}
    plain |= {"CGSV_CACHE_DIR": str(folder), "JAX_PLATFORMS": "cpu", **environment}
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env=plain,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not told.stderr
    said, hits, misses = told.stdout.split("\n")[:3]
    return said, int(hits), int(misses)


def pieces(folder):
    return sorted(folder.glob("compiled/*/*-cache"))


@pytest.mark.long
def test_the_next_process_compiles_nothing(tmp_path):
    said, hits, misses = process(tmp_path)
    assert said == str(next(tmp_path.glob("compiled/*")))
    assert hits == 0 < misses
    assert process(tmp_path) == ("None", misses, 0)
    # Killed between a program and the note of its use, or within the program: it is not there.
    broken, cut, *_ = pieces(tmp_path)
    broken.with_name(broken.name.removesuffix("-cache") + "-atime").unlink()
    broken.write_bytes(b"half of a program")
    cut.with_name(cut.name.removesuffix("-cache") + "-atime").write_bytes(b"")
    assert process(tmp_path) == ("None", misses - 2, 2)
    assert process(tmp_path) == ("None", misses, 0)


@pytest.mark.long
def test_it_is_left_where_somebody_minds_or_chose_another(tmp_path):
    assert process(tmp_path / "a", CGSV_NO_CACHE="1")[0::2][0] == "None"
    assert not (tmp_path / "a").exists()
    assert process(tmp_path / "a", JAX_ENABLE_COMPILATION_CACHE="false") == ("None", 0, 0)
    assert not (tmp_path / "a").exists()
    chosen = tmp_path / "own"
    assert process(tmp_path / "a", JAX_COMPILATION_CACHE_DIR=str(chosen))[0] == "None"
    assert not (tmp_path / "a").exists()
    # A file is in the way of the folder: a run goes on without.
    (tmp_path / "file").write_text("")
    said, hits, _ = process(tmp_path / "file")
    assert (said, hits) == ("None", 0)
