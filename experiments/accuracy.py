"""Test accuracy of every method after the last round: average (maximum) over clients, in %.

The paper's second table, of the same runs as `fairness`. Means over seeds.
"""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import cells, common
from experiments.fairness import datasets

GAINS = {
    "mean_gain": ("MCG, points", 100, 1),
    "gain_spread": ("CGS, points", 100, 1),
    "no_worse": ("IPR, %", 100, 0),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells, or reads them, and shows accuracies and gains."""
    what = common.asked("accuracy", __doc__, argv, common.SCALES | common.PAPER)
    there = cells.found(what)
    frame = there.summary
    sections = [("", shown(frame.filter(dataset=name))) for name in datasets(frame)]
    gains = cells.labels(frame.filter(pl.col("mean_gain").is_not_null()))
    sections += [
        (
            "Gains over standalone",
            "MCG is the mean gain, CGS its standard deviation over clients, IPR the share of "
            "clients that end no worse than alone; mean ± deviation over seeds.",
        ),
        ("", common.over_seeds(gains, ("cell", "method"), GAINS)),
    ]
    sections += cells.not_run(there)
    seeds = sorted(frame["seed"].unique().to_list())
    common.report(
        *(what, "Accuracy, average (maximum) over clients, %", sections),
        *(cells.labels(frame), figure(frame), common.provenance(seeds)),
    )


def shown(frame: pl.DataFrame) -> pl.DataFrame:
    """Methods x cells: average (maximum)."""

    def text(own: pl.DataFrame) -> str:
        return f"{100 * own['mean_accuracy'].mean():.1f} ({100 * own['max_accuracy'].mean():.1f})"

    return cells.table(frame, text)


def figure(frame: pl.DataFrame) -> Figure:
    """A panel per cell, a row per method: lowest, average and highest client, means over seeds."""

    def draw(axes: Axes, place: int, own: pl.DataFrame, colour: str) -> None:
        low, mean, high = (100 * own[f"{kind}_accuracy"].mean() for kind in ("min", "mean", "max"))
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
        axes.plot([mean], [place], color=colour, marker="o", markersize=4)

    title = "Test accuracy: lowest client, average, highest client"
    return cells.panels(frame, title, "test accuracy, %", draw)[0]


if __name__ == "__main__":
    main()
