"""The server's rules against the oracle, option by option, and their edges and algebra."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from declared import METHODS, READS, TABLES, Hyper, Options
from hypothesis import given, settings
from hypothesis import strategies as st

import cgsv_jax as cg
from cgsv_jax.core import local, simulation
from cgsv_jax.rules import contribution, reputation, reward
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.methods import cgsv_released
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Standing

EPS = float(np.finfo(np.float32).eps)
NUMBERS = {f: Hyper._field_defaults.get(f) for f in Hyper._fields}
TENSORS = (1, 5, 12, 2)  # a tensor of one element, and one longer than the rest together
D = sum(TENSORS)
SIZES = (5, 3, 8, 6)
ROUNDS = 3
few = settings(max_examples=30, deadline=None, derandomize=True)


def raw_updates(count=4, seed=0, rounds=ROUNDS, dtype=np.float32):
    """dw [T, N, D] that share a direction, so that all scores matter; one client points away."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(rounds, 1, D))
    noise = rng.normal(size=(rounds, count, D)) * np.linspace(0.3, 2, count)[:, None]
    updates = (common + noise) * rng.uniform(0.1, 3, (rounds, count, 1))
    updates[:, -1] = -updates[:, 0] if count > 1 else updates[:, -1]
    return updates.astype(dtype)


def oracle_options(numbers, options):
    """The same settings for the oracle; `learning_rate` and `decay` are not the server's."""
    shared = set(Hyper._fields) | set(Options._fields)
    known = {f: getattr(oracle.PAPER, f) for f in oracle.PAPER.__dataclass_fields__}
    values = numbers._asdict() | options._asdict()
    return oracle.Options(
        **{
            k: (values[k] if isinstance(values[k], (str, bool)) else float(values[k]))
            for k in known
            if k in shared
        }
    )


def play(algorithm, updates, sizes, present, upload):
    """[(download, standing)] round by round, eagerly."""
    state = algorithm.init(updates.shape[1], updates.shape[2])
    seen = []
    for t, (dw, here) in enumerate(zip(updates, present, strict=True)):
        sent = upload(dw, sizes, here)._replace(round=jnp.int32(t))
        download, standing, state = algorithm.update(jax.random.key(0), sent, state)
        seen.append((download, standing))
    return seen


def check(seen, updates, sizes, present, numbers, options, eps, ratios_on=None):
    """Every round of `play` against the oracle, which goes on from its own numbers.

    In units of `eps`, for numbers of order 1. u_N sums N terms, psi D products of entries that are
    each off by N, a norm adds D / 2: (N + D) roundings for psi, and r is smaller than psi. Rounds
    hand on r alone, whose error shrinks by alpha: at most 1 / (1 - alpha) = 5 times as much. The
    ratio divides r by its maximum, which is at least 1 / N of the sum.
    """
    count = len(sizes)
    roundings = 5 * (count + updates.shape[2]) * eps
    setting = oracle_options(numbers, options)
    tensors = options.tensors
    state = oracle.start(np.zeros(updates.shape[2]), count)
    for t, ((download, standing), dw, here) in enumerate(
        zip(seen, np.float64(updates), present, strict=True)
    ):
        gamma = setting.gamma * float(numbers.gamma_decay) ** t  # Gamma_t = Gamma d^t
        of_round = dataclasses.replace(setting, gamma=gamma)
        # Quotas are only comparable if they start from the same ratio.
        ratio = reward.ratios(standing.reputation, here, numbers.beta, on=options.beta_on)
        given_ratio = np.asarray(ratio)
        state, want = oracle.server_round(
            state, dw, np.array(sizes), here, of_round, ratios=given_ratio, tensors=tensors
        )
        close = {"rtol": 0, "atol": roundings}
        np.testing.assert_allclose(download.weights, want["weights"], **close)
        np.testing.assert_allclose(download.aggregate, want["aggregate"], **close)
        np.testing.assert_allclose(standing.score, want["psi"], **close)
        np.testing.assert_allclose(standing.reputation, want["r"], **close)
        own = oracle.earned_ratios(want["r"], here, setting)
        np.testing.assert_allclose(ratio, own, rtol=0, atol=count * roundings)
        # Masks are exact: the oracle's, of the very aggregate that was masked.
        total = np.asarray(download.aggregate)
        lengths = [len(total)] if options.mask_scope == "vector" else tensors
        keep = np.array(
            [oracle.mask(total, want["quota"][i], lengths, options.mask_ties) for i in range(count)]
        )
        np.testing.assert_array_equal(download.rewards, np.where(keep, total, 0))
        kept = want["quota"].sum(1) if options.mask_ties == "position" else keep.sum(1)
        np.testing.assert_array_equal(download.quota, kept)
        assert not np.any(np.asarray(download.rewards)[~here])


