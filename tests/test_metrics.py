"""Fairness against SciPy, where it is undefined, its interval, gains, distances, volumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cgsv_jax.core import metrics
from cgsv_jax.rules import methods


@pytest.fixture(autouse=True)
def no_silent_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


pearson = jax.jit(metrics.pearson)
fairness = jax.jit(metrics.fairness)
distances = jax.jit(metrics.distances)


def accuracies(rng, clients, test_rows, low=0.0, high=1.0):
    """What evaluation returns: k / n in float32."""
    right = rng.integers(round(low * test_rows), round(high * test_rows) + 1, clients)
    return right.astype(np.float32) / np.float32(test_rows)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 1.0),
        ([0.1, 0.2, 0.3], [0.6, 0.5, 0.4], -1.0),
        ([0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], 0.0),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 2.0], np.sqrt(3) / 2),
        ([1e-30, 2e-30, 3e-30], [1e30, 2e30, 3e30], 1.0),  # squares leave the range of float32
    ],
)
def test_pearson_of_known_cases(x, y, expected):
    value = pearson(jnp.array(x), jnp.array(y))
    assert value.shape == ()
    np.testing.assert_allclose(value, expected, atol=3e-7)


@pytest.mark.parametrize("clients", [3, 5, 10, 100])
def test_pearson_is_scipys_for_many_seeds_in_one_vmap(clients):
    rng = np.random.default_rng(clients)
    x = rng.normal(size=(200, clients)).astype(np.float32)
    y = (rng.uniform(-1, 1, (200, 1)) * x + rng.normal(size=x.shape)).astype(np.float32)
    ours = jax.jit(jax.vmap(metrics.pearson))(x, y)
    theirs = [
        scipy.stats.pearsonr(a, b).statistic
        for a, b in zip(np.float64(x), np.float64(y), strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.all(np.abs(ours) <= 1)


def test_pearson_of_close_accuracies_keeps_its_digits():
    # All within 30 test rows of 10,000: a formula with E[xy] - E[x]E[y] has no digit left.
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = (accuracies(rng, 10, 10_000, 0.897, 0.9) for _ in range(2))
        exact = scipy.stats.pearsonr(np.rint(x * 10_000.0), np.rint(y * 10_000.0)).statistic
        np.testing.assert_allclose(pearson(x, y), exact, atol=1e-3)


def test_pearson_does_not_depend_on_scale_shift_or_order():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 20)).astype(np.float32)
    expected = pearson(x, y)
    order = rng.permutation(20)
    for a, b in ((2 * x + 1, y), (y, x), (x[order], y[order]), (x, 1e-3 * y - 5)):
        np.testing.assert_allclose(pearson(a, b), expected, atol=2e-4)
    np.testing.assert_allclose(pearson(-x, y), -expected, atol=1e-6)


VARIED = [0.5, 0.6, 0.7, 0.8]
UNDEFINED = {
    "no clients": ([], [], "fewer than 3 clients"),
    "one client": ([0.5], [0.6], "fewer than 3 clients"),
    "two clients": ([0.5, 0.6], [0.7, 0.8], "fewer than 3 clients"),
    "equal ends": (VARIED, [0.9] * 4, "all clients end with the same accuracy"),
    "equal ends at 0": (VARIED, [0.0] * 4, "all clients end with the same accuracy"),
    "equal starts": ([0.3] * 4, VARIED, "all clients have the same standalone accuracy"),
    "NaN": (VARIED, [0.5, np.nan, 0.7, 0.8], "an accuracy is not finite"),
    "infinity": ([0.5, np.inf, 0.7, 0.8], VARIED, "an accuracy is not finite"),
    "one rounding apart": (
        VARIED,
        [0.9, np.nextafter(np.float32(0.9), np.float32(1)), 0.9, 0.9],
        "all clients end with the same accuracy",
    ),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_undefined_is_nan_and_has_its_reason(case):
    standalone, final, reason = UNDEFINED[case]
    standalone, final = (np.asarray(values, np.float32) for values in (standalone, final))
    assert np.isnan(metrics.fairness(standalone, final))
    assert np.isnan(fairness(standalone, final))
    assert metrics.why_undefined(standalone, final) == reason


def test_one_test_row_of_difference_is_not_noise():
    alone = np.array([0.91, 0.92, 0.93], np.float32)
    final = np.array([899_999, 900_000, 900_000], np.float32) / np.float32(1e6)
    assert metrics.why_undefined(alone, final) is None
    np.testing.assert_allclose(fairness(alone, final), 100 * np.sqrt(3) / 2, atol=0.01)


def test_fairness_is_a_number_exactly_when_no_reason_is_given():
    rng = np.random.default_rng(2)
    seen = set()
    for clients in (1, 2, 3, 4):
        for _ in range(40):
            alone, final = (accuracies(rng, clients, 2) for _ in range(2))
            reason = metrics.why_undefined(alone, final)
            assert np.isnan(fairness(alone, final)) == (reason is not None)
            seen.add(reason)
    assert len(seen) == 4  # three reasons, and none


def test_fairness_is_in_percent_and_vmaps():
    alone = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], np.float32)
    final = np.array([[0.5, 0.6, 0.7], [0.7, 0.6, 0.5]], np.float32)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(metrics.fairness))(alone, final), [100, -100], atol=1e-4
    )


# ---------------------------------------------------------------- ranks, spread, FedRAC's rate


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_ranks_and_their_correlation_are_scipys_with_ties(levels):
    rng = np.random.default_rng(levels)
    rank = jax.jit(jax.vmap(metrics.ranks))
    correlation = jax.jit(jax.vmap(metrics.rank_correlation))
    for clients in (3, 10, 101):
        x, y = (np.stack([accuracies(rng, clients, levels) for _ in range(40)]) for _ in range(2))
        np.testing.assert_array_equal(rank(x), scipy.stats.rankdata(x, axis=1))
        theirs = [
            np.nan if np.ptp(a) == 0 or np.ptp(b) == 0 else scipy.stats.spearmanr(a, b).statistic
            for a, b in zip(x, y, strict=True)
        ]
        np.testing.assert_allclose(correlation(x, y), theirs, atol=2e-6)


def test_a_rounding_is_a_tie_and_a_test_row_is_none():
    up = np.nextafter(np.float32(0.9), np.float32(1))
    np.testing.assert_array_equal(metrics.ranks(np.float32([up, 0.5, 0.9, 1.0])), [2.5, 1, 2.5, 4])
    rows = np.array([899_999, 900_000, 899_998], np.float32) / np.float32(1e6)
    np.testing.assert_array_equal(metrics.ranks(rows), [2, 3, 1])


def test_rank_correlation_sees_the_order_alone():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 12)).astype(np.float32)
    expected = metrics.rank_correlation(x, y)
    np.testing.assert_allclose(metrics.rank_correlation(np.exp(3 * x), y), expected, atol=1e-6)
    np.testing.assert_allclose(metrics.rank_correlation(-x, y), -expected, atol=1e-6)
    order = rng.permutation(12)
    np.testing.assert_allclose(metrics.rank_correlation(x[order], y[order]), expected, atol=1e-6)


@pytest.mark.parametrize("case", UNDEFINED)
def test_rank_correlation_is_undefined_where_pearson_is(case):
    standalone, final = (np.asarray(x, np.float32) for x in UNDEFINED[case][:2])
    assert np.isnan(metrics.rank_correlation(standalone, final))


def test_spread_is_numpys():
    values = np.random.default_rng(4).uniform(size=30).astype(np.float32)
    np.testing.assert_allclose(metrics.spread(values), np.std(np.float64(values)), rtol=1e-12)
    np.testing.assert_allclose(metrics.spread(values.reshape(3, 10))[1], values[10:20].std(), 1e-6)


def test_rate_by_hand():
    """Of max a = .8 and max f = .9: bounds .45 + .5625 a at alpha 1/2, 1.125 a at alpha 0."""
    alone = np.float32([0.2, 0.4, 0.6, 0.8])
    bounds = np.array([0.5625, 0.675, 0.7875, 0.9])
    for final, inside in (
        ([0.5, 0.6, 0.7, 0.9], 4),
        ([0.6, 0.6, 0.7, 0.9], 3),  # more than it may have
        ([0.2, 0.6, 0.7, 0.9], 3),  # no better than alone, by nothing
        ([0.1, 0.3, 0.7, 0.9], 2),  # worse than alone: outside, and no more than that
        (bounds, 4),  # the bound itself is inside
    ):
        final = np.float32(final)
        assert jax.jit(metrics.bounded_rate)(alone, final) == inside / 4
    assert metrics.bounded_rate(alone, np.float32([0.225, 0.45, 0.675, 0.9]), alpha=0) == 1
    assert metrics.bounded_rate(alone, np.float32([0.225, 0.46, 0.675, 0.9]), alpha=0) == 0.75
    assert metrics.bounded_rate(alone, np.float32([0.9] * 4), alpha=1) == 1
    assert metrics.bounded_rate(alone, np.float32([0.9] * 4)) == 0.25  # one model for all


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
def test_rate_is_that_of_the_released_loop(alpha):
    """Its loop, where no client ends worse than alone: there its counter is not set back."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        alone = accuracies(rng, 10, 1000, 0.1, 0.5)
        final = alone + accuracies(rng, 10, 1000, 0.01, 0.4)
        a, f = np.float64(alone), np.float64(final)
        bound = ((1 - alpha) * (a / max(a)) + alpha) * max(f)
        inside = sum(a[i] < f[i] <= bound[i] * (1 + 1e-6) for i in range(10))
        np.testing.assert_allclose(metrics.bounded_rate(alone, final, alpha), inside / 10)


