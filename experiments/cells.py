"""The cells of the paper's two tables: method x partition x data set x number of clients.

`fairness` and `accuracy` show the same runs; whichever is started first makes them, and
`cells-<scale>.parquet` keeps them for the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from cgsv_jax import data as data_lib
from cgsv_jax import experiment
from experiments import common

PARTITIONS = ("uniform", "power_law", "class_imbalance")
EVERY = tuple(experiment.TABLES.algorithms)
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


def summary(what: common.Asked) -> tuple[pl.DataFrame, list[str]]:
    """The runs' summary with a column dataset, and the data sets that are not on this machine."""
    here = {line.name: line.present for line in data_lib.available(what.data_dir)}
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
    return frame, sorted(set(missing))


def labels(frame: pl.DataFrame) -> pl.DataFrame:
    """A column `cell`, the data set, N and the partition in one word."""
    short = {"uniform": "UNI", "power_law": "POW", "class_imbalance": "CLA"}
    return frame.with_columns(
        pl.format("{} {}-{}", "dataset", pl.col("partition").replace(short), "clients").alias(
            "cell"
        )
    )


def beside(frame: pl.DataFrame, names: Sequence[str], index: int, columns: int) -> list[str]:
    """Methods of the cells in one row of panels, the last first: they share the labels at left."""
    first = index // columns * columns
    row = frame.filter(pl.col("cell").is_in(list(names[first : first + columns])))
    return row["method"].unique(maintain_order=True).to_list()[::-1]


def table(frame: pl.DataFrame, value: Mapping[str, Any]) -> pl.DataFrame:
    """Methods down, cells across, as text; a method that was not run in a cell has an en dash."""
    frame = labels(frame)
    names = frame["cell"].unique(maintain_order=True).to_list()
    rows = []
    for method in frame["method"].unique(maintain_order=True):
        own = frame.filter(method=method)
        row = {"method": method}
        for name in names:
            here = own.filter(cell=name)
            row[name] = value["text"](here) if len(here) else "–"
        rows.append(row)
    return pl.DataFrame(rows)
