"""A run: a legal carry, pure, resumable, donated, in either precision, and evaluated on time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from declared import METHODS

from cgsv_jax.core import simulation, vectors
from cgsv_jax.rules import methods
from cgsv_jax.types import Federation, Settings, State, Trainer

EPS = float(np.finfo(np.float32).eps)


def start_of(finished):
    return simulation.init(finished.key, 4, finished.federation)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def part(tree, rounds):
    return jax.tree.map(lambda x: x[rounds], tree)


def advance_of(finished, rounds, every=1):
    settings = finished.federation.settings._replace(rounds=rounds, eval_every=every)
    federation = finished.federation._replace(settings=settings)

    def advance(state, orders):
        data, clients = finished.data, finished.clients
        return simulation.advance(finished.key, state, data, clients, federation, orders)

    return advance


@pytest.fixture(scope="module")
def one_round(finished):
    def function(state, orders):
        return simulation.round_(
            finished.key, state, finished.data, finished.clients, finished.federation, orders
        )

    return jax.jit(function, donate_argnums=0)


# ---------------------------------------------------------------- what comes out


def test_shapes_and_bookkeeping(finished):
    state, record, evaluation = finished.state, finished.record, finished.evaluation
    dimension = 4 + 12 + 3 + 12
    assert state.server.shape == (dimension,)
    assert state.clients.shape == (4, dimension)
    assert state.round == 4
    for name, leaf in record._replace(work=record.quota)._asdict().items():
        assert leaf.shape == (4, 4), name
    assert record.work is None  # nothing is switched off
    assert evaluation.round.tolist() == [1, 2, 3, 4]
    for name in ("accuracy", "loss", "distance"):
        assert getattr(evaluation, name).shape == (4, 4), name
    assert evaluation.validation_accuracy is evaluation.answers is None  # nobody asked
    assert evaluation.server_accuracy.shape == evaluation.server_loss.shape == (4,)
    assert record.quota.dtype == evaluation.round.dtype == jnp.int32
    assert bool(record.present.all())
    np.testing.assert_allclose(record.weight.sum(1), 1, atol=8 * EPS)
    np.testing.assert_allclose(record.reputation.sum(1), 1, atol=8 * EPS)
    np.testing.assert_array_equal(record.weight[0], np.float32([5, 3, 8, 6]) / np.float32(22))
    np.testing.assert_allclose(record.weight[1:], record.reputation[:-1], rtol=8 * EPS)
    assert record.quota.max(1).tolist() == [dimension] * 4
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(record)])).all()


def test_everybody_starts_from_the_same_model(finished):
    state = start_of(finished)
    params = finished.federation.model.init(jax.random.fold_in(finished.key, 0))
    np.testing.assert_array_equal(state.server, vectors.ravel(params))
    np.testing.assert_array_equal(state.clients, np.tile(state.server, (4, 1)))
    assert state.round == 0
    assert not np.any(state.algorithm.standing.reputation)


def test_learning_happens(finished, tiny):
    """Far from chance: the server's loss falls below its start and below log 3."""
    loss = finished.evaluation.server_loss
    assert loss[-1] < loss[0]
    assert loss[-1] < np.log(tiny.classes)


# ---------------------------------------------------------------- energy and distance


def test_distance_is_that_of_the_models(finished):
    """Against NumPy after the last round, and 0 for whoever got the whole of every u_N."""
    want = np.linalg.norm(np.float64(finished.state.clients - finished.state.server[None]), axis=1)
    np.testing.assert_allclose(finished.evaluation.distance[-1], want, rtol=40 * EPS, atol=1e-6)
    assert want.max() > 0.01
    always = (finished.record.quota == finished.state.server.size).all(0)
    assert always.any()
    np.testing.assert_allclose(finished.evaluation.distance[:, always], 0, atol=1e-6)