def test_rate_of_what_is_not_known():
    alone = np.float32([0.2, 0.4])
    assert np.isnan(metrics.bounded_rate(alone, np.float32([0.5, np.nan])))
    assert np.isnan(metrics.bounded_rate(np.float32([np.nan, 0.4]), alone))
    assert np.isnan(metrics.bounded_rate(np.zeros(2, np.float32), alone))


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        metrics.fairness(np.zeros(3), np.zeros(4))
    with pytest.raises(AssertionError):
        metrics.pearson(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(AssertionError):
        metrics.rank_correlation(np.zeros(3), np.zeros(4))
    with pytest.raises(AssertionError):
        metrics.distances(np.zeros((3, 4)), np.zeros(3))


def test_gains_are_positive_where_taking_part_helped():
    gains = metrics.gains(np.float32([0.5, 0.9]), np.float32([0.75, 0.65]))
    np.testing.assert_allclose(gains, [0.25, -0.25], atol=1e-7)


def test_distances():
    beyond = 2.0**126
    clients = np.float32([[3, 4], [0, 0], [3e30, 4e30], [3e-30, 4e-30], [1.2 * beyond, beyond]])
    found = distances(clients, np.zeros(2, np.float32))
    want = [5, 0, 5e30, 5e-30, np.sqrt(2.44) * beyond]
    np.testing.assert_allclose(found, want, rtol=1e-6)
    moved = distances(clients[:2], np.float32([3, 4]))
    np.testing.assert_allclose(moved, [0, 5], rtol=1e-6)
    assert np.isnan(distances(np.float32([[np.nan, 1]]), np.zeros(2, np.float32)))[0]


# ---------------------------------------------------------------- gains in one number


def test_gains_by_hand():
    alone, final = np.float32([0.5, 0.6, 0.7, 0.8]), np.float32([0.7, 0.6, 0.9, 0.4])
    each = [0.2, 0, 0.2, -0.4]
    np.testing.assert_allclose(metrics.mean_gain(alone, final), 0, atol=1e-7)
    np.testing.assert_allclose(metrics.gain_spread(alone, final), np.std(each), rtol=1e-6)
    assert metrics.no_worse(alone, final) == 0.75  # the client without any gain is no worse


def test_a_rounding_is_no_loss():
    alone = np.float32([0.9, 0.9, 0.9])
    final = np.array([0.9, np.nextafter(alone[0], np.float32(0)), 0.9 - 1e-6], np.float32)
    np.testing.assert_allclose(jax.jit(metrics.no_worse)(alone, final), 2 / 3, rtol=1e-6)


def test_a_gain_that_is_not_known_leaves_none_of_them():
    alone, final = np.float32([0.5, 0.6]), np.float32([0.7, np.nan])
    for quantity in (metrics.mean_gain, metrics.gain_spread, metrics.no_worse):
        assert np.isnan(jax.jit(quantity)(alone, final)), quantity.__name__


# ---------------------------------------------------------------- the interval


def test_interval_of_two_values_by_hand():
    """A quarter of the resamples is low twice and a quarter high twice: beyond 2.5 % each."""
    assert metrics.interval(np.array([1.0, 3.0])) == (1.0, 3.0)
    assert metrics.interval(np.array([1.0, 3.0]), confidence=0.4) == (2.0, 2.0)


@pytest.mark.parametrize("seeds", [5, 20, 200])
def test_interval_contains_the_mean_and_is_about_the_normal_one(seeds):
    values = np.random.default_rng(seeds).normal(50, 10, seeds)
    low, high = metrics.interval(values)
    assert values.min() <= low < values.mean() < high <= values.max()
    # The bootstrap's deviation of the mean is std / sqrt(S); 9,999 resamples err by a few percent.
    width = 2 * 1.96 * values.std() / np.sqrt(seeds)
    assert high - low == pytest.approx(width, rel=0.1)
    wider = metrics.interval(values, 0.99)
    assert wider[0] < low < high < wider[1]


def test_interval_shrinks_with_seeds_and_is_the_same_every_time():
    values = np.random.default_rng(0).normal(50, 10, 160)
    widths = [np.diff(metrics.interval(values[:seeds]))[0] for seeds in (10, 40, 160)]
    assert widths[0] > 1.5 * widths[1] > 1.5**2 * widths[2]
    assert metrics.interval(values) == metrics.interval(values[::-1].copy())


@pytest.mark.parametrize("values", [[], [1.0], [np.nan, 1.0], [np.nan, np.inf]])
def test_interval_of_too_few_is_undefined(values):
    assert np.isnan(metrics.interval(np.array(values))).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[0.1] * 3, [0.0, 0.0, 0.0, 1e-12], [5.0, 5.0, -np.inf]])