# One absent at first, one from its second round on, and everybody at last.
PRESENT = np.array([[1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)


@pytest.mark.parametrize("scope", ["vector", "tensor"])
@pytest.mark.parametrize("count", ["floor", "ceil"])
@pytest.mark.parametrize("ties", ["position", "all"])
@pytest.mark.parametrize("beta_on", ["sum", "max"])
def test_every_combination_of_the_option_table(tiny, scope, count, ties, beta_on):
    """By way of the tables, two rounds, somebody absent in each; every second run is all ties."""
    outer = (scope, count, ties, beta_on)
    turn = ("tensor", "ceil", "all", "max")
    words = itertools.product(("size", "uniform"), (False, True), (False, True))
    for first, normalise, relative in words:
        # Two more choices, which half of these runs make each, in every pairing with the others.
        chosen = [a == b for a, b in zip(outer, turn, strict=True)]
        tied = (sum(chosen) + (first == "size") + normalise) % 2 == 1
        half = sum(chosen[::2]) + normalise + relative
        norm_eps, cosine_eps = (0.2, 0.6) if half % 2 else (0.0, 0.0)
        numbers = tiny.hyper(norm_epsilon=norm_eps, cosine_epsilon=cosine_eps, floor=0.1, beta=3.0)
        options = Options(
            mask_scope=scope, mask_count=count, mask_ties=ties, beta_on=beta_on,
            first_weights=first, normalise_scores=normalise, relative_floor=relative,
            tensors=TENSORS,
        )  # fmt: skip
        updates = raw_updates()
        if tied:  # u_N is then made of few magnitudes, exactly: blocks of equal columns
            updates = updates[:, :, np.arange(D) // 5] * np.where(np.arange(D) % 2, 1, -1)
            updates = updates.astype(np.float32)
        algorithm = METHODS["cgsv"](numbers, options)
        seen = play(algorithm, updates[:2], SIZES, PRESENT[:2], tiny.upload)
        check(seen, updates[:2], SIZES, PRESENT[:2], numbers, options, EPS)


# ---------------------------------------------------------------- whole rounds in x64


def oracle_world(data, clients, params):
    sizes = clients.mask.sum(1)
    rows = [clients.rows[i][: sizes[i]] for i in range(len(sizes))]
    return {
        "init_params": [np.float64(p) for p in jax.tree.leaves(params)],
        "client_inputs": [np.float64(data.inputs[r]) for r in rows],
        "client_labels": [data.labels[r] for r in rows],
    }


def in_rounds(key, data, clients, orders, federation):
    """What the wire carried, round by round: one compiled round, called T times."""
    algorithm = federation.algorithm

    def update(key, upload, state):
        download, standing, state = algorithm.update(key, upload, state)
        return download, standing, (state, upload, download, standing)

    spied = federation._replace(algorithm=algorithm._replace(update=update))
    one_round = jax.jit(
        lambda state, data, clients, orders: simulation.round_(
            key, state, data, clients, spied, orders
        )
    )
    state = simulation.init(key, len(clients.mask), federation)
    start, seen = state, []
    for order in orders:
        state, record = one_round(state, data, clients, order)
        rules, *wire = state.algorithm
        state = state._replace(algorithm=rules)
        seen.append((state, *wire, record))
    return start, seen


@pytest.mark.parametrize("name", ["paper", "released", "fedavg", "standalone"])
def test_three_whole_rounds(tiny, name):
    """Ragged clients, last short batches, the learning rate decaying per round and per epoch."""
    released = name == "released"
    setting = oracle.RELEASED if released else oracle.PAPER
    model = tiny.mlp() if released else tiny.softmax()
    gradient = oracle.mlp_gradient if released else oracle.softmax_gradient
    setting = oracle.Options(**(vars(setting) | {"learning_rate": 0.3, "decay": 0.8, "alpha": 0.8}))
    per = setting.decay_per
    data, clients = tiny.world(pad=2)
    orders = tiny.orders(clients, ROUNDS, epochs=2)
    with jax.enable_x64(True):
        numbers = Hyper(
            **{f: np.float64(getattr(setting, f, default)) for f, default in NUMBERS.items()}
        )
        options = Options(
            **{f: getattr(setting, f, default) for f, default in Options()._asdict().items()}
        )
        data = data._replace(inputs=np.float64(data.inputs))
        algorithm = "cgsv" if name in ("paper", "released") else name
        federation = tiny.federation(algorithm, model, numbers, options, per=per)
        if released:  # the short cut must be the table's line
            algorithm_ = cgsv_released(tiny.sizes_of(model), 0.5, 0.8, 1.0)
            federation = federation._replace(algorithm=algorithm_)
        start, seen = in_rounds(jax.random.key(3), data, clients, orders, federation)
        params = model.init(jax.random.fold_in(jax.random.key(3), 0))
        world = oracle_world(data, clients, params)
        np.testing.assert_array_equal(start.server, oracle.ravel(world["init_params"]))
        want = oracle.run(
            **world, orders=orders, options=setting, algorithm=algorithm, batch=4,
            gradient=gradient,
        )  # fmt: skip

    # Six steps a round, sums of at most 12 terms, three rounds, a factor (1 + lr L)^steps with
    # L <= 1 for amplification: 6 x 12 x 3 x 1.3^18 = 2.4e4 units of 2^-52, and one norm that
    # divides (an update of .1 is rescaled to .5): 3e-11. Single precision is 1e-7 off.
    close = {"rtol": 0, "atol": 3e-11}
    for t, (state, upload, download, standing, record) in enumerate(seen):
        assert state.server.dtype == download.rewards.dtype == np.float64
        np.testing.assert_allclose(upload.learning_rate, want[t]["learning_rates"][0], rtol=1e-15)
        np.testing.assert_allclose(upload.deltas, want[t]["deltas"], **close)
        np.testing.assert_allclose(upload.norms, want[t]["norms"], **close)
        np.testing.assert_allclose(download.weights, want[t]["weights"], **close)
        np.testing.assert_allclose(download.aggregate, want[t]["aggregate"], **close)
        np.testing.assert_allclose(download.rewards, want[t]["rewards"], **close)
        np.testing.assert_allclose(state.server, want[t]["server"], **close)
        np.testing.assert_allclose(state.clients, want[t]["clients"], **close)
        np.testing.assert_array_equal(upload.num_examples, clients.mask.sum(1))
        np.testing.assert_array_equal(record.present, want[t]["present"])
        np.testing.assert_allclose(record.norm, want[t]["norms"], **close)
        np.testing.assert_allclose(record.weight, want[t]["weights"], **close)
        assert state.round == t + 1
        if algorithm == "cgsv":
            np.testing.assert_allclose(standing.score, want[t]["psi"], **close)
            np.testing.assert_allclose(standing.reputation, want[t]["r"], **close)
            np.testing.assert_allclose(record.score, want[t]["psi"], **close)
            np.testing.assert_allclose(record.reputation, want[t]["r"], **close)
            # In float64 a ratio lies within 1e-10 of an integer / D only by design.
            np.testing.assert_array_equal(
                record.quota,
                want[t]["quota"].sum(1) if not released else want[t]["mask"].sum(1),
            )


# ---------------------------------------------------------------- every field is read


HYPER_CHANGES = {
    "learning_rate": 0.1,
    "decay": 0.5,
    "gamma": 0.2,
    "gamma_decay": 0.5,
    "alpha": 0.3,
    "beta": 4.0,
    "floor": 0.2,
    "norm_epsilon": 0.3,
    "cosine_epsilon": 0.9,
}
OPTION_CHANGES = {
    "contribution": "projection",
    "aggregation": "uniform",
    "reward": "scale",
    "mask_scope": "tensor",
    "mask_count": "ceil",
    "mask_ties": "all",
    "first_weights": "uniform",
    "beta_on": "max",
    "normalise_scores": True,
    "relative_floor": True,
    "tensors": (12, 1, 5, 2),
}
PREDICTED_BY_HAND = ("contribution", "aggregation", "reward")


def test_every_field_has_a_test():
    """But for those of other methods and of other parts, which have tests of their own."""
    parts = [*TABLES.contributions.values(), *TABLES.aggregations.values()]
    others = set(spec_lib.every_option(parts, TABLES.parts))
    mine = set(TABLES.options) & READS["cgsv"] - {"removal"} - others
    mine |= {"cosine_epsilon", "first_weights"}
    assert set(HYPER_CHANGES) == mine & set(Hyper._fields) | {"learning_rate", "decay"}
    assert set(OPTION_CHANGES) == mine - set(Hyper._fields) - {"removed"} | {"tensors"}


def server_outcome(tiny, numbers, options, updates):
    seen = play(METHODS["cgsv"](numbers, options), updates, SIZES, PRESENT, tiny.upload)
    return np.concatenate(
        [np.concatenate([d.rewards.ravel(), s.reputation]) for d, s in seen], dtype=np.float64
    )


@pytest.mark.parametrize("field", [f for f in HYPER_CHANGES if f not in ("learning_rate", "decay")])
def test_a_number_of_the_server_matters_as_predicted(tiny, field):
    options = Options(tensors=TENSORS, relative_floor=False)
    base, changed = tiny.hyper(), tiny.hyper(**{field: HYPER_CHANGES[field]})
    updates = raw_updates()
    seen = play(METHODS["cgsv"](changed, options), updates, SIZES, PRESENT, tiny.upload)
    check(seen, updates, SIZES, PRESENT, changed, options, EPS)
    before, after = (server_outcome(tiny, h, options, updates) for h in (base, changed))
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("per", ["round", "epoch"])
@pytest.mark.parametrize("field", ["learning_rate", "decay"])
def test_a_number_of_the_trainer_matters_as_predicted(tiny, field, per):
    """Rate and decay reach training; that it is right is the three rounds' business."""
    value = HYPER_CHANGES[field]
    base, changed = tiny.hyper(), tiny.hyper(**{field: value})
    rates = [
        [local.decayed(h.learning_rate, h.decay, per=per, epochs=2)(t, e) for t in (0, 3)
         for e in (0, 1)]
        for h in (base, changed)
    ]  # fmt: skip
    setting = oracle.Options(**({"learning_rate": 0.3, "decay": 0.9} | {field: value}),
                             decay_per=per)  # fmt: skip
    want = np.concatenate([oracle.learning_rates(setting, t, 2) for t in (0, 3)])
    # Numbers of float32, one power: its error is a few units in the last place.
    np.testing.assert_allclose(rates[1], want, rtol=8 * EPS)
    assert np.abs(np.array(rates[0]) - np.array(rates[1])).max() > 1e-2


@pytest.mark.parametrize("field", [f for f in OPTION_CHANGES if f not in PREDICTED_BY_HAND])
def test_a_choice_matters_as_predicted(tiny, field):
    numbers = tiny.hyper(floor=0.2, beta=2.0)
    base = Options(tensors=TENSORS)
    if field == "tensors":
        base = base._replace(mask_scope="tensor")
    changed = base._replace(**{field: OPTION_CHANGES[field]})
    updates = raw_updates()
    if field == "mask_ties":  # only ties can show it
        updates = updates[:, :, np.arange(D) // 5]
    seen = play(METHODS["cgsv"](numbers, changed), updates, SIZES, PRESENT, tiny.upload)
    check(seen, updates, SIZES, PRESENT, numbers, changed, EPS)
    before, after = (server_outcome(tiny, numbers, o, updates) for o in (base, changed))
    assert np.abs(before - after).max() > 1e-3


def test_other_rules_by_hand(tiny):
    """What the oracle does not know: projection, uniform and size weights, scale and share."""
    numbers, updates = tiny.hyper(beta=2.0), raw_updates()
    close = {"rtol": 0, "atol": 20 * (D + 4) * EPS}  # as in `check`, updates up to 20 long

    def rounds(**options):
        algorithm = METHODS["cgsv"](numbers, Options(**options))
        return play(algorithm, updates, SIZES, PRESENT, tiny.upload)

    lengths = np.linalg.norm(np.float64(updates), axis=-1)
    for t, (download, standing) in enumerate(rounds(contribution="projection")):
        along = updates[t] @ np.float64(download.aggregate) / np.linalg.norm(download.aggregate)
        want = np.where(PRESENT[t], np.float64(download.weights) * along, 0)
        np.testing.assert_allclose(standing.score, want, **close)
    shares = {"size": np.array(SIZES) / sum(SIZES), "uniform": np.full(4, 0.25)}
    for name, share in shares.items():
        for t, (download, _) in enumerate(rounds(aggregation=name)):
            want = np.where(PRESENT[t], share, 0)
            want = want / want.sum()
            np.testing.assert_allclose(download.weights, want, **close)
            total = (want * 0.5 / lengths[t]) @ np.float64(updates[t])
            np.testing.assert_allclose(download.aggregate, total, **close)
    for t, (download, standing) in enumerate(rounds(reward="scale")):
        ratio = oracle.ratios(np.float64(standing.reputation), 2.0, PRESENT[t])
        want = ratio[:, None] * np.float64(download.aggregate)
        np.testing.assert_allclose(download.rewards, want, **close)
        np.testing.assert_array_equal(download.quota, np.where(PRESENT[t], D, 0))
    for t, (download, _) in enumerate(rounds(reward="share")):
        want = np.where(PRESENT[t][:, None], np.asarray(download.aggregate), 0)
        np.testing.assert_array_equal(download.rewards, want)
        np.testing.assert_array_equal(download.quota, np.where(PRESENT[t], D, 0))


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"mask_scope": "layer"}, "vector or tensor"),
        ({"mask_count": "round"}, "floor or ceil"),
        ({"mask_ties": "none"}, "position or all"),
        ({"first_weights": "sizes"}, "size or uniform"),
        ({"beta_on": "mean"}, "sum or max"),
    ],
    ids=str,
)
def test_a_wrong_word_is_refused(tiny, wrong, allowed):
    ((name, word),) = wrong.items()
    with pytest.raises(ValueError, match=f"^{name} is '{word}', it must be {allowed}$"):
        METHODS["cgsv"](tiny.hyper(), Options(**wrong))