@pytest.mark.parametrize("width", [None, 1, 3])
def test_distance_needs_no_second_matrix(tiny, width):
    """However clients lie, differences exist only inside a sum."""
    count, features, classes = 48, 2_000, 3
    model = tiny.softmax(features, classes)
    dimension = features * classes + classes
    settings = Settings(1, eval_batch=1, eval_width=width)
    federation = tiny.federation()._replace(model=model, settings=settings)

    def look(clients, server, inputs, labels):
        state = State(server, clients, (), (), jnp.int32(0), jnp.zeros(len(clients)))
        return simulation.evaluate(state, inputs, labels, federation)

    shapes = [(count, dimension), (dimension,), (1, features)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(look).lower(*arguments, jax.ShapeDtypeStruct((1,), jnp.int32))
    memory, matrix = lowered.compile().memory_analysis(), 4 * count * dimension
    plain = jax.jit(lambda *a: look(*a)._replace(distance=())).lower(
        *arguments, jax.ShapeDtypeStruct((1,), jnp.int32)
    )
    without = plain.compile().memory_analysis()
    assert memory.temp_size_in_bytes - without.temp_size_in_bytes < matrix / 4


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.long
def test_energy_is_that_of_the_rewards(tiny, name):
    """Every method's own account against its rewards, an absent client among them.

    What a client keeps of its own update, where a method lets it, it has not received.
    """
    federation = tiny.federation(name)
    algorithm = federation.algorithm
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(4, 31)).astype(np.float32)
    upload = tiny.upload(updates, [5, 3, 8, 6], present=[True, True, False, True])
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), simulation._ALGORITHM), 0)
    download, _, _ = algorithm.update(key, upload, algorithm.init(4, 31))
    rules = algorithm.init(4, 31)
    optimizer = simulation.init(key, 4, federation).optimizer
    state = State(upload.server, upload.clients, optimizer, rules, jnp.int32(0), jnp.zeros(4))
    _, record = simulation.serve(jax.random.key(0), state, upload, optimizer, federation)
    whole = np.square(np.float64(download.aggregate)).sum()
    received = np.float64(download.rewards)
    kept = np.float64(upload.deltas)
    if name == "rffl":
        lengths = np.linalg.norm(kept, axis=1, keepdims=True)
        received -= kept * np.minimum(1, 0.5 / np.where(lengths == 0, 1, lengths))  # gamma .5
    if name == "cffl":  # all but n_i / max n; no entry is as large as what they are cut to
        received -= (1 - np.array([[5], [3], [8], [6]]) / 6) * kept
    if algorithm.private:  # what is not shared is a client's own
        mine = vectors.within(algorithm.private, 31)
        received = np.where(mine[None], 0, received)
    if download.held is not None:  # of u_N what is on; the rest of v_i switches units on and off
        received = np.where(download.held, np.float64(download.aggregate)[None], 0)
        received = np.where(np.asarray(upload.present)[:, None], received, 0)
    # u_N moves what personal models are pulled to, or where participants have started from w_N.
    if name in ("ditto", "fair_yet_equal"):
        received = np.asarray(upload.present)[:, None] * np.float64(download.aggregate)[None]
    want = np.square(received).sum(1) / whole
    want = np.where(np.asarray(download.quota) > 0, want, 0)
    np.testing.assert_allclose(record.energy, want, rtol=1e-5, atol=1e-7)
    assert record.energy[2] == 0


# ---------------------------------------------------------------- pure, resumable, a legal carry


def test_state_is_a_legal_carry(finished):
    state = start_of(finished)
    new, _ = jax.eval_shape(
        lambda s: simulation.round_(
            finished.key, s, finished.data, finished.clients, finished.federation
        ),
        state,
    )
    want = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == want


