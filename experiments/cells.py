"""The cells of the paper's two tables: method x partition x data set x number of clients.

`fairness` and `accuracy` show the same runs; whichever is started first makes them, and
`cells-<scale>.parquet` keeps them for the other.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cgsv_jax import data
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.results import figures
from experiments import common, paper

PARTITIONS = ("uniform", "power_law", "class_imbalance")
EVERY = tuple(names_lib.TABLES.algorithms)
# Where a run costs minutes: the yardstick, two baselines whose fairness is defined, both settings.
FEW = ("standalone", "fedavg_finetuned", "random_reward", "cgsv")
SOME = (*FEW, "cgsv:released")

# (data set, N, partitions, methods, what differs from the data set's defaults)
Cell = tuple[str, int, Sequence[str], Sequence[str], dict[str, Any]]
CELLS: dict[str, list[Cell]] = {
    "smoke": [
        ("digits", 3, ("class_imbalance",), ("standalone", "cgsv"), {"rounds": 3, "seeds": 2}),
    ],
    "small": [
        ("digits", 10, PARTITIONS, EVERY, {"seeds": 3}),
        *(("digits", n, PARTITIONS, SOME, {"seeds": 3}) for n in (5, 20)),
        (
            *("mnist", 5, PARTITIONS, SOME),
            {"seeds": 3, "rounds": 10, "epochs": 1, "rows_per_client": 200, "eval_rows": 1000},
        ),
        (
            *("cifar10", 5, PARTITIONS, FEW),
            {"seeds": 3, "rounds": 10, "epochs": 2, "rows_per_client": 200, "eval_rows": 1000}
            | {"batch_size": 16, "learning_rate": 0.03},
        ),
        *(
            (
                *(name, 5, ("power_law",), FEW),
                {"seeds": 3, "rounds": 4, "rows_per_client": 150, "batch_size": 32}
                | {"learning_rate": 1e-3},
            )
            for name in ("sst", "mr")
        ),
    ],
    "full": [
        *(("digits", n, PARTITIONS, EVERY, {"seeds": 5}) for n in (5, 10, 20)),
        *(("mnist", n, PARTITIONS, (*EVERY, "cgsv:released"), {"seeds": 5}) for n in (5, 10, 20)),
        *(("cifar10", n, PARTITIONS, (*EVERY, "cgsv:released"), {"seeds": 5}) for n in (5, 10, 20)),
        *((n, 5, ("power_law",), (*EVERY, "cgsv:released"), {"seeds": 5}) for n in ("sst", "mr")),
    ],
}


class Found(NamedTuple):
    """What is there of a scale."""

    summary: pl.DataFrame  # of all runs, with a column dataset
    missing: list[str]  # what was not run, and why
    cells: Sequence[paper.Known] = ()  # of `paper`


def found(what: common.Asked) -> Found:
    """What is there, after whatever is missing was run."""
    if what.scale == "paper":
        known = paper.known(what)
        return Found(paper.summary(known), paper.missing(what), known)
    here = {line.name: line.present for line in data.available(what.data_dir)}
    configs, columns, missing = [], [], []
    for dataset, clients, partitions, methods, changes in CELLS[what.scale]:
        if not here.get(dataset, False):
            missing.append(dataset)
            continue
        configs.append(
            {
                "dataset": dataset,
                "data_dir": what.data_dir,
                "clients": clients,
                "partitions": list(partitions),
                "algorithms": list(methods),
                "eval_every": changes.get("rounds", 10**6),
                **changes,
            }
        )
        columns.append({"dataset": dataset})
    frame = common.remembered(what, "cells", configs, columns)
    lines = [f"{name} (data not on this machine)" for name in sorted(set(missing))]
    return Found(frame, lines)


def not_run(found: Found) -> list[tuple[str, str]]:
    """A section that says what is missing, where something is."""
    lines = "\n".join(f"* {line}" for line in found.missing)
    return [("Not run", lines)] if lines else []


def labels(frame: pl.DataFrame) -> pl.DataFrame:
    """A column `cell`, the data set, N and the partition in one word."""
    short = {"uniform": "UNI", "power_law": "POW", "class_imbalance": "CLA"}
    return frame.with_columns(
        pl.format("{} {}-{}", "dataset", pl.col("partition").replace(short), "clients").alias(
            "cell"
        )
    )


def panels(
    frame: pl.DataFrame,
    title: str,
    label: str,
    draw: Callable[[Axes, int, pl.DataFrame, str], None],
) -> tuple[Figure, list[Axes]]:
    """A panel per cell, a row per method that some cell beside it has; three panels in a row.

    Args:
      frame: of runs.
      title: of the figure.
      label: of the x axes.
      draw: (axes, height of the row, this cell's runs of the method, colour) draws them.
    """
    frame = labels(frame)
    names = frame["cell"].unique(maintain_order=True).to_list()
    columns = min(3, len(names))
    # Panels in a row share the labels at left; a method is as high in each row of panels.
    beside = [names[first : first + columns] for first in range(0, len(names), columns)]
    shared = [
        frame.filter(pl.col("cell").is_in(own))["method"].unique(maintain_order=True).to_list()
        for own in beside
    ]
    heights = [0.2 * len(methods) for methods in shared]
    size = (3.2 * columns + 1.3, sum(heights) + 0.55 * len(heights) + 0.6)
    drawn, grid = common.panels(len(heights), columns, size, title)
    grid[0, 0].get_gridspec().set_height_ratios(heights)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    used = list(grid.flat[: len(names)])
    for index, (axes, name) in enumerate(zip(used, names, strict=True)):
        methods = shared[index // columns][::-1]
        axes.set_ylim(-0.6, len(methods) - 0.4)
        for place, method in enumerate(methods):
            own = frame.filter(cell=name, method=method)
            if len(own):
                ours = method.startswith("cgsv")
                draw(axes, place, own, figures.VERMILION if ours else figures.BLUE)
        axes.set_title(name, fontsize=9)
        if index + columns >= len(names):
            axes.set_xlabel(label, fontsize=8)
        axes.set_yticks(range(len(methods)), methods, fontsize=7)
        if not axes.get_subplotspec().is_first_col():
            axes.tick_params(labelleft=False)
    return drawn, used


def table(frame: pl.DataFrame, text: Callable[[pl.DataFrame], str]) -> pl.DataFrame:
    """Methods down, cells across, each the text of its runs; an en dash where there are none."""
    frame = labels(frame)
    names = frame["cell"].unique(maintain_order=True).to_list()
    rows = []
    for method in frame["method"].unique(maintain_order=True):
        own = frame.filter(method=method)
        row = {"method": method}
        for name in names:
            here = own.filter(cell=name)
            row[name] = text(here) if len(here) else "–"
        rows.append(row)
    return pl.DataFrame(rows)
