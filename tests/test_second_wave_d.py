"""FedProx, server optimizers and SCAFFOLD: loops, fixed points in closed form, official servers."""

import functools
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_second_wave_d
import pytest
from declared import Hyper, Options
from test_rules import oracle_world

import cgsv_jax as cg
from cgsv_jax.core import local, simulation
from cgsv_jax.experiment import names, running
from cgsv_jax.rules.aggregation import adaptive, by_size, stepped
from cgsv_jax.rules.aggregation.stepped import Moments
from cgsv_jax.rules.methods import (
    fedadam,
    fedavg,
    fedavgm,
    fedprox,
    fedyogi,
    private,
    scaffold,
    standalone,
    then,
)
from cgsv_jax.types import Clients, Dataset, Federation, Local, Model, Settings, Trainer

ROUNDS, EPOCHS, BATCH, N = 5, 2, 4, 4
# Somebody is away in every round but the first, everybody in the fourth; the last client comes back
# to a model that has moved three times.
PRESENT = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1]], bool)
NUMBERS = {"mu": 0.4, "rate": 0.7, "momentum": 0.6, "beta2": 0.8, "tau": 0.05}
FLAGS = {"mu": "mu", "rate": "server_rate", "momentum": "server_momentum", "beta2": "server_beta2"}
FLAGS |= {"tau": "server_tau"}
READS = {
    "fedprox": ("mu",),
    "fedavgm": ("rate", "momentum"),
    "fedadam": ("rate", "momentum", "beta2", "tau"),
    "fedyogi": ("rate", "momentum", "beta2", "tau"),
    "scaffold": ("rate",),
}


@pytest.mark.parametrize(
    ("name", "weights", "per"),
    [
        *((name, "size", "round") for name in oracle_second_wave_d.METHODS),
        ("scaffold", "uniform", "epoch"),
    ],
)
def test_rounds_with_absences_are_those_of_loops(name, weights, per, tiny):
    """In float64; a round of nobody changes nothing, momentum included."""
    data, clients = tiny.world(pad=1)
    orders = tiny.orders(clients, ROUNDS, EPOCHS)
    model, key = tiny.softmax(), jax.random.key(3)
    numbers = {own: NUMBERS[own] for own in READS[name]}
    with jax.enable_x64(True):
        data = data._replace(inputs=np.float64(data.inputs))
        given = {FLAGS[own]: np.float64(value) for own, value in numbers.items()}
        hyper = Hyper(**{f: np.float64(given.get(f, 0.01)) for f in Hyper._fields})
        hyper = hyper._replace(learning_rate=np.float64(0.3), decay=np.float64(0.8))
        options = Options(variate_weights=weights)
        federation = tiny.federation(name, model, hyper, options, epochs=EPOCHS, per=per)
        federation = tiny.attended(federation, PRESENT)
        params = model.init(jax.random.fold_in(key, 0))
        seen = tiny.played(key, data, clients, orders, federation)
    numbers |= {"weights": weights}
    want = oracle_second_wave_d.run(
        name, numbers, **oracle_world(data, clients, params), orders=orders,
        options=oracle.Options(learning_rate=0.3, decay=0.8, decay_per=per), present=PRESENT,
        batch=BATCH, gradient=oracle.softmax_gradient,
    )  # fmt: skip
    # As in test_whole_runs, with one round more and a divisor of at least tau = .05: 6 x 12 x 5 x
    # 1.3^30 x 20 units of 2^-52.
    for (state, record), model_after, here in zip(seen, want, PRESENT, strict=True):
        np.testing.assert_allclose(state.server, model_after, rtol=0, atol=4e-9)
        np.testing.assert_allclose(
            np.asarray(state.clients)[here], np.tile(model_after, (here.sum(), 1)), atol=4e-9
        )
        np.testing.assert_array_equal(record.quota, np.where(here, 12, 0))
    moved = np.abs(np.diff([oracle.ravel(jax.tree.leaves(params)), *want], axis=0)).max(axis=1)
    np.testing.assert_array_equal(moved > 1e-3, PRESENT.any(axis=1))


