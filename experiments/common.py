"""What the scripts of this folder share: scales, runs, files.

Every script is one question, `main(argv)`, run as `python -m experiments.<item> --scale small`. It
prints its table as Markdown and writes `<item>-<scale>.parquet`, `.md` and `.png` to `--out`.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import polars as pl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from cgsv_jax.config import resolve, schema
from cgsv_jax.core import grid as grid_lib
from cgsv_jax.core import metrics, simulation
from cgsv_jax.experiment import bind, names, running
from cgsv_jax.experiment.task import Task
from cgsv_jax.host import terminal
from cgsv_jax.results import environment, figures, tables
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.types import Array, Clients, Dataset, Hyper, Record

RESULTS = pathlib.Path(__file__).parent / "results"
SCALES = {
    "smoke": "seconds",
    "small": "two CPU cores, at most 15 minutes",
    "full": "the paper's, for a GPU",
}
PAPER = {"paper": "the paper's but for the rounds, on two CPU cores within hours, cell by cell"}


class Asked(NamedTuple):
    """The command line of a script."""

    item: str
    scale: str
    out: pathlib.Path
    data_dir: str | None
    again: bool
    there: bool = False  # nothing is run


def asked(
    item: str,
    doc: str,
    argv: Sequence[str] | None = None,
    scales: Mapping[str, str] = SCALES,
    by_cells: bool = False,
) -> Asked:
    """Reads the flags that all scripts have.

    Args:
      item: of the script.
      doc: its docstring.
      argv: the command line; None: that of the process.
      scales: name -> what it takes.
      by_cells: whether what is there can be shown although something is missing.
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{item}", description=doc)
    parser.add_argument(
        "--scale",
        choices=tuple(scales),
        default="small",
        help="; ".join(f"{name}: {what}" for name, what in scales.items()) + " (default: small)",
    )
    parser.add_argument("--out", default=str(RESULTS), help="folder (default: %(default)s)")
    parser.add_argument("--data-dir", default=None, help="folder of the TFDS sets")
    parser.add_argument("--again", action="store_true", help="ignore runs that are there already")
    if "paper" in scales or by_cells:
        of = "of the paper's scale: " if "paper" in scales else ""
        help_ = f"{of}show the cells that are there, run none"
        parser.add_argument("--there", action="store_true", help=help_)
    values = parser.parse_args(argv)
    out = pathlib.Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    there = getattr(values, "there", False)
    return Asked(item, values.scale, out, values.data_dir, values.again, there)


# ---------------------------------------------------------------- runs


def run(
    configs: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, pl.DataFrame]:
    """Runs every configuration, one line of progress each, and stacks its tidy tables.

    Args:
      configs: what `experiment.configure` is asked for.
      columns: constant columns of each configuration's rows, to tell them apart.

    Returns:
      The tables of `frames.COLUMNS` by name, with the columns in front.
    """
    frames: dict[str, list[pl.DataFrame]] = {name: [] for name in frames_lib.COLUMNS}
    with terminal.watching(terminal.console(stderr=True), len(configs), "configurations") as watch:
        for place, wanted in enumerate(configs):
            extra = dict(columns[place]) if columns else {}
            started = time.perf_counter()
            try:
                result = running.run(names.configure(named=False, **wanted))
            except schema.ConfigError as error:
                raise SystemExit(f"{extra or dict(wanted)}: {error}") from error
            label = ", ".join(f"{name} {value}" for name, value in extra.items()) or "run"
            watch(label, place + 1, state=f"{time.perf_counter() - started:.0f} s", now=True)
            for name, frame in frames_lib.frames_of(result.cells).items():
                fixed = [pl.lit(value).alias(key) for key, value in extra.items()]
                # A table may know one of them by itself, such as the seed of the partition.
                own = frame.drop(*extra, strict=False)
                frames[name].append(own.select(*fixed, pl.all()))
    return {name: pl.concat(parts, how="vertical_relaxed") for name, parts in frames.items()}


