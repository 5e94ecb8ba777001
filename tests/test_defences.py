"""Published defences as contribution measures: against loops, and where the answer is known.

The official code that they follow is in test_official.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle_defences as oracle
import pytest
from declared import CONTRIBUTIONS

from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.contribution import cosine, fgfl, foolsgold, s2_wef, viceroy

EPS = float(np.finfo(np.float32).eps)
N, D, ROUNDS = 6, 24, 7
# A cosine is a sum of D terms; between them and a weight stand two quotients and a logarithm whose
# slope is at most kappa / (a (1 - a)), 10 where a weight is neither 0 nor 1 and kappa at most 2.
CLOSE = {"rtol": 0, "atol": 4 * 10 * D * EPS}


def sent(seed=0, alike=2.0, number=N):
    """Updates [T, N, D] with something in common, two clients nearly alike; who is present."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(ROUNDS, number, D)) + alike * rng.normal(size=(ROUNDS, 1, D))
    drawn[:, 1] = drawn[:, 0] + 0.2 * rng.normal(size=(ROUNDS, D))
    present = rng.random((ROUNDS, number)) < 0.8
    present[0, :2] = True
    return np.float32(drawn), present


def played(tiny, measure, deltas, present=None, scales=None):
    """Scores [T, N] of a measure and its state after every round; u_N is the mean of all u_i."""
    present = np.ones(deltas.shape[:2], bool) if present is None else present
    scales = np.ones(deltas.shape[:2]) if scales is None else scales

    def round_(state, seen):
        deltas, here, scale = seen
        upload = tiny.upload(deltas, [4] * deltas.shape[0], here)
        upload = upload._replace(scales=scale.astype(deltas.dtype))
        weights = here / jnp.maximum(jnp.sum(here), 1)
        aggregate = (weights * upload.scales).astype(deltas.dtype) @ upload.deltas
        score, state = measure.update(jax.random.key(0), upload, aggregate, weights, state)
        return state, (score, state)

    start = measure.init(*deltas.shape[1:])
    _, (scores, states) = jax.lax.scan(round_, start, (deltas, present, scales))
    return np.asarray(scores), jax.tree.map(np.asarray, states)


def uploads(deltas, present, scales):
    """u_i [T, N, D] as the measures see them, in float64."""
    return np.where(present[..., None], scales[..., None] * np.float64(deltas), 0.0)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("alike", [0.0, 0.5, 2.0])
def test_foolsgold_is_the_loops(tiny, alike, confidence):
    deltas, present = sent(int(10 * alike), alike)
    scales = np.random.default_rng(1).uniform(0.5, 2, present.shape)
    scores, histories = played(tiny, foolsgold(confidence), deltas, present, scales)
    history, between = np.zeros((N, D)), 0
    for t, u in enumerate(uploads(deltas, present, scales)):
        want, history = oracle.foolsgold(u, present[t], history, confidence)
        np.testing.assert_allclose(scores[t], want, **CLOSE)
        np.testing.assert_allclose(histories[t], history, rtol=0, atol=20 * ROUNDS * EPS)
        between += ((want > 0) & (want < 1)).sum()
    assert between or not alike  # somebody's weight is neither 0 nor 1


@pytest.mark.parametrize("alike", [0.0, 0.5, 2.0])
def test_viceroy_is_the_loops(tiny, alike):
    deltas, present = sent(3 + int(10 * alike), alike)
    scales = np.random.default_rng(2).uniform(0.5, 2, present.shape)
    numbers = {"confidence": 0.7, "omega": 0.4, "eta": 0.6, "drop": 0.2}
    scores, states = played(tiny, viceroy(**numbers), deltas, present, scales)
    memory = np.zeros((N, D)), np.zeros(N), np.zeros(N, bool)
    for t, u in enumerate(uploads(deltas, present, scales)):
        want, memory = oracle.viceroy(u, present[t], memory, **numbers)
        np.testing.assert_allclose(scores[t], want, **CLOSE)
        np.testing.assert_allclose(states.trust[t], memory[1], **CLOSE)
        np.testing.assert_array_equal(states.heard[t], memory[2])


def test_fgfl_is_the_loops(tiny):
    deltas, present = sent(9)
    scales = np.random.default_rng(3).uniform(0.5, 2, present.shape)
    scores, _ = played(tiny, fgfl(), deltas, present, scales)
    for t, u in enumerate(uploads(deltas, present, scales)):
        aggregate = u[present[t]].mean(axis=0)
        want = oracle.fgfl(u, present[t], aggregate)
        np.testing.assert_allclose(scores[t], want, rtol=20 * D * EPS, atol=20 * D * EPS)


# ---------------------------------------------------------------- what was sent before


