"""What games are worth and who is owed what: axioms, brute force, and errors of samples."""

import functools
import pathlib

import chex
import declared
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from declared import CONTRIBUTIONS, GAMES, SOLUTIONS, Options
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core import evaluation
from cgsv_jax.experiment import deal, names, running
from cgsv_jax.rules import contribution
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.contribution.banzhaf import from_values as banzhaf_of
from cgsv_jax.rules.contribution.banzhaf import sample as sample_banzhaf
from cgsv_jax.rules.contribution.gtg_shapley import guided, scaled
from cgsv_jax.rules.contribution.gtg_shapley import sample as sample_gtg
from cgsv_jax.rules.contribution.least_core import solve
from cgsv_jax.rules.contribution.leave_one_out import without_one
from cgsv_jax.rules.contribution.sampled_shapley import sample as sample_shapley
from cgsv_jax.rules.contribution.shapley import all_values
from cgsv_jax.rules.contribution.shapley import exact as exact_shapley
from cgsv_jax.rules.contribution.shapley import from_values as shapley_of
from cgsv_jax.rules.contribution.tmc_shapley import sample as sample_tmc
from cgsv_jax.rules.contribution.truncated import gains
from cgsv_jax.types import Upload

EPS = float(np.finfo(np.float32).eps)
PLAYERS = 5
EVERYBODY = (1 << PLAYERS) - 1
few = settings(max_examples=30, deadline=None, derandomize=True)
# Values of order 1: at most 2^N roundings of terms whose coefficients sum to 2.
NOISE = 2 * 2**PLAYERS * EPS
TIGHT = 1e-6  # what a linear programme's solver leaves
# Chances of error: one in a million over all that a test compares.
ERROR = 1e-6


def table(values):
    """The game that has these values [2^N], as a function of membership [K, N]."""
    values = jnp.asarray(values, jnp.float32)

    def value(member):
        bits = 1 << jnp.arange(member.shape[1])
        return values[jnp.sum(member.astype(jnp.int32) * bits[None, :], axis=1)]

    return value


def drawn(seed, players=PLAYERS):
    return np.float64(np.float32(np.random.default_rng(seed).normal(size=1 << players)))


def least_core(values):
    return solve(values)[0]


# Of a table and a key, compiled once for all examples.
EXACT = {
    "shapley": jax.jit(lambda v: shapley_of(all_values(table(v), PLAYERS))),
    "banzhaf": jax.jit(lambda v: banzhaf_of(all_values(table(v), PLAYERS))),
    "leave_one_out": jax.jit(lambda v: without_one(table(v), PLAYERS)),
}
SAMPLED = {
    "sampled_shapley": jax.jit(lambda k, v: sample_shapley(k, table(v), PLAYERS, 6)[0]),
    "banzhaf": jax.jit(lambda k, v: sample_banzhaf(k, table(v), PLAYERS, 20)[0]),
    "tmc_shapley": jax.jit(lambda k, v: sample_tmc(k, table(v), PLAYERS, 7, 0.0)),
    "gtg_shapley": jax.jit(lambda k, v: sample_gtg(k, table(v), PLAYERS, 20, 0.0).phi),
}
seeds = st.integers(0, 2**31 - 1)


def every(values, key):
    """Each solution's [N] of one game, with its noise."""
    found = {name: (np.asarray(f(values)), NOISE) for name, f in EXACT.items()}
    found["least_core"] = (least_core(values), TIGHT * np.abs(values).max())
    for name, f in SAMPLED.items():
        found[f"{name}, drawn"] = (np.asarray(f(key, values)), NOISE)
    return found


# ---------------------------------------------------------------- axioms


@few
@given(seeds)
def test_efficiency(seed):
    """The shares sum to nu(everybody) - nu(nobody)."""
    values = drawn(seed)
    found = every(values, jax.random.key(seed))
    for name, (phi, noise) in found.items():
        if "shapley" in name or name == "least_core":
            assert abs(phi.sum() - (values[-1] - values[0])) < PLAYERS * noise, name


@few
@given(seeds, st.integers(0, PLAYERS - 1), st.integers(0, PLAYERS - 1))
def test_symmetry(seed, i, j):
    """Who bring the same to every coalition are owed the same."""
    values, numbers = drawn(seed), np.arange(1 << PLAYERS)
    swapped = numbers & ~(1 << i | 1 << j) | (numbers >> i & 1) << j | (numbers >> j & 1) << i
    values = (values + values[swapped]) / 2
    for name, (phi, noise) in every(values, jax.random.key(seed)).items():
        if "drawn" not in name:
            assert abs(phi[i] - phi[j]) <= 2 * noise, name


