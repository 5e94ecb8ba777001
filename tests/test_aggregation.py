"""Robust aggregations: NumPy loops, what breaks them and what does not, algebra, exact cases."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_aggregation as oracle
import pytest
import scipy.optimize
from declared import AGGREGATIONS, METHODS, Hyper, Options

import cgsv_jax as cg
from cgsv_jax.core import evaluation, order_statistics, participation
from cgsv_jax.types import Standing

EPS = float(np.finfo(np.float32).eps)
N, D = 9, 20
SIZES = np.array([5, 3, 8, 6, 2, 9, 4, 7, 1])
PRESENT = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1], bool)
# What a few clients that send anything at all do not move.
ROBUST = ("median", "trimmed_mean", "krum", "multi_krum", "geometric_median")
ROWS_ALONE = (*ROBUST, "norm_clipping")  # those that look at nothing but uploads and sizes


def updates(seed=0, count=N, spread=1.0):
    rng = np.random.default_rng(seed)
    return np.float32(rng.normal(size=D) + spread * rng.normal(size=(count, D)))


@functools.cache
def compiled(rule):
    return jax.jit(rule.update)


def aggregated(rule, upload):
    """u_N [D] and the recorded weights [N]."""
    nothing = Standing(jnp.zeros(upload.present.size), jnp.zeros(upload.present.size))
    aggregate, weights, state = compiled(rule)(jax.random.key(0), upload, nothing, rule.init(N, D))
    assert state == ()
    return np.asarray(aggregate), np.asarray(weights)


RULES = {
    "median": cg.aggregation.median(),
    "trimmed_mean": cg.aggregation.trimmed_mean(0.35),
    "krum": cg.aggregation.krum(),
    "multi_krum": cg.aggregation.multi_krum(),
    "geometric_median": cg.aggregation.geometric_median(40),
    "norm_clipping": cg.aggregation.norm_clipping(),
}


def oracles(tiny):
    """name -> (rule, oracle of the uploads of those present and the upload)."""
    trust = cg.aggregation.fltrust(tiny.network())

    def slope(upload):
        return np.float64(tiny.network().gradient(upload.server, *upload.validation))

    def sizes(upload):
        return np.asarray(upload.num_examples)[np.asarray(upload.present)]

    return {
        "median": (RULES["median"], lambda u, _: oracle.median(u)),
        "trimmed_mean": (
            RULES["trimmed_mean"],
            lambda u, _: oracle.trimmed_mean(u, int(0.35 * len(u))),
        ),
        "trimmed_mean .15": (
            cg.aggregation.trimmed_mean(0.15),
            lambda u, _: oracle.trimmed_mean(u, int(0.15 * len(u))),
        ),
        "krum": (RULES["krum"], lambda u, _: oracle.krum(u, (len(u) - 3) // 2)),
        "krum 1": (cg.aggregation.krum(1), lambda u, _: oracle.krum(u, 1)),
        "multi_krum": (
            RULES["multi_krum"],
            lambda u, _: oracle.krum(u, (len(u) - 3) // 2, len(u) - (len(u) - 3) // 2),
        ),
        "multi_krum 1, 3": (cg.aggregation.multi_krum(1, 3), lambda u, _: oracle.krum(u, 1, 3)),
        "geometric_median": (
            cg.aggregation.geometric_median(5, 0.01),
            lambda u, _: oracle.geometric_median(u, 5, 0.01),
        ),
        "norm_clipping": (RULES["norm_clipping"], lambda u, x: oracle.norm_clipping(u, sizes(x))),
        "norm_clipping 4": (
            cg.aggregation.norm_clipping(4.0, "uniform"),
            lambda u, x: oracle.norm_clipping(u, sizes(x), 4.0, "uniform"),
        ),
        "fltrust": (trust, lambda u, x: oracle.fltrust(u, slope(x))),
    }


CASES = (
    *("median", "trimmed_mean", "trimmed_mean .15", "krum", "krum 1", "multi_krum"),
    *("multi_krum 1, 3", "geometric_median", "norm_clipping", "norm_clipping 4", "fltrust"),
)


@pytest.mark.parametrize("name", CASES)
def test_the_loops(tiny, name):
    """Absent rows hold what must not enter; u_i is scale_i dw_i, of any size; some entries tie."""
    assert set(CASES) == set(oracles(tiny))
    rule, loops = oracles(tiny)[name]
    for seed, present in itertools.product(range(3), (np.ones(N, bool), PRESENT)):
        raw = updates(seed)
        raw[3, 5:9] = raw[4, 5:9]
        scales = np.float32(0.1**seed * np.linspace(0.5, 2, N))
        scales[3] = scales[4]
        sent = tiny.upload(raw, SIZES, present, seed=seed)._replace(scales=jnp.asarray(scales))
        rows = np.float64(scales[:, None] * raw)[present]
        want, weights = loops(rows, sent)
        got, recorded = aggregated(rule, sent)
        # Sums of N or D terms of that size, a few of them one after another.
        close = {"rtol": 0, "atol": 20 * (N + D) * EPS}
        np.testing.assert_allclose(recorded[present], weights, **close)
        np.testing.assert_allclose(got / np.abs(rows).max(), want / np.abs(rows).max(), **close)
        assert not recorded[~present].any()


def test_two_smallest_entries_by_hand():
    rows = np.array([[3.0, -1.0, 0.0], [9.0, 9.0, 9.0], [-2.0, -7.0, -0.0], [5.0, -1.0, 1e-40]])
    present = np.array([True, False, True, True])
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            ordered = np.sort(rows[present].astype(dtype), axis=0)
            for place in range(3):
                given = jnp.asarray(rows, dtype), jnp.asarray(present), jnp.int32(place)
                np.testing.assert_array_equal(order_statistics.smallest(*given), ordered[place])
    assert order_statistics.middle(jnp.array([4.0, 1, 7, 2]), jnp.array(present)) == 4
    assert order_statistics.middle(jnp.array([3e38, 3e38]), jnp.array([True, True])) == jnp.float32(
        3e38
    )
    assert order_statistics.middle(jnp.ones(2), jnp.zeros(2, bool)) == 0


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("size", [1e6, 1e18, 1e30])
def test_three_of_nine_that_send_anything_move_it_no_farther_than_the_honest_lie(tiny, name, size):
    """The mean moves by a ninth of it."""
    honest, odd = updates(1), np.zeros(N, bool)
    odd[[0, 4, 7]] = True
    rng = np.random.default_rng(2)
    raw = np.where(odd[:, None], np.float32(size * rng.normal(size=(N, D))), honest)
    got, weights = aggregated(RULES[name], tiny.upload(raw, SIZES))
    rest = np.float64(honest[~odd])
    spread = np.linalg.norm(rest - rest.mean(axis=0), axis=1).max()
    assert np.linalg.norm(np.float64(got) - rest.mean(axis=0)) <= spread
    mean, _ = aggregated(cg.aggregation.uniform(), tiny.upload(raw, SIZES))
    assert np.linalg.norm(np.float64(mean)) > size / N
    # What has no part is recorded to have none, but for coordinates in which it lies in the middle.
    assert weights[odd].sum() <= (1e-3 if name != "trimmed_mean" else 0.34)


def test_clipping_bounds_what_length_does_and_not_what_direction_does(tiny):
    raw = updates(1)
    raw[0] *= 1e6
    got, _ = aggregated(RULES["norm_clipping"], tiny.upload(raw, SIZES))
    lengths = np.linalg.norm(np.float64(raw), axis=1)
    assert np.linalg.norm(got) <= np.median(lengths)
    reversed_, _ = aggregated(RULES["norm_clipping"], tiny.upload(-updates(1), SIZES))
    plain, _ = aggregated(RULES["norm_clipping"], tiny.upload(updates(1), SIZES))
    np.testing.assert_array_equal(reversed_, -plain)


@pytest.mark.parametrize("name", ROWS_ALONE)
def test_identical_uploads_are_the_aggregate(tiny, name):
    row = updates(3, 1)
    got, weights = aggregated(RULES[name], tiny.upload(np.repeat(row, N, axis=0), SIZES))
    np.testing.assert_allclose(got, row[0], rtol=4 * N * EPS)
    if name != "norm_clipping":
        np.testing.assert_allclose(weights, 1 / N, rtol=4 * N * EPS)


@pytest.mark.parametrize("name", ROWS_ALONE)
def test_scales_and_places(tiny, name):
    """A power of two goes through exactly; the order of clients decides nothing."""
    raw, order = updates(4), np.random.default_rng(0).permutation(N)
    plain, weights = aggregated(RULES[name], tiny.upload(raw, SIZES))
    larger, same = aggregated(RULES[name], tiny.upload(2.0**30 * raw, SIZES))
    np.testing.assert_allclose(larger, 2.0**30 * plain, rtol=0, atol=2.0**30 * 4 * (N + D) * EPS)
    np.testing.assert_allclose(same, weights, rtol=0, atol=4 * (N + D) * EPS)
    moved, theirs = aggregated(RULES[name], tiny.upload(raw[order], SIZES[order]))
    np.testing.assert_allclose(moved, plain, rtol=0, atol=10 * (N + D) * EPS)
    np.testing.assert_allclose(theirs, weights[order], rtol=0, atol=10 * (N + D) * EPS)


@pytest.mark.parametrize("name", [*ROWS_ALONE, "fltrust"])
def test_the_placeholder_of_a_cohort_changes_nothing(tiny, name):
    """Its row of sizes holds those of all who stay away, and it is absent."""
    rule = RULES.get(name) or cg.aggregation.fltrust(tiny.network())
    sent = tiny.upload(updates(4), SIZES)
    rows = {f: getattr(sent, f) for f in ("clients", "deltas", "norms", "scales", "loss", "alone")}
    rows = {f: jnp.concatenate([x, jnp.zeros_like(x[:1])]) for f, x in rows.items()}
    cohort = sent._replace(
        **rows,
        present=jnp.append(sent.present, False),
        num_examples=jnp.append(sent.num_examples, 10**6),
        start_loss=None,
    )
    (want, theirs), (got, weights) = (aggregated(rule, each) for each in (sent, cohort))
    np.testing.assert_allclose(got, want, rtol=0, atol=10 * (N + D) * EPS)
    np.testing.assert_allclose(weights, [*theirs, 0], rtol=0, atol=10 * (N + D) * EPS)


@pytest.mark.parametrize("name", [*ROWS_ALONE, "fltrust"])
def test_lengths_of_every_size_leave_numbers(tiny, name):
    """Uploads of 1e-30 beside others of 1e30, and of nothing; nobody at all is no update."""
    rule = RULES.get(name) or cg.aggregation.fltrust(tiny.network())
    for lengths in ([1e-30] * N, [1e30] * N, [1e30, 1e-30, 1, 0, 1e30, 1e-30, 0, 1, 1], [0] * N):
        sent = tiny.upload(updates(5) * np.float32(lengths)[:, None], SIZES)
        got, weights = aggregated(rule, sent)
        assert np.isfinite(got).all()
        np.testing.assert_allclose(weights.sum(), 1, rtol=2 * N * EPS)
        assert np.linalg.norm(np.float64(got)) <= 1.001 * np.linalg.norm(np.float64(sent.deltas))
    got, weights = aggregated(rule, tiny.upload(updates(), SIZES, np.zeros(N, bool)))
    assert not got.any()
    assert not weights.any()


@pytest.mark.parametrize("name", ROBUST)
def test_a_common_shift_goes_through(tiny, name):
    shift = np.float32(np.random.default_rng(5).normal(size=D))
    raw = updates(4)
    plain, _ = aggregated(RULES[name], tiny.upload(raw, SIZES))
    moved, _ = aggregated(RULES[name], tiny.upload(raw + shift, SIZES))
    # Forty Weiszfeld steps come to rest from either start.
    atol = 1e-4 if name == "geometric_median" else 50 * (N + D) * EPS
    np.testing.assert_allclose(moved, plain + shift, rtol=0, atol=atol)


def test_the_geometric_median_has_the_least_sum_of_distances(tiny):
    raw = updates(6)
    got, weights = aggregated(RULES["geometric_median"], tiny.upload(raw, SIZES))
    rows = np.float64(raw)

    def total(z):
        return np.linalg.norm(rows - z, axis=1).sum()

    def slope(z):
        away = z - rows
        return (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0)

    best = scipy.optimize.minimize(total, rows.mean(axis=0), jac=slope, tol=1e-14)
    # Its value is flat at the least: an error e in z costs N e^2 / ‖u_i - z‖.
    assert total(np.float64(got)) <= best.fun * (1 + 10 * EPS)
    np.testing.assert_allclose(got, best.x, rtol=0, atol=100 * (N + D) * EPS)
    np.testing.assert_allclose(weights @ rows, got, rtol=0, atol=10 * (N + D) * EPS)
    # On a line it is the median.
    line = np.outer(np.arange(1.0, N + 1), np.ones(D))
    got, _ = aggregated(cg.aggregation.geometric_median(200), tiny.upload(line, SIZES))
    np.testing.assert_allclose(got, 5.0, rtol=1e-3)


def test_uploads_of_zeros_do_not_hold_the_geometric_median(tiny):
    """Weiszfeld's steps stick to an upload at which they arrive; they do not start at 0."""
    raw = updates(7)
    raw[:3] = 0
    got, _ = aggregated(cg.aggregation.geometric_median(), tiny.upload(raw, SIZES))
    rest = np.float64(raw[3:]).mean(axis=0)
    assert np.linalg.norm(got - rest) < 0.5 * np.linalg.norm(rest)


