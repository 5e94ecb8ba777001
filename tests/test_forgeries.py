"""What attackers upload: against plain loops over clients and rounds, and in exact cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax.core import attacks, participation
from cgsv_jax.types import Conduct, Download

EPS = float(np.finfo(np.float32).eps)
N, D, ROUNDS, EPOCHS = 5, 60, 12, 4
KEY = jax.random.key(7)


# ---------------------------------------------------------------- the oracle


def noise(seen):
    """N(0, 1) [D] of one client in one round."""
    key = jax.random.fold_in(jax.random.fold_in(KEY, seen["round"]), seen["rank"])
    return np.float64(jax.random.normal(key, (D,)))


def last(seen, back=1):
    """The download `back` rounds ago, zeros before there was one."""
    downloads = seen["downloads"]
    return downloads[-back] if len(downloads) >= back else np.zeros(D)


def relative_noise(seen, like):
    return seen["s"] * np.linalg.norm(like) / np.sqrt(D) * noise(seen)


def predicted(seen):
    """In float64, pair by pair, newest first."""
    steps, changes = [], []
    for back in range(1, int(seen["s"]) + 1):
        older, newer = last(seen, back + 1), last(seen, back)
        length = np.linalg.norm(older)
        if length > EPS * np.linalg.norm(newer):
            steps.append(older / length)
            changes.append((newer - older) / length)
    if not steps:
        return last(seen)
    s, y = np.array(steps).T, np.array(changes).T
    return last(seen) + y @ np.linalg.inv(s.T @ s + 1e-5 * np.eye(s.shape[1])) @ s.T @ last(seen)


def partial(seen):
    key = jax.random.fold_in(jax.random.fold_in(KEY, seen["round"]), seen["rank"])
    drawn = np.asarray(jax.random.bernoulli(key, np.float32(seen["s"]), (D,)))
    own = sum(x**2 for x in seen["trained"][drawn]) ** 0.5
    theirs = sum(x**2 for x in last(seen)[drawn]) ** 0.5
    sent = seen["trained"].copy()
    for j in np.flatnonzero(drawn):
        if theirs:
            sent[j] = last(seen)[j] * own / theirs
    return sent


def patient(seen):
    turned = any(quota >= np.float32(seen["s"]) * D for quota in seen["quotas"])
    return last(seen) if turned else seen["trained"]


def sybils(seen):
    first = seen["all"][min(seen["all"])]
    return first + relative_noise(seen, first)


# name -> what one client sends: it sees its own downloads, its own update and what accomplices sent
ORACLE = {
    "free_rider": lambda seen: np.zeros(D),
    "free_rider_replay": last,
    "free_rider_replay_delayed": lambda seen: last(seen, int(seen["s"])),
    "free_rider_replay_sum": lambda seen: sum(
        last(seen, back) for back in range(1, int(seen["s"]) + 1)
    ),
    "free_rider_replay_noise": lambda seen: last(seen) + relative_noise(seen, last(seen)),
    "free_rider_adwa": lambda seen: last(seen) + seen["s"] * noise(seen),
    "free_rider_awca": lambda seen: last(seen) + seen["s"] * EPOCHS**0.5 * noise(seen),
    "free_rider_ace": predicted,
    "free_rider_partial": partial,
    "free_rider_patient": patient,
    "sybils": sybils,
    "sign_flip": lambda seen: -seen["s"] * seen["trained"],
    "gaussian_noise": lambda seen: seen["trained"] + relative_noise(seen, seen["trained"]),
    "scaled": lambda seen: seen["s"] * seen["trained"],
    "coordinated_sign_flip": lambda seen: -seen["s"] * np.mean(list(seen["all"].values()), axis=0),
}
STRENGTHS = {
    "free_rider_replay_delayed": (1, 2, 8),
    "free_rider_replay_sum": (1, 3, 8),
    "free_rider_replay_noise": (0, 0.5),
    "free_rider_adwa": (1e-3, 0.5),
    "free_rider_awca": (0.5,),
    "free_rider_ace": (1, 3, 7),
    "free_rider_partial": (0.5, 1),
    "free_rider_patient": (0.5, 0.9),
    "sybils": (0, 0.1),
}


def world(seed, cohorts):
    """ROUNDS of (rows that take part, who of these is present, deltas, downloads, entries)."""
    rng = np.random.default_rng(seed)
    for _ in range(ROUNDS):
        members = np.sort(rng.permutation(N)[:3]) if cohorts else np.arange(N)
        present = rng.random(len(members)) < 0.75
        deltas = rng.normal(size=(len(members), D)).astype(np.float32)
        deltas *= present[:, None]
        quota = rng.integers(D + 1, size=len(members))
        masks = rng.permuted(np.arange(D) < quota[:, None], axis=1)
        rewards = (rng.normal(size=(len(members), D)) * masks).astype(np.float32)
        rewards[rng.random(len(members)) < 0.1] = 0
        yield members, present, deltas, rewards, quota.astype(np.int32)


def download(rewards, quota):
    count = len(quota)
    weights = jnp.full(count, 1 / count)
    return Download(jnp.zeros(D), weights, jnp.asarray(rewards), jnp.asarray(quota))


def check(tiny, name, s, cohorts, seed=0):
    """The compiled attack beside the loops: clients 1, 2 and 4 do it, among others."""
    attack = attacks.attack(["scaled", name] if name != "scaled" else [name], EPOCHS)
    code = 1 if name == "scaled" else 2
    cheats = np.array([0, code, code, 0, code], np.int32)
    strength = np.full(N, s, np.float32)
    state = attack.init(N, D)
    downloads = {i: [] for i in range(N)}
    quotas = {i: [] for i in range(N)}
    step = jax.jit(attack.forge)
    for t, (members, present, deltas, rewards, quota) in enumerate(world(seed, cohorts)):
        rows = jnp.asarray(members)
        upload = tiny.upload(deltas, [4] * len(members), present)
        part = participation.take(state, rows)
        conduct = Conduct(jnp.asarray(cheats[members]), jnp.asarray(strength[members]))
        sent = np.float64(step(jax.random.fold_in(KEY, t), upload, conduct, part))
        part = attack.receive(download(rewards, quota), upload.present, part)
        state = participation.put(state, rows, part)
        theirs = {
            i: np.float64(deltas[k])
            for k, i in enumerate(members)
            if present[k] and cheats[i] == code
        }
        for k, i in enumerate(members):
            expected = np.float64(deltas[k])
            if i in theirs:
                expected = ORACLE[name](
                    {"trained": expected, "downloads": downloads[i], "s": s, "round": t, "rank": k}
                    | {"all": theirs, "quotas": quotas[i]}
                )
            size = max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(
                sent[k], expected, atol=64 * EPS * size, err_msg=f"round {t}, client {i}"
            )
        for k, i in enumerate(members):
            if present[k]:
                downloads[i].append(np.float64(rewards[k]))
                quotas[i].append(int(quota[k]))


CASES = [(name, s) for name in ORACLE for s in STRENGTHS.get(name, (1.5,))]


@pytest.mark.parametrize("cohorts", [False, True], ids=["all", "cohorts"])
@pytest.mark.parametrize(("name", "s"), CASES)
def test_an_upload_is_what_the_loops_say(tiny, name, s, cohorts):
    check(tiny, name, s, cohorts)


def test_the_oracle_knows_every_attack():
    """Uniform noise alone is judged by its moments, in test_attacks.py."""
    assert set(attacks.UPLOADS) - set(ORACLE) == {"free_rider_noise"}


# ---------------------------------------------------------------- exact cases


def forged(tiny, name, s, downloads, quota=D, deltas=None, seed=0, dtype=np.float32):
    """What all five clients send after so many downloads, [N, D]; each client's own are [K, D]."""
    attack = attacks.attack([name])
    state = attack.init(N, len(downloads[0]))
    for v in downloads:
        v = np.broadcast_to(v, (N, len(v))).astype(dtype)
        state = attack.receive(download(v, np.full(N, quota)), jnp.ones(N, bool), state)
    if deltas is None:
        deltas = np.random.default_rng(seed).normal(size=(N, len(downloads[0]))).astype(dtype)
    conduct = Conduct(jnp.ones(N, jnp.int32), jnp.full(N, s, jnp.float32))
    return np.asarray(attack.forge(KEY, tiny.upload(deltas, [4] * N), conduct, state))


