"""A run: a legal carry, pure, resumable, donated, in either precision, and evaluated on time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax import simulation, vectors
from cgsv_jax.types import Settings

EPS = float(np.finfo(np.float32).eps)


def start_of(finished, copy=True):
    parts = {k: finished.parts[k] for k in ("model", "algorithm", "trainer")}
    state = simulation.init(finished.key, 4, **parts)
    # Donation takes the buffers, and a constant may be shared by several leaves.
    return jax.tree.map(jnp.copy, state) if copy else state


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def part(tree, rounds):
    return jax.tree.map(lambda x: x[rounds], tree)


@pytest.fixture(scope="module")
def advance(finished):
    """advance(T, k) compiled once for each pair."""
    compiled = {}

    def advance(state, rounds, every=1):
        settings = finished.parts["settings"]._replace(rounds=rounds, evaluate_every=every)
        parts = finished.parts | {"settings": settings}
        if (rounds, every) not in compiled:
            compiled[rounds, every] = jax.jit(
                lambda key, state, data, clients: simulation.advance(
                    key, state, data, clients, **parts
                )
            )
        return compiled[rounds, every](finished.key, state, finished.data, finished.clients)

    return advance


@pytest.fixture(scope="module")
def one_round(finished):
    def function(state, key, data, clients):
        return simulation.round_(key, state, data, clients, **finished.parts)

    return jax.jit(function, donate_argnums=0)


# ---------------------------------------------------------------- what comes out


def test_shapes_and_bookkeeping(finished):
    state, record, evaluation = finished.state, finished.record, finished.evaluation
    dimension = 4 + 12 + 3 + 12
    assert state.server.shape == (dimension,)
    assert state.clients.shape == (4, dimension)
    assert state.round == 5
    for name, leaf in record._asdict().items():
        assert leaf.shape == (5, 4), name
    assert evaluation.round.tolist() == [1, 2, 3, 4, 5]
    assert evaluation.accuracy.shape == evaluation.loss.shape == (5, 4)
    assert evaluation.server_accuracy.shape == evaluation.server_loss.shape == (5,)
    assert record.quota.dtype == evaluation.round.dtype == jnp.int32
    assert bool(record.present.all())
    np.testing.assert_allclose(record.weight.sum(1), 1, atol=8 * EPS)
    np.testing.assert_allclose(record.reputation.sum(1), 1, atol=8 * EPS)
    np.testing.assert_array_equal(record.weight[0], np.float32([5, 3, 8, 6]) / np.float32(22))
    np.testing.assert_allclose(record.weight[1:], record.reputation[:-1], rtol=8 * EPS)
    assert record.quota.max(1).tolist() == [dimension] * 5
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(record)])).all()


def test_everybody_starts_from_the_same_model(finished):
    state = start_of(finished)
    params = finished.parts["model"].init(jax.random.fold_in(finished.key, 0))
    np.testing.assert_array_equal(state.server, vectors.ravel(params))
    np.testing.assert_array_equal(state.clients, np.tile(state.server, (4, 1)))
    assert state.round == 0
    assert not np.any(state.algorithm.standing.reputation)


def test_learning_happens(finished, tiny):
    """Far from chance: the server's loss falls below its start and below log 3."""
    loss = finished.evaluation.server_loss
    assert loss[-1] < loss[0]
    assert loss[-1] < np.log(tiny.classes)


# ---------------------------------------------------------------- pure, resumable, a legal carry


def test_state_is_a_legal_carry(finished):
    state = start_of(finished)
    new, _ = jax.eval_shape(
        lambda s: simulation.round_(
            finished.key, s, finished.data, finished.clients, **finished.parts
        ),
        state,
    )
    want = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == want


def test_segments_are_one_run(finished, advance):
    """2 and 3 rounds are 5, bit for bit, given the same key; and the first do not know T."""
    state, first, early = advance(start_of(finished), 2)
    assert state.round == 2
    same(first, part(finished.record, slice(2)))
    same(early, part(finished.evaluation, slice(2)))
    state, second, late = advance(state, 3)
    same(state, finished.state)
    same(second, part(finished.record, slice(2, 5)))
    same(late, part(finished.evaluation, slice(2, 5)))


def test_rounds_compose_and_their_state_may_be_donated(finished, one_round):
    state = start_of(finished)
    for t in range(5):
        old = state
        state, record = one_round(old, finished.key, finished.data, finished.clients)
        assert old.clients.is_deleted()
        assert old.server.is_deleted()
        same(record, part(finished.record, t))
    same(state, finished.state)


def test_the_state_of_init_may_be_donated(finished, one_round):
    """No two leaves may share a buffer, or donating the carry fails in the very first segment."""
    state = start_of(finished, copy=False)
    one_round(state, finished.key, finished.data, finished.clients)


