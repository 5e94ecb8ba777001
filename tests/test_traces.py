"""The released PyTorch code, round by round: same start, same data, same orders, same numbers.

How the tolerance is derived. The traces were made in float32, so they are not exact either, and
training amplifies rounding: smoothly where everything is smooth, by a jump where a rounding error
decides on which side of a ReLU's kink an activation falls (it does so in the first round of the
CIFAR trace: one unit of fc2, after which exact arithmetic, too, is 8e-4 away from the recorded
cosine). So the noise is measured on this very computation: each trace is replayed in float64, in
float32, and JITTERS times in float32 from a start whose every parameter is moved by up to 16 units
in the last place, which is what summing a few hundred float32 terms does to an activation. The
spread of a round is the largest distance between two replays up to that round, over clients and
coordinates. PyTorch's run is one more draw of the same kind, so a quantity passes when it is
within twice the spread of the float64 replay, plus the rounding of the recorded number: its last
place, and for what depends on the recorded cosine the error of PyTorch's float32 sums over D
products (sqrt(D) 2^-24; recomputed in float64 from the recorded updates, those cosines are off by
4e-6). A wrong sign, order or index is orders of magnitude beyond that.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cgsv_jax import models
from cgsv_jax.core import local, simulation, vectors
from cgsv_jax.rules import reward
from cgsv_jax.rules.methods import cgsv_released
from cgsv_jax.types import Algorithm, Clients, Dataset, Federation, Settings

SAFETY = 2.0
JITTERS = 4
ULP = float(np.finfo(np.float32).eps)

COMPACT = Path(__file__).parent / "data" / "mnist_cnn_compact.npz"
EXTRA = sorted(Path(os.environ["CGSV_TRACES"]).glob("*.npz")) if "CGSV_TRACES" in os.environ else []


def _client_inputs(trace, i):
    """Rows of one client, [n_i, 32, 32, C] float32."""
    if f"inputs/{i}" in trace:
        return np.moveaxis(trace[f"inputs/{i}"], 1, -1)
    mean, std = trace["input_mean_std"]
    padded = np.pad(trace[f"images/{i}"], ((0, 0), (2, 2), (2, 2)))
    return ((padded.astype(np.float32) / 255 - mean) / std)[..., None]


def _spy(algorithm):
    """The same algorithm, whose state also shows what went over the wire."""

    def init(num_clients, num_parameters):
        matrix = jnp.zeros((num_clients, num_parameters))
        return algorithm.init(num_clients, num_parameters), matrix, matrix[0], matrix

    def update(key, upload, state):
        download, standing, inner = algorithm.update(key, upload, state[0])
        return (
            download,
            standing,
            (
                inner,
                upload.deltas,
                download.aggregate,
                download.rewards,
            ),
        )

    return Algorithm(init, update)


def _replayer(trace, dtype):
    """The trace's run by this package: a function of the start, arrays with leading axis rounds."""
    settings = dict(pair.split("=") for pair in trace["settings"])
    number = {k: float(settings[k]) for k in ("lr", "decay", "gamma", "alpha", "beta")}
    count, epochs = len(trace["sizes"]), int(settings["epochs"])

    names = [str(name) for name in trace["param_names"]]
    inputs = [_client_inputs(trace, i).astype(dtype) for i in range(count)]
    labels = np.concatenate([trace[f"labels/{i}"] for i in range(count)])
    sizes, width = trace["sizes"], int(trace["sizes"].max())
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    mask = np.arange(width) < sizes[:, None]
    clients = Clients(np.where(mask, starts[:, None] + np.arange(width), 0).astype(np.int32), mask)
    data = Dataset(np.concatenate(inputs), labels, inputs[0], labels[: sizes[0]])

    build = {"mnist": models.mnist_cnn, "cifar": models.cifar_cnn}[settings["model"]]
    model = build(inputs[0].shape[1:], 10)
    given = models.params_from_torch({n: trace[f"init/{n}"] for n in names})
    tensors = tuple(t.stop - t.start for t in vectors.tensors(given))
    unravel = vectors.unraveler(given)
    schedule = local.decayed(number["lr"], number["decay"], per="epoch", epochs=epochs)
    trainer = local.trainer(model, optax.sgd, schedule, batch_size=int(settings["batch"]))
    algorithm = _spy(cgsv_released(tensors, number["gamma"], number["alpha"], number["beta"]))
    federation = Federation(model, trainer, algorithm, Settings(1, epochs, width=1))

    @jax.jit
    def one_round(state, data, clients, orders):
        return simulation.round_(jax.random.key(0), state, data, clients, federation, orders)

    def in_torch_order(vector):
        arrays = models.params_to_torch(unravel(np.asarray(vector)))
        return np.concatenate([arrays[n].ravel() for n in names])

    def replay(start):
        state = simulation.init(jax.random.key(0), count, federation)
        vector = vectors.ravel(models.params_from_torch(start)).astype(dtype)
        state = state._replace(server=vector, clients=jnp.tile(vector, (count, 1)))
        rounds = []
        for orders in trace["batch_order"].astype(np.int32):
            state, record = one_round(state, data, clients, orders)
            _, deltas, aggregate, rewards = state.algorithm
            scales = number["gamma"] / (record.norm + 1e-7)
            matrices = {
                "update": deltas * scales[:, None],
                "rewards": rewards,
                "agent": state.clients,
                "server": state.server[None],
                "aggregate": aggregate[None],
            }
            out = {k: np.stack([in_torch_order(v) for v in m]) for k, m in matrices.items()}
            present = np.ones(count, bool)
            out |= {
                "server": out["server"][0],
                "aggregate": out["aggregate"][0],
                "weights": record.weight,
                "cosine": record.score,
                "reputation": record.reputation,
                "ratio": reward.ratios(record.reputation, present, number["beta"]),
                "update_norm_before": record.norm,
            }
            rounds.append(out)
        return {name: np.stack([r[name] for r in rounds]) for name in rounds[0]}

    return replay


