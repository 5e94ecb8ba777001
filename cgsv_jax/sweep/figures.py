"""Figures of a sweep, from its tables: a map per swept pair, a line for a single swept option."""

import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cgsv_jax.core import metrics
from cgsv_jax.host import files
from cgsv_jax.host.files import Path
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import figures as figures_lib
from cgsv_jax.sweep import points as points_lib
from cgsv_jax.sweep import results as sweep_results

_MAP = "cividis"
_LABELS = {"fairness": "fairness", "mean_gain": "mean gain, points"}
WORDS = 6  # values of an axis up to which a cell of a map has room for its number
FLAT = 10.0  # points that the colours span at least: a difference within noise has no colour
MAPPED = 12  # values of an axis up to which a pair is a map; beyond, points


def draw(
    table: pl.DataFrame,
    axes: Mapping[str, Sequence[Any]],
    criterion: str,
    best: Mapping[str, Any] | None,
    folder: pathlib.Path,
    formats: Sequence[str] = ("png",),
    missing: bool = False,
) -> list[pathlib.Path]:
    """Draws the criterion over what was swept, a panel per method and partition.

    Args:
      table: `sweep.parquet`, see results.frame.
      axes: swept name -> its values.
      criterion: a column.
      best: swept values of the best point and its `method`, marked in the maps.
      folder: where the files go.
      formats: of directory.FIGURE_FORMATS.
      missing: leave those that are there.

    Returns:
      The files written: `pair-<name>-<name>`, or `line-<name>` where one option is swept.
    """
    compared = sweep_results.compared(table)
    names = [name for name in axes if name in compared.columns and compared[name].n_unique() > 1]
    figures = {}
    if len(names) == 1:
        figures = {f"line-{names[0]}": functools.partial(line, compared, names[0], criterion)}
    for x, y in itertools.combinations(names, 2):
        others = [name for name in names if name not in (x, y)]
        figures[f"pair-{x}-{y}"] = functools.partial(pair, compared, x, y, criterion, best, others)
    return figures_lib.save(figures, folder, formats, folder.parent, missing)


def again(
    directory: Path,
    folder: Path | None = None,
    missing: bool = False,
    formats: Sequence[str] = ("png",),
) -> list[pathlib.Path]:
    """The figures of a finished sweep, from its directory.

    Args:
      directory: the sweep's.
      folder: where the files go; default: the sweep's own.
      missing: leave those that are there.
      formats: of directory.FIGURE_FORMATS.

    Raises:
      ValueError: when it is none, or a file is damaged, or of another one.
    """
    config, table, _ = sweep_results.read(directory)
    sweep = points_lib.outline(config)
    _, best = sweep_results.ranked(table, sweep.axes, sweep.best)
    folder = pathlib.Path(folder or files.inside(directory, directory_lib.FIGURES))
    return draw(table, sweep.axes, sweep.best, best, folder, formats, missing)


def pair(
    compared: pl.DataFrame,
    x: str,
    y: str,
    criterion: str,
    best: Mapping[str, Any] | None,
    others: Sequence[str] = (),
) -> Figure:
    """The criterion over two swept options: means ± deviations over seeds and what else is swept.

    The colours span what the criterion could be, or ten points at least: what is within noise has
    one colour.
    """
    factor = _factor(criterion)
    cells = compared.group_by("method", "partition", x, y, maintain_order=True).agg(
        (factor * pl.col(criterion)).mean().alias("mean"),
        (factor * pl.col(criterion)).std().alias("sd"),
        pl.len().alias("count"),
    )
    wide, high = (cells[name].n_unique() for name in (x, y))
    # Points that were drawn lie anywhere; a map of them would be mostly holes.
    grid_of = cells.select(x, y).n_unique() == wide * high
    scattered = not grid_of or max(wide, high) > MAPPED
    panels = cells.select("method", "partition").unique(maintain_order=True).rows()
    figure, grid = _panels(panels, compared, criterion, others)
    draw_one = _points if scattered else _map
    for axes, (method, partition) in zip(grid, panels, strict=True):
        own = cells.filter(method=method, partition=partition)
        known = own["mean"].drop_nulls()
        # Partitions differ more than points do, so that each has its own colours.
        ends = known.to_numpy() if len(known) else np.array([0.0, 1.0])
        low, high = float(ends.min()), float(ends.max())
        if criterion == "fairness":
            low, high = (-100.0 if low < 0 else 0.0), 100.0
        room = max(0.0, (FLAT - (high - low)) / 2)
        limits = {"vmin": low - room, "vmax": high + room}
        marked = best if best is not None and best["method"] == method else None
        shown = draw_one(axes, own, x, y, limits, marked)
        axes.set_xlabel(_words(x))
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(_words(y))
        bar = figure.colorbar(shown, ax=axes, pad=0.02, aspect=25)
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(5)
        formatter: Any = bar.formatter
        formatter.set_useOffset(False)
        bar.ax.tick_params(labelsize=7)
        bar.update_ticks()
    return figure