@pytest.mark.parametrize(("every", "rounds"), [(2, [2, 4, 5]), (9, [5])])
def test_evaluation_after_every_kth_round_and_the_last(finished, advance, every, rounds):
    """k that does not divide T, and k beyond T: the rounds themselves are the same."""
    state, record, evaluation = advance(start_of(finished), 5, every)
    assert evaluation.round.tolist() == rounds
    same(state, finished.state)
    same(record, finished.record)
    same(evaluation, part(finished.evaluation, np.array(rounds) - 1))


def test_given_orders_arrive_round_by_round(finished, tiny):
    """[T, N, E, M] through the blocks of a scan and its rest: as the rounds by themselves."""
    orders = tiny.orders(finished.clients, 5, 2)
    settings = finished.parts["settings"]._replace(evaluate_every=2)
    trainer = tiny.spy(finished.clients)
    parts = finished.parts | {"settings": settings, "trainer": trainer}
    few = {k: parts[k] for k in ("model", "algorithm", "trainer")}
    state = simulation.init(finished.key, 4, **few)

    def run(rounds):
        chosen = parts | {"settings": settings._replace(rounds=rounds)}
        return jax.jit(
            lambda orders: simulation.advance(
                finished.key, state, finished.data, finished.clients, orders=orders, **chosen
            )[0].optimizer[0]
        )(orders[:rounds])

    for rounds in (4, 5):  # the last order of the whole blocks, and that of the rest
        np.testing.assert_array_equal(run(rounds), orders[rounds - 1])


# ---------------------------------------------------------------- what is sent up


def test_labels_a_client_believes_override_the_true_ones(tiny):
    data, clients = tiny.world(pad=2)
    believed = np.where(clients.mask, (data.labels[clients.rows] + 1) % 3, 7).astype(np.int32)
    model, algorithm = tiny.softmax(), tiny.parts()["algorithm"]
    trainer = tiny.spy(clients)

    @jax.jit
    def look(clients):
        state = simulation.init(
            jax.random.key(0), 4, model=model, algorithm=algorithm, trainer=trainer
        )
        return simulation.train(
            jax.random.key(0), state, data, clients,
            model=model, trainer=trainer, settings=Settings(1, 2),
        )  # fmt: skip

    upload, (_, rows, labels, _) = look(clients)
    np.testing.assert_array_equal(labels, data.labels[clients.rows])
    np.testing.assert_array_equal(rows, clients.rows)
    np.testing.assert_array_equal(upload.num_examples, clients.mask.sum(1))
    lied, (_, _, labels, _) = look(clients._replace(labels=believed))
    np.testing.assert_array_equal(labels, believed)
    for sent, truth in ((upload, data.labels[clients.rows]), (lied, believed)):
        want = [len(np.unique(t[m])) for t, m in zip(truth, clients.mask, strict=True)]
        assert sent.num_classes.tolist() == want


# ---------------------------------------------------------------- guards


def test_no_transfer_between_host_and_device(finished):
    key = jax.device_put(finished.key)
    with jax.transfer_guard("disallow"):
        state, _, _ = finished.run(key, finished.data, finished.clients)
    same(state, finished.state)


def test_no_nan_anywhere(finished, one_round):
    state = start_of(finished)
    with jax.debug_nans(True):
        for _ in range(2):
            state, _ = one_round(state, finished.key, finished.data, finished.clients)
        finished.run(finished.key, finished.data, finished.clients)


def test_a_run_in_x64_is_a_run_in_float64(tiny):
    """Its draws included: a permutation of valid rows, and not what 64-bit draws make of them."""
    data, clients = tiny.world(pad=3)
    poisoned = data._replace(inputs=np.concatenate([np.float64(data.inputs), [[np.nan] * 3]]))
    outside = clients._replace(rows=np.where(clients.mask, clients.rows, len(data.labels)))
    with jax.enable_x64(True):
        parts = tiny.parts(model=tiny.softmax(), rounds=2)
        run = jax.jit(lambda key: simulation.run(key, poisoned, outside, **parts))
        state, record, evaluation = run(jax.random.key(0))
        for leaf in jax.tree.leaves((state, record, evaluation)):
            assert leaf.dtype in (jnp.float64, jnp.int32, jnp.bool_)
        assert record.present.all()  # nobody trained on a padding slot, whose row is NaN
        assert np.isfinite(state.server).all()


def test_x64_does_not_forbid_a_model_in_float32(tiny):
    """The precision of the process is not the precision of the network."""
    data, clients = tiny.world()
    model = tiny.softmax()
    single = model._replace(init=lambda key: jax.tree.map(jnp.float32, model.init(key)))
    with jax.enable_x64(True):
        parts = tiny.parts(model=single, rounds=2)
        run = lambda key: simulation.run(key, data, clients, **parts)  # noqa: E731
        state, _, _ = jax.eval_shape(run, jax.random.key(0))
        assert state.clients.dtype == state.server.dtype == jnp.float32
