"""What every entry of every table promises: pure, one trace, a legal carry, liftable, fair to rows.

The entries are read from the tables, so a new line is tested from the day it is written.
"""

import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from declared import AGGREGATIONS, CONTRIBUTIONS, GAMES, METHODS, REWARDS, TABLES, Hyper, Options

from cgsv_jax.core import local, vectors
from cgsv_jax.types import Examples

EPS = float(np.finfo(np.float32).eps)
TENSORS = (10, 10)
D, N, ROUNDS = sum(TENSORS), 4, 3
SIZES = np.array([5, 3, 8, 6])
RELEASED = Options(mask_scope="tensor", mask_count="ceil", mask_ties="all", tensors=TENSORS)
ENTRIES = {
    **{f"algorithm {name}": (name, Options()) for name in METHODS},
    **{f"measure {name}": ("cgsv", Options(contribution=name)) for name in CONTRIBUTIONS},
    **{f"aggregation {name}": ("cgsv", Options(aggregation=name)) for name in AGGREGATIONS},
    **{f"reward {name}": ("cgsv", Options(reward=name)) for name in REWARDS},
    **{f"game {name}": ("cgsv", Options(contribution="shapley", game=name)) for name in GAMES},
    **{
        f"iafl by {by}": ("iafl", Options(contribution_by=by))
        for by in ("accuracy", "participation", "cosine")
    },
    **{
        f"{name} by cosine": (name, Options(earned_by="cosine", allocation_every=2))
        for name in ("fedsac", "fedrac")
    },
    "echo of the whole": ("cgsv", Options(contribution="echo", echo_of="cosine")),
    "setting released": ("cgsv", RELEASED),
    "removal": ("cgsv", Options(removes=True, removed="alone")),
    "cffl otherwise": (
        "cffl",
        Options(clip_by="norm", combine="sum", own_off="before", removed="alone", mask_ties="all"),
    ),
    "rffl otherwise": ("rffl", Options(removed="alone", beta_on="max", mask_ties="all")),
}
# What several names make is tested once: the defaults of the tables are the algorithm cgsv.
ENTRIES = {k: v for k, v in ENTRIES.items() if k == next(n for n in ENTRIES if ENTRIES[n] == v)}
# The rules that draw; with four clients the others that could look at every coalition.
RANDOM = {
    "algorithm random_reward",
    "algorithm fedave",
    *(name for name in ENTRIES if "iafl" in name),
}
RANDOM |= {f"measure {name}" for name in ("sampled_shapley", "gtg_shapley", "tmc_shapley")}


def another(place, allowed):
    """A value within a range, at most 2; no two places give the same, and none 0."""
    part = 0.15 + 0.7 * (place * 0.618034 % 1)
    return allowed.low + part * min(allowed.high - allowed.low, 2.0)


# The rules whose aggregate does not lie along the mean update: they divide it entry by entry.
ADAPTIVE = {"algorithm fedadam", "algorithm fedyogi"}


# Another value for every number, by its declaration.
OTHER = Hyper(
    **{
        name: another(place, TABLES.options[name].allowed)
        for place, name in enumerate(Hyper._fields)
    }
)
# Sums of N or D terms, a norm and a quotient: fewer than 2 (N + D) roundings, at sizes of up to 10.
CLOSE = {"rtol": 0, "atol": 10 * 2 * (N + D) * EPS}


def updates(seed=0, count=N):
    rng = np.random.default_rng(seed % 100)
    drawn = rng.normal(size=D) + rng.normal(size=(count, D))
    return np.float32(drawn * rng.uniform(0.5, 2, (count, 1)))


@pytest.fixture(scope="module", params=ENTRIES.items(), ids=ENTRIES)
def rule(request, tiny):
    """See `rule_of`; compiled once for all tests of an entry."""
    return rule_of(request.param[0], tiny)


def rule_of(entry, tiny):
    """An entry: `update(key, hyper, upload, state)` as it is and compiled, and `init`."""
    name, options = ENTRIES[entry]
    options = options._replace(network=tiny.network(), rounds=ROUNDS - 1)

    def update(key, hyper, upload, state):
        return METHODS[name](hyper, options).update(key, upload, state)

    return SimpleNamespace(
        update=update,
        compiled=jax.jit(chex.assert_max_traces(update, n=1)),
        init=lambda hyper, count=N: METHODS[name](hyper, options).init(count, D),
        needs=lambda hyper: METHODS[name](hyper, options).needs,
        shared=lambda hyper: ~np.asarray(vectors.within(METHODS[name](hyper, options).private, D)),
        draws=entry in RANDOM,
        adapts=entry in ADAPTIVE,
    )