def test_one_neighbour_ties_and_shares(tiny):
    """Of three clients f is 0 and one neighbour counts: the closest two are as near each other."""
    rows = np.zeros((N, D), np.float32)
    rows[0, 0], rows[1, 0], rows[2, 0] = 1.0, 1.5, 4.0
    present = np.arange(N) < 3
    got, weights = aggregated(RULES["krum"], tiny.upload(rows, SIZES, present))
    assert weights[:3].tolist() == [0.5, 0.5, 0]
    assert got[0] == 1.25


def test_whom_the_server_trusts(tiny):
    """Nobody: its own step, at the median length."""
    sent = tiny.upload(updates(8), SIZES)
    slope = np.float64(tiny.network().gradient(sent.server, *sent.validation))
    trust = cg.aggregation.fltrust(tiny.network())
    along = np.float32(-slope + 0.01 * updates(9))
    along[:2] *= -1  # two reverse it
    got, weights = aggregated(trust, tiny.upload(along, SIZES))
    assert not weights[:2].any()
    np.testing.assert_allclose(weights[2:], 1 / 7, rtol=0.1)
    got, weights = aggregated(trust, tiny.upload(-along, SIZES, np.arange(N) > 1))
    length = np.median(np.linalg.norm(np.float64(along[2:]), axis=1))
    np.testing.assert_allclose(got, -length * slope / np.linalg.norm(slope), atol=20 * D * EPS)
    np.testing.assert_allclose(weights[2:], 1 / 7, rtol=4 * EPS)


