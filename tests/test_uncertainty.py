"""Intervals of fairness cover what is true as often as they promise, and say what they rest on."""

import numpy as np
import pytest

from cgsv_jax.core import uncertainty


def true_accuracies(ability, spread=1.5):
    """Share of rows that clients get right whose difficulty is normal, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    right = 1 / (1 + np.exp(spread * nodes - np.asarray(ability)[:, None]))
    return right @ weights / weights.sum()


def case(rng, clients, rows):
    """Clients of known fairness on the same rows: `(standalone, final, true)`.

    A row is right with a probability that grows with the client's ability and falls with the row's
    difficulty. How far clients are apart, and how fair they end, differs from case to case.
    """
    apart = rng.uniform(0.05, 1.0)
    correlation = rng.uniform(-1, 1)
    first, second = rng.normal(size=(2, clients))
    alone = apart * first + rng.uniform(0, 1)
    other = correlation * first + np.sqrt(1 - correlation**2) * second
    final = apart * rng.uniform(0.05, 1.0) * other + rng.uniform(1, 2)
    difficulty = 1.5 * rng.normal(size=rows)
    drawn = [
        rng.random((clients, rows)) < 1 / (1 + np.exp(difficulty - ability[:, None]))
        for ability in (alone, final)
    ]
    true = 100 * np.corrcoef(true_accuracies(alone), true_accuracies(final))[0, 1]
    return *drawn, true


def percentile(rng, alone, final, resamples=300):
    """The ordinary bootstrap over rows."""
    rows = alone.shape[1]
    weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=resamples) / rows
    x, y = (scores.astype(float) @ weights.T for scores in (alone, final))
    x, y = x - x.mean(0), y - y.mean(0)
    with np.errstate(invalid="ignore"):
        values = 100 * (x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))
    return np.nanpercentile(values, [2.5, 97.5])


def covered(rng, cases, clients, rows, ordinary=False):
    """How many of the cases have the true value in their interval."""
    count = 0
    for _ in range(cases):
        alone, final, true = case(rng, clients, rows)
        if ordinary:
            low, high = percentile(rng, alone, final)
        else:
            found = uncertainty.fairness_interval(rng, alone[None], final[None], resamples=400)
            low, high = found.low, found.high
        count += low <= true <= high
    return count / cases


@pytest.mark.parametrize(
    ("clients", "rows", "cases"),
    [
        *((n, 200, 100) for n in (5, 10, 50)),
        pytest.param(5, 200, 500, marks=pytest.mark.long),
        *(pytest.param(n, rows, 500, marks=pytest.mark.nightly)
          for n, rows in ((5, 10_000), (10, 200), (10, 10_000), (50, 200), (50, 10_000))),
    ],
)  # fmt: skip
def test_the_true_value_is_covered(clients, rows, cases):
    """In 90 to 98 of 100 cases, and four standard errors of so many cases beside it."""
    share = covered(np.random.default_rng(0), cases, clients, rows)
    slack = 4 * np.sqrt(0.05 * 0.95 / cases) if cases < 500 else 0.01
    assert 0.90 - slack <= share <= 0.98 + slack


def test_an_ordinary_bootstrap_covers_too_seldom():
    """Why this module is here: 95 are promised."""
    assert covered(np.random.default_rng(0), 100, 50, 200, ordinary=True) < 0.75


def test_ten_clients_within_a_point_say_nothing():
    """The defaults' power law on 360 test rows."""
    rng = np.random.default_rng(0)
    ability = np.linspace(3.4, 3.6, 10)
    rows = [rng.normal(size=360) for _ in range(3)]
    right = np.stack([ability[:, None] > 1.5 * row for row in rows])
    alone = np.stack([np.linspace(0, 3, 10)[:, None] > 1.5 * row for row in rows])
    found = uncertainty.fairness_interval(rng, alone, right)
    assert found.both_signs
    assert found.high - found.low > 100


def test_more_rows_narrow_it_to_the_true_value():
    rng, widths = np.random.default_rng(1), []
    for rows in (300, 3_000, 30_000):
        alone, final, true = case(np.random.default_rng(5), 10, rows)
        found = uncertainty.fairness_interval(rng, alone[None], final[None])
        widths.append(found.high - found.low)
        assert found.low <= true <= found.high
    assert widths[0] > widths[1] > widths[2]
    assert abs(found.value - true) < widths[2]


def test_the_parts_are_of_their_sources():
    """Many rows, and partitions that disagree: the partitions make the width."""
    rng = np.random.default_rng(2)
    levels = np.linspace(0.2, 0.8, 6)
    worlds = []
    for partition in range(4):
        for _ in range(3):
            end = levels if partition % 2 else rng.permutation(levels)
            worlds.append([rng.random((6, 20_000)) < level[:, None] for level in (levels, end)])
    alone, final = (np.stack(side) for side in zip(*worlds, strict=True))
    found = uncertainty.fairness_interval(rng, alone, final, np.repeat(range(4), 3))
    assert found.by_rows < 5 < found.by_partitions
    assert found.by_partitions <= found.high - found.low + 10
    one = uncertainty.fairness_interval(rng, alone[:1], final[:1])
    assert np.isnan([one.by_seeds, one.by_partitions]).all()
    assert one.by_rows == pytest.approx(one.high - one.low, rel=0.2)


def test_a_run_twice_over_is_no_more_rows():
    """One draw of the rows serves all runs, so that copies of one narrow nothing."""
    rng = np.random.default_rng(3)
    alone, final, _ = case(rng, 10, 2_000)
    once = uncertainty.fairness_interval(np.random.default_rng(0), alone[None], final[None])
    copies = [np.stack([side] * 4) for side in (alone, final)]
    often = uncertainty.fairness_interval(np.random.default_rng(0), *copies)
    assert often[:3] == pytest.approx(once[:3])


def test_other_rows_are_more_rows():
    """Runs on sets of rows of their own average noise out, by the root of the number of sets."""
    rng = np.random.default_rng(3)
    levels = np.linspace(0.2, 0.8, 8)
    sides = levels, rng.permutation(levels)
    alone, final = (rng.random((8, 5_000)) < level[:, None] for level in sides)
    copies = [np.stack([side] * 4) for side in (alone, final)]
    once = uncertainty.fairness_interval(np.random.default_rng(0), *copies)
    for tested, ratio in (([7] * 4, 1.0), ([0, 0, 1, 1], 2**-0.5), ([3, 2, 1, 0], 0.5)):
        own = uncertainty.fairness_interval(np.random.default_rng(0), *copies, tested=tested)
        assert own.by_rows == pytest.approx(once.by_rows * ratio, rel=0.1), tested
    with pytest.raises(ValueError, match="tested must be"):
        uncertainty.fairness_interval(rng, *copies, tested=[0])


@pytest.mark.parametrize(
    ("shape", "says"),
    [((10, 20), "must be"), ((1, 2, 20), "2 clients"), ((1, 10, 1), "on 1 rows")],
)
def test_what_gives_no_interval(shape, says):
    scores = np.ones(shape)
    with pytest.raises(ValueError, match=says):
        uncertainty.fairness_interval(np.random.default_rng(0), scores, scores)


def test_equal_clients_may_be_anything():
    scores = np.random.default_rng(0).random((1, 5, 100)) < 0.5
    scores[:] = scores[:, :1]
    found = uncertainty.fairness_interval(np.random.default_rng(0), scores, scores)
    assert (found.low, found.high) == (-100, 100)
    assert np.isnan(found.value)
