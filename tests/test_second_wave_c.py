"""FedAVE and Fair-yet-Equal: whole runs against NumPy loops, official code, and known verdicts."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_second_wave_c as loops
import pytest
from declared import METHODS, Hyper, Options
from test_rules import in_rounds, oracle_world

from cgsv_jax.core import evaluation, participation, simulation
from cgsv_jax.rules import hotelling
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.contribution.shapley import exact
from cgsv_jax.rules.methods import fedave, standalone, then
from cgsv_jax.rules.methods.fair_yet_equal import (
    _heard,
    _known,
    chances_of,
    cosine_shapley,
    gain,
    stratified,
    twice,
)
from cgsv_jax.rules.methods.fedave import _group, divergence, divergences
from cgsv_jax.types import Losses, Network

DATA = Path(__file__).parent / "data"
EPS = float(np.finfo(np.float32).eps)


def recorded(name, scenario):
    """Arrays of `data/official_<name>.npz` of a scenario, see test_official."""
    with np.load(DATA / f"official_{name}.npz") as arrays:
        start = f"{scenario}/"
        return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


# ---------------------------------------------------------------- Hotelling's test


def sampled(rows, lag, size):
    """p-values after each of the rows [n, p], kept in a sample of `size` entries."""
    used = rows.shape[1]
    rows = np.pad(rows, ((0, 0), (0, size - used)))

    def step(sample, row):
        sample = hotelling.added(sample, row)
        return sample, hotelling.p_value(sample, jnp.int32(used))

    start = hotelling.empty(size, lag)
    return jax.jit(lambda rows: jax.lax.scan(step, start, rows))(jnp.asarray(rows))[1]


@pytest.mark.parametrize("width", [1, 3])
def test_p_values_are_those_of_all_rows(width):
    """Round by round, against all rows at once and SciPy's F; entries without a client are 0."""
    rng = np.random.default_rng(0)
    rows = 0.1 + 0.02 * rng.normal(size=(40, width)) + 0.05 * 0.9 ** np.arange(40)[:, None]
    with jax.enable_x64(True):
        found = np.asarray(sampled(rows, 6, 5))
    want = [loops.hotelling(rows[: n + 1], 6) for n in range(40)]
    assert not found[:6].any()
    np.testing.assert_allclose(found[6:], want[6:], rtol=0, atol=1e-9)
    assert (found[6:] < 0.5).any()
    assert (found[6:] > 0.7).any()
    single = np.asarray(sampled(np.float32(rows), 6, 5))
    # T² of float32: some ten roundings of entries 5 times as large as their spread, squared.
    np.testing.assert_allclose(single, want, rtol=0, atol=1e-3)


def test_what_never_changes_is_steady_and_little_is_not_tested():
    same = np.tile(np.float32([0.2, 0.3]), (8, 1))
    assert sampled(same, 5, 2).tolist() == [0] * 5 + [1] * 3
    rng = np.random.default_rng(0)
    few = rng.normal(size=(4, 4)).astype(np.float32)  # n = p: no spread is left to compare with
    assert sampled(few, 1, 4).tolist() == [0] * 4


# ---------------------------------------------------------------- official code


@pytest.mark.parametrize("scenario", ["plain", "zero", "negative", "ties"])
def test_fair_yet_equal_is_the_official_codes(scenario):
    """xqlin98/Fair-yet-Equal-CML 34dfd30, `utils/utils.py`: psi, phi, p-values, chances.

    Its `cosine_gradient_linear`, of the coalitions that it drew; its `hotelling_t2_onesample_ht`
    (pingouin 0.7) of clients 3, 0 and 2 with five rounds of looking ahead; its softmax with 150.
    """
    theirs = recorded("fair_yet_equal", scenario)
    inputs = recorded("inputs", scenario)
    deltas, sizes = inputs["deltas"], inputs["sizes"]
    weights = jnp.asarray(sizes / sizes.sum(), jnp.float32)

    def psi_of(dw, before):
        rows = weights[:, None] * dw
        value = games.cosine_value(jnp.matmul(rows, rows.T, precision="highest"))
        value = twice(value, weights)
        return jax.vmap(lambda i, s: gain(value, i, s))(jnp.arange(len(rows)), before)

    deltas = jnp.asarray(deltas, jnp.float32)
    psi = np.asarray(jax.jit(jax.vmap(psi_of))(deltas, theirs["coalitions"]))
    # Ten cosines of sums of five vectors in 64 places.
    close = {"rtol": 0, "atol": 5e-6}
    np.testing.assert_allclose(psi, theirs["psi"], **close)
    phi = np.cumsum(psi, axis=0) / np.arange(1, len(psi) + 1)[:, None]
    np.testing.assert_allclose(phi, theirs["phi"], **close)
    np.testing.assert_allclose(
        np.asarray(sampled(theirs["psi"][:, [3, 0, 2]], 5, 3)), theirs["p"], rtol=0, atol=2e-4
    )
    chances = np.asarray(chances_of(150.0, jnp.asarray(theirs["phi"][-1]), jnp.ones(5, bool)))
    np.testing.assert_allclose(chances / chances.sum(), theirs["chances"], rtol=1e-4, atol=2e-30)


