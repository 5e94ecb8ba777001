"""Private entries: FedPer and LG-FedAvg against NumPy loops, depth of layers, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_personal
import pytest
from declared import Hyper, Options
from test_rules import oracle_world

import cgsv_jax as cg
from cgsv_jax import models as models_lib
from cgsv_jax.core import evaluation, simulation, vectors
from cgsv_jax.rules.methods import fedavg, fedper, iafl, lg_fedavg, private, rank, standalone, then
from cgsv_jax.types import Network

ROUNDS, EPOCHS, BATCH, N = 4, 2, 4, 4
# Somebody is away in every round but the first; the last client comes back to a shared part that
# has moved twice.
PRESENT = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 1]], bool)


@pytest.mark.parametrize(("name", "shared"), [("fedper", (0, 1)), ("lg_fedavg", (2, 3))])
def test_rounds_with_absences_are_those_of_loops(name, shared, tiny):
    """In float64; who stays away is not in the cohort."""
    data, clients = tiny.world(pad=1)
    orders = tiny.orders(clients, ROUNDS, EPOCHS)
    model, key = tiny.mlp(), jax.random.key(3)
    with jax.enable_x64(True):
        data = data._replace(inputs=np.float64(data.inputs))
        numbers = Hyper(**{f: np.float64(0.01) for f in Hyper._fields})
        numbers = numbers._replace(learning_rate=np.float64(0.3), decay=np.float64(0.8))
        federation = tiny.federation(name, model, numbers, Options(), epochs=EPOCHS)
        params = model.init(jax.random.fold_in(key, 0))
        federation = tiny.attended(federation, PRESENT)
        seen = [
            (state.server, simulation.models_of(state, federation.algorithm), record)
            for state, record in tiny.played(key, data, clients, orders, federation)
        ]
    want = oracle_personal.fedavg_of_layers(
        shared, **oracle_world(data, clients, params), orders=orders,
        options=oracle.Options(learning_rate=0.3, decay=0.8), present=PRESENT, batch=BATCH,
        gradient=oracle.mlp_gradient,
    )  # fmt: skip
    # As in test_whole_runs: 6 x 12 x 4 x 1.3^24 units of 2^-52.
    close = {"rtol": 0, "atol": 4e-10}
    sizes = np.cumsum([0, *tiny.sizes_of(model)])
    count = sum(sizes[k + 1] - sizes[k] for k in shared)
    for (server, used, record), (its, theirs), here in zip(seen, want, PRESENT, strict=True):
        np.testing.assert_allclose(server, oracle.ravel(its), **close)
        np.testing.assert_allclose(used, [oracle.ravel(own) for own in theirs], **close)
        np.testing.assert_array_equal(record.quota, np.where(here, count, 0))
        np.testing.assert_allclose(record.energy, here, rtol=1e-12)
    apart = np.asarray(used) - np.asarray(used)[:1]
    assert not apart[:, in_tensors(sizes, shared)].any()  # one body
    assert (np.abs(apart[1:]).max(axis=1) > 1e-3).all()  # and as many heads as clients


def in_tensors(sizes, numbers):
    inside = np.zeros(sizes[-1], bool)
    for number in numbers:
        inside[sizes[number] : sizes[number + 1]] = True
    return inside


def depth(model, shape, dtype=jnp.float32):
    """The names of the layers, in order of depth, each with its number of tensors."""
    names = {}
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    for tensor in vectors.tensors(shapes):
        names[tensor.start, tensor.stop] = tensor.name
    found = evaluation.layers(model, jax.ShapeDtypeStruct((1, *shape), dtype))
    assert sorted(span for layer in found for span in layer) == sorted(names)
    return ["+".join(names[span] for span in layer) for layer in found]


def test_layers_are_in_order_of_depth_whatever_they_are_called():
    deep = depth(models_lib.mlp((4,), 3, hidden=(5,) * 11), (4,))
    assert deep == [f"['fc{i}']['bias']+['fc{i}']['kernel']" for i in range(1, 13)]
    for build, shape in ((models_lib.mnist_cnn, (28, 28, 1)), (models_lib.cifar_cnn, (32, 32, 3))):
        found = [name.split("'")[1] for name in depth(build(shape, 10), shape)]
        assert found == sorted(found)
        assert found[0] == "conv1"
        assert found[-1].startswith("fc")


def test_layers_of_other_libraries():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(5, 3, rngs=rngs)
            self.body = nnx.Linear(4, 5, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.body(x)))

    found = depth(models_lib.from_nnx(lambda rngs: Net(rngs)), (4,))
    assert ["body" in name for name in found] == [True, False]
    eqx = pytest.importorskip("equinox")
    found = depth(models_lib.from_equinox(lambda key: eqx.nn.MLP(4, 3, 5, 2, key=key)), (4,))
    assert [f".layers[{i}]" in name for i, name in enumerate(found)] == [True] * 3


def test_a_tensor_in_a_compiled_part_is_read_where_that_is():
    """And one that is read twice counts where it is read first."""

    def apply(params, x, key=None):
        inner = jax.jit(lambda kernel, x: jnp.tanh(x @ kernel))
        x = inner(params["z"]["kernel"], x)
        return inner(params["z"]["kernel"], x) @ params["a"]["kernel"]

    def init(key):
        return {"a": {"kernel": jnp.zeros((4, 3))}, "z": {"kernel": jnp.zeros((4, 4))}}

    assert depth(cg.Model(init, apply), (4,)) == ["['z']['kernel']", "['a']['kernel']"]


def test_cgsv_of_the_shared_entries(tiny):
    """Whatever is private has no say: a client's norms, cosines and quota are of the others."""
    rng = np.random.default_rng(0)
    spans, shared = ((2, 5), (9, 12)), np.r_[0:2, 5:9]
    sent = tiny.upload(np.float32(rng.normal(size=(5, 12))), [4, 9, 2, 7, 8])
    of_part = tiny.upload(sent.deltas[:, shared], [4, 9, 2, 7, 8])
    whole, part = private(cg.cgsv(0.5, 0.8), spans), cg.cgsv(0.5, 0.8)
    download, standing, _ = jax.jit(whole.update)(jax.random.key(0), sent, whole.init(5, 12))
    want, earned, _ = jax.jit(part.update)(jax.random.key(0), of_part, part.init(5, 6))
    close = {"rtol": 0, "atol": 12 * np.finfo(np.float32).eps}
    np.testing.assert_allclose(standing.reputation, earned.reputation, **close)
    np.testing.assert_allclose(np.asarray(download.aggregate)[shared], want.aggregate, **close)
    others = np.setdiff1d(np.arange(12), shared)
    np.testing.assert_array_equal(
        np.asarray(download.rewards)[:, others], np.asarray(sent.deltas)[:, others]
    )
    received = np.asarray(download.rewards)[:, shared]
    aggregate = np.asarray(download.aggregate)
    np.testing.assert_allclose(
        download.energy, (received**2).sum(1) / (aggregate**2).sum(), rtol=1e-5
    )
    assert (download.quota <= len(shared)).all()


