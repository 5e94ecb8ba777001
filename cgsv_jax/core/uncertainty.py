"""How sure a fairness number is, given a finite test set, a few seeds and a few partitions.

An accuracy on n test rows is the true one and noise, and noise does two things to a correlation
over clients. It makes it uncertain, which resampling shows. And it moves it: towards 0, or towards
1, since all models meet the same rows; resampling moves it once more by as much. So an ordinary
percentile bootstrap covers the true value too seldom, the more so the closer the clients are and
the more of them there are (`tests/test_uncertainty.py` counts how often). Here what is resampled is
made of accuracies without the noise's part of their spread, and that part is taken off again from
every resample's moments; both are known, since the noise's covariance is that of the rows.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cgsv_jax.core import metrics

Generator = np.random.Generator


class Interval(NamedTuple):
    """Where the true fairness lies, and what makes it uncertain; in the unit of fairness.

    The parts are the widths of the intervals that one source alone would give; they do not add up.
    """

    value: float  # mean over the runs of what was observed; NaN where it is undefined in one
    low: float
    high: float
    by_rows: float  # width, were there all seeds and partitions
    by_seeds: float  # width, were there all test rows and partitions; NaN: one seed tells nothing
    by_partitions: float  # likewise

    @property
    def both_signs(self) -> bool:
        """Whether the data do not even say that the number is positive, or negative."""
        return self.low <= 0 <= self.high


def fairness_interval(
    rng: Generator,
    standalone: np.ndarray,
    final: np.ndarray,
    partitions: Sequence[int] | None = None,
    *,
    tested: Sequence[int] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """The interval of 100 x Pearson(standalone, final) of models as they are on all possible rows.

    x [2, N] are the mean scores of N clients alone and at the end, S the covariance of these means
    over rows, M = X X^T the moments [2, 2] of the centred x, E = the same of S. A resample is
    (M - E)^1/2 M^-1/2 X + noise of covariance S, and its moments less E give the correlation; one
    draw of the rows serves all clients, both sides, and all runs that were tested on them. Rows are
    resampled by Gaussian multipliers, which for means of some hundred rows is the bootstrap. Seeds
    are drawn anew within partitions and these among themselves, k - 1 of k, so that the variance is
    unbiased for few.

    Where less is left than noise, the correlation may be anything, and counts as -100 and as 100.

    Args:
      rng: of the resamples.
      standalone: [R, N, n] score of every run's clients, trained alone, on every test row: 1 or 0
        for a right or wrong answer, or a log-likelihood.
      final: [R, N, n] the same at the end of the collaboration.
      partitions: [R] which partition a run is on; runs on the same one differ in their seed.
        Default: all on one.
      tested: [R] which test rows a run was tested on; those of different numbers are taken to be
        drawn independently, and have no more in common than how many they are. Default: all on the
        same.
      resamples: how many.
      level: of confidence.

    Raises:
      ValueError: shapes do not fit, or there are fewer than three clients or two rows.
    """
    standalone, final = (np.asarray(x, np.float64) for x in (standalone, final))
    if standalone.ndim != 3 or standalone.shape != final.shape:
        raise ValueError(
            f"scores must be [R, N, n] on both sides, got {standalone.shape} and {final.shape}"
        )
    runs, clients, rows = standalone.shape
    if runs < 1 or clients < 3 or rows < 2:
        raise ValueError(f"{runs} runs of {clients} clients on {rows} rows give no interval")
    groups = np.zeros(runs, int) if partitions is None else np.asarray(partitions)
    if groups.shape != (runs,):
        raise ValueError(f"partitions must be [{runs}], got {groups.shape}")
    sets = np.zeros(runs, int) if tested is None else np.asarray(tested)
    if sets.shape != (runs,):
        raise ValueError(f"tested must be [{runs}], got {sets.shape}")
    drawn = np.empty((runs, resamples))
    for own in np.unique(sets):
        multipliers = rng.standard_normal((rows, resamples), np.float32)
        for run in np.flatnonzero(sets == own):
            drawn[run] = _resampled(standalone[run], final[run], multipliers)
    means = zip(standalone.mean(2), final.mean(2), strict=True)
    observed = np.array([_observed(*pair) for pair in means])
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # a run in which all is noise
        middle = np.nanmedian(drawn, axis=1)

    def bounds(by_rows: bool, by_seeds: bool, by_partitions: bool) -> np.ndarray:
        chosen = _chosen(rng, members, resamples, by_seeds, by_partitions)  # [B, ...] of runs
        at = np.arange(resamples)[:, None]
        values = drawn[chosen, at] if by_rows else middle[chosen]
        # What may be anything is as often the least as the most.
        anything = np.where(at % 2, 100.0, -100.0)
        values = np.where(np.isnan(values), anything, values).mean(axis=1)
        return np.percentile(values, [50 * (1 - level), 100 - 50 * (1 - level)])

    several = max(map(len, members)) > 1, len(members) > 1
    low, high = bounds(True, *several)
    parts = [
        np.ptp(bounds(True, False, False)),
        np.ptp(bounds(False, True, False)) if several[0] else np.nan,
        np.ptp(bounds(False, False, True)) if several[1] else np.nan,
    ]
    return Interval(float(observed.mean()), float(low), float(high), *map(float, parts))


def _observed(standalone: np.ndarray, final: np.ndarray) -> float:
    """`metrics.fairness` of [N] and [N], without a program to compile."""
    if metrics.why_undefined(standalone, final) is not None:
        return np.nan
    return float(100 * np.corrcoef(standalone, final)[0, 1])


def _chosen(
    rng: Generator, members: list[np.ndarray], resamples: int, seeds: bool, partitions: bool
) -> np.ndarray:
    """The runs of every resample [B, any]: partitions, and seeds of each, all or k - 1 of k."""

    def some(k: int, again: bool) -> np.ndarray:
        return rng.integers(k, size=k - 1) if again and k > 1 else np.arange(k)

    draws = [
        [members[g][some(len(members[g]), seeds)] for g in some(len(members), partitions)]
        for _ in range(resamples)
    ]
    # Partitions count equally, however many seeds each has: the shorter are repeated.
    width = int(np.lcm.reduce([len(own) for draw in draws for own in draw]))
    return np.array([[np.resize(own, width) for own in draw] for draw in draws]).reshape(
        resamples, -1
    )


def _resampled(standalone: np.ndarray, final: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """100 x correlation in every resample of the rows [B]; NaN where less is left than noise.

    Args:
      standalone: [N, n].
      final: [N, n].
      multipliers: [n, B] standard normal.
    """
    scores = np.stack([standalone, final])  # [2, N, n]
    rows = scores.shape[2]
    deviations = (scores - scores.mean(2, keepdims=True)) / np.sqrt(rows * (rows - 1.0))
    noise = np.moveaxis(deviations.astype(np.float32) @ multipliers, 2, 0)  # [B, 2, N]
    between = deviations - deviations.mean(1, keepdims=True)
    expected = np.einsum("ain,bin->ab", between, between)  # E
    means = scores.mean(2)
    centred = means - means.mean(1, keepdims=True)
    moments = centred @ centred.T  # M
    clean = _root(moments - expected) @ np.linalg.pinv(_root(moments)) @ centred
    drawn = clean + noise
    drawn = drawn - drawn.mean(2, keepdims=True)
    left = drawn @ np.swapaxes(drawn, 1, 2) - expected
    known = (left[:, 0, 0] > 0) & (left[:, 1, 1] > 0)
    scale = np.sqrt(np.where(known, left[:, 0, 0] * left[:, 1, 1], 1.0))
    return np.where(known, 100 * np.clip(left[:, 0, 1] / scale, -1, 1), np.nan)


def _root(moments: np.ndarray) -> np.ndarray:
    """The square root of the nearest matrix [2, 2] that is that of some values."""
    values, vectors = np.linalg.eigh(moments)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