def _map(
    axes: Axes,
    own: pl.DataFrame,
    x: str,
    y: str,
    limits: Mapping[str, Any],
    best: Mapping[str, Any] | None,
) -> Any:
    columns, rows = (_ordered(own[name]) for name in (x, y))
    values, deviations = np.full((2, len(rows), len(columns)), np.nan)
    for row in own.iter_rows(named=True):
        place = rows.index(row[y]), columns.index(row[x])
        if row["mean"] is not None:
            values[place] = row["mean"]
        if row["sd"] is not None:
            deviations[place] = row["sd"]
    colormap = colormaps[_MAP].with_extremes(bad="#eeeeee")
    image = axes.imshow(values, cmap=colormap, origin="lower", aspect="auto", **limits)
    if max(len(rows), len(columns)) <= WORDS:
        middle = (limits["vmin"] + limits["vmax"]) / 2
        for (row, column), value in np.ndenumerate(values):
            text = "undefined" if np.isnan(value) else f"{value:.1f}"
            if not np.isnan(deviations[row, column]):
                text += f"\n± {deviations[row, column]:.1f}"
            dark = np.isnan(value) or value > middle
            style = {"ha": "center", "va": "center", "fontsize": 6 if np.isnan(value) else 8}
            axes.text(column, row, text, color="black" if dark else "white", **style)
    if best is not None and x in best and y in best:
        place = columns.index(best[x]) - 0.5, rows.index(best[y]) - 0.5
        style = {"edgecolor": figures_lib.VERMILION, "facecolor": "none", "linewidth": 2}
        axes.add_patch(Rectangle(place, 1, 1, zorder=5, clip_on=False, **style))
    axes.set_xticks(range(len(columns)), [_text(value) for value in columns])
    axes.set_yticks(range(len(rows)), [_text(value) for value in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _points(
    axes: Axes,
    own: pl.DataFrame,
    x: str,
    y: str,
    limits: Mapping[str, Any],
    best: Mapping[str, Any] | None,
) -> Any:
    """Points that lie anywhere."""
    words = [name for name in (x, y) if not own[name].dtype.is_numeric()]
    own = own.with_columns(pl.col(name).cast(pl.String) for name in words)
    known = own.drop_nulls("mean")
    style: dict[str, Any] = {
        "cmap": colormaps[_MAP],
        "s": 34,
        "edgecolors": "white",
        "linewidths": 0.5,
    }
    points = axes.scatter(known[x], known[y], c=known["mean"], **style, **limits)
    unknown = own.filter(pl.col("mean").is_null())
    axes.scatter(unknown[x], unknown[y], marker="x", s=20, color=figures_lib.GREY, linewidths=0.8)
    if best is not None and x in best and y in best:
        ring = {
            "s": 120,
            "facecolors": "none",
            "edgecolors": figures_lib.VERMILION,
            "linewidths": 1.8,
        }
        place = [str(best[name]) if name in words else best[name] for name in (x, y)]
        if known.filter(pl.col(x) == place[0], pl.col(y) == place[1]).height:
            axes.scatter([place[0]], [place[1]], **ring)
    for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
        _scale(axis, own[name])
    return points


def line(compared: pl.DataFrame, name: str, criterion: str) -> Figure:
    """The criterion over one swept option, a line per partition: 95 % intervals over runs."""
    factor = _factor(criterion)
    methods = compared["method"].unique(maintain_order=True).to_list()
    partitions = compared["partition"].unique(maintain_order=True).to_list()
    figure, grid = _panels([(method, "") for method in methods], compared, criterion)
    values = _ordered(compared[name])
    number = compared[name].dtype.is_numeric()
    scattered = number and len(values) > MAPPED
    places = values if scattered else list(range(len(values)))
    for axes, method in zip(grid, methods, strict=True):
        for index, partition in enumerate(partitions):
            drawn, colour = [], figures_lib.CYCLE[index % len(figures_lib.CYCLE)]
            shift = 0 if scattered else 0.06 * index
            for place, value in zip(places, values, strict=True):
                own = compared.filter(pl.col(name) == value, method=method, partition=partition)
                known = (factor * own[criterion]).drop_nulls().to_numpy()
                if not len(known):  # at the foot, where no number can be mistaken for it
                    axes.text(
                        *(place + shift, 0.02, "undefined"),
                        transform=axes.get_xaxis_transform(),
                        **{"rotation": 90, "fontsize": 7, "ha": "center", "va": "bottom"},
                        color=colour,
                    )
                    continue
                mean, (low, high) = known.mean(), metrics.interval(known)
                low, high = (mean if np.isnan(v) else v for v in (low, high))
                drawn.append((place + shift, mean, low, high))
            if not drawn:
                continue
            x, mean, low, high = np.array(drawn).T
            axes.errorbar(
                *(x, mean),
                yerr=np.clip([mean - low, high - mean], 0, None),
                color=colour,
                marker=figures_lib.MARKERS[index % len(figures_lib.MARKERS)],
                linestyle="-" if number and not scattered else "",
                markersize=5,
                capsize=2.5,
                linewidth=1.2,
                label=partition,
            )
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(_words(name))
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(_label(criterion))
        if scattered:
            _scale(axes.xaxis, compared[name])
        else:
            axes.set_xticks(places, [_text(value) for value in values])
            axes.set_xlim(-0.5, len(places) - 0.3)
    handles, labels = grid[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8
        )
    return figure


# ---------------------------------------------------------------- shared parts


def _panels(
    panels: Sequence[tuple[str, str]],
    compared: pl.DataFrame,
    criterion: str,
    others: Sequence[str] = (),
) -> tuple[Figure, list[Axes]]:
    columns = figures_lib.columns_of(len(panels))
    rows = -(-len(panels) // columns)
    width, height = 3.6, 3.1
    size = (max(width * columns, 4.6) + 1.1, height * rows + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    means = [sweep_results.over(compared), *map(_words, others)]
    over = " and ".join(filter(None, means))
    over = f", mean over {over}" if over else ""
    figure.suptitle(f"{_label(criterion).capitalize()}{over}", fontsize=11)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (method, partition) in zip(grid, panels, strict=False):
        axes.set_title(", ".join(filter(None, (method, partition))), fontsize=10)
        axes.tick_params(labelsize=8)
    return figure, grid[: len(panels)]


def _ordered(values: pl.Series) -> list:
    """Numbers by size, words as they came."""
    own = values.unique(maintain_order=True).to_list()
    return sorted(own) if values.dtype.is_numeric() else own


def _scale(axis: Any, values: pl.Series) -> None:
    """Logarithmic where positive numbers span more than a decade."""
    if not values.dtype.is_numeric():
        return
    low, high = values.to_numpy().min(), values.to_numpy().max()
    if low > 0 and high >= 10 * low:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _factor(criterion: str) -> float:
    return 1.0 if criterion == "fairness" else 100.0


def _label(criterion: str) -> str:
    return _LABELS.get(criterion, f"{_words(criterion)}, %")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
