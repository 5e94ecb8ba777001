"""What attackers upload: against plain loops over clients and rounds, and in exact cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax.core import attacks, participation
from cgsv_jax.types import Conduct, Download

EPS = float(np.finfo(np.float32).eps)
N, D, ROUNDS = 5, 60, 12
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


# name -> what one client sends: it sees its own downloads, its own update and what accomplices sent
ORACLE = {
    "free_rider": lambda seen: np.zeros(D),
    "free_rider_replay": last,
    "free_rider_replay_delayed": lambda seen: last(seen, int(seen["s"])),
    "free_rider_replay_sum": lambda seen: sum(
        last(seen, back) for back in range(1, int(seen["s"]) + 1)
    ),
    "free_rider_replay_noise": lambda seen: last(seen) + relative_noise(seen, last(seen)),
    "sign_flip": lambda seen: -seen["s"] * seen["trained"],
    "gaussian_noise": lambda seen: seen["trained"] + relative_noise(seen, seen["trained"]),
    "scaled": lambda seen: seen["s"] * seen["trained"],
    "coordinated_sign_flip": lambda seen: -seen["s"] * np.mean(list(seen["all"].values()), axis=0),
}
STRENGTHS = {
    "free_rider_replay_delayed": (1, 2, 8),
    "free_rider_replay_sum": (1, 3, 8),
    "free_rider_replay_noise": (0, 0.5),
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
    attack = attacks.attack(["scaled", name] if name != "scaled" else [name])
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