def test_drawn_coalitions_have_the_exact_mean():
    """Over 400 draws; and `released` is the game whose coalitions weigh twice."""
    rng = np.random.default_rng(0)
    rows = np.float32(rng.normal(size=8) + rng.normal(size=(5, 8)))
    gram = jnp.asarray(rows @ rows.T)
    value = games.cosine_value(gram)
    draws = jax.jit(jax.vmap(lambda key: stratified(key, value, 5)))(
        jax.random.split(jax.random.key(0), 400)
    )
    error = np.std(draws, axis=0, ddof=1) / np.sqrt(400)
    assert (error > 0).all()
    assert (np.abs(np.mean(draws, axis=0) - exact(gram)) < 5 * error).all()


@pytest.mark.parametrize("phi", ["sampled", "released"])
def test_phi_of_drawn_coalitions_is_of_these_games(tiny, phi):
    rng = np.random.default_rng(1)
    deltas = np.float32(rng.normal(size=6) + rng.normal(size=(4, 6)))
    sizes = np.array([5, 3, 8, 6])
    sent = tiny.upload(deltas, sizes)
    w = sizes / sizes.sum()
    measure = cosine_shapley(phi)
    scores = jax.jit(
        jax.vmap(
            lambda key: measure.update(
                key, sent, sent.server, jnp.asarray(w, jnp.float32), measure.init(4, 6)
            )[0]
        )
    )(jax.random.split(jax.random.key(0), 400))
    inside = (w if phi == "sampled" else w**2)[:, None] * deltas
    whole = w @ deltas
    values = np.array(
        [
            oracle.cosine(sum((inside[i] for i in range(4) if s >> i & 1), np.zeros(6)), whole)
            if s
            else 0.0
            for s in range(16)
        ]
    )
    error = np.std(scores, axis=0, ddof=1) / np.sqrt(400)
    assert (np.abs(np.mean(scores, axis=0) - oracle.shapley(values)) < 5 * error).all()


# ---------------------------------------------------------------- Fair yet asymptotically equal