def with_downloads(tiny, measure, deltas, masks, present, memory=3):
    """Scores [T, N] of a measure that knows what was sent: u_N under `masks` [T, N, D].

    Returns them, the cosines beside them and the downloads [T, N, D], 0 for who was absent.
    """
    number, size = deltas.shape[1:]
    sent, found, cosines, downloads = sent_lib.nothing(number, size, memory), [], [], []
    update = jax.jit(measure.update)
    for t, (u, mask, here) in enumerate(zip(deltas, masks, present, strict=True)):
        upload = tiny.upload(u, [4] * number, here)._replace(sent=sent, round=jnp.int32(t))
        weights = jnp.asarray(here / max(here.sum(), 1), jnp.float32)
        aggregate = weights @ upload.deltas
        rest = jax.random.key(0), upload, aggregate, weights, ()
        found.append(update(*rest)[0])
        cosines.append(cosine().update(*rest)[0])
        rewards = jnp.where(mask & here[:, None], aggregate[None], 0.0)
        sent = sent_lib.remembered(sent, jnp.int32(t), aggregate, rewards, jnp.asarray(here))
        downloads.append(rewards)
    return (np.asarray(x) for x in (found, cosines, downloads))


def nested(seed, number=N, size=D):
    """Masks [T, N, D] of which the larger contain the smaller, as those of rewards do."""
    rng = np.random.default_rng(seed)
    places = np.argsort(rng.random((ROUNDS, 1, size)), axis=2)
    return places < rng.integers(size // 2, size + 1, (ROUNDS, number, 1))


@pytest.mark.parametrize("deviations", [0.5, 1.5])
@pytest.mark.parametrize("rounds", [1, 2])
def test_s2_wef_is_the_loops(tiny, rounds, deviations):
    """Downloads are nested, not the largest entries; the memory is longer than what is read."""
    deltas, present = sent(11)
    masks = nested(12)
    measure = s2_wef(cosine(), rounds, deviations)
    scores, cosines, downloads = with_downloads(tiny, measure, deltas, masks, present)
    unheard = 0
    for t in range(ROUNDS):
        before = downloads[max(t - rounds, 0) : t]
        want = oracle.s2_wef(cosines[t], uploads(deltas, present, present)[t], present[t], before,
                             deviations) if t else cosines[t]  # fmt: skip
        np.testing.assert_array_equal(scores[t], want)
        unheard += (want != cosines[t]).sum()
    assert unheard > 0


@pytest.mark.parametrize(("rounds", "late"), [(1, 0), (2, 1), (1, 1)])
def test_a_replay_is_not_heard(tiny, rounds, late):
    """Of whatever length; a delayed one only where the round that it repeats is compared with."""
    rng = np.random.default_rng(13)
    deltas = np.float32(rng.normal(size=(ROUNDS, N, 400)) + rng.normal(size=(ROUNDS, 1, 400)))
    masks, everybody = nested(14, size=400), np.ones((ROUNDS, N), bool)
    for t in range(1 + late, ROUNDS):  # client 2 repeats what the loop below will have sent it
        deltas[t, 2] = 7 * np.where(masks[t - 1 - late, 2], deltas[t - 1 - late].mean(0), 0)
    scores, cosines, downloads = with_downloads(
        tiny, s2_wef(cosine(), rounds), deltas, masks, everybody
    )
    np.testing.assert_allclose(deltas[1 + late :, 2], 7 * downloads[: ROUNDS - 1 - late, 2],
                               rtol=0, atol=1e-5)  # fmt: skip
    replays = np.zeros((ROUNDS, N), bool)
    replays[1 + late :, 2] = rounds > late
    np.testing.assert_array_equal(scores == cosines, ~replays | (cosines <= 0))
    np.testing.assert_array_equal(scores[replays], np.minimum(cosines[replays], 0))


def test_nobody_is_compared_with_who_was_sent_nothing(tiny):
    """One that was there alone before is not the odd one out for it; nor is anybody at first."""
    deltas, _ = sent(15)
    present = np.ones((ROUNDS, N), bool)
    present[::2, 1:] = False
    scores, cosines, _ = with_downloads(tiny, s2_wef(cosine()), deltas, nested(16), present)
    np.testing.assert_array_equal(scores, cosines)


# ---------------------------------------------------------------- known answers


def test_two_alike_among_orthogonal_ones(tiny):
    """FoolsGold: exactly the two are worth 0, and all others 1, from the first round on."""
    deltas = np.repeat(np.eye(N, D, dtype=np.float32)[None], ROUNDS, axis=0)
    deltas[:, 1] = deltas[:, 0]
    for measure in (foolsgold(), viceroy()):
        scores, _ = played(tiny, measure, deltas)
        np.testing.assert_array_equal(scores, np.tile([0, 0, 1, 1, 1, 1], (ROUNDS, 1)) * 1.0)


@pytest.mark.parametrize("name", ["foolsgold", "viceroy"])
def test_nobody_is_unlike_where_all_are_the_same(tiny, name):
    """The official code divides 0 by 0 here."""
    deltas = np.ones((2, 4, 3), np.float32)
    scores, _ = played(tiny, CONTRIBUTIONS[name](), deltas)
    np.testing.assert_array_equal(scores, 0)


def test_likeness_is_of_sums_over_rounds(tiny):
    """Two sybils who are orthogonal in each round but not in sum are found, of any length."""
    e = np.eye(4, dtype=np.float32)
    rounds = np.stack([[e[0], 3 * e[1], e[2], e[3]], [e[1], 3 * e[0], e[2], e[3]]])
    scores, _ = played(tiny, foolsgold(), rounds)
    np.testing.assert_array_equal(scores, [[1, 1, 1, 1], [0, 0, 1, 1]])


def test_an_honest_client_like_a_sybil_is_pardoned(tiny):
    """Two the same, and one at 60 degrees to them: without the pardon it had ln(.5 / .5) + .5."""
    third = [0.5, np.sqrt(0.75), 0, 0]
    deltas = np.float32([[[1, 0, 0, 0], [1, 0, 0, 0], third, [0, 0, 1, 0]]])
    scores, _ = played(tiny, foolsgold(), deltas)
    a = 1 - 0.5 * (0.5 + 1e-5) / (1 + 1e-5)
    np.testing.assert_allclose(scores, [[0, 0, min(np.log(a / (1 - a)) + 0.5, 1), 1]], atol=1e-5)
    scores, _ = played(tiny, foolsgold(0.3), deltas)
    np.testing.assert_allclose(scores[0, 2], 0.3 * (np.log(a / (1 - a) + 1e-5) + 0.5), atol=1e-5)


def test_absence_keeps_a_history_and_harms_nobody(tiny):
    """Of two sybils one leaves: the other stands alone in that round, and is found again after."""
    deltas = np.repeat(np.eye(4, dtype=np.float32)[None], 3, axis=0)
    deltas[:, 1] = deltas[:, 0]
    present = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
    scores, histories = played(tiny, foolsgold(), deltas, present)
    np.testing.assert_array_equal(scores, [[0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(histories[1][1], histories[0][1])


def test_viceroy_trusts_who_stays_the_same_and_judges_it_by_its_past(tiny):
    """Steady clients gain eta / 2 a round; a sybil that becomes honest is 0 while it is trusted."""
    deltas = np.repeat(np.eye(4, dtype=np.float32)[None], 12, axis=0)
    deltas[:8, 1] = deltas[:8, 0]
    scores, states = played(tiny, viceroy(omega=0.99, drop=0.0), deltas)
    for t in range(8):
        np.testing.assert_allclose(states.trust[t], min(0.1 * t, 1), atol=4 * EPS)
    np.testing.assert_array_equal(scores[:8], np.tile([0, 0, 1, 1], (8, 1)) * 1.0)
    # F(H) is 0 and F(u) is 1: trust falls by .1 from .7, and p is what is left of F(u).
    for t in range(8, 12):
        trust = 0.7 - 0.1 * (t - 7)
        np.testing.assert_allclose(
            states.trust[t], [trust, trust, *[min(0.1 * t, 1)] * 2], atol=1e-6
        )
        np.testing.assert_allclose(scores[t], [1 - trust, 1 - trust, 1, 1], atol=1e-6)


def test_fgfl_by_hand(tiny):
    """u_N itself is 1, nothing and twice u_N are 0, its opposite is -3."""
    aggregate = jnp.array([1.0, 2.0, 2.0])
    deltas = aggregate[None] * jnp.array([1.0, 0.0, 2.0, -1.0])[:, None]
    score, _ = fgfl().update(
        jax.random.key(0), tiny.upload(deltas, [1] * 4), aggregate, jnp.zeros(4), ()
    )
    np.testing.assert_allclose(score, [1, 0, 0, -3], atol=10 * EPS)


def test_fgfl_ranks_as_the_cosine_where_lengths_are_equal(tiny):
    deltas, _ = sent(4)
    scales = 0.5 / np.linalg.norm(deltas, axis=2)
    ours, _ = played(tiny, fgfl(), deltas, scales=scales)
    cosines, _ = played(tiny, CONTRIBUTIONS["cosine"](), deltas, scales=scales)
    np.testing.assert_array_equal(ours.argsort(axis=1), cosines.argsort(axis=1))


@pytest.mark.parametrize("name", ["foolsgold", "viceroy", "fgfl"])
def test_gamma_cancels(tiny, name):
    deltas, present = sent(5)
    norms = np.linalg.norm(deltas, axis=2)
    one, two = (
        played(tiny, CONTRIBUTIONS[name](), deltas, present, length / norms)[0]
        for length in (0.25, 1.0)  # powers of two: not one bit may differ
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan])
def test_a_confidence_is_above_0(wrong):
    for make in (foolsgold, viceroy):
        with pytest.raises(ValueError, match="confidence is"):
            make(confidence=wrong)


@pytest.mark.parametrize(("name", "wrong"), [("omega", 1.0), ("eta", 2.5), ("drop", 1.0)])
def test_a_number_of_viceroy_out_of_its_range(name, wrong):
    with pytest.raises(ValueError, match=f"{name} is"):
        viceroy(**{name: wrong})
