"""The official servers of the rivals: same updates in every round, same numbers.

Code of each method's authors was run on recorded updates of five clients over 14 rounds (torch
2.13, float32; four tensors of 30, 6, 24 and 4 entries); `data/official_inputs.npz` holds what was
sent and `data/official_<method>.npz` what came of it. A client's update does not depend on its
model, so a difference shows where it is made. Sums of a few float32 numbers below 1 over 14 rounds
differ by less than 2e-6; a wrong sign, order, weight or entry by 1e-3 and more.

Scenarios: `plain`; `zero`, client 0 sends zeros, with accuracy .05 and loss 0; `negative`, client 1
points away; `ties`, updates on a grid and two clients alike; `equal` sizes; `tiny`, a client of one
row.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from declared import CONTRIBUTIONS, METHODS, Options

from cgsv_jax.experiment import names as names_lib
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.contribution import s2_wef, viceroy
from cgsv_jax.rules.contribution.s2_wef import likeness
from cgsv_jax.rules.reward import mix, no_better
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Contribution, Network, Standing
from experiments import free_riders

DATA = Path(__file__).parent / "data"
TENSORS = (30, 6, 24, 4)
CLOSE = {"rtol": 0, "atol": 2e-6}
ROUNDS = 14
MODELS = [0, 9, 13]  # rounds whose models were kept; each holds all rewards before it


@functools.cache
def recorded(method):
    """The arrays of a method, or the "inputs", by name."""
    with np.load(DATA / f"official_{method}.npz") as arrays:
        return dict(arrays)


def of(method, *path):
    """What was recorded below a path, without it: `of("rffl", "plain")["r"]`."""
    start = "/".join(path) + "/"
    found = {k.removeprefix(start): v for k, v in recorded(method).items() if k.startswith(start)}
    assert found, f"nothing is recorded at {start}"
    return found


# What a measure on validation rows is told in these runs: the recorded accuracies, sent in their
# place. The output layer is the last two tensors, 4 classes of 6 features and their biases.
NETWORK = Network(
    lambda weights, inputs, labels: (inputs, labels),
    lambda: np.c_[np.arange(36, 60).reshape(4, 6), np.arange(60, 64)].astype(np.int32),
)


def played(tiny, name, scenarios, *, options=None, key=0, **numbers):
    """All rounds of a method in several scenarios at once, one compiled program.

    Returns:
      Per scenario, arrays over rounds: score, r, weight, part, quota [T, N], aggregate [T, D],
      server [T, D] and model [T, N, D] after the round.
    """
    options = (options or Options())._replace(tensors=TENSORS, network=NETWORK, rounds=ROUNDS)
    algorithm = METHODS[name](tiny.hyper(**numbers), options)

    def one(start, sizes, deltas, accuracies, losses):
        def round_(carry, sent):
            (server, clients, state), (t, deltas, accuracy, loss) = carry, sent
            upload = tiny.upload(deltas, sizes, clients=clients, server=server)._replace(
                validation=(accuracy, loss), start_loss=loss, loss=loss, round=t
            )
            rules_key = jax.random.fold_in(jax.random.key(key), t)
            download, standing, state = algorithm.update(rules_key, upload, state)
            server, clients = server + download.aggregate, clients + download.rewards
            part = upload.present if download.present is None else download.present
            seen = {"score": standing.score, "r": standing.reputation, "weight": download.weights}
            seen |= {"aggregate": download.aggregate, "server": server, "model": clients}
            return (server, clients, state), seen | {"part": part, "quota": download.quota}

        clients = jnp.broadcast_to(start, (len(sizes), len(start)))
        carry = start, clients, algorithm.init(*clients.shape)
        rounds = jnp.arange(ROUNDS, dtype=jnp.int32), deltas, accuracies, losses
        return jax.lax.scan(round_, carry, rounds)[1]

    names = ("w0", "sizes", "deltas", "accs", "losses")
    sent = [np.stack([of("inputs", s)[n] for s in scenarios]) for n in names]
    seen = jax.device_get(jax.jit(jax.vmap(one))(*sent))
    return {s: {k: v[i] for k, v in seen.items()} for i, s in enumerate(scenarios)}


# variant -> numbers, choices
VARIANTS = {
    "mean_half": ({"alpha": 0.5, "clip": 1e3}, {}),
    "mean_fade": ({"alpha": 0.8, "clip": 1e3}, {}),
    "sum_fade_decay": ({"alpha": 0.8, "growth": 1.0, "clip": 1e3}, {"combine": "sum"}),
    "clip": ({"alpha": 0.5, "clip": 0.02}, {}),
}


@pytest.mark.parametrize("negative", ["zero", "kept"])
def test_rffl(tiny, negative):
    """With negative reputations kept everywhere; without them where nobody has any."""
    scenarios = ("plain", "zero", "ties", *(("negative",) if negative == "kept" else ()))
    options = names_lib.configure(algorithms="rffl", negative=negative).methods[0].words()
    options = Options(**{name: word for name, word in options.items() if name in Options._fields})
    numbers = {"gamma": 0.5, "alpha": 0.95, "beta": 0.0, "removal": 1 / 3}
    ours = played(tiny, "rffl", scenarios, options=options, **numbers)
    for scenario in scenarios:
        theirs, seen = of("rffl", scenario), ours[scenario]
        before = np.concatenate([np.ones((1, 5), bool), theirs["inR"][:-1]])
        np.testing.assert_array_equal(seen["part"], before)
        assert (theirs["inR"].all()) == (scenario in ("plain", "ties"))
        # The score of who is removed is nobody's business here.
        np.testing.assert_allclose(seen["score"], np.where(before, theirs["phi"], 0), **CLOSE)
        np.testing.assert_allclose(seen["model"][MODELS], theirs["model"], **CLOSE)
        for name in ("r", "weight", "aggregate"):
            np.testing.assert_allclose(seen[name], theirs[name], **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cffl(tiny, variant):
    """Whoever earns no entry is given all of u_N by the official code, by mistake, and only then.

    Its threshold is the entry at place q - 1, which for q = 0 is the last one.
    """
    numbers, choices = VARIANTS[variant]
    scenarios = ("plain", "zero", "equal", "tiny")
    options = names_lib.configure(algorithms="cffl", **choices).methods[0].words()
    options = Options(**{name: word for name, word in options.items() if name in Options._fields})
    ours = played(tiny, "cffl", scenarios, options=options, removal=1 / 3, **numbers)
    for scenario in scenarios:
        theirs, seen = of("cffl", variant, scenario), ours[scenario]
        before = np.concatenate([np.ones((1, 5), bool), theirs["inR"][:-1]])
        np.testing.assert_array_equal(seen["part"], before)
        for name in ("r", "aggregate"):
            np.testing.assert_allclose(seen[name], theirs[name], **CLOSE)
        mistaken = theirs["inR"] & (seen["quota"] == 0)
        assert not mistaken[:, 1:].any()  # only ever the smallest client
        given = np.cumsum(mistaken[:, :, None] * seen["aggregate"][:, None, :], axis=0)
        np.testing.assert_allclose((seen["model"] + given)[MODELS], theirs["model"], **CLOSE)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_iafl_hands_out_as_many_updates(tiny, kappa):
    """How many of the unit vectors that four others sent are in a client's reward."""
    for scenario in ("plain", "zero", "negative", "ties"):
        sizes, theirs = of("inputs", scenario)["sizes"], of("iafl", scenario, str(kappa))["k"]
        standing = Standing(jnp.zeros(5), jnp.asarray(sizes / sizes.sum(), jnp.float32))
        upload = tiny.upload(np.eye(5, 8), sizes)
        rewards, *_ = mix(kappa).update(jax.random.key(0), upload, jnp.zeros(8), standing, ())
        np.testing.assert_array_equal(np.tile((rewards > 0).sum(1) - 1, (ROUNDS, 1)), theirs)


