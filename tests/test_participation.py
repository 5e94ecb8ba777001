"""Cohorts, drop-outs and late joiners: who takes part, what it costs, and what the others keep."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from declared import METHODS, Options

from cgsv_jax.core import participation, simulation
from cgsv_jax.types import Trainer

EPS = float(np.finfo(np.float32).eps)
SIZES = (5, 3, 8, 6, 4)
N = len(SIZES)


def quick(model):
    """A trainer without steps: an update that depends on model and rows, and a count as its state.

    What is tested here is who takes part; real training is compiled once, further down.
    """

    def update(key, params, opt_state, examples, order, round_, *, pull=None, with_gradient=False):
        push = jnp.mean(jnp.where(order >= 0, examples.labels[order], 0)) + round_
        delta = jax.tree.map(lambda x: jnp.sin(3 * x + push), params)
        if pull is not None:
            delta = jax.tree.map(lambda x, more: x - 0.1 * more, delta, pull(params))
        made = delta, opt_state + 1, jnp.exp(-push)
        return (*made, jax.tree.map(jnp.cos, delta)) if with_gradient else made

    return Trainer(lambda params: jnp.int32(0), update, lambda round_: jnp.float32(0.1))


def start(tiny, name="cgsv", trained=False, **options):
    """(state, federation, data, clients) of five clients, of the smallest model."""
    data, clients = tiny.world(SIZES)
    federation = tiny.federation(name, model=tiny.model_of(name), **options)
    if not trained:
        # Soft accuracies: hard ones of a few rows tie, and a tie is decided by a rounding.
        network = tiny.network(sum(tiny.sizes_of(federation.model)))
        chosen = options.get("options", Options())._replace(network=network)
        algorithm = METHODS[name](tiny.hyper(), chosen)
        federation = federation._replace(algorithm=algorithm, trainer=quick(federation.model))
    state = simulation.init(jax.random.key(0), N, federation)
    if federation.settings.alone:  # whoever reads it pays clients differently
        state = state._replace(alone=jnp.linspace(0.9, 0.2, N))
    return state, federation, data, clients


def several(rounds, key, state, data, clients, federation, who=None):
    """Rounds one after another, compiled once."""
    federation = federation._replace(participation=who)
    step = jax.jit(lambda state: simulation.round_(key, state, data, clients, federation))
    seen = []
    for _ in range(rounds):
        state, record = step(state)
        seen.append(record)
    return state, jax.tree.map(lambda *x: np.stack(x), *seen)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.long
def test_a_cohort_of_everybody_is_everybody(tiny, name):
    """The gathered round is the whole one, up to the place of a row of zeros in every sum.

    Two rounds: each sum has up to N + D terms of order 1 and one more zero; the sine passes three
    times a model's error on to the next round: 3 x 10 x 2 (N + D) roundings.
    """
    state, federation, data, clients = start(tiny, name)
    key = jax.random.key(1)
    plain, seen = several(2, key, state, data, clients, federation)
    same, seen_too = several(2, key, state, data, clients, federation, participation.uniform(N))
    if name in ("random_reward", "iafl"):  # a rule's draws depend on the number of rows
        np.testing.assert_array_equal(seen.loss[0], seen_too.loss[0])
        return
    close = {"rtol": 0, "atol": 3 * 10 * 2 * (N + plain.server.size) * EPS}
    for a, b in zip(jax.tree.leaves((plain, seen)), jax.tree.leaves((same, seen_too)), strict=True):
        if np.issubdtype(a.dtype, np.floating):
            np.testing.assert_allclose(a, b, **close)
        elif a.dtype == bool or a.ndim == 0:
            np.testing.assert_array_equal(a, b)
        else:  # quotas, where a ratio near a whole number may fall either way
            assert np.abs(np.asarray(a) - b).max() <= 1


@pytest.mark.parametrize("name", METHODS)
def test_who_stays_away_keeps_everything(tiny, name):
    """Model, optimizer state, reputation; and the others' round is that of the same absence."""
    state, federation, data, clients = start(tiny, name)
    key, schedule = jax.random.key(1), np.array([[0, 1, 2, 3, 4], [0, 2, 3, -1, -1]])
    who = participation.given(schedule)
    federation = federation._replace(participation=who)
    step = jax.jit(lambda state: simulation.round_(key, state, data, clients, federation))
    before, _ = step(state)
    after, record = step(before)
    away = np.array([1, 4])
    for old, new in zip(
        jax.tree.leaves((before.clients, before.optimizer, before.reputation)),
        jax.tree.leaves((after.clients, after.optimizer, after.reputation)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(old)[away], np.asarray(new)[away])
    assert record.present.tolist() == [True, False, True, True, False]
    for nothing in (record.score, record.quota, record.weight, record.energy, record.norm):
        assert not np.any(np.asarray(nothing)[away])
    assert np.isnan(record.loss[away]).all()
    np.testing.assert_array_equal(record.reputation, after.reputation)
    for leaf in jax.tree.leaves(after):
        assert np.isfinite(leaf).all()
    if np.asarray(before.reputation).any():
        np.testing.assert_allclose(after.reputation.sum(), 1, atol=2 * N * EPS)


@pytest.mark.parametrize("name", ["fedavg", "q_ffl", "fedavg_finetuned"])
def test_one_model_for_all_is_the_servers(tiny, name):
    """Who comes back starts from it, as in FedAvg, and is judged by it: not a stale one of its own.

    Client 1 is away in round 1; in round 2 its update is that of a client that never left.
    """
    state, federation, data, clients = start(tiny, name, options=Options(rounds=9))
    key, who = jax.random.key(1), participation.given(np.array([[0, 1, 2], [0, 2, -1], [1, 2, -1]]))
    federation = federation._replace(participation=who)
    step = jax.jit(lambda state: simulation.round_(key, state, data, clients, federation))
    for _ in range(2):
        state, _ = step(state)
    assert np.any(np.asarray(state.clients[1]) != state.server)  # its own copy is stale
    judged = simulation.evaluate(state, data.test_inputs, data.test_labels, federation)
    assert np.unique(judged.loss).size == 1
    assert not np.any(judged.distance)
    fresh = state._replace(clients=jnp.broadcast_to(state.server[None], state.clients.shape))
    (late, seen), (never, seen_too) = step(state), step(fresh)
    np.testing.assert_array_equal(late.server, never.server)
    np.testing.assert_array_equal(late.clients[1], never.clients[1])
    np.testing.assert_array_equal(seen.norm, seen_too.norm)


@pytest.mark.parametrize("who", ["cohort", "late"])
def test_where_all_part_the_one_model_is_everybodys_own(tiny, who):
    """Also of who is not there: after two rounds as one client 1 and 4 hold w_N, and fine-tune it.

    Two rounds of fine-tuning: client 4 takes part in the second, from the model of round 2.
    """
    options = Options(rounds=2)
    state, federation, data, clients = start(tiny, "fedavg_finetuned", options=options)
    key, schedule = jax.random.key(1), np.array([[0, 1, 2], [0, 2, 3], [0, 2, 3], [0, 2, 4]])
    if who == "cohort":
        federation = federation._replace(participation=participation.given(schedule))
    else:
        clients = clients._replace(joins=np.array([0, 9, 0, 0, 3], np.int32))
    step = jax.jit(lambda state: simulation.round_(key, state, data, clients, federation))
    for _ in range(2):
        state, _ = step(state)
    shared = np.asarray(state.server)
    state, record = step(state)
    moved = np.any(np.asarray(state.clients) != shared[None], axis=1)
    assert moved.tolist() == record.present.tolist() == [True, False, True, True, False]
    judged = simulation.evaluate(state, data.test_inputs, data.test_labels, federation)
    assert judged.loss[1] == judged.loss[4] != judged.loss[0]
    state, record = step(state)
    assert record.present[4]
    np.testing.assert_array_equal(state.clients[1], shared)
    np.testing.assert_allclose(np.linalg.norm(state.clients[4] - shared), record.norm[4], rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("iafl",)])
