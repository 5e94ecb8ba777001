"""A run directory: tidy tables and strict JSON, written whole or not at all, and read back.

| file | holds |
|---|---|
| config.json | every setting of the run; written first, so that a run that ends early can go on |
| environment.json | versions, device, commit |
| timing.json | seconds; the only file that differs between two equal runs |
| rounds.parquet | a row per partition, method, seed, round and client |
| clients.parquet | a row per partition, method, seed and client, after the last round |
| summary.parquet | a row per partition, method and seed |
| summary.json | mean and standard deviation over seeds, per partition and method |

What is not known is null in every file, never NaN.

Until all of them are there the run is unfinished, and a folder `checkpoint` may hold what is
computed so far (see checkpoint.py). No name in a run directory is followed out of it.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cgsv_jax import files, metrics, terminal
from cgsv_jax.types import Evaluation, Record

Path = str | os.PathLike[str]

YARDSTICK = "standalone"  # the method that fairness compares with

JSON_FILES = ("config", "environment", "timing")
PARQUET_FILES = ("rounds", "clients", "summary")
FILES = tuple(f"{name}.json" for name in (*JSON_FILES, "summary")) + tuple(
    f"{name}.parquet" for name in PARQUET_FILES
)
# What the directory of a sweep holds besides config, environment and timing (sweep_results.py).
SWEEP_FILES = ("sweep.parquet", "settings.parquet", "settings.json")
PARTS = "parts"  # folder of a sweep where the runs are that are through
RAYS = "ray"  # folder of a sweep with Ray's own files, while it runs
PART_FILES = ("*.npz", "*.json")
FIGURES = "figures"  # folder of a run directory where plots.py puts its own
CHECKPOINT = (
    "checkpoint"  # folder of a run directory where checkpoint.py puts its own, while it runs
)
FOLDERS = (FIGURES, CHECKPOINT, PARTS, RAYS)
FIGURE_KINDS = ("accuracy", "reputation", "fairness", "share")
SWEEP_FIGURE_KINDS = ("pair", "line")
FIGURE_FORMATS = ("png", "pdf", "svg")
LONGEST = 100  # characters of the name of a partition or a method

KEYS = ("partition", "method", "seed")
ROUND_COLUMNS = (
    *KEYS,
    *("round", "client", "score", "reputation", "weight", "quota", "share", "present"),
    *("broken", "loss", "update_norm", "energy", "accuracy", "test_loss", "distance"),
    *("server_accuracy", "server_test_loss"),
)
CLIENT_COLUMNS = (
    *KEYS,
    *("client", "owner", "rows", "classes", "standalone_accuracy", "accuracy", "reputation"),
    *("share", "energy", "distance", "upload_bytes", "download_bytes"),
    *("attack", "present", "broken"),
)
# Of runs in which some clients cheat: how the honest ones fare, what the others get.
HONESTY = (
    *("honest_fairness", "honest_accuracy", "attacker_accuracy", "attacker_share"),
    *("attacker_energy", "attacker_reputation", "separation"),
)
SUMMARY_COLUMNS = (
    *KEYS,
    *("fairness", "fairness_undefined", "mean_accuracy", "max_accuracy", "server_accuracy"),
    *("min_accuracy", "mean_gain", "gain_spread", "no_worse", "distance", "energy", "share"),
    *("upload_bytes", "download_bytes", "clients", "evaluated", "present", "broken", "attackers"),
    *HONESTY,
)
TEXTS = ("partition", "method", "fairness_undefined", "attack", "owner")
LATER = ("owner",)  # columns that not every version has written: where they lack, they are null
AVERAGED = (  # over seeds, in the fairness table
    *("fairness", "mean_accuracy", "max_accuracy", "mean_gain", "gain_spread", "no_worse"),
    *("distance", "energy", "share", "upload_bytes", "download_bytes", "present", *HONESTY),
)


@jax.jit  # one program for all methods and seeds
def _judge(alone: jax.Array, final: jax.Array) -> dict[str, jax.Array]:
    names = ("fairness", "mean_gain", "gain_spread", "no_worse")
    return {name: getattr(metrics, name)(alone, final) for name in names}


CLOSE = 0.01  # accuracies nearer to each other than this leave fairness to a few test rows
NAME = 12  # characters of a name that are never broken
MANY = 20  # clients; more are shown by a selection
FEW = 6  # methods; of more, the clients are in the files alone


class Cell(NamedTuple):
    """One method on one partition, all its seeds, as NumPy arrays."""

    partition: str
    method: str
    seeds: tuple[int, ...]  # S
    sizes: np.ndarray  # [N] rows held
    classes: np.ndarray  # [N] distinct labels held
    num_parameters: int  # D
    record: Record  # leaves [S, T, N]
    evaluation: Evaluation  # round, server_* [S, K], the others [S, K, N]
    evaluated: np.ndarray | None = None  # numbers of the clients in `evaluation`; None: all N
    cheats: tuple[str, ...] = ()  # [N] every client's attack, "" where honest; (): all are
    owners: tuple[str, ...] = ()  # [N] whose rows a client holds; (): nobody's by name


TRAFFIC = ("share", "energy", "upload_bytes", "download_bytes")


class Outcome(NamedTuple):
    """What a summary needs of one run after its last round."""

    accuracy: np.ndarray  # [K] of the clients that were evaluated
    distance: np.ndarray  # [K]
    server_accuracy: np.ndarray  # []
    share: np.ndarray  # [N] mean over rounds
    energy: np.ndarray  # [N] mean over rounds
    upload_bytes: np.ndarray  # [N]
    download_bytes: np.ndarray  # [N]
    reputation: np.ndarray  # [N]
    present: np.ndarray  # [N] share of rounds
    broken: np.ndarray  # [N] updates that were not finite
    honest: np.ndarray  # [N] bool
    honest_seen: np.ndarray  # [K] bool, of the clients that were evaluated


class Run(NamedTuple):
    """A run directory that was read."""

    config: dict[str, Any]
    environment: dict[str, Any]
    timing: dict[str, Any]
    rounds: pl.DataFrame  # ROUND_COLUMNS
    clients: pl.DataFrame  # CLIENT_COLUMNS
    summary: pl.DataFrame  # SUMMARY_COLUMNS
    directory: pathlib.Path | None = None


# ---------------------------------------------------------------- frames


def rounds_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per partition, method, seed, round and client, in this order.

    `round` counts the rounds completed, from 1. Accuracies (fractions), test losses and distances
    ‖w_N - w_i‖ are null in rounds without evaluation, and for clients that are not evaluated.
    `share` is quota / D, `energy` ‖v_i‖² / ‖u_N‖², `loss` the local training loss, null where a
    client was absent; `broken` says that it was because its update was not finite.
    """
    frames = [_rounds_of(cell) for cell in cells]
    return pl.concat(frames, rechunk=True) if frames else _empty(ROUND_COLUMNS)


