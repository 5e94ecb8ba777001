"""The directory of a sweep: its points, the outcome of every trial, and which point is best.

| file | holds |
|---|---|
| config.json | the sweep: what is the same, what is swept, every point |
| environment.json, timing.json | as in a run directory |
| sweep.parquet | a row per point and key of a summary: swept values, then the summary's |
| points.parquet, points.json | means over seeds, ranks, and which is best |
| parts/ | the trials that are through, written as they end; gone at the very end |

A sweep that was interrupted is a directory without all of its tables. A part is named by the digest
of its content: one that is damaged, or holds what no trial of the sweep gives, counts for nothing
and is computed again. No file is a pickle.
"""

import errno
import functools
import hashlib
import io
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import polars as pl

from cgsv_jax.core.ranges import MAX_WHOLE, MOST_NUMBER
from cgsv_jax.experiment import identity
from cgsv_jax.experiment.task import counts_of
from cgsv_jax.host import files
from cgsv_jax.host.files import Path
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames, tables
from cgsv_jax.results.directory import PART_FILES, PARTS, RAYS, SWEEP_FILES
from cgsv_jax.results.frames import YARDSTICK, Outcome
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep.plan import Trial
from cgsv_jax.sweep.points import Sweep
from cgsv_jax.sweep.search import Score

MANY = 20  # points that a terminal shows


class Ranking(NamedTuple):
    """The points in the order of the criterion."""

    table: pl.DataFrame  # a row per point, method and partition
    best: dict[str, Any] | None  # its swept values, `point` and `method`; None: nothing to go by
    near: int  # further points within one standard error of it


# ---------------------------------------------------------------- tables


def frame(rows: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """A row per point, partition, method and both seeds; `point` is the number of the point.

    Args:
      rows: see `running.rows`.
      axes: swept name -> its values.
    """
    names = [name for name in axes if name not in frames.SUMMARY_COLUMNS]
    columns = ["point", *names, *frames.SUMMARY_COLUMNS]
    if not rows:
        kinds = {"point": pl.Int64, **frames.SUMMARY_COLUMNS}
        return pl.DataFrame(schema={name: kinds.get(name, pl.Null) for name in columns})
    summary = frames.summary_of(
        {name: row[name] for name in frames.SUMMARY_COLUMNS if name in row} for row in rows
    )
    own = [pl.Series("point", [row["point"] for row in rows], pl.Int64)]
    own += [pl.Series(name, [row[name] for row in rows], strict=False) for name in names]
    return pl.DataFrame(own).hstack(summary).select(columns)


def ranking(table: pl.DataFrame, axes: Sequence[str], criterion: str) -> Ranking:
    """The points, best first (see `ranked`), with their means over seeds.

    Args:
      table: see `frame`.
      axes: the swept names.
      criterion: a column, more is better.
    """
    whole, best = ranked(table, axes, criterion)
    axes = [name for name in axes if name in table.columns]
    rows = compared(table)
    means = pl.concat(
        frames.fairness_table(own).with_columns(pl.lit(point, pl.Int64).alias("point"))
        for (point,), own in rows.group_by("point", maintain_order=True)
    )
    ordered = whole.drop("accuracy").join(
        means, on=("point", "method"), maintain_order="left_right"
    ).with_columns(best=(pl.col("rank") == 1) & (best is not None))  # fmt: skip
    front = ["rank", "best", "point", *axes, "method", "partition"]
    front += ["criterion", "criterion_defined"]
    ordered = ordered.select(*front, pl.exclude(front))
    if best is None:
        return Ranking(ordered, None, 0)
    runs = rows.filter(point=best["point"], method=best["method"])
    runs = runs.group_by("partition_seed", "seed").agg(pl.col(criterion).mean())
    runs = runs[criterion].drop_nulls()
    error = (runs.std() or 0.0) / math.sqrt(max(len(runs), 1))
    complete = whole.filter(pl.col("criterion_defined") == whole["criterion_defined"][0])
    near = int((complete["criterion"] >= best["criterion"] - error).sum()) - 1
    return Ranking(ordered, best, near)


def ranked(
    table: pl.DataFrame, axes: Collection[str], criterion: str
) -> tuple[pl.DataFrame, dict[str, Any] | None]:
    """A row per point and method, best first, and the best of all if there is something to go by.

    The criterion of a point and method is the mean over partitions of the means over seeds. What
    is defined in every trial comes before what is not, whose mean would leave out its worst cases.
    So does a fairness that is settled in every trial, for which another round would have given
    another sign nowhere (`frames.unsettled`). Then comes the larger mean; of equal ones the larger
    mean accuracy; then the first.

    Args:
      table, axes, criterion: as in `ranking`.
    """
    axes = [name for name in axes if name in table.columns]
    keys = ("point", "method")
    cells = compared(table).group_by(*keys, "partition", maintain_order=True).agg(
        pl.col(axes).first(),
        pl.col(criterion, "mean_accuracy").mean().name.suffix("_of"),
        pl.col(criterion).count().alias("defined"),
        # `any` leaves out what nobody can tell.
        (pl.col("unsettled").any() & (criterion == "fairness")).alias("unsettled"),
        pl.len().alias("seeds"),
    )  # fmt: skip
    whole = (
        cells.group_by(*keys, maintain_order=True)
        .agg(
            pl.col(axes).first(),
            pl.col(f"{criterion}_of").mean().alias("criterion"),
            pl.col("mean_accuracy_of").mean().alias("accuracy"),
            (pl.col("defined").sum() / pl.col("seeds").sum()).alias("criterion_defined"),
            pl.col("unsettled").any(),
        )
        .with_row_index("place")
        # Rounded: what differs in the last bits ties.
        .with_columns(pl.col("criterion").round(9).alias("value"))
        .sort(
            [pl.col("criterion_defined") == 1, "unsettled", "value", "accuracy", "place"],
            descending=[True, False, True, True, False],
            nulls_last=True,
        )
        .with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("rank"))
        .drop("place", "value", "unsettled")
    )
    first = whole.row(0, named=True) if len(whole) else None
    if first is None or first["criterion"] is None:
        return whole, None
    return whole, {name: first[name] for name in ("point", *axes, "method", "criterion")}