@pytest.mark.parametrize(
    ("numbers", "options"),
    [
        ({}, {}),
        ({}, {"second_weights": "chosen"}),
        ({}, {"sends": "old"}),
        ({}, {"stage_one": 3, "steady_clients": 1}),
    ],
)
@pytest.mark.long
def test_fair_yet_equal_over_rounds(tiny, numbers, options):
    """Ten rounds in float64, one client from round 2 on: the second stage begins where theirs does.

    Whom the test watches and who is chosen is drawn: told by the run.
    """
    rounds, epochs = 10, 2
    data, clients = tiny.world(pad=2)
    clients = clients._replace(joins=np.array([0, 0, 2, 0], np.int32))
    orders = tiny.orders(clients, rounds, epochs)
    with jax.enable_x64(True):
        asked = {"learning_rate": 0.3, "decay": 0.8, "steady": 0.15, "selected": 0.5}
        asked |= {"selection_beta": 3.0} | numbers
        hyper = Hyper(**{f: np.float64(asked.get(f, 0.01)) for f in Hyper._fields})
        words = {"steady_rounds": 3, "steady_clients": 2} | options
        data = data._replace(inputs=np.float64(data.inputs))
        federation = tiny.federation("fair_yet_equal", tiny.softmax(), hyper, Options(**words))
        _, seen = in_rounds(jax.random.key(3), data, clients, orders, federation)
        params = federation.model.init(jax.random.fold_in(jax.random.key(3), 0))
    world = oracle_world(data, clients, params)
    place = np.asarray(seen[0][0].algorithm.place)
    watched = [int(np.flatnonzero(place == p + 1)[0]) for p in range(place.max())]
    assert len(watched) == words["steady_clients"]
    sizes = clients.mask.sum(1)
    theirs = loops.FairYetEqual(
        sizes,
        beta=3.0,
        steady=0.15,
        lag=3,
        watched=watched,
        stage_one=words.get("stage_one", 0),
        of_all=words.get("second_weights") != "chosen",
        new=words.get("sends") != "old",
    )
    server = oracle.ravel(world["init_params"])
    models = np.array([server.copy() for _ in sizes])
    close = {"rtol": 0, "atol": 1e-9}
    stages = []
    for t, (state, _, download, standing, record) in enumerate(seen):
        there = np.array([True, True, t >= 2, True])
        present = np.asarray(record.present)
        stages.append(theirs.second)
        if theirs.second:
            assert present.sum() == 2
            assert not (present & ~there).any()
        else:
            np.testing.assert_array_equal(present, there)
        models[present] = server  # who takes part starts from w_N
        rates = oracle.learning_rates(oracle.Options(learning_rate=0.3, decay=0.8), t, epochs)
        deltas = np.zeros_like(models)
        for i in np.flatnonzero(present):
            deltas[i] = oracle.local_training(
                oracle.unravel(models[i], world["init_params"]), world["client_inputs"][i],
                world["client_labels"][i], orders[t, i], rates, 4, oracle.softmax_gradient,
            )  # fmt: skip
        aggregate, weights, rewards, psi, r = theirs.round_(server, models, deltas, present)
        server, models = server + aggregate, models + rewards
        np.testing.assert_allclose(standing.score, psi, **close)
        np.testing.assert_allclose(standing.reputation, r, **close)
        np.testing.assert_allclose(download.weights, weights, **close)
        np.testing.assert_allclose(state.server, server, **close)
        np.testing.assert_allclose(state.clients, models, **close)
        np.testing.assert_allclose(state.algorithm.phi, theirs.phi, **close)
        assert bool(state.algorithm.second) == theirs.second
    begins = stages.index(True)
    assert 3 <= begins < rounds - 2
    assert (np.abs(models - server).max(axis=1) > 1e-3).any()  # somebody is stale


def chosen_of(beta, phi, share, would, draws=4000):
    """How often each client is chosen in the second stage."""
    algorithm = METHODS["fair_yet_equal"](Hyper(selection_beta=beta, selected=share), Options())
    count = len(phi)
    state = algorithm.init(count, 3)._replace(
        second=jnp.bool_(True), phi=jnp.asarray(phi), heard=jnp.ones(count, jnp.int32)
    )
    keys = jax.random.split(jax.random.key(0), draws)
    one = lambda key: algorithm.chooses(  # noqa: E731
        key, jnp.int32(9), state, jnp.arange(count), jnp.asarray(would)
    )
    return np.asarray(jax.jit(jax.vmap(one))(keys))


@pytest.mark.long
def test_clients_are_chosen_one_after_another_by_their_chances():
    phi = np.float32([0.1, 0.4, 0.2, 0.3, 0.0])
    for beta in (0.0, 5.0):
        p = np.exp(beta * phi) / np.exp(beta * phi).sum()
        found = chosen_of(beta, phi, 0.4, [True] * 5)
        assert (found.sum(axis=1) == 2).all()
        want = loops.chosen_together(p, 2)
        np.testing.assert_allclose(found.mean(axis=0), want, atol=6 * 0.5 / np.sqrt(4000))
    assert (np.diff(want[np.argsort(phi)]) > 0).all()  # who contributes more is chosen more often
    some = chosen_of(5.0, phi, 0.4, [True, True, False, True, False])
    assert (some.sum(axis=1) == 1).all()  # of three who are there
    assert not some[:, [2, 4]].any()
    assert (chosen_of(1e4, phi, 0.4, [True] * 5).sum(axis=0) > 0).tolist() == [0, 1, 0, 1, 0]
    assert (chosen_of(5.0, phi, 1.0, [True] * 5)).all()


