"""Watches for `experiment.run`: what is called between segments, and may end a run early.

A watch is a function of a `Progress`; where it returns True, the seeds that run end there.

>>> import cgsv_jax as cg
>>> watch = cg.callbacks.both(print, cg.callbacks.patience(5))
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Watch = Callable[[Any], Any]  # of a `running.Progress`; True ends what runs


def both(*watches: Watch) -> Watch:
    """All of these, in this order; what runs ends where one of them says so."""

    def watch(progress: Any) -> bool:
        return any([bool(one(progress)) for one in watches])

    return watch


def patience(looks: int) -> Watch:
    """Ends what runs after so many looks in a row without a better mean validation accuracy.

    The accuracy is `Progress.validation_accuracy`: over clients and the seeds that run, on the
    server's validation rows, never on test rows. It begins anew with every method, draw and group
    of seeds, and with every run: one watch does for several. `configure(patience=...)` does the
    same with every evaluation of every seed, and stands in config.json.

    Args:
      looks: with an evaluation, at least 1.

    Raises:
      ValueError: `looks` is below 1; or, when called, validation rows judge nothing here.
    """
    if looks < 1:
        raise ValueError(f"looks is {looks}, it must be at least 1")
    run, seen, best, waited = None, 0, -np.inf, 0

    def watch(progress: Any) -> bool:
        nonlocal run, seen, best, waited
        here = progress.partition, progress.partition_seed, progress.method, progress.seeds
        if progress.accuracy is None:  # also what a run shows first, before any round
            if here == run and progress.seed_round < seen:
                run = None
            return False
        if progress.validation_accuracy is None:
            raise ValueError(
                "callbacks.patience waits for a better accuracy on validation rows, which nobody "
                'evaluates here: configure(select="validation") does, or configure(patience=...)'
            )
        # Seeds whose rounds have not gone on are those of another run of the same config.
        if here != run or progress.seed_round <= seen:
            run, best, waited = here, -np.inf, 0
        seen = progress.seed_round
        better = progress.validation_accuracy > best
        best = max(best, progress.validation_accuracy)
        waited = 0 if better else waited + 1
        return waited >= looks

    return watch


def end_of(rounds: np.ndarray, scores: np.ndarray, waits: int, first: int = 0) -> int:
    """The round with which a run ends that waits for a better score; 0 where it goes on.

    >>> end_of(np.arange(1, 7), np.array([3, 5, 5, 4, 6, 6]), 2)
    4
    >>> end_of(np.arange(1, 7), np.array([3, 5, 5, 4, 6, 6]), 3)
    0

    Args:
      rounds: [K] of its evaluations.
      scores: [K] of the same; more is better, as much is not.
      waits: evaluations without a better score that end it.
      first: evaluations after fewer rounds are left out.
    """
    best, waited = -np.inf, 0
    for round_, score in zip(rounds, scores, strict=True):
        if round_ <= first:
            continue
        waited = 0 if score > best else waited + 1
        best = max(best, score)
        if waited >= waits:
            return int(round_)
    return 0
