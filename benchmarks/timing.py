"""The one stopwatch: warm up, wait for the device, repeat, report median and quartiles."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Timing(NamedTuple):
    """Seconds of repeated calls."""

    median: float
    lower: float  # first quartile
    upper: float  # third quartile
    seconds: tuple[float, ...]  # every repeat, in order

    def milliseconds(self, per: float = 1.0) -> str:
        """`median (lower-upper)` in milliseconds, divided by `per` units of work."""
        low, mid, high = (1e3 * s / per for s in (self.lower, self.median, self.upper))
        return f"{mid:.2f} ({low:.2f}-{high:.2f})"


def summary(seconds: list[float]) -> Timing:
    """Median and quartiles of measured seconds, or of ratios."""
    lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75))
    return Timing(float(median), float(lower), float(upper), tuple(seconds))


def once(call: Callable[[], Any]) -> float:
    """Seconds of one call, until every JAX array of its result is ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def alternate(
    calls: Mapping[str, Callable[[], Any]], repeats: int = 5, warmup: int = 1
) -> dict[str, Timing]:
    """Times several calls in turn, so that a slow minute of the machine meets all of them.

    Repeat i of each call is a neighbour of repeat i of the others: ratios of `seconds` taken pair
    by pair are steadier than a ratio of medians.
    """
    for call in calls.values():
        for _ in range(warmup):
            once(call)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(once(call))
    return {name: summary(times) for name, times in seconds.items()}