@pytest.mark.parametrize("batch", [3, 4, 7, 100])
def test_the_gradient_is_that_of_the_mean_loss(tiny, batch):
    model, (data, _) = tiny.mlp(), tiny.world()
    network = evaluation.network(model, (tiny.features,), batch=batch)
    weights = jax.random.normal(jax.random.key(1), (sum(tiny.sizes_of(model)),))
    inputs, labels = data.test_inputs, data.test_labels

    def loss(vector):
        return np.float64(network.evaluate(jnp.asarray(vector)[None], inputs, labels)[1][0])

    with jax.enable_x64(True):
        vector, step = np.float64(weights), 1e-5
        data_ = np.float64(inputs), labels
        got = np.asarray(network.gradient(jnp.asarray(vector), *data_))
        inputs = data_[0]
        want = [
            (loss(vector + step * e) - loss(vector - step * e)) / (2 * step)
            for e in np.eye(vector.size)
        ]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: cg.aggregation.trimmed_mean(0.5),
            r"trim is 0.5, it must be a number at least 0 a",
        ),
        (lambda: cg.aggregation.krum(-1), r"assumed_attackers is -1, it must be a whole number fr"),
        (lambda: cg.aggregation.multi_krum(1, -1), r"krum_kept is -1, it must be a whole number"),
        (lambda: cg.aggregation.geometric_median(0), r"weiszfeld_steps is 0, it must be"),
        (lambda: cg.aggregation.geometric_median(1, 0.0), r"weiszfeld_smoothing is 0.0, it must"),
        (lambda: cg.aggregation.norm_clipping(-1.0), r"clip_norm is -1.0, it must be"),
        (lambda: cg.aggregation.norm_clipping(weights="r"), r"clipped_weights is 'r', it must be"),
        (lambda: cg.aggregation.fltrust(None), r"fltrust needs a network that knows the gradient"),
    ],
)
def test_what_is_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_more_attackers_than_krum_withstands_are_refused(tiny):
    """Of N, and not of a cohort: in a round with fewer, as many as these withstand."""
    with pytest.raises(ValueError, match=r"is 4, krum of 9 clients withstands at most 3: it needs"):
        cg.aggregation.krum(4).init(N, D)
    with pytest.raises(ValueError, match=r"krum_kept is 10, it must be at most the 9 clients"):
        cg.aggregation.multi_krum(3, 10).init(N, D)
    sent = tiny.upload(updates(), SIZES, PRESENT)
    want, _ = aggregated(cg.aggregation.krum(2), sent)
    np.testing.assert_array_equal(aggregated(cg.aggregation.krum(3), sent)[0], want)
    # The smallest N there may be is one of which a cohort's rows are found.
    assert participation.by_row(cg.aggregation.krum(3).init, N, D) == ()