def play(rule, tiny, key, numbers, present, order=None):
    """Rounds from the start; clients may be listed in another order."""
    order = np.arange(N) if order is None else order
    state, seen = rule.init(numbers), []
    for t, here in enumerate(present):
        sent = tiny.upload(
            updates(t)[order], SIZES[order], np.array(here, bool)[order], updates(-1 - t)[order]
        )
        download, standing, state = rule.compiled(key, numbers, sent, state)
        seen.append((download, standing))
    return seen


EVERYBODY = np.ones((ROUNDS, N), bool)


def test_one_trace_serves_all_rounds_and_numbers(rule, tiny):
    for numbers in (tiny.hyper(), tiny.hyper(**OTHER._asdict()), tiny.hyper(beta=np.inf)):
        for download, standing in play(rule, tiny, jax.random.key(0), numbers, EVERYBODY):
            for leaf in jax.tree.leaves((download, standing)):
                assert np.isfinite(leaf).all()
            assert (standing.reputation >= 0).all()
            np.testing.assert_allclose(standing.reputation.sum(), 1, atol=2 * N * EPS)
            np.testing.assert_allclose(download.weights.sum(), 1, atol=2 * N * EPS)
            chex.assert_shape([download.rewards], (N, D))
            chex.assert_shape([standing.score, standing.reputation, download.weights], (N,))
            chex.assert_shape([download.aggregate], (D,))
            chex.assert_type(download.quota, jnp.int32)
            assert ((download.quota >= 0) & (download.quota <= D)).all()


@pytest.mark.parametrize("entry", ["algorithm witness", "measure echo", "echo of the whole"])
def test_what_hears_some_is_tested_where_it_does(entry, tiny):
    """Otherwise all scores here are 0, whatever else the rule does."""
    seen = play(rule_of(entry, tiny), tiny, jax.random.key(0), tiny.hyper(), EVERYBODY)
    scores = np.array([standing.score for _, standing in seen])
    assert np.any(scores > 0)


def test_state_is_a_legal_carry(rule, tiny):
    state = rule.init(tiny.hyper())
    sent = tiny.upload(updates(), SIZES)
    *_, new = jax.eval_shape(rule.update, jax.random.key(0), tiny.hyper(), sent, state)
    old = jax.eval_shape(lambda: state)
    assert jax.tree.structure(new) == jax.tree.structure(old)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)


def test_a_rule_reads_what_it_says_it_needs(rule, tiny):
    """Given neither validation rows nor losses before training, who says so cannot do without."""
    sent, needs = tiny.upload(updates(), SIZES), rule.needs(tiny.hyper())
    without = {
        "validation": (sent._replace(validation=None), "needs the server to hold some"),
        "start_loss": (sent._replace(start_loss=None), "needs uploads with start_loss"),
        "alone": (sent._replace(alone=None), "needs uploads with alone"),
        "losses": (sent._replace(losses=None), "needs uploads with losses"),
        "personal": (sent._replace(own=None), "needs uploads with own"),
    }
    for field, (bare, complaint) in without.items():
        arguments = jax.random.key(0), tiny.hyper(), bare, rule.init(tiny.hyper())
        if getattr(needs, field):
            with pytest.raises(ValueError, match=complaint):
                jax.eval_shape(rule.update, *arguments)
        else:
            jax.eval_shape(rule.update, *arguments)