@few
@given(seeds, st.integers(0, PLAYERS - 1))
def test_a_null_player_is_owed_nothing(seed, i):
    values = drawn(seed)
    values = values[np.arange(1 << PLAYERS) & ~(1 << i)]
    for name, (phi, noise) in every(values, jax.random.key(seed)).items():
        if name == "banzhaf, drawn":
            continue  # it never sees a coalition with and without one player
        assert abs(phi[i]) <= (0 if "drawn" in name else noise), name


@few
@given(seeds, seeds)
def test_additivity(seed, other):
    """What is owed in the sum of two games is the sum of what is owed in each."""
    one, two, key = drawn(seed), drawn(other), jax.random.key(seed)
    both, one, two = (every(v, key) for v in (one + two, one, two))
    for name, (phi, noise) in both.items():
        if name in ("least_core", "gtg_shapley, drawn"):
            continue  # not additive; and how long it draws depends on the game
        assert np.abs(phi - one[name][0] - two[name][0]).max() <= 4 * noise, name


# ---------------------------------------------------------------- brute force


def test_the_glove_game():
    """One left glove, two right ones; a pair is worth 1. The values are known."""
    values = np.array([0, 0, 0, 1, 0, 1, 0, 1.0])  # player 0 has the left glove
    for solution in (oracle.shapley, lambda v: shapley_of(jnp.float32(v))):
        np.testing.assert_allclose(solution(values), [2 / 3, 1 / 6, 1 / 6], atol=4 * EPS)
    for solution in (oracle.banzhaf, lambda v: banzhaf_of(jnp.float32(v))):
        np.testing.assert_allclose(solution(values), [3 / 4, 1 / 4, 1 / 4], atol=4 * EPS)
    for solution in (oracle.leave_one_out, lambda v: without_one(table(v), 3)):
        np.testing.assert_allclose(solution(values), [1, 0, 0], atol=4 * EPS)
    shares, least = solve(values)  # nobody can do without the left glove
    np.testing.assert_allclose(shares, [1, 0, 0], atol=TIGHT)
    assert abs(least) < TIGHT


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8])
def test_equals_brute_force(count):
    """All of the cosine game, by way of an upload with weights and a client that is absent."""
    rng = np.random.default_rng(count)
    vectors = rng.normal(size=(count, 40)) + 0.3
    weights = rng.uniform(0.5, 2, count)
    vectors[0] *= -1
    if count > 2:
        vectors[1] = 0
    values = oracle.cosine_values(weights[:, None] * vectors)
    value = games.cosine_value(
        jnp.float32((weights[:, None] * vectors) @ (weights[:, None] * vectors).T)
    )
    np.testing.assert_allclose(all_values(value, count), values, atol=1e-5)
    found = all_values(value, count)
    np.testing.assert_allclose(shapley_of(found), oracle.shapley(values), atol=1e-5)
    np.testing.assert_allclose(banzhaf_of(found), oracle.banzhaf(values), atol=1e-5)
    np.testing.assert_allclose(
        without_one(value, count), oracle.leave_one_out(values), rtol=0, atol=1e-5
    )


def balanced(coalitions):
    """Whether weights above zero let these coalitions [K, N] cover every player once."""
    count = len(coalitions)
    # max t with sum_S l_S S = 1, l_S >= t
    rows = np.concatenate([coalitions.T, np.zeros((coalitions.shape[1], 1))], axis=1)
    found = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.concatenate([-np.eye(count), np.ones((count, 1))], axis=1),
        b_ub=np.zeros(count),
        A_eq=rows,
        b_eq=np.ones(coalitions.shape[1]),
        bounds=[(0, None)] * count + [(None, 1)],
    )
    return found.success and -found.fun > 1e-9