def test_segments_are_one_run(finished):
    """2 and 2 rounds are 4, bit for bit, given the same key; and the first do not know T."""
    advance = jax.jit(advance_of(finished, 2))
    state, first, early = advance(start_of(finished), finished.orders[:2])
    assert state.round == 2
    same(first, part(finished.record, slice(2)))
    same(early, part(finished.evaluation, slice(2)))
    state, second, late = advance(state, finished.orders[2:])
    same(state, finished.state)
    same(second, part(finished.record, slice(2, 4)))
    same(late, part(finished.evaluation, slice(2, 4)))


def test_rounds_compose_and_their_state_may_be_donated(finished, one_round):
    state = start_of(finished)
    for t in range(4):
        old = state
        state, record = one_round(old, finished.orders[t])
        assert old.clients.is_deleted()
        assert old.server.is_deleted()
        same(record, part(finished.record, t))
    same(state, finished.state)


@pytest.mark.parametrize("number", [1, 4])
def test_no_two_leaves_share_a_buffer(tiny, number):
    """Or donating the state that init made fails: the same buffer would be given away twice."""
    federation = tiny.federation(optimizer=optax.adam)
    state = simulation.init(jax.random.key(0), number, federation)
    jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), keep_unused=True, donate_argnums=0)(state)


def test_evaluation_after_every_third_round_and_the_last(finished):
    """k that does not divide T: the rounds themselves, and what is seen of them, are the same."""
    advance = jax.jit(advance_of(finished, 4, every=3))
    state, record, evaluation = advance(start_of(finished), finished.orders)
    assert evaluation.round.tolist() == [3, 4]
    same(state, finished.state)
    same(record, finished.record)
    same(evaluation, part(finished.evaluation, np.array([2, 3])))


def test_evaluation_beyond_the_last_round_is_after_the_last(finished):
    """k > T is the program of k = T, whose Evaluation has one row."""
    arguments = start_of(finished), finished.orders
    programs = [
        str(jax.make_jaxpr(advance_of(finished, 4, every))(*arguments)) for every in (4, 5, 99)
    ]
    assert programs[0] == programs[1] == programs[2]
    _, record, evaluation = jax.eval_shape(advance_of(finished, 4, 99), *arguments)
    assert evaluation.round.shape == (1,)
    assert record.quota.shape == (4, 4)


# ---------------------------------------------------------------- what is sent up


def test_labels_a_client_believes_override_the_true_ones(tiny):
    data, clients = tiny.world(pad=2)
    believed = np.where(clients.mask, (data.labels[clients.rows] + 1) % 3, 7).astype(np.int32)
    algorithm, orders = tiny.federation().algorithm, tiny.orders(clients, 1, 2)[0]
    federation = Federation(tiny.softmax(), tiny.spy(clients), algorithm, Settings(1, 2))
    key = jax.random.key(0)
    state = simulation.init(key, 4, federation)

    @jax.jit
    def look(clients):
        return simulation.train(key, state, data, clients, federation, orders)

    upload, (_, rows, labels, _) = look(clients)
    np.testing.assert_array_equal(labels, data.labels[clients.rows])
    np.testing.assert_array_equal(rows, clients.rows)
    np.testing.assert_array_equal(upload.num_examples, clients.mask.sum(1))
    _, (_, _, labels, _) = look(clients._replace(labels=believed))
    np.testing.assert_array_equal(labels, believed)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_broken_client_leaves_no_trace(tiny, poison):
    """One bad number in one tensor: no delta, no norm, and its optimizer's state as it was."""
    data, clients = tiny.world()
    mine = jnp.asarray(clients.rows[2, 0])

    def update(key, params, opt_state, examples, order, round_):
        bad = jnp.where(examples.rows[0] == mine, poison, 1.0)
        delta = jax.tree.map(jnp.ones_like, params)
        delta["1"]["bias"] = delta["1"]["bias"].at[1].set(bad)
        return delta, opt_state + bad, jnp.float32(0)

    trainer = Trainer(lambda params: jnp.float32(5), update, lambda round_: jnp.float32(0))
    federation = Federation(tiny.mlp(), trainer, tiny.federation().algorithm, Settings(1, 2))
    key, orders = jax.random.key(0), tiny.orders(clients, 1, 2)[0]
    state = simulation.init(key, 4, federation)
    upload, optimizer = simulation.train(key, state, data, clients, federation, orders)
    assert upload.present.tolist() == [True, True, False, True]
    assert optimizer.tolist() == [6, 6, 5, 6]
    want = np.ones(upload.deltas.shape)
    want[2] = 0
    np.testing.assert_array_equal(upload.deltas, want)
    np.testing.assert_allclose(upload.norms, np.sqrt(31) * want[:, 0], rtol=20 * EPS)


