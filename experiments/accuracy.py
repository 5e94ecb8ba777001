"""Test accuracy of every method after the last round: average (maximum) over clients, in %.

The paper's second table, of the same runs as `fairness`. Means over seeds.
"""

from collections.abc import Sequence

import polars as pl
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
    what = common.asked("accuracy", __doc__, argv)
    frame, missing = cells.summary(what)
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
    if missing:
        sections.append(("Not run", f"not on this machine: {', '.join(missing)}"))
    seeds = sorted(frame["seed"].unique().to_list())
    common.report(
        *(what, "Accuracy, average (maximum) over clients, %", sections),
        *(cells.labels(frame), figure(frame), common.provenance(seeds)),
    )


def shown(frame: pl.DataFrame) -> pl.DataFrame:
    """Methods x cells: average (maximum)."""

    def text(own: pl.DataFrame) -> str:
        return f"{100 * own['mean_accuracy'].mean():.1f} ({100 * own['max_accuracy'].mean():.1f})"

    return cells.table(frame, {"text": text})


def figure(frame: pl.DataFrame) -> Figure:
    """A panel per cell, a row per method: lowest, average and highest client, means over seeds."""
    frame = cells.labels(frame)
    names = frame["cell"].unique(maintain_order=True).to_list()
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = (3.2 * columns + 1.3, (0.24 * frame["method"].n_unique() + 0.6) * rows + 0.5)
    title = "Test accuracy, %: lowest client, average, highest client"
    drawn, grid = common.panels(rows, columns, size, title)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for index, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        methods = cells.beside(frame, names, index, columns)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        for place, method in enumerate(methods):
            own = frame.filter(cell=name, method=method)
            if not len(own):
                continue
            low, mean, high = (
                100 * own[f"{kind}_accuracy"].mean() for kind in ("min", "mean", "max")
            )
            colour = common.plots.VERMILION if method.startswith("cgsv") else common.plots.BLUE
            axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
            axes.plot([mean], [place], color=colour, marker="o", markersize=4)
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(len(methods)), methods, fontsize=7)
        if not axes.get_subplotspec().is_first_col():
            axes.tick_params(labelleft=False)
    return drawn


if __name__ == "__main__":
    main()