@pytest.mark.parametrize("players", [2, 3, 4, 5])
def test_the_least_core_is_the_least_and_its_point_the_prenucleolus(players):
    """The least e by one plain programme; the point by Kohlberg's criterion.

    x is the prenucleolus exactly when for every level the coalitions whose deficit reaches it are
    balanced (Kohlberg, 1971).
    """
    inside = (np.arange(1 << players)[:, None] >> np.arange(players)) & 1
    for seed in range(5):
        values = drawn(seed, players)
        shares, least = solve(values)
        deficits = oracle.deficits(values, shares)
        assert abs(deficits.max() - least) < TIGHT
        worth, inner = values - values[0], inside[1:-1]
        plain = linprog(
            np.append(np.zeros(players), 1.0),
            A_ub=-np.concatenate([inner, np.ones((len(inner), 1))], axis=1),
            b_ub=-worth[1:-1],
            A_eq=np.append(np.ones(players), 0.0)[None],
            b_eq=worth[-1:],
            bounds=(None, None),
        )
        assert abs(plain.fun - least) < TIGHT
        for level in deficits:
            assert balanced(inner[deficits >= level - 10 * TIGHT])


@pytest.mark.parametrize(
    ("estate", "want"), [(100, [100 / 3] * 3), (200, [50, 75, 75]), (300, [50, 100, 150])]
)
def test_the_least_core_divides_an_estate_as_the_talmud_does(estate, want):
    """Aumann and Maschler, 1985: the nucleolus of the bankruptcy game."""
    claims = np.array([100, 200, 300])
    absent = 1 - ((np.arange(8)[:, None] >> np.arange(3)) & 1)
    values = np.maximum(estate - absent @ claims, 0)
    np.testing.assert_allclose(solve(values)[0], want, atol=1e-4)


# ---------------------------------------------------------------- samples


def far(estimates, errors, truth, freedom):
    """Whether any of many estimates is further off than its standard error allows."""
    most = stats.t.ppf(1 - ERROR / 2 / np.size(estimates), freedom)
    return np.abs(estimates - truth) > most * errors + NOISE


def two_games(what, players):
    vectors = np.random.default_rng(0).normal(size=(players, 30)) + 0.3
    gram = jnp.asarray(vectors @ vectors.T, jnp.float32)
    return games.cosine_value(gram) if what == "cosine" else table(drawn(0, players))


@pytest.mark.parametrize("what", ["cosine", "table"])
def test_samples_are_near_the_exact_value_and_their_error_is_what_they_say(what):
    """One long sample is as near as its error says; and over many keys errors are calibrated.

    The mean squared error equals the mean squared standard error whatever the distribution, so the
    spread of their difference over the keys says how far apart they may be; with so many keys, a
    standard error a tenth off would be seen.
    """
    players, keys = 6, jax.random.split(jax.random.key(0), 3000)
    value = two_games(what, players)
    values = all_values(value, players)
    for sample, exact in ((sample_shapley, shapley_of), (sample_banzhaf, banzhaf_of)):
        exact = np.float64(exact(values))
        # Many pairs, so that their mean is as good as normal.
        phi, error = sample(keys[0], value, players, 4000)
        assert not far(phi, error, exact, 1999).any()
        assert far(phi[::-1], error, exact, 1999).any()  # that would have been seen
        lifted = jax.jit(jax.vmap(lambda key, sample=sample: sample(key, value, players, 40)))
        phi, error = (np.float64(x) for x in lifted(keys))
        gap = ((phi - exact) ** 2 - error**2).mean(axis=1)  # [keys]
        most = stats.norm.ppf(1 - ERROR / 2) * gap.std(ddof=1) / np.sqrt(len(keys))
        assert abs(gap.mean()) < most
        assert most < 0.2 * (error**2).mean()


def test_an_order_and_its_reverse_are_drawn():
    """Two players have two orders, and a pair holds both; a pair alone has no spread."""
    value = table([0, 1, 2, 7])
    for permutations in (1, 2):
        phi, error = sample_shapley(jax.random.key(0), value, 2, permutations)
        np.testing.assert_allclose(phi, [3, 4], atol=8 * EPS)
        assert np.isinf(error).all()
    phi, error = sample_shapley(jax.random.key(0), value, 2, 3)  # rounded up to two pairs
    np.testing.assert_allclose(phi, [3, 4], atol=8 * EPS)
    assert np.all(error == 0)


def test_pairs_beat_as_many_independent_orders():
    """On cosines the variance is about half."""
    keys, value = jax.random.split(jax.random.key(0), 500), two_games("cosine", 8)
    pairs = jax.jit(jax.vmap(lambda key: sample_shapley(key, value, 8, 20)[0]))(keys)
    plain = jax.jit(jax.vmap(lambda key: sample_tmc(key, value, 8, 20, 0.0)))(keys)
    assert np.var(pairs, axis=0).sum() < 0.75 * np.var(plain, axis=0).sum()