@pytest.mark.long
def test_without_its_number_it_is_fedavg_bit_for_bit():
    """mu = 0; and a server without momentum that takes the whole step."""
    asked = {"clients": 5, "rounds": 3, "seeds": 1, "eval_every": 3}
    methods = ("fedavg", "fedprox[mu=0.0]", "fedavgm[server_momentum=0.0]")
    first, *others = running.run(names.configure(algorithms=methods, **asked)).cells
    for other in others:
        for field in ("norm", "loss", "reputation", "energy"):
            mine, theirs = getattr(first.record, field), getattr(other.record, field)
            np.testing.assert_array_equal(mine, theirs, f"{other.method}: {field}")
        np.testing.assert_array_equal(first.evaluation.server_loss, other.evaluation.server_loss)


# ---------------------------------------------------------------- a problem that is solved on paper

CURVES = np.array([[0.2, 1.0, 0.7], [1.5, 0.3, 0.7], [0.6, 2.0, 0.7]])  # a_i
CENTRES = np.array([[1.0, -2.0, 3.0], [-4.0, 0.5, 1.0], [2.0, 5.0, -1.0]])  # c_i
COUNTS = np.array([1, 2, 3])  # rows of each client, all alike, one a step
E, RATE = 3, 0.2
STEPS = E * COUNTS


def quadratics(algorithm, rounds, optimizer=optax.sgd, decay=1.0, per="round", there=None):
    """w_N [D] after so many rounds of clients with F_i(w) = sum_k a_ik (w_k - c_ik)² / 2, in x64.

    A row holds sqrt(a_i) and c_i, and the model's answer is sqrt(a_i) (w - c_i).
    """
    size = CURVES.shape[1]

    def apply(params, inputs, key=None):
        roots, centres = inputs[:, :size], inputs[:, size:]
        return roots * (params["w"][None, :] - centres)

    model = Model(lambda key: {"w": jnp.zeros(size)}, apply)
    rows = np.arange(COUNTS.sum()).astype(np.int32)
    owners = np.repeat(np.arange(len(COUNTS)), COUNTS)
    mask = np.arange(COUNTS.max()) < COUNTS[:, None]
    held = np.zeros(mask.shape, np.int32)
    held[mask] = rows
    with jax.enable_x64(True):
        inputs = np.c_[np.sqrt(CURVES), CENTRES][owners]
        labels = np.zeros(len(rows), np.int32)
        data = Dataset(inputs, labels, inputs, labels)
        trainer = local.trainer(
            model, optimizer, local.decayed(RATE, decay, per=per, epochs=E), batch_size=1,
            loss=lambda logits, labels: jnp.sum(jnp.square(logits), axis=1) / 2,
        )  # fmt: skip
        federation = Federation(model, trainer, algorithm, Settings(rounds=1, epochs=E))
        federation = federation if there is None else there(federation)
        clients, key = Clients(held, mask), jax.random.key(0)
        state = simulation.init(key, len(COUNTS), federation)

        def one_round(state, _):
            state, _ = simulation.round_(key, state, data, clients, federation)
            return state, state.server

        return np.asarray(jax.jit(lambda s: jax.lax.scan(one_round, s, None, rounds)[1])(state))


def centre(weights):
    """sum_i weights_i c_i / sum_i weights_i, entry by entry."""
    return (weights * CENTRES).sum(axis=0) / weights.sum(axis=0)


def evenly():
    return fedavg(cg.aggregation.uniform())


# A step leaves 1 - eta a_i of a client's distance to its own optimum, K_i steps its K_i-th power,
# and the server then has the mean of all: it stays where the parts that are left balance.
LEFT = (1 - RATE * CURVES) ** STEPS[:, None]
OPTIMUM = centre(CURVES)  # of the mean of the losses


def test_fedavg_stalls_at_its_known_place_and_scaffold_at_the_optimum():
    """Unequal clients, unequal numbers of steps: the optimum is none of FedAvg's business."""
    stalled = centre(1 - LEFT)
    np.testing.assert_allclose(quadratics(evenly(), 200)[-1], stalled, rtol=0, atol=1e-12)
    assert np.abs(stalled - OPTIMUM).max() > 0.3
    reached = quadratics(scaffold(), 300)
    np.testing.assert_allclose(reached[-1], OPTIMUM, rtol=0, atol=1e-12)
    # Linearly: what is left falls by a common factor.
    apart = np.abs(reached - OPTIMUM).max(axis=1)
    assert apart[60] < 1e-2 * apart[20]
    # In its first round every variate is 0 and it is FedAvg.
    np.testing.assert_array_equal(reached[0], quadratics(evenly(), 1)[0])