@pytest.mark.parametrize(
    ("name", "s"),
    [
        ("free_rider_replay_delayed", 1),
        ("free_rider_replay_sum", 1),
        ("free_rider_replay_noise", 0),
        ("free_rider_adwa", 0),
        ("free_rider_awca", 0),
        ("free_rider_patient", 1),
    ],
)
def test_what_is_a_replay_is_one_bit_for_bit(tiny, name, s):
    downloads = np.random.default_rng(3).normal(size=(11, D))
    expected = forged(tiny, "free_rider_replay", 1, downloads)
    np.testing.assert_array_equal(expected[0], np.float32(downloads[-1]))
    np.testing.assert_array_equal(forged(tiny, name, s, downloads), expected)


def test_a_memory_is_as_deep_as_the_attacks_need():
    for names, depth in (
        (["free_rider_replay"], 1),
        (["sign_flip", "free_rider_replay_noise"], 1),
        (["free_rider_replay", "free_rider_replay_sum"], 8),
    ):
        assert attacks.attack(names).init(N, D).received.shape == (N, depth, D)
    assert attacks.attack(["sign_flip", "free_rider"]).init(N, D) == ()


def test_noise_on_a_replay_has_the_stated_length(tiny):
    v = np.random.default_rng(0).normal(size=(1, 4000))
    sent = forged(tiny, "free_rider_replay_noise", 0.5, v)
    ratio = np.linalg.norm(sent - v, axis=1) / np.linalg.norm(v)
    np.testing.assert_allclose(ratio, 0.5, atol=6 * 0.5 / np.sqrt(2 * 4000))
    assert np.abs(np.corrcoef(sent - v)[np.triu_indices(N, 1)]).max() < 6 / np.sqrt(4000)


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_strength_that_cannot_be_is_refused_from_python(tiny, name):
    _, clients = tiny.world((5, 3, 6))
    with pytest.raises(ValueError, match=f"the strength of {name}, .* is -1"):
        attacks.dishonest(np.random.default_rng(0), clients, np.zeros(14, int), 3, [(name, 1, -1)])


