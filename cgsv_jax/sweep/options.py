"""What may be asked of a sweep: what takes several values, how they are drawn, what ranks points.

The command shows it before anything is loaded that computes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cgsv_jax.config import schema
from cgsv_jax.core.ranges import MAX_WHOLE, MOST_NUMBER

EVAL_SPLITS = ("test", "validation")  # examples that accuracies of a sweep may be on
SEARCHES = ("random", "optuna")
SCHEDULERS = ("none", "asha", "median")
# Columns of the summary that may rank the points; more is better.
CRITERIA = (
    *("fairness", "mean_accuracy", "min_accuracy", "max_accuracy", "server_accuracy"),
    *("mean_gain", "no_worse"),
)

# One config holds several of these: they are no axis, and multiply the trials of a point.
LISTS = (
    *("partitions", "algorithms", "seeds", "partition_seeds", "late", "attacks", "attackers"),
    "shares",
)
# Where files are, and how a run is computed or looked at; not what is computed.
FIXED = (
    *schema.PATHS,
    *("repeated_rows", "eval_every", "eval_rows", "eval_clients", "eval_batch", "layout"),
    "own_test_share",
    *("devices", "conv", "patience", "track", "checkpoint_every", "plugin", "plugin_sha256"),
    "save_models",
)
_SWEEPABLE = ("preset", *(name for name in schema.FIELDS if name not in (*LISTS, *FIXED)))


def sweepable(tables: schema.Tables) -> tuple[str, ...]:
    """What may take several values: fields of a config, and what rules declare."""
    return (*_SWEEPABLE, *tables.options)


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


def range_of(written: Mapping[str, Any]) -> Range:
    """A range from a file, validated as `span` validates words.

    Raises:
      ValueError: it is none.
    """
    low, high, log, whole = (written.get(name) for name in Range._fields)
    return span(f"{low}:{high}:{'log' if log else 'linear'}", bool(whole))
