"""Echo, quotient, class cosine, leave self out: NumPy loops, exact cases and what they promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_cures
import pytest
from declared import METHODS, Options
from hypothesis import given, settings
from hypothesis import strategies as st

import cgsv_jax as cg
from cgsv_jax.core import attacks, participation, simulation
from cgsv_jax.rules import contribution, reward
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.types import Conduct

EPS = float(np.finfo(np.float32).eps)
N, ROUNDS = 5, 6
TENSORS = (9, 3, 20)  # kernel and bias of the tests' network [3, 3], and a rest
D = sum(TENSORS)
SIZES = np.array([5, 3, 8, 6, 4])
ALIKE = 0.9
few = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def updates(seed=0, count=N, rounds=ROUNDS, dtype=np.float32):
    """dw [T, N, D] that share a direction; the last client is the first again, nearly."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(rounds, 1, D)) + rng.normal(size=(rounds, count, D))
    drawn[:, -1] = drawn[:, 0] + 0.1 * rng.normal(size=(rounds, D))
    return (drawn * rng.uniform(0.1, 3, (rounds, count, 1))).astype(dtype)


PRESENT = np.array(
    [
        [1, 1, 1, 1, 1],
        [1, 0, 1, 1, 1],
        [1, 1, 1, 0, 1],
        [0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
    ],
    bool,
)


def played(algorithm, deltas, present, upload):
    """[(download, standing, state)] round by round."""
    update = jax.jit(algorithm.update)
    state, seen = algorithm.init(*deltas.shape[1:]), []
    for t, (dw, here) in enumerate(zip(deltas, present, strict=True)):
        sent = upload(dw, SIZES[: len(dw)], here)._replace(round=jnp.int32(t))
        download, standing, state = update(jax.random.key(t), sent, state)
        seen.append((download, standing, state))
    return seen


# ---------------------------------------------------------------- against loops


def places(tiny):
    return np.asarray(tiny.network().output())


def measures(tiny):
    """name -> (the measure, the loops' from what was received [N][k], k)."""
    made, loops, network = contribution, oracle_cures, tiny.network()
    classes = places(tiny)
    rare = functools.partial(loops.class_cosine, classes, rare=True)
    whole, by_class = made.cosine, functools.partial(made.class_cosine, network)
    return {
        "leave_self_out": (made.leave_self_out(), lambda _: loops.leave_self_out, 0),
        "class_cosine": (by_class(), lambda _: loops.class_cosine(classes), 0),
        "class_cosine rare": (by_class("rare"), lambda _: rare(), 0),
        "quotient": (
            made.quotient(whole(), ALIKE),
            lambda _: loops.quotient(loops.cosine, ALIKE),
            0,
        ),
        **{
            f"echo {k}": (made.echo(whole(), k), lambda got: loops.echo(loops.cosine, got), k)
            for k in (1, 3)
        },
        "echo of leave_self_out": (
            made.echo(made.leave_self_out(), 2),
            lambda got: loops.echo(loops.leave_self_out, got),
            2,
        ),
        "echo of rare": (made.echo(by_class("rare"), 2), lambda got: rare(received=got), 2),
        "all three": (
            made.quotient(made.echo(by_class(), 2), ALIKE),
            lambda got: loops.quotient(loops.class_cosine(classes, received=got), ALIKE),
            2,
        ),
    }


MEASURES = ("leave_self_out", "class_cosine", "class_cosine rare", "quotient", "echo 1", "echo 3")
MEASURES += ("echo of leave_self_out", "echo of rare", "all three")
SETTINGS = {"paper": oracle.PAPER, "released": oracle.RELEASED}


def looped(measure, k, setting, deltas, present):
    """What `oracle.server_round` saw, round by round."""
    state = oracle.start(np.zeros(D, deltas.dtype), deltas.shape[1])
    history, seen = [], []
    for dw, here in zip(deltas, present, strict=True):
        got = [[rewards[i] for rewards in history[::-1][:k]] for i in range(len(dw))]
        state, saw = oracle.server_round(
            *(state, dw, SIZES, here, setting), tensors=TENSORS, measure=measure(got)
        )
        history.append(saw["rewards"])
        seen.append(saw)
    return seen


QUICK = {("leave_self_out", "paper"), ("echo 3", "paper"), ("all three", "released")}
LOOPED = [
    pytest.param(name, setting, marks=() if (name, setting) in QUICK else pytest.mark.long)
    for name in MEASURES
    for setting in SETTINGS
]


@pytest.mark.parametrize(("name", "setting"), LOOPED)
def test_rounds_are_those_of_loops(tiny, name, setting):
    """Absent clients, a round of nobody, an update of zeros, a near-duplicate; masks of all kinds.

    Float64: sums of N and D terms, k projections twice, a quotient, over six rounds that each start
    from the one before: fewer than 6 x 100 x (N + D) roundings of numbers of at most 4.
    """
    chosen = SETTINGS[setting]
    numbers = {"gamma": 0.5, "alpha": 0.8, "beta": 1.0}
    chosen = oracle.Options(**(vars(chosen) | numbers | {"cosine_epsilon": 0.0}))
    deltas = updates(dtype=np.float64)
    deltas[2, 2] = 0.0
    with jax.enable_x64(True):
        measure, loops, k = measures(tiny)[name]
        masked = {"scope": "tensor", "tensors": TENSORS, "count": "ceil", "ties": "all"}
        algorithm = cg.cgsv(
            **numbers,
            contribution=measure,
            norm_epsilon=chosen.norm_epsilon,
            reward=reward.sparsify(1.0, **(masked if setting == "released" else {})),
        )
        got = played(algorithm, deltas, PRESENT, tiny.upload)
        want = looped(loops, k, chosen, deltas, PRESENT)
    close = {"rtol": 0, "atol": 6 * 100 * (N + D) * 4 * float(np.finfo(np.float64).eps)}
    for (download, standing, _), saw in zip(got, want, strict=True):
        np.testing.assert_allclose(standing.score, saw["psi"], **close)
        np.testing.assert_allclose(standing.reputation, saw["r"], **close)
        np.testing.assert_allclose(download.rewards, saw["rewards"], **close)
        np.testing.assert_array_equal(download.quota, saw["mask"].sum(axis=1))


# ---------------------------------------------------------------- what was sent


REWARDS = {
    "vector": reward.sparsify(1.0),
    "ties": reward.sparsify(2.0, ties="all"),
    "tensors": reward.sparsify(0.0, scope="tensor", tensors=TENSORS, count="ceil", ties="all"),
    "share": reward.share_all(),
}


@pytest.mark.parametrize("name", REWARDS)
def test_what_is_remembered_is_what_was_sent(tiny, name):
    """To the last bit, of every client and every round remembered, with ties and absences."""
    deltas = np.round(updates(rounds=len(PRESENT)), 0)  # rounding makes ties
    k = 3
    measure = contribution.echo(contribution.cosine(), k)
    seen = played(cg.cgsv(1.0, contribution=measure, reward=REWARDS[name]), deltas, PRESENT,
                  tiny.upload)  # fmt: skip
    sent = [np.asarray(download.rewards) for download, *_ in seen]
    for t, (_, _, state) in enumerate(seen):
        for slot in range(k):
            made = int(state.sent.made[slot])
            assert made == (-1 if slot > t else t - (t - slot) % k)
            want = sent[made] if made >= 0 else np.zeros_like(deltas[0])
            np.testing.assert_array_equal(sent_lib.received(state.sent, slot), want)


def test_no_client_has_a_copy_on_the_server(tiny):
    """Nothing that a round hands on grows with N D, or with N² (shapes alone)."""
    many, large = 1000, 3000
    options = Options(network=tiny.network())
    witness = METHODS["witness"](tiny.hyper(), options)
    state = jax.eval_shape(lambda: witness.init(many, large))
    assert witness.needs.sent == 3
    kept = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert kept < 3 * (2 * large + 2 * many) + 10 * many
    assert max(leaf.size for leaf in jax.tree.leaves(state)) <= 3 * max(many, large)


# ---------------------------------------------------------------- promises of the echo


def heard(rewards):
    """A memory of rounds 0 .. k - 1 in which these [k, N, D], masks of the first row, were sent."""
    rewards = np.asarray(rewards)
    k, count, size = rewards.shape
    memory = sent_lib.nothing(count, size, k)
    for t, (row, got) in enumerate(zip(rewards, rewards, strict=True)):
        whole = row[np.argmax((got != 0).sum(axis=1))]
        memory = sent_lib.remembered(
            memory, jnp.int32(t), jnp.asarray(whole), jnp.asarray(got), jnp.ones(count, bool)
        )
    return memory


def masks(rng, k, count, size=D):
    """[k, N, D] downloads: the largest entries of a vector, client 0 receives all of it."""
    rewards = []
    for _ in range(k):
        vector = rng.normal(size=size).astype(np.float32)
        quota = np.r_[size, rng.integers(1, size + 1, count - 1)]
        rewards.append([oracle.reward(vector, oracle.ranks(vector) < q) for q in quota])
    return np.array(rewards, np.float32)


def judged(measure, tiny, deltas, rewards, weights=None):
    """psi [N] of one upload, after these downloads."""
    deltas = np.float32(deltas)
    count = len(deltas)
    weights = jnp.full(count, 1 / count) if weights is None else jnp.asarray(weights, jnp.float32)
    upload = tiny.upload(deltas, [4] * count)
    upload = upload._replace(
        scales=jnp.where(upload.norms > 0, 0.5 / jnp.maximum(upload.norms, 1e-30), 0.0),
        round=jnp.int32(len(rewards)), sent=heard(rewards),
    )  # fmt: skip
    aggregate = (weights * upload.scales) @ upload.deltas
    given = jax.random.key(0), upload, aggregate, weights, measure.init(count, D)
    return np.asarray(compiled(measure.update)(*given)[0])


compiled = functools.lru_cache(jax.jit)


# Two projections: the second one leaves of the first one's rounding, at most 2 k D eps of what is
# projected, as much again of that, and what rounding adds by itself; per class a norm divides.
NOTHING = 2 * 3 * D * EPS
SEEDS = st.integers(0, 10_000)


@pytest.fixture(scope="module", params=["cosine", "classes"])
def echoed(request, tiny):
    """(a measure of what three rounds have left, the measure as it is)."""
    plain = contribution.cosine()
    if request.param == "classes":
        plain = contribution.class_cosine(tiny.network())
    return contribution.echo(plain, 3), plain


@few
@given(seed=SEEDS, factor=st.sampled_from([1.0, 1e-6, 30.0, -1.0]), back=st.integers(0, 2))
def test_a_replay_has_nothing_left(echoed, tiny, seed, factor, back):
    """Of any of the rounds remembered, or of several, amplified, shrunk or turned round."""
    rng = np.random.default_rng(seed)
    rewards = masks(rng, 3, N)
    deltas = rng.normal(size=(N, D))
    deltas[1] = factor * rewards[back, 1]
    deltas[2] = factor * np.tensordot(rng.normal(size=3), rewards[:, 2], axes=1)
    psi = judged(echoed[0], tiny, deltas, rewards)
    assert np.abs(psi[1:3]).max() <= NOTHING
    assert np.abs(psi[[0, 3, 4]]).max() > 10 * NOTHING


@few
@given(seed=SEEDS)
def test_a_part_of_a_replay_has_nothing_left(tiny, seed):
    """The last layer alone, its classes each at a strength of its own, noise everywhere else."""
    rng = np.random.default_rng(seed)
    rewards = masks(rng, 3, N)
    deltas, last = rng.normal(size=(N, D)), np.asarray(tiny.network().output())
    deltas[1:3] = 0.0
    deltas[1, last] = rewards[2, 1, last]
    deltas[2] = 5 * rng.normal(size=D)
    deltas[2, last] = rng.uniform(0.1, 3, (len(last), 1)) * rewards[2, 2, last]
    by_class = contribution.class_cosine(tiny.network())
    psi = judged(contribution.echo(by_class, 3), tiny, deltas, rewards)
    assert np.abs(psi[1:3]).max() <= NOTHING


@few
@given(seed=SEEDS, share=st.floats(0.01, 0.5))
def test_noise_on_a_replay_is_worth_no_more_than_the_noise(echoed, tiny, seed, share):
    """u = v + n, ‖n‖ = s ‖v‖: ‖e‖ <= ‖n‖ and ‖u‖ >= (1 - s) ‖v‖; so for every part of a vector."""
    rng = np.random.default_rng(seed)
    rewards = masks(rng, 3, N)
    rewards[2, 1] = rewards[2, 0]
    deltas = rng.normal(size=(N, D))
    noise, sent = rng.normal(size=D), np.float64(rewards[2, 1])
    last = np.asarray(tiny.network().output())
    others = np.setdiff1d(np.arange(D), last)
    for part in (*last, others):
        noise[part] *= share * np.linalg.norm(sent[part]) / np.linalg.norm(noise[part])
    deltas[1] = sent + noise
    psi = judged(echoed[0], tiny, deltas, rewards)
    assert abs(psi[1]) <= share / (1 - share) + NOTHING


@few
@given(seed=SEEDS)
def test_what_was_not_sent_is_untouched(echoed, tiny, seed):
    """An update that is orthogonal to all that was sent, and any update before anything was."""
    rng = np.random.default_rng(seed)
    echo, plain = echoed
    last = np.asarray(tiny.network().output())
    rewards = np.zeros((3, N, D), np.float32)
    rewards[:, :, last[:, :2]] = masks(rng, 3, N, 2 * len(last)).reshape(3, N, -1, 2)
    deltas = rng.normal(size=(N, D))
    deltas[:, last[:, :2]] = 0.0
    for got in (rewards, np.zeros_like(rewards)):
        before = judged(plain, tiny, deltas, got)
        np.testing.assert_allclose(judged(echo, tiny, deltas, got), before, rtol=0, atol=NOTHING)


def test_rounds_that_were_nearly_the_same(echoed, tiny):
    """Of parallel downloads, or such that only roundings differ, no direction is made up."""
    rng = np.random.default_rng(0)
    first = np.tile(rng.normal(size=D), (N, 1))
    for between in (0.0, 1e-7, 1e-5, 1e-3):
        rewards = np.float32([first, first * 3 + between * rng.normal(size=D), -first])
        deltas = rng.normal(size=(N, D))
        deltas[1] = rewards[0, 1] - rewards[1, 1]
        psi = judged(echoed[0], tiny, deltas, rewards)
        assert np.isfinite(psi).all()
        # What is left out is an angle of less than sqrt(2 1e-5), or of the difference itself.
        assert abs(psi[1]) <= 5e-3


# ---------------------------------------------------------------- promises of the others


@pytest.mark.long
@pytest.mark.parametrize("name", MEASURES)
@few
@given(seed=SEEDS, factor=st.sampled_from([1e-12, 1e-3, 1e3, 1e12]))
def test_length_does_not_matter(tiny, name, seed, factor):
    """Of measures of directions, whatever the lengths of updates, all scaled to Gamma before."""
    rng = np.random.default_rng(seed)
    rewards, deltas = masks(rng, 3, N), rng.normal(size=(N, D))
    factors = factor * rng.uniform(0.5, 2, (N, 1))
    measure, *_ = measures(tiny)[name]
    one = judged(measure, tiny, deltas, rewards)
    other = judged(measure, tiny, deltas * factors, rewards)
    np.testing.assert_allclose(one, other, rtol=0, atol=20 * NOTHING)


@few
@given(seed=SEEDS, copies=st.sampled_from([1, 3]))
def test_copies_have_together_what_one_has(tiny, seed, copies):
    """One of three poses as several: with its weight dealt among them u_N is the same vector."""
    rng = np.random.default_rng(seed)
    deltas, weights = rng.normal(size=(3, D)), np.array([0.5, 0.3, 0.2])
    who = [0, 1, *[2] * copies]
    shared = weights[who] / np.array([1, 1, *[copies] * copies])
    measure = contribution.quotient(contribution.cosine(), ALIKE)
    one = judged(measure, tiny, deltas, np.zeros((1, 3, D)), weights)
    several = judged(measure, tiny, deltas[who], np.zeros((1, len(who), D)), shared)
    together = [several[0], several[1], several[2:].sum()]
    np.testing.assert_allclose(together, one, rtol=0, atol=NOTHING)


def test_a_cluster_reaches_one_step_further(tiny):
    """0 is near 1 is near 2 is near 3, and no others: 0 and 2 have 1 in common, 0 and 3 nobody."""
    angles = np.arccos(0.92) * np.arange(4)
    deltas = np.zeros((5, D))
    deltas[:4, 0], deltas[:4, 1] = np.cos(angles), np.sin(angles)
    deltas[4, 2] = 1.0
    sizes = judged(contribution.quotient(ones(), ALIKE), tiny, deltas, np.zeros((1, 5, D)))
    np.testing.assert_allclose(1 / sizes, [3, 4, 4, 3, 1], rtol=EPS)


def ones():
    """A measure to which all are worth the same."""
    return cg.stateless(cg.Contribution, lambda upload: jnp.ones_like(upload.norms))


def test_who_sends_nothing_is_like_nobody(tiny):
    """Two updates of zeros are two clients, and an absent one is in no cluster."""
    deltas = np.ones((5, D))
    deltas[2:4] = 0.0
    sizes = judged(contribution.quotient(ones(), ALIKE), tiny, deltas, np.zeros((1, 5, D)))
    np.testing.assert_allclose(1 / sizes, [3, 3, 1, 1, 3], rtol=EPS)


@few
@given(seed=SEEDS, share=st.sampled_from([0.5, 0.9, 0.999, 1 - 1e-5]))
def test_what_the_others_agree_on_is_seen_behind_any_weight(tiny, seed, share):
    """However much of u_N is a client's own: float32 beside loops in float64."""
    rng = np.random.default_rng(seed)
    deltas = np.float32(rng.normal(size=(N, D)))
    weights = np.r_[share, np.full(N - 1, (1 - share) / (N - 1))]
    psi = judged(contribution.leave_self_out(), tiny, deltas, np.zeros((1, N, D)), weights)
    exact = np.float64(deltas)
    uploads = np.array([oracle.upload(d, 0.5, 0.0) for d in exact])
    want = oracle_cures.leave_self_out(uploads, weights @ uploads, weights, np.ones(N, bool))
    # u_N is rounded to eps of its length, of which the others are 1 - share or less.
    close = 8 * N * EPS / (1 - share) + NOTHING
    np.testing.assert_allclose(psi, want, rtol=0, atol=close)


@few
@given(seed=SEEDS, size=st.sampled_from([1, 2]))
def test_who_is_alone_agrees_with_nobody(tiny, seed, size):
    """By itself, or beside one who sends nothing: exactly 0."""
    deltas = np.zeros((size, D))
    deltas[0] = np.random.default_rng(seed).normal(size=D)
    psi = judged(contribution.leave_self_out(), tiny, deltas, np.zeros((1, size, D)), [1, 0][:size])
    np.testing.assert_array_equal(psi, 0)


# ---------------------------------------------------------------- whole rounds


@pytest.mark.long
@pytest.mark.parametrize("cohort", [None, 2])
def test_a_replaying_client_is_worth_nothing_in_a_run(tiny, cohort):
    """Whoever returns what it got in one of the last k rounds scores 0, in cohorts too.

    Replays are of a client's own last download, however long ago: with two of five in a round,
    some are older than k = 2 rounds, and those the server does not remember.
    """
    data, clients = tiny.world((5, 3, 8, 6, 4))
    codes = jnp.array([0, 1, 0, 0, 1], jnp.int32)
    clients = clients._replace(conduct=Conduct(codes, jnp.ones(N)))
    federation = tiny.federation("cgsv", tiny.softmax())
    by_class = contribution.class_cosine(tiny.network())
    federation = federation._replace(
        algorithm=cg.cgsv(0.5, floor=0.2, contribution=contribution.echo(by_class, 2)),
        attack=attacks.attack(["free_rider_replay"]),
        participation=None if cohort is None else participation.uniform(cohort),
    )
    key = jax.random.key(2)
    state = simulation.init(key, N, federation)
    step = jax.jit(lambda state: simulation.round_(key, state, data, clients, federation))
    last, seen, old = {}, 0, []
    for t in range(20):
        state, record = step(state)
        for i in np.flatnonzero(np.asarray(record.present)):
            if codes[i] and t - last.get(i, t) in (1, 2):
                assert abs(float(record.score[i])) <= NOTHING
                seen += 1
            elif codes[i] and i in last:
                old.append(abs(float(record.score[i])))
            last[i] = t
    assert seen >= 4
    assert cohort is None or max(old) > 100 * NOTHING