@pytest.mark.long
@pytest.mark.parametrize("cohort", [None, 4])
def test_the_second_stage_with_cohorts(tiny, cohort):
    """Of four in a cohort half are chosen, of five floor(2.5); the others keep everything."""
    data, clients = tiny.world((5, 3, 8, 6, 4))
    federation = tiny.federation(
        "fair_yet_equal",
        tiny.softmax(),
        tiny.hyper(selected=0.5),
        Options(stage_one=2),
    )
    if cohort:
        federation = federation._replace(participation=participation.uniform(cohort))
    key = jax.random.key(0)
    step = jax.jit(lambda state: simulation.round_(key, state, data, clients, federation))
    state = simulation.init(key, 5, federation)
    for t in range(5):
        before, (state, record) = state, step(state)
        present = np.asarray(record.present)
        assert present.sum() == (2 if t >= 2 else cohort or 5)
        np.testing.assert_array_equal(state.clients[~present], before.clients[~present])
        np.testing.assert_array_equal(state.reputation[~present], before.reputation[~present])
        np.testing.assert_allclose(
            state.clients[present],
            np.tile(state.server, (present.sum(), 1)),
            rtol=0,
            atol=4 * EPS,
        )
        np.testing.assert_allclose(state.reputation.sum(), 1, atol=20 * EPS)


def test_who_was_never_heard_counts_as_the_mean_of_all_the_others(tiny):
    """Also in a cohort, whose last row is the sum of those who are away."""
    method = METHODS["fair_yet_equal"](Hyper(selected=0.4), Options())
    federation = tiny.federation("fair_yet_equal")
    _, clients = tiny.world((4, 3, 5, 2, 6))
    state = simulation.init(jax.random.key(0), 5, federation)
    rules = method.init(5, 20)
    psi = jnp.float32([0.1, 0.2, 0.3, 0.4, 0.0])
    for who in ([1, 1, 1, 0, 0], [1, 0, 0, 1, 0]):
        upload = tiny.upload(np.eye(5, 20, dtype=np.float32), [4, 3, 5, 2, 6])
        upload = upload._replace(present=jnp.asarray(who, bool))
        rules = _heard(jax.random.key(0), upload, psi, rules)
    np.testing.assert_allclose(_known(rules)[4], 0.25, rtol=1e-6)
    assert rules.known == 4
    state = state._replace(algorithm=rules)
    members = jnp.array([2, 4, 5])
    cohort, _ = participation.gather(state, clients, members, method.init)
    known = _known(cohort.algorithm)
    np.testing.assert_allclose(known[:2], [0.3, 0.25], rtol=1e-6)


def test_a_stage_after_another_hands_on_who_is_chosen():
    """`then` asks the algorithm of the stage, by its own state."""
    drawn = METHODS["fair_yet_equal"](Hyper(selected=0.4), Options())
    both = then(standalone(), drawn, 3)
    early, late = both.init(5, 4)
    state = early, late._replace(second=jnp.bool_(True))
    everybody = jnp.ones(5, bool)
    for t, number in ((2, 5), (3, 2)):
        found = both.chooses(jax.random.key(0), jnp.int32(t), state, jnp.arange(5), everybody)
        assert found.sum() == number
    assert then(standalone(), standalone(), 3).chooses is None


# ---------------------------------------------------------------- FedAVE

TENSORS = (30, 6, 24, 4)
# Told accuracies in place of validation rows.
TOLD = Network(lambda weights, inputs, labels: (inputs, labels))


def test_divergences_are_scipys():
    """FedAVE's code calls `scipy.stats.entropy` on what is left of two vectors of losses."""
    theirs = recorded("fedave", "kl")
    found = jax.jit(jax.vmap(divergence))(theirs["left"], theirs["right"], theirs["length"])
    # Nine terms of order 1, each with a logarithm of a quotient.
    np.testing.assert_allclose(found, theirs["kl"], rtol=0, atol=1e-5)
    assert (theirs["kl"][theirs["length"] == 1] == 0).all()
    nothing = divergence(jnp.zeros(3), jnp.ones(3), jnp.int32(3))
    assert abs(nothing) < 1e-6  # losses of exactly 0


