"""Settings that are drawn rather than listed: ranges, and points of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core.ranges import MAX_WHOLE, MOST_NUMBER

SEARCHES = ("random", "optuna")
SCHEDULERS = ("none", "asha", "median")
DIGITS = 6  # of a drawn number: those that the command prints are those that were run
# Draws without a new point after which there are none left: so many, and for every point so many.
_IN_VAIN = 1000, 20


class Range(NamedTuple):
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool  # drawn evenly over magnitudes
    whole: bool = False


def span(word: str, whole: bool = False) -> Range:
    """Reads `low:high`, `low:high:log` or `low:high:linear`.

    Without a word it is logarithmic where the range spans a decade.

    >>> span("0.1:10")
    Range(low=0.1, high=10.0, log=True, whole=False)
    >>> span("0.5:0.95").log
    False

    Raises:
      ValueError: it is none of these, or holds nothing.
    """
    low, high, *how = word.split(":")
    cast = int if whole else float
    low, high = cast(low), cast(high)
    most = MAX_WHOLE if whole else MOST_NUMBER
    if how not in ([], ["log"], ["linear"]) or not -most <= low < high <= most:
        raise ValueError(f"{word!r} is no range, it must be low:high, low < high, and :log or not")
    log = how == ["log"] or (not how and low > 0 and high >= 10 * low)
    if log and low <= 0:
        raise ValueError(f"{word!r} is logarithmic, so its low must be above 0")
    return Range(low, high, log, whole)


def holds(space: Range | Sequence[Any], value: Any) -> bool:
    """Whether a value is one that could have been drawn."""
    if not isinstance(space, Range):
        return value in space
    number = isinstance(value, int if space.whole else float) and not isinstance(value, bool)
    return number and space.low <= value <= space.high


def range_of(written: Mapping[str, Any]) -> Range:
    """A range from a file, judged as `span` judges words.

    Raises:
      ValueError: it is none.
    """
    low, high, log, whole = (written.get(name) for name in Range._fields)
    return span(f"{low}:{high}:{'log' if log else 'linear'}", bool(whole))


def rounded(value: float, among: Range) -> float | int:
    """The number as it is run and printed, inside its range."""
    if among.whole:
        return int(np.clip(round(value), among.low, among.high))
    return float(np.clip(float(f"{value:.{DIGITS}g}"), among.low, among.high))


def draw(
    spaces: Mapping[str, Range | Sequence[Any]], number: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Points drawn at random, all different; the first are the same however many are drawn.

    The order of the spaces does not count.

    Args:
      spaces: name -> a range, or values of which each is as likely.
      number: how many; fewer come where there are no more different ones.
      seed: of the draws.

    Raises:
      ConfigError: there is nothing to draw from.
    """
    if not spaces:
        raise ConfigError("--search needs something to search: a range such as --beta 0.1:10")
    rng = np.random.default_rng(seed)
    points: dict[tuple, dict[str, Any]] = {}
    in_vain, (least, each) = 0, _IN_VAIN
    while len(points) < number and in_vain < least + each * len(points):
        point = {name: _draw_one(rng, spaces[name]) for name in sorted(spaces)}
        fresh = points.setdefault(tuple(point.values()), point) is point
        in_vain = 0 if fresh else in_vain + 1
    return list(points.values())


def _draw_one(rng: np.random.Generator, space: Range | Sequence[Any]) -> Any:
    u = rng.random()
    if not isinstance(space, Range):
        return space[int(u * len(space))]
    if space.log:
        return rounded(space.low * (space.high / space.low) ** u, space)
    return rounded(space.low + (space.high - space.low) * u, space)
