"""The rivals of cgsv: one server step of each against NumPy loops, and their known verdicts."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from declared import METHODS, READS, TABLES, Hyper, Options
from test_rules import in_rounds

from cgsv_jax import models
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError, Method
from cgsv_jax.core import evaluation, simulation
from cgsv_jax.experiment import bind, deal, programs
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.rules import methods as methods_lib
from cgsv_jax.rules.aggregation import by_reputation
from cgsv_jax.rules.contribution import cosine
from cgsv_jax.rules.methods import Removal
from cgsv_jax.rules.reputation import moving_average
from cgsv_jax.rules.reward import mix
from cgsv_jax.rules.then import then
from cgsv_jax.types import Standing

N, D = 5, 40
SIZES = np.array([4, 9, 2, 7, 8])
# Sums of N and D terms, a norm, a quotient and a sinh: fewer than 4 (N + D) roundings of numbers
# that are at most 4.
CLOSE = {"rtol": 0, "atol": 4 * 4 * (N + D) * np.finfo(np.float32).eps}


@pytest.fixture(scope="module")
def sent(tiny):
    """An upload of a later round: clients have models of their own."""
    rng = np.random.default_rng(3)
    deltas = np.float32(
        (rng.normal(size=D) + rng.normal(size=(N, D))) * rng.uniform(0.02, 0.3, (N, 1))
    )
    clients = np.float32(rng.normal(size=(N, D)))
    return tiny.upload(deltas, SIZES, clients=clients)


def exactly(upload):
    """Server, clients, deltas, losses and rate in float64."""
    names = ("server", "clients", "deltas", "start_loss", "learning_rate")
    return (np.asarray(getattr(upload, name), np.float64) for name in names)


def step(name, upload, tiny, options=None, state=None, key=0, **numbers):
    options = (options or Options())._replace(network=tiny.network(D))
    algorithm = METHODS[name](tiny.hyper(**numbers), options)
    state = algorithm.init(*upload.deltas.shape) if state is None else state
    return jax.jit(algorithm.update)(jax.random.key(key), upload, state)


def accuracies(tiny, upload, weights):
    inputs, labels = upload.validation
    return np.asarray(tiny.network().evaluate(jnp.asarray(weights, jnp.float32), inputs, labels)[0])


def top(vector, count):
    """The `count` largest entries by magnitude, ties by position, the rest 0."""
    kept = np.argsort(-np.abs(vector), kind="stable")[:count]
    masked = np.zeros_like(vector)
    masked[kept] = vector[kept]
    return masked


@pytest.mark.parametrize("q", [0.0, 1.0, 2.5])
def test_q_ffl_is_q_fedavg(sent, tiny, q):
    _, _, deltas, loss, eta = exactly(sent)
    over, under = np.zeros(D), 0.0
    for delta, f in zip(deltas, loss, strict=True):
        gradient = -delta / eta  # (w - w_k) / eta
        over = over + f**q * gradient
        under = under + q * f ** (q - 1) * gradient @ gradient + f**q / eta
    download, *_ = step("q_ffl", sent, tiny, q=q)
    np.testing.assert_allclose(download.aggregate, -over / under, **CLOSE)
    np.testing.assert_allclose(download.rewards, np.tile(-over / under, (N, 1)), **CLOSE)
    np.testing.assert_allclose(download.weights, loss**q / np.sum(loss**q), **CLOSE)


def test_q_ffl_zero_is_the_mean_and_losses_of_any_size_are_safe(sent, tiny):
    mean = np.asarray(sent.deltas, np.float64).mean(axis=0)
    download, *_ = step("q_ffl", sent, tiny, q=0.0)
    np.testing.assert_allclose(download.aggregate, mean, **CLOSE)
    for factor in (1e-12, 1e12):
        extreme = sent._replace(start_loss=sent.start_loss * factor)
        download, *_ = step("q_ffl", extreme, tiny, q=20.0)
        assert np.isfinite(download.aggregate).all()
        np.testing.assert_allclose(download.weights.sum(), 1, rtol=1e-6)


def clipped(deltas, gamma):
    return np.stack([d * min(1.0, gamma / np.linalg.norm(d)) for d in deltas])


@pytest.mark.parametrize(
    ("combine", "own_off", "clip_by", "number"),
    [
        ("mean", "after", "entry", 0.2),
        ("mean", "before", "norm", 0.3),
        ("sum", "after", "entry", 0.4),
        ("sum", "before", "norm", 50.0),
    ],
)
def test_cffl_by_hand(sent, tiny, combine, own_off, clip_by, number):
    """Nobody is removed; see test_a_whole_run_is_the_oracles and test_official for who is."""
    _, clients, deltas, *_ = exactly(sent)
    updates = np.clip(deltas, -number, number) if clip_by == "entry" else clipped(deltas, number)
    accuracy = accuracies(tiny, sent, clients + updates)
    credit = np.sinh(5 * 0.2 * accuracy / accuracy.sum())  # of no old credit, and not normalised
    credit = credit / credit.sum()
    share, size = SIZES / SIZES.sum(), SIZES / SIZES.max()
    aggregate = share @ updates if combine == "mean" else updates.sum(axis=0)
    options = Options(combine=combine, own_off=own_off, clip_by=clip_by)
    numbers = {"alpha": 0.8, "removal": 0.0, "gamma" if clip_by == "norm" else "clip": number}
    download, standing, _ = step("cffl", sent, tiny, options, **numbers)
    np.testing.assert_allclose(standing.reputation, credit, **CLOSE)
    np.testing.assert_allclose(download.aggregate, aggregate, **CLOSE)
    ratio = np.float32(standing.reputation) / np.float32(standing.reputation).max()
    quota = np.floor(np.float32(D) * (ratio * np.float32(size))).astype(int)
    np.testing.assert_array_equal(download.quota, quota)
    own = {"mean": {"after": size, "before": share}}.get(combine, {}).get(own_off, np.ones(N))
    for i in range(N):
        off = own[i] * updates[i]
        after = own_off == "after"
        reward = top(aggregate, quota[i]) - off if after else top(aggregate - off, quota[i])
        np.testing.assert_allclose(download.rewards[i], updates[i] + reward, **CLOSE)


def test_rffl_by_hand(sent, tiny):
    """Two rounds: size shares, then reputations, which have no floor."""
    _, _, deltas, *_ = exactly(sent)
    deltas[2] *= -1  # somebody who is against it
    upload = tiny.upload(np.float32(deltas), SIZES)
    updates, r, state = clipped(deltas, 0.5), np.zeros(N), None
    for t in range(2):
        weights = SIZES / SIZES.sum() if t == 0 else r
        aggregate = weights @ updates
        norms = np.linalg.norm(updates, axis=1) * np.linalg.norm(aggregate)
        r = np.maximum(0.8 * r + 0.2 * (updates @ aggregate / norms), 0)
        r = r / r.sum()
        now = upload._replace(round=jnp.int32(t))
        download, standing, state = step("rffl", now, tiny, state=state, gamma=0.5, removal=1 / 3)
        np.testing.assert_allclose(standing.reputation, r, **CLOSE)
        np.testing.assert_allclose(download.aggregate, aggregate, **CLOSE)
        np.testing.assert_allclose(download.weights, weights, **CLOSE)
        ratio = np.float32(standing.reputation) / np.float32(standing.reputation).max()
        quota = np.floor(np.float32(D) * ratio).astype(int)
        np.testing.assert_array_equal(download.quota, quota)
        for i in range(N):
            want = updates[i] + top(aggregate, quota[i])
            np.testing.assert_allclose(download.rewards[i], want, **CLOSE)
    assert standing.reputation[2] == 0


@pytest.mark.parametrize("alone", [False, True])
def test_who_is_removed_stays_removed(tiny, alone):
    """Client 2 opposes in rounds 0 to 2 and agrees afterwards, which comes too late."""
    rng = np.random.default_rng(0)
    removal = Removal(jnp.float32(1 / 3), first=2, alone=alone)
    algorithm = methods_lib.cgsv(0.5, 0.5, floor=0.0, removal=removal)
    state, update = algorithm.init(N, D), jax.jit(algorithm.update)
    for t in range(6):
        deltas = np.float32(rng.normal(size=D) + 0.3 * rng.normal(size=(N, D)))
        deltas[2] *= -1 if t < 3 else 1
        upload = tiny.upload(deltas, SIZES)._replace(round=jnp.int32(t))
        download, standing, state = update(jax.random.key(t), upload, state)
        assert bool(state.removed[2]) == (t >= 2)
        assert state.removed.sum() == (t >= 2)
        assert download.present.tolist() == [True, True, t <= 2, True, True]
        np.testing.assert_allclose(standing.reputation.sum(), 1, rtol=1e-6)
        if t >= 2:  # it receives nothing in the round in which it is removed
            assert standing.reputation[2] == download.quota[2] == 0
            own = 0.5 * deltas[2] / np.linalg.norm(deltas[2]) if alone else np.zeros(D)
            np.testing.assert_allclose(download.rewards[2], own, **CLOSE)
        assert (download.weights[2] > 0) == (t == 0)  # its reputation is 0 after the first round
        if t >= 3:
            assert standing.score[2] == 0
    assert download.quota.max() == D


def test_what_the_removed_had_goes_to_the_others_and_is_fed_back(tiny):
    """With alpha = 1 nothing but the removal moves r: the others' shares grow in proportion."""
    removal = Removal(jnp.float32(0.5), first=1)
    algorithm = methods_lib.cgsv(0.5, 1.0, floor=0.0, removal=removal)
    deltas = np.float32(np.random.default_rng(0).normal(size=(N, D)))
    before = jnp.array([0.3, 0.05, 0.25, 0.2, 0.2])  # the second is below half of the mean
    state = algorithm.init(N, D)._replace(
        standing=Standing(jnp.zeros(N), before), aggregation=jnp.ones(N, bool)
    )
    for t in range(4):
        upload = tiny.upload(deltas, SIZES)._replace(round=jnp.int32(t))
        download, standing, state = algorithm.update(jax.random.key(t), upload, state)
        others = np.where(np.arange(N) == 1, 0, before) / 0.95
        want = np.asarray(before) if t == 0 else others
        np.testing.assert_allclose(standing.reputation, want, rtol=1e-6)
        np.testing.assert_allclose(state.standing.reputation, want, rtol=1e-6)
        np.testing.assert_allclose(download.weights, before if t <= 1 else others, rtol=1e-6)
        assert download.present.tolist() == [True, t <= 1, True, True, True]