def test_iafl(tiny):
    """The reference model, which is the server's; with kappa 1 the models of all."""
    scenarios = ("plain", "zero", "negative", "ties")
    for kappa in (0.0, 1.0):
        ours = played(tiny, "iafl", scenarios, kappa=kappa, recovery=0.0)
        for scenario in scenarios:
            theirs, seen = of("iafl", scenario), ours[scenario]
            np.testing.assert_allclose(seen["server"], theirs["reference"], **CLOSE)
            best = of("inputs", scenario)["sizes"].argmax()
            np.testing.assert_allclose(seen["model"][:, best], theirs["reference"], **CLOSE)
            if kappa == 1.0:
                np.testing.assert_allclose(seen["model"][MODELS], theirs["all_to_all"], **CLOSE)


@pytest.mark.parametrize("scenario", ["plain", "zero", "negative", "ties"])
def test_rank_hands_out_the_same_updates(tiny, scenario):
    """Clients of equal accuracy share a rank here; there one of them stands above the other."""
    inputs, theirs = of("inputs", scenario), of("rank", scenario)["members"]
    upload, reward = tiny.upload(np.eye(5, 8), inputs["sizes"]), no_better()
    equal = 0
    for t, accuracy in enumerate(jnp.asarray(inputs["accs"])):
        rewards, *_ = reward.update(
            jax.random.key(0), upload, jnp.zeros(8), Standing(accuracy, accuracy), ()
        )
        ours, apart = np.asarray(rewards[:, :5] > 0), accuracy[:, None] != accuracy[None, :]
        np.testing.assert_array_equal(ours[apart], theirs[t][apart])
        equal += not apart[~np.eye(5, dtype=bool)].all()
    assert (equal > 0) == (scenario == "ties")


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 5.0])
def test_q_ffl(tiny, q):
    scenarios = ("plain", "zero", "negative", "ties")
    ours = played(tiny, "q_ffl", scenarios, q=q)
    for scenario in scenarios:
        theirs = of("q_ffl", scenario, str(q))["server"]
        np.testing.assert_allclose(ours[scenario]["server"], theirs, **CLOSE)