def test_a_mask_by_tensors_needs_their_sizes(tiny):
    """It must not mask the whole vector silently."""
    with pytest.raises(ValueError, match="mask_scope is 'tensor', which needs the sizes"):
        METHODS["cgsv"](tiny.hyper(), Options(mask_scope="tensor"))


def test_tensors_must_fill_the_vector(tiny):
    options = Options(mask_scope="tensor", tensors=(3, 4))
    with pytest.raises(ValueError, match="7 parameters, the model has 8"):
        METHODS["cgsv"](tiny.hyper(), options).init(2, 8)


# ---------------------------------------------------------------- edges of the ratio


def ratios(r, beta, present=None, on="sum"):
    r = jnp.asarray(r, jnp.float32)
    present = jnp.ones(r.size, bool) if present is None else jnp.asarray(present)
    return np.asarray(reward.ratios(r, present, beta, on=on))


@pytest.mark.parametrize("on", ["sum", "max"])
def test_extremes_of_beta(on):
    """0 is the limit r / max r, infinity gives 1: as numbers, traced and as one axis."""
    r = np.float32([0.5, 0.3, 0.2, 0.0])
    limit = r / np.float32(0.5)
    traced = jax.jit(lambda b: reward.ratios(jnp.asarray(r), jnp.ones(4, bool), b, on=on))
    lifted = jax.vmap(traced)(jnp.array([0.0, 1.0, jnp.inf]))
    for got in (ratios(r, 0.0, on=on), traced(0.0), lifted[0]):
        np.testing.assert_allclose(got, limit, rtol=EPS)  # one division
    for got in (ratios(r, float("inf"), on=on), traced(jnp.inf), lifted[2]):
        np.testing.assert_array_equal(got, 1)  # the one with reputation 0 included
    for got in (ratios(r, 1.0, on=on), lifted[1]):
        want = oracle.ratios(np.float64(r), 1.0, np.ones(4, bool), on)
        np.testing.assert_allclose(got, want, rtol=8 * EPS)  # two tanh and two divisions
        assert got[0] == 1
    # 1e7, the released code's infinity: tanh is 1 wherever r >= 1e-6.
    np.testing.assert_array_equal(ratios(r[:3], 1e7, on=on), 1)