def test_removing_nobody_is_the_method_itself(sent, tiny):
    plain, removing = (
        step("cgsv", sent, tiny, Options(removes=removes), removal=0.0) for removes in (False, True)
    )
    assert removing[0].present.all()
    removing = (removing[0]._replace(present=None), *removing[1:])
    for a, b in zip(jax.tree.leaves(plain[:2]), jax.tree.leaves(removing[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_somebody_always_stays(tiny):
    """A threshold of all but the mean removes the others at once, and never the best."""
    parts = moving_average(cosine(), 0.5), by_reputation(), mix(0.5)
    algorithm = methods_lib.compose(*parts, removal=Removal(0.999))
    upload = tiny.upload(np.float32(np.eye(3, D)), [1, 1, 1])
    state = algorithm.init(3, D)
    for t in range(4):
        download, standing, state = algorithm.update(jax.random.key(t), upload, state)
    assert not state.removed.all()
    assert np.isfinite(download.rewards).all()
    np.testing.assert_allclose(standing.reputation.sum(), 1, rtol=1e-6)


def test_rank_by_hand(sent, tiny):
    _, clients, deltas, *_ = exactly(sent)
    accuracy = accuracies(tiny, sent, clients + deltas)
    download, standing, _ = step("rank", sent, tiny)
    np.testing.assert_allclose(standing.score, accuracy, **CLOSE)
    np.testing.assert_allclose(standing.reputation, accuracy / accuracy.sum(), **CLOSE)
    np.testing.assert_allclose(download.aggregate, deltas.mean(axis=0), **CLOSE)
    for i in range(N):
        want = deltas[accuracy <= accuracy[i]].mean(axis=0)
        np.testing.assert_allclose(download.rewards[i], want, **CLOSE)
    worst, best = accuracy.argmin(), accuracy.argmax()
    np.testing.assert_allclose(download.rewards[worst], deltas[worst], **CLOSE)
    np.testing.assert_allclose(download.rewards[best], deltas.mean(axis=0), **CLOSE)
    assert download.quota[worst] == 0


def test_iafl_gives_the_mean_of_as_many_as_earned(sent, tiny):
    """Which updates were mixed is read off the reward: the subset of others whose mean it is."""
    _, _, deltas, *_ = exactly(sent)
    download, standing, _ = step("iafl", sent, tiny, kappa=0.4, recovery=0.0)
    np.testing.assert_allclose(standing.reputation, SIZES / SIZES.sum(), **CLOSE)
    for i in range(N):
        count = math.ceil((SIZES[i] / SIZES.max()) ** 0.6 * (N - 1) - 1e-4)
        others = [j for j in range(N) if j != i]
        means = [
            deltas[[i, *chosen]].mean(axis=0) for chosen in itertools.combinations(others, count)
        ]
        errors = [np.abs(download.rewards[i] - mean).max() for mean in means]
        assert min(errors) < CLOSE["atol"]


def test_iafl_draws_everybody_equally_often(sent, tiny):
    """5,000 rounds at once: each of the four others in k of 4, within five standard errors."""
    reward = mix(0.0)
    eye = tiny.upload(np.eye(N, D, dtype=np.float32), SIZES)
    standing = Standing(jnp.zeros(N), jnp.asarray(SIZES / SIZES.sum()))

    def drawn(key):
        return reward.update(key, eye, jnp.zeros(D), standing, ())[0][:, :N] > 0

    rounds = 5_000
    often = np.asarray(jax.vmap(drawn)(jax.random.split(jax.random.key(0), rounds))).mean(axis=0)
    share = np.ceil(SIZES / SIZES.max() * (N - 1) - 1e-4) / (N - 1)
    want = np.where(np.eye(N, dtype=bool), 1, share[:, None])
    assert (np.abs(often - want) <= 5 * np.sqrt(want * (1 - want) / rounds) + 1e-12).all()


@pytest.mark.parametrize("recovery", [0.0, 0.3, 1.0])
def test_iafl_recovers_before_training(tiny, recovery):
    """Who starts a round from the server's model trains it, and is rewarded as ever."""
    data, clients = tiny.world()
    orders = tiny.orders(clients, 6, 2)
    federation = tiny.federation(
        "iafl", hyper=tiny.hyper(kappa=0.0, recovery=recovery), model=tiny.softmax()
    )
    start, seen = in_rounds(jax.random.key(0), data, clients, orders, federation)
    before, recovered = start, []
    for state, upload, download, *_ in seen:
        own, server = np.asarray(before.clients), np.asarray(before.server)
        from_server = (np.asarray(upload.clients) == server).all(axis=1)
        np.testing.assert_array_equal(upload.clients, np.where(from_server[:, None], server, own))
        np.testing.assert_array_equal(state.clients, upload.clients + download.rewards)
        np.testing.assert_allclose(state.server, server + np.mean(upload.deltas, axis=0), **CLOSE)
        recovered.append(from_server & (own != server).any(axis=1))
        before = state
    share = np.mean(recovered[1:])  # the client with the most rows holds the server's model anyway
    assert {0.0: share == 0, 0.3: 0 < share < 0.75, 1.0: share >= 0.5}[recovery]
    download, *_ = step("iafl", seen[-1][1], tiny, kappa=1.0)
    mean = np.mean(np.float64(seen[-1][1].deltas), axis=0)
    np.testing.assert_allclose(download.rewards, np.tile(mean, (4, 1)), **CLOSE)


def test_iafl_recovers_by_number_and_only_who_is_there(tiny):
    algorithm = METHODS["iafl"](tiny.hyper(recovery=0.4), Options())
    key, numbers = jax.random.key(2), jnp.arange(1000)
    drawn = algorithm.recovers(key, 0, numbers)
    assert abs(drawn.mean() - 0.4) < 5 * math.sqrt(0.24 / 1000)
    order = jax.random.permutation(key, numbers)
    np.testing.assert_array_equal(algorithm.recovers(key, 0, order), drawn[order])
    data, clients = tiny.world()
    clients = clients._replace(joins=np.array([0, 9, 0, 0], np.int32))
    federation = tiny.federation("iafl", hyper=tiny.hyper(recovery=1.0), model=tiny.softmax())
    state = simulation.init(key, 4, federation)
    state = state._replace(clients=state.clients + jnp.arange(4.0)[:, None])
    after, _ = simulation.round_(key, state, data, clients, federation)
    np.testing.assert_array_equal(after.clients[1], state.clients[1])
    assert (after.clients[3] != state.clients[3]).all()


def test_what_clients_reach_alone_is_known_before_round_0(tiny):
    """The accuracies of the standalone method on validation rows; and then everything starts."""
    data, clients = tiny.world(noise=1.0)
    orders, key = tiny.orders(clients, 3, 2), jax.random.key(4)
    data = data._replace(test_inputs=data.validation[0], test_labels=data.validation[1])
    options = Options(contribution_by="accuracy")
    asked = {"model": tiny.softmax(), "hyper": tiny.hyper(kappa=1.0)}
    federations = [
        tiny.federation("iafl", options=options, alone=True, **asked),
        tiny.federation("iafl", **asked),
        tiny.federation("standalone", **asked),
    ]
    (_, by, seen), (_, plain, seen_too), (*_, alone) = jax.jit(
        lambda: [simulation.run(key, data, clients, own, orders) for own in federations]
    )()
    reached = np.asarray(alone.accuracy[-1])
    assert len(set(reached)) > 1
    np.testing.assert_allclose(by.score, np.tile(reached, (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(by.loss, plain.loss, rtol=1e-5)  # kappa 1: nobody's p matters
    np.testing.assert_allclose(seen.loss, seen_too.loss, rtol=1e-5)
    with pytest.raises(ValueError, match="there are none"):
        simulation.run(key, data._replace(validation=None), clients, federations[0], orders)


def test_iafl_by_accuracy_and_by_participation(sent, tiny):
    """p over the highest p, of those who are there."""
    quantity = []
    reached = jnp.array([0.9, 0.3, 0.45, 0.6, 0.2])
    upload = sent._replace(alone=reached, deltas=jnp.eye(N, D))
    for by, there in (
        ("accuracy", np.ones((1, N), bool)),
        ("participation", [[1, 1, 0, 1, 1], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 1, 1, 1]]),
    ):
        state = None
        for t, here in enumerate(np.array(there, bool)):
            now = upload._replace(present=jnp.asarray(here), round=jnp.int32(t))
            now = now._replace(deltas=jnp.where(here[:, None], now.deltas, 0))
            options = Options(contribution_by=by)
            download, standing, state = step("iafl", now, tiny, options, state, kappa=0.0)
        quantity.append(((download.rewards > 0).sum(axis=1) - 1).tolist())
        p = reached if by == "accuracy" else np.array([4, 2, 1, 4, 2]) / 4
        np.testing.assert_allclose(standing.score, p, **CLOSE)
        if by == "accuracy":
            np.testing.assert_allclose(standing.reputation, p / p.sum(), **CLOSE)
    assert quantity == [[4, 2, 2, 3, 1], [4, 2, 1, 4, 2]]
    with pytest.raises(ValueError, match=r"Settings\.alone"):
        step("iafl", sent._replace(alone=None), tiny, Options(contribution_by="accuracy"))
    with pytest.raises(ValueError, match="contribution_by is 'rows'"):
        methods_lib.iafl(by="rows")


def test_iafl_does_not_know_the_order_of_rows(tiny):
    """Equal sizes, so that everybody has the highest reputation; all recover."""
    rng = np.random.default_rng(1)
    deltas, clients = (np.float32(rng.normal(size=(N, D))) for _ in range(2))
    order = np.array([3, 1, 4, 0, 2])
    server = np.zeros(D)
    algorithm = METHODS["iafl"](tiny.hyper(kappa=0.2, recovery=0.7), Options())

    def rewards(rows):
        upload = tiny.upload(deltas[rows], [6] * N, clients=clients[rows], server=server)
        upload = upload._replace(numbers=jnp.asarray(rows))
        return algorithm.update(jax.random.key(5), upload, algorithm.init(N, D))[0].rewards

    np.testing.assert_allclose(rewards(order), rewards(np.arange(N))[order], **CLOSE)


def test_a_newcomer_to_shapfed_weighs_like_the_mean(sent, tiny):
    """Absent in the first round, it is part of the sum that it is compared with in the second."""
    present = jnp.array([True, True, False, True, True])
    first = sent._replace(present=present, deltas=jnp.where(present[:, None], sent.deltas, 0))
    _, _, state = step("shapfed_wa", first, tiny, alpha=0.9)
    gamma = np.float64(state.gamma)
    gamma[2] = gamma[[0, 1, 3, 4]].mean()
    score, deltas = 0.0, np.float64(sent.deltas)
    for row in tiny.network().output():
        whole = gamma / gamma.sum() @ deltas[:, row]
        own = deltas[2, row]
        score += own @ whole / np.linalg.norm(own) / np.linalg.norm(whole) / 3
    _, standing, _ = step("shapfed_wa", sent, tiny, state=state, alpha=0.9)
    np.testing.assert_allclose(standing.score[2], score, **CLOSE)


def test_shapfed_by_hand(sent, tiny):
    """Two rounds: uniform weights, then those of the first; the average starts at its value."""
    server, clients, deltas, *_ = exactly(sent)
    places, weights, gamma, state = tiny.network().output(), np.full(N, 1 / N), None, None
    for t in range(2):
        score = np.zeros(N)
        for row in places:
            whole = weights @ deltas[:, row]
            for i in range(N):
                own = deltas[i, row]
                score[i] += own @ whole / np.linalg.norm(own) / np.linalg.norm(whole) / len(places)
        gamma = score if t == 0 else 0.9 * gamma + 0.1 * score
        gamma = np.clip(gamma, 0, 1)
        weights = gamma / gamma.sum()
        moved = weights @ (clients + deltas)
        old = state
        for broadcast, part in (("sum", weights), ("max", gamma / gamma.max()), ("gamma", gamma)):
            options = Options(broadcast=broadcast)
            download, standing, state = step("shapfed_wa", sent, tiny, options, old, alpha=0.9)
            np.testing.assert_allclose(standing.score, score, **CLOSE)
            np.testing.assert_allclose(standing.reputation, weights, **CLOSE)
            np.testing.assert_allclose(download.aggregate, moved - server, **CLOSE)
            for i in range(N):
                want = part[i] * moved + (1 - part[i]) * (clients[i] + deltas[i]) - clients[i]
                np.testing.assert_allclose(download.rewards[i], want, **CLOSE)


def test_size_weighted_is_cgsv_with_the_sizes_for_reputations(sent, tiny):
    _, _, deltas, *_ = exactly(sent)
    r = SIZES / SIZES.sum()
    aggregate = r @ np.stack([0.5 * d / np.linalg.norm(d) for d in deltas])
    download, standing, _ = step("size_weighted", sent, tiny, gamma=0.5, beta=3.0)
    np.testing.assert_allclose(standing.reputation, r, **CLOSE)
    np.testing.assert_allclose(download.aggregate, aggregate, **CLOSE)
    ratio = np.tanh(3 * r) / np.tanh(3 * r).max()
    assert (np.abs(download.quota - D * ratio) <= 1 + 1e-4).all()
    for i in range(N):
        want = top(np.asarray(download.aggregate), download.quota[i])
        np.testing.assert_allclose(download.rewards[i], want, **CLOSE)


def test_random_reward_is_blind_to_the_updates(sent, tiny):
    reputations = {}
    for key in (0, 1):
        _, one, _ = step("random_reward", sent, tiny, key=key)
        _, other, _ = step("random_reward", sent._replace(deltas=-sent.deltas), tiny, key=key)
        np.testing.assert_array_equal(one.reputation, other.reputation)
        reputations[key] = np.asarray(one.reputation)
    assert not np.allclose(reputations[0], reputations[1])
    # Over many draws nobody is preferred: means of x / sum x within five standard errors of 1 / N.
    algorithm = METHODS["random_reward"](tiny.hyper(), Options())
    state = algorithm.init(N, D)
    keys = jax.random.split(jax.random.key(2), 4_000)
    drawn = jax.vmap(lambda key: algorithm.update(key, sent, state)[1].reputation)(keys)
    error = np.asarray(drawn).std(axis=0) / math.sqrt(len(keys))
    assert (np.abs(np.asarray(drawn).mean(axis=0) - 1 / N) < 5 * error).all()


def test_eci_is_the_accumulated_shapley_value_of_rebuilt_models(sent, tiny):
    """Every coalition's model rebuilt in a loop, every permutation walked."""
    server, _, deltas, *_ = exactly(sent)
    updates = np.stack([0.5 * d / np.linalg.norm(d) for d in deltas])
    total, r, state = np.zeros(N), None, None
    for t in range(2):
        weights = SIZES / SIZES.sum() if t == 0 else r
        value = {}
        for members in itertools.product([0, 1], repeat=N):
            share = np.array(members) * weights
            model = server + (share / share.sum() @ updates if share.sum() else 0)
            value[members] = accuracies(tiny, sent, model[None])[0]
        phi = np.zeros(N)
        for order in itertools.permutations(range(N)):
            members = [0] * N
            for i in order:
                before = value[tuple(members)]
                members[i] = 1
                phi[i] += (value[tuple(members)] - before) / math.factorial(N)
        total += phi
        r = np.maximum(total / np.abs(total).sum(), 1e-3 / N)
        r = r / r.sum()
        _, standing, state = step("eci", sent, tiny, state=state)
        np.testing.assert_allclose(standing.score, phi, **CLOSE)
        np.testing.assert_allclose(standing.reputation, r, rtol=0, atol=1e-3 * np.abs(r).max())


def test_second_stage_goes_on_from_the_first_ones_models(tiny):
    """T rounds of fedavg and one alone, against the two run one after the other."""
    data, clients = tiny.world()
    drawn = tiny.orders(clients, 3, 2)
    key = jax.random.key(0)
    whole = tiny.federation("fedavg_finetuned", options=Options(rounds=2), rounds=3)
    state, record, _ = jax.jit(lambda: simulation.run(key, data, clients, whole, drawn))()
    first, last = tiny.federation("fedavg", rounds=2), tiny.federation("standalone", rounds=1)

    def in_turn():
        middle, *_ = simulation.run(key, data, clients, first, drawn[:2])
        return simulation.advance(
            key, middle._replace(algorithm=last.algorithm.init(4, middle.server.size)),
            data, clients, last, drawn[2:],
        )[0]  # fmt: skip

    other = jax.jit(in_turn)()
    np.testing.assert_allclose(state.clients, other.clients, rtol=0, atol=1e-6)
    assert record.quota[1].min() > 0
    assert record.quota[2].max() == 0
    assert np.ptp(np.asarray(state.clients), axis=0).max() > 1e-3  # nobody holds another's model
    with pytest.raises(ValueError, match="after is -1"):
        then(METHODS["fedavg"](None, None), METHODS["standalone"](None, None), -1)


@pytest.mark.parametrize("pair", [("rffl", "fedavg"), ("fedavg", "rffl"), ("fedsac", "cgsv")])
def test_stages_may_leave_out_different_fields_of_a_download(tiny, pair):
    """Each round is that of its stage, whatever the other says of presence, energy and masks."""
    network = tiny.network()
    first, second = (METHODS[name](tiny.hyper(), Options(network=network)) for name in pair)
    both = then(first, second, 1)
    upload = tiny.upload(np.eye(4, 20, dtype=np.float32), [1, 2, 3, 4])
    upload = upload._replace(alone=jnp.float32([0.1, 0.5, 0.9, 0.3]))
    state = both.init(4, 20)
    for stage, alone in enumerate((first, second)):
        sent = upload._replace(round=jnp.int32(stage))
        download, standing, state = both.update(jax.random.key(0), sent, state)
        wanted, standing_too, _ = alone.update(jax.random.key(0), sent, alone.init(4, 20))
        np.testing.assert_allclose(download.rewards, wanted.rewards, atol=1e-6)
        np.testing.assert_allclose(standing.reputation, standing_too.reputation, atol=1e-6)
        if wanted.present is None:
            wanted = wanted._replace(present=upload.present)
        if download.present is not None:
            np.testing.assert_array_equal(download.present, wanted.present)


def test_loss_before_training_is_each_clients_own(tiny):
    """F_i(w_i) over a ragged client's rows, in batches that do not divide them."""
    data, clients = tiny.world()
    federation = tiny.federation("q_ffl", start_loss=True, eval_batch=3)
    model = federation.model
    key = jax.random.key(1)
    state = simulation.init(key, 4, federation)
    upload, _ = simulation.train(key, state, data, clients, federation)
    params = model.init(jax.random.fold_in(key, 0))
    for i, mask in enumerate(clients.mask):
        rows = clients.rows[i][mask]
        logits = np.float64(model.apply(params, data.inputs[rows]))
        losses = (
            np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(rows)), data.labels[rows]]
        )
        np.testing.assert_allclose(upload.start_loss[i], losses.mean(), rtol=1e-5)
    bare = federation._replace(settings=federation.settings._replace(start_loss=False))
    assert simulation.train(key, state, data, clients, bare)[0].start_loss is None


@pytest.mark.parametrize("hidden", [(), (10,), (7, 10)])
def test_last_layer_is_found_by_what_it_does(hidden):
    """Moving class c's places moves logit c alone, whatever other tensors have C entries."""
    model = models.mlp((4,), 10, hidden=hidden)
    places = evaluation.output_places(model, jax.ShapeDtypeStruct((1, 4), jnp.float32))
    params = model.init(jax.random.key(0))
    vector, unravel = jax.flatten_util.ravel_pytree(params)
    inputs = jax.random.normal(jax.random.key(1), (3, 4))
    before = model.apply(params, inputs)
    assert places.shape == (10, (hidden[-1] if hidden else 4) + 1)
    for c in (0, 9):
        after = model.apply(unravel(vector.at[places[c]].add(0.1)), inputs)
        moved = np.abs(np.asarray(after - before)).max(axis=0) > 0
        assert moved.tolist() == [k == c for k in range(10)]


def test_a_network_without_such_a_layer_is_refused(tiny):
    with pytest.raises(ValueError, match="last layer"):
        METHODS["shapfed_wa"](
            tiny.hyper(), Options(network=tiny.network()._replace(output=lambda: None))
        )


# Methods that judge models on the server's validation rows.
JUDGES = ("cffl", "eci", "rank", "fedsac", "fedrac", "fedave")
# What a method reads with another part than it has by default.
IDLE = (("cffl", "gamma"), ("fedsac", "alpha"), ("fedrac", "alpha"), ("witness", "cosine_epsilon"))


@pytest.mark.parametrize("name", JUDGES)
def test_validation_rows_are_needed_and_asked_for(sent, tiny, name):
    with pytest.raises(ValueError, match="server to hold some"):
        step(name, sent._replace(validation=None), tiny)
    config = names_lib.configure(algorithms=name, validation_share=0.0)
    with pytest.raises(ConfigError, match="leaves none"):
        deal.tasks(config)


def test_who_needs_no_validation_rows_does_not_get_them():
    """The others' programs are given no such argument: a rule could not read what is not there."""
    config = names_lib.configure(algorithms="all", rounds=1, seeds=1)
    (task,) = deal.tasks(config)
    for method in config.methods:
        data, _ = programs.programs(bind.bind(config, method, task)).shared[0]
        assert (data.validation is not None) == (method.algorithm in JUDGES)


def test_every_method_says_what_it_needs_and_costs():
    """The docstring of every entry: validation data, cost in N or D, and where it is from."""
    assert set(READS) == set(METHODS)
    own = {name: getattr(methods_lib, name) for name in METHODS}
    for name, build in own.items():
        text = " ".join(build.__doc__.split()).lower()
        assert "o(n" in text or "evaluations a round" in text, name
        if name != "standalone":
            assert "reference:" in text, name
            assert "validation data" in text, name
            assert ("needs validation data" in text) == (name in JUDGES), name


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.long
def test_an_option_that_a_method_reads_matters(name, sent, tiny):
    """Every number in READS changes what the method computes, and no other number does."""
    base = {"gamma": 0.1, "alpha": 0.8, "beta": 40.0, "removal": 0.5, "floor": 1e-3}
    base |= {"norm_epsilon": 0.0, "cosine_epsilon": 0.0, "kappa": 0.5, "recovery": 0.3, "q": 1.0}
    base |= {"clip": 0.05, "growth": 0.0}
    other = {"gamma": 0.2, "alpha": 0.3, "beta": 1.0, "removal": 0.97, "floor": 0.3}
    other |= {"norm_epsilon": 0.3, "cosine_epsilon": 0.9, "kappa": 0.9, "recovery": 0.9, "q": 3.0}
    other |= {"tolerance": 0.5, "clip": 0.01, "growth": 1.0}
    options = Options(removes=True, rounds=1, contribution="cosine")

    def play(numbers):
        algorithm = METHODS[name](tiny.hyper(**numbers), options._replace(network=tiny.network(D)))
        state, seen = algorithm.init(N, D), []
        for t in range(13):
            upload = sent._replace(
                deltas=sent.deltas
                * (1 + 0.1 * t)
                * jnp.where(jnp.arange(N) == t % N, -1, 1)[:, None],
                round=jnp.int32(t),
            )
            download, standing, state = algorithm.update(jax.random.key(t), upload, state)
            seen.append((download, standing))
        if algorithm.recovers is not None:
            seen.append(algorithm.recovers(jax.random.key(0), jnp.int32(0), jnp.arange(99)))
        return seen

    rows = [base] + [base | {field: value} for field, value in other.items()]
    stacked = {
        k: jnp.asarray([r.get(k, Hyper._field_defaults.get(k)) for r in rows]) for k in other
    }
    seen = jax.jit(jax.vmap(play))(stacked)
    for place, field in enumerate(other, start=1):
        changed = any(
            not np.array_equal(x[0], x[place], equal_nan=True) for x in jax.tree.leaves(seen)
        )
        # What the measure or reward in use does not read is READ_BY's business.
        idle = field == "tolerance" or (name, field) in IDLE
        if field in READS[name] and not idle:
            assert changed, f"{name} reads {field}, which does nothing"
        if field not in READS[name]:
            assert not changed, f"{name} does not say that it reads {field}"


def test_method_defaults_are_those_of_its_text():
    config = names_lib.configure(algorithms="all")
    methods = {m.name: m for m in config.methods}
    assert list(methods) == list(METHODS)
    assert methods["cffl"].alpha == 0.8
    assert methods["shapfed_wa"].alpha == 0.9
    assert methods["cgsv"].alpha == methods["rffl"].alpha == 0.95
    assert methods["rffl"].removal == methods["cffl"].removal == 1 / 3
    assert methods["cgsv"].removal == 0
    assert methods["cffl"].hyper()["removal"] == 1 / 3
    assert methods["cffl"].hyper("class_imbalance")["removal"] == 1 / 6
    assert methods["rffl"].hyper("class_imbalance")["removal"] == 1 / 3
    assert [methods[m].removed for m in ("cffl", "rffl")] == ["alone", "alone"]
    (removing,) = names_lib.configure(algorithms="cgsv", removal=0.1).methods
    assert removing.removed == "frozen"
    assert methods["fedavg_finetuned"].aggregation == "uniform"
    assert methods["fedavg_finetuned"].finetune_optimizer == "new"
    assert (methods["iafl"].kappa, methods["iafl"].recovery) == (0, 0)
    assert methods["iafl"].contribution_by == "size"
    assert (methods["rffl"].mask_scope, methods["cgsv"].mask_scope) == ("tensor", "vector")
    given = names_lib.configure(algorithms=("rffl", "cgsv"), removal=0.2, mask_scope="vector")
    assert [(m.removal, m.mask_scope) for m in given.methods] == [(0.2, "vector")] * 2
    (given,) = names_lib.configure(algorithms="cffl", removal=0.2).methods
    assert given.hyper("class_imbalance")["removal"] == 0.2
    assert isinstance(given, Method)


def test_a_method_of_other_parts_reads_what_these_read():
    """witness is cgsv with parts of parts: its options, and what is written of it, are theirs."""
    config = names_lib.configure(algorithms="witness", echo_rounds=2)
    (witness,) = config.methods
    assert (witness.contribution, witness.quotient_of, witness.echo_of) == (
        *("quotient", "echo", "class_cosine"),
    )
    assert (witness.echo_rounds, witness.class_weights, witness.alike) == (2, "rare", 0.95)
    assert (witness.penalty, witness.disagreement) == (4.0, "ignored")
    assert "cosine_epsilon" not in witness.values
    text = json.dumps(resolve.to_dict(config))
    assert resolve.from_dict(json.loads(text), TABLES) == config
    (other,) = names_lib.configure(algorithms="witness", quotient_of="cosine").methods
    assert "echo_rounds" not in other.values
    with pytest.raises(ConfigError, match="--echo-rounds does nothing here"):
        names_lib.configure(algorithms="cgsv", echo_rounds=2)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            {"algorithms": "fedavg", "kappa": 0.1},
            "--kappa does nothing here: it needs --algorithms",
        ),
        ({"algorithms": "cgsv", "game": "accuracy"}, "--game does nothing here"),
        ({"algorithms": "iafl", "kappa": 1.5}, "--kappa is 1.5"),
        ({"algorithms": "iafl", "contribution_by": "rows"}, "--contribution-by is 'rows'"),
        ({"algorithms": "rank", "contribution_by": "size"}, "--contribution-by does nothing here"),
        ({"algorithms": "fedavg", "finetune_optimizer": "new"}, "--finetune-optimizer does noth"),
        ({"algorithms": "q_ffl", "q": -1.0}, "--q is -1.0"),
        ({"algorithms": "cgsv", "removal": 1.0}, "--removal is 1.0"),
        ({"algorithms": "fedavg_finetuned", "finetune_rounds": 0}, "--finetune-rounds is 0"),
        (
            {"algorithms": "cffl", "gamma": 0.3},
            "--gamma does nothing here: it needs --clip-by norm",
        ),
        ({"algorithms": "cffl", "clip": 0.0}, "--clip is 0.0"),
        ({"algorithms": "cffl", "clip": 0.1, "clip_by": "norm"}, "--clip does nothing here"),
        ({"algorithms": "cffl", "growth": -1.0}, "--growth is -1.0"),
        ({"algorithms": "rffl", "negative": "maybe"}, "--negative is 'maybe'"),
        ({"algorithms": "rffl", "own_off": "after"}, "--own-off does nothing here"),
        ({"algorithms": "cgsv", "removed": "alone"}, "it needs --removal above 0"),
        (
            {"algorithms": "cffl", "removal_imbalanced": 0.1, "partitions": "uniform"},
            "it needs --partition class_imbalance",
        ),
        ({"algorithms": ("all", "cgsv")}, "'all', it must be one of"),
    ],
)
def test_options_of_methods_are_judged(asked, complaint):
    with pytest.raises(ConfigError, match=complaint):
        names_lib.configure(**asked)