def test_scaffold_by_size_reaches_the_optimum_of_all_rows():
    weighted = CURVES * COUNTS[:, None]
    reached = quadratics(scaffold(weights="size"), 300)[-1]
    np.testing.assert_allclose(reached, centre(weighted), rtol=0, atol=1e-12)


def test_scaffold_hears_who_is_away_by_its_variate(tiny):
    """Two of three a round, by turns; and a smaller step of the server, as its theory asks for."""
    there = functools.partial(tiny.attended, present=~np.eye(3, dtype=bool))
    reached = quadratics(scaffold(0.5), 1500, there=there)[-1]
    np.testing.assert_allclose(reached, OPTIMUM, rtol=0, atol=1e-10)
    assert np.abs(quadratics(evenly(), 300, there=there)[-1] - OPTIMUM).max() > 0.3


def test_a_variate_is_a_gradient_under_momentum_too():
    """(w_N - y_i) / (K_i eta) would be up to ten times one, and the correction diverges."""
    momentum = functools.partial(optax.sgd, momentum=0.9)
    reached = quadratics(scaffold(0.2), 600, momentum)[-1]
    np.testing.assert_allclose(reached, OPTIMUM, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mu", [0.0, 0.5, 3.0])
def test_fedprox_stalls_at_its_known_place(mu):
    """A round leads to (a c + mu w) / (a + mu), and a step leaves 1 - eta (a + mu) of the way.

    mu = 0 is FedAvg's place.
    """
    way = (1 - (1 - RATE * (CURVES + mu)) ** STEPS[:, None]) * CURVES / (CURVES + mu)
    reached = quadratics(fedprox(mu, cg.aggregation.uniform()), 800)[-1]
    np.testing.assert_allclose(reached, centre(way), rtol=0, atol=1e-12)
    assert (np.abs(centre(way) - centre(1 - LEFT)).max() > 0.05) == (mu > 0)
    if not mu:
        alike = (quadratics(one, 5) for one in (evenly(), fedprox(0.0, cg.aggregation.uniform())))
        np.testing.assert_array_equal(*alike)


def test_scaffold_with_a_rate_that_decays_within_a_round():
    """The mean over steps weighs each by its rate: (w_N - y_i) / sum_k eta_k."""
    reached = quadratics(scaffold(), 60, decay=0.99, per="epoch")[-1]
    apart = np.abs(reached - OPTIMUM).max()
    assert apart < np.abs(quadratics(evenly(), 60, decay=0.99, per="epoch")[-1] - OPTIMUM).max() / 9


# ---------------------------------------------------------------- servers


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.yogi(0.1), optax.adagrad(0.1)])
def test_any_optimizer_of_optax_steps_along_the_mean(optimizer, tiny):
    rng = np.random.default_rng(0)
    algorithm = fedavg(stepped(by_size(), optimizer))
    sizes = np.array([3, 1, 4])
    state, theirs = algorithm.init(3, 12), optimizer.init(jnp.zeros(12))
    update = jax.jit(algorithm.update)
    for t in range(4):
        here = np.array([1, t % 2, 1], bool)
        sent = tiny.upload(np.float32(rng.normal(size=(3, 12))), sizes, here)
        download, _, state = update(jax.random.key(0), sent, state)
        mean = (sizes * here) @ np.asarray(sent.deltas) / (sizes @ here)
        want, theirs = optimizer.update(jnp.float32(-mean), theirs)
        np.testing.assert_allclose(download.aggregate, want, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(
            download.rewards, np.where(here[:, None], download.aggregate, 0)
        )


def test_moments_without_their_factors():
    """From Adam's of optax: m and v are those before 1 / (1 - beta^t), if v starts at 0."""

    def squares(v, squared, beta2):
        return beta2 * v + (1 - beta2) * squared

    ours, adam = adaptive(1.0, 0.9, 0.99, 1e-3, squares, 0.0), optax.scale_by_adam(0.9, 0.99)
    mine, theirs = ours.init(jnp.zeros(6)), adam.init(jnp.zeros(6))
    rng = np.random.default_rng(1)
    for _ in range(5):
        gradient = jnp.float32(rng.normal(size=6))
        step, mine = ours.update(gradient, mine)
        _, theirs = adam.update(gradient, theirs)
        np.testing.assert_allclose(mine.mean, -theirs.mu, rtol=1e-6)
        np.testing.assert_allclose(mine.square, theirs.nu, rtol=1e-6)
        np.testing.assert_allclose(step, -theirs.mu / (np.sqrt(theirs.nu) + 1e-3), rtol=1e-5)
    started = adaptive(1.0, 0.9, 0.99, 1e-2, squares).init(jnp.zeros(2))
    np.testing.assert_allclose(started.square, 1e-4)  # v_{-1} = tau²


# ---------------------------------------------------------------- what trainers read


def test_a_trainer_that_cannot_read_it_is_refused(tiny):
    data, clients = tiny.world()
    federation = tiny.federation("fedavg", tiny.softmax())
    plain = federation.trainer

    def six(key, params, opt_state, examples, order, round_):
        return plain.update(key, params, opt_state, examples, order, round_)

    def pulled(key, params, opt_state, examples, order, round_, pull=None):
        return plain.update(key, params, opt_state, examples, order, round_, pull=pull)

    def run(update, algorithm):
        chosen = federation._replace(
            trainer=plain._replace(update=update), algorithm=algorithm,
            settings=federation.settings._replace(rounds=1),
        )  # fmt: skip
        return jax.eval_shape(lambda: simulation.run(jax.random.key(0), data, clients, chosen))

    run(six, fedavg())
    with pytest.raises(ValueError, match=r"Trainer.update has no pull: see cgsv_jax.Trainer"):
        run(six, fedprox())
    run(pulled, fedprox())
    with pytest.raises(ValueError, match="has no with_gradient"):
        run(pulled, scaffold())
    run(lambda *given, **more: plain.update(*given, **more), scaffold())
    assert [*inspect.signature(plain.update).parameters][-2:] == ["pull", "with_gradient"]


def test_uploads_without_gradients_are_refused(tiny):
    sent = tiny.upload(np.ones((3, 8), np.float32), [1, 2, 3])._replace(gradients=None)
    with pytest.raises(ValueError, match="scaffold needs uploads with gradients"):
        scaffold().update(jax.random.key(0), sent, scaffold().init(3, 8))


def seen_pull(algorithm, tiny, rounds=3):
    """What is added to gradients that are 1 everywhere, in every round of clients that train."""
    data, clients = tiny.world()
    model = tiny.softmax()
    size = sum(tiny.sizes_of(model))

    def update(key, params, opt_state, examples, order, round_, pull=None, with_gradient=False):
        ahead = jax.tree.map(lambda x: x + 1.0, params)
        added = jax.tree.map(jnp.zeros_like, params) if pull is None else pull(ahead)
        shown = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(added)])
        kept = jax.tree.map(lambda x: 0.0 * x + 0.1 * (1 + key_part(key)), params)
        gradient = jax.tree.map(lambda x: jnp.full_like(x, 2.0 + key_part(key)), params)
        return (kept, shown, jnp.zeros(()), *((gradient,) if with_gradient else ()))

    def key_part(key):
        return jax.random.uniform(key)

    trainer = Trainer(lambda params: jnp.zeros(size), update, lambda round_: jnp.float32(0.1))
    federation = Federation(model, trainer, algorithm, Settings(rounds=rounds, epochs=1))
    key = jax.random.key(2)
    state, shown = simulation.init(key, N, federation), []
    one_round = jax.jit(lambda state: simulation.round_(key, state, data, clients, federation)[0])
    for _ in range(rounds):
        state = one_round(state)
        shown.append(np.asarray(state.optimizer))
    return np.array(shown), state