def first_points(
    table: pl.DataFrame, axes: Collection[str], criterion: str
) -> set[tuple[int, str]]:
    """The points and methods that a terminal shows, best first; axes as in `ranking`."""
    whole, _ = ranked(table, axes, criterion)
    return {*whole.head(MANY).select("point", "method").iter_rows()}


def compared(table: pl.DataFrame) -> pl.DataFrame:
    """The rows without those of the standalone baseline, unless there are no others."""
    rows = table.filter(pl.col("method") != YARDSTICK)
    return rows if len(rows) else table


def over(table: pl.DataFrame) -> str:
    """What a mean of a point and method on a partition is over, see `frames.over`."""
    return frames.over(table.filter(pl.col("point") == pl.col("point").first()))


def shown_points(own: Ranking, axes: Sequence[str], criterion: str) -> pl.DataFrame:
    """The points as text, best first; a selection where they are many.

    One row per point and method, a column per partition where there are several.
    """
    from_table = own.table
    names = [name for name in axes if name in from_table.columns and name != "partition"]
    partitions = sorted(from_table["partition"].unique().to_list())
    several = from_table["method"].n_unique() > 1
    lines = []
    place, before = 0, None
    # With one partition its own column says the fairness too, unless not even its sign is known.
    twice = (
        (criterion == "fairness" and len(partitions) == 1)
        and (from_table["criterion_defined"] == 1).all()
        and not any(map(tables.both_signs, from_table.iter_rows(named=True)))
    )
    for (rank,), rows in from_table.group_by("rank", maintain_order=True):
        first = rows.row(0, named=True)
        # What ties has one place, though the table has an order: rounded as in `ranked`.
        value = first["criterion"], first["criterion_defined"], first["unsettled"]
        value = (None if value[0] is None else round(value[0], 9), *value[1:])
        place = place if value == before else int(str(rank))
        before = value
        line = {"rank": "best" if first["best"] else str(place)}
        line |= {"method": first["method"]} if several else {}
        line |= {name.replace("_", " "): _value(first[name]) for name in names}
        if not twice:
            line[_header(criterion)] = _of(criterion, first["criterion"]) + (
                f" ({100 * first['criterion_defined']:.0f} % defined)"
                if first["criterion"] is not None and first["criterion_defined"] < 1
                else ""
            )
        for row in sorted(rows.iter_rows(named=True), key=lambda r: r["partition"]):
            fairness = tables.fairness_text(row, with_interval=False)
            own = row["mean_own_accuracy"]
            beside = "" if own is None else f"; own {100 * own:.1f}"
            text = f"{fairness} ({100 * row['mean_accuracy']:.1f}{beside})"
            line[row["partition"] if len(partitions) > 1 else "fairness (accuracy, %)"] = text
        lines.append(line)
    if len(lines) > MANY:
        lines = [*lines[: MANY // 2], {"rank": "…"}, *lines[-MANY // 4 :]]
    return pl.DataFrame(lines, infer_schema_length=None).with_columns(pl.all().fill_null(""))


def doubts_of_best(own: Ranking) -> list[str]:
    """Sentences on why the fairness of the best point is none to build on; none where it is."""
    said = []
    for row in own.table.filter("best").iter_rows(named=True):
        where = f"its fairness on {row['partition']}"
        if row["fairness"] is not None and tables.both_signs(row):
            ends = (tables.number(row[f"fairness_{end}"]) for end in ("low", "high"))
            said.append(f"{where} may have either sign: its interval is [{', '.join(ends)}]")
        if row["unsettled"]:
            runs = f"{row['unsettled']} of {row['seeds']} runs"
            said.append(f"{where} changes its sign, or is lost, over the last quarter in {runs}")
        if tables.oracle(row):
            said.append(f"{where} is so by construction in part: {tables.PAID_BY}")
    return said


def report(sweep: Sweep, table: pl.DataFrame, own: Ranking) -> tuple[tables.Report, list[str]]:
    """What a person wants to know of a sweep: its points, and lines on which is best.

    Args:
      sweep: its options, axes and criteria; its points are not looked at.
      table: `sweep.parquet`.
      own: its points.
    """
    partitions = table["partition"].n_unique()
    means = list(filter(None, [over(table)]))
    means += [f"{partitions} partitions"] if partitions > 1 else []
    lines = ["per partition: fairness (accuracy, %)"] if partitions > 1 else []
    lines += [f"means over {' and '.join(means)}"] if means else []
    if table["mean_own_accuracy"].count():
        lines.append("own: accuracy of each client on the rows that it holds out")
    lines += tables.chosen_rounds(table) + on_validation(sweep)
    shown = shown_points(own, tuple(sweep.axes), sweep.best)
    lines += tables.doubts(own.table)
    count = own.table["rank"].n_unique()
    if count > len(shown):
        lines.append(f"{count} points in all, see points.parquet")
    told = {"rank", "method", *(name.replace("_", " ") for name in sweep.axes)}
    keys = sum(name in told for name in shown.columns)
    points = tables.Report(shown, f"Points by {sweep.best.replace('_', ' ')}", lines, keys)
    if own.best is None:
        reasons = table["fairness_undefined"].drop_nulls().unique().sort()[:3]
        none = f"{sweep.best} is undefined in every point: there is no best one"
        return points, [none, *(f"undefined: {reason}" for reason in reasons)]
    values = {name: own.best[name] for name in sweep.axes if name in own.best}
    named = points_lib.in_words(values) or "the only point"
    said = [f"best: {own.best['method']} with {named}", *doubts_of_best(own)]
    if own.near:
        others = "another point is" if own.near == 1 else f"{own.near} other points are"
        said.append(f"{others} within one standard error of it")
    return points, [*said, own.best["command"]]


def on_validation(sweep: Sweep) -> list[str]:
    """A line where accuracies are not on the test set."""
    one = sweep.eval_split == "validation"
    return ["accuracies on the server's validation examples"] if one else []


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


def write(
    directory: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    timing: Mapping[str, Any],
    table: pl.DataFrame,
    own: Ranking,
) -> None:
    """Writes the files of a sweep all of whose trials are through; equal trials, equal bytes.

    Raises:
      OSError: when something cannot be written.
    """
    tables = {
        "sweep.parquet": directory_lib.parquet(table),
        "points.parquet": directory_lib.parquet(own.table),
    }
    documents = {
        "config.json": config,
        "environment.json": {**environment, "tables": directory_lib.digests(tables)},
        "timing.json": timing,
        "points.json": {"best": own.best, "near": own.near, "points": own.table.to_dicts()},
    }
    contents = {name: files.document(value) for name, value in documents.items()}
    files.write_files(directory, contents | tables)


def clear(directory: Path) -> None:
    """Removes what a sweep needs until its tables and figures are there.

    Raises:
      ValueError: a folder leads elsewhere.
      OSError: something cannot be removed; all else is.
    """
    directory_lib.tidy(directory)
    folder = files.inside(directory, PARTS)
    found = [file for pattern in PART_FILES for file in folder.glob(pattern)]
    strays = [file for file in found if file.is_dir() and not file.is_symlink()]
    for file in found:
        if file not in strays:
            file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    files.remove(files.inside(directory, RAYS))  # a driver that was killed left them
    directory_lib.remove_checkpoints(directory)
    if strays:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(strays[0]))


def must_go_on(directory: Path, environment: Mapping[str, Any]) -> None:
    """Refuses to put trials of other versions, or of other data, into one table.

    Args:
      directory: of a sweep that was begun.
      environment: which would go on.

    Raises:
      ValueError: naming what differs, or why nobody can say.
    """
    file = files.inside(directory, "environment.json")
    before = files.read_json(file, _Began)["versions"]
    other = [name for name, now in environment["versions"].items() if before.get(name) != now]
    wrong = [f"other versions began it (of {', '.join(other)})"] if other else []
    wrong += identity.changed_data(directory, environment["data"])
    if wrong:
        reasons = f"{'; '.join(wrong)}: start it anew with --overwrite"
        raise ValueError(f"--resume is {str(directory)!r}, but {reasons}")


class _Began(TypedDict):
    versions: dict[str, str | None]


# What an outcome holds: numbers of the clients, of those that were evaluated, of these at every
# evaluation of the last quarter, or one; how small and how large one may be; and their type. What
# has no bound may be NaN too: a model may be finite and its loss not.
_HOLDS = {
    "accuracy": ("evaluated", 0, 1, np.float32),
    "loss": ("evaluated", -math.inf, math.inf, np.float32),
    "late_accuracy": ("late", 0, 1, np.float32),
    "late_loss": ("late", -math.inf, math.inf, np.float32),
    "distance": ("evaluated", 0, math.inf, np.float32),
    "server_accuracy": ("one", 0, 1, np.float32),
    "share": ("clients", 0, 1, np.float64),
    "energy": ("clients", 0, math.inf, np.float64),
    "upload_bytes": ("clients", 0, 2**53, np.int64),
    "download_bytes": ("clients", 0, 2**53, np.int64),
    "reputation": ("clients", -MOST_NUMBER, MOST_NUMBER, np.float32),
    "present": ("clients", 0, 1, np.float64),
    "broken": ("clients", 0, 2**31, np.int64),
    "honest": ("clients", 0, 1, np.bool_),
    "honest_seen": ("evaluated", 0, 1, np.bool_),
    "chosen_round": ("one", 0, MAX_WHOLE, np.int32),
    "oracle": ("one", 0, 1, np.bool_),
    "own_accuracy": ("own", -1, 1, np.float32),  # -1 of a client without own rows
}


_BYTES = 6  # of bits in a number: of so many every whole number is a float64


def packed(end: Outcome) -> np.ndarray:
    """All numbers of an outcome, float64: test rows, answers, then the fields in their order."""
    own = np.nan_to_num(end.own_accuracy, nan=-1.0)
    fields = end._replace(rows=(), right=(), own_accuracy=own)
    bits = np.pad(end.right, (0, -end.right.size % _BYTES)).reshape(-1, _BYTES)
    words = bits @ 256.0 ** np.arange(_BYTES)
    return np.concatenate([[end.rows], words, *(np.ravel(x) for x in fields)]).astype(np.float64)


def unpacked(numbers: Any, clients: int, evaluated: int) -> Outcome:
    """The inverse of `packed`, without a rounding.

    Raises:
      ValueError: no trial of so many clients gives these numbers.
    """
    numbers = np.asarray(numbers)
    odd = ValueError(f"it holds {numbers.dtype} {list(numbers.shape)}, not what a trial gives")
    if numbers.dtype != np.float64 or numbers.ndim != 1 or not numbers.size:
        raise odd
    rows, numbers = numbers[0], numbers[1:]
    if not (0 <= rows * evaluated <= MAX_WHOLE and rows == np.int32(rows)):
        raise ValueError("it is of no number of test rows")
    size = -(-evaluated * int(rows) // 8)
    words = -(-size // _BYTES)
    if words > numbers.size:
        raise odd
    words, numbers = np.split(numbers, [words])
    if not ((words >= 0) & (words < 256.0**_BYTES) & (words == np.floor(words))).all():
        raise ValueError("its answers are no bits")
    bits = (words[:, None] // 256.0 ** np.arange(_BYTES) % 256).astype(np.uint8).ravel()
    counts = {"clients": clients, "evaluated": evaluated, "late": 0, "one": 1, "own": 0}
    # What the other fields leave are the evaluations of the last quarter, of two numbers each, and
    # one number more where clients are judged on their own rows too.
    fixed = sum(counts[of] for of, *_ in _HOLDS.values())
    if (numbers.size - fixed) // evaluated % 2:
        counts["own"] = evaluated
        fixed += evaluated
    late = (numbers.size - fixed) // (2 * evaluated)
    counts["late"] = late * evaluated
    ends = np.cumsum([counts[of] for of, *_ in _HOLDS.values()])
    if numbers.shape != (ends[-1],) or late < 1:
        what = f"it holds {numbers.size} numbers beside its answers"
        raise ValueError(f"{what}, not {fixed} and those of the last evaluations")
    fields = {}
    pieces = np.split(numbers, ends[:-1])
    for x, (name, (of, least, most, kind)) in zip(pieces, _HOLDS.items(), strict=True):
        known = (least <= x) & (x <= most) & (x == x.astype(kind))
        if not (known | np.isnan(x) & (most == math.inf)).all():
            raise ValueError(f"its {name} is no {kind.__name__} from {least} to {most}")
        fields[name] = x.astype(kind).reshape((late, evaluated) if of == "late" else -1)
    fields = {n: x[0] if _HOLDS[n][0] == "one" else x for n, x in fields.items()}
    own = fields["own_accuracy"]
    fields["own_accuracy"] = np.where(own < 0, np.float32(np.nan), own)
    end = Outcome(**fields, rows=np.int32(rows), right=bits[:size])
    if (answers := frames.answers_of(end)) is not None:
        share = np.asarray(answers.right)[0].mean(axis=-1)
        if not np.allclose(share, end.accuracy, atol=1e-6):
            raise ValueError("its answers are not those of its accuracies")
    return end


def add_part(directory: Path, done: Mapping[str, np.ndarray]) -> None:
    """Keeps trials that are through, `packed`, by their keys; all of them or none.

    Raises:
      OSError: when it cannot be written.
    """
    if done:
        file = io.BytesIO()
        arrays: dict[str, Any] = dict(done)
        np.savez(file, **arrays)
        content = file.getvalue()
        name = f"{hashlib.sha256(content).hexdigest()}.npz"
        files.write_files(files.inside(directory, PARTS), {name: content})


def parts(
    directory: Path, warn: Callable[[str], None] = lambda sentence: None
) -> dict[str, np.ndarray]:
    """The outcomes of trials that are through (see `unpacked`), by their keys.

    Args:
      directory: of the sweep.
      warn: told, in a sentence, which part counts for nothing and why.
    """
    done: dict[str, np.ndarray] = {}
    for part in _parts(directory, "npz", files.read_arrays, warn):
        done |= part
    return done


def through(
    trials: Mapping[Trial, str],
    done: Mapping[str, np.ndarray],
    warn: Callable[[str], None] = lambda sentence: None,
) -> dict[Trial, Outcome]:
    """The outcomes of those of the trials that are through.

    Args:
      trials: trial -> its key.
      done: see `parts`.
      warn: called with a sentence about every part that no trial of these gives.
    """
    ends = {}
    for trial, key in trials.items():
        if key in done:
            try:
                ends[trial] = unpacked(done[key], *counts_of(trial.config))
            except ValueError as error:
                warn(f"a trial is computed again, its part is another's: {error}")
    return ends


def add_score(directory: Path, score: Score) -> None:
    """Keeps the score of a point that its scheduler watched.

    Raises:
      OSError: when it cannot be written.
    """
    content = files.document(score)
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    files.write_files(files.inside(directory, PARTS), {name: content})


def scores(directory: Path, warn: Callable[[str], None] = lambda sentence: None) -> list[Score]:
    """The scores that are kept; `warn` as in `parts`."""
    read = functools.partial(files.read_json, schema=Score)
    return [
        Score(**score | {"values": points_lib.unplain(score["values"])})
        for score in _parts(directory, "json", read, warn)
    ]


def _parts(
    directory: Path,
    kind: str,
    read: Callable[[Path], Any],
    warn: Callable[[str], None] = lambda sentence: None,
) -> Iterator[Any]:
    """What the parts of a kind hold whose name is the digest of their content.

    Raises:
      ValueError: the folder leads elsewhere.
    """
    for file in sorted(files.inside(directory, PARTS).glob(f"*.{kind}")):
        try:
            with files.reading(files.inside(directory, PARTS, file.name)):
                if files.digest_of_file(file) != file.stem:
                    raise ValueError("it was changed or damaged since it was written")
                content = read(file)
        except ValueError as error:
            warn(f"{error}; what it held is computed again")
        else:
            yield content


def read(directory: Path) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    """A finished sweep: config, `sweep.parquet`, `points.parquet`.

    Raises:
      ValueError: when it is none, or a file is damaged or of another one.
    """
    directory = files.path_of(directory, "the sweep's directory")
    config = directory_lib.read_json(directory, "config.json")
    environment = directory_lib.read_json(directory, "environment.json")
    with files.reading(directory / "config.json"):
        outline = points_lib.outline(config)
    table, points = (
        directory_lib.read_parquet(directory, name, columns, environment, config["config"])
        for name, columns in (
            ("sweep.parquet", ("point", *frames.SUMMARY_COLUMNS)),
            ("points.parquet", ("rank", "best", "point")),
        )
    )
    with files.reading(directory / "sweep.parquet"):
        known = {"method": outline.shown, "point": range(len(config["points"]))}
        known |= {name: _column(values) for name, values in outline.axes.items()}
        for name, values in known.items():
            if odd := set(table[name].unique()) - set(values):
                raise ValueError(f"{name} is {str(odd.pop())[:80]!r} in it, unlike in config.json")
    return config, table, points


def _column(values: Sequence[Any]) -> list[Any]:
    """Values of an axis as a table holds them."""
    return [*points_lib.in_table({str(i): value for i, value in enumerate(values)}).values()]


def told_again(
    directory: Path, config: Mapping[str, Any], table: pl.DataFrame, points: pl.DataFrame
) -> tuple[tables.Report, list[str]]:
    """What a finished sweep printed at its end, see `report`; the arguments are those of `read`.

    Raises:
      ValueError: as `read`.
    """
    kept = directory_lib.read_json(directory, "points.json")
    sweep = points_lib.outline(config)
    with files.reading(files.inside(directory, "points.parquet")):
        return report(sweep, table, Ranking(points, kept["best"], kept["near"]))


def is_sweep(directory: Path) -> bool:
    """Whether a directory is that of a sweep whose tables are there."""
    directory = files.path_of(directory, "the sweep's directory")
    return all(files.kind(directory / name) == "file" for name in SWEEP_FILES)