@pytest.mark.parametrize("beta", [1e-10, 1e-30, 1e-36, 3e-38, 2.4e-38, 1.5e-38, 1e-38, 1e-44])
def test_tiny_beta_is_the_limit(beta):
    """Also where beta r leaves the normal numbers for some clients and not for others."""
    r = np.float32([0.6, 0.39, 0.01])
    got = ratios(r, jnp.float32(beta))
    # tanh x = x there; beta r has one rounding, the quotient another.
    np.testing.assert_allclose(got, r / np.float32(0.6), rtol=4 * EPS)


def test_no_reputation_at_all_is_everything():
    for beta in (0.0, 1.0, np.inf):
        np.testing.assert_array_equal(ratios([0.0, 0.0], beta), 1)
        np.testing.assert_array_equal(ratios([0.0, 0.0, 0.3], beta, [1, 1, 0]), [1, 1, 0])
        np.testing.assert_array_equal(ratios([0.2, 0.8], beta, [0, 0]), 0)


@few
@given(st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=5, max_size=5),
       st.sampled_from([0.0, 1e-3, 0.5, 1.0, 2.0, 40.0, 1e7, float("inf")]),
       st.sampled_from(["sum", "max"]))  # fmt: skip
def test_quota_is_monotone_in_reputation(r, beta, on):
    ratio = ratios(r, beta, on=on)
    assert ((ratio >= 0) & (ratio <= 1)).all()
    order = np.argsort(np.float32(r), kind="stable")
    for count in ("floor", "ceil"):
        quota = np.asarray(reward.quotas(jnp.asarray(ratio), 1000, count=count))[order]
        assert (np.diff(quota) >= 0).all()
    best = np.float32(r) == np.float32(r).max()
    assert (ratio[best] == 1).all()


