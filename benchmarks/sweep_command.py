"""Sixty settings of digits: one `cgsv sweep` against separate `cgsv run`s, as a person waits.

    python -m benchmarks.sweep_command [--scale smoke|full]

Whole processes, start-up, compiling and figures included. Of the separate runs some are measured,
spread over the grid and around the sweeps, and sixty take sixty times their median. Every one that
is measured must give the sweep's numbers.
"""

import itertools
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks import common, table
from cgsv_jax.experiment import timing
from cgsv_jax.results import directory

GRID = {
    "beta": ("0.5", "1", "1.2", "1.5", "2", "inf"),
    "alpha": ("0.5", "0.8", "0.9", "0.95", "0.99"),
    "gamma": ("0.2", "0.5"),
}


class Scale(NamedTuple):
    """How much of it."""

    grid: dict[str, tuple[str, ...]]
    flags: tuple[str, ...]
    sweeps: int
    runs: int  # separate ones that are measured


SCALES = {
    "smoke": Scale(
        {"beta": ("0.5", "inf")},
        ("--hidden", "4", "--clients", "3", "--rounds", "1", "--seeds", "1"),
        1,
        1,
    ),
    "full": Scale(GRID, (), 2, 8),
}


def rows(scale: str = "full") -> list[table.Row]:
    """The one row.

    Raises:
        RuntimeError: if a run of the sweep ends elsewhere than the run by itself.
    """
    size = SCALES[scale]
    points = [
        dict(zip(size.grid, point, strict=True)) for point in itertools.product(*size.grid.values())
    ]
    chosen = np.linspace(0, len(points) - 1, size.runs).round().astype(int)
    groups = np.array_split(chosen, size.sweeps + 1)
    alone: list[float] = []
    together: list[float] = []
    ends: dict[int, pl.DataFrame] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        for turn, group in enumerate(groups):
            for number in group:
                own = [word for name, value in points[number].items()
                       for word in (f"--{name}", value)]  # fmt: skip
                alone.append(_seconds("run", *size.flags, *own, "--out", str(out / f"r{number}")))
                ends[number] = directory.read(out / f"r{number}").summary
            if turn < size.sweeps:
                lists = [word for name, values in size.grid.items()
                         for word in (f"--{name}", ",".join(values))]  # fmt: skip
                where = str(out / f"sweep{turn}")
                together.append(_seconds("sweep", *size.flags, *lists, "--out", where))
        swept = pl.read_parquet(out / "sweep0" / "sweep.parquet")
    gap = max(_gap(swept, points[number], end) for number, end in ends.items())
    theirs = timing.summary([len(points) * seconds for seconds in alone])
    ours = timing.summary(together)
    return [
        table.Row(
            work=f"cgsv sweep of {len(points)} settings of digits",
            against=f"{len(points)} x cgsv run, of which {len(alone)} were measured",
            ours=ours,
            theirs=theirs,
            ratio=timing.summary([seconds / ours.median for seconds in theirs.seconds]),
            target=3.0,
            note=f"whole processes; mean accuracies differ by at most {100 * gap:.2f} points",
        )
    ]


def _seconds(*argv: str) -> float:
    command = [sys.executable, "-m", "cgsv_jax", *argv, "--quiet"]
    clock = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - clock


def _gap(swept: pl.DataFrame, point: dict[str, str], end: pl.DataFrame) -> float:
    """Largest difference of a seed's mean accuracy; the entries received differ by less than one.

    Raises:
        RuntimeError: if they differ by more than rounding can explain.
    """
    own: Any = swept.filter(pl.col(name) == float(value) for name, value in point.items())
    gaps = {
        name: float(np.abs(own[name].to_numpy() - end[name].to_numpy()).max())
        for name in ("mean_accuracy", "share")
    }
    # Rounding may tip a few of the test rows on a long run; a wrong setting tips dozens.
    if not (gaps["mean_accuracy"] <= 5 / 360 and gaps["share"] <= 1e-3):
        raise RuntimeError(f"a run of the sweep differs from the run by itself: {gaps}")
    return gaps["mean_accuracy"]


if __name__ == "__main__":
    common.main(rows, __doc__)
