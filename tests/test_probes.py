"""Small worlds whose answer is known beforehand, played by whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax.core import simulation
from cgsv_jax.types import Clients

EPS = float(np.finfo(np.float32).eps)
ROUNDS = 4


def equal_clients(tiny, count=4, size=6, seed=0):
    return tiny.world((size,) * count, seed=seed)


def run(federation, data, clients, orders):
    """Rounds without evaluation, which is most of what there would be to compile."""
    key = jax.random.key(0)
    state = simulation.init(key, 4, federation)
    one_round = jax.jit(
        lambda state, orders: simulation.round_(key, state, data, clients, federation, orders)
    )
    records = []
    for given in orders:
        state, record = one_round(state, given)
        records.append(record)
    return state, jax.tree.map(lambda *x: np.stack(x), *records)


def test_equals_get_equal_and_an_adversary_gets_the_floor(tiny):
    """Clients 0 and 1 are one and the same, client 3 sends its update with the wrong sign."""
    data, clients = equal_clients(tiny)
    clients = clients._replace(rows=clients.rows[[0, 0, 1, 2]])
    orders = tiny.orders(clients, ROUNDS, 2)
    orders[:, 1] = orders[:, 0]
    numbers = tiny.hyper(alpha=0.3, floor=0.02, gamma=0.3)
    federation = tiny.federation(model=tiny.softmax(), hyper=numbers)
    honest = federation.trainer
    adversary = jnp.asarray(clients.rows[3, 0])

    def update(key, params, opt_state, examples, order, round_):
        delta, opt_state, loss = honest.update(key, params, opt_state, examples, order, round_)
        sign = jnp.where(examples.rows[0] == adversary, -1.0, 1.0)
        return jax.tree.map(lambda x: sign * x, delta), opt_state, loss

    federation = federation._replace(trainer=honest._replace(update=update))
    state, record = run(federation, data, clients, orders)

    # Rows of one matrix product: the same terms, in another order at most.
    close = {"rtol": 0, "atol": 12 * 2 * EPS}
    np.testing.assert_allclose(record.reputation[:, 0], record.reputation[:, 1], **close)
    np.testing.assert_array_equal(record.quota[:, 0], record.quota[:, 1])
    np.testing.assert_allclose(state.clients[0], state.clients[1], **close)

    assert (record.score[:, 3] < 0).all()
    old = np.zeros(4)
    for t in range(ROUNDS):
        mixed = np.maximum(0.3 * old + 0.7 * np.float64(record.score[t]), 0.02)
        if t > 0:
            assert mixed[3] == 0.02  # at the floor, before normalising
        np.testing.assert_allclose(record.reputation[t], mixed / mixed.sum(), **close)
        old = np.float64(record.reputation[t])
    assert (np.argmin(record.quota, axis=1) == 3).all()


def test_noise_labels_rank_last(tiny):
    """Client 2 of four equals believes random labels: last in all of eight worlds.

    Were its rank a matter of chance, that would happen with probability 4^-8 = 1.5e-5.
    """
    seeds, size = 8, 24
    worlds = [tiny.world((size,) * 4, seed=s, noise=0.05) for s in range(seeds)]
    data = jax.tree.map(lambda *x: np.stack(x), *[w[0] for w in worlds])
    rows = np.stack([w[1].rows for w in worlds])
    labels = np.stack([w[0].labels[w[1].rows] for w in worlds])
    labels[:, 2] = np.random.default_rng(0).integers(0, tiny.classes, (seeds, size))
    clients = Clients(rows, np.ones(rows.shape, bool), labels)
    orders = np.stack([tiny.orders(w[1], 6, 2, seed=s) for s, w in enumerate(worlds)])
    federation = tiny.federation(
        model=tiny.softmax(), hyper=tiny.hyper(alpha=0.9), rounds=6, batch=8, eval_every=6
    )
    runs = jax.jit(jax.vmap(lambda k, d, c, o: simulation.run(k, d, c, federation, o)))
    keys = jax.random.split(jax.random.key(0), seeds)
    _, record, evaluation = runs(keys, data, clients, orders)
    assert (np.argmin(record.reputation[:, -1], axis=1) == 2).all()
    assert (np.argmin(record.quota[:, -1], axis=1) == 2).all()
    # The others learned: without that, the rank would be an accident of the first updates.
    assert evaluation.server_accuracy.mean() > 0.6


@pytest.mark.parametrize("name", ["cgsv", "fedavg", "standalone"])
def test_where_the_models_are(tiny, name):
    """All equal to the server with beta = infinity and in fedavg; its mean when all are alone."""
    data, clients = equal_clients(tiny)
    orders = tiny.orders(clients, ROUNDS, 2)
    federation = tiny.federation(name, tiny.softmax(), tiny.hyper(beta=np.inf))
    state, record = run(federation, data, clients, orders)
    if name == "standalone":
        # A mean of four and a running sum over four rounds, at size 2.
        mean = np.float64(state.clients).mean(0)
        np.testing.assert_allclose(state.server, mean, rtol=0, atol=2 * 4 * ROUNDS * EPS)
        assert np.abs(np.diff(state.clients, axis=0)).max() > 0.1
        assert not record.quota.any()
    else:  # the same numbers are added to the same start
        np.testing.assert_array_equal(state.clients, np.tile(state.server, (4, 1)))
        np.testing.assert_array_equal(record.quota, state.server.size)


def test_what_a_client_gets_is_what_it_earned(tiny, finished):
    """Better reputation, nearer to the server: the distance grows as the quota falls."""
    quota = np.asarray(finished.record.quota)
    reputation = np.asarray(finished.record.reputation)
    for q, r in zip(quota, reputation, strict=True):
        assert (np.diff(q[np.argsort(r)]) >= 0).all()
    best = np.argmax(reputation, axis=1)
    assert (best == best[0]).all()  # in this run one client always got everything
    np.testing.assert_array_equal(finished.state.clients[best[0]], finished.state.server)