def test_a_recovery_leaves_the_private_entries(tiny):
    """Who gives its model up for the server's keeps what the server does not have."""
    data, clients = tiny.world()
    federation = tiny.federation("fedavg", tiny.softmax())
    algorithm = private(iafl(recovery=1.0), ((0, 3),))
    federation = federation._replace(algorithm=algorithm)
    state = simulation.init(jax.random.key(0), N, federation)
    rng = np.random.default_rng(0)
    state = state._replace(clients=jnp.float32(rng.normal(size=state.clients.shape)))

    @jax.jit
    def started(state, order):
        """The models that training starts from: what is rewarded is nothing."""

        def update(key, sent, rules):
            download, standing, rules = algorithm.update(key, sent, rules)
            return download._replace(rewards=0 * download.rewards), standing, rules

        spied = federation._replace(algorithm=algorithm._replace(update=update))
        return simulation.round_(jax.random.key(0), state, data, clients, spied, order)[0].clients

    models = started(state, tiny.orders(clients, 1, 2)[0])
    np.testing.assert_array_equal(models[:, :3], state.clients[:, :3])
    np.testing.assert_array_equal(models[:, 3:], np.tile(state.server[3:], (N, 1)))


def test_what_cannot_be_is_refused(tiny):
    network = tiny.network()
    for build in (fedper, lg_fedavg):
        with pytest.raises(ValueError, match="is 2, it must be less than the 2 layers"):
            build(network, **{f"{'private' if build is fedper else 'shared'}_layers": 2})
        with pytest.raises(ValueError, match="less than the 0 layers"):
            build(Network(network.evaluate))
    with pytest.raises(ValueError, match=r"spans holds \(3, 3\)"):
        private(fedavg(), ((0, 2), (3, 3)))
    with pytest.raises(ValueError, match="must know all entries"):
        private(rank(network), ((0, 2),))
    with pytest.raises(ValueError, match="already"):
        private(private(fedavg(), ((0, 2),)), ((4, 5),))
    with pytest.raises(ValueError, match="ends at 9, it must end within 8 entries"):
        private(fedavg(), ((0, 9),)).init(3, 8)
    with pytest.raises(ValueError, match="nothing is shared"):
        private(fedavg(), ((0, 4), (4, 8))).init(3, 8)
    with pytest.raises(ValueError, match="must be the same"):
        then(fedavg(), private(fedavg(), ((0, 2),)), 3)


def test_a_stage_alone_after_one_with_a_head_of_ones_own(tiny):
    staged = then(fedper(tiny.network()), standalone(), 3)
    assert staged.private == fedper(tiny.network()).private
    assert vectors.within(staged.private, 20).sum() == 12
