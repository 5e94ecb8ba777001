"""FedRAC: rounds against NumPy loops, sizes by hand, and its authors' own code."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_submodels
import pytest
from declared import Hyper, Options
from test_rules import oracle_world

import cgsv_jax as cg
from cgsv_jax import models
from cgsv_jax.core import evaluation, simulation
from cgsv_jax.rules.methods import fedrac, fedsac
from cgsv_jax.rules.methods.fedrac import allocation, bounds_of
from cgsv_jax.types import Network, Units

ROUNDS, EPOCHS, BATCH, N = 6, 2, 4, 4
ALONE = np.array([0.9, 0.35, 0.6, 0.6])
# Who has the most comes late, and is away later.
PRESENT = np.array(
    [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], bool
)


@pytest.mark.parametrize(
    ("present", "sizes"),
    [(PRESENT, 50), pytest.param(np.ones((ROUNDS, N), bool), 5, marks=pytest.mark.long)],
)
def test_rounds_are_those_of_loops(tiny, present, sizes):
    """In float64, with units of tanh, two of equal accuracy, and a lambda that changes."""
    data, clients = tiny.world(pad=1, noise=1.0, test=7)
    orders = tiny.orders(clients, ROUNDS, EPOCHS)
    model, key = tiny.mlp(hidden=12), jax.random.key(2)
    chosen = {"steepness": 3.0, "held_back": 0.3, "held_back_late": 0.9, "held_back_rounds": 4.0}
    chosen |= {"held_back_pace": 0.5, "held_back_start": 2.5}
    with jax.enable_x64(True):
        held = (np.float64(data.inputs), data.labels)  # many rows: accuracies that differ
        data = data._replace(inputs=np.float64(data.inputs), validation=held)
        numbers = Hyper(**{f: np.float64(0.01) for f in Hyper._fields})
        numbers = numbers._replace(learning_rate=0.5, decay=0.8, **chosen)
        federation = tiny.federation(
            *("fedrac", model, numbers, Options(submodel_sizes=sizes)), epochs=EPOCHS
        )
        params = model.init(jax.random.fold_in(key, 0))
        federation = tiny.attended(federation, present)
        start = simulation.init(key, N, federation)._replace(alone=jnp.asarray(ALONE))
        seen = tiny.played(key, data, clients, orders, federation, start)
    want = oracle_submodels.fedrac(
        **oracle_world(data, clients, params), orders=orders, alone=ALONE, validation=held,
        logits=oracle.mlp_logits, gradient=oracle.mlp_gradient, batch=BATCH, present=present,
        options=oracle.Options(learning_rate=0.5, decay=0.8), steepness=3.0, lams=(0.3, 0.9),
        until=4, pace=0.5, start=2.5, sizes=sizes,
    )  # fmt: skip
    close = {"rtol": 0, "atol": 2e-8}  # as of test_fedsac, with a round more
    for (state, record), its in zip(seen, want, strict=True):
        np.testing.assert_array_equal(state.algorithm.keep, its["keep"])
        np.testing.assert_array_equal(state.algorithm.frequency, its["frequency"])
        np.testing.assert_array_equal(record.quota, its["quota"])
        np.testing.assert_allclose(state.server, its["server"], **close)
        np.testing.assert_allclose(state.clients, its["clients"], **close)
        np.testing.assert_allclose(record.reputation, its["reputation"], **close)
        assert not np.any(np.asarray(state.clients)[its["clients"] == 0])
    assert len({tuple(row) for its in want for row in its["keep"]}) > 4


@pytest.mark.parametrize("task", ["CIFAR10_CLA", "CIFAR10_POW"])
def test_what_is_recorded_of_the_authors_code(task):
    """Sizes, units, frequencies and the server's model of ZiHuiWangpcl1/FedRAC, 0d32a5c.

    Its server ran (torch 2.13, float32) for rounds 1 to 8 and 97 to 104, across the change of
    lambda, with the accuracies alone that its file holds. The network has 2 inputs, its 200 and 200
    units and 2 classes; what units add to an accuracy, and updates, were drawn. Its sort, whose
    order of equal frequencies is whatever the device makes, was made a stable one.
    """
    with np.load(Path(__file__).parent / "data" / "official_fedrac.npz") as arrays:
        theirs = dict(arrays)
    inputs, width, classes = 2, 200, 2
    first, second = np.arange(width), width + np.arange(width)
    none = np.full(width, -1)
    feeds = [np.repeat(first, inputs), first, np.repeat(second, width), second]
    reads = [np.repeat(none, inputs), none, np.tile(first, width), none]
    feeds += [np.full(width * classes, -1), np.full(classes, -1)]
    reads += [np.tile(second, classes), np.full(classes, -1)]
    feeds, reads = np.int32(np.concatenate(feeds)), np.int32(np.concatenate(reads))
    units = Units(feeds, reads, np.int32(reads >= 0), (width, width), incoming=True)
    biases = np.concatenate([np.flatnonzero((feeds == h) & (reads < 0))[-1:] for h in range(400)])

    def evaluate(weights, scale, _):
        accuracy = scale[0] * ((weights[:, biases] != 0) @ theirs["worth"])
        return accuracy, accuracy

    algorithm = fedrac(Network(evaluate, units=lambda: units))
    update = jax.jit(algorithm.update)
    state = algorithm.init(10, feeds.size)
    server = jnp.zeros(feeds.size)
    rounds = theirs["rounds"].tolist()
    for at in range(len(rounds) - 1):
        keep = np.asarray(state.keep)
        padded = np.concatenate([keep, np.ones((10, 1), bool)], axis=1)
        held = padded[:, feeds] & padded[:, reads]
        draws = [np.random.RandomState(1000 * at + i) for i in range(10)]
        deltas = [np.float32(rng.uniform(-1, 1, feeds.size)) * np.float32(1e-2) for rng in draws]
        deltas = np.where(held, np.stack(deltas), 0)
        upload = cg.Upload(
            server=server,
            clients=jnp.asarray(np.asarray(server) * held),
            deltas=jnp.asarray(deltas),
            norms=jnp.ones(10),
            scales=jnp.ones(10),
            present=jnp.ones(10, bool),
            num_examples=jnp.arange(10),
            loss=jnp.zeros(10),
            learning_rate=jnp.float32(0.1),
            validation=(jnp.asarray(theirs["scale"][at + 1 : at + 2]), jnp.zeros(1, jnp.int32)),
            round=jnp.int32(rounds[at + 1] - 2),
            alone=jnp.asarray(theirs[f"{task}/alone"]),
        )
        download, _, state = update(jax.random.key(0), upload, state)
        server = server + download.aggregate
        chosen = theirs["which"]
        np.testing.assert_allclose(server[chosen], theirs[f"{task}/server"][at], atol=1e-6)
        np.testing.assert_allclose(jnp.linalg.norm(server), theirs[f"{task}/norm"][at], rtol=1e-5)
        after = np.unpackbits(theirs[f"{task}/keep"][at + 1], axis=-1).astype(bool)
        np.testing.assert_array_equal(state.keep, after)
        np.testing.assert_array_equal(state.frequency, theirs[f"{task}/frequency"][at + 1])
    sizes = theirs[f"{task}/size"][1:]
    assert len(np.unique(sizes)) > 30


def test_sizes_by_hand():
    """Six sizes, whose accuracies are .1 to .6: the largest at the target, above those before."""
    accuracy = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])

    def places(targets, order=None):
        targets = jnp.asarray(targets, jnp.float32)
        order = targets if order is None else jnp.asarray(order, jnp.float32)
        return allocation(accuracy, targets, order).tolist()

    assert places([0.25, 0.45, 0.31]) == [1, 3, 2]
    assert places([0.0, 0.0001, 0.0002]) == [1, 2, 3]  # too low for any: one more than before
    assert places([0.25, 0.25, 0.9], [1, 1, 2]) == [1, 1, 5]  # as good as each other: the same
    assert places([0.61, 0.62, 0.63]) == [5, 5, 5]  # there is no larger one
    assert places([0.45, 0.25], [1, 2]) == [3, 4]  # never below those before
    # Not monotone: the largest size whose accuracy is at the target.
    bumpy = jnp.array([0.1, 0.5, 0.2, 0.6, 0.3, 0.9])
    assert allocation(bumpy, jnp.array([0.35]), jnp.array([0.0])).tolist() == [4]
    assert bounds_of(400, 50).tolist() == [8 * k for k in range(51)]
    assert bounds_of(7, 3).tolist() == [0, 2, 4, 7]


def test_units_roll(tiny):
    """All of equal use at first; then whoever has been on least comes first."""
    model = models.mlp((3,), 3, hidden=(6, 6))
    size = sum(tiny.sizes_of(model))
    rng = np.random.default_rng(0)
    algorithm = fedrac(evaluation.network(model, (3,)), 2.0)
    update, state = jax.jit(algorithm.update), algorithm.init(3, size)
    server = np.zeros(size)
    for t in range(8):
        upload = tiny.upload(
            rng.normal(size=(3, size)), [1] * 3, clients=np.tile(server, (3, 1)), server=server
        )
        upload = upload._replace(alone=jnp.float32([0.05, 0.1, 0.6]), round=jnp.int32(t))
        before = np.asarray(state.frequency)
        _, _, state = update(jax.random.key(0), upload, state)
        keep = np.asarray(state.keep)
        assert keep[2].all()
        assert (keep[0] <= keep[1]).all()
        assert 1 <= keep[0].sum() < keep[1].sum() <= 12
        assert before[keep[0]].max() <= before[~keep[0]].min()
    assert np.ptp(state.frequency) <= 2


def test_submodels_may_be_kept_for_some_rounds(tiny):
    """Every third round allocates; frequencies count the rounds in which units were on."""
    model = models.mlp((3,), 3, hidden=(6, 6))
    size = sum(tiny.sizes_of(model))
    rng = np.random.default_rng(0)
    algorithm = fedrac(evaluation.network(model, (3,)), 2.0, every=3)
    update, state = jax.jit(algorithm.update), algorithm.init(3, size)
    changed = []
    for t in range(9):
        upload = tiny.upload(rng.normal(size=(3, size)), [1] * 3, [True, True, t != 4])
        upload = upload._replace(alone=jnp.float32([0.05, 0.1, 0.6]), round=jnp.int32(t))
        before, old = np.asarray(state.frequency), np.asarray(state.keep)
        _, _, state = update(jax.random.key(0), upload, state)
        here = np.asarray(state.keep)[np.asarray(upload.present)]
        np.testing.assert_array_equal(state.frequency, before + here.sum(axis=0))
        changed.append(np.any(np.asarray(state.keep) != old))
    assert np.flatnonzero(changed).tolist() == [2, 5, 8]
    assert algorithm.needs.valuations(3) == 17


@pytest.mark.parametrize("make", [fedrac, fedsac])
def test_cosines_in_place_of_the_oracle(tiny, make):
    """Nobody trains alone; who points elsewhere has the smallest submodel, who leads has all."""
    model = models.mlp((3,), 3, hidden=(8, 8))
    size = sum(tiny.sizes_of(model))
    rng = np.random.default_rng(0)
    algorithm = make(evaluation.network(model, (3,)), 20.0, earned_by="cosine")
    assert (algorithm.needs.alone, algorithm.needs.validation) == (False, True)
    update, state = jax.jit(algorithm.update), algorithm.init(4, size)
    server, common = rng.normal(size=(2, size)) * 0.5
    for t in range(3):
        held = np.asarray(state.keep)
        assert held.shape == (4, 16)
        deltas = common + rng.normal(size=(4, size)) * np.array([[0.1], [0.3], [0.6], [0.0]])
        deltas[3] = -common
        upload = tiny.upload(deltas, [1] * 4, clients=np.tile(server, (4, 1)), server=server)
        upload = upload._replace(alone=None, round=jnp.int32(t))
        old = np.asarray(state.reputation)
        download, standing, state = update(jax.random.key(0), upload, state)
        if t == 0:  # everybody holds all
            u = np.float64(download.aggregate)
            psi = deltas @ u / np.linalg.norm(deltas, axis=1) / np.linalg.norm(u)
            np.testing.assert_allclose(standing.score, psi, atol=1e-5)
            want = np.maximum(0.95 * old + 0.05 * psi, 0)
            np.testing.assert_allclose(standing.reputation, want / want.sum(), atol=1e-6)
    quota = np.asarray(download.quota)
    reputation = np.asarray(standing.reputation)
    assert quota[reputation.argmax()] == size
    assert reputation[3] == 0
    assert quota[3] == quota.min() < size


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"earned_by": "luck"}, "earned_by is 'luck', it must be accuracy or cosine"),
        ({"standalone_on": "rows"}, "standalone_on is 'rows'"),
        ({"sizes": 0}, "sizes is 0, it must be a whole number from 1"),
        ({"every": 0}, "every is 0, it must be a whole number from 1"),
        ({"held_back": 1.5}, "held_back is 1.5"),
        ({"held_back_start": 1.0}, "held_back_start is 1.0"),
    ],
)
def test_what_is_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        fedrac(evaluation.network(models.mlp((3,), 3), (3,)), **options)
