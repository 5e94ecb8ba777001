"""Paper against released code, difference by difference: which line of the option table matters.

From the setting `paper`, one line at a time is set as released, then all of them; differences in
fairness and accuracy are paired over seeds. The learning rate that the released code sets for MNIST
is a line of its own, where the data set is MNIST.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cgsv_jax.config import defaults
from experiments import common

SCALES = {
    "smoke": {"partitions": ["class_imbalance"], "seeds": 2, "rounds": 3, "clients": 3},
    "small": {"partitions": ["power_law", "class_imbalance"], "seeds": 5},
    "full": {"partitions": ["power_law", "class_imbalance"], "seeds": 5, "dataset": "mnist"},
}
COLUMNS = {
    "fairness": ("fairness", 1, 0),
    "mean_accuracy": ("average accuracy, %", 100, 2),
    "share": ("entries received, %", 100, 1),
}
BASE = "paper"


def lines(dataset: str) -> dict[str, dict]:
    """Name of a row -> what it asks for beside the setting `paper`."""
    paper, released = (defaults.PRESETS[name] for name in ("paper", "released"))
    changed = {k: v for k, v in released.items() if paper[k] != v}
    rows: dict[str, dict] = {BASE: {}}
    rows |= {f"{key} {value}": {key: value} for key, value in changed.items()}
    rows["mask (scope, count, ties)"] = {k: v for k, v in changed.items() if k.startswith("mask")}
    rates = defaults.RELEASED_TRAINING.get(dataset, {})
    if rates:
        rows["learning rate, decay"] = dict(rates)
    rows["released"] = {"preset": "released"}
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Runs cgsv once per line."""
    what = common.asked("released", __doc__, argv)
    asked = {"data_dir": what.data_dir, "eval_every": 10**6} | SCALES[what.scale]
    rows = lines(asked.get("dataset", "digits"))
    # Fairness compares with a standalone of the same learning rates.
    configs = [asked | {"algorithms": ["standalone", "cgsv"]} | extra for extra in rows.values()]
    made = common.run(configs, [{"as released": name} for name in rows])
    frame = made["summary"].filter(method="cgsv")
    common.report(
        *(what, "Paper against released code, line by line"),
        [
            ("", common.over_seeds(frame, ("partition", "as released"), COLUMNS)),
            ("Each line minus `paper`, paired over seeds of one partition", differences(frame)),
        ],
        *(frame, figure(frame), common.provenance(asked["seeds"])),
    )


def differences(frame: pl.DataFrame) -> pl.DataFrame:
    """Mean difference [95 % interval] from `paper`."""
    rows = []
    names = frame["as released"].unique(maintain_order=True).to_list()
    for (partition,), own in frame.group_by("partition", maintain_order=True):
        for line in names[1:]:
            row = {"partition": partition, "as released": line}
            for column, header, factor, digits in (
                ("fairness", "fairness", 1, 1),
                ("mean_accuracy", "average accuracy, points", 100, 2),
            ):
                values = factor * common.paired(own, "as released", line, BASE, column)
                row[header] = common.interval(list(values), digits)
            rows.append(row)
    return pl.DataFrame(rows)


def figure(frame: pl.DataFrame) -> Figure:
    """Differences from `paper`, a dot per seed and their mean, fairness and accuracy."""
    partitions = frame["partition"].unique(maintain_order=True).to_list()
    names = frame["as released"].unique(maintain_order=True).to_list()[1:]
    size = (9.5, (0.27 * len(names) + 1.0) * len(partitions) + 0.7)
    drawn, grid = common.panels(
        len(partitions), 2, size, "What each line of the released code changes"
    )
    for row, partition in zip(grid, partitions, strict=True):
        own = frame.filter(partition=partition)
        for axes, (column, label, factor) in zip(
            row,
            (("fairness", "fairness", 1), ("mean_accuracy", "average accuracy, points", 100)),
            strict=True,
        ):
            for place, line in enumerate(names):
                values = factor * common.paired(own, "as released", line, BASE, column)
                axes.scatter(
                    values, [place] * len(values), s=12, color=common.figures.BLUE, alpha=0.7
                )
                if np.isfinite(values).any():
                    mean = [np.nanmean(values)] * 2
                    axes.plot(mean, [place - 0.3, place + 0.3], color=common.figures.VERMILION)
            axes.axvline(0, color="#999999", linewidth=0.9)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.invert_yaxis()
            axes.set_title(partition, fontsize=9)
            axes.set_xlabel(f"{label}: as released, minus paper", fontsize=8)
            if not axes.get_subplotspec().is_first_col():
                axes.tick_params(labelleft=False)
    dot = {"color": common.figures.BLUE, "alpha": 0.7, "markersize": 4, "linewidth": 0}
    handles = [
        Line2D([], [], marker="o", label="a seed in which both are defined", **dot),
        Line2D([], [], color=common.figures.VERMILION, label="their mean"),
    ]
    common.legend_below(drawn, handles, 2)
    return drawn


if __name__ == "__main__":
    main()