@pytest.mark.long
def test_lifts_over_seeds_and_over_every_number(rule, tiny):
    """Row 0 has the plain numbers, row i + 1 another value of field i; each has its own key."""
    rows = [tiny.hyper()] + [tiny.hyper(**{f: getattr(OTHER, f)}) for f in Hyper._fields]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    keys = jax.random.split(jax.random.key(0), len(rows))
    sent, state = tiny.upload(updates(), SIZES), rule.init(tiny.hyper())
    lifted = jax.jit(jax.vmap(rule.update, in_axes=(0, 0, None, None)))(keys, stacked, sent, state)
    alone = [rule.compiled(k, h, sent, state) for k, h in zip(keys, rows, strict=True)]
    alone = jax.tree.map(lambda *x: np.stack(x), *alone)
    for a, b in zip(jax.tree.leaves(lifted), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.long
def test_compiled_or_not_is_the_same(rule, tiny):
    arguments = jax.random.key(0), tiny.hyper(), tiny.upload(updates(), SIZES, [1, 1, 0, 1])
    state = rule.init(tiny.hyper())
    with jax.disable_jit():
        plain = rule.update(*arguments, state)
    compiled = rule.compiled(*arguments, state)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.long
def test_deterministic_rules_do_not_know_a_clients_place(rule, tiny):
    numbers, order = tiny.hyper(), np.array([2, 0, 3, 1])
    present = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
    # Of few choices two draws may be the same by chance, of nine not.
    left, *others = (play(rule, tiny, jax.random.key(k), numbers, present) for k in range(9))
    pairs = [pair for o in others for pair in zip(*map(jax.tree.leaves, (left, o)), strict=True)]
    assert rule.draws == any(not np.array_equal(a, b) for a, b in pairs)
    if rule.draws:
        return
    right = play(rule, tiny, jax.random.key(0), numbers, present, order)
    for (a, standing_a), (b, standing_b) in zip(left, right, strict=True):
        np.testing.assert_allclose(b.aggregate, a.aggregate, **CLOSE)
        for name in ("weights", "rewards", "quota"):
            np.testing.assert_allclose(getattr(b, name), getattr(a, name)[order], **CLOSE)
        for name in ("score", "reputation"):
            old = getattr(standing_a, name)[order]
            np.testing.assert_allclose(getattr(standing_b, name), old, **CLOSE)


@pytest.mark.parametrize("beta", [0.0, 1.0, np.inf])
def test_an_absent_client_gets_nothing_and_harms_nobody(rule, tiny, beta):
    """Absent at first, and later, its loss NaN as in a run; everybody absent changes nothing."""
    present = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    seen = play(rule, tiny, jax.random.key(0), tiny.hyper(beta=beta), present)
    old = np.zeros(N, np.float32)
    for (download, standing), here in zip(seen, present, strict=True):
        for leaf in jax.tree.leaves((download, standing)):
            assert np.isfinite(leaf).all()
        for nothing in (download.rewards, download.weights, standing.score, download.quota):
            assert not np.any(np.asarray(nothing)[~here])
        if old.any():
            np.testing.assert_array_equal(standing.reputation[~here], old[~here])
        if here.any():
            np.testing.assert_allclose(download.weights.sum(), 1, atol=2 * N * EPS)
        else:
            assert not np.any(download.aggregate)
        old = np.asarray(standing.reputation)


@pytest.mark.long
def test_a_client_by_itself(rule, tiny):
    dw = updates(count=1)
    numbers = tiny.hyper()
    start = np.zeros(D)  # common to client and server, as in a first round
    sent = tiny.upload(dw, [5], clients=start[None], server=start)
    # It leads where the server's own rows lead, too: a rule may judge by these.
    slope = tiny.network().gradient(sent.server, *sent.validation)
    dw = dw * -np.sign(dw[0] @ slope)
    sent = tiny.upload(dw, [5], clients=start[None], server=start)
    arguments = jax.random.key(0), numbers, sent, rule.init(numbers, 1)
    download, standing, _ = jax.jit(rule.update)(*arguments)
    assert download.weights.tolist() == standing.reputation.tolist() == [1]
    direction = np.float64(download.aggregate) / np.linalg.norm(download.aggregate)
    own = dw[0] * rule.shared(numbers)
    if rule.adapts:
        np.testing.assert_array_equal(np.sign(direction), np.sign(own))
        direction = own / np.linalg.norm(own)
    np.testing.assert_allclose(direction, own / np.linalg.norm(own), **CLOSE)
    assert np.isfinite(download.rewards).all()
    for leaf in jax.tree.leaves((download, standing)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd, functools.partial(optax.sgd, momentum=0.9), optax.adam, optax.adamw, optax.rmsprop],
)
def test_trainers_lift_over_clients_and_their_own_numbers(tiny, optimizer):
    """Shapes alone: the state is a legal carry under a vmap over rates over a vmap over clients."""
    model = tiny.softmax()

    def trained(rate, decay, orders):
        trainer = local.trainer(model, optimizer, local.decayed(rate, decay), batch_size=4)
        params = model.init(jax.random.key(0))
        examples = Examples(jnp.ones((9, 3)), jnp.arange(7), jnp.zeros(7, jnp.int32))
        state = trainer.init(params)

        def one(order):
            return trainer.update(jax.random.key(0), params, state, examples, order, jnp.int32(1))

        return state, jax.vmap(one)(orders)

    rates = jnp.linspace(0.1, 0.3, 3)
    before, (_, after, _) = jax.eval_shape(
        jax.vmap(trained, in_axes=(0, 0, None)), rates, rates, jnp.zeros((5, 2, 7), jnp.int32)
    )
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (3, 5, *a.shape[1:]) == b.shape
        assert a.dtype == b.dtype
