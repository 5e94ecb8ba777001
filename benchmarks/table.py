"""A row of the benchmark table, and how rows become Markdown and JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cgsv_jax.experiment.timing import Timing

MOST_LOAD = 1.0  # of the last minute, above which a machine is not idle


class Row(NamedTuple):
    """One figure: ours and theirs on the same work, measured side by side.

    `ratio` is theirs / ours (how many times faster we are) unless `at_most` is set, where it is the
    quantity that must stay below the target.
    """

    work: str
    against: str
    ours: Timing | None  # seconds
    theirs: Timing | None  # seconds
    ratio: Timing | None
    target: float | None
    at_most: bool = False
    floor: float | None = None  # seconds that the device needs at its measured rates
    note: str = ""  # agreement of the results, what falls short and why
    load: tuple[float, float] | None = None  # of the machine before and after; None: not looked at

    @property
    def measured(self) -> bool:
        """Whether there is a ratio, taken on a machine that was idle before it."""
        idle = self.load is None or self.load[0] <= MOST_LOAD
        return idle and self.ratio is not None

    @property
    def reached(self) -> bool | None:
        """Whether the median meets the target; None where nothing was measured, or none is set."""
        if self.ratio is None or self.target is None or not self.measured:
            return None
        median = self.ratio.median
        return median <= self.target if self.at_most else median >= self.target


HEADER = (
    "| work | against | theirs | ours | ratio | target | reached | floor | ours / floor | load "
    "| note |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def markdown(row: Row) -> str:
    """One line under `HEADER`."""
    bound = "" if row.target is None else f"{'<=' if row.at_most else '>='} {row.target:g}"
    reached = {True: "yes", False: "**no**", None: ""}[row.reached]
    over = row.floor and row.ours and f"{row.ours.median / row.floor:.1f}"
    cells = (
        *(row.work, row.against, _seconds(row.theirs), _seconds(row.ours)),
        *(_ratio(row.ratio) if row.measured else "not measured", bound, reached),
        *(_duration(row.floor), over or "", _load(row), row.note),
    )
    return "| " + " | ".join(cells) + " |"


def json_of(row: Row) -> dict[str, Any]:
    """Every number of a row, all repeats included."""

    def plain(value: Any) -> Any:
        return value._asdict() if isinstance(value, Timing) else value

    verdicts = {"measured": row.measured, "reached": row.reached}
    return {name: plain(value) for name, value in row._asdict().items()} | verdicts


def show(rows: Sequence[Row]) -> str:
    """The table."""
    return "\n".join([HEADER, *map(markdown, rows)])


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _seconds(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{_duration(timing.median)} ({_duration(timing.lower)}-{_duration(timing.upper)})"


def _load(row: Row) -> str:
    if row.load is None:
        return ""
    before, after = row.load
    busy = f": not idle, above {MOST_LOAD:g}" if before > MOST_LOAD else ""
    return f"{before:.2f} to {after:.2f}{busy}"


def _ratio(timing: Timing | None) -> str:
    if timing is None:
        return ""
    digits = 0 if timing.median >= 100 else 1 if timing.median >= 10 else 2
    low, mid, high = (f"{x:.{digits}f}" for x in (timing.lower, timing.median, timing.upper))
    return f"**{mid}** ({low}-{high})"