# ---------------------------------------------------------------- guards


def test_no_transfer_between_host_and_device(finished):
    with jax.transfer_guard("disallow"):
        state, _, _ = finished.run(*finished.arguments)
    same(state, finished.state)


def test_no_nan_anywhere(finished):
    with jax.debug_nans(True):
        finished.run(*finished.arguments)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_in_x64_is_a_run_in_float64(tiny, name):
    """Its draws included; that its numbers are right is for the oracle to say."""
    data, clients = tiny.world()
    with jax.enable_x64(True):
        federation = tiny.federation(name, tiny.model_of(name), rounds=2)
        data = data._replace(inputs=np.float64(data.inputs))
        run = lambda key: simulation.run(key, data, clients, federation)  # noqa: E731
        for leaf in jax.tree.leaves(jax.eval_shape(run, jax.random.key(0))):
            assert leaf.dtype in (jnp.float64, jnp.int32, jnp.bool_)


@pytest.mark.parametrize("name", METHODS)
def test_x64_does_not_forbid_a_model_in_float32(tiny, name):
    """The precision of the process is not the precision of the network."""
    data, clients = tiny.world()
    model = tiny.model_of(name)
    single = model._replace(init=lambda key: jax.tree.map(jnp.float32, model.init(key)))
    with jax.enable_x64(True):
        federation = tiny.federation(name, single, rounds=2)
        run = lambda key: simulation.run(key, data, clients, federation)  # noqa: E731
        state, _, _ = jax.eval_shape(run, jax.random.key(0))
        assert state.clients.dtype == state.server.dtype == jnp.float32


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("name", ["cgsv", "cgsv_released", "fedavg"])
def test_rewards_are_never_stored(tiny, name):
    """The compiled server step adds masks to the models in place.

    It needs less than a quarter of a matrix [N, D] beside its arguments, so that neither uploads
    at their norm nor rewards exist, their energy in the record included, and its output is the
    donated state.
    """
    count, dimension = 64, 40_000
    algorithm = {
        "cgsv": methods.cgsv,
        "cgsv_released": lambda: methods.cgsv_released((10_000, 30_000)),
        "fedavg": methods.fedavg,
    }[name]()

    federation = tiny.federation()._replace(algorithm=algorithm)

    def state():
        rules = algorithm.init(count, dimension)
        models = jnp.zeros((count, dimension))
        return State(jnp.zeros(dimension), models, (), rules, jnp.int32(0), jnp.zeros(len(models)))

    def serve(state, deltas, norms):
        upload = tiny.upload(jnp.zeros((count, 1)), np.full(count, 5))._replace(
            server=state.server, clients=state.clients, deltas=deltas, norms=norms, validation=None
        )
        return simulation.serve(jax.random.key(0), state, upload, (), federation)

    deltas = jax.ShapeDtypeStruct((count, dimension), jnp.float32)
    norms = jax.ShapeDtypeStruct((count,), jnp.float32)
    lowered = jax.jit(serve, donate_argnums=0).lower(jax.eval_shape(state), deltas, norms)
    memory, matrix = lowered.compile().memory_analysis(), 4 * count * dimension
    assert memory.temp_size_in_bytes < matrix / 4
    assert memory.alias_size_in_bytes >= matrix
