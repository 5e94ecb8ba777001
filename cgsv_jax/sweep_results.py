"""The directory of a sweep: which settings there were, what every run gave, which was best.

| file | holds |
|---|---|
| config.json | the sweep: what is the same, what is swept, every setting |
| environment.json, timing.json | as of a run |
| sweep.parquet | a row per setting, partition, method and seed: swept values, then the summary's |
| settings.parquet, settings.json | means over seeds, ranks, and which is best |
| parts/ | the runs that are through, written as they end; gone when the tables are there |

A sweep that was interrupted is a directory with parts and without tables. No file is a pickle.
"""

import hashlib
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cgsv_jax import files, results
from cgsv_jax.results import FIGURES, PART_FILES, PARTS, RAYS, SWEEP_FILES, YARDSTICK, Outcome

Path = str | os.PathLike[str]

MANY = 20  # settings that a terminal shows


class Judged(NamedTuple):
    """The settings in the order of the criterion."""

    table: pl.DataFrame  # a row per setting, method and partition
    best: dict[str, Any] | None  # its swept values, `point` and `method`; None: nothing to go by
    near: int  # further settings within one standard error of it


# ---------------------------------------------------------------- tables


def frame(rows: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """A row per setting, partition, method and seed; `point` is the number of the setting.

    Args:
      rows: see `sweeping.rows`.
      axes: swept name -> its values.
    """
    names = [name for name in axes if name not in results.SUMMARY_COLUMNS]
    columns = ["point", *names, *results.SUMMARY_COLUMNS]
    if not rows:
        return pl.DataFrame({name: [] for name in columns})
    summary = results.summary_of(
        {name: row[name] for name in results.SUMMARY_COLUMNS if name in row} for row in rows
    )
    own = [pl.Series("point", [row["point"] for row in rows], pl.Int64)]
    own += [pl.Series(name, [row[name] for row in rows], strict=False) for name in names]
    return pl.DataFrame(own).hstack(summary).select(columns)


def judged(table: pl.DataFrame, axes: Sequence[str], criterion: str) -> Judged:
    """The settings, best first.

    The criterion of a setting and method is the mean over partitions of the means over seeds. What
    is defined in every run comes before what is not, whose mean would leave out its worst cases;
    then the larger mean; of equal ones the larger mean accuracy; then the first.

    Args:
      table: see `frame`.
      axes: the swept names.
      criterion: a column, more is better.
    """
    axes = [name for name in axes if name in table.columns]
    keys = ("point", "method")
    told = table.filter(pl.col("method") != YARDSTICK)
    told = told if len(told) else table  # of the yardstick alone
    cells = told.group_by(*keys, "partition", maintain_order=True).agg(
        pl.col(criterion, "mean_accuracy").mean().name.suffix("_of"),
        pl.col(criterion).count().alias("defined"),
        pl.len().alias("seeds"),
    )
    whole = (
        cells.group_by(*keys, maintain_order=True)
        .agg(
            pl.col(f"{criterion}_of").mean().alias("criterion"),
            pl.col("mean_accuracy_of").mean().alias("accuracy"),
            (pl.col("defined").sum() / pl.col("seeds").sum()).alias("criterion_defined"),
        )
        .with_row_index("place")
        # Rounded: what differs in the last bits ties.
        .with_columns(pl.col("criterion").round(9).alias("value"))
        .sort(
            [pl.col("criterion_defined") == 1, "value", "accuracy", "place"],
            descending=[True, True, True, False],
            nulls_last=True,
        )
        .with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("rank"))
    )
    means = pl.concat(
        results.fairness_table(own).with_columns(pl.lit(setting, pl.Int64).alias("point"))
        for (setting,), own in told.group_by("point", maintain_order=True)
    )
    swept = told.select("point", *axes).unique(maintain_order=True)
    ordered = (
        whole.select(*keys, "rank", "criterion", "criterion_defined")
        .join(swept, on="point", maintain_order="left")
        .join(means, on=keys, maintain_order="left_right")
        .with_columns((pl.col("rank") == 1).alias("best"))
    )
    front = ["rank", "best", "point", *axes, "method", "partition"]
    front += ["criterion", "criterion_defined"]
    ordered = ordered.select(*front, pl.exclude(front))
    first = ordered.row(0, named=True) if len(ordered) else None
    if first is None or first["criterion"] is None:
        return Judged(ordered.with_columns(pl.lit(False).alias("best")), None, 0)
    best = {name: first[name] for name in ("point", *axes, "method", "criterion")}
    seeds = told.filter(point=first["point"], method=first["method"])
    seeds = seeds.group_by("seed").agg(pl.col(criterion).mean())[criterion].drop_nulls()
    error = (seeds.std() or 0.0) / math.sqrt(max(len(seeds), 1))
    complete = whole.filter(pl.col("criterion_defined") == first["criterion_defined"])
    near = int((complete["criterion"] >= first["criterion"] - error).sum()) - 1
    return Judged(ordered, best, near)


