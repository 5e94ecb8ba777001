"""What no number may break: extreme lengths, broken clients, long runs, counts beyond int32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from declared import AGGREGATIONS, METHODS, REWARDS, Options
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cgsv_jax.core import metrics, vectors
from cgsv_jax.results import frames, tables
from cgsv_jax.rules import rescale
from cgsv_jax.rules.reputation import (
    accumulated,
    moving_average,
    random_share,
    sharpened,
    size_share,
)
from cgsv_jax.rules.reward import quotas
from cgsv_jax.types import Contribution, Evaluation, Record, Standing

EPS = float(np.finfo(np.float32).eps)
N, D = 4, 24
SIZES = np.array([5, 3, 8, 6])


def steady(examples):
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None)


# ---------------------------------------------------------------- lengths

# Powers of two near 1e-30 and 1e30, so that a rescaled update is the same update bit for bit.
TINY, HUGE = 2.0**-100, 2.0**100
LENGTHS = {
    "tiny": [TINY] * N,
    "huge": [HUGE] * N,
    "mixed": [TINY, 1.0, HUGE, 2.0**-40],
    "one of each": [HUGE, TINY, TINY, HUGE],
}
# Methods whose uploads all have the length Gamma, with every reward and aggregation they take.
TO_GAMMA = {
    **{f"cgsv, {name}": ("cgsv", Options(reward=name)) for name in REWARDS},
    **{f"cgsv, by {name}": ("cgsv", Options(aggregation=name)) for name in AGGREGATIONS},
    "cgsv, by tensor": (
        "cgsv",
        Options(mask_scope="tensor", mask_count="ceil", mask_ties="all", tensors=(10, D - 10)),
    ),
    **{name: (name, Options()) for name in ("size_weighted", "random_reward", "eci")},
}


def raw_updates(seed=0):
    rng = np.random.default_rng(seed)
    return np.float32(rng.normal(size=D) + rng.normal(size=(N, D)))


PROGRAMS = {}  # (method, options) -> a compiled update and a fresh state


def program(tiny, name, options):
    """One compiled server round, whatever is sent and whatever the numbers are."""
    if (name, options) not in PROGRAMS:
        whole = options._replace(network=tiny.network(D), rounds=3)

        def update(key, hyper, upload, state):
            return METHODS[name](hyper, whole).update(key, upload, state)

        start = METHODS[name](tiny.hyper(), whole).init(N, D)
        PROGRAMS[name, options] = jax.jit(update), start
    return PROGRAMS[name, options]


def server_rounds(tiny, name, options, lengths, rounds=3, **numbers):
    """What comes of some rounds in which clients send updates that are so many times as long."""
    (update, state), seen = program(tiny, name, options), []
    for t in range(rounds):
        deltas = raw_updates(t) * np.float32(lengths)[:, None]
        sent = tiny.upload(deltas, SIZES, seed=t)._replace(round=jnp.int32(t))
        download, standing, state = update(jax.random.key(t), tiny.hyper(**numbers), sent, state)
        seen.append((download, standing))
    return seen


@pytest.mark.parametrize("case", TO_GAMMA)
@pytest.mark.long
def test_rescaled_uploads_do_not_know_how_long_they_were(tiny, case):
    """A whole server round of every rule after the rescaling, within the noise of the norms.

    Lengths differ by powers of two, which change no significand; a norm in another unit may differ
    by its D additions, a scale by one division more.
    """
    name, options = TO_GAMMA[case]
    want = server_rounds(tiny, name, options, [1.0] * N)
    for lengths in LENGTHS.values():
        for (a, r), (b, s) in zip(server_rounds(tiny, name, options, lengths), want, strict=True):
            close = {"rtol": 0, "atol": 2 * (N + D) * EPS}  # of numbers up to Gamma and 1
            np.testing.assert_allclose(a.aggregate, b.aggregate, **close)
            np.testing.assert_allclose(a.weights, b.weights, **close)
            np.testing.assert_allclose(s.reputation, r.reputation, **close)
            np.testing.assert_allclose(a.energy, b.energy, **close)
            # An entry more or less where a ratio lies at an edge; its value is one of u_N's.
            assert np.abs(a.quota - b.quota).max() <= 1 + (options.mask_scope == "tensor")
            np.testing.assert_array_less(0, np.linalg.norm(a.aggregate))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.long
def test_no_method_makes_infinities_of_finite_updates(tiny, name, lengths):
    for download, standing in server_rounds(tiny, name, Options(removes=True), LENGTHS[lengths]):
        # What a client receives may be 1e30 times as long as what the server moves by.
        assert not np.isnan(download.energy if download.energy is not None else 0).any()
        for leaf in jax.tree.leaves((download._replace(energy=None), standing)):
            assert np.isfinite(leaf).all()
        assert (standing.reputation >= 0).all()
        np.testing.assert_allclose(standing.reputation.sum(), 1, atol=2 * N * EPS)
        assert ((download.quota >= 0) & (download.quota <= D)).all()


@pytest.mark.parametrize("name", ["cffl", "rffl"])
def test_clipping_keeps_the_direction_of_the_longest(tiny, name):
    """Updates of 1e30 are cut to Gamma, those of 1e-30 stay next to nothing.

    The first aggregation weighs by size.
    """
    lengths = np.array([HUGE, TINY, HUGE, TINY])
    (download, _), *_ = server_rounds(tiny, name, Options(clip_by="norm"), lengths, gamma=0.5)
    rows = np.float64(raw_updates(0))
    kept = 0.5 * rows / np.linalg.norm(rows, axis=1, keepdims=True) * (lengths == HUGE)[:, None]
    want = SIZES / SIZES.sum() @ kept
    np.testing.assert_allclose(download.aggregate, want, rtol=0, atol=(N + D) * EPS)


@pytest.mark.parametrize("q", [0.0, 1.0, 50.0, 1e37])
@pytest.mark.parametrize("length", [TINY, 1.0, HUGE])
def test_q_ffl_is_exact_at_every_length(tiny, q, length):
    """Against float64, whose range no square leaves: h_i of 1e30 is 1e60."""
    deltas = raw_updates() * np.float32(length)
    sent = tiny.upload(deltas, SIZES)
    update, state = program(tiny, "q_ffl", Options())
    download, *_ = update(jax.random.key(0), tiny.hyper(q=q), sent, state)
    loss, eta = np.float64(sent.start_loss), float(sent.learning_rate)
    power = np.exp(q * (np.log(loss) - np.log(loss).max()))
    squares = np.square(np.float64(deltas)).sum(axis=1)
    want = power @ np.float64(deltas) / np.sum(q * power / loss * squares / eta + power)
    # The power amplifies the roundings of a logarithm by q, but only a client's that has some.
    noise = 4 * (N + D) * EPS * (1 + min(q, 50)) * np.abs(want).max()
    least = float(np.finfo(np.float32).tiny)  # below, nothing is left: 1e-67 of q = 1e37 is 0
    np.testing.assert_allclose(download.aggregate, want, rtol=0, atol=noise + least)


@pytest.mark.parametrize("loss", [0.0, np.inf, np.nan, 3e38, 1e-45])
def test_q_ffl_of_a_loss_that_is_no_number(tiny, loss):
    sent = tiny.upload(raw_updates(), SIZES)
    sent = sent._replace(start_loss=sent.start_loss.at[1].set(loss))
    for q in (0.0, 1.0, 1e37):
        update, state = program(tiny, "q_ffl", Options())
        download, *_ = update(jax.random.key(0), tiny.hyper(q=q), sent, state)
        assert np.isfinite(download.aggregate).all()
        np.testing.assert_allclose(download.weights.sum(), 1, atol=2 * N * EPS)


@pytest.mark.parametrize("gamma", [1e-30, 0.5, 1e30, 3e38])
def test_a_scale_is_finite_whatever_gamma_is(gamma):
    norms = jnp.array([0.0, 1.2e-38, 1e-30, 1.0, 1e30, 3e38])
    rules = (rescale.to_norm(gamma), rescale.to_norm(gamma, 3e38), rescale.at_most(gamma))
    # In round 10^6 the decayed Gamma is 0.
    rules += (rescale.to_norm(gamma, 0.0, 0.9), rescale.at_most(gamma, 0.9))
    for rule in rules:
        for round_ in (0, 1, 10**6):
            scales = rule(norms, jnp.int32(round_))
            assert np.isfinite(scales).all()
            assert np.isfinite(scales * norms).all()
    of_length_half = rescale.to_norm(0.5)(norms, jnp.int32(7))
    np.testing.assert_allclose(of_length_half[1:5] * norms[1:5], 0.5, rtol=2 * EPS)


@pytest.mark.parametrize("decay", [1.0, 0.97, 0.5])
def test_gamma_decays_by_the_round(decay):
    """Gamma_t = Gamma d^t: of to_norm the length of every upload, of at_most the greatest one."""
    norms = jnp.array([0.0, 0.1, 1.0, 30.0])
    for t in (0, 1, 10, 60):
        gamma = 0.5 * float(np.float32(decay)) ** t
        # d^t in float32 is off by about t roundings.
        exact = {"rtol": (t + 4) * EPS}
        lengths = rescale.to_norm(0.5, 0.0, decay)(norms, jnp.int32(t)) * norms
        np.testing.assert_allclose(lengths, np.where(norms > 0, gamma, 0), **exact)
        lengths = rescale.at_most(0.5, decay)(norms, jnp.int32(t)) * norms
        np.testing.assert_allclose(lengths, np.minimum(norms, gamma), **exact)


# ---------------------------------------------------------------- cosines and quotas


@functools.cache
def cosine_program():
    return jax.jit(lambda rows, v: vectors.cosines(rows, vectors.norms(rows), jnp.ones(2), v))


@steady(200)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 17, 1000, 4096]),
    st.sampled_from([0.0, EPS / 4, EPS, 1e-3]),
    st.integers(-100, 100),
    st.sampled_from(["normal", "constant", "one large", "powers"]),
)
def test_a_cosine_stays_within_one(seed, entries, apart, power, kind):
    """Vectors that are parallel up to a rounding, where a quotient of roundings may exceed 1."""
    rng = np.random.default_rng(seed)
    base = {
        "normal": rng.normal(size=entries),
        "constant": np.full(entries, rng.normal()),
        "one large": np.append(rng.normal(size=entries - 1) * 1e-7, 1e4),
        "powers": 2.0 ** rng.integers(-20, 20, entries),
    }[kind]
    vector = np.float32(base * 2.0**power)
    near = np.float32(vector * (1 + apart * rng.normal(size=entries)))
    cosines = np.asarray(cosine_program()(np.stack([near, -near]), vector))
    assert (np.abs(cosines) <= 1).all()
    assert cosines[0] == -cosines[1]
    np.testing.assert_allclose(cosines[0], 1, atol=2 * entries * EPS + apart)


@steady(500)
@given(
    st.integers(1, 2**31 - 1),
    st.floats(0, 1, width=32),
    st.sampled_from(["floor", "ceil"]),
)
@example(2**31 - 1, 1.0, "floor")
@example(2**31 - 1, float(np.nextafter(np.float32(1), np.float32(0))), "floor")
@example(2**31 - 64, float(np.nextafter(np.float32(1), np.float32(0))), "ceil")
@example(2**24 + 1, 1.0, "floor")
def test_a_quota_is_never_more_than_there_is(length, ratio, count):
    most = length if count == "floor" else length - 1
    ratios = jnp.array([ratio, 1.0, 0.0], jnp.float32)
    kept = np.asarray(quotas(ratios, length, count=count))
    assert kept.dtype == np.int32
    assert ((kept >= 0) & (kept <= most)).all()
    assert kept[1:].tolist() == [most, 0]
    # Within the rounding of one product of what it is in exact arithmetic.
    assert abs(int(kept[0]) - length * ratio) <= 1 + length * EPS


# ---------------------------------------------------------------- long runs

SCORES = Contribution(  # what the test chose, by way of the upload's losses
    lambda clients, parameters: (),
    lambda key, upload, aggregate, weights, state: (upload.loss, state),
)
MEMORIES = {
    "moving average": moving_average(SCORES, 0.95),
    "of normalised scores": moving_average(SCORES, 0.5, floor=0.0, normalise_scores=True),
    "relative floor": moving_average(SCORES, 0.95, relative_floor=True),
    "sharpened": sharpened(SCORES, 0.5),
    "accumulated": accumulated(SCORES),
    "random": random_share(),
    "sizes": size_share(),
}


@pytest.mark.parametrize("number", [2, 10, 100])
@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.long
def test_reputations_sum_to_one_after_ten_thousand_rounds(tiny, name, number):
    """Random scores of either sign, some no numbers; random presence, at times nobody; float32."""
    memory, rounds = MEMORIES[name], 10_000
    sent = tiny.upload(np.zeros((number, 1)), np.arange(1, number + 1))

    def one_round(carry, key):
        standing, state = carry
        score_key, present_key, crowd_key, odd_key = jax.random.split(key, 4)
        crowd = jax.random.choice(crowd_key, jnp.array([0.0, 0.1, 0.9, 1.0]))
        present = jax.random.bernoulli(present_key, crowd, (number,))
        scores = jax.random.uniform(score_key, (number,), minval=-1)
        odd = jax.random.choice(odd_key, jnp.array([0.0, jnp.nan, jnp.inf, -jnp.inf]), (number,))
        scores = jnp.where(jax.random.bernoulli(odd_key, 0.05, (number,)), odd, scores)
        upload = sent._replace(present=present, loss=scores)
        nothing = jnp.zeros(1), jnp.zeros(number)
        standing, state = memory.update(key, upload, *nothing, standing, state)
        return (standing, state), (jnp.sum(standing.reputation), jnp.min(standing.reputation))

    start = Standing(jnp.zeros(number), jnp.full(number, 1 / number)), memory.init(number, 1)
    keys = jax.random.split(jax.random.key(number), rounds)
    _, (sums, least) = jax.jit(lambda: jax.lax.scan(one_round, start, keys))()
    assert np.abs(np.float64(sums) - 1).max() < 1e-6
    assert least.min() >= 0


# ---------------------------------------------------------------- totals


def test_totals_are_beyond_int32():
    """Bytes, entries and rows of a run of many rounds, clients and parameters, to the last one."""
    parameters, rounds, clients = 2**31 - 1, 3, 2
    record = Record(*(np.zeros((1, rounds, clients), np.float32) for _ in Record._fields))
    record = record._replace(
        quota=np.full((1, rounds, clients), parameters, np.int32),
        present=np.ones((1, rounds, clients), bool),
        energy=np.ones((1, rounds, clients), np.float32),
        reputation=np.full((1, rounds, clients), 0.5, np.float32),
    )
    one = np.zeros((1, 1), np.float32)
    evaluation = Evaluation(
        np.full((1, 1), rounds), *(np.zeros((1, 1, clients), np.float32),) * 3, one, one
    )
    held = np.full(clients, 2**31 - 1, np.int32)
    cell = frames.Cell(
        "p", "cgsv", (0,), held, np.ones(clients, np.int32), parameters, record, evaluation
    )
    frame = frames.clients_frame([cell])
    assert frame["upload_bytes"].to_list() == [rounds * 4 * parameters] * clients
    assert frame["download_bytes"].to_list() == [rounds * 4 * parameters] * clients
    assert frame["share"].to_list() == [1.0] * clients
    summary = frames.summary_frame([cell])
    assert summary["upload_bytes"].to_list() == [rounds * 4 * parameters]
    assert f"{2 * (2**31 - 1):,} rows" in tables.holdings(held, held).lines[0]
    partial = metrics.volumes(np.ones(1, bool), np.array([parameters - 1]), parameters)
    assert partial.values.tolist() == [4 * (parameters - 1)]
    assert partial.indices.tolist() == [-(-parameters // 8)]


@pytest.mark.parametrize("name", ["fedavg", "size_weighted", "cgsv", "cffl", "iafl"])
def test_shares_of_more_rows_than_int32_counts(tiny, name):
    """Two clients of 2^30 rows each and two of half as many hold 3 x 2^30 rows."""
    sizes = np.array([2**30, 2**30, 2**29, 2**29], np.int32)
    small = np.array([2, 2, 1, 1])
    update, state = program(tiny, name, Options())
    sent = tiny.upload(raw_updates(), SIZES)
    (one, *_), (other, *_) = (
        update(jax.random.key(0), tiny.hyper(), sent._replace(num_examples=jnp.asarray(n)), state)
        for n in (sizes, np.int32(small))
    )
    np.testing.assert_allclose(one.weights, other.weights, rtol=4 * EPS)
    np.testing.assert_array_equal(one.quota, other.quota)
