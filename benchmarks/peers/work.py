"""What is computed: the cases, and one case as arrays in a folder. NumPy only.

Every side starts at the same parameters, visits every client's rows in the order in which they lie,
epoch after epoch, in batches of B of which the last of an epoch may be short, takes plain SGD steps
on the mean cross-entropy of a batch, and averages the clients' parameters weighted by rows. Nothing
is shuffled, because the peers shuffle with generators of their own.
"""

import itertools
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

CLASSES = 10


class Case(NamedTuple):
    """One comparison; what it measures is one round of all clients."""

    kind: str  # of clients
    network: str  # "mlp" or "tutorial_cnn"
    hidden: tuple[int, ...]  # widths of the MLP's hidden layers; () is logistic regression
    shape: tuple[int, ...]  # of one row
    clients: int  # N
    rows: int  # mean rows per client
    spread: float  # sigma of the lognormal sizes; 0: all equal
    batch: int  # B
    epochs: int  # E
    learning_rate: float
    tolerance: float  # largest acceptable ‖ours - theirs‖ / ‖theirs - start‖ after one round
    width: int | None  # layout of ours on a CPU
    rounds: int | None = None  # of a published run: as many repeats, and their sum is reported

    @property
    def title(self) -> str:
        """What the table says."""
        epochs = f", {self.epochs} epochs" if self.epochs > 1 else ""
        return f"{self.clients:,} {self.kind} clients{epochs}"


CASES = {
    "mlp": Case(
        kind="MLP",
        network="mlp",
        hidden=(128,),
        shape=(784,),
        clients=100,
        rows=80,
        spread=0.4,
        batch=20,
        epochs=1,
        learning_rate=0.1,
        tolerance=1e-3,  # rounding decides about a relu here and there
        width=4,
    ),
    "logistic": Case(
        kind="logistic",
        network="mlp",
        hidden=(),
        shape=(784,),
        clients=1000,
        rows=40,
        spread=0.5,
        batch=10,
        epochs=1,
        learning_rate=0.1,
        tolerance=1e-4,
        width=1,
    ),
    # The set-up of the benchmark in the README of BlazeFL 2: https://github.com/kitsuyaazuma/blazefl
    "tutorial_cnn": Case(
        kind="tutorial CNN",
        network="tutorial_cnn",
        hidden=(),
        shape=(32, 32, 3),
        clients=100,
        rows=500,
        spread=0.0,
        batch=50,
        epochs=5,
        learning_rate=0.01,
        tolerance=1e-2,  # and about the largest entry of a pooling window
        width=1,
        rounds=5,
    ),
}


def smoke(case: Case) -> Case:
    """The same case so small that its numbers mean nothing."""
    return fewer(case, 4)._replace(rows=7, batch=3, epochs=min(case.epochs, 2))


def fewer(case: Case, clients: int) -> Case:
    """The same case with fewer clients, which is no longer what was published."""
    return case._replace(clients=clients, rounds=None)


class Work(NamedTuple):
    """A case as arrays. Client i holds rows offsets[i] to offsets[i + 1]."""

    case: Case
    start: dict[str, np.ndarray]  # PyTorch's names and layouts: fc1.weight [out, in]
    inputs: np.ndarray  # [n, ...] float32, images as [n, H, W, C]
    labels: np.ndarray  # [n] int32
    offsets: np.ndarray  # [N + 1] int64

    @property
    def sizes(self) -> np.ndarray:
        """Rows per client, [N]."""
        return np.diff(self.offsets)


def make(case: Case, seed: int = 0) -> Work:
    """Random rows about as dark as MNIST's, random labels, ragged clients.

    Labels that cannot be learnt are as good as any: steps cost the same, and the parameters that
    the sides end at are compared with each other, not with a truth.
    """
    rng = np.random.default_rng(seed)
    noise = rng.lognormal(sigma=case.spread, size=case.clients)
    sizes = np.clip(np.round(case.rows * noise / noise.mean()), 1, 4 * case.rows).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    inputs = rng.standard_normal((offsets[-1], *case.shape), dtype=np.float32)
    if case.network == "mlp":  # half of the pixels black: ‖x‖^2 is about 35
        np.maximum(inputs, 0, out=inputs)
        inputs *= 0.3
    labels = rng.integers(0, CLASSES, offsets[-1]).astype(np.int32)
    return Work(case, _start(case, rng), inputs, labels, offsets)


def _start(case: Case, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """PyTorch's initialisation: uniform within 1 / sqrt(fan_in)."""
    layers: dict[str, tuple[int, ...]] = {}
    if case.network == "tutorial_cnn":
        layers |= {"conv1": (6, case.shape[-1], 5, 5), "conv2": (16, 6, 5, 5)}
        widths = (400, 120, 84, CLASSES)
    else:
        widths = (math.prod(case.shape), *case.hidden, CLASSES)
    pairs = itertools.pairwise(widths)
    layers |= {f"fc{i}": (fan_out, fan_in) for i, (fan_in, fan_out) in enumerate(pairs, start=1)}
    start = {}
    for name, shape in layers.items():
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        start[f"{name}.weight"] = rng.uniform(-bound, bound, shape).astype(np.float32)
        start[f"{name}.bias"] = rng.uniform(-bound, bound, shape[0]).astype(np.float32)
    return start


def save(work: Work, folder: Path) -> None:
    """Writes the work; inputs in a file of their own, which processes can map instead of read."""
    (folder / "case.json").write_text(json.dumps(work.case._asdict()))
    np.save(folder / "inputs.npy", work.inputs, allow_pickle=False)
    np.savez(folder / "rest.npz", labels=work.labels, offsets=work.offsets)
    np.savez(folder / "start.npz", **work.start)


def load(folder: Path | str) -> Work:
    """The work in a folder, inputs memory-mapped."""
    folder = Path(folder)
    fields = json.loads((folder / "case.json").read_text())
    case = Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    rest = np.load(folder / "rest.npz", allow_pickle=False)
    start = np.load(folder / "start.npz", allow_pickle=False)
    with rest, start:
        return Work(
            case=case,
            start=dict(start),
            inputs=np.load(folder / "inputs.npy", mmap_mode="r", allow_pickle=False),
            labels=rest["labels"],
            offsets=rest["offsets"],
        )


def gap(start: dict, theirs: dict, ours: dict) -> float:
    """‖ours - theirs‖ / ‖theirs - start‖: the difference relative to the way gone."""

    def distance(a: dict, b: dict) -> float:
        return math.sqrt(sum(np.sum(np.square(a[n] - b[n], dtype=np.float64)) for n in start))

    return distance(ours, theirs) / distance(theirs, start)