@pytest.mark.long
def test_a_cohort_is_the_same_absence_among_all(tiny, name):
    """Gathered rows against all rows with the others absent: the same round, float noise apart."""
    state, federation, data, clients = start(tiny, name)
    key = jax.random.key(1)
    state, _ = several(1, key, state, data, clients, federation)
    gathered = participation.given(np.array([[0, 2, 3]]))
    (one, seen) = several(1, key, state, data, clients, federation, gathered)
    late = clients._replace(joins=np.array([0, 9, 0, 0, 9], np.int32))
    (two, seen_too) = several(1, key, state, data, late, federation)
    if name == "random_reward":
        np.testing.assert_array_equal(seen.present, seen_too.present)
        return
    close = {"rtol": 0, "atol": 10 * 2 * (N + one.server.size) * EPS}  # as in test_contract
    np.testing.assert_allclose(one.server, two.server, **close)
    np.testing.assert_allclose(one.clients, two.clients, **close)
    np.testing.assert_allclose(one.reputation, two.reputation, **close)
    np.testing.assert_allclose(seen.weight, seen_too.weight, **close)


@pytest.mark.parametrize("name", ["fedsac", "fedrac"])
def test_a_cohort_earns_submodels_among_its_own(tiny, name):
    """By cosine: nobody is held against the row that stands for all who are away."""
    state, federation, data, clients = start(tiny, name, options=Options(earned_by="cosine"))
    key = jax.random.key(1)
    state, _ = several(2, key, state, data, clients, federation)
    one, seen = several(1, key, state, data, clients, federation, participation.given([[0, 3]]))
    late = clients._replace(joins=np.array([0, 9, 9, 0, 9], np.int32))
    two, seen_too = several(1, key, state, data, late, federation)
    np.testing.assert_array_equal(seen.quota, seen_too.quota)
    assert seen.quota.max() == one.server.size  # the best of them holds the whole model
    close = {"rtol": 0, "atol": 10 * 2 * (N + one.server.size) * EPS}
    np.testing.assert_allclose(one.clients, two.clients, **close)