# ---------------------------------------------------------------- each by itself


def on_a_quadratic(eigenvalues, rounds, step=0.1):
    """v_t = -step Q (w_t - w*), w_{t+1} = w_t + v_t: so many downloads, and the next one."""
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(rng.normal(size=(D, D)))
    spectrum = np.resize(eigenvalues, D)
    q = basis @ np.diag(spectrum) @ basis.T
    w, best, downloads = rng.normal(size=D), rng.normal(size=D), []
    for _ in range(rounds + 1):
        downloads.append(-step * q @ (w - best))
        w = w + downloads[-1]
    return np.array(downloads[:-1]), downloads[-1]


@pytest.mark.parametrize(
    ("eigenvalues", "pairs"), [((3.0,), 1), ((1.0, 7.0), 2), ((1.0, 7.0), 3), ((1.0, 5.0, 9.5), 3)]
)
def test_a_prediction_is_exact_on_a_quadratic(tiny, eigenvalues, pairs):
    """Of as many different curvatures as there are pairs: the last download is in their span."""
    downloads, following = on_a_quadratic(eigenvalues, pairs + 1)
    sent = forged(tiny, "free_rider_ace", pairs, downloads)
    error = np.linalg.norm(sent - following, axis=1) / np.linalg.norm(following)
    assert error.max() < 2e-3
    # A replay is far off, and so is one pair where there are two curvatures.
    for name in ("free_rider_replay", *(["free_rider_ace"] if len(eigenvalues) > 1 else [])):
        other = forged(tiny, name, 1, downloads) - following
        assert np.linalg.norm(other, axis=1).min() > 0.05 * np.linalg.norm(following)


def test_a_prediction_is_made_of_past_downloads(tiny):
    """Whoever takes these out of an upload leaves nothing of it."""
    downloads = np.random.default_rng(1).normal(size=(8, D))
    for pairs in (1, 3, 7):
        sent = forged(tiny, "free_rider_ace", pairs, downloads)[0]
        span, _ = np.linalg.qr(downloads[-pairs - 1 :].T)
        rest = sent - span @ (span.T @ sent)
        assert np.linalg.norm(rest) < 1e-5 * np.linalg.norm(sent)


@pytest.mark.parametrize("tail", [1e-30, 0.0, 1.0])
def test_a_prediction_from_next_to_nothing_is_finite(tiny, tail):
    v = np.random.default_rng(1).normal(size=D)
    one = forged(tiny, "free_rider_ace", 7, [v])
    np.testing.assert_array_equal(one, np.broadcast_to(np.float32(v), (N, D)))
    np.testing.assert_array_equal(forged(tiny, "free_rider_ace", 7, [0 * v]), np.zeros((N, D)))
    far = forged(tiny, "free_rider_ace", 7, [1e25 * v, 1e25 * v])
    np.testing.assert_array_equal(far[0], np.float32(1e25 * v))
    np.testing.assert_allclose(
        forged(tiny, "free_rider_ace", 7, [tail * v, tail * v, v, v])[0], v, atol=1e-4
    )