@pytest.mark.parametrize("size", [40, 10_000, 200_000])
def test_equal_reputations_get_equal_quotas(size, tiny):
    """Clients who are each other's rotations have equal cosines, but for roundings."""
    count = 10
    drawn = np.random.default_rng(0).normal(1, 1, (count, size // count)).astype(np.float32)
    turned = np.stack([np.roll(drawn, i, axis=0).ravel() for i in range(count)])
    algorithm = METHODS["cgsv"](tiny.hyper(alpha=0.0), Options())
    sent, state = tiny.upload(turned, [3] * count), algorithm.init(count, size)
    download, standing, _ = jax.jit(algorithm.update)(jax.random.key(0), sent, state)
    assert np.ptp(standing.reputation) > 0  # else there was nothing to mend
    assert download.quota.tolist() == [size] * count


def test_two_clients_of_three_rows_get_the_same(tiny):
    """Of two clients the sum is as far from the one as from the other, whatever they hold."""
    data, clients = tiny.world((3, 3))
    federation = tiny.federation("cgsv", tiny.mlp(), tiny.hyper(alpha=0.0), rounds=2, epochs=1)
    _, record, _ = simulation.run(jax.random.key(0), data, clients, federation)
    size = sum(tiny.sizes_of(tiny.mlp()))
    assert record.quota.tolist() == [[size, size]] * 2


@pytest.mark.parametrize("entries", [1, 10**6])
def test_a_ratio_that_more_than_roundings_keep_from_1_is_itself(entries):
    r = jnp.float32([0.5, 0.5 * (1 - 3e-5), 0.5 * (1 - 4 * EPS)])
    got = reward.ratios(r, jnp.ones(3, bool), 0.0, entries=entries)
    np.testing.assert_array_equal(got, [1, r[1] / r[0], 1])


@pytest.mark.parametrize("beta", [1.0, 30.0])
def test_the_maximum_is_over_present_clients(beta):
    got = ratios([0.6, 0.3, 0.1], beta, [0, 1, 1])
    assert got[0] == 0
    assert got[1] == 1
    np.testing.assert_allclose(got[2], np.tanh(beta * 0.1) / np.tanh(beta * 0.3), rtol=8 * EPS)


# ---------------------------------------------------------------- edges of the quota


@pytest.mark.parametrize("count", ["floor", "ceil"])
@pytest.mark.parametrize(
    "length", [1, 2, 7, 1000, 2**24 - 1, 2**24 + 1, 2**24 + 3, 2**24 + 4, 2**30 + 1, 2**31 - 1]
)
def test_quota_of_a_ratio(length, count):
    """Exact integers, also where float32 cannot hold the length."""
    ratio = np.float32([0, 1e-9, 1 / 3, 0.5, 1 - EPS / 2, 1])
    with np.errstate(over="ignore"):
        want = [oracle.quota(length, r, count) for r in ratio]
    got = reward.quotas(jnp.asarray(ratio), length, count=count)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, want)
    assert got[-1] == (length if count == "floor" else length - 1)


def test_one_element_under_ceil_is_never_sent(tiny):
    """min(ceil(1 ratio), 0) = 0, where the released code would fail."""
    options = Options(mask_scope="tensor", mask_count="ceil", mask_ties="all", tensors=(1,) * D)
    updates = raw_updates()
    algorithm = METHODS["cgsv"](tiny.hyper(), options)
    for download, _ in play(algorithm, updates, SIZES, np.ones((ROUNDS, 4), bool), tiny.upload):
        assert not np.any(download.rewards)
        assert not np.any(download.quota)


def test_ties_of_an_all_zero_tensor_are_all_kept_and_harmless(tiny):
    options = Options(mask_scope="tensor", mask_count="ceil", mask_ties="all", tensors=TENSORS)
    updates = raw_updates()
    updates[:, :, 1:6] = -0.0
    seen = play(METHODS["cgsv"](tiny.hyper(), options), updates, SIZES, PRESENT, tiny.upload)
    check(seen, updates, SIZES, PRESENT, tiny.hyper(), options, EPS)
    download, _ = seen[-1]
    assert not np.any(np.asarray(download.rewards)[:, 1:6])


def mask(total, ratio, **options):
    """sparsify of a given u_N by given ratios; beta = 0 makes them out of reputations."""
    total, ratio = jnp.asarray(total, jnp.float32), jnp.asarray(ratio, jnp.float32)
    rule = reward.sparsify(0.0, **options)
    upload = OnlyPresent(ratio > 0)
    return rule.update(
        None, upload, total, Standing(ratio, ratio), rule.init(ratio.size, total.size)
    )


class OnlyPresent(NamedTuple):
    """All of an upload that the rule may look at."""

    present: jax.Array
    population: None = None


def test_negative_zero_and_ties_go_by_position():
    total = [0.0, -2.0, 2.0, -0.0, 2.0, -2.0]
    rewards, quota, _ = mask(total, [1.0, 0.5, 0.34, 0.2])
    assert quota.tolist() == [6, 3, 2, 1]
    assert rewards[1].tolist() == [0, -2, 2, 0, 2, 0]
    assert rewards[2].tolist() == [0, -2, 2, 0, 0, 0]
    assert rewards[3].tolist() == [0, -2, 0, 0, 0, 0]
    rewards, quota, _ = mask(total, [1.0, 0.2], ties="all")
    assert quota.tolist() == [6, 4]
    assert rewards[1].tolist() == [0, -2, 2, 0, 2, -2]


# ---------------------------------------------------------------- edges of the reputation


def judge(scores, old=None, present=None, alpha=0.8, **options):
    """One moving average over scores that are given."""
    scores = jnp.asarray(scores, jnp.float32)
    old = jnp.zeros_like(scores) if old is None else jnp.asarray(old, jnp.float32)
    present = jnp.ones(scores.size, bool) if present is None else jnp.asarray(present, bool)
    measure = contribution.cosine()._replace(update=lambda k, u, a, w, s: (scores, s))
    rule = reputation.moving_average(measure, alpha, **options)
    state = rule.init(scores.size, 3)
    standing, _ = rule.update(None, OnlyPresent(present), None, None, Standing(old, old), state)
    return np.asarray(standing.reputation)


def test_a_rule_without_memory_reads_what_it_names():
    """In any order; `update` itself has the family's arguments and hands on the state."""
    rule = stateless(
        cg.Reward, lambda standing, key: (standing - key, key), energy=lambda quota: quota
    )
    assert rule.update(1, None, None, 5, "kept") == (4, 1, "kept")
    assert rule.energy(None, None, None, 7) == 7
    one = stateless(cg.Reputation, lambda weights: Standing(weights, 2), needs=cg.Needs(alone=True))
    assert one.update(None, None, None, 3, None, ()) == (Standing(3, 2), ())
    assert one.needs.alone
    with pytest.raises(ValueError, match="a rule reads standing, it may read key, upload, aggr"):
        stateless(cg.Contribution, lambda upload, standing: upload)


def test_all_negative_scores_and_no_floor_become_uniform():
    np.testing.assert_array_equal(judge([-0.5, -0.1, -0.9, -0.2], floor=0.0), 0.25)
    got = judge([-0.5, -0.1, -0.9, 0.3], floor=0.0, present=[1, 1, 0, 0])
    np.testing.assert_array_equal(got, [0.5, 0.5, 0, 0])


def test_alpha_one_freezes_the_first_normalised_value():
    """r_{i,0} = 0 is floored, so it freezes at uniform, and then nothing moves it."""
    first = judge([0.9, 0.1, 0.5], alpha=1.0)
    np.testing.assert_allclose(first, 1 / 3, rtol=2 * EPS)
    old = np.float32([0.5, 0.3, 0.2])
    np.testing.assert_allclose(judge([-0.9, 0.1, 0.5], old, alpha=1.0), old, rtol=4 * EPS)


def test_alpha_zero_forgets():
    got = judge([0.9, 0.3, 0.6], [0.0, 0.0, 1.0], alpha=0.0)
    np.testing.assert_allclose(got, [0.5, 1 / 6, 1 / 3], rtol=4 * EPS)


def test_floor_comes_before_normalising():
    """(.2 .6 | floor .05) / .17: were the floor applied last, it would be .05."""
    got = judge([0.6, -0.9], floor=0.05, alpha=0.8)
    np.testing.assert_allclose(got, np.array([0.12, 0.05]) / 0.17, rtol=8 * EPS)
    got = judge([0.6, -0.9], floor=0.05, alpha=0.8, relative_floor=True)
    np.testing.assert_allclose(got, np.array([0.12, 0.025]) / 0.145, rtol=8 * EPS)


def test_absent_keeps_and_the_others_share_the_rest():
    old = np.float32([0.4, 0.3, 0.2, 0.1])
    got = judge([0.9, 0.0, 0.5, 0.5], old, present=[1, 0, 1, 1])
    assert got[1] == old[1]
    mixed = 0.8 * np.float64(old) + 0.2 * np.array([0.9, 0, 0.5, 0.5])
    mixed[1] = 0
    want = 0.7 * mixed / mixed.sum()
    np.testing.assert_allclose(got[[0, 2, 3]], want[[0, 2, 3]], rtol=8 * EPS)
    np.testing.assert_allclose(got.sum(), 1, atol=8 * EPS)


def test_reputation_is_never_negative():
    """The mass left by absent clients must not be the rounding error of their sum."""
    old = np.float32([0, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2])
    for _ in range(20):  # find a sum beyond 1, as normalising makes them
        old[1:] = np.random.default_rng(int(1e6 * old[1:].sum())).random(6)
        old /= old.sum()
        while np.asarray(jnp.sum(jnp.asarray(old))) <= 1:
            old[1:] = np.nextafter(old[1:], np.float32(1))
        assert old.sum() < 1 + 8 * EPS
        got = judge([-0.5] + [0.3] * 6, old, present=[1] + [0] * 6, floor=0.0)
        assert (got >= 0).all()


def test_normalised_scores_keep_alpha_meaningful():
    """With scores that sum to 1 the newest round weighs 1 - alpha whatever N is."""
    old = np.full(50, 0.02)
    scores = np.linspace(0.1, 0.9, 50)
    got = judge(scores, old, normalise_scores=True, floor=0.0)
    want = 0.8 * old + 0.2 * scores / scores.sum()
    np.testing.assert_allclose(got, want, rtol=50 * EPS)


@few
@given(
    st.lists(st.floats(-1, 1, width=32, allow_subnormal=False), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.booleans(),
)
def test_reputations_sum_to_one(scores, present, normalise):
    old = np.float32([0.4, 0.3, 0.2, 0.1])
    got = judge(scores, old, present=present, normalise_scores=normalise)
    assert (got >= 0).all()
    # A sum of four, a quotient and a product, and the mass is a difference of such a sum.
    np.testing.assert_allclose(got.sum(), 1, atol=12 * EPS)
    np.testing.assert_array_equal(got[~np.array(present)], old[~np.array(present)])


# ---------------------------------------------------------------- edges of a server round


def one_round(tiny, updates, present=None, sizes=None, **options):
    count = len(updates)
    sizes = SIZES[:count] if sizes is None else sizes
    algorithm = METHODS["cgsv"](tiny.hyper(), Options(tensors=TENSORS, **options))
    present = np.ones((1, count), bool) if present is None else np.array([present], bool)
    return play(algorithm, np.asarray(updates)[None], sizes, present, tiny.upload)[0]


RELEASED = {"mask_scope": "tensor", "mask_count": "ceil", "mask_ties": "all"}


@pytest.mark.parametrize("options", [{}, RELEASED], ids=["paper", "released"])
def test_an_update_of_zeros_is_legal(tiny, options):
    updates = raw_updates()[0]
    updates[1] = 0
    download, standing = one_round(tiny, updates, **options)
    assert standing.score[1] == 0
    assert download.weights[1] == np.float32(3 / 22)  # present, so its share counts
    np.testing.assert_allclose(standing.reputation.sum(), 1, atol=4 * EPS)
    download, standing = one_round(tiny, 0 * updates, **options)
    np.testing.assert_array_equal(download.rewards, 0)
    np.testing.assert_array_equal(standing.score, 0)
    np.testing.assert_array_equal(standing.reputation, 0.25)


@pytest.mark.parametrize("options", [{}, RELEASED], ids=["paper", "released"])
def test_everybody_absent_changes_nothing(tiny, options):
    algorithm = METHODS["cgsv"](tiny.hyper(), Options(tensors=TENSORS, **options))
    present = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    seen = play(algorithm, raw_updates(), SIZES, present, tiny.upload)
    (_, first), (download, standing), _ = seen
    for nothing in (download.aggregate, download.rewards, download.weights, download.quota):
        np.testing.assert_array_equal(nothing, 0)
    np.testing.assert_array_equal(standing.score, 0)
    np.testing.assert_array_equal(standing.reputation, first.reputation)
    # and the next round is as if the empty one had not been
    without = play(algorithm, raw_updates()[[0, 2]], SIZES, present[[0, 2]], tiny.upload)
    jax.tree.map(np.testing.assert_array_equal, seen[2], without[1])


def test_one_client_is_the_server(tiny):
    algorithm = METHODS["cgsv"](tiny.hyper(), Options())
    sent = tiny.upload(raw_updates()[0, :1], SIZES[:1])
    update = jax.jit(algorithm.update)
    download, standing, _ = update(jax.random.key(0), sent, algorithm.init(1, D))
    assert download.weights.tolist() == standing.reputation.tolist() == [1]
    assert download.quota.tolist() == [D]
    np.testing.assert_array_equal(download.rewards[0], download.aggregate)
    np.testing.assert_allclose(standing.score, 1, atol=(D + 4) * EPS)
    # Norm Gamma, up or down: a sum of D squares.
    np.testing.assert_allclose(np.linalg.norm(download.aggregate), 0.5, rtol=(D + 4) * EPS)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_uploads_are_blind_to_scale(tiny, scale):
    """One client's own factor changes nothing but rounding, however large."""
    updates = raw_updates()[0]
    download, standing = one_round(tiny, updates)
    scaled = updates * np.float32([1, scale, 1, scale])[:, None]
    download_, standing_ = one_round(tiny, scaled)
    atol = 2 * (D + 4) * EPS
    np.testing.assert_allclose(download_.aggregate, download.aggregate, rtol=0, atol=atol)
    np.testing.assert_allclose(standing_.score, standing.score, rtol=0, atol=atol)
    np.testing.assert_allclose(standing_.reputation, standing.reputation, rtol=0, atol=atol)


@pytest.mark.parametrize("options", [{}, {"beta_on": "max"}], ids=["sum", "max"])
def test_infinite_beta_gives_everybody_everything(tiny, options):
    numbers = tiny.hyper(beta=np.inf)
    algorithm = METHODS["cgsv"](numbers, Options(**options))
    for download, _ in play(algorithm, raw_updates(), SIZES, PRESENT, tiny.upload)[2:]:
        np.testing.assert_array_equal(
            download.rewards, np.broadcast_to(download.aggregate, download.rewards.shape)
        )
        assert download.quota.tolist() == [D] * 4


@few
@given(st.permutations(range(4)), st.integers(0, 5))
def test_permuting_clients_permutes_what_they_get(tiny, permutation, seed):
    p = np.array(permutation)
    updates, sizes = raw_updates(seed=seed)[0], np.array(SIZES)
    a, standing_a = one_round(tiny, updates)
    b, standing_b = one_round(tiny, updates[p], sizes=sizes[p])
    atol = (D + 4) * EPS  # the order of the sum over clients changes
    np.testing.assert_allclose(b.aggregate, a.aggregate, rtol=0, atol=atol)
    np.testing.assert_allclose(b.weights, a.weights[p], rtol=0, atol=atol)
    np.testing.assert_allclose(standing_b.reputation, standing_a.reputation[p], rtol=0, atol=atol)
    # A ratio within rounding of an integer / D may fall on its other side.
    assert np.abs(np.asarray(b.quota) - np.asarray(a.quota)[p]).max() <= 1


# ---------------------------------------------------------------- absence in a run


@pytest.mark.parametrize("name", ["fedavg", "standalone"])
def test_methods_without_reputation_are_the_oracles(tiny, name):
    updates = raw_updates()
    algorithm = METHODS[name](tiny.hyper(), Options())
    step = {"fedavg": oracle.fedavg_round, "standalone": oracle.standalone_round}[name]
    state = oracle.start(np.zeros(D), 4)
    everybody = play(algorithm, updates, SIZES, PRESENT, tiny.upload)
    for (download, standing), dw, here in zip(everybody, np.float64(updates), PRESENT, strict=True):
        state, want = step(state, dw, np.array(SIZES), here)
        close = {"rtol": 0, "atol": 20 * 4 * EPS}  # sums of four, updates of at most 20
        np.testing.assert_allclose(download.weights, want["weights"], **close)
        np.testing.assert_allclose(download.aggregate, want["aggregate"], **close)
        np.testing.assert_allclose(download.rewards, want["rewards"], **close)
        share = np.float32(SIZES) / np.float32(sum(SIZES))
        np.testing.assert_array_equal(standing.reputation, share)
        np.testing.assert_array_equal(standing.score, np.where(here, share, 0))
        entries = D if name == "fedavg" else 0
        np.testing.assert_array_equal(download.quota, np.where(here, entries, 0))


def test_an_upload_that_is_not_finite_is_an_absent_client(tiny):
    """Client 2 breaks in round 1: with NaN, with inf, or by not being there, it is one run."""
    data, clients = tiny.world()
    orders = tiny.orders(clients, ROUNDS, epochs=2)
    base = tiny.federation("cgsv", tiny.softmax(), rounds=ROUNDS)
    start = simulation.init(jax.random.key(1), 4, base)
    mine = jnp.asarray(clients.rows[2, 0])

    def breaking(poison):
        def update(key, params, opt_state, examples, order, round_):
            delta, opt_state, loss = base.trainer.update(
                key, params, opt_state, examples, order, round_
            )
            broken = (examples.rows[0] == mine) & (round_ == 1)
            spoil = lambda x: jnp.where(broken, x.at[..., 0].set(poison), x)  # noqa: E731
            return jax.tree.map(spoil, delta), opt_state, loss

        return base._replace(trainer=base.trainer._replace(update=update))

    def leaving():
        """The algorithm is told so, instead of the update being broken."""

        def update(key, upload, state):
            gone = (jnp.arange(4) == 2) & (upload.round == 1)
            upload = upload._replace(
                present=~gone,
                deltas=jnp.where(gone[:, None], 0, upload.deltas),
                norms=jnp.where(gone, 0, upload.norms),
            )
            return base.algorithm.update(key, upload, state)

        return base._replace(algorithm=base.algorithm._replace(update=update))

    def rounds(federation):
        def one_round(state, orders, poison):
            chosen = federation(poison)
            return simulation.round_(jax.random.key(1), state, data, clients, chosen, orders)

        one_round = jax.jit(one_round)

        def run(poison):
            state, records = start, []
            for order in orders:
                state, record = one_round(state, order, poison)
                records.append(record)
            return state, jax.tree.map(lambda *x: np.stack(x), *records)

        return run

    state, record = rounds(lambda poison: leaving())(0.0)
    assert np.isfinite(state.clients).all()
    run = rounds(breaking)
    for poison in (np.nan, np.inf, -np.inf):
        state_, record_ = run(poison)
        assert record_.present.tolist() == [[True] * 4, [True, True, False, True], [True] * 4]
        assert record_.norm[1, 2] == 0
        jax.tree.map(np.testing.assert_array_equal, state_, state)
        assert record_.nonfinite.sum() == record_.nonfinite[1, 2] == 1
        for field in ("score", "reputation", "weight", "quota"):
            np.testing.assert_array_equal(getattr(record_, field), getattr(record, field))
        lost = np.where(record_.present, record.loss, np.nan)  # an absent client has no loss
        np.testing.assert_array_equal(record_.loss, lost)
    assert record.reputation[1, 2] == record.reputation[0, 2]
    assert record.weight[1, 2] == 0
