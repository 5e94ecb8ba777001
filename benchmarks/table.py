"""A row of the benchmark table, and how rows become Markdown and JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cgsv_jax.experiment.timing import Timing


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

    @property
    def reached(self) -> bool | None:
        """Whether the median meets the target; None where there is nothing to compare."""
        if self.ratio is None or self.target is None:
            return None
        median = self.ratio.median
        return median <= self.target if self.at_most else median >= self.target


HEADER = (
    "| work | against | theirs | ours | ratio | target | reached | floor | ours / floor | note |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def markdown(row: Row) -> str:
    """One line under `HEADER`."""
    bound = "" if row.target is None else f"{'<=' if row.at_most else '>='} {row.target:g}"
    reached = {True: "yes", False: "**no**", None: ""}[row.reached]
    over = row.floor and row.ours and f"{row.ours.median / row.floor:.1f}"
    cells = (
        *(row.work, row.against, _seconds(row.theirs), _seconds(row.ours), _ratio(row.ratio)),
        *(bound, reached, _duration(row.floor), over or "", row.note),
    )
    return "| " + " | ".join(cells) + " |"


def json_of(row: Row) -> dict[str, Any]:
    """Every number of a row, all repeats included."""

    def plain(value: Any) -> Any:
        return value._asdict() if isinstance(value, Timing) else value

    return {name: plain(value) for name, value in row._asdict().items()} | {"reached": row.reached}


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


def _ratio(timing: Timing | None) -> str:
    if timing is None:
        return "not measured"
    digits = 0 if timing.median >= 100 else 1 if timing.median >= 10 else 2
    low, mid, high = (f"{x:.{digits}f}" for x in (timing.lower, timing.median, timing.upper))
    return f"**{mid}** ({low}-{high})"