@pytest.fixture(
    scope="module",
    params=[COMPACT, *(p for p in EXTRA if p.name != COMPACT.name)],
    ids=lambda p: p.stem,
)
def replays(request):
    """The trace and its replays: [float64, float32, jittered float32, ...]."""
    with np.load(request.param, allow_pickle=False) as archive:
        trace = dict(archive)
    start = {str(n): trace[f"init/{n}"] for n in trace["param_names"]}
    with jax.enable_x64(True):
        runs = [_replayer(trace, np.float64)(start)]
    replay = _replayer(trace, np.float32)
    runs.append(replay(start))
    rng = np.random.default_rng(0)
    for _ in range(JITTERS):
        moved = {n: x * (1 + 16 * ULP * rng.uniform(-1, 1, x.shape)) for n, x in start.items()}
        runs.append(replay({n: x.astype(np.float32) for n, x in moved.items()}))
    return trace, runs


def _spread(runs, distance):
    """[T]: the largest distance between two replays up to each round."""
    pairs = [distance(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    largest = np.stack([p.reshape(len(p), -1).max(1) for p in pairs]).max(0)
    return np.maximum.accumulate(largest)


def _agree(recorded, runs, summed=0.0, distance=lambda a, b: np.abs(a - b), only=slice(None)):
    """Asserts the rule of the module's docstring round by round, for the two plain replays."""
    recorded = np.float64(recorded)
    spread = _spread([np.float64(run) for run in runs], distance)[only]
    size = np.abs(recorded).reshape(len(recorded), -1).max(1)
    allowed = SAFETY * spread + (2 * ULP + summed) * size
    for run in runs[:2]:
        error = np.abs(np.float64(run)[only] - recorded).reshape(len(recorded), -1).max(1)
        assert (error <= allowed).all(), f"rounds differ by {error}, allowed {allowed}"


def _sum_error(trace):
    return np.sqrt(sum(trace[f"init/{n}"].size for n in trace["param_names"])) * 2.0**-24


@pytest.mark.parametrize("name", ["weights", "cosine", "reputation", "ratio"])
def test_every_round_of_every_client(replays, name):
    trace, runs = replays
    _agree(trace[name], [run[name] for run in runs], summed=_sum_error(trace))


def test_update_norms_before_rescaling(replays):
    trace, runs = replays
    _agree(trace["update_norm_before"], [run["update_norm_before"] for run in runs])


@pytest.mark.parametrize("name", ["server", "agent", "update"])
def test_recorded_vectors(replays, name):
    trace, runs = replays
    # A norm errs by at most the norm of the error, which is why distances are taken in D first.
    norms = [np.linalg.norm(np.float64(run[name]), axis=-1) for run in runs]
    apart = _spread(
        [np.float64(run[name]) for run in runs], lambda a, b: np.linalg.norm(a - b, axis=-1)
    )
    recorded = np.float64(trace[f"{name}_norm"])
    allowed = SAFETY * apart + (2 * ULP + _sum_error(trace)) * recorded.reshape(len(apart), -1).max(
        1
    )
    for norm in norms[:2]:
        assert (np.abs(norm - recorded).reshape(len(apart), -1).max(1) <= allowed).all()

    if "coordinates" in trace:  # 1,000 of them in every round
        vectors_, only = [run[name][..., trace["coordinates"]] for run in runs], slice(None)
        recorded = trace[f"{name}_sample"]
    else:  # all of them in some rounds
        vectors_, only = [run[name] for run in runs], trace["kept_rounds"]
        recorded = trace[f"{name}_flat"]
    _agree(recorded, vectors_, only=only)


def test_entries_received(replays):
    """Entries per tensor from the RECORDED ratio, whose drift would shift counts of 51,200 entries.

    Equal, or one apart where len x ratio is within float32 rounding of an integer. Beyond that only
    what the data themselves decide: dead ReLUs leave exact zeros and shifted copies of a channel
    leave exact ties, a few of which fall otherwise when rounding differs. Their number is how much
    the replays differ among themselves, which is 0 for most tensors and for all of MNIST's.
    """
    trace, runs = replays
    lengths = [trace[f"init/{n}"].size for n in trace["param_names"]]
    edges = np.cumsum([0, *lengths])

    def counts(run, ratio):  # [T, N, L]
        received = np.zeros(trace["reward_nonzero"].shape, int)
        for tensor, length in enumerate(lengths):
            parts = np.abs(run["aggregate"][:, edges[tensor] : edges[tensor + 1]])
            for t, part in enumerate(parts):
                quota = np.minimum(np.ceil(length * ratio[t]), length - 1).astype(int)
                threshold = np.sort(part)[length - quota]
                kept = (part >= threshold[:, None]) & (part != 0)
                received[t, :, tensor] = kept.sum(1)
        return received

    for run in runs[:2]:  # the rewards really sent are those of the replay's own ratio
        sent = [
            np.count_nonzero(r, axis=-1) for r in np.split(run["rewards"], edges[1:-1], axis=-1)
        ]
        np.testing.assert_array_equal(np.stack(sent, -1), counts(run, run["ratio"]))

    same_ratio = np.stack([counts(run, trace["ratio"]) for run in runs])
    among = same_ratio.max(0) - same_ratio.min(0)
    exact = np.float64(trace["ratio"])[..., None] * lengths
    rounding = np.abs(exact - np.round(exact)) <= np.array(lengths) * ULP
    difference = np.abs(same_ratio[:2] - trace["reward_nonzero"])
    wrong = difference > rounding + SAFETY * among
    assert not wrong.any(), f"replay, round, client, tensor: {np.argwhere(wrong).tolist()}"
    if trace["settings"][0] == "model=mnist":
        assert not among.any()