def test_real_training_in_a_cohort(tiny):
    """Adam's states are gathered and scattered with their clients, draws by the client's number."""
    state, federation, data, clients = start(tiny, trained=True, optimizer=optax.adam)
    key, who = jax.random.key(1), participation.given(np.array([[0, 2, 3]]))
    one, seen = several(2, key, state, data, clients, federation, who)
    late = clients._replace(joins=np.array([0, 9, 0, 0, 9], np.int32))
    two, _ = several(2, key, state, data, late, federation)
    # Four steps of Adam a round divide by the root of a gradient's square: a rounding stays within
    # a few roundings of the step, and 8 steps of length .3 are added up.
    close = {"rtol": 0, "atol": 3 * 10 * 2 * (N + one.server.size) * EPS}
    np.testing.assert_allclose(one.clients, two.clients, **close)
    counts_of = [x for x in jax.tree.leaves(one.optimizer) if x.dtype == jnp.int32]
    assert counts_of[0].tolist() == [8, 0, 8, 8, 0]
    assert seen.present.tolist() == [[True, False, True, True, False]] * 2


def test_relative_floor_and_size_shares_are_of_the_population(tiny):
    """What a rule knows of N and of all rows it also knows in a cohort."""
    options = Options(relative_floor=True, first_weights="uniform")
    for chosen in (options, Options(first_weights="size")):
        state, federation, data, clients = start(tiny, options=chosen)
        key = jax.random.key(1)
        # A newcomer beside two that have been heard.
        who = participation.given(np.array([[0, 1], [0, 1], [0, 1], [0, 2]]))
        state, seen = several(4, key, state, data, clients, federation, who)
        r = seen.reputation[2]
        share = 1 / N if chosen.first_weights == "uniform" else SIZES[2] / sum(SIZES)
        expected = np.array([r[0], share]) / (r[0] + share)
        np.testing.assert_allclose(seen.weight[3][[0, 2]], expected, rtol=8 * EPS)


@pytest.mark.parametrize("name", ["cgsv", "fedavg"])
def test_late_joiners_and_drop_outs(tiny, name):
    state, federation, data, clients = start(tiny, name)
    clients = clients._replace(joins=np.array([0, 0, 2, 0, 3], np.int32))
    _, seen = several(5, jax.random.key(3), state, data, clients, federation)
    for t, here in enumerate(seen.present):
        assert here.tolist() == [True, True, t >= 2, True, t >= 3]
    with_drops = participation.everybody(dropout=0.5)
    _, seen = several(200, jax.random.key(3), state, data, clients, federation, with_drops)
    assert not seen.present[:2, 2].any()
    rate = seen.present[3:].mean()
    # 985 fair coins: six standard deviations.
    assert abs(rate - 0.5) < 6 * 0.5 / np.sqrt(seen.present[3:].size)


def counts(draw, size, population, reputation, eligible, draws=2000):
    numbers = jnp.arange(population)
    members = jax.jit(jax.vmap(lambda key: draw(key, jnp.int32(0), numbers, reputation, eligible)))(
        jax.random.split(jax.random.key(0), draws)
    )
    members = np.asarray(members)
    assert members.shape == (draws, size)
    assert (np.diff(members) > 0)[members[:, 1:] < population].all()  # nobody twice
    return np.bincount(members.ravel(), minlength=population + 1) / draws