def _rounds_of(cell: Cell) -> pl.DataFrame:
    record = jax.tree.map(np.asarray, cell.record)
    seeds, rounds, clients = record.reputation.shape
    whole = (seeds, rounds, clients)

    def spread(values: np.ndarray, *axes: int) -> np.ndarray:
        """The given axes of [S, T, N], repeated along the others, raveled."""
        shape = [whole[axis] if axis in axes else 1 for axis in range(3)]
        return np.broadcast_to(np.asarray(values).reshape(shape), whole).ravel()

    def at_rounds(values: np.ndarray) -> np.ndarray:
        """[S, K, ...] -> [S, T, ...], NaN in rounds without evaluation."""
        values = np.asarray(values, np.float32)
        filled = np.full((seeds, rounds, *values.shape[2:]), np.nan, np.float32)
        filled[np.arange(seeds)[:, None], np.asarray(cell.evaluation.round) - 1] = values
        return filled

    evaluation = cell.evaluation
    quota = record.quota.ravel()
    return pl.DataFrame(
        {
            "partition": pl.repeat(cell.partition, quota.size, eager=True),
            "method": pl.repeat(cell.method, quota.size, eager=True),
            "seed": spread(np.asarray(cell.seeds, np.int64), 0),
            "round": spread(np.arange(1, rounds + 1, dtype=np.int32), 1),
            "client": spread(np.arange(clients, dtype=np.int32), 2),
            "score": _known(record.score),
            "reputation": _known(record.reputation),
            "weight": _known(record.weight),
            "quota": quota.astype(np.int32),
            "share": _known(quota / cell.num_parameters),
            "present": record.present.ravel(),
            "broken": record.broken.ravel(),
            "loss": _known(record.loss),
            "update_norm": _known(record.norm),
            "energy": _known(record.energy),
            "accuracy": _known(at_rounds(_of_all(cell, evaluation.accuracy))),
            "test_loss": _known(at_rounds(_of_all(cell, evaluation.loss))),
            "distance": _known(at_rounds(_of_all(cell, evaluation.distance))),
            "server_accuracy": _known(spread(at_rounds(evaluation.server_accuracy), 0, 1)),
            "server_test_loss": _known(spread(at_rounds(evaluation.server_loss), 0, 1)),
        }
    )


def _of_all(cell: Cell, values: np.ndarray) -> np.ndarray:
    """What was evaluated [..., K] as [..., N], NaN for the other clients."""
    if cell.evaluated is None:
        return np.asarray(values)
    whole = np.full((*values.shape[:-1], len(cell.sizes)), np.nan, np.float32)
    whole[..., cell.evaluated] = values
    return whole


def clients_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per partition, method, seed and client.

    `accuracy`, `reputation` and `distance` ‖w_N - w_i‖ are those after the last round; `share` and
    `energy` are means over rounds of the share of entries received, quota / D, and of the energy in
    them, ‖v_i‖² / ‖u_N‖²; `upload_bytes` and `download_bytes` are sums over rounds (see
    `metrics.volumes`); `attack` is null for honest clients, `present` the share of rounds taken
    part in, `broken` the number of updates that were not finite. `standalone_accuracy` is null
    where the partition was not run with the method `standalone`, `owner` where clients are not
    owners of rows.
    """
    cells = list(cells)
    alone = _standalone(cells)
    frames = []
    for cell in cells:
        traffic = _traffic(cell)
        for index, seed in enumerate(cell.seeds):
            final = _of_all(cell, cell.evaluation.accuracy)[index, -1]
            distance = _of_all(cell, cell.evaluation.distance)[index, -1]
            nothing = np.full(final.shape, np.nan)
            frames.append(
                pl.DataFrame(
                    {
                        "partition": pl.repeat(cell.partition, final.size, eager=True),
                        "method": pl.repeat(cell.method, final.size, eager=True),
                        "seed": np.full(final.size, seed, np.int64),
                        "client": np.arange(final.size, dtype=np.int32),
                        "owner": pl.Series(
                            list(cell.owners) or [None] * final.size, dtype=pl.String
                        ),
                        "rows": np.asarray(cell.sizes, np.int32),
                        "classes": np.asarray(cell.classes, np.int32),
                        "standalone_accuracy": _known(
                            _of_all(cell, alone[key])
                            if (key := (cell.partition, seed)) in alone
                            else nothing
                        ),
                        "accuracy": _known(final),
                        "reputation": _known(np.asarray(cell.record.reputation)[index, -1]),
                        "share": _known(traffic["share"][index]),
                        "energy": _known(traffic["energy"][index]),
                        "distance": _known(distance),
                        "upload_bytes": traffic["upload_bytes"][index],
                        "download_bytes": traffic["download_bytes"][index],
                        "attack": pl.Series(
                            [name or None for name in cell.cheats] or [None] * final.size,
                            dtype=pl.String,
                        ),
                        "present": np.asarray(cell.record.present)[index].mean(axis=0),
                        "broken": np.asarray(cell.record.broken)[index].sum(axis=0, dtype=np.int64),
                    }
                )
            )
    return pl.concat(frames, rechunk=True) if frames else _empty(CLIENT_COLUMNS)


def _traffic(cell: Cell) -> dict[str, np.ndarray]:
    """What every client sent and received in a run, [S, N]."""
    record = cell.record
    # A round in which nobody receives anything is one of training alone: nothing is sent, although
    # the simulation looks at the updates.
    together = (np.asarray(record.quota) > 0).any(axis=-1, keepdims=True)
    sent = np.asarray(record.present) & together & (cell.method != YARDSTICK)
    volumes = metrics.volumes(sent, record.quota, cell.num_parameters)
    return {
        "share": np.asarray(record.quota, np.float64).mean(axis=1) / cell.num_parameters,
        "energy": np.asarray(record.energy, np.float64).mean(axis=1),
        "upload_bytes": volumes.upload.sum(axis=1),
        "download_bytes": volumes.download.sum(axis=1),
    }


def summary_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per partition, method and seed, after the last round.

    `fairness` is null where it is undefined, and `fairness_undefined` says why. Accuracies are
    fractions. The gains over standalone, which fairness does not see, are summarised by their mean,
    their standard deviation (`gain_spread`) and the share of clients that end no worse than alone
    (`no_worse`). `distance`, `energy`, `share` and the bytes are means over clients of the columns
    of `clients_frame`, `present` the mean share of rounds that a client took part in, `broken` the
    number of updates that were not finite. The columns of HONESTY are null without attackers:
    accuracies are means, `attacker_share` and `attacker_energy` those of the attackers,
    `attacker_reputation` theirs over the mean honest one, `separation` the probability that an
    honest client has the higher reputation (AUC).
    """
    ends = [
        (cell.partition, cell.method, int(seed), end)
        for cell in cells
        for seed, end in zip(cell.seeds, outcomes(cell), strict=True)
    ]
    alone = {(place, seed): end for place, method, seed, end in ends if method == YARDSTICK}
    return summary_of(
        summary_row(place, method, seed, end, alone.get((place, seed)))
        for place, method, seed, end in ends
    )