def test_interval_of_degenerate_values_is_quiet(values):
    low, high = metrics.interval(np.array(values))
    finite = [v for v in values if np.isfinite(v)]
    assert min(finite) <= low <= high <= max(finite)


# ---------------------------------------------------------------- volumes


def test_volumes_by_hand():
    """D = 1,000: indices are cheaper below 32 entries, a bitmap of 125 bytes from there on."""
    quota = np.array([[0, 1, 31, 32], [999, 1000, 500, 0]])
    present = np.array([[True, True, True, True], [True, True, True, False]])
    found = metrics.volumes(present, quota, 1000)
    assert found.upload.tolist() == [[4000] * 4, [4000, 4000, 4000, 0]]
    assert found.values.tolist() == [[0, 4, 124, 128], [3996, 4000, 2000, 0]]
    assert found.indices.tolist() == [[0, 4, 124, 125], [125, 0, 125, 0]]
    assert found.download.tolist() == [[0, 8, 248, 253], [4121, 4000, 2125, 0]]


def test_volumes_of_more_than_an_update():
    """Of 1,000 entries shared, two vectors up and one down; of a submodel what is on in it."""
    present, quota = np.array([True, True, False]), np.array([1000, 10, 0])
    found = metrics.volumes(present, quota, *metrics.Messages(1000, up=2, down=1))
    assert found.upload.tolist() == [8000, 8000, 0]
    assert found.values.tolist() == [8000, 4040, 0]
    assert found.indices.tolist() == [0, 40, 0]
    found = metrics.volumes(present, quota, 1000, held=np.array([600, 1000, 700]))
    assert found.upload.tolist() == [2400, 4000, 0]


def test_messages_of_algorithms():
    """SCAFFOLD's mean gradients go up and c down; what stays with a client is no message."""
    scaffold, spans = methods.scaffold(), ((2, 5), (7, 10))
    assert metrics.messages(methods.fedavg(), 10) == metrics.Messages(10, 1, 0)
    assert metrics.messages(scaffold, 10) == metrics.Messages(10, 2, 1)
    assert metrics.messages(methods.private(scaffold, spans), 10) == metrics.Messages(4, 2, 1)
    twice = methods.private(methods.fedavg(), ((0, 8), (0, 8), (2, 9)))
    assert metrics.messages(twice, 10).entries == 1
    staged = methods.then(methods.fedavg(), scaffold, 3)
    assert metrics.messages(staged, 10) == metrics.Messages(10, 2, 1)


def test_volumes_do_not_overflow():
    """10,000 rounds of a million parameters are 40 GB, beyond 32 bits."""
    quota = np.full(10_000, 1_000_000, np.int32)
    found = metrics.volumes(quota > 0, quota, 1_000_000)
    assert found.upload.sum() == found.download.sum() == 40_000_000_000