def test_uniform_cohorts_are_uniform():
    """Each of six clients is in a cohort of three half the time, within six deviations."""
    found = counts(participation.uniform(3).draw, 3, 6, jnp.zeros(6), jnp.ones(6, bool))
    np.testing.assert_allclose(found[:6], 0.5, atol=6 * 0.5 / np.sqrt(2000))
    eligible = jnp.array([True, False, True, False, False, False])
    found = counts(participation.uniform(3).draw, 3, 6, jnp.zeros(6), eligible)
    assert found.tolist() == [1, 0, 1, 0, 0, 0, 1]  # and nobody in the third place


def test_cohorts_by_reputation_follow_it():
    """One draw at a time has the stated probabilities, a client never heard the mean's."""
    r = jnp.array([0.6, 0.3, 0.1, 0.0])
    weight = np.array([0.6, 0.3, 0.1, 0.25]) / 1.25
    expected = 0.9 * weight + 0.1 / 4
    found = counts(participation.by_reputation(1).draw, 1, 4, r, jnp.ones(4, bool), 4000)
    np.testing.assert_allclose(found[:4], expected, atol=6 * 0.5 / np.sqrt(4000))


def test_a_draw_does_not_know_where_rows_lie():
    """Clients dealt to devices in another order are the same clients."""
    order = np.array([3, 0, 4, 1, 2])
    r = np.array([0.1, 0.2, 0.3, 0.25, 0.15], np.float32)
    for who in (
        participation.uniform(2), participation.by_reputation(3),
        participation.given(np.array([[4, 1]])),
    ):  # fmt: skip
        key, all_ = jax.random.key(5), jnp.ones(5, bool)
        plain = who.draw(key, jnp.int32(0), jnp.arange(5), jnp.asarray(r), all_)
        dealt = who.draw(key, jnp.int32(0), jnp.asarray(order), jnp.asarray(r[order]), all_)
        assert sorted(order[dealt].tolist()) == sorted(plain.tolist())


@pytest.mark.parametrize("schedule", [np.zeros((2, 0), int), np.zeros(3, int), np.zeros((2, 2))])
def test_a_schedule_is_a_table_of_numbers(schedule):
    with pytest.raises(ValueError, match="whole numbers"):
        participation.given(schedule)


def test_a_cohort_has_somebody():
    with pytest.raises(ValueError, match="size is 0, it must be a whole number from 1"):
        participation.uniform(0)


def test_a_state_that_is_no_rows_is_refused():
    with pytest.raises(ValueError, match=r"must be \[N, ...\]"):
        participation.by_row(lambda n, d: jnp.zeros((d, n)), 4, 7)
    assert participation.by_row(lambda n, d: (jnp.zeros((n, d)), jnp.zeros(d)), 4, 7) == (
        True,
        False,
    )


def test_a_cohort_costs_what_the_cohort_costs(tiny):
    """FLOPs and bytes of a round of 8 among 4,000 are near those of 8 among 80.

    What grows with N is a draw, its sort and sums over [N]: nothing with D, and no training. The
    models [N, D] are an argument and a result, written in place.
    """

    def cost(population):
        data, clients = tiny.world((4,) * population)
        federation = tiny.federation(model=tiny.softmax())
        federation, key = (
            federation._replace(participation=participation.uniform(8)),
            jax.random.key(0),
        )
        state = jax.eval_shape(lambda: simulation.init(key, population, federation))
        step = jax.jit(
            lambda state, data, clients: simulation.round_(key, state, data, clients, federation),
            donate_argnums=0,
        )
        return step.lower(state, data, clients).compile().memory_analysis()

    small, large = cost(80), cost(4000)
    rows = 4000 - 80
    # Scratch per further client: a few dozen numbers of the draw and the record, not its model.
    assert large.temp_size_in_bytes - small.temp_size_in_bytes < rows * 4 * 40


def test_reputations_of_cohorts_sum_to_one(tiny):
    """Whoever is drawn, 300 rounds: the mass moves among those present."""
    state, federation, data, clients = start(tiny)
    who = participation.by_reputation(2, dropout=0.3)
    _, seen = several(300, jax.random.key(2), state, data, clients, federation, who)
    first = np.flatnonzero(seen.present.any(axis=1))[0]
    np.testing.assert_allclose(seen.reputation[first:].sum(axis=1), 1, atol=1e-6)
    assert (seen.present.sum(axis=1) <= 2).all()
    assert seen.present.any(axis=0).all()  # and everybody is heard