def test_what_is_copied_is_as_long_as_what_it_replaces(tiny):
    size = 4000
    rng = np.random.default_rng(0)
    deltas, v = rng.normal(size=(N, size)), 100 * rng.normal(size=(1, size))
    sent = forged(tiny, "free_rider_partial", 0.3, v, deltas=np.float32(deltas))
    own = np.linalg.norm(deltas, axis=1)
    np.testing.assert_allclose(np.linalg.norm(sent, axis=1), own, rtol=1e-5)
    copied = np.mean(sent != np.float32(deltas), axis=1)
    np.testing.assert_allclose(copied, 0.3, atol=6 * np.sqrt(0.21 / size))
    whole = forged(tiny, "free_rider_partial", 1, v, deltas=np.float32(deltas))
    np.testing.assert_allclose(whole, v * (own / np.linalg.norm(v))[:, None], rtol=1e-5)
    # Nothing has been received, so nothing is copied.
    honest = forged(tiny, "free_rider_partial", 1, 0 * v, deltas=np.float32(deltas))
    np.testing.assert_array_equal(honest, np.float32(deltas))


def test_a_patient_client_turns_once_and_for_good(tiny):
    """It turned by the 9 tenths of round 1, whatever arrived later; .91 would not have done."""
    downloads = np.random.default_rng(0).normal(size=(4, N, D))
    for share, turned in ((0.9, True), (0.91, False)):
        attack = attacks.attack(["free_rider_patient"])
        state = attack.init(N, D)
        conduct = Conduct(jnp.ones(N, jnp.int32), jnp.full(N, share, jnp.float32))
        upload = tiny.upload(np.ones((N, D), np.float32), [4] * N)
        assert (np.asarray(attack.forge(KEY, upload, conduct, state)) == 1).all()
        for quota, v in zip((D // 2, 9 * D // 10, D // 3, 0), downloads, strict=True):
            sent_back = download(np.float32(v), np.full(N, quota, np.int32))
            state = attack.receive(sent_back, jnp.ones(N, bool), state)
        expected = np.float32(downloads[-1]) if turned else np.ones((N, D), np.float32)
        np.testing.assert_array_equal(attack.forge(KEY, upload, conduct, state), expected)


def test_sybils_send_the_update_of_the_first_who_is_there(tiny):
    """By client number, whatever the order of rows; alike but for the noise."""
    deltas = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    conduct = Conduct(jnp.array([1, 0, 1, 1, 1]), jnp.zeros(N))
    attack = attacks.attack(["sybils"])
    for present, numbers, first in (
        ([1, 1, 1, 1, 1], [0, 1, 2, 3, 4], 0),
        ([0, 1, 1, 1, 1], [0, 1, 2, 3, 4], 2),
        ([1, 1, 1, 1, 1], [4, 0, 3, 2, 1], 4),
    ):
        upload = tiny.upload(deltas, [4] * N, present)._replace(numbers=jnp.array(numbers))
        sent = np.asarray(attack.forge(KEY, upload, conduct, ()))
        for i in (0, 2, 3, 4):
            np.testing.assert_array_equal(sent[i], present[i] * deltas[first])
        np.testing.assert_array_equal(sent[1], deltas[1])
    noisy = conduct._replace(strength=jnp.full(N, 0.1))
    sent = np.asarray(attack.forge(KEY, tiny.upload(deltas, [4] * N), noisy, ()))[[0, 2, 3, 4]]
    rest = sent - deltas[0]
    ratio = np.linalg.norm(rest, axis=1) / np.linalg.norm(deltas[0])
    np.testing.assert_allclose(ratio, 0.1, atol=6 * 0.1 / np.sqrt(2 * D))
    assert np.abs(np.corrcoef(rest)[np.triu_indices(4, 1)]).max() < 6 / np.sqrt(D)


@pytest.mark.long
def test_every_strength_is_a_number_of_the_compiled_step(tiny):
    """Lifted over strengths, one program gives what each gives alone."""
    names = [name for name in attacks.UPLOADS if name in STRENGTHS]
    attack = attacks.attack(names, EPOCHS)
    state = attack.init(N, D)
    upload = tiny.upload(np.random.default_rng(0).normal(size=(N, D)).astype(np.float32), [4] * N)
    for _, _, _, v, quota in world(4, cohorts=False):
        state = attack.receive(download(v, quota), jnp.ones(N, bool), state)
    strengths = jnp.array([[0.5], [1.0], [2.0]]) * jnp.ones((3, N))

    def forge(strength, codes):
        return attack.forge(KEY, upload, Conduct(codes, strength), state)

    lifted = jax.jit(jax.vmap(forge, in_axes=(0, None)))
    alone = jax.jit(forge)
    for code in range(1, len(names) + 1):
        codes = jnp.full(N, code, jnp.int32)
        found = lifted(strengths, codes)
        for k, strength in enumerate(strengths):
            np.testing.assert_allclose(
                found[k], alone(strength, codes), atol=1e-4, err_msg=names[code - 1]
            )
