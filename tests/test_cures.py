"""Echo, quotient, class cosine, leave self out: NumPy loops, exact cases and what they promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_cures
import pytest
import scipy.special
import scipy.stats
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
    """name -> (the measure, the loops' from what was received [N][k] and the rounds before, k)."""
    made, loops, network = contribution, oracle_cures, tiny.network()
    classes = places(tiny)
    by_class, cosine = functools.partial(made.class_cosine, network), made.cosine

    def alone(loop):
        return lambda got, before: loop

    def of_class(**options):
        return lambda got, before: loops.class_cosine(classes, received=got, **options)

    def divided(*numbers, of=loops.cosine):
        return lambda got, before: loops.quotient(of, ALIKE, *numbers, before=before)

    def witness(got, before):
        judged = loops.class_cosine(classes, True, got, 1.0, ignored=True)
        return loops.quotient(judged, ALIKE, 0.9, 4.0, before)

    def echo(of, z):
        return lambda got, before: loops.echo(of, got, z)

    rare = loops.class_cosine(classes, rare=True)
    ignored = loops.class_cosine(classes, rare=True, ignored=True)
    return {
        "leave_self_out": (made.leave_self_out(), alone(loops.leave_self_out), 0),
        "class_cosine": (by_class(), alone(loops.class_cosine(classes)), 0),
        "class_cosine rare": (by_class("rare"), alone(rare), 0),
        "class_cosine ignored": (by_class("rare", "ignored"), alone(ignored), 0),
        "quotient": (made.quotient(cosine(), ALIKE), divided(), 0),
        "quotient of a round": (made.quotient(cosine(), ALIKE, 0.0, 2.5), divided(0.0, 2.5), 0),
        "echo 1": (made.echo(cosine(), 1, 1.0), echo(loops.cosine, 1.0), 1),
        "echo 3": (made.echo(cosine(), 3), echo(loops.cosine, 3.0), 3),
        "echo of leave_self_out": (
            made.echo(made.leave_self_out(), 2, 0.5),
            echo(loops.leave_self_out, 0.5),
            2,
        ),
        "echo of rare": (made.echo(by_class("rare"), 2, 1.0), of_class(rare=True, significance=1.0),
                         2),
        "all three": (
            made.quotient(made.echo(by_class("rare", "ignored"), 2, 1.0), ALIKE, 0.9, 4.0),
            witness,
            2,
        ),
    }  # fmt: skip


MEASURES = ("leave_self_out", "class_cosine", "class_cosine rare", "class_cosine ignored")
MEASURES += ("quotient", "quotient of a round", "echo 1", "echo 3", "echo of leave_self_out")
MEASURES += ("echo of rare", "all three")
SETTINGS = {"paper": oracle.PAPER, "released": oracle.RELEASED}


def looped(measure, k, setting, deltas, present):
    """What `oracle.server_round` saw, round by round."""
    state = oracle.start(np.zeros(D, deltas.dtype), deltas.shape[1])
    history, seen = [], []
    for dw, here in zip(deltas, present, strict=True):
        got = [[rewards[i] for rewards in history[::-1][:k]] for i in range(len(dw))]
        before = [(saw["uploads"], saw["present"]) for saw in seen]
        state, saw = oracle.server_round(
            *(state, dw, SIZES, here, setting), tensors=TENSORS, measure=measure(got, before)
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
    from the one before: fewer than 6 x 100 x (N + D) roundings of numbers of at most 4. No cosine
    is that near to where a client is heard, or is like another.
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
    if "echo" in name:  # both verdicts are among what is compared
        silent = [
            np.asarray(s.score)[here] == 0 for (_, s, _), here in zip(got, PRESENT, strict=True)
        ]
        assert 0 < np.mean(np.concatenate(silent)) < 1


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
    """Nothing that the echo hands on grows with N D, or with N² (shapes alone).

    The quotient compares what clients have sent so far, and that is one vector each: it is the only
    thing of `witness` that is.
    """
    many, large = 1000, 3000

    def kept(algorithm):
        state = jax.eval_shape(lambda: algorithm.init(many, large))
        return [leaf.size for leaf in jax.tree.leaves(state)]

    by_class = contribution.class_cosine(tiny.network())
    echo = cg.cgsv(0.5, contribution=contribution.echo(by_class, 3))
    assert echo.needs.sent == 3
    assert sum(kept(echo)) < 3 * (2 * large + 2 * many) + 10 * many
    assert max(kept(echo)) <= 3 * max(many, large)
    witness = METHODS["witness"](tiny.hyper(), Options(network=tiny.network()))
    assert witness.needs.sent == 3
    assert sorted(kept(witness))[-1] == many * large
    assert sum(kept(witness)) == sum(kept(echo)) + many * large


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
    given = jax.random.key(0), upload, aggregate, weights, measure.init(*deltas.shape)
    return np.asarray(compiled(measure.update)(*given)[0])


compiled = functools.lru_cache(jax.jit)


SEEDS = st.integers(0, 10_000)
# Wide enough for a cosine to tell chance from agreement: classes of F entries, and a rest.
F, WIDE = 40, 160
LAST = np.arange(3 * F).reshape(3, F)
# Sums of at most `WIDE` products of numbers of at most 1, and a norm divides.
NOTHING = 6 * WIDE * EPS


def by_class(tiny, *chosen):
    return contribution.class_cosine(tiny.network()._replace(output=lambda: LAST), *chosen)


@pytest.fixture(scope="module", params=["cosine", "classes"])
def echoed(request, tiny):
    """(a measure of who is heard beside three rounds, the measure as it is)."""
    plain = contribution.cosine() if request.param == "cosine" else by_class(tiny)
    return contribution.echo(plain, 3), plain


def honest(rng, count=N):
    """Updates [N, D] that have half of their length in common."""
    return rng.normal(size=WIDE) + rng.normal(size=(count, WIDE))


@few
@given(seed=SEEDS, factor=st.sampled_from([1.0, 1e-6, 30.0, -1.0]), back=st.integers(0, 2))
def test_a_replay_has_nothing_left(echoed, tiny, seed, factor, back):
    """Of any of the rounds remembered, or of several, amplified, shrunk or turned round: 0."""
    rng = np.random.default_rng(seed)
    rewards, deltas = masks(rng, 3, N, WIDE), honest(rng)
    deltas[1] = factor * rewards[back, 1]
    deltas[2] = factor * np.tensordot(rng.normal(size=3), rewards[:, 2], axes=1)
    psi = judged(echoed[0], tiny, deltas, rewards)
    np.testing.assert_array_equal(psi[1:3], 0)
    assert psi[[0, 3, 4]].min() > 0.1


def test_who_replays_most_of_the_aggregate_is_not_heard(tiny):
    """What the cosine rewards most: u_N is the replay itself; the others agree on what it is not.

    They do so where they were sent the same; of what others alone were sent d_i knows nothing.
    """
    rng = np.random.default_rng(0)
    rewards, deltas = np.repeat(masks(rng, 3, 1, WIDE), N, axis=1), honest(rng)
    deltas[0] = rewards[2, 0]
    weights = [0.96, 0.01, 0.01, 0.01, 0.01]
    assert judged(contribution.cosine(), tiny, deltas, rewards, weights)[0] > 0.9
    heard = judged(contribution.echo(ones(), 3), tiny, deltas, rewards, weights)
    np.testing.assert_array_equal(heard, [0, 1, 1, 1, 1])


@few
@given(seed=SEEDS)
def test_a_part_of_a_replay_has_nothing_left(tiny, seed):
    """The last layer alone, its classes each at a strength of its own, noise everywhere else."""
    rng = np.random.default_rng(seed)
    rewards, deltas = masks(rng, 3, N, WIDE), honest(rng)
    deltas[1:3] = 0.0
    deltas[1, LAST] = rewards[2, 1, LAST]
    deltas[2] = 5 * rng.normal(size=WIDE)
    deltas[2, LAST] = rng.uniform(0.1, 3, (len(LAST), 1)) * rewards[2, 2, LAST]
    psi = judged(contribution.echo(by_class(tiny), 3), tiny, deltas, rewards)
    np.testing.assert_array_equal(psi[1:3], 0)
    assert psi[[0, 3, 4]].min() > 0.1


@pytest.mark.parametrize("significance", [0.0, 1.0, 2.0, 3.0])
def test_noise_on_a_replay_is_heard_as_often_as_chance_says(tiny, significance):
    """Of 4,000 who hide a replay, as many as have a normal direction within the angle, in D - k.

    cos² of a direction without aim is Beta(1/2, (m - 1) / 2), m = D - k what three downloads leave.
    Who hides has no weight here: otherwise its own noise is a part of u_N
    (`test_noise_that_is_much_of_the_aggregate_is_heard`).
    """
    number, rng = 4000, np.random.default_rng(int(significance))
    rewards = np.tile(rng.normal(size=(3, 1, WIDE)), (1, number + 1, 1))
    deltas = rewards[2] / WIDE**0.5 + 0.3 * rng.normal(size=(number + 1, WIDE)) / WIDE**0.5
    deltas[0] = rng.normal(size=WIDE)
    weights = np.r_[1.0, np.zeros(number)]
    measure = contribution.echo(ones(), 3, significance)
    heard = judged(measure, tiny, deltas, rewards, weights)[1:] != 0
    limit = 1 - significance**2 / WIDE
    chance = scipy.special.betainc((WIDE - 3 - 1) / 2, 0.5, limit) / 2
    # Never further off than once in 10,000 seeds.
    low, high = scipy.stats.binom.interval(1 - 1e-4, number, chance)
    assert low <= heard.sum() <= high
    # The normal number of the docstring is at most a tenth of chance above it.
    assert chance <= 1.1 * scipy.stats.norm.sf(significance)


def test_an_echo_that_hears_nobody_says_so(tiny):
    """Of classes of F entries where z² >= F, if z is known; and whatever it is a part of."""
    width = LAST.shape[1]
    least = np.nextafter(np.float32(width**0.5), np.float32(9), dtype=np.float32)
    for z, said in ((0.99 * width**0.5, 0), (least, 1)):
        echo = contribution.echo(by_class(tiny), 1, z)
        assert len(echo.needs.notes) == said
        algorithm = cg.cgsv(0.5, contribution=contribution.quotient(echo))
        assert algorithm.needs.notes == echo.needs.notes
        # And then it hears nobody.
        deltas = np.ones((1, 2, WIDE)) * np.arange(1, WIDE + 1)
        heard = judged(echo, tiny, deltas[0], np.zeros_like(deltas)) != 0
        assert heard.any() == (not said)
    assert f"F = {width} entries" in echo.needs.notes[0]
    noted = []
    jax.eval_shape(lambda z: noted.extend(contribution.echo(by_class(tiny), 3, z).needs.notes), 9.0)
    assert not noted
    assert not contribution.echo(ones(), 3, 99.0).needs.notes  # D is not known yet


def test_noise_that_is_much_of_the_aggregate_is_heard(tiny):
    """A limit of the echo: a client's own noise is a part of u_N, as large as its weight.

    Noise of s times its length leaves a client cos(e, d) = a ‖e‖ / ‖d‖ by itself, which is beyond z
    / sqrt(D) where D is large and a is.
    """
    rng = np.random.default_rng(0)
    rewards, deltas = masks(rng, 3, N, WIDE), rng.normal(size=(N, WIDE))
    rewards[:, 1] = rewards[:, 0]
    deltas[1] = rewards[2, 1] + rng.normal(size=WIDE)
    measure = contribution.echo(contribution.cosine(), 3)
    assert judged(measure, tiny, deltas, rewards, [0.2, 0.6, 0.1, 0.1, 0.0])[1] > 0
    assert judged(measure, tiny, deltas, rewards, [0.3, 0.0, 0.3, 0.2, 0.2])[1] == 0


@few
@given(seed=SEEDS)
def test_what_was_not_sent_is_untouched(echoed, tiny, seed):
    """Updates orthogonal to all that was sent, and any before anything was: heard by the cosine."""
    rng = np.random.default_rng(seed)
    rewards = np.zeros((3, N, WIDE), np.float32)
    half = np.concatenate([np.arange(c * F, c * F + F // 2) for c in range(3)])
    rewards[:, :, half] = masks(rng, 3, N, half.size)
    deltas = honest(rng)
    deltas[:, half] = 0.0
    deltas[3] = rng.normal(size=WIDE)
    deltas[3, half] = 0.0
    deltas[4] *= -1  # some are not heard
    psi = np.zeros((2, N))
    uploads = np.array([oracle.upload(d, 0.5, 0.0) for d in deltas])
    aggregate = uploads.mean(axis=0)
    for i, u in enumerate(uploads):
        whole, parts = oracle.cosine(u, aggregate), oracle_cures.class_cosines(u, aggregate, LAST)
        psi[0, i] = whole if whole > 3 / WIDE**0.5 else 0.0
        psi[1, i] = np.mean(np.where(parts > 3 / F**0.5, parts, 0.0))
    want = psi[0 if echoed[1].parts is None else 1]
    for got in (rewards, np.zeros_like(rewards)):
        close = {"rtol": 0, "atol": NOTHING}
        np.testing.assert_allclose(judged(echoed[0], tiny, deltas, got), want, **close)
    assert want[0] > 0
    assert want[4] == 0


def test_who_goes_on_in_the_direction_of_before_is_heard(echoed, tiny):
    """All go on as u_N did, with a tenth of news in common: honest clients keep the measure.

    What is left of their updates is a tenth of them: as a score, ‖e‖ / ‖u‖ cos(e, u_N), it would be
    nothing beside what chance leaves a replay. A replay beside them is not heard.
    """
    rng = np.random.default_rng(0)
    before, news = rng.normal(size=(2, WIDE))
    deltas = before + 0.1 * news + 0.05 * rng.normal(size=(N, WIDE))
    deltas[4] = before
    rewards = np.tile(before, (3, N, 1)) * np.array([1.0, 0.9, 1.1])[:, None, None]
    echo, plain = echoed
    want = judged(plain, tiny, deltas, rewards)
    assert want.min() > 0.9
    psi = judged(echo, tiny, deltas, rewards)
    np.testing.assert_array_equal(psi, np.r_[want[:4], 0.0])
    aggregate = deltas.mean(axis=0)
    for update in deltas[:4]:
        left = oracle_cures.without_echo(update, rewards[:, 0])
        share = oracle.norm(left) / oracle.norm(update) * oracle.cosine(left, aggregate)
        assert share < 0.02


def test_some_entries_of_a_replay_are_paid(echoed, tiny):
    """A limit of the echo: who trains one half of the entries and copies the other is heard.

    It is heard for what it trained, and the measure then is of the whole of it.
    """
    rng = np.random.default_rng(0)
    before = rng.normal(size=WIDE)
    rewards = np.tile(before, (3, N, 1))
    deltas = honest(rng) + before
    copied = rng.permutation(WIDE) < WIDE // 2
    deltas[1] = np.where(copied, before, deltas[1])
    psi, want = (judged(measure, tiny, deltas, rewards)[1] for measure in echoed)
    assert 0 < psi <= want
    if echoed[1].parts is None:
        assert psi == want


def test_what_another_was_sent_is_paid(tiny):
    """A limit of the echo: it takes out of an update what its own client was sent, and no other's.

    The attacker was sent an eighth of the entries of u_N, and returns what another was sent, all of
    them, while training goes on in the direction of before.
    """
    rng = np.random.default_rng(0)
    before = rng.normal(size=WIDE)
    rewards = np.tile(before, (3, N, 1))
    rewards[:, 1] = np.where(oracle.ranks(before) < WIDE // 8, before, 0.0)
    deltas = honest(rng) + before
    for sent, is_heard in ((rewards[2, 0], True), (rewards[2, 1], False)):
        deltas[1] = sent
        score = judged(contribution.echo(contribution.cosine(), 3), tiny, deltas, rewards)[1]
        assert (score > 0) == is_heard


def test_parts_of_few_entries_are_never_heard(tiny):
    """z / sqrt(F) >= 1 is an angle that nothing is within: F > z² it must be."""
    deltas = np.ones((N, D))
    small = contribution.class_cosine(tiny.network())  # of F = 4
    rewards = np.zeros((3, N, D))
    assert judged(contribution.echo(small, 3, 1.9), tiny, deltas, rewards).min() > 0.9
    assert judged(contribution.echo(small, 3, 2.1), tiny, deltas, rewards).max() == 0


def test_rounds_that_were_nearly_the_same(echoed, tiny):
    """Of parallel downloads, or such that only roundings differ, no direction is made up."""
    rng = np.random.default_rng(0)
    first = np.tile(rng.normal(size=WIDE), (N, 1))
    for between in (0.0, 1e-7, 1e-5, 1e-3):
        rewards = np.float32([first, first * 3 + between * rng.normal(size=WIDE), -first])
        deltas = honest(rng)
        deltas[1] = rewards[0, 1] - rewards[1, 1]
        psi = judged(echoed[0], tiny, deltas, rewards)
        # Half of `between` is the most that is left of it, and that is nothing.
        assert psi[1] == 0
        assert psi[[0, 2, 3, 4]].min() > 0.1


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
@given(seed=SEEDS, copies=st.sampled_from([1, 3]), penalty=st.sampled_from([0.0, 4.0]))
def test_copies_have_together_what_one_has(tiny, seed, copies, penalty):
    """One of three poses as several: with its weight dealt among them u_N is the same vector.

    Without a penalty they have together what one has, else 1 - lambda (m - 1) of it.
    """
    rng = np.random.default_rng(seed)
    deltas, weights = rng.normal(size=(3, D)), np.array([0.5, 0.3, 0.2])
    who = [0, 1, *[2] * copies]
    shared = weights[who] / np.array([1, 1, *[copies] * copies])
    measure = contribution.quotient(contribution.cosine(), ALIKE, 0.9, penalty)
    one = judged(measure, tiny, deltas, np.zeros((1, 3, D)), weights)
    several = judged(measure, tiny, deltas[who], np.zeros((1, len(who), D)), shared)
    fewer = 1 - penalty * (copies - 1)
    if one[2] < 0:  # what is owed is added to what is below 0 already
        fewer = 1 + penalty * (copies - 1)
    together = [several[0], several[1], several[2:].sum() / fewer]
    np.testing.assert_allclose(together, one, rtol=0, atol=NOTHING)


def test_a_crowd_that_points_away_is_not_paid_for_it(tiny):
    """Three who send -u and one u against u_N = u: a penalty takes from -1 / 3 and never adds."""
    deltas, weights = np.ones((4, D)), np.array([1.0, 0.0, 0.0, 0.0])
    deltas[1:] = -1.0
    for penalty in (0.0, 0.25, 4.0):
        measure = contribution.quotient(contribution.cosine(), ALIKE, 0.9, penalty)
        psi = judged(measure, tiny, deltas, np.zeros((1, 4, D)), weights)
        want = [1.0, *[-(1 + 2 * penalty) / 3] * 3]
        np.testing.assert_allclose(psi, want, rtol=0, atol=10 * NOTHING)


def sizes_over(tiny, rounds, memory, alike=0.95):
    """|C_i| [T, N] of uploads [T, N, D], round by round."""
    measure = contribution.quotient(ones(), alike, memory)
    rounds = np.float32(rounds)
    _, count, size = rounds.shape
    state, found = measure.init(count, size), []
    for deltas in rounds:
        given = tiny.upload(deltas, [4] * count), jnp.zeros(size), jnp.ones(count), state
        score, state = compiled(measure.update)(jax.random.key(0), *given)
        found.append(1 / np.asarray(score))
    return np.round(found, 4)


def noisy_copies(steps, rounds=12, copies=4, noise=0.5):
    """[T, copies + 1, D] of one client that poses as four, with fresh noise on each, and another.

    Every noise is a direction of its own, so that the cosines are exact.
    """
    size = rounds * (copies + 2) + 1
    found = np.zeros((rounds, copies + 1, size))
    for t in range(rounds):
        found[t, :copies] += np.eye(size)[t if steps == "new" else 0]
        found[t, copies] = np.eye(size)[-1]
        for i in range(copies):
            found[t, i, (t + 1) * (copies + 1) + rounds + i - copies - 1] = noise
    return found


def test_copies_with_noise_are_one_when_it_has_averaged_out(tiny):
    """Noise of half the length on each copy of what goes on in one direction: by the fifth round.

    After T rounds the copied direction has the length A = sum mu^s in h and the noise B = s² sum
    mu^(2 s) of its square, so that cos = A² / (A² + B), which is above .95 from T = 5 on. Compared
    round by round they are four strangers for ever, at 1 / (1 + s²) = .8.
    """
    sent = noisy_copies("same")
    past = 0.9 ** np.arange(len(sent))
    common, noise = np.cumsum(past) ** 2, 0.25 * np.cumsum(past**2)
    one = common / (common + noise) > 0.95
    assert np.flatnonzero(one)[0] + 1 == 5
    want = np.stack([*[np.where(one, 4, 1)] * 4, np.ones(len(sent))], axis=1)
    np.testing.assert_array_equal(sizes_over(tiny, sent, 0.9), want)
    np.testing.assert_array_equal(sizes_over(tiny, sent, 0.0), 1)


def test_what_is_copied_must_go_on_for_noise_to_average_out(tiny):
    """A limit of the quotient: of steps that are all new ones noise keeps its part, cos = .8."""
    np.testing.assert_array_equal(sizes_over(tiny, noisy_copies("new"), 0.9), 1)
    np.testing.assert_array_equal(sizes_over(tiny, noisy_copies("new"), 0.9, 0.75)[:, 0], 4)


def test_without_memory_old_rounds_say_nothing(tiny):
    """Two who sent the same and part: at once by the round alone, with a memory when it has faded.

    h of three rounds the same and T apart has the parts mu^T (1 + mu + mu²) in common and (1 -
    mu^T) / (1 - mu) each by itself.
    """
    same, apart, memory = 3, 8, 0.5
    sent = np.zeros((same + apart, 2, 3))
    sent[:same, :, 0] = 1
    sent[same:, 0, 1] = sent[same:, 1, 2] = 1
    together = memory ** np.arange(1, apart + 1) * (1 - memory**same) / (1 - memory)
    own = (1 - memory ** np.arange(1, apart + 1)) / (1 - memory)
    alike = together**2 / (together**2 + own**2) > 0.2
    assert alike[0]
    assert not alike[1]
    want = np.r_[[2] * same, np.where(alike, 2, 1)]
    np.testing.assert_array_equal(sizes_over(tiny, sent, memory, 0.2), np.stack([want] * 2, 1))
    want = np.r_[[2] * same, [1] * apart]
    np.testing.assert_array_equal(sizes_over(tiny, sent, 0.0, 0.2), np.stack([want] * 2, 1))


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
    some are older than k = 2 rounds, and those the server does not remember. Of classes of four
    entries z = 0 hears whoever agrees at all.
    """
    data, clients = tiny.world((5, 3, 8, 6, 4))
    codes = jnp.array([0, 1, 0, 0, 1], jnp.int32)
    clients = clients._replace(conduct=Conduct(codes, jnp.ones(N)))
    federation = tiny.federation("cgsv", tiny.softmax())
    judges = contribution.echo(contribution.class_cosine(tiny.network()), 2, 0.0)
    federation = federation._replace(
        algorithm=cg.cgsv(0.5, floor=0.2, contribution=judges),
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
                assert float(record.score[i]) == 0
                seen += 1
            elif codes[i] and i in last:
                old.append(abs(float(record.score[i])))
            last[i] = t
    assert seen >= 4
    assert cohort is None or max(old) > 100 * NOTHING