def outcomes(cell: Cell) -> list[Outcome]:
    """What is left of every seed of a cell, for `summary_row`."""
    traffic = _traffic(cell)
    honest = np.array([not name for name in cell.cheats] or [True] * len(cell.sizes), bool)
    seen = honest if cell.evaluated is None else honest[cell.evaluated]
    last = [
        np.asarray(getattr(cell.evaluation, name))[:, -1]
        for name in ("accuracy", "distance", "server_accuracy")
    ]
    # In the order of the fields of an Outcome.
    arrays = (
        *last,
        *traffic.values(),
        np.asarray(cell.record.reputation)[:, -1],
        np.asarray(cell.record.present).mean(axis=1),
        np.asarray(cell.record.broken).sum(axis=1, dtype=np.int64),
    )
    return [
        Outcome(*(values[index] for values in arrays), honest, seen)
        for index in range(len(cell.seeds))
    ]


def summary_row(
    partition: str, method: str, seed: int, end: Outcome, alone: Outcome | None
) -> dict[str, Any]:
    """One row of `summary_frame`.

    Args:
      partition: where the run was.
      method: as it is called in the table.
      seed: of the run.
      end: the run's end.
      alone: that of the yardstick on the same partition with the same seed, if there is one.
    """
    final = end.accuracy
    row = {
        "partition": partition,
        "method": method,
        "seed": seed,
        "mean_accuracy": final.mean(dtype=np.float64),
        "max_accuracy": final.max(),
        "min_accuracy": final.min(),
        "server_accuracy": end.server_accuracy,
        "distance": end.distance.mean(dtype=np.float64),
        **{name: getattr(end, name).mean() for name in TRAFFIC},
        "clients": len(end.share),
        "evaluated": final.size,
        "present": end.present.mean(),
        "broken": int(end.broken.sum()),
        "attackers": int((~end.honest).sum()),
    }
    row |= _honesty(method, end, alone)
    row |= _against_alone(method, None if alone is None else alone.accuracy, final)
    return {key: _defined(value) for key, value in row.items()}