def shown_settings(own: Judged, axes: Sequence[str], criterion: str) -> pl.DataFrame:
    """The settings as text, best first; a selection where they are many.

    One row per setting and method, a column per partition where there are several.
    """
    from_table = own.table
    names = [name for name in axes if name in from_table.columns and name != "partition"]
    partitions = sorted(from_table["partition"].unique().to_list())
    several = from_table["method"].n_unique() > 1
    lines = []
    for (rank,), rows in from_table.group_by("rank", maintain_order=True):
        first = rows.row(0, named=True)
        line = {"rank": "best" if first["best"] else str(rank)}
        line |= {"method": first["method"]} if several else {}
        line |= {name.replace("_", " "): _value(first[name]) for name in names}
        line[_header(criterion)] = _of(criterion, first["criterion"]) + (
            f" ({100 * first['criterion_defined']:.0f} % defined)"
            if first["criterion"] is not None and first["criterion_defined"] < 1
            else ""
        )
        for row in sorted(rows.iter_rows(named=True), key=lambda r: r["partition"]):
            fairness = "undefined" if row["fairness"] is None else f"{row['fairness']:.1f}"
            fairness = "yardstick" if row["method"] == YARDSTICK else fairness
            text = f"{fairness} ({100 * row['mean_accuracy']:.1f})"
            line[row["partition"] if len(partitions) > 1 else "fairness (accuracy, %)"] = text
        lines.append(line)
    if len(lines) > MANY:
        lines = [*lines[: MANY // 2], {"rank": "…"}, *lines[-MANY // 4 :]]
    return pl.DataFrame(lines, infer_schema_length=None).with_columns(pl.all().fill_null(""))


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _header(criterion: str) -> str:
    unit = "" if criterion == "fairness" else ", points" if criterion == "mean_gain" else ", %"
    return criterion.replace("_", " ") + unit


def _of(criterion: str, value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value if criterion == 'fairness' else 100 * value:.2f}"


# ---------------------------------------------------------------- the directory


def begin(
    directory: pathlib.Path, config: Mapping[str, Any], environment: Mapping[str, Any]
) -> None:
    """Writes what a later command needs to go on, before anything is run."""
    results.begin(directory, config, environment)


def write(
    directory: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
    table: pl.DataFrame,
    own: Judged,
) -> None:
    """Writes the tables of a finished sweep, and removes its parts; equal runs give equal bytes."""
    directory = pathlib.Path(directory)
    tables = {
        "sweep.parquet": results.parquet(table),
        "settings.parquet": results.parquet(own.table),
    }
    texts = {
        "config.json": config,
        "environment.json": {**environment, "tables": results.digests(tables)},
        "timing.json": timing,
        "settings.json": {"best": own.best, "near": own.near, "settings": own.table.to_dicts()},
    }
    documents = {name: results.document(value) for name, value in texts.items()}
    results.write_files(directory, documents | tables)
    for pattern in PART_FILES:
        for file in (directory / PARTS).glob(pattern):
            file.unlink()
    shutil.rmtree(directory / RAYS, ignore_errors=True)  # a driver that was killed left them
    if (directory / PARTS).is_dir() and not any((directory / PARTS).iterdir()):
        (directory / PARTS).rmdir()


def open_again(path: Path, versions: Mapping[str, Any]) -> tuple[pathlib.Path, dict[str, Any]]:
    """A sweep to go on with: its directory and its config.

    Args:
      path: the directory.
      versions: those that would go on; runs of others do not belong into one table.

    Raises:
      ValueError: when there is no sweep, it is finished, or it was begun by other versions.
    """
    directory = pathlib.Path(path).expanduser()
    try:
        config = results.read_json(directory, "config.json")
        environment = results.read_json(directory, "environment.json")
    except ValueError as error:
        raise ValueError(f"--resume is {str(path)!r}, it must be a sweep's: {error}") from error
    before = environment.get("versions")
    if before != versions:
        names = [n for n in versions if (before or {}).get(n) != versions[n]]
        raise ValueError(
            f"--resume is {str(path)!r}, which other versions began "
            f"(of {', '.join(names)}): start it anew with --overwrite"
        )
    return directory, config


def add_part(directory: Path, done: Mapping[str, Outcome]) -> None:
    """Keeps runs that are through, by their keys; all of them or none."""
    if not done:
        return
    rows = [{"key": key} | plain(end) for key, end in done.items()]
    schema = {"key": pl.String} | dict.fromkeys(Outcome._fields, pl.List(pl.Float64))
    table = pl.DataFrame(rows, schema=schema)
    name = hashlib.sha256(" ".join(done).encode()).hexdigest()[:20]
    content = {f"{name}.parquet": results.parquet(table)}
    results.write_files(files.inside(directory, PARTS), content)


def parts(directory: Path) -> dict[str, Outcome]:
    """The runs that are through, by their keys.

    Raises:
      ValueError: when a part cannot be read.
    """
    done: dict[str, Outcome] = {}
    for file in sorted((pathlib.Path(directory) / PARTS).glob("*.parquet")):
        try:
            table = pl.read_parquet(file, glob=False)
            for row in table.iter_rows(named=True):
                done[row["key"]] = outcome(row)
        except (OSError, KeyError, pl.exceptions.PolarsError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
    return done


def add_trial(directory: Path, trial: Mapping[str, Any]) -> None:
    """Keeps a trial of a search that came to an end."""
    name = hashlib.sha256(results.json_text(trial["values"]).encode()).hexdigest()[:20]
    content = {f"{name}.json": results.document(trial)}
    results.write_files(files.inside(directory, PARTS), content)


def trials(directory: Path) -> list[dict[str, Any]]:
    """The trials that came to an end."""
    folder = files.inside(directory, PARTS)
    return [results.read_json(folder, file.name) for file in sorted(folder.glob("*.json"))]


def plain(end: Outcome) -> dict[str, list[float]]:
    """An outcome as lists of numbers; `outcome` reads it back without a rounding."""
    return {
        name: np.asarray(getattr(end, name), np.float64).reshape(-1).tolist()
        for name in Outcome._fields
    }


def outcome(values: Mapping[str, Sequence[float]]) -> Outcome:
    """The inverse of `plain`."""
    single = {"accuracy", "distance", "server_accuracy", "reputation"}
    made = {
        name: np.asarray(values[name], np.float32 if name in single else np.float64)
        for name in Outcome._fields
    }
    whole = {n: made[n].astype(np.int64) for n in ("upload_bytes", "download_bytes", "broken")}
    flags = {name: made[name].astype(bool) for name in ("honest", "honest_seen")}
    return Outcome(**made | whole | flags)._replace(server_accuracy=made["server_accuracy"][0])


def read(directory: Path) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    """A finished sweep: config, `sweep.parquet`, `settings.parquet`.

    Raises:
      ValueError: when it is none, or a file is damaged.
    """
    directory = pathlib.Path(directory)
    config = results.read_json(directory, "config.json")
    environment = results.read_json(directory, "environment.json")
    tables = (
        results.read_parquet(directory, name, columns, environment)
        for name, columns in (
            ("sweep.parquet", ("point", *results.SUMMARY_COLUMNS)),
            ("settings.parquet", ("rank", "best", "point")),
        )
    )
    return config, *tables


def is_sweep(directory: Path) -> bool:
    """Whether a directory is that of a finished sweep."""
    return all((pathlib.Path(directory) / name).is_file() for name in SWEEP_FILES)


def figures_of(directory: Path) -> pathlib.Path:
    """Where a sweep's figures go."""
    return pathlib.Path(directory) / FIGURES
