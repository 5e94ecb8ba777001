"""What a collaboration is judged by: fairness, gains, distances and traffic, as pure functions.

Fairness is 100 times the Pearson correlation, over clients, between the test accuracy that each
reaches alone and the one that it ends with (Xu et al., NeurIPS 2021). It is blind to shift and
scale, hence to clients that lose by taking part: look at the gains as well. Two rich clients among
poor ones make any Pearson high: look at the rank correlation as well.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import vectors
from cgsv_jax.types import Algorithm, Array

# Two equal accuracies k / n may differ by a rounding or two of float32, where one was divided in a
# vector lane and the other by a reciprocal; the smallest real difference, 1 / n, is more than this
# for every test set of up to a million rows.
_ROUNDINGS = 8
_RESAMPLED = 1 << 20  # values in memory at once


def _constant(values: Array) -> Array:
    # Not "variance 0": one rounding away from constant, a vector would correlate its noise.
    # Methods, so that one rule serves jax's arrays and, in `why_undefined`, NumPy's.
    spread = values.max() - values.min()
    return spread <= _ROUNDINGS * jnp.finfo(values.dtype).eps * abs(values).max()


def _direction(values: Array) -> Array:
    """Deviations from the mean as a unit vector [N]; zeros for a constant one."""
    largest = jnp.max(jnp.abs(values))
    scaled = values / jnp.where(largest == 0, 1.0, largest)
    # Differences of near floats are exact, so that what is averaged is the spread, not the level.
    shifted = scaled - scaled[0]
    deviations = shifted - jnp.mean(shifted)
    widest = jnp.max(jnp.abs(deviations))
    deviations = deviations / jnp.where(widest == 0, 1.0, widest)
    length = jnp.sqrt(jnp.sum(jnp.square(deviations)))
    return deviations / jnp.where(length == 0, 1.0, length)


def pearson(x: Array, y: Array) -> Array:
    """Pearson's correlation coefficient.

    Args:
      x: [N].
      y: [N].

    Returns:
      [] in [-1, 1]; NaN where it is undefined: fewer than three entries (two are always perfectly
      correlated), an entry that is not finite, or a vector that is constant up to rounding.

    >>> float(pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 4.0, 6.0])))
    1.0
    """
    x, y = _floats(x, y)
    if x.size < 3:
        return jnp.full((), jnp.nan, x.dtype)
    finite = jnp.all(jnp.isfinite(x) & jnp.isfinite(y))
    defined = finite & ~_constant(x) & ~_constant(y)
    # A sum of products rather than a dot, which an accelerator may round to fewer bits.
    cosine = jnp.sum(_direction(x) * _direction(y))
    return jnp.where(defined, jnp.clip(cosine, -1.0, 1.0), jnp.nan)


def ranks(values: Array) -> Array:
    """Ranks from 1, the least first; equal values share the mean of theirs: [N] -> [N].

    Values that a few roundings keep apart are equal, as in `pearson`.

    >>> ranks(jnp.array([0.5, 0.25, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    """
    (values,) = _floats(values)
    if not values.size:
        return values
    order = jnp.argsort(values)
    ordered, places = values[order], jnp.arange(values.size)
    # Of the two values themselves: beside a client that diverged, others are still told apart.
    noise = _ROUNDINGS * jnp.finfo(values.dtype).eps * jnp.abs(ordered)
    begins = jnp.diff(ordered) > jnp.maximum(noise[1:], noise[:-1])
    begins = jnp.concatenate([jnp.ones(1, bool), begins])
    first = jax.lax.cummax(jnp.where(begins, places, 0))
    ends = jnp.concatenate([begins[1:], jnp.ones(1, bool)])
    last = jax.lax.cummin(jnp.where(ends, places, values.size), reverse=True)
    return jnp.zeros_like(values).at[order].set((first + last) / 2 + 1)


def rank_correlation(x: Array, y: Array) -> Array:
    """Spearman's rank correlation: Pearson's of the `ranks`.

    One client that is far from all others weighs as much as any (Spearman, 1904).

    Args:
      x: [N].
      y: [N].

    Returns:
      [] in [-1, 1]; NaN where `pearson` is undefined.

    >>> round(float(rank_correlation(jnp.array([1.0, 2.0, 30.0]), jnp.array([2.0, 1.0, 50.0]))), 3)
    0.5
    """
    return jnp.where(jnp.isnan(pearson(x, y)), jnp.nan, pearson(ranks(x), ranks(y)))


def fairness(standalone: Array, final: Array) -> Array:
    """100 rho(standalone, final), in [-100, 100]; NaN where undefined (see `why_undefined`).

    Args:
      standalone: [N] test accuracy each client reaches on its own data alone.
      final: [N] test accuracy after the collaboration, on the same test set.
    """
    return 100.0 * pearson(standalone, final)


def why_undefined(standalone: Array, final: Array) -> str | None:
    """The reason in words why `fairness` is NaN, or None where it is a number; not traceable.

    Args:
      standalone: [N].
      final: [N].
    """
    standalone, final = (np.asarray(values) for values in _floats(standalone, final))
    if final.size < 3:
        return "fewer than 3 clients"
    if not np.all(np.isfinite(standalone) & np.isfinite(final)):
        return "an accuracy is not finite"
    if _constant(final):
        return "all clients end with the same accuracy"
    if _constant(standalone):
        return "all clients have the same standalone accuracy"
    return None


def separation(reputation: Array, honest: Array) -> Array:
    """How well reputations tell honest clients from others: the area under the ROC curve, [].

    The probability that an honest client's reputation is above that of one that is not; a tie
    counts half. 1 tells them apart, 1/2 knows nothing, 0 takes one for the other. NaN where all are
    honest, or nobody is.

    Args:
      reputation: [N].
      honest: [N] bool.

    >>> float(separation(jnp.array([0.5, 0.2, 0.3]), jnp.array([True, False, False])))
    1.0
    """
    reputation, honest = jnp.asarray(reputation), jnp.asarray(honest, bool)
    chex.assert_equal_shape([reputation, honest])
    above = jnp.sign(reputation[:, None] - reputation[None, :]) / 2 + 0.5
    pairs = honest[:, None] & ~honest[None, :]
    return jnp.sum(jnp.where(pairs, above, 0.0)) / jnp.sum(pairs)


def gains(standalone: Array, final: Array) -> Array:
    """What taking part gave each client, final - standalone: [N], [N] -> [N]."""
    standalone, final = _floats(standalone, final)
    return final - standalone


def mean_gain(standalone: Array, final: Array) -> Array:
    """MCG, the mean collaboration gain: [N], [N] -> []; NaN where a gain is."""
    return jnp.mean(gains(standalone, final))


def gain_spread(standalone: Array, final: Array) -> Array:
    """CGS, the collaboration gain spread: the standard deviation of the gains over clients, []."""
    return jnp.std(gains(standalone, final))


def no_worse(standalone: Array, final: Array) -> Array:
    """IPR, the share of clients that end no worse than alone: [N], [N] -> [], NaN where a gain is.

    A client that gets exactly as many test rows right counts, whatever rounding made of k / n.

    >>> float(no_worse(jnp.array([0.5, 0.75]), jnp.array([0.5, 0.25])))
    0.5
    """
    standalone, final = _floats(standalone, final)
    noise = _ROUNDINGS * jnp.finfo(final.dtype).eps * jnp.abs(standalone)
    share = jnp.mean((final >= standalone - noise).astype(final.dtype))
    return jnp.where(jnp.any(jnp.isnan(final - standalone)), jnp.nan, share)


def spread(values: np.ndarray) -> np.ndarray:
    """The standard deviation over clients: [..., N] -> [...]; on the host.

    A correlation does not see how far clients are apart; where this is hardly more than the noise
    of a finite test set, fairness says nothing.
    """
    return np.std(np.asarray(values, np.float64), axis=-1)


def bounded_rate(standalone: Array, final: Array, alpha: float = 0.5) -> Array:
    """FedRAC's rate, the share of clients whose gain is bounded by their contribution, [].

    With a_i alone and f_i at the end, client i counts where
    a_i < f_i <= ((1 - alpha) a_i / max_j a_j + alpha) max_j f_j:
    it ends better than alone, and no better than its contribution allows. Only max f itself is
    allowed at alpha = 1, and at 0 no client may keep more of max f than it contributes of max a.

    The released code (ZiHuiWangpcl1/FedRAC, main.py, CVPR 2026; alpha = .5) sets its counter back
    to -10 at a client that ends no better than alone, so that what it prints depends on the order
    of the clients. Here such a client is outside, as the published share says.

    Args:
      standalone: [N] accuracies, of which one is positive.
      final: [N].
      alpha: in [0, 1].

    Returns:
      NaN where a value is not finite.

    >>> float(bounded_rate(jnp.array([0.4, 0.8]), jnp.array([0.6, 0.9])))
    1.0
    """
    standalone, final = _floats(standalone, final)
    noise = _ROUNDINGS * jnp.finfo(final.dtype).eps
    bound = ((1 - alpha) * standalone / jnp.max(standalone) + alpha) * jnp.max(final)
    better = final > standalone * (1 + noise)
    share = jnp.mean((better & (final <= bound * (1 + noise))).astype(final.dtype))
    return jnp.where(jnp.all(jnp.isfinite(final) & jnp.isfinite(bound)), share, jnp.nan)


def interval(values: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap confidence interval of the mean over seeds; on the host, not traceable.

    Percentiles of the means of 9,999 resamples: unlike the bias-corrected intervals, they exist for
    whatever values. They never leave the range of the seeds, so that of few seeds the interval is
    too narrow rather than too wide. The resamples are always the same ones, and the order of the
    seeds does not count.

    Args:
      values: [S]; those that are not finite are left out.
      confidence: in (0, 1).

    Returns:
      (low, high); NaN for fewer than two values, both the value itself where all are equal.

    >>> interval(np.array([2.0, 2.0, np.nan]))
    (2.0, 2.0)
    """
    values = np.asarray(values, np.float64)
    chex.assert_rank(values, 1)
    values = np.sort(values[np.isfinite(values)])
    if values.size < 2:
        return np.nan, np.nan
    if values[0] == values[-1]:
        return float(values[0]), float(values[0])
    from scipy import stats  # half a second

    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=9_999,
        batch=max(1, _RESAMPLED // values.size),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


class Messages(NamedTuple):
    """What a client sends in a round, and is sent beside its reward."""

    entries: int  # of the model that are shared: D, less those that stay with the clients
    up: int = 1  # vectors of these: its update, and its mean gradient where that is asked for
    down: int = 0  # vectors of these that it does not know before


def messages(algorithm: Algorithm, num_parameters: int) -> Messages:
    """What goes to and fro under an algorithm on a model of D parameters.

    Of stages that differ in it (see `rules.then`) what both send, in every round: that is what the
    simulation computes.
    """
    spans, entries = algorithm.private, num_parameters
    if spans:
        entries -= int(jnp.sum(vectors.within(spans, num_parameters)))
    if algorithm.local is None:
        return Messages(entries)
    return Messages(entries, 1 + algorithm.local.with_gradient, algorithm.local.news)


class Volumes(NamedTuple):
    """Bytes per client and round, like the arrays they came from; int64."""

    upload: np.ndarray
    values: np.ndarray  # of the download: numbers
    indices: np.ndarray  # of the download: which entries they are

    @property
    def download(self) -> np.ndarray:
        """All that a client is sent."""
        return self.values + self.indices


def volumes(
    present: Array,
    quota: Array,
    entries: int,
    up: int = 1,
    down: int = 0,
    held: Array | None = None,
) -> Volumes:
    """What goes over the wire if every number is a float32; on the host, where sums stay exact.

    An upload is dense, 4 D bytes of every present client and vector, or 4 h where h entries of its
    model are on. A download of q entries is 4 q bytes of values, and says which entries they are by
    int32 indices or by a bitmap of D bits, whichever is shorter: min(4 q, ceil(D / 8)) bytes; none
    where q = D. What is broadcast beside it is dense. Numbers of rows, losses and scores
    are not counted, nor the server's model where it takes the place of a client's own.

    Args:
      present: [...] bool.
      quota: [...] entries received, 0..D.
      entries: D, those that are shared; see `Messages`, as for the next two.
      up: vectors of a client.
      down: vectors to a client, beside its reward.
      held: [...] entries that are on in the models that are trained; None: all.

    >>> volumes(np.array([True, False]), np.array([3, 0]), 1000)
    Volumes(upload=array([4000,    0]), values=array([12,  0]), indices=array([12,  0]))
    """
    present, quota = np.asarray(present), np.asarray(quota, np.int64)
    chex.assert_equal_shape([present, quota])
    trained = np.int64(entries) if held is None else np.asarray(held, np.int64)
    bitmap = -(-entries // 8)
    return Volumes(
        upload=np.where(present, 4 * up * trained, 0),
        values=4 * quota + np.where(present, 4 * down * np.int64(entries), 0),
        indices=np.where(quota < entries, np.minimum(4 * quota, bitmap), 0),
    )


def distances(clients: Array, server: Array) -> Array:
    """delta_i = ‖w_N - w_i‖, which Theorem 2 orders by reputation.

    Args:
      clients: [N, D].
      server: [D].

    Returns:
      [N].
    """
    return vectors.distances(jnp.asarray(clients), jnp.asarray(server))


def _floats(*values: Array) -> tuple[Array, ...]:
    arrays = [jnp.asarray(x) for x in values]
    chex.assert_rank(arrays, 1)
    chex.assert_equal_shape(arrays)
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return tuple(x.astype(dtype) for x in arrays)
