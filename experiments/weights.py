"""Does weighting the aggregate by reputation explain the gain? By r, by size, or uniform.

The claim tested: that adaptive weighting by r_{i,t-1} makes the models better. Uploads, scores and
rewards are cgsv's in every row; only the weights of the aggregate differ. Differences are paired:
the same seed, partition, start and row orders.
"""

from collections.abc import Sequence

import polars as pl
from matplotlib.figure import Figure

from experiments import common

AGGREGATIONS = ("reputation", "size", "uniform")
PARTITIONS = ("uniform", "power_law", "class_imbalance", "dirichlet")
SCALES = {
    "smoke": {"partitions": ["class_imbalance"], "seeds": 2, "rounds": 3, "clients": 3},
    "small": {"partitions": list(PARTITIONS), "seeds": 5},
    "full": {"partitions": list(PARTITIONS), "seeds": 10, "dataset": "mnist"},
}
COLUMNS = {
    "mean_accuracy": ("average accuracy, %", 100, 2),
    "max_accuracy": ("maximum accuracy, %", 100, 2),
    "server_accuracy": ("server's accuracy, %", 100, 2),
    "fairness": ("fairness", 1, 0),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs cgsv with three aggregations on every partition."""
    what = common.asked("weights", __doc__, argv)
    asked = {"data_dir": what.data_dir, "eval_every": 10**6} | SCALES[what.scale]
    configs = [
        asked | {"algorithms": ["standalone", "cgsv"], "aggregation": rule} for rule in AGGREGATIONS
    ]
    columns = [{"weights": rule} for rule in AGGREGATIONS]
    frame = common.run(configs, columns)["summary"].filter(method="cgsv")
    common.report(
        *(what, "Aggregation weighted by reputation, by size and uniform"),
        [
            ("", common.over_seeds(frame, ("partition", "weights"), COLUMNS)),
            ("Reputation minus the others, paired over seeds of one partition", differences(frame)),
        ],
        *(frame, figure(frame), common.provenance(asked["seeds"])),
    )


def differences(frame: pl.DataFrame) -> pl.DataFrame:
    """Mean difference [95 % interval] of average accuracy, server's accuracy and fairness."""
    rows = []
    for (partition,), own in frame.group_by("partition", maintain_order=True):
        for other in AGGREGATIONS[1:]:
            row = {"partition": partition, "against": other}
            for column, header, factor in (
                ("mean_accuracy", "average accuracy, points", 100),
                ("server_accuracy", "server's accuracy, points", 100),
                ("fairness", "fairness", 1),
            ):
                values = factor * common.paired(own, "weights", "reputation", other, column)
                row[header] = common.interval(list(values), 2 if factor > 1 else 0)
            rows.append(row)
    return pl.DataFrame(rows)


def figure(frame: pl.DataFrame) -> Figure:
    """Paired differences in average accuracy, a dot per seed."""
    names = frame["partition"].unique(maintain_order=True).to_list()
    title = "Average accuracy with reputation weights minus with others, points, a dot per seed"
    drawn, grid = common.panels(1, 2, (9, 0.5 * len(names) + 1.6), title)
    for axes, other in zip(grid[0], AGGREGATIONS[1:], strict=True):
        for place, partition in enumerate(names):
            own = frame.filter(partition=partition)
            values = 100 * common.paired(own, "weights", "reputation", other, "mean_accuracy")
            axes.scatter(values, [place] * len(values), s=16, color=common.figures.BLUE, alpha=0.7)
            axes.plot(
                [values.mean()] * 2, [place - 0.3, place + 0.3], color=common.figures.VERMILION
            )
        axes.axvline(0, color="#999999", linewidth=0.9)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"against {other}", fontsize=10)
    return drawn


if __name__ == "__main__":
    main()