@pytest.mark.parametrize("scenario", ["plain", "zero", "negative", "ties"])
def test_fedave_is_the_official_codes(tiny, scenario):
    """wangzihuixmu/FedAVE b1f77f9, `Server.iterate` of `algorithm/FedAVE.py`: its four steps.

    All validation losses of a client are alike, and a batch has one example, so that the orders
    of batches, which either side draws, decide nothing.
    """
    theirs, inputs = recorded("fedave", scenario), recorded("inputs", scenario)
    algorithm = fedave(TOLD, TENSORS, 0.5, 0.95, 2.0, kl_floor=1e-12, batch=1)
    held = np.arange(6) < theirs["lengths"][:, None]

    def round_(carry, sent):
        (server, clients, state), (t, deltas, accuracy, own, validation) = carry, sent
        upload = tiny.upload(deltas, inputs["sizes"], clients=clients, server=server)
        upload = upload._replace(
            validation=(accuracy, accuracy), losses=Losses(own, held, validation), round=t
        )
        download, standing, state = algorithm.update(jax.random.key(0), upload, state)
        carry = server + download.aggregate, clients + download.rewards, state
        return carry, (standing.reputation, carry[1], download.energy)

    start = jnp.asarray(inputs["w0"])
    models = jnp.tile(start, (5, 1))
    rounds = jnp.arange(14, dtype=jnp.int32)
    sent = rounds, inputs["deltas"], inputs["accs"], theirs["own"], theirs["validation"]
    carry = start, models, algorithm.init(5, 64)
    r, models, energy = jax.jit(lambda carry, sent: jax.lax.scan(round_, carry, sent)[1])(
        carry, sent
    )
    # k is a quotient of two sums of six logarithms, its square doubles their error.
    np.testing.assert_allclose(r, theirs["r"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(models[np.array([0, 1, 9, 13])], theirs["model"], rtol=0, atol=5e-6)
    assert not np.any(energy[0])
    np.testing.assert_array_equal(models[0], np.tile(start, (5, 1)))  # nothing in round 0


def test_batches_are_drawn():
    """Four examples in batches of two: each of three partitions as often as the others."""
    own = np.float32([1, 2, 4, 8])
    losses = Losses(own[None], np.ones((1, 4), bool), np.ones((1, 4), np.float32))
    found = jax.jit(jax.vmap(lambda key: divergences(key[None], losses, 2)[0]))(
        jax.random.split(jax.random.key(0), 600)
    )
    p = np.array([[3, 12], [5, 10], [9, 6]]) / 15
    want = np.sum(p * np.log(2 * p), axis=1)
    near = np.abs(np.asarray(found)[:, None] - want) < 1e-5
    assert (near.sum(axis=1) == 1).all()
    np.testing.assert_allclose(near.mean(axis=0), 1 / 3, atol=6 * 0.5 / np.sqrt(600))


def test_quantiles_of_many_rows():
    """Rank times groups is beyond an int32 from 370,000 rows on; the groups are those of integers.

    400,000 losses 1 .. n in 6,250 groups, against as many that are all alike: the means of p are
    those of whole groups, in proportion to 2 l + 1 up to 1 / 64, so that KL is ln 2 - 1/2.
    """
    rows, ramp = 400_000, np.arange(1, 400_001, dtype=np.float32)
    own = ramp[np.random.default_rng(0).permutation(rows)]
    losses = Losses(own[None], np.ones((1, rows), bool), np.ones((1, rows), np.float32))
    found = divergences(jax.random.key(0)[None], losses, 64, ordered=True)
    np.testing.assert_allclose(found, np.log(2) - 0.5, atol=6_250 * EPS)


@pytest.mark.parametrize(
    ("length", "size", "most"),
    [(2, 800_000, 12_500), (3, 7, 12_500), (12_500, 800_000, 12_500), (7, 100, 7), (1, 64, 1)],
)
def test_groups_of_ranks_are_those_of_whole_numbers(length, size, most):
    place = np.unique(np.linspace(0, size - 1, 1_000).astype(np.int64))
    found = _group(*map(jnp.int32, (place, length, size)), most)
    np.testing.assert_array_equal(found, place * length // size)


def test_a_client_of_one_batch_is_no_divergence_and_no_nan(tiny):
    """The code divides by 0 there; who has one batch counts as if chance had made its losses."""
    sent = tiny.upload(np.eye(4, 20, dtype=np.float32), [1, 2, 9, 9])
    sent = sent._replace(round=jnp.int32(1))
    apart = divergences(jax.random.split(jax.random.key(0), 4), sent.losses, 64)
    np.testing.assert_allclose(apart[:2], 0, atol=2 * EPS)
    assert (apart[2:] > 0).all()
    algorithm = METHODS["fedave"](tiny.hyper(), Options(network=tiny.network()))
    download, standing, _ = algorithm.update(jax.random.key(0), sent, algorithm.init(4, 20))
    for leaf in jax.tree.leaves((download, standing)):
        assert np.isfinite(leaf).all()
    assert download.quota[0] > 0


@pytest.mark.long
def test_fedave_over_rounds(tiny):
    """Six rounds in float64, by quantiles, masks per tensor; a client from round 2 on."""
    rounds, epochs = 6, 2
    data, clients = tiny.world(pad=2)
    clients = clients._replace(joins=np.array([0, 0, 2, 0], np.int32))
    orders = tiny.orders(clients, rounds, epochs)
    model = tiny.softmax()
    with jax.enable_x64(True):
        data = data._replace(
            inputs=np.float64(data.inputs),
            validation=(np.float64(data.validation[0]), data.validation[1]),
        )
        asked = {"learning_rate": 0.3, "decay": 0.8}
        hyper = Hyper(**{f: np.float64(asked.get(f, 0.01)) for f in Hyper._fields})
        federation = tiny.federation("fedave", model, hyper)
        lengths = tiny.sizes_of(model)
        network = evaluation.network(model, (tiny.features,), np.float64)
        algorithm = fedave(
            network,
            lengths,
            0.5,
            0.6,
            3.0,
            kl_floor=1e-4,
            norm_epsilon=0.0,
            loss_vectors="sorted",
            batch=2,
        )
        federation = federation._replace(algorithm=algorithm)
        _, seen = in_rounds(jax.random.key(3), data, clients, orders, federation)
        params = model.init(jax.random.fold_in(jax.random.key(3), 0))
    world = oracle_world(data, clients, params)
    like = world["init_params"]
    sizes = clients.mask.sum(1)
    theirs = loops.FedAVE(
        sizes, lengths, gamma=0.5, alpha=0.6, beta=3.0, floor=1e-3, kl_floor=1e-4, batch=2,
        released=True,
    )  # fmt: skip

    def losses_of(weights, inputs, labels):
        logits = oracle.softmax_logits(oracle.unravel(weights, like), inputs)
        return -oracle.log_softmax(logits)[np.arange(len(labels)), labels]

    server = oracle.ravel(like)
    models = np.array([server.copy() for _ in sizes])
    close = {"rtol": 0, "atol": 1e-9}
    for t, (state, upload, download, standing, record) in enumerate(seen):
        present = np.array([True, True, t >= 2, True])
        np.testing.assert_array_equal(record.present, present)
        rates = oracle.learning_rates(oracle.Options(learning_rate=0.3, decay=0.8), t, epochs)
        own, validation, deltas = [], [], np.zeros_like(models)
        for i, w in enumerate(models):
            rows = world["client_inputs"][i], world["client_labels"][i]
            own.append(losses_of(w, *rows))
            validation.append(losses_of(w, *data.validation))
            np.testing.assert_allclose(upload.losses.own[i][clients.mask[i]], own[i], **close)
            np.testing.assert_allclose(upload.losses.validation[i], validation[i], **close)
            if present[i]:
                deltas[i] = oracle.local_training(
                    oracle.unravel(w, like), *rows, orders[t, i], rates, 4, oracle.softmax_gradient
                )
        accuracies = []
        for w in models + deltas:
            logits = oracle.softmax_logits(oracle.unravel(w, like), data.validation[0])
            accuracies.append(np.mean(logits.argmax(axis=1) == data.validation[1]))
        aggregate, weights, rewards, score, r = theirs.round_(
            t, deltas, present, accuracies, own, validation
        )
        server, models = server + aggregate, models + rewards
        np.testing.assert_allclose(standing.score, score, **close)
        np.testing.assert_allclose(standing.reputation, r, **close)
        np.testing.assert_allclose(download.weights, weights, **close)
        np.testing.assert_allclose(download.rewards, rewards, **close)
        np.testing.assert_allclose(state.server, server, **close)
        np.testing.assert_allclose(state.clients, models, **close)
    assert len(np.unique(np.asarray(download.quota))) > 1
    with pytest.raises(ValueError, match="there are none"):
        simulation.train(
            jax.random.key(0), state, data._replace(validation=None), clients, federation
        )