def test_shapfed(tiny):
    """The broadcast is that of the paper, gamma; below 0, it drives a model away from all others.

    There an update is the difference of two such models: errors are measured in units of the
    server's, which reaches 95, the models in units of their own.
    """
    scenarios = ("plain", "zero", "negative", "ties")
    ours = played(tiny, "shapfed_wa", scenarios, options=Options(negative="kept"), alpha=0.9)
    for scenario in scenarios:
        theirs, seen = of("shapfed", scenario), ours[scenario]
        units = np.maximum(1, np.maximum.accumulate(np.abs(theirs["server"]).max(axis=1)))[:, None]
        for name in ("score", "weight", "server"):
            np.testing.assert_allclose(seen[name] / units, theirs[name] / units, **CLOSE)
        unit = np.maximum(1, np.abs(theirs["model"]).max())
        np.testing.assert_allclose(seen["model"][MODELS] / unit, theirs["model"] / unit, **CLOSE)


@pytest.mark.parametrize("aggregation", ["uniform", "size"])
def test_fedavg_finetuned(tiny, aggregation):
    scenarios = ("plain", "zero", "negative", "ties")
    options = Options(aggregation=aggregation)
    ours = played(tiny, "fedavg_finetuned", scenarios, options=options)
    for scenario in scenarios:
        gap = np.abs(ours[scenario]["server"] - of("fedavg_finetuned", scenario)["server"]).max()
        assert gap < CLOSE["atol"] if aggregation == "uniform" else gap > 0.05


def test_cgsv_as_a_rival(tiny):
    """IAFL's own copy of it: with `cgsv:released`, everything."""
    options = Options(mask_scope="tensor", mask_count="ceil", mask_ties="all")
    scenarios = ("plain", "zero", "negative", "ties")
    numbers = {"gamma": 0.5, "alpha": 0.95, "beta": 1.0, "floor": 1e-3}
    numbers |= {"norm_epsilon": 1e-7, "cosine_epsilon": 1e-10}
    ours = played(tiny, "cgsv", scenarios, options=options, **numbers)
    for scenario in scenarios:
        theirs, seen = of("cgsv", scenario), ours[scenario]
        np.testing.assert_allclose(seen["score"], theirs["phi"], **CLOSE)
        np.testing.assert_allclose(seen["model"][MODELS], theirs["model"], **CLOSE)
        for name in ("r", "aggregate"):
            np.testing.assert_allclose(seen[name], theirs[name], **CLOSE)


# ---------------------------------------------------------------- defences


def judged(tiny, measure, scenario, server=None):
    """Scores [T, N] of a measure on the updates as they were sent, and its states; u_N the mean."""

    def round_(state, deltas):
        upload = tiny.upload(deltas, [1] * len(deltas), server=server)
        weights = jnp.full(len(deltas), 1 / len(deltas), deltas.dtype)
        score, state = measure.update(jax.random.key(0), upload, weights @ deltas, weights, state)
        return state, (score, state)

    deltas = jnp.asarray(of("inputs", scenario)["deltas"], jnp.float32)
    return jax.device_get(jax.lax.scan(round_, measure.init(*deltas.shape[1:]), deltas)[1])


# From a cosine of 64 terms to a weight it is two quotients and a logarithm, of slope 10 at most.
STEEP = {"rtol": 0, "atol": 4e-5}