def test_stages_pull_each_in_its_rounds(tiny):
    pulls, _ = seen_pull(then(fedprox(0.5), fedprox(2.0), 2), tiny)
    want = np.broadcast_to([[[0.5]], [[0.5]], [[2.0]]], pulls.shape)
    np.testing.assert_allclose(pulls, want, rtol=1e-6)
    pulls, _ = seen_pull(then(standalone(), fedprox(2.0), 1), tiny)
    np.testing.assert_allclose(pulls[0], 0)
    np.testing.assert_allclose(pulls[1:], 2, rtol=1e-6)
    # The variates of a second stage begin at 0.
    pulls, _ = seen_pull(then(fedprox(0.5), scaffold(), 1), tiny)
    np.testing.assert_allclose(pulls[0], 0.5, rtol=1e-6)
    np.testing.assert_array_equal(pulls[1], 0)
    assert np.abs(pulls[2]).min() > 1e-3
    np.testing.assert_allclose(pulls[2].sum(axis=0), 0, atol=1e-5)  # c is the mean of c_i


def test_private_entries_have_no_variate(tiny):
    pulls, state = seen_pull(private(scaffold(), ((0, 3),)), tiny)
    np.testing.assert_array_equal(pulls[:, :, :3], 0)
    assert np.abs(pulls[1:, :, 3:]).min() > 1e-3
    assert not np.asarray(state.algorithm.own)[:, :3].any()