def test_blocks_change_nothing(monkeypatch):
    """Coalitions in many small blocks, the last of them short."""
    value = table(drawn(0))

    def found():
        key = jax.random.key(0)
        return sample_shapley(key, value, PLAYERS, 9)[0], without_one(value, PLAYERS)

    whole = found()
    monkeypatch.setattr(games, "ENTRIES", 7 * PLAYERS)
    for a, b in zip(whole, found(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sample_in_blocks_is_a_sample(monkeypatch):
    """48 pairs in seven blocks of seven, over many keys."""
    monkeypatch.setattr(games, "ENTRIES", 14 * PLAYERS)
    values, keys = drawn(0), jax.random.split(jax.random.key(0), 2000)
    draw = jax.jit(jax.vmap(lambda key: sample_banzhaf(key, table(values), PLAYERS, 95)))
    phi, error = (np.float64(x) for x in draw(keys))
    of_mean = phi.std(axis=0, ddof=1) / np.sqrt(len(keys))
    assert not far(phi.mean(axis=0), of_mean, oracle.banzhaf(values), len(keys) - 1).any()
    gap = ((phi - oracle.banzhaf(values)) ** 2 - error**2).mean(axis=1)
    assert abs(gap.mean()) < stats.norm.ppf(1 - ERROR / 2) * gap.std() / np.sqrt(len(keys))


# ---------------------------------------------------------------- truncation


@pytest.mark.parametrize("tolerance", [0.0, 0.5, 100.0])
def test_orders_that_advance_together_gain_what_each_gains_alone(tolerance):
    values, orders = drawn(1), 9
    keys = jax.random.split(jax.random.key(0), orders)
    ranks = jax.vmap(jax.random.permutation, (0, None))(keys, PLAYERS)
    ends = jnp.float32(values[0]), jnp.float32(values[-1])
    found, looked = jax.jit(lambda t: gains(table(values), ranks, *ends, t))(tolerance)
    order = np.argsort(ranks, axis=1)
    want = [oracle.walk(values, o, tolerance) for o in order]
    np.testing.assert_allclose(found, want, atol=4 * EPS)
    # As long as the longest walk; the last step leads to everybody, whose value is known.
    lengths = [
        next(
            (
                k
                for k in range(PLAYERS - 1)
                if abs(values[-1] - values[sum(1 << i for i in o[:k])]) < tolerance
            ),
            PLAYERS - 1,
        )
        for o in order
    ]
    assert looked == max(lengths)
    assert {0.0: looked == PLAYERS - 1, 100.0: looked == 0}.get(tolerance, True)


def test_a_truncated_sample_without_truncation_is_a_sample():
    values, keys = drawn(2), jax.random.split(jax.random.key(0), 2000)
    exact = oracle.shapley(values)
    draws = {
        "tmc": lambda key: sample_tmc(key, table(values), PLAYERS, 11, 0.0),
        # Fewer orders than clients, so that only some of them are first.
        "gtg": lambda key: sample_gtg(key, table(values), PLAYERS, PLAYERS - 2, 0.0).phi,
    }
    for draw in draws.values():
        phi = np.float64(jax.jit(jax.vmap(draw))(keys))
        error = phi.std(axis=0, ddof=1) / np.sqrt(len(keys))
        assert not far(phi.mean(axis=0), error, exact, len(keys) - 1).any()


@few
@given(seeds, st.floats(0.01, 1))
def test_truncated_values_sum_to_everybody_within_the_tolerance(seed, tolerance):
    values, key = drawn(seed), jax.random.key(seed)
    tmc = _truncated["tmc"](key, values, tolerance)
    gtg = _truncated["gtg"](key, values, tolerance)
    for phi in (tmc, gtg):
        assert abs(phi.sum() - (values[-1] - values[0])) <= tolerance + PLAYERS * NOISE


_truncated = {
    "tmc": jax.jit(lambda k, v, t: sample_tmc(k, table(v), PLAYERS, 7, t)),
    "gtg": jax.jit(lambda k, v, t: sample_gtg(k, table(v), PLAYERS, 20, t).phi),
}


def test_guided_orders_begin_with_every_client_in_turn():
    first = (jnp.arange(2 * PLAYERS) + 3) % PLAYERS
    ranks = np.asarray(guided(jax.random.key(0), first, PLAYERS))
    assert np.array_equal(np.argsort(ranks, axis=1)[:, 0], first)
    assert np.array_equal(np.sort(ranks, axis=1), np.tile(np.arange(PLAYERS), (2 * PLAYERS, 1)))
    # The rest is uniform: every client is as often second as the others.
    many = guided(jax.random.key(1), jnp.zeros(8000, jnp.int32), PLAYERS)
    second = np.bincount(np.argsort(many, axis=1)[:, 1], minlength=PLAYERS)
    assert second[0] == 0
    assert stats.chisquare(second[1:]).pvalue > ERROR


def test_guided_sampling_stops_when_it_has_settled_and_skips_a_round_without_gain():
    own = np.array([0.1, 0.4, -0.2, 0.3, 0.0])
    inside = (np.arange(1 << PLAYERS)[:, None] >> np.arange(PLAYERS)) & 1
    additive = inside @ own

    @functools.partial(jax.jit, static_argnums=1)
    def draw(values, most, tolerance=0.0):
        return sample_gtg(jax.random.key(0), table(values), PLAYERS, most, tolerance)

    # Every order gives the same gains: more than thirty orders, in whole batches.
    found = draw(additive, 1000)
    assert found.permutations == 7 * PLAYERS
    np.testing.assert_allclose(found.phi, own, atol=NOISE)
    # A cap, in whole batches.
    assert draw(additive, 7).permutations == 2 * PLAYERS
    assert draw(additive, 3).permutations == 3
    # Gains that swamp their sum do not settle soon; a rounder game does.
    wild = draw(drawn(0), 1000).permutations
    assert 7 * PLAYERS < wild <= 1000
    # Nothing gained between rounds.
    for same in (additive - additive[-1] * (inside.sum(axis=1) == PLAYERS), 0.01 * additive):
        skipped = draw(same, 1000, 0.01)
        assert skipped.permutations == 0
        assert not np.any(skipped.phi)


@pytest.mark.parametrize("players", [3, 7])
def test_guided_sampling_stops_where_the_authors_do(players):
    """Their rule on the orders that were drawn, asked after every cycle of N of them."""
    key, tolerance = jax.random.key(4), 0.05
    inside = (np.arange(1 << players)[:, None] >> np.arange(players)) & 1
    values = np.sqrt(inside @ np.arange(1.0, players + 1)) + 0.02 * drawn(5, players)
    found = sample_gtg(key, table(values), players, 400, tolerance)
    offset_key, orders_key = jax.random.split(key)
    start = int(jax.random.randint(offset_key, (), 0, players))
    records = []
    while len(records) < 400:
        done, first = len(records), (len(records) + start + jnp.arange(players)) % players
        ranks = guided(jax.random.fold_in(orders_key, done // players), first, players)
        records += [oracle.walk(values, o, tolerance) for o in np.argsort(ranks, axis=1)]
        mean = np.cumsum(records, 0) / np.arange(1, len(records) + 1)[:, None]
        errors = np.mean(np.abs(mean[-10:] - mean[-1]) / (np.abs(mean[-1]) + 1e-12), axis=1)
        if len(records) > max(30, players) and errors.max() <= 0.05:
            break
    assert found.permutations == len(records) < 400
    np.testing.assert_allclose(found.phi, mean[-1], atol=NOISE)


def test_values_are_scaled_to_the_gain_as_the_authors_do(tiny):
    """Those of the gain's sign then sum to it, whatever the others are; nothing where none has."""
    for phi, gain, want in (
        ([0.2, 0.3, 0.1], 0.9, [0.3, 0.45, 0.15]),
        ([0.2, -0.5, 0.1], -1.0, [0.4, -1.0, 0.2]),
        ([0.2, 0.0, -0.1], 0.4, [0.4, 0.0, -0.2]),
        ([0.0, 0.0, 0.0], 0.5, [0.0, 0.0, 0.0]),
    ):
        np.testing.assert_allclose(scaled(jnp.array(phi), jnp.float32(gain)), want, rtol=1e-6)
    (sent, _), values = judged(tiny, 3), np.array([0, 3, -1, 1, 2, 4, 0, 2.0])
    plain, other = (
        contribution.gtg_shapley(lambda *_: table(values), 30, 0.0, on).update(
            jax.random.key(0), sent, sent.server, sent.norms, ()
        )[0]
        for on in (False, True)
    )
    assert np.sign(plain).tolist() == [1, -1, 1]
    np.testing.assert_allclose(other, scaled(plain, values[-1] - values[0]), rtol=1e-5)
    np.testing.assert_allclose(other[0] + other[2], 2, rtol=1e-5)


# ---------------------------------------------------------------- games in a round


def judged(tiny, count, seed=0, present=None):
    """An upload of softmax models with validation rows, and the network that judges them."""
    rng = np.random.default_rng(seed)
    model = tiny.softmax()
    size = sum(tiny.sizes_of(model))
    present = np.ones(count, bool) if present is None else present
    drawn = np.where(present[:, None], rng.normal(size=(count, size)), 0)
    rows, labels = rng.normal(size=(23, tiny.features)), rng.integers(0, tiny.classes, 23)
    sent = Upload(
        server=jnp.asarray(rng.normal(size=size), jnp.float32),
        clients=jnp.zeros((count, size)),
        deltas=jnp.asarray(drawn, jnp.float32),
        norms=jnp.asarray(np.linalg.norm(drawn, axis=1), jnp.float32),
        scales=jnp.asarray(rng.uniform(0.5, 2, count), jnp.float32),
        present=jnp.asarray(present),
        num_examples=jnp.full(count, 5, jnp.int32),
        loss=jnp.ones(count),
        start_loss=None,
        learning_rate=jnp.float32(0.1),
        validation=(jnp.asarray(rows, jnp.float32), jnp.asarray(labels, jnp.int32)),
        round=jnp.int32(0),
    )
    return sent, evaluation.network(model, (tiny.features,), batch=10)


def test_validation_game_equals_models_rebuilt_one_by_one(tiny):
    """256 coalitions: more than are rebuilt at once."""
    count = 8
    present = np.arange(count) != 3
    sent, seen = judged(tiny, count, present=present)
    weights = np.random.default_rng(1).uniform(0.1, 1, count)
    rows, labels = sent.validation
    accuracy, loss = np.zeros(1 << count), np.zeros(1 << count)
    server, deltas = np.float64(sent.server), np.float64(sent.deltas)
    scales = np.float64(sent.scales)
    for s in range(1 << count):
        members = [i for i in range(count) if s >> i & 1 and present[i]]
        w = server.copy()
        total = sum(weights[i] for i in members)
        for i in members:
            w = w + weights[i] / total * scales[i] * deltas[i]
        params = [w[: tiny.classes], w[tiny.classes :].reshape(tiny.features, tiny.classes)]
        logits = oracle.softmax_logits(params, np.float64(rows))
        accuracy[s] = np.mean(np.argmax(logits, axis=1) == labels)
        loss[s] = oracle.loss(logits, labels)
    for what, want in (("accuracy", accuracy), ("loss", -loss)):
        game = games.validation_game(seen, what)
        value = game(sent, jnp.zeros_like(sent.server), jnp.float32(weights))
        found = jax.jit(lambda value=value: all_values(value, count))()
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)


def test_a_game_on_validation_rows_says_what_it_lacks(tiny):
    sent, seen = judged(tiny, 3)
    with pytest.raises(ValueError, match="accuracy or loss"):
        games.validation_game(seen, "f1")
    with pytest.raises(ValueError, match="needs a network"):
        games.validation_game(None)
    game = games.validation_game(seen)
    with pytest.raises(ValueError, match="server to hold"):
        game(sent._replace(validation=None), sent.server, sent.norms)


@pytest.mark.parametrize(
    ("name", "game"),
    [
        *((name, "accuracy") for name in SOLUTIONS),
        *(("leave_one_out", game) for game in GAMES if game != "accuracy"),
    ],
)
@pytest.mark.long
def test_a_solution_of_a_game_is_a_legal_measure(tiny, name, game):
    """One trace for all rounds, lifted over keys, numbers and who is there; absent means 0."""
    count = 4
    sent, seen = judged(tiny, count)
    options = Options(contribution=name, game=game, permutations=7, network=seen)

    def measure(key, tolerance, sent, weights):
        hyper = tiny.hyper(tolerance=tolerance)
        measure = CONTRIBUTIONS[name](hyper, options)
        state = measure.init(weights.size, sent.server.size)
        return measure.update(key, sent, sent.server, weights, state)[0]

    present = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    keys = jax.random.split(jax.random.key(0), len(present))
    tolerances = jnp.array([0.0, 0.01, 0.01, 0.1])

    def given(here):
        deltas = jnp.where(here[:, None], sent.deltas, 0)
        norms = jnp.where(here, sent.norms, 0)
        weights = jnp.where(here, 1.0, 0.0) / jnp.maximum(jnp.sum(here), 1)
        return sent._replace(deltas=deltas, norms=norms, present=here), weights

    compiled = jax.jit(chex.assert_max_traces(measure, n=1))
    alone = [
        compiled(key, tolerance, *given(jnp.asarray(here)))
        for key, tolerance, here in zip(keys, tolerances, present, strict=True)
    ]
    lifted = jax.jit(jax.vmap(lambda k, t, here: measure(k, t, *given(here))))(
        keys, tolerances, jnp.asarray(present)
    )
    for a, b, here in zip(alone, lifted, present, strict=True):
        assert np.isfinite(a).all()
        assert not np.any(np.asarray(a)[~here])
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    one, _ = judged(tiny, 1)
    phi = jax.jit(measure)(keys[0], 0.0, one, jnp.ones(1))
    values = all_values(GAMES[game](None, options)(one, one.server, jnp.ones(1)), 1)
    np.testing.assert_allclose(phi, values[1:] - values[:1], rtol=0, atol=1e-5)


def maps():
    """Memory maps of this process: each piece of compiled code takes some, and there is a limit."""
    return len(pathlib.Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="Linux shows its maps")
def test_many_values_of_games_are_not_compiled_anew(tiny):
    """400 in one process, eagerly, as in a notebook; they took more than 10,000 maps."""
    sent, seen = judged(tiny, 4)
    weights, options = jnp.full(4, 0.25), Options(permutations=7, network=seen)
    asked = [(name, "cosine") for name in ("cosine", "projection", *SOLUTIONS)]
    asked += [("leave_one_out", "accuracy")]
    measures = [
        CONTRIBUTIONS[name](tiny.hyper(), options._replace(contribution=name, game=game))
        for name, game in asked
    ]

    def all_once(k):
        upload = sent._replace(deltas=sent.deltas * (1 + k))
        for measure in measures:
            measure.update(jax.random.key(k), upload, upload.server, weights, ())
        values = all_values(games.cosine_value(upload.deltas @ upload.deltas.T), 4)
        return shapley_of(values), banzhaf_of(values), exact_shapley(jnp.eye(4) * (1 + k))

    each = len(measures) + 3
    all_once(0), all_once(1)
    before = maps()
    for k in range(2, 2 - (-400 // each)):
        all_once(k)
    assert maps() < before + 20


@pytest.mark.parametrize("name", declared.SAMPLED)
def test_draws_follow_a_clients_number_and_not_its_row(tiny, name):
    """As over several devices, which list clients in an order of their own."""
    count, order = 12, np.random.default_rng(0).permutation(12)
    sent, _ = judged(tiny, count)
    weights, key = np.linspace(1, 2, count), jax.random.key(0)
    measure = CONTRIBUTIONS[name](tiny.hyper(tolerance=0.2), Options(permutations=6))

    @jax.jit
    def score(sent, weights):
        return measure.update(key, sent, sent.server, weights, ())[0]

    rows = {
        field: getattr(sent, field)[order] for field in ("deltas", "norms", "scales", "present")
    }
    other = score(sent._replace(numbers=jnp.asarray(order), **rows), jnp.float32(weights[order]))
    for numbers in (None, jnp.arange(count)):
        found = score(sent._replace(numbers=numbers), jnp.float32(weights))
        np.testing.assert_allclose(found[order], other, rtol=0, atol=1e-5)
    without = score(sent._replace(**rows), jnp.float32(weights[order]))
    assert np.abs(without - other).max() > 1e-3  # or else nothing was drawn


def test_validation_shapley_is_exact_for_a_few_and_guided_beyond(tiny):
    sent, seen = judged(tiny, 4)
    weights, key = jnp.full(4, 0.25), jax.random.key(0)
    arguments = (key, sent, sent.server, weights, ())
    game = games.validation_game(seen)
    exact, _ = contribution.shapley(game).update(*arguments)
    guided, _ = contribution.gtg_shapley(game, 5, 0.3).update(*arguments)
    assert np.abs(exact - guided).max() > 0.01
    for most, want in ((4, exact), (3, guided)):
        measure = contribution.validation_shapley(seen, permutations=5, tolerance=0.3, exact=most)
        np.testing.assert_array_equal(measure.update(*arguments)[0], want)


def test_banzhaf_is_exact_for_a_few_and_drawn_beyond(tiny):
    sent, _ = judged(tiny, 4)
    weights, key = jnp.full(4, 0.25), jax.random.key(0)
    value = contribution.cosine_game()(sent, sent.server, weights)
    exact = banzhaf_of(all_values(value, 4))
    drawn, error = sample_banzhaf(key, value, 4, 4 * 30)
    for most, want in ((4, exact), (3, drawn)):
        found, _ = contribution.banzhaf(None, 30, most).update(key, sent, sent.server, weights, ())
        np.testing.assert_allclose(found, want, atol=NOISE)
    assert not far(drawn, error, exact, 59).any()


# ---------------------------------------------------------------- in training


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_measure_says_how_many_coalitions_it_looks_at(name, tiny):
    """Counted where it asks the game, without compiling; those that stop early look at fewer."""
    sent, _ = judged(tiny, 4)
    looked = []

    def game(upload, aggregate, weights):
        value = contribution.cosine_game()(upload, aggregate, weights)
        return lambda member: looked.append(len(member)) or value(member)

    measure = SOLUTIONS[name](game, tiny.hyper(tolerance=0.0), Options(permutations=12))
    with jax.disable_jit():
        measure.update(jax.random.key(0), sent, sent.server, jnp.full(4, 0.25), ())
    most = measure.needs.valuations(4)
    if name in declared.TRUNCATED:
        assert 12 < sum(looked) <= most
    else:
        assert sum(looked) == most
    assert not measure.needs.validation
    assert SOLUTIONS[name](
        contribution.validation_game(tiny.network()), tiny.hyper(), Options()
    ).needs.validation


@pytest.mark.parametrize("name", SOLUTIONS)
def test_scores_that_sum_to_one_are_brought_to_the_scale_of_reputations(name):
    (method,) = names.configure(algorithms="cgsv", contribution=name).methods
    assert method.normalise_scores
    assert method.relative_floor


@pytest.mark.parametrize(
    ("asked", "idle"),
    [
        ({"game": "accuracy"}, "--game"),
        ({"contribution": "cosine", "game": "accuracy"}, "--game"),
        ({"contribution": "shapley", "permutations": 10}, "--permutations"),
        ({"contribution": "sampled_shapley", "tolerance": 0.1}, "--tolerance"),
        ({"contribution": "tmc_shapley", "scale_values": True}, "--scale-values"),
    ],
)
def test_an_idle_option_of_a_game_is_refused(asked, idle):
    with pytest.raises(ConfigError, match=f"{idle} does nothing here"):
        names.configure(algorithms="cgsv", **asked)
    asked = asked | {"contribution": "gtg_shapley"}
    (method,) = names.configure(algorithms="cgsv", **asked).methods
    assert (method.contribution, method.tolerance) == ("gtg_shapley", asked.get("tolerance", 1e-3))
    if "game" not in asked and idle != "--scale-values":
        names.configure(algorithms="eci", **{k: v for k, v in asked.items() if k in idle})


def test_too_many_clients_are_refused_before_anything_is_compiled():
    with pytest.raises(ConfigError, match="at most 12"):
        deal.tasks(names.configure(clients=13, contribution="least_core"))
    for build in (contribution.sampled_shapley, contribution.banzhaf):
        with pytest.raises(ValueError, match="permutations is 0"):
            build(None, 0)
    for build in (contribution.tmc_shapley, contribution.gtg_shapley):
        with pytest.raises(ValueError, match="permutations is 0"):
            build(None, 0, 0.1)


@pytest.mark.parametrize(
    "asked",
    [
        {"contribution": "least_core", "game": "accuracy"},
        {"contribution": "gtg_shapley", "game": "loss", "permutations": 6},
    ],
    ids=str,
)
@pytest.mark.long
def test_a_run_is_rewarded_by_a_game(asked):
    """Inside the scan over rounds, batched over seeds: a callback and a loop of loops."""
    base = {"dataset": "synthetic", "synthetic_rows": 300, "clients": 5, "rounds": 3, "seeds": 2}
    (cell,) = running.run(names.configure(algorithms="cgsv", **base, **asked)).cells
    assert cell.record.score.shape == (2, 3, 5)
    assert np.isfinite(cell.record.score).all()
    assert np.any(cell.record.score)
    np.testing.assert_allclose(cell.record.reputation.sum(axis=-1), 1, atol=1e-6)
