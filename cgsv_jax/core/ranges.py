"""What a number may be: once, for flags, files and Python's factories."""

import math
import reprlib
from typing import Any, NamedTuple

import numpy as np

MAX_WHOLE = 2**31 - 1  # rounds, steps, rows and coalitions are counted in int32
MOST_NUMBER = float(np.finfo(np.float32).max)  # numbers of a method are traced as float32


class Interval(NamedTuple):
    """From `low` to `high`; `ends` says which of the two belong to it, as in "[0, 1)"."""

    low: float
    high: float
    ends: str = "[]"
    whole: bool = False

    def complaints(self, name: str, value: Any, dtype: Any = np.float32) -> list[str]:
        """What is wrong with a value that is called `name`: a sentence, or none.

        Args:
          name: how the caller calls it.
          value: of any type.
          dtype: what a number that is not whole is computed in.
        """
        kinds = int if self.whole else int | float
        if not isinstance(value, kinds) or isinstance(value, bool) or not self._holds(value):
            return [f"{name} is {shown(value)}, it must be a {self._words(value)}"]
        limits = np.finfo(dtype)  # below the least of its numbers, it would become 0
        above, least = self.ends[0] == "(", float(limits.tiny)
        beyond = value != math.inf and value > float(limits.max)
        if not self.whole and (beyond or (above and value < least)):
            return [
                f"{name} is {shown(value)}, which is no number in {limits.dtype}: "
                f"it must be between {least:.3g} and {float(limits.max):.3g}"
            ]
        return []

    def _holds(self, value: float) -> bool:
        over = self.low < value if self.ends[0] == "(" else self.low <= value
        return over and (value < self.high if self.ends[1] == ")" else value <= self.high)

    def _words(self, value: Any) -> str:
        if self.whole:
            counted = isinstance(value, int) and not isinstance(value, bool)
            most = f" to {self.high}" if counted and value > self.high else ""
            return f"whole number from {self.low}{most}"
        left = f"{'above' if self.ends[0] == '(' else 'at least'} {self.low}"
        if self.high == math.inf:
            return f"number {left}{', infinity allowed' if self.ends[1] == ']' else ''}"
        return f"number {left} and {'below' if self.ends[1] == ')' else 'at most'} {self.high}"


def from_(least: int) -> Interval:
    """Whole numbers from `least` to what an int32 counts."""
    return Interval(least, MAX_WHOLE, whole=True)


# What the functions of `core` judge by a field's name, as a config does; the other numbers of a
# config, and those of a rule, stand where they are declared.
RANGES: dict[str, Interval] = {
    **{name: from_(1) for name in ("clients", "rounds", "epochs", "steps", "batch_size", "cohort")},
    **{name: from_(1) for name in ("eval_every", "eval_batch")},
    "learning_rate": Interval(0, math.inf, "()"),
    "decay": Interval(0, 1, "(]"),
    "dropout": Interval(0, 1, "[)"),
}


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, and no longer than a line."""
    try:
        return _SHORT.repr(value)
    except Exception:  # whatever the repr of a stranger's object does, for instance of 10**5000
        return f"a value of type {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40