def summary_of(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Rows of `summary_row` as a frame."""
    whole = {"seed", "clients", "evaluated", "broken", "attackers"}
    schema = {
        name: pl.String if name in TEXTS else pl.Int64 if name in whole else pl.Float64
        for name in SUMMARY_COLUMNS
    }
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def _against_alone(method: str, alone: np.ndarray | None, final: np.ndarray) -> dict[str, Any]:
    if method == YARDSTICK:
        return {"fairness_undefined": f"{YARDSTICK} is the yardstick"}
    if alone is None:
        return {"fairness_undefined": f"no {YARDSTICK} run to compare with"}
    reason = metrics.why_undefined(alone, final)
    return jax.device_get(_judge(alone, final)) | {"fairness_undefined": reason}


def _honesty(method: str, end: Outcome, alone: Outcome | None) -> dict[str, Any]:
    """What cheating did, in one run."""
    honest, seen = end.honest, end.honest_seen
    if honest.all():
        return {}
    reputation, accuracy = np.asarray(end.reputation, np.float64), end.accuracy
    found = {
        "honest_accuracy": accuracy[seen].mean(dtype=np.float64) if seen.any() else None,
        "attacker_accuracy": None if seen.all() else accuracy[~seen].mean(dtype=np.float64),
        "attacker_share": end.share[~honest].mean(),
        "attacker_energy": end.energy[~honest].mean(),
    }
    if method != YARDSTICK and reputation.any():
        found["attacker_reputation"] = reputation[~honest].mean() / reputation[honest].mean()
        found["separation"] = float(metrics.separation(reputation, honest))
    if method != YARDSTICK and alone is not None:
        found["honest_fairness"] = float(metrics.fairness(alone.accuracy[seen], accuracy[seen]))
    return found


def _standalone(cells: Iterable[Cell]) -> dict[tuple[str, int], np.ndarray]:
    """Final accuracies [N] of the yardstick, by partition and seed."""
    return {
        (cell.partition, seed): np.asarray(cell.evaluation.accuracy)[index, -1]
        for cell in cells
        if cell.method == YARDSTICK
        for index, seed in enumerate(cell.seeds)
    }


def fairness_table(summary: pl.DataFrame) -> pl.DataFrame:
    """Mean and sample standard deviation over seeds, a row per partition and method.

    Every value is averaged over the seeds in which it is defined, `<name>_seeds` of `seeds`; the
    reasons why fairness is not stand in `fairness_undefined`. A deviation over one seed is null,
    and so is the 95 % bootstrap interval of fairness, `fairness_low` to `fairness_high`.
    """
    names = [column + end for column in AVERAGED for end in ("", "_sd", "_seeds")]
    names[2:2] = ["fairness_low", "fairness_high"]
    reasons = pl.col("fairness_undefined").drop_nulls().unique().sort()
    table = summary.group_by("partition", "method", maintain_order=True).agg(
        *(pl.col(name).mean() for name in AVERAGED),
        *(pl.col(name).std(ddof=1).alias(f"{name}_sd") for name in AVERAGED),
        *(pl.col(name).count().cast(pl.Int64).alias(f"{name}_seeds") for name in AVERAGED),
        pl.col("fairness").drop_nulls().alias("defined"),
        pl.len().cast(pl.Int64).alias("seeds"),
        reasons.str.join("; ").replace("", None).alias("fairness_undefined"),
    )
    bounds = np.array([metrics.interval(v.to_numpy()) for v in table["defined"]]).reshape(-1, 2)
    return table.with_columns(
        pl.Series(f"fairness_{end}", column, pl.Float64).fill_nan(None)
        for end, column in zip(("low", "high"), bounds.T, strict=True)
    ).select("partition", "method", *names, "seeds", "fairness_undefined")


def _defined(value: Any) -> Any:
    """A number, text or None as Python's own; None for what is not finite."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(values: np.ndarray) -> pl.Series:
    """Any shape, raveled, as float32 with null for what is not finite."""
    values = np.asarray(values, np.float32).ravel()
    return pl.Series(np.where(np.isfinite(values), values, np.nan)).fill_nan(None)


def _empty(columns: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({name: [] for name in columns})


# ---------------------------------------------------------------- for people


def shown_fairness(summary: pl.DataFrame) -> pl.DataFrame:
    """The fairness table as text, units in the headers; for a terminal or for `markdown`.

    Means over seeds: fairness with its interval, the accuracy of the mean client ± its deviation
    and (of the best), the gain. A mean over fewer seeds than there are says over how many.
    """
    rows = []
    for row in fairness_table(summary).iter_rows(named=True):
        fairness = _number(row["fairness"])
        if row["fairness"] is None:
            fairness = "yardstick" if row["method"] == YARDSTICK else "undefined"
        elif row["fairness_low"] is not None:
            low, high = (_number(row[f"fairness_{end}"]) for end in ("low", "high"))
            fairness += f" [{low}, {high}]"
        accuracy = _deviating(row["mean_accuracy"], row["mean_accuracy_sd"], 100)
        best = "" if row["max_accuracy"] is None else f" ({_number(row['max_accuracy'], 100)})"
        gain = _deviating(row["mean_gain"], row["mean_gain_sd"], 100)
        rows.append(
            {
                "partition": row["partition"],
                "method": row["method"],
                "fairness": fairness + _seeds_left(row, "fairness"),
                "accuracy: mean (max), %": accuracy + best + _seeds_left(row, "mean_accuracy"),
                "mean gain, points": gain + _seeds_left(row, "mean_gain"),
                "seeds": str(row["seeds"]),
            }
        )
    return pl.DataFrame(rows)


def shown_traffic(summary: pl.DataFrame) -> pl.DataFrame:
    """Gains, distance and traffic as text, means over clients and seeds, as `shown_fairness`.

    CGS is the standard deviation of the gains over clients, IPR the share of clients no worse than
    alone; the distance is that to the server's model; energy and entries are those received of
    u_N, means over rounds; megabytes (10^6) are of one client in the whole run.
    """
    columns = {
        "CGS (points)": ("gain_spread", lambda value: _number(value, 100)),
        "IPR (%)": ("no_worse", lambda value: _number(value, 100)),
        "distance": ("distance", _significant),
        "energy (%)": ("energy", lambda value: _number(value, 100)),
        "entries (%)": ("share", lambda value: _number(value, 100)),
        "upload (MB)": ("upload_bytes", lambda value: _significant(value, 1e-6)),
        "download (MB)": ("download_bytes", lambda value: _significant(value, 1e-6)),
    }
    return pl.DataFrame(
        {
            "partition": row["partition"],
            "method": row["method"],
            **{
                header: shown(row[name]) + _seeds_left(row, name)
                for header, (name, shown) in columns.items()
            },
            "seeds": str(row["seeds"]),
        }
        for row in fairness_table(summary).iter_rows(named=True)
    )


def _seeds_left(row: dict[str, Any], name: str) -> str:
    """Over how many seeds a mean is, where it is not over all of them."""
    count = row[f"{name}_seeds"]
    return f" ({count} of {row['seeds']})" if 0 < count < row["seeds"] else ""


def shown_seconds(timing: Mapping[str, Any]) -> pl.DataFrame:
    """What timing.json says of every method as text; the phases only where they were profiled.

    A compiled program is one piece: training, server and evaluation are of one round of one seed,
    each measured apart by `--profile`.
    """
    phases = {
        (profile["partition"], profile["method"]): profile["phases"]
        for profile in timing.get("profiles", ())
    }
    rows = []
    for own in timing["methods"]:
        row = {
            "partition": own["partition"],
            "method": own["method"],
            "compile, s": _number(own["compile_seconds"]),
            "run, s": _number(own["run_seconds"]),
            "rounds per s": _significant(own["rounds_per_second"]),
        }
        for phase in phases.get((own["partition"], own["method"]), ()):
            row[f"{phase['name']}, ms"] = _significant(phase["seconds"]["median"], 1e3)
        rows.append(row)
    return pl.DataFrame(rows)


def why_undefined(summary: pl.DataFrame) -> list[str]:
    """A line per method, other than the yardstick, whose fairness is undefined in some seed."""
    table = fairness_table(summary).filter(
        pl.col("fairness_undefined").is_not_null(), pl.col("method") != YARDSTICK
    )
    several = summary["partition"].n_unique() > 1
    lines = []
    for row in table.iter_rows(named=True):
        where = f"{row['method']} on {row['partition']}" if several else row["method"]
        if row["fairness"] is not None:
            where += f" in {row['seeds'] - row['fairness_seeds']} of {row['seeds']} seeds"
        lines.append(f"undefined for {where}: {row['fairness_undefined']}")
    return lines


def close_accuracies(summary: pl.DataFrame) -> list[str]:
    """A line per method whose fairness is a number but rests on very small differences."""
    spreads = (
        summary.filter(pl.col("fairness").is_not_null())
        .group_by("partition", "method", maintain_order=True)
        .agg((pl.col("max_accuracy") - pl.col("min_accuracy")).min().alias("spread"))
        .filter(pl.col("spread") < CLOSE)
    )
    several = summary["partition"].n_unique() > 1
    return [
        f"fairness of {method}{f' on {partition}' if several else ''} rests on little: "
        f"final accuracies within {_number(spread, 100, 2)} points in a seed"
        for partition, method, spread in spreads.iter_rows()
    ]


def absences(summary: pl.DataFrame) -> list[str]:
    """Lines on who did not take part: by plan, and because an update was not finite."""
    lines = []
    present = summary["present"].min()
    if present is not None and present < 1:
        lines.append(f"a client took part in {_number(summary['present'].mean(), 100)} % of rounds")
    broken = summary.group_by("method", maintain_order=True).agg(pl.col("broken").sum())
    lines += [
        f"{method}: {count} updates were not finite, their clients absent in these rounds"
        for method, count in broken.iter_rows()
        if count
    ]
    return lines


def shown_honesty(summary: pl.DataFrame) -> pl.DataFrame:
    """The methods of runs with attackers as text, means over seeds.

    Fairness and accuracy are those of the honest clients; what attackers receive are shares of
    u_N's entries and energy; AUC is the probability that an honest client's reputation is higher.
    """
    columns = {
        "honest: fairness": ("honest_fairness", lambda value: _number(value)),
        "accuracy, %": ("honest_accuracy", lambda value: _number(value, 100)),
        "attackers: accuracy, %": ("attacker_accuracy", lambda value: _number(value, 100)),
        "entries, %": ("attacker_share", lambda value: _number(value, 100)),
        "energy, %": ("attacker_energy", lambda value: _number(value, 100)),
        "reputation / honest": ("attacker_reputation", lambda value: _number(value, digits=2)),
        "AUC": ("separation", lambda value: _number(value, digits=2)),
    }
    return pl.DataFrame(
        {
            "partition": row["partition"],
            "method": row["method"],
            **{
                header: shown(row[name]) + _seeds_left(row, name)
                for header, (name, shown) in columns.items()
            },
        }
        for row in fairness_table(summary).iter_rows(named=True)
    )


def honesty_reports(summary: pl.DataFrame) -> list[Table]:
    """A table per partition of runs with attackers; none where all clients are honest."""
    reports = []
    cheated = summary.filter(pl.col("attackers") > 0)
    for (partition,), own in cheated.group_by("partition", maintain_order=True):
        cheating, number = own.row(0, named=True)["attackers"], own["clients"][0]
        lines = [
            f"{cheating} of {number} clients cheat; fairness and accuracy are of the honest ones",
            "attackers: their accuracy, what they receive of u_N, their reputation over the mean",
            "honest one; AUC: an honest client has the higher reputation",
        ]
        shown = shown_honesty(own).drop("partition")
        reports.append(report(shown, f"Dishonest clients on {partition}", lines))
    return reports


def shown_clients(clients: pl.DataFrame, methods: Sequence[str] | None = None) -> pl.DataFrame:
    """The clients of one partition as text, means over seeds; a selection where they are many.

    Args:
      clients: rows of one partition, CLIENT_COLUMNS.
      methods: which methods to show; default all but the yardstick.
    """
    present = clients["method"].unique(maintain_order=True).to_list()
    methods = [name for name in present if name != YARDSTICK] if methods is None else methods
    values = ("standalone_accuracy", "accuracy", "reputation", "share")
    means = clients.group_by("method", "client", maintain_order=True).agg(
        pl.col("owner", "rows", "classes").first(), *(_complete_mean(name) for name in values)
    )
    base = means.filter(method=present[0]).sort("client")
    owner = base["owner"]
    chosen = _selection(base["rows"].to_numpy())
    digits = 4 if len(base) <= MANY else 6  # of reputations, which are about 1 / N
    columns: dict[str, list[str]] = {
        "client": [str(i) for i in chosen],
        **({} if owner.null_count() else {"owner": [_cut(owner[i]) for i in chosen]}),
        "rows": _texts(base["rows"], chosen),
        "classes": _texts(base["classes"], chosen),
        f"{YARDSTICK} accuracy, %": _texts(base["standalone_accuracy"], chosen, 100),
    }
    for method in methods:
        own = means.filter(method=method).sort("client")
        columns[f"{method} accuracy, %"] = _texts(own["accuracy"], chosen, 100)
        columns[f"{method} reputation"] = _texts(own["reputation"], chosen, digits=digits)
        columns[f"{method} entries received, %"] = _texts(own["share"], chosen, 100)
    return pl.DataFrame(columns)


def _cut(name: str) -> str:
    """A stranger's name, as much as a table has room for."""
    name = terminal.plain(name)
    return name if len(name) <= 2 * NAME else f"{name[: 2 * NAME - 1]}…"


def shown_holdings(sizes: np.ndarray, classes: np.ndarray) -> pl.DataFrame:
    """What each client holds as text; a selection where they are many.

    Args:
      sizes: [N] rows.
      classes: [N] distinct labels.
    """
    sizes, classes = np.asarray(sizes), np.asarray(classes)
    chosen = _selection(sizes)
    shares = sizes / max(sizes.sum(), 1)
    return pl.DataFrame(
        {
            "client": [str(i) for i in chosen],
            "rows": [str(sizes[i]) for i in chosen],
            "share of rows, %": [_number(shares[i], 100, 2) for i in chosen],
            "classes": [str(classes[i]) for i in chosen],
        }
    )


def markdown(frame: pl.DataFrame) -> str:
    """Any frame as a Markdown table; numbers to the right, null as an en dash.

    >>> print(markdown(pl.DataFrame({"method": ["cgsv"], "seeds": [3]})))
    | method | seeds |
    |---|---:|
    | cgsv | 3 |
    """

    def cell(value: Any) -> str:
        text = _number(value, digits=4) if isinstance(value, float) else str(value)
        return "–" if value is None else text.replace("|", "\\|").replace("\n", " ")

    right = [_is_numeric(frame[name]) for name in frame.columns]
    lines = [
        "| " + " | ".join(cell(name) for name in frame.columns) + " |",
        "|" + "|".join("---:" if yes else "---" for yes in right) + "|",
    ]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in frame.iter_rows()]
    return "\n".join(lines)


def tables(cells: Iterable[Cell], console_width: int = 80) -> list[Table]:
    """What a terminal shows after a run; nothing is printed here.

    Returns:
      Per partition, the fairness table and that of gains, distance and traffic, and one of
      dishonest clients if there are any; then the clients
      in as many tables as the width asks for, unless the methods are many; for several partitions
      one table of all at the end.
    """
    cells = list(cells)
    summary = summary_frame(cells)
    reports = zip(fairness_reports(summary), traffic_reports(summary), strict=True)
    several = summary["partition"].n_unique() > 1
    few = summary["method"].n_unique() <= FEW
    return [
        *(table for pair in reports for table in pair),
        *honesty_reports(summary),
        *(clients_reports(clients_frame(cells), console_width) if few else ()),
        *([overview(summary)] if several else ()),
    ]


def shown_overview(summary: pl.DataFrame) -> pl.DataFrame:
    """Methods down, partitions across: fairness (average accuracy, %) as text."""
    table = fairness_table(summary)
    rows = []
    for method in table["method"].unique(maintain_order=True):
        cells = {"method": method}
        for row in table.filter(method=method).iter_rows(named=True):
            fairness = "yardstick" if method == YARDSTICK else "undefined"
            if row["fairness"] is not None:
                fairness = _number(row["fairness"], digits=0) + _seeds_left(row, "fairness")
            cells[row["partition"]] = f"{fairness} ({_number(row['mean_accuracy'], 100)})"
        rows.append(cells)
    return pl.DataFrame(rows)


def overview(summary: pl.DataFrame) -> Table:
    """All methods on all partitions in one table, for a terminal."""
    lines = ["fairness: 100 x Pearson(standalone, final accuracy), mean over seeds"]
    title = "All partitions: fairness (average accuracy, %)"
    return report(shown_overview(summary), title, lines + why_undefined(summary))


def fairness_reports(summary: pl.DataFrame) -> list[Table]:
    """A fairness table per partition, with the reasons below where fairness is undefined."""
    reports = []
    for (partition,), own in summary.group_by("partition", maintain_order=True):
        seeds = own["seed"].n_unique()
        lines = ["fairness = 100 x Pearson(standalone, final accuracy) over clients"]
        if seeds > 1:
            lines += [
                f"mean over {seeds} seeds, [95 % bootstrap interval], ± standard deviation",
                "(k of n): in n - k seeds the value is undefined, and they are left out",
            ][: 1 + _incomplete(own)]
        number, evaluated = own.row(0, named=True)["clients"], own["evaluated"].min()
        if evaluated < number:
            lines.append(f"over the {evaluated:,} of {number:,} clients that were evaluated")
        lines += why_undefined(own) + close_accuracies(own) + absences(own)
        shown = shown_fairness(own).drop("partition", "seeds")
        reports.append(report(shown, f"Fairness and accuracy on {partition}", lines))
    return reports


def _incomplete(summary: pl.DataFrame) -> bool:
    """Whether some value is there in some seeds of a method and not in others."""
    table = fairness_table(summary)
    counts = [pl.col(f"{name}_seeds") for name in AVERAGED]
    return table.select(pl.any_horizontal((n > 0) & (n < pl.col("seeds")) for n in counts).any())[
        0, 0
    ]


def traffic_reports(summary: pl.DataFrame) -> list[Table]:
    """A table of gains, distance and traffic per partition."""
    reports = []
    for (partition,), own in summary.group_by("partition", maintain_order=True):
        lines = [
            "CGS: standard deviation of the gains; IPR: clients no worse than alone",
            "distance to the server's model after the last round, ‖w_N - w_i‖",
            "energy and entries received, of ‖u_N‖² and of its entries, mean over rounds",
            "MB of one client in the whole run, values and indices",
        ]
        shown = shown_traffic(own).drop("partition", "seeds")
        reports.append(report(shown, f"Gains, distance and traffic on {partition}", lines))
    return reports


def seconds_table(timing: Mapping[str, Any]) -> Table:
    """Seconds per method, and per phase where these were profiled, for a terminal."""
    shown = shown_seconds(timing)
    if shown["partition"].n_unique() == 1:
        shown = shown.drop("partition")
    lines = ["rounds per second: of all seeds together, evaluation included"]
    if timing.get("profiles"):
        lines.append("ms: of one round of one seed, each phase on its own")
    return report(shown, "Seconds", lines)


def clients_reports(clients: pl.DataFrame, console_width: int = 80) -> list[Table]:
    """The clients after the last round, a table per partition, or more where one is too wide."""
    reports = []
    for (partition,), own in clients.group_by("partition", maintain_order=True):
        lines = ["entries received: share of the aggregate's entries, mean over rounds"]
        if own["seed"].n_unique() > 1:
            lines.append(f"means over {own['seed'].n_unique()} seeds")
        lines += _selection_line(own["client"].n_unique())
        title = f"Clients of {partition} after the last round"
        groups: list[list[str]] = []
        for method in own["method"].unique(maintain_order=True):
            wider = [*groups[-1], method] if groups else []
            if method == YARDSTICK:
                continue
            if wider and _width(report(shown_clients(own, wider))) <= console_width:
                groups[-1] = wider
            else:
                groups.append([method])
        reports += [report(shown_clients(own, group), title, lines) for group in groups or [[]]]
    return reports


def holdings_table(sizes: np.ndarray, classes: np.ndarray, partition: str = "") -> Table:
    """What each client holds, for a terminal, before training.

    Args:
      sizes: [N] rows.
      classes: [N] distinct labels.
      partition: named in the title.
    """
    title = f"What each client holds ({partition})" if partition else "What each client holds"
    lines = [f"{len(sizes):,} clients, {int(np.sum(sizes)):,} rows in all"]
    return report(shown_holdings(sizes, classes), title, lines + _selection_line(len(sizes)))


def report(frame: pl.DataFrame, title: str = "", lines: Sequence[str] = ()) -> Table:
    """A frame of texts for a terminal; headers break between words, values never do."""
    table = Table(
        title=title or None,
        caption="\n".join(lines) or None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in frame.columns:
        # A unit stays with its quantity; a setting may leave its method.
        header = name.replace(", ", ",\N{NO-BREAK SPACE}").replace(":", ": ")
        header = textwrap.fill(header, max(map(len, header.split(" "))))
        justify = "right" if _is_numeric(frame[name]) else "left"
        # Where the width does not do, long names break before numbers would be cut.
        longest = max(map(len, header.split("\n")))
        longest = max(longest, *(len(text or "–") for text in frame[name]), 0)
        table.add_column(
            header,
            justify=justify,
            no_wrap=justify == "right",
            overflow="ellipsis" if justify == "right" else "fold",
            min_width=None if justify == "right" else min(longest, NAME),
            vertical="bottom",
        )
    for row in frame.iter_rows():
        table.add_row(*(Text("–" if value is None else value) for value in row))
    return table


def _width(table: Table) -> int:
    return Console(width=10_000, file=io.StringIO()).measure(table).maximum


def _selection(sizes: np.ndarray) -> list[int]:
    """All clients, or eleven from the fewest rows to the most where there are many."""
    if len(sizes) <= MANY:
        return list(range(len(sizes)))
    order = np.argsort(sizes, kind="stable")
    return [int(i) for i in order[np.linspace(0, len(sizes) - 1, 11).round().astype(int)]]


def _selection_line(number: int) -> list[str]:
    if number <= MANY:
        return []
    return [f"11 of {number:,} clients: at every tenth from the fewest rows to the most"]


def _complete_mean(name: str) -> pl.Expr:
    """Mean over seeds, null where one of them is."""
    return pl.when(pl.col(name).null_count() == 0).then(pl.col(name).cast(pl.Float64).mean())


def _texts(
    values: pl.Series, chosen: Sequence[int], factor: float = 1, digits: int = 1
) -> list[str]:
    whole = values.dtype.is_integer()
    return [str(values[i]) if whole else _number(values[i], factor, digits) for i in chosen]


def _number(value: float | None, factor: float = 1, digits: int = 1) -> str:
    # Adding 0 after rounding turns -0.0 into 0.0.
    return "–" if value is None else f"{round(value * factor, digits) + 0.0:.{digits}f}"


def _significant(value: float | None, factor: float = 1) -> str:
    """Three digits, wherever the point is."""
    if value is None:
        return "–"
    value = float(f"{value * factor:.2e}")  # rounded first: 9.999 has one digit after the point
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _deviating(mean: float | None, sd: float | None, factor: float = 1) -> str:
    text = _number(mean, factor)
    return text if mean is None or sd is None else f"{text} ± {_number(sd, factor)}"


def _is_numeric(values: pl.Series) -> bool:
    if values.dtype != pl.String:
        return values.dtype.is_numeric()
    return any(value[:1].isdigit() or value[:2][1:].isdigit() for value in values.drop_nulls())


# ---------------------------------------------------------------- files


def create(path: Path, overwrite: bool = False) -> pathlib.Path:
    """Makes a run directory, before anything is computed.

    Args:
      path: the directory; parents are made as needed.
      overwrite: removes the files of a run that is there, finished or not, and only those.

    Raises:
      ValueError: when `path` is no directory, holds a run already, or leads elsewhere.
      OSError: when it cannot be made.
    """

    def refusal(reason: str) -> ValueError:
        return ValueError(f"--out is {os.fspath(path)!r}, {reason}")

    directory = files.path_of(path, "--out")
    if files.kind(directory) not in ("folder", "nothing"):
        raise refusal("which is a file, it must name a directory")
    for name in FOLDERS:
        if files.kind(files.inside(directory, name)) not in ("folder", "nothing"):
            raise refusal(f"whose {name} is a file, nothing could be put there")
    old = [name for name in (*FILES, *SWEEP_FILES) if is_there(directory, name)]
    if old not in ([], ["environment.json"]) and not overwrite:  # that alone began nothing
        if finished(directory):
            raise refusal("which holds a run, it must be new unless --overwrite is given")
        raise refusal(
            f"which holds an unfinished run: go on with `{resuming(directory)}`, "
            "or give --overwrite to replace it"
        )
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with held(directory), writing(directory):
        tidy(directory)
        if overwrite:
            remove_checkpoints(directory)
            kinds = itertools.product((*FIGURE_KINDS, *SWEEP_FIGURE_KINDS), FIGURE_FORMATS)
            ours = {PARTS: PART_FILES, FIGURES: [f"{kind}-*.{suffix}" for kind, suffix in kinds]}
            for folder, patterns in ours.items():
                for pattern in patterns:
                    for file in (directory / folder).glob(pattern):
                        file.unlink()
            # The config last: without it nobody could go on with what is left.
            for name in reversed(old):
                files.inside(directory, name).unlink()
    return directory


def fresh(command: str, dataset: str) -> pathlib.Path:
    """A directory that is not there yet, for what a command makes of a data set."""
    paths = (pathlib.Path("runs") / f"{command}-{dataset}-{n:03d}" for n in itertools.count(1))
    return next(path for path in paths if not path.exists())


def begin(
    directory: Path, config: Mapping[str, Any], environment: Mapping[str, Any] | None = None
) -> None:
    """Writes what a later command needs to go on, before anything is run.

    Raises:
      OSError: when it cannot be written; a directory that holds nothing else is removed.
    """
    try:  # the config last: a run has begun when it is there
        both = {"environment.json": document(environment or {}), "config.json": document(config)}
        write_files(directory, both)
    except OSError:
        with contextlib.suppress(OSError):
            pathlib.Path(directory).rmdir()
        raise


def is_there(directory: Path, name: str) -> bool:
    """Whether a directory holds something of this name, which is no link.

    Raises:
      ValueError: it is a link.
    """
    return files.kind(files.inside(directory, name)) != "nothing"


def finished(directory: Path) -> bool:
    """Whether all results of a run or a sweep are there; each is written whole or not at all."""
    of_a_sweep = (*(f"{name}.json" for name in JSON_FILES), *SWEEP_FILES)
    kinds = {name: files.kind(files.inside(directory, name)) for name in {*FILES, *of_a_sweep}}
    return any(all(kinds[n] == "file" for n in names) for names in (FILES, of_a_sweep))


def resuming(directory: Path) -> str:
    """The command that goes on with an unfinished run or sweep."""
    command = "sweep" if begun_as_sweep(directory) else "run"
    return f"cgsv {command} --resume {shlex.quote(os.fspath(directory))}"


def begun_as_sweep(directory: Path) -> bool:
    """Whether the config.json of a directory is a sweep's."""
    try:
        return bool({"axes", "search"} & set(read_json(directory, "config.json")))
    except ValueError:
        return False


def resumable(path: Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """A run directory that was begun, and what its config.json says, unjudged.

    Raises:
      ValueError: when it is none.
    """

    def refusal(reason: str) -> ValueError:
        return ValueError(f"--resume is {os.fspath(path)!r}, {reason}")

    directory = files.path_of(path, "--resume")
    if (kind := files.kind(directory)) != "folder":
        what = "not there" if kind == "nothing" else "a file"
        raise refusal(f"it must be a run directory, it is {what}")
    if not is_there(directory, "config.json"):
        raise refusal("it must be a run directory, it holds no config.json")
    for name in FOLDERS:
        files.inside(directory, name)
    config = read_json(directory, "config.json")
    if begun_as_sweep(directory):
        raise refusal(f"which holds a sweep, with which `{resuming(directory)}` goes on")
    return directory, config


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing to a run directory at the same time.

    The lock lies on the directory itself: nothing has to be removed, and it goes with the process,
    however that ends.

    Raises:
      ValueError: another process holds it.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"{directory} is in use: another process runs there, wait until it has ended"
                ) from error
            # A file system without such locks: then nobody is kept out.
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Any error of the system in the body, as a sentence with the directory's name.

    Raises:
      OSError: in place of another one.
    """
    try:
        yield
    except OSError as error:
        reason = files.reason_of(error)
        raise OSError(f"{os.fspath(directory)} cannot be written to: {reason}") from error


def remove_checkpoints(directory: Path) -> None:
    """Removes what checkpoint.py wrote, and its folder unless somebody else's files are there.

    Raises:
      ValueError: the folder is a symbolic link.
      OSError: something cannot be removed.
    """
    folder = files.inside(directory, CHECKPOINT)
    for path in checkpoints(directory, temporary=True):
        remove(path)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def checkpoints(directory: Path, temporary: bool = False) -> list[pathlib.Path]:
    """The checkpoints of a run directory, the oldest first; with those half written, if asked."""
    folder = files.inside(directory, CHECKPOINT)
    pattern = r"\d{12}|\.\d{12}\.tmp" if temporary else r"\d{12}"
    found = [path for path in folder.glob("*") if re.fullmatch(pattern, path.name)]
    return sorted(found, key=lambda path: path.name)


def remove(path: Path) -> None:
    """A file, a link (not what it leads to) or a folder with all that is in it."""
    path = pathlib.Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def tidy(directory: Path) -> None:
    """Removes what a process that was killed had half written (see `write_files`).

    Raises:
      ValueError: a folder of the run's is a symbolic link.
      OSError: something cannot be removed.
    """
    folders = [files.inside(directory, name) for name in (FIGURES, PARTS)]
    for folder in (pathlib.Path(directory), *folders):
        for path in folder.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(path.name):
                remove(path)


_SUFFIXES = ("json", "npz", "parquet", *FIGURE_FORMATS)
_TEMPORARY = re.compile(rf"\..+\.({'|'.join(_SUFFIXES)})\.\d+\.tmp")


def write(
    directory: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
    cells: Iterable[Cell],
) -> None:
    """Writes all files of a run; equal arguments give equal bytes.

    Raises:
      OSError: when something cannot be written.
    """
    cells = list(cells)
    summary = summary_frame(cells)
    tables = {
        "rounds.parquet": parquet(rounds_frame(cells)),
        "clients.parquet": parquet(clients_frame(cells)),
        "summary.parquet": parquet(summary),
    }
    documents = {
        "config.json": document(config),
        "environment.json": document({**environment, "tables": digests(tables)}),
        "timing.json": document(timing),
        "summary.json": document(fairness_table(summary).to_dicts()),
    }
    write_files(directory, documents | tables)


def write_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files by name, all of them or none.

    Every file is written under a temporary name first, so that a file is there whole or not at all,
    and nothing is replaced before everything could be written.

    Raises:
      ValueError: a name leads out of the directory.
      OSError: when something cannot be written.
    """
    to = {files.inside(directory, name): content for name, content in contents.items()}
    temporary = {file: file.with_name(f".{file.name}.{os.getpid()}.tmp") for file in to}
    with writing(directory):
        pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
        try:
            tidy(directory)  # also: nothing is written through a link
            for file, content in to.items():
                temporary[file].write_bytes(content)
            for file in to:
                os.replace(temporary[file], file)
        except BaseException:
            for file in temporary.values():
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            raise


def parquet(frame: pl.DataFrame) -> bytes:
    """A parquet file; equal frames give equal bytes."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    return content.getvalue()


def digests(tables: Mapping[str, bytes]) -> dict[str, str]:
    """What environment.json says of tables, see `read_parquet`."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}


def document(value: Any) -> bytes:
    """Strict JSON, sealed where it holds names (see `files.sealed`); equal values, equal bytes."""
    value = _plain(value)
    return json_text(files.sealed(value) if isinstance(value, dict) else value).encode()


def json_text(value: Any) -> str:
    """Strict JSON, the same for equal values."""
    text = json.dumps(_plain(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def _plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts; "inf" for infinity, None for NaN."""
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value))
    if isinstance(value, str):  # what is no Unicode, of a variable say, is no JSON either
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on besides its config; no times, no names of hosts."""
    device = jax.devices()[0]
    versions = {
        name: _version(name) for name in ("jax", "jaxlib", "numpy", "flax", "optax", "cgsv_jax")
    }
    return {
        "versions": {"python": platform.python_version(), **versions},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "git": _checkout(pathlib.Path(__file__).resolve().parent),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checkout(package: pathlib.Path) -> dict[str, Any]:
    """Commit of the checkout that `package` belongs to, and whether it differs from it."""
    # A GIT_DIR of the caller's would answer for another repository.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*args: str) -> str | None:
        command = ["git", "--no-optional-locks", "-C", str(package), *args]
        try:
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An environment inside somebody's repository is not a checkout of this package.
    if git("ls-files", "--error-unmatch", "types.py") is None:
        return {"commit": None, "dirty": None}
    changed = git("status", "--porcelain", "--untracked-files=no")
    # Untracked files count where they would be imported; run directories elsewhere do not.
    added = git("ls-files", "--others", "--exclude-standard", "--", ".")
    dirty = None if changed is None or added is None else bool(changed or added)
    return {"commit": git("rev-parse", "HEAD"), "dirty": dirty}


def read(directory: Path) -> Run:
    """A run directory as it was written.

    Raises:
      ValueError: when it is no run directory, or a file is missing or damaged.
    """
    directory = files.path_of(directory, "the run's directory")
    missing = [name for name in FILES if not is_there(directory, name)]
    if len(missing) == len(FILES):
        kind = files.kind(directory)
        what = {"folder": f"it holds none of {', '.join(FILES)}", "nothing": "it is not there"}
        raise ValueError(f"{directory} is no run directory: {what.get(kind, 'it is a file')}")
    if missing:
        on = "" if FILES[0] in missing else f": `{resuming(directory)}` goes on"
        raise ValueError(f"the run in {directory} lacks {', '.join(missing)}{on}")
    # What an earlier version wrote has neither seals nor digests.
    sealed = "tables" in read_json(directory, "environment.json")
    documents = [read_json(directory, f"{name}.json", sealed) for name in JSON_FILES]
    columns = (ROUND_COLUMNS, CLIENT_COLUMNS, SUMMARY_COLUMNS)
    frames = (
        read_parquet(directory, f"{name}.parquet", expected, documents[1])
        for name, expected in zip(PARQUET_FILES, columns, strict=True)
    )
    run = Run(*documents, *frames, directory)
    _must_agree(run)
    return run


def _must_agree(run: Run) -> None:
    """The three tables are of the same cells, and two of them of the same clients.

    Raises:
      ValueError: when one of them comes from another run.
    """
    tables = {name: getattr(run, name) for name in PARQUET_FILES}
    for keys, names in ((KEYS, PARQUET_FILES), ((*KEYS, "client"), ("rounds", "clients"))):
        first, *others = (set(tables[name].select(keys).unique().iter_rows()) for name in names)
        if any(other != first for other in others):
            raise ValueError(
                f"the run in {run.directory} cannot be read: {', '.join(names)} are not of the "
                f"same {', '.join(keys)}"
            )


def read_json(directory: Path, name: str, must_be_sealed: bool = False) -> dict[str, Any]:
    """A document of a run's or a sweep's.

    Raises:
      ValueError: when it cannot be read, or was changed since it was written.
    """
    return files.read_json(files.inside(directory, name), must_be_sealed=must_be_sealed)


def read_parquet(
    directory: Path,
    name: str,
    columns: Sequence[str],
    environment: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """A table that has the columns.

    Args:
      directory: of a run or a sweep.
      name: of the file.
      columns: what must be there; of those of a run the types are known.
      environment: what environment.json holds: of what was written by this version, digests.

    Raises:
      ValueError: when it cannot be read, or is another one.
    """
    known = (environment or {}).get("tables")
    digest = known.get(name) if isinstance(known, dict) else None
    file = files.inside(directory, name)
    frame = files.read_table(file, [name for name in columns if name not in LATER], digest)
    lacking = [name for name in columns if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)
    with files.reading(file):
        for column in map(frame.get_column, columns):
            _must_hold(column)
    return frame


def _must_hold(column: pl.Series) -> None:
    """Refuses values that no column of this name has."""
    name, text = column.name, column.name in TEXTS
    # A column that nobody has a value of has no type; keys are what rows are found by.
    truths = name in ("present", "broken", "best") and column.dtype == pl.Boolean
    fits = column.dtype == pl.String if text else column.dtype.is_numeric() or truths
    if not fits and len(column):  # a table without rows has no types
        raise ValueError(f"{name} holds {column.dtype}, not {'text' if text else 'numbers'}")
    if name in (*KEYS, "client", "round") and column.null_count():
        raise ValueError(f"{name} is unknown in some rows")
    if column.dtype.is_float() and not column.drop_nulls().is_finite().all():
        raise ValueError(f"{name} is not finite in some rows")
    if name in ("partition", "method"):
        for value in column.unique():
            if not value.isprintable() or len(value) > LONGEST:
                raise ValueError(f"a {name} is named {value[:80]!r}, which is no name")
