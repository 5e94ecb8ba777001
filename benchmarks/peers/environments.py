"""An environment per peer: what is installed, how its program is started, and that it is there.

    python -m benchmarks.peers.environments [fedjax drjax ...]

Plain `python -m venv` and `pip install` into `.venv-peers/<peer>`, which git ignores. What was
completed with the same requirements and by the same interpreter is used again.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.protocol import ROOT

FOLDER = ROOT / ".venv-peers"
_STAMP = "requirements.txt"  # written last: without it an environment is incomplete


class Peer(NamedTuple):
    """A library to compare with."""

    title: str
    distribution: str  # whose version is quoted
    requirements: tuple[str, ...]
    program: tuple[str, ...]  # arguments of its interpreter; the folder of the work follows
    # Commands that start a Python new enough for it, the best first; (): the one that runs this.
    interpreters: tuple[str, ...] = ()


_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={os.cpu_count()}")

PEERS = {
    "fedjax": Peer(
        title="FedJAX",
        distribution="fedjax",
        requirements=("fedjax==0.0.17", "jax==0.10.2", "dm-haiku==0.0.17", "numpy==2.4.6"),
        program=("-m", "benchmarks.peers.with_fedjax"),
    ),
    "drjax": Peer(
        title="DrJAX",
        distribution="drjax",
        requirements=("drjax==0.2.1", "jax==0.10.2", "numpy==2.4.6"),
        program=("-m", "benchmarks.peers.with_drjax"),
    ),
    "pfl": Peer(
        title="pfl",
        distribution="pfl",
        requirements=("pfl==0.6.0", "torch==2.13.0", "numpy==2.4.6"),
        program=(*_TORCHRUN, "-m", "benchmarks.peers.with_pfl"),
    ),
    "flower": Peer(
        title="Flower",
        distribution="flwr",
        requirements=("flwr[simulation]==1.42.0", "torch==2.13.0", "numpy==2.4.6"),
        program=("-m", "benchmarks.peers.with_flower"),
    ),
    "blazefl": Peer(
        title="BlazeFL",
        distribution="blazefl",
        requirements=("blazefl[contrib,reproducibility]==3.0.0", "torch==2.13.0", "numpy==2.4.6"),
        program=("-m", "benchmarks.peers.with_blazefl"),
        # It needs 3.14, best the build without a global interpreter lock: its workers are threads.
        interpreters=("python3.14t", "python3.14"),
    ),
}


class Environment(NamedTuple):
    """An interpreter, or the sentence that says why there is none."""

    python: Path | None
    error: str | None = None


def interpreter(peer: Peer) -> str | None:
    """The Python that makes the peer's environment; None where the PATH has none for it."""
    if not peer.interpreters:
        return sys.executable
    return next(filter(None, map(shutil.which, peer.interpreters)), None)


def present(name: str, peer: Peer | None = None, folder: Path = FOLDER) -> Environment:
    """The environment if it is there and complete; nothing is installed.

    Args:
        name: of the environment's folder.
        peer: what it must hold; default: that of the table.
        folder: of all environments.
    """
    peer = peer or PEERS[name]
    home = folder / name
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = home / _STAMP
    if python.exists() and stamp.exists() and stamp.read_text() == _text(peer):
        return Environment(python)
    return Environment(
        None,
        f"{peer.title} is not installed: run `python -m benchmarks.peers.environments {name}`.",
    )


def prepare(name: str, peer: Peer | None = None, folder: Path = FOLDER) -> Environment:
    """The environment, created first if need be. It never raises: an error is a sentence.

    Arguments as in `present`.
    """
    peer = peer or PEERS[name]
    found = present(name, peer, folder)
    if found.python is not None:
        return found
    base = interpreter(peer)
    if base is None:
        needed = " or ".join(peer.interpreters)
        return Environment(None, f"{peer.title} could not be installed: the PATH has no {needed}.")
    home = folder / name
    shutil.rmtree(home, ignore_errors=True)
    steps = (
        (base, "-m", "venv", str(home)),
        (str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *peer.requirements),
    )
    for step in steps:
        try:
            run = subprocess.run(step, capture_output=True, text=True)
        except OSError as error:
            return Environment(None, f"{peer.title} could not be installed: {error}.")
        if run.returncode:
            return Environment(
                None, f"{peer.title} could not be installed: {_reason(run.stderr or run.stdout)}"
            )
    (home / _STAMP).write_text(_text(peer))
    return present(name, peer, folder)


def _text(peer: Peer) -> str:
    by = [f"# {interpreter(peer)}"] if peer.interpreters else []
    return "\n".join([*by, *peer.requirements]) + "\n"


def _reason(output: str) -> str:
    """pip's last line that is an error, or its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1]


def main(arguments: list[str] | None = None) -> None:
    """Prepares environments and says where they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", help=f"of {', '.join(PEERS)}; default: all")
    for name in parser.parse_args(arguments).peers or PEERS:
        environment = prepare(name)
        print(f"{name}: {environment.error or environment.python}", flush=True)


if __name__ == "__main__":
    main()