def remembered(
    what: Asked,
    name: str,
    configs: Sequence[Mapping],
    columns: Sequence[Mapping],
    table: str = "summary",
) -> pl.DataFrame:
    """A table of `run`; configurations that were run already, by these versions, are read.

    What counts is the whole configuration with its defaults, and where it ran; not where data lie.
    Those that are not there are left out where nothing is to be run.
    """
    file = what.out / f"{name}-{what.scale}.parquet"
    known = pl.read_parquet(file) if file.exists() and not what.again else None
    keys = [fingerprint(wanted) for wanted in configs]
    frames: list[pl.DataFrame] = []
    for place, (key, wanted, extra) in enumerate(zip(keys, configs, columns, strict=True)):
        own = None if known is None else known.filter(configuration=key)
        if own is None or not len(own):
            if what.there:
                continue
            own = run([wanted], [extra])[table].with_columns(
                pl.lit(key).alias("configuration"), pl.lit(provenance()).alias("made_by")
            )
        frames.append(own)
        # Each as soon as it is there, with those that are still to come: the next may be
        # interrupted.
        ahead = (
            []
            if known is None
            else [known.filter(pl.col("configuration").is_in(keys[place + 1 :]))]
        )
        whole = pl.concat([*frames, *ahead], how="diagonal_relaxed")
        whole.write_parquet(file, compression="zstd")
    if not frames:
        raise SystemExit("nothing is there yet")
    return pl.concat(frames, how="diagonal_relaxed").drop("configuration")


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Within it, what one configuration compiled is not compiled again for another."""
    before = jax.config.jax_compilation_cache_dir
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", before)


def fingerprint(wanted: Mapping[str, Any]) -> str:
    """Of a configuration with nothing left open, and of the versions and the device.

    What a file of an earlier version would not say, since it could not be otherwise, is not in it.
    """
    whole = resolve.to_dict(names.configure(named=False, **wanted)) | {"data_dir": None}
    whole = _beside(whole, schema.EARLIER)
    whole["methods"] = [
        _beside(own, schema.earlier_of(own["algorithm"])) for own in whole["methods"]
    ]
    text = json.dumps([whole, provenance()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _beside(values: Mapping[str, Any], meant: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in meant or v != meant[k]}


def over_settings(
    config: schema.Config,
    method: schema.Method,
    task: Task,
    data: Dataset,
    changes: Mapping[str, Sequence[float]],
) -> tuple[Record, np.ndarray]:
    """A method with every seed and other numbers, as one compiled program.

    Args:
      config: of the runs.
      method: one of its methods.
      task: one of its partitions.
      data: the rows, those to evaluate on among them.
      changes: number -> its value in every setting [H].

    Returns:
      The record, leaves [S, H, T, N], and the accuracies after the last round [S, H, N].
    """
    config = dataclasses.replace(config, eval_every=config.rounds)
    bound = bind.bind(config, method, task)

    def one(key: Array, hyper: Hyper, data: Dataset, clients: Clients) -> tuple[Record, Array]:
        _, record, evaluation = simulation.run(key, data, clients, bound.federation(hyper))
        return record, evaluation.accuracy[-1]

    return on_grid(one, bound, data, changes)


def on_grid(
    one: Callable[..., Any],
    bound: bind.Bound,
    data: Dataset,
    changes: Mapping[str, Sequence[float]],
) -> Any:
    """`one` of every seed and setting of a method, as one compiled program: leaves [S, H, ...].

    Args:
      one: (key, hyper, data, clients) -> arrays, of one run.
      bound: the method on its task.
      data: the rows.
      changes: number -> its value in every setting [H]; none: as it is, H = 1.
    """
    count = len(next(iter(changes.values()), (0,)))
    hyper = jax.tree.map(lambda x: jnp.full(count, x, jnp.float32), bound.hyper)
    hyper |= {k: jnp.asarray(v, jnp.float32) for k, v in changes.items()}
    keys = jax.vmap(jax.random.key)(jnp.asarray(bound.seeds, jnp.uint32))
    grid = jax.jit(lambda *args: grid_lib.grid(one, *args, width=1))
    return jax.device_get(grid(keys, hyper, data, bound.task.clients))


# ---------------------------------------------------------------- tables


def over_seeds(
    frame: pl.DataFrame, keys: Sequence[str], values: Mapping[str, tuple[str, float, int]]
) -> pl.DataFrame:
    """Mean ± sample deviation over seeds as text; undefined values leave the mean and are counted.

    Args:
      frame: a row per seed.
      keys: columns that tell the cells apart; the rows are sorted by their values' appearance.
      values: column -> (header, factor, digits).
    """
    order = {key: frame[key].unique(maintain_order=True).to_list() for key in keys}
    groups = sorted(
        frame.group_by(*keys, maintain_order=True),
        key=lambda group: [order[k].index(v) for k, v in zip(keys, group[0], strict=True)],
    )
    rows = []
    for key, own in groups:
        row = dict(zip(keys, map(str, key), strict=True))
        for column, (header, factor, digits) in values.items():
            row[header] = spread(own[column].to_list(), factor, digits)
        rows.append(row)
    return pl.DataFrame(rows)


def spread(
    values: Sequence[float | None], factor: float = 1.0, digits: int = 1, aside: str = "sd"
) -> str:
    """`mean ± sd` over seeds, as the tables of a run say it; an en dash where none is defined."""
    known = np.array([factor * v for v in values if v is not None and np.isfinite(v)])
    if not known.size:
        return "–"
    low, high, sd = [*metrics.interval(known), known.std(ddof=1)] if known.size > 1 else [None] * 3
    row = {"x": known.mean(), "x_sd": sd, "x_low": low, "x_high": high, "x_seeds": known.size}
    column = tables.over_seeds("", "x", 1, digits, aside)
    return column.text(row | {"seeds": len(values)})


def interval(values: Sequence[float | None], digits: int = 0) -> str:
    """`mean [low, high]`: the 95 % bootstrap interval of the mean over seeds."""
    return spread(values, 1, digits, "interval")


def whole(value: float | None, factor: float = 1, digits: int = 0) -> str:
    """A number of one run, "undefined" where it has none."""
    return "undefined" if value is None else tables.number(value, factor, digits)


def ranged(values: pl.Series) -> str:
    """`mean (least to greatest)` of what is defined."""
    known = values.drop_nulls()
    if not len(known):
        return "undefined"
    return f"{whole(known.mean())} ({whole(known.min())} to {whole(known.max())})"


def paired(frame: pl.DataFrame, by: str, one: str, other: str, column: str) -> np.ndarray:
    """Differences [S] of a column between two values of `by`, seed by seed; NaN where undefined."""
    wide = frame.pivot(by, index="seed", values=column)
    return (wide[one] - wide[other]).cast(pl.Float64).fill_null(np.nan).to_numpy()


@functools.cache
def _environment() -> Mapping[str, Any]:
    """It does not change while a script runs."""
    return environment.environment()


def provenance(seeds: Sequence[int] | int | None = None) -> str:
    """Device, versions and seeds in one line."""
    found = _environment()
    versions = found["versions"]
    device = f"{found['device']['count']} x {found['device']['kind']}"
    line = f"{device}, Python {versions['python']}, jax {versions['jax']}"
    line += f", flax {versions['flax']}, optax {versions['optax']}"
    if seeds is not None:
        numbers = range(seeds) if isinstance(seeds, int) else seeds
        line += f"; seeds {', '.join(map(str, numbers))}"
    return line


# ---------------------------------------------------------------- files


def report(
    what: Asked,
    title: str,
    sections: Sequence[tuple[str, pl.DataFrame | str]],
    data: pl.DataFrame,
    figure: Figure,
    note: str,
) -> None:
    """Prints the tables and writes the three files.

    Args:
      what: the command line.
      title: one sentence, the heading.
      sections: (heading, frame of texts and numbers, or a paragraph).
      data: tidy numbers behind it.
      figure: the picture.
      note: device, versions and seeds, see `provenance`.
    """
    lines = [f"# {title}", "", f"`python -m experiments.{what.item} --scale {what.scale}`", ""]
    for heading, body in sections:
        lines += [f"## {heading}", ""] if heading else []
        lines += [body if isinstance(body, str) else tables.markdown(body), ""]
    lines += [note, ""]
    text = "\n".join(lines)
    print(text)
    stem = what.out / f"{what.item}-{what.scale}"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    data.write_parquet(stem.with_suffix(".parquet"), compression="zstd")
    save(what, figure)


def save(what: Asked, figure: Figure, part: str = "") -> None:
    """Writes `<item>-<scale>.png`; a further figure of the item is called `<item>_<part>-...`."""
    name = f"{what.item}_{part}" if part else what.item
    with matplotlib.rc_context({"svg.hashsalt": "cgsv"}):
        file = what.out / f"{name}-{what.scale}.png"
        figure.savefig(file, dpi=130, metadata=figures.METADATA["png"])


def panels(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Figure, Any]:
    """A figure without global state and its axes [rows, columns], spines at left and bottom."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        plain(axes)
    return figure, grid


def written_map(
    axes: Axes,
    values: np.ndarray,
    text: Callable[[float], str],
    dark: Callable[[float], bool],
    size: int = 7,
    **image: Any,
) -> AxesImage:
    """A map [rows, columns] with its values in the cells; what is no number is left empty.

    Args:
      axes: to draw on; its grid goes.
      values: of the cells.
      text: what stands in a cell.
      dark: whether a cell is so dark that it is written in white.
      size: of the letters.
      **image: colours and limits, as `imshow` takes them.
    """
    drawn = axes.imshow(values, aspect="auto", **image)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                *(column, row, text(value)),
                **{"ha": "center", "va": "center", "fontsize": size},
                color="white" if dark(value) else "black",
            )
    axes.grid(visible=False)
    return drawn


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """One legend for all panels, below them, where it covers nothing."""
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )


def plain(axes: Axes) -> None:
    """No box, small ticks, a light grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def style(place: int) -> dict[str, Any]:
    """Colour and marker of the place-th line."""
    return {
        "color": figures.CYCLE[place % len(figures.CYCLE)],
        "marker": figures.MARKERS[(place + place // len(figures.CYCLE)) % len(figures.MARKERS)],
        "markersize": 4,
        "linewidth": 1.3,
    }