@pytest.mark.parametrize("name", [*ROBUST, "norm_clipping", "fltrust"])
def test_options_reach_the_rules(tiny, name):
    """By their names outside, from the declarations; a number that is switched off is not told."""
    sent = tiny.upload(updates(), SIZES)
    chosen = {
        "trimmed_mean": (Hyper(trim=0.15), Options(), cg.aggregation.trimmed_mean(0.15)),
        "krum": (Hyper(), Options(assumed_attackers=1), cg.aggregation.krum(1)),
        "multi_krum": (
            Hyper(),
            Options(assumed_attackers=1, krum_kept=2),
            cg.aggregation.multi_krum(1, 2),
        ),
        "geometric_median": (
            Hyper(weiszfeld_smoothing=0.2),
            Options(weiszfeld_steps=2),
            cg.aggregation.geometric_median(2, 0.2),
        ),
        "norm_clipping": (
            Hyper(),
            Options(clipped_weights="uniform"),
            cg.aggregation.norm_clipping(weights="uniform"),
        ),
        "fltrust": (
            Hyper(),
            Options(network=tiny.network()),
            cg.aggregation.fltrust(tiny.network()),
        ),
    }
    numbers, options, want = chosen.get(name, (Hyper(), Options(), RULES.get(name)))
    got, _ = aggregated(AGGREGATIONS[name](numbers, options), sent)
    np.testing.assert_allclose(got, aggregated(want, sent)[0], rtol=0, atol=4 * (N + D) * EPS)
    # And the method that they are a part of.
    algorithm = METHODS["fedavg"](numbers, options._replace(aggregation=name))
    download, _, _ = jax.jit(algorithm.update)(jax.random.key(0), sent, algorithm.init(N, D))
    np.testing.assert_allclose(download.aggregate, got, rtol=0, atol=4 * (N + D) * EPS)