@pytest.mark.parametrize("scenario", ["plain", "zero", "negative", "ties"])
def test_foolsgold(tiny, scenario):
    """DistributedML/FoolsGold 0aa5511, `ML/code/model_aggregator.py`, all features, no clipping."""
    scores, _ = judged(tiny, CONTRIBUTIONS["foolsgold"](), scenario)
    np.testing.assert_allclose(scores, of("foolsgold", scenario)["weight"], **STEEP)


@pytest.mark.parametrize(
    ("variant", "confidence", "drop"), [("mnist", 0.5, 0.1), ("cifar10", 0.9, 0.01)]
)
@pytest.mark.parametrize("scenario", ["plain", "zero", "ties"])
def test_viceroy(tiny, scenario, variant, confidence, drop):
    """LukasXperiaZ/FL-free-rider-benchmark 66e4893, with its numbers of two data sets.

    The first round's weights it does not tell. In `negative` one client is like nobody, which its
    FoolsGold takes otherwise than FoolsGold's authors.
    """
    theirs = of("viceroy", variant, scenario)
    scores, states = judged(tiny, viceroy(confidence, drop=drop), scenario)
    np.testing.assert_allclose(states.trust, theirs["trust"], **STEEP)
    want = np.where(theirs["kept"], theirs["p"], 0.0)
    np.testing.assert_allclose(scores[1:], want[1:], **STEEP)
    np.testing.assert_array_equal(scores[1:] > 0, theirs["kept"][1:])


@pytest.mark.parametrize("scenario", ["plain", "zero", "negative", "ties"])
def test_fgfl(tiny, scenario):
    """The same benchmark's contribution, relative to its largest magnitude."""
    scores, _ = judged(tiny, CONTRIBUTIONS["fgfl"](), scenario)
    theirs = of("fgfl", scenario)["contribution"]
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("scenario", ["plain", "zero", "negative", "ties"])
def test_wef(tiny, scenario):
    """The same benchmark's WEF, of which `experiments.free_riders` has the rule alone.

    All models start at w_0. In its first round it says nothing.
    """
    theirs = of("wef", scenario)
    scores, states = judged(tiny, free_riders.wef(NETWORK), scenario, of("inputs", scenario)["w0"])
    counts = states.counts[:, :, np.argsort(NETWORK.output().ravel())]
    np.testing.assert_array_equal(counts, theirs["counts"])
    np.testing.assert_allclose(scores[1:], theirs["dev"][1:], rtol=0, atol=2e-5)
    finds = free_riders.watchmen(NETWORK)["wef"].finds
    found = [np.asarray(finds(s, np.ones(5, bool), t)) for t, s in enumerate(scores)]
    np.testing.assert_array_equal(~np.array(found), theirs["kept"])


@pytest.mark.parametrize("scenario", ["plain", "zero", "negative"])
def test_s2_wef(tiny, scenario):
    """FujitsuResearch/S2-WEF 9841eaf: `wef.py`, and of `pipeline.detect` gamma and its threshold.

    A round is one local step, and everybody is sent u_N.
    Client 2 replays from round 3 on, from round 8 on with a little noise.
    """
    theirs = of("s2_wef", scenario)
    deltas = of("inputs", scenario)["deltas"].copy()
    deltas[:, 2] = theirs["replay"]
    everybody = jnp.ones(5, bool)
    heard = stateless(Contribution, lambda upload: jnp.ones_like(upload.norms))
    gamma = jax.jit(lambda d, sent: likeness(d, sent)[0])
    score = jax.jit(s2_wef(heard).update)
    sent = sent_lib.nothing(5, 64, 1)
    for t, sent_now in enumerate(jnp.asarray(deltas, jnp.float32)):
        upload = tiny.upload(sent_now, [1] * 5)._replace(sent=sent, round=jnp.int32(t))
        near = np.asarray(gamma(sent_now, sent))
        # Cosine over squared distance: whole numbers but for a root and two quotients.
        np.testing.assert_allclose(near, theirs["gamma"][t], rtol=2e-6)
        scores, _ = score(jax.random.key(0), upload, upload.server, upload.norms, ())
        found = np.asarray(scores) == 0
        np.testing.assert_array_equal(found, theirs["replays"][t])
        assert found.tolist() == [False, False, t >= 3, False, False]
        aggregate = jnp.mean(sent_now, axis=0)
        rewards = jnp.broadcast_to(aggregate, sent_now.shape)
        sent = sent_lib.remembered(sent, jnp.int32(t), aggregate, rewards, everybody)
