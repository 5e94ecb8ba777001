"""Ditto: against NumPy loops, in its limits, and at a fixed point in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_personal
import pytest
from declared import Hyper, Options
from test_rules import oracle_world

from cgsv_jax.core import attacks, local, simulation
from cgsv_jax.rules.methods import cgsv, ditto, fedavg, private, then
from cgsv_jax.types import Clients, Conduct, Dataset, Federation, Model, Settings, Trainer

ROUNDS, EPOCHS, BATCH, N = 4, 2, 4, 4
PRESENT = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 1]], bool)


def test_rounds_with_absences_are_those_of_loops(tiny):
    """In float64; who stays away keeps its model, and is pulled to the server's as it is later."""
    data, clients = tiny.world(pad=1)
    orders, model, key = tiny.orders(clients, ROUNDS, EPOCHS), tiny.mlp(), jax.random.key(3)
    with jax.enable_x64(True):
        data = data._replace(inputs=np.float64(data.inputs))
        numbers = Hyper(**{f: np.float64(0.01) for f in Hyper._fields})
        numbers = numbers._replace(learning_rate=np.float64(0.3), decay=np.float64(0.8))
        numbers = numbers._replace(personal_pull=np.float64(0.7))
        federation = tiny.federation("ditto", model, numbers, Options(), epochs=EPOCHS)
        federation = tiny.attended(federation, PRESENT)
        seen = tiny.played(key, data, clients, orders, federation)
        params = model.init(jax.random.fold_in(key, 0))
    want = oracle_personal.ditto(
        0.7, **oracle_world(data, clients, params), orders=orders,
        options=oracle.Options(learning_rate=0.3, decay=0.8), present=PRESENT, batch=BATCH,
        gradient=oracle.mlp_gradient,
    )  # fmt: skip
    close = {"rtol": 0, "atol": 4e-10}  # as in test_whole_runs
    for (state, record), (server, own), here in zip(seen, want, PRESENT, strict=True):
        np.testing.assert_allclose(state.server, server, **close)
        np.testing.assert_allclose(state.clients, own, **close)
        np.testing.assert_array_equal(record.quota, np.where(here, len(server), 0))
        np.testing.assert_allclose(record.energy, here, rtol=1e-12)
    assert np.abs(want[-1][1] - want[-1][0]).max() > 0.05


@pytest.mark.parametrize("momentum", [0.0, pytest.param(0.9, marks=pytest.mark.long)])
def test_without_a_pull_it_is_standalone_beside_fedavg(tiny, momentum):
    """Bit for bit, absences included; with momentum, that of the upload is new in every round."""
    data, clients = tiny.world()
    orders, key = tiny.orders(clients, ROUNDS, EPOCHS), jax.random.key(1)
    optimizer = functools.partial(optax.sgd, momentum=momentum) if momentum else optax.sgd
    seen = {}
    for name in ("ditto", "standalone", "fedavg"):
        federation = tiny.federation(
            name, hyper=tiny.hyper(personal_pull=0.0), optimizer=optimizer, epochs=EPOCHS
        )
        federation = tiny.attended(federation, PRESENT)
        if name == "fedavg" and momentum:
            fresh = local.trainer(
                federation.model, optimizer, local.decayed(0.3, 0.9), batch_size=BATCH, restart=True
            )
            federation = federation._replace(trainer=fresh)
        seen[name] = [state for state, _ in tiny.played(key, data, clients, orders, federation)]
    for mine, alone, together in zip(*seen.values(), strict=True):
        np.testing.assert_array_equal(mine.clients, alone.clients)
        jax.tree.map(np.testing.assert_array_equal, mine.optimizer, alone.optimizer)
        np.testing.assert_allclose(mine.server, together.server, rtol=0, atol=1e-6)


def quadratic(pull, rounds, eta=0.1):
    """Clients of F_i(w) = ‖w - c_i‖² / 2, c the rows of a set of one row each."""
    centres = np.float32(np.random.default_rng(0).normal(size=(3, 2)))
    model = Model(lambda key: jnp.zeros(2), lambda params, x, key=None: x - params)

    def update(key, params, opt_state, examples, order, round_, *, pull=None):
        start = params
        for _ in range(5):
            gradient = params - examples.inputs[examples.rows[0]]
            params = params - eta * (gradient + (0 if pull is None else pull(params)))
        return params - start, opt_state, jnp.zeros(())

    trainer = Trainer(lambda params: (), update, lambda round_: jnp.float32(eta))
    rows = np.arange(3, dtype=np.int32)[:, None]
    clients = Clients(rows, np.ones((3, 1), bool))
    labels = np.zeros(3, np.int32)
    data = Dataset(centres, labels, centres, labels)
    federation = Federation(model, trainer, ditto(pull), Settings(rounds=rounds, epochs=1))
    state = simulation.init(jax.random.key(0), 3, federation)
    step = lambda state, _: simulation.round_(  # noqa: E731
        jax.random.key(0), state, data, clients, federation
    )
    return centres, jax.jit(lambda s: jax.lax.scan(step, s, None, rounds)[0])(state)


@pytest.mark.parametrize("pull", [0.0, 0.5, 3.0, 8.0])
def test_personal_models_end_between_their_optimum_and_the_shared_one(pull):
    """w_N = mean c_i, as FedAvg of equal curvatures ends; w_i = (c_i + lambda w_N)/(1 + lambda)."""
    centres, state = quadratic(pull, 200)
    mean = centres.mean(axis=0)
    np.testing.assert_allclose(state.server, mean, atol=1e-5)
    want = (centres + pull * mean) / (1 + pull)
    np.testing.assert_allclose(state.clients, want, atol=1e-5)


def test_a_replay_is_of_what_the_server_sent(tiny):
    """An attacker sends u_N back, which it was sent whole; its own training is no message."""
    data, clients = tiny.world((5, 3, 6, 4))
    here = Conduct(np.array([0, 1, 0, 0], np.int32), np.ones(4, np.float32))
    federation = tiny.federation("ditto", tiny.softmax())
    federation = federation._replace(attack=attacks.attack(["free_rider_replay"]))
    orders = tiny.orders(clients, 3, EPOCHS)
    seen = tiny.played(jax.random.key(0), data, clients._replace(conduct=here), orders, federation)
    servers = [np.asarray(state.server) for state, _ in seen]
    norms = [float(record.norm[1]) for _, record in seen]
    assert norms[0] == 0  # nothing was sent before
    assert norms[2] > 0
    np.testing.assert_allclose(norms[2], np.linalg.norm(servers[1] - servers[0]), rtol=1e-5)


def test_what_cannot_be_is_refused(tiny):
    with pytest.raises(ValueError, match="personal_pull is -1"):
        ditto(-1.0)
    with pytest.raises(ValueError, match="nothing is left to keep"):
        private(ditto(), ((0, 2),))
    with pytest.raises(ValueError, match="a second, personal model"):
        then(fedavg(), ditto(), 3)
    data, clients = tiny.world()
    federation = tiny.federation("cgsv", rounds=1)._replace(algorithm=ditto())
    update = lambda key, params, opt_state, examples, order, round_: (  # noqa: E731
        params, opt_state, 0.0
    )  # fmt: skip
    federation = federation._replace(trainer=federation.trainer._replace(update=update))
    with pytest.raises(ValueError, match=r"Trainer\.update has no pull"):
        simulation.run(jax.random.key(0), data, clients, federation)
    assert cgsv().personal is None