def test_a_rule_of_ones_own_may_broadcast(tiny):
    """The server sends everybody w_N + 1 and each client its own number."""

    def broadcast(state, server, round_):
        return {"model": server + 1.0, "round": round_}, jnp.arange(N, dtype=jnp.float32)

    def pull(weights, start, shared, own):
        return 0 * weights + (shared["model"] - start) * own + shared["round"]

    algorithm = fedavg()._replace(local=Local(pull, broadcast))
    pulls, _ = seen_pull(algorithm, tiny)
    want = np.arange(3)[:, None, None] + np.arange(N)[None, :, None]
    np.testing.assert_allclose(pulls, np.broadcast_to(want, pulls.shape), atol=1e-5)


# ---------------------------------------------------------------- Flower's servers


FLOWER = Path(__file__).parent / "data" / "official_servers.npz"


@pytest.mark.long
@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_servers_step_as_those_of_flower(name, tiny):
    """Flower 1.42.0 on recorded models of four clients over five rounds, in float64.

    FedAvgM is the same. Flower starts v of FedYogi and FedAdam at 0, where Algorithm 2 and the
    package have tau²: so here v is put to 0 before the first round. And its FedAdam multiplies eta
    by sqrt(1 - beta_2^k) / (1 - beta_1^k), k = t + 1 in round t = 1, 2, ... (Adam has k = t, and
    Algorithm 2 no factor): so here the step is multiplied by it afterwards. All else is theirs.
    The third round's updates are small, where v shrinks in another way in FedYogi.
    """
    with np.load(FLOWER) as arrays:
        theirs = dict(arrays)
    numbers = {"momentum": 0.6, "beta2": 0.8, "tau": 0.01}
    with jax.enable_x64(True):
        made = {
            "fedavgm": lambda: fedavgm(0.7, 0.6),
            "fedadam": lambda: fedadam(0.05, **numbers),
            "fedyogi": lambda: fedyogi(0.05, **numbers),
        }
        algorithm = made[name]()
        state, server = algorithm.init(4, 8), jnp.asarray(theirs["start"])
        # Vectors that are made of no array have float32 until one meets them.
        state = jax.tree.map(lambda x: x.astype(jnp.float64), state)
        parts, form = jax.tree.flatten(state, is_leaf=lambda x: isinstance(x, Moments))
        moments = [x for x in parts if isinstance(x, Moments)]
        assert len(moments) == (name != "fedavgm")
        assert all((x.square == 0.01**2).all() for x in moments)
        parts = [x._replace(square=0 * x.square) if isinstance(x, Moments) else x for x in parts]
        state = jax.tree.unflatten(form, parts)
        for t, deltas in enumerate(theirs["deltas"]):
            sent = tiny.upload(deltas, theirs["sizes"], server=server)
            download, _, state = algorithm.update(jax.random.key(0), sent, state)
            k = t + 2  # t counts from 0 here
            factor = np.sqrt(1 - 0.8**k) / (1 - 0.6**k) if name == "fedadam" else 1.0
            server = server + factor * download.aggregate
            # Divided by at least tau, some hundred units of 2^-52.
            np.testing.assert_allclose(server, theirs[name][t], rtol=0, atol=1e-12)
