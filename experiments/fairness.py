"""Fairness of every method: 100 x Pearson(standalone, final accuracy), mean over seeds.

The paper's first table. An interval is of 95 %, over test rows and seeds where the answers to test
rows were kept, else the bootstrap of the mean over seeds; `±?` stands where it contains both signs,
`*` where the sign changes over the last quarter of the evaluations. What is undefined leaves the
mean, and its reason stands below.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cgsv_jax.results import frames, tables
from experiments import cells, common, paper

FAIRNESS = tables.over_seeds("", "fairness", 0, text=tables.fairness_text)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, or reads them, and shows their fairness."""
    what = common.asked("fairness", __doc__, argv, common.SCALES | common.PAPER)
    there = cells.found(what)
    frame = there.summary
    judged = frame.filter(pl.col("method") != frames.YARDSTICK)
    sections = [("", shown(judged.filter(dataset=name))) for name in datasets(judged)]
    sections.append(("Undefined", undefined(judged)))
    if there.cells:
        sections += [("Over rounds", paper.OVER_ROUNDS), ("", paper.over_rounds(there.cells))]
        sections += [("Where and how long", paper.table(there.cells))]
    sections += cells.not_run(there)
    seeds = sorted(frame["seed"].unique().to_list())
    common.report(
        *(what, "Fairness, 100 x Pearson(standalone, final accuracy)", sections),
        *(cells.labels(judged), figure(judged), common.provenance(seeds)),
    )


def datasets(frame: pl.DataFrame) -> list[str]:
    """In order of appearance."""
    return frame["dataset"].unique(maintain_order=True).to_list()


def shown(frame: pl.DataFrame) -> pl.DataFrame:
    """Methods x cells: mean [interval] (seeds in which it is defined), as a run's table says it."""

    def text(own: pl.DataFrame) -> str:
        (row,) = frames.fairness_table(own).iter_rows(named=True)
        return FAIRNESS.text(row)

    return cells.table(frame, text)


def undefined(frame: pl.DataFrame) -> str:
    """A line per reason: which methods, in how many of the cells' seeds."""
    lines = []
    known = frame.filter(pl.col("fairness_undefined").is_not_null())
    for (reason,), own in known.group_by("fairness_undefined", maintain_order=True):
        counts = own.group_by("method", maintain_order=True).len()
        of = {m: len(frame.filter(method=m)) for m in counts["method"]}
        named = [f"{m} ({n} of {of[m]} runs)" for m, n in counts.iter_rows()]
        lines.append(f"* {reason}: {', '.join(named)}")
    return "\n".join(lines) or "nowhere"


def figure(frame: pl.DataFrame) -> Figure:
    """A panel per cell, a row per method: the seeds as dots, their mean as a bar, the interval."""

    def draw(axes: Axes, place: int, own: pl.DataFrame, colour: str) -> None:
        (row,) = frames.fairness_table(own).iter_rows(named=True)
        bounds = [row["fairness_low"], row["fairness_high"]]
        axes.plot(bounds, [place, place], color=colour, linewidth=1, alpha=0.5)
        values = [v for v in own["fairness"].to_list() if v is not None]
        axes.scatter(values, [place] * len(values), s=9, color=colour, alpha=0.6, linewidths=0)
        if values:
            mean = np.mean(values)
            axes.plot([mean, mean], [place - 0.32, place + 0.32], color=colour, linewidth=2)
        else:
            axes.text(0, place, "undefined", fontsize=6, ha="center", va="center", color="grey")

    title = "Fairness of every seed, the mean and its 95 % interval"
    drawn, panels = cells.panels(frame, title, "fairness", draw)
    for axes in panels:
        axes.axvline(0, color="#999999", linewidth=0.8)
        axes.set_xlim(-108, 108)
    return drawn


if __name__ == "__main__":
    main()
