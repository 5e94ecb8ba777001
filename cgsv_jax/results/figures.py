"""Figures from run directories; nothing is trained here.

Matplotlib's object interface throughout: no display, equal runs give equal bytes, whatever the
user's own settings are.
"""

import contextlib
import functools
import io
import os
import pathlib
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib import cm, colormaps, colors, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cgsv_jax.host import files
from cgsv_jax.results import differences, directory, frames, tables

Path = str | os.PathLike[str]

# Okabe and Ito's colours, told apart with every common colour blindness.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
)
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK)
GREY = "#666666"
SHADE = "#eeeeee"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LINES = 30  # clients drawn as a line each; more become bands of quantiles
BANDS = ((0.05, 0.95, "5 to 95 %"), (0.25, 0.75, "25 to 75 %"))
COLUMNS = 3  # panels in a row
PANEL = (3.5, 3.0)  # inches
DPI = 150
MOST = 500  # panels of a kind, of all partitions and methods of a run
# What a file says of itself besides the drawing: no version, no date.
METADATA = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}

_PERCENT = FuncFormatter(lambda value, place: f"{100 * value:.5g}")


def draw(
    runs: Sequence[directory.Run | Path],
    out: Path | None = None,
    formats: Sequence[str] = ("png",),
    missing: bool = False,
) -> list[pathlib.Path]:
    """Draws six figures per partition of every run, and a comparison where there are several.

    Args:
      runs: run directories, read or by path.
      out: where the figures go, one run's directly, several runs' in a folder each; default: the
        folder `figures` of each run.
      formats: of directory.FIGURE_FORMATS.
      missing: leave those that are there.

    Returns:
      The files written.

    Raises:
      ValueError: when there is no run, a run cannot be read, a format is unknown, or `out` is
        needed and missing.
      OSError: when a folder cannot be written to.
    """
    known_formats(formats)
    if not runs:
        raise ValueError("no run directory is given, at least one is needed")
    read = [run if isinstance(run, directory.Run) else directory.read(run) for run in runs]
    if out is not None:
        whole = files.path_of(out, "--out")
    elif len(read) > 1 or read[0].directory is None:
        raise ValueError("--out is missing, it must name a folder when several runs are compared")
    else:
        whole = files.inside(read[0].directory, directory.FIGURES)
    labels = differences.names([run.directory for run in read])
    written: list[pathlib.Path] = []
    for run, label in zip(read, labels, strict=True):
        folder = files.inside(whole, label) if len(read) > 1 else whole
        cells = run.summary.select("partition", "method").n_unique()
        if cells > MOST:
            raise ValueError(f"{run.directory} holds {cells:,} methods, {MOST} are drawn")
        written += save(_drawings(run), folder, formats, run.directory or "the run", missing)
    if len(read) > 1:
        configs = [run.config for run in read]
        figure = functools.partial(
            comparison,
            [run.summary for run in read],
            differences.labels(configs, labels),
            [str(config.get("dataset", "")) for config in configs],
            differences.sentence(configs),
        )
        written += save({"comparison": figure}, whole, formats, "the comparison")
    return written


def known_formats(formats: Sequence[str]) -> Sequence[str]:
    """The formats themselves.

    Raises:
      ValueError: there is none, or one is none of directory.FIGURE_FORMATS.
    """
    unknown = [name for name in formats if name not in directory.FIGURE_FORMATS]
    if unknown or not formats:
        allowed = ", ".join(directory.FIGURE_FORMATS)
        raise ValueError(f"--format is {','.join(formats)!r}, it must be of {allowed}")
    return formats


def made(run: directory.Run) -> dict[str, Figure]:
    """The figures of a run, by the names that `draw` gives their files."""
    with _fixed():
        return {name: drawn() for name, drawn in _drawings(run).items()}


def _drawings(run: directory.Run) -> dict[str, Callable[[], Figure]]:
    return {
        f"{kind}-{partition}": functools.partial(figure, run, partition)
        for partition in run.summary["partition"].unique(maintain_order=True)
        for kind, figure in KINDS.items()
        if figure is not holdings or partition in set(run.holdings["partition"])
    }


# ---------------------------------------------------------------- one figure each


def accuracy(run: directory.Run, partition: str) -> Figure:
    """Test accuracy of every client over rounds, a panel per method; the server dashed.

    What the first and the last client end with stands beside their lines: where these coincide, one
    number says so.
    """

    def server(axes: Axes, own: pl.DataFrame) -> list[Line2D]:
        mean = own.group_by("round").agg(pl.col("server_accuracy").mean()).sort("round")
        mean = mean.drop_nulls()
        style = {"color": VERMILION, "linestyle": (0, (4, 2)), "linewidth": 1.6, "zorder": 5}
        style |= _dotted(len(mean))
        return axes.plot(mean["round"], mean["server_accuracy"], label="server", **style)

    figure, panels = _over_rounds(run, partition, "accuracy", "test accuracy, %", extra=server)
    for axes in panels:
        axes.yaxis.set_major_formatter(_PERCENT)
    return figure


def reputation(run: directory.Run, partition: str) -> Figure:
    """Reputation of every client over rounds, a panel per method whose reputations change."""
    number = run.clients.filter(partition=partition)["client"].n_unique()

    def equal(axes: Axes, own: pl.DataFrame) -> list[Line2D]:
        style = {"color": GREY, "linestyle": (0, (1, 2)), "linewidth": 1.2, "zorder": 5}
        return [axes.axhline(1 / number, label="1 / number of clients", **style)]

    figure, _ = _over_rounds(run, partition, "reputation", "reputation (sums to 1)", extra=equal)
    return figure


def share(run: directory.Run, partition: str) -> Figure:
    """Share of the aggregate's entries that clients received, a panel per method that varies it."""
    figure, panels = _over_rounds(run, partition, "share", "share of entries received, %")
    for axes in panels:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(_PERCENT)
    return figure


def fairness(run: directory.Run, partition: str) -> Figure:
    """Accuracy alone against accuracy at the end, a panel per method, fairness in its title."""
    _, clients, _, over = _of(run, partition)
    summary = run.summary.filter(partition=partition)
    means = frames.fairness_table(summary)
    methods, doubts = _defined(means, _methods(clients))
    figure, panels = _panels(len(methods), title=f"Alone and together, {partition}", square=True)
    scale = _scale(clients)
    known = clients.filter(pl.col("standalone_accuracy").is_not_null()).filter(
        pl.col("method").is_in(methods)
    )
    low, high = _limits([*known["standalone_accuracy"], *known["accuracy"].drop_nulls()])
    for axes, method in zip(panels, methods, strict=True):
        own = clients.filter(method=method).drop_nulls(["standalone_accuracy", "accuracy"])
        row = means.row(by_predicate=pl.col("method") == method, named=True)
        doubts += _doubts(row)
        axes.set_title(f"{_wrapped(method)}\n{_fairness_text(row)}", fontsize=10)
        axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        _against_alone(axes, own, scale)
        axes.set(xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(_PERCENT)
        axes.set_xlabel("standalone test accuracy, %")
    _label_left(panels, "final test accuracy, %")
    label = f"client, mean over {over}" if over else "client"
    handles = [
        Line2D([], [], color=GREY, linestyle=(0, (1, 2)), label="no gain"),
        Line2D([], [], color=GREY, marker="o", linestyle="", label=label),
    ]
    if over and clients["client"].n_unique() <= LINES:
        bars = Line2D([], [], color=GREY, marker="|", label=f"± standard deviation over {over}")
        handles.append(bars)
    _legend(figure, handles)
    _held_bar(figure, panels, scale)
    _explain(figure, doubts)
    return figure


def fairness_rounds(run: directory.Run, partition: str) -> Figure:
    """Fairness over rounds, by accuracy and by loss, a panel per method; mean accuracy under it.

    A thin line is a run, a thick one the mean over the runs in which it is defined; a gap is where
    it is undefined. The last quarter of the evaluations is shaded.
    """
    course = run.fairness.filter(partition=partition)
    means = frames.fairness_table(run.summary.filter(partition=partition))
    ever = course.drop_nulls("fairness")["method"].unique()
    methods, doubts = _defined(means, _methods(course), set(ever))
    alone = frames.while_all_run(course.filter(method=frames.YARDSTICK))
    columns = columns_of(len(methods))
    rows = -(-len(methods) // columns)
    width, height = PANEL
    size = max(width * columns, 4.6) + 0.6, (height + 0.9) * rows + 0.7
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Fairness over rounds, {partition}", fontsize=11)
    ratios = [2.0, 1.0] * rows
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=ratios, sharex=True)
    uppers, lowers = (list(grid[place::2].flat) for place in (0, 1))
    for axes in (*uppers[len(methods) :], *lowers[len(methods) :]):
        axes.remove()
    uppers, lowers = uppers[: len(methods)], lowers[: len(methods)]
    last = course["round"].to_numpy().max()
    # The upper one is thinner: where they agree, both are seen.
    lines = {
        "fairness_by_loss": ("by loss", ORANGE, 2.4),
        "fairness": ("by accuracy", BLUE, 1.3),
    }
    for upper, lower, method in zip(uppers, lowers, methods, strict=True):
        own = course.filter(method=method)
        row = means.row(by_predicate=pl.col("method") == method, named=True)
        doubts += _doubts(row)
        upper.set_title(f"{_wrapped(method)}\n{_fairness_text(row)}", fontsize=10)
        upper.axhline(0, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        for name, (_, colour, wide) in lines.items():
            _runs(upper, own, name, colour, wide)
        _runs(lower, own, "mean_accuracy", BLACK, 1.6)
        if method != frames.YARDSTICK and len(alone):
            mean = alone.group_by("round").agg(pl.col("mean_accuracy").mean()).sort("round")
            style = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 1.2}
            lower.plot(mean["round"], mean["mean_accuracy"], **_dotted(len(mean)), **style)
        for axes in (upper, lower):
            _plain(axes)
            _shade(axes, own["round"].unique().sort().to_numpy())
            axes.set_xlim(0, last + max(0.01 * last, 0.3))
        upper.set_ylim(-108, 108)
        upper.set_yticks(range(-100, 101, 50))
        upper.tick_params(labelbottom=False)
        lower.tick_params(labelbottom=True)
        lower.set_xlabel("round")
        lower.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        lower.yaxis.set_major_formatter(_PERCENT)
    for axes in lowers[1:]:
        axes.sharey(lowers[0])
    lowers[0].autoscale(axis="y")
    _label_left(uppers, "fairness")
    _label_left(lowers, "accuracy, %")
    figure.align_ylabels()
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, label=label, linewidth=wide)
        for label, colour, wide in lines.values()
    ]
    handles.append(Line2D([], [], color=BLACK, label="mean accuracy", linewidth=1.6))
    if len(alone) and frames.YARDSTICK not in methods:
        style = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 1.2}
        handles.append(Line2D([], [], label=frames.YARDSTICK, **style))
    handles.append(Patch(color=SHADE, label="last quarter of the evaluations"))
    _legend(figure, handles)
    _explain(figure, doubts)
    return figure


def _runs(axes: Axes, own: pl.DataFrame, name: str, colour: str, wide: float) -> None:
    """`name` over the evaluations of every run, and its mean over the runs that have a value."""
    rounds = own["round"].unique().sort()
    runs = own.partition_by("partition_seed", "seed", maintain_order=True)

    def line(values: pl.DataFrame, **style: Any) -> None:
        y = rounds.to_frame().join(values, on="round", how="left", maintain_order="left")
        y = y[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        axes.plot(rounds, y, color=colour, **style)
        # A line through one point is invisible.
        gap = np.r_[True, np.isnan(y), True]
        lonely = ~np.isnan(y) & gap[:-2] & gap[2:]
        axes.plot(rounds.to_numpy()[lonely], y[lonely], "o", color=colour, markersize=3, **style)

    if len(runs) > 1:
        for run in runs:
            line(run.select("round", name), alpha=0.35, linewidth=0.7)
    shared = frames.while_all_run(own)
    mean = shared.group_by("round").agg(pl.col(name).cast(pl.Float64).mean())
    line(mean, linewidth=wide)


def _shade(axes: Axes, rounds: np.ndarray) -> None:
    """The last quarter of the evaluations, from halfway to the one before."""
    late = frames.late_evaluations(len(rounds))
    if late < len(rounds):
        begin = (rounds[-late] + rounds[-late - 1]) / 2
        axes.axvspan(begin, rounds[-1], color=SHADE, linewidth=0, zorder=0)


def comparison(
    summaries: Sequence[pl.DataFrame],
    labels: Sequence[str],
    datasets: Sequence[str] = (),
    note: str = "",
) -> Figure:
    """Fairness and mean accuracy of several runs side by side, those on one data set in one panel.

    Args:
      summaries: one per run, frames.SUMMARY_COLUMNS.
      labels: one per run, all different.
      datasets: one per run; (): all are on the same.
      note: what differs between the runs, under the title.
    """
    mixed = len(set(datasets)) > 1
    if mixed:
        summaries = [
            summary.with_columns(pl.format("{}, {}", pl.lit(name), "partition").alias("partition"))
            for summary, name in zip(summaries, datasets, strict=True)
        ]
    means = [frames.fairness_table(summary) for summary in summaries]
    every = pl.concat([table.select("partition", "method") for table in means]).unique(
        maintain_order=True
    )
    partitions = every["partition"].unique(maintain_order=True).to_list()
    methods = every["method"].unique(maintain_order=True).to_list()
    columns = (
        ("fairness", "fairness\n(100 × Pearson)", 1.0),
        ("mean_accuracy", "mean test accuracy, %", 100.0),
    )
    width = max(3.6, 0.9 + len(methods) * (0.35 + 0.33 * len(labels)))  # room for the numbers
    figure = Figure(
        figsize=(width * len(partitions) + 0.4, 2.6 * len(columns) + 0.6), layout="constrained"
    )
    FigureCanvasAgg(figure)
    share: Any = False if mixed else "row"  # accuracies of two data sets have no common scale
    grid = figure.subplots(len(columns), len(partitions), sharex="col", sharey=share, squeeze=False)
    slot, doubts = 0.7 / len(labels), list[str]()
    for place, partition in enumerate(partitions):
        for axes, (name, label, factor) in zip(grid[:, place], columns, strict=True):
            for index, table in enumerate(means):
                own = table.filter(partition=partition)
                offset = (index - (len(labels) - 1) / 2) * slot
                style = _style(index)
                for row in own.iter_rows(named=True):
                    x = methods.index(row["method"]) + offset
                    if row[name] is None:
                        # At the foot of the panel, where no number can be mistaken for it.
                        axes.text(
                            *(x, 0.02, _nothing(row["method"])),
                            transform=axes.get_xaxis_transform(),
                            rotation=90,
                            fontsize=7,
                            color=style["color"],
                            ha="center",
                            va="bottom",
                        )
                        continue
                    axes.errorbar(
                        *(x, factor * row[name], factor * (row[f"{name}_sd"] or 0)),
                        **style,
                        markersize=5,
                        capsize=2.5,
                        linewidth=1.2,
                    )
                    y, text = factor * row[name], tables.number(row[name], factor)
                    if name == "fairness":
                        text = tables.fairness_text(row, with_interval=False)
                        doubts += _doubts(row)
                    axes.annotate(
                        *(text, (x, min(y + factor * (row[f"{name}_sd"] or 0), 100)), (0, 5)),
                        textcoords="offset points",
                        fontsize=7,
                        ha="center",
                        color=style["color"],
                    )
            axes.margins(y=0.15)
            if name == "fairness":
                axes.set_ylim(-108, 125)  # with room for a number over 100
            axes.set_xlim(-0.6, len(methods) - 0.4)
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
            _plain(axes)
            if place == 0:
                axes.set_ylabel(label)
        grid[0, place].set_title(partition, fontsize=10)
        grid[-1, place].set_xticks(range(len(methods)), methods, rotation=20, ha="right")
    handles = [
        Line2D([], [], linestyle="", label=label, **_style(index))
        for index, label in enumerate(labels)
    ]
    drawn = any(summary["partition_seed"].n_unique() > 1 for summary in summaries)
    over = "seeds and draws" if drawn else "seeds"
    figure.suptitle(f"Mean ± standard deviation over {over}", fontsize=11)
    _legend(figure, handles)
    _explain(figure, [*([note] if note else []), *doubts])
    return figure


def holdings(run: directory.Run, partition: str) -> Figure:
    """Who holds what: rows of every client by class, a panel per draw of the partition.

    With few clients and classes every number is written out; a client that cheats is named so.
    """
    held = run.holdings.filter(partition=partition)
    draws = held["partition_seed"].unique().sort().to_list()[:COLUMNS]
    own = run.clients.filter(partition=partition)
    clients = own["client"].to_numpy().max() + 1
    labels = held["label"].to_numpy().max() + 1
    # A place for every client and class, as far as they can be told apart.
    height = np.clip(0.22 * clients, 1.6, 6.0)
    width = np.clip(0.42 * labels, 2.2, 6.0)
    figure = Figure(figsize=(width * len(draws) + 2.2, height + 1.4), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(f"Who holds what, {partition}: rows of every class", fontsize=11)
    panels = list(figure.subplots(1, len(draws), squeeze=False, sharey=True).flat)
    colormap = colors.ListedColormap(colormaps["cividis"](np.linspace(0.95, 0.0, 256)))
    colormap = colormap.with_extremes(bad="white")
    norm = colors.Normalize(0, held["rows"].to_numpy().max())
    written = clients <= LINES and labels <= 20
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}
    for axes, draw in zip(panels, draws, strict=True):
        table = np.zeros((clients, labels), int)
        rows = held.filter(partition_seed=draw)
        table[rows["client"], rows["label"]] = rows["rows"]
        shown = np.ma.masked_equal(table, 0)
        axes.imshow(shown, cmap=colormap, norm=norm, aspect="auto", interpolation="nearest")
        for client, label in zip(*np.nonzero(table), strict=True) if written else ():
            count = table[client, label]
            colour = "white" if norm(count) > 0.5 else "black"
            axes.text(label, client, f"{count}", color=colour, **style)
        axes.set_xlabel("class")
        axes.tick_params(labelsize=8, length=0)
        axes.spines[:].set_color("#dddddd")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        if labels <= 20:
            axes.set_xticks(range(labels))
        if len(draws) > 1:
            axes.set_title(f"draw {draw}", fontsize=10)
    panels[0].set_ylabel("client")
    if clients <= LINES:
        drawn = own.filter(partition_seed=draws[0]).unique("client").sort("client")
        cheats = dict(drawn.select("client", "attack").iter_rows())
        alike = len(draws) == 1  # others cheat in other draws
        names = [f"{c} {cheats.get(c) or ''}".strip() if alike else f"{c}" for c in range(clients)]
        panels[0].set_yticks(range(clients), names)
    _colour_bar(figure, panels, cm.ScalarMappable(norm, colormap), "rows held; white: none")
    return figure


# Named as in directory.FIGURE_KINDS: the file names of a run's figures begin with these.
KINDS: dict[str, Callable[[directory.Run, str], Figure]] = {
    "fairness_rounds": fairness_rounds,
    "accuracy": accuracy,
    "reputation": reputation,
    "fairness": fairness,
    "share": share,
    "holdings": holdings,
}


# ---------------------------------------------------------------- shared parts


def _of(run: directory.Run, partition: str) -> tuple[pl.DataFrame, pl.DataFrame, str, str]:
    """Rounds and clients of a partition, and what a mean of a client is over, at length and short.

    Clients of several draws of the partition that have no more in common than their number (see
    `frames.told_apart`) get other numbers, so that no line is a mean of a rich and a poor one.
    """
    rounds, clients = (x.filter(partition=partition) for x in (run.rounds, run.clients))
    rounds = frames.while_all_run(rounds)
    apart = len(frames.told_apart(clients)) > 1
    draws = clients["partition_seed"].n_unique()
    text = frames.over(clients, draws=not apart)
    note = f", mean over {text}" if text else ""
    kinds = {"seeds": clients["seed"].n_unique(), "draws": 1 if apart else draws}
    if apart:
        number = clients["client"].to_numpy().max() + 1
        own = pl.col("partition_seed") * number + pl.col("client")
        rounds, clients = (x.with_columns(client=own) for x in (rounds, clients))
        note = f", clients of {draws} draws{note}"
    return rounds, clients, note, " and ".join(name for name, n in kinds.items() if n > 1)


class _Scale(NamedTuple):
    """Colour by what a client holds; those that hold most are darkest."""

    column: str  # of the clients' table: rows, or classes where all hold equally many rows
    norm: colors.Normalize
    colormap: colors.Colormap
    even: bool  # all clients hold the same

    def colour(self, held: float) -> tuple[float, ...]:
        return self.colormap(self.norm(held))


def _scale(clients: pl.DataFrame) -> _Scale:
    even = {column: clients[column].n_unique() == 1 for column in ("rows", "classes")}
    column = "classes" if even["rows"] and not even["classes"] else "rows"
    held = clients[column].to_numpy()
    low, high = int(held.min()), int(held.max())
    # The pale end of the map is cut off: it does not show on white.
    colormap = colors.ListedColormap(colormaps["cividis"](np.linspace(0.9, 0.0, 256)))
    norm = colors.Normalize(low, max(high, low + 1))
    return _Scale(column, norm, colormap, all(even.values()))


def _held_bar(figure: Figure, panels: Sequence[Axes], scale: _Scale) -> None:
    mappable = cm.ScalarMappable(scale.norm, scale.colormap)
    _colour_bar(figure, panels, mappable, f"{scale.column} held")


def _colour_bar(
    figure: Figure, panels: Sequence[Axes], mappable: cm.ScalarMappable, label: str
) -> None:
    bar = figure.colorbar(mappable, ax=list(panels), pad=0.015, aspect=30)
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(5, integer=True)
    bar.ax.tick_params(labelsize=8)
    bar.update_ticks()


def _over_rounds(
    run: directory.Run,
    partition: str,
    column: str,
    label: str,
    extra: Callable[[Axes, pl.DataFrame], list[Line2D]] | None = None,
) -> tuple[Figure, list[Axes]]:
    """A panel per method: `column` of every client over rounds, means over seeds and draws.

    Of reputations and shares those that no round changes are a line of text under the title.
    Few clients are lines coloured by what they hold; many are the median, bands, and the means of
    the tenths that hold least and most.
    """
    rounds, clients, note, _ = _of(run, partition)
    still = {} if column == "accuracy" else _constant(rounds, column)
    methods = [method for method in _methods(rounds) if method not in still] or _methods(rounds)[:1]
    many = clients["client"].n_unique() > LINES
    scale = _scale(clients)
    titles = {"accuracy": "Test accuracy", "reputation": "Reputation", "share": "Entries received"}
    last = rounds["round"].to_numpy().max()
    figure, panels = _panels(len(methods), title=f"{titles[column]}, {partition}{note}")
    held = clients.group_by("client").agg(pl.col(scale.column).first()).sort(scale.column, "client")
    handles: list[Line2D | Patch] = []
    for axes, method in zip(panels, methods, strict=True):
        own = rounds.filter(method=method)
        mean = (
            own.group_by("client", "round")
            .agg(pl.col(column).cast(pl.Float64).mean())
            .drop_nulls()
            .sort("round", "client")
        )
        if many:
            handles = _bands(axes, mean, column)
            handles += [] if scale.even else _extremes(axes, mean, column, held, scale)
        else:
            for client, holds in held.iter_rows():
                line = mean.filter(client=client)
                style = {"color": scale.colour(holds), "linewidth": 1.3}
                axes.plot(line["round"], line[column], **_dotted(line["round"].len()), **style)
            handles = []
        handles += extra(axes, own) if extra else []
        if column == "accuracy":
            _ends(axes, mean)
        axes.set_title(_wrapped(method), fontsize=10)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlim(0, last + max(0.01 * last, 0.3))
    for axes in panels[1:]:
        axes.sharey(panels[0])
    panels[0].autoscale(axis="y")
    _label_left(panels, label)
    if not many:
        _held_bar(figure, panels, scale)
    if handles:
        _legend(figure, handles)
    said: dict[str, list[str]] = {}
    for method, text in still.items():
        said.setdefault(text, []).extend([method] if method not in methods else [])
    parts = [f"{', '.join(own)} {text}" for text, own in said.items() if own]
    _explain(figure, [f"the same in every round: {'; '.join(parts)}"] if parts else [])
    return figure, panels


def _constant(rounds: pl.DataFrame, column: str) -> dict[str, str]:
    """The methods under which no round changes a client's mean, and what that is.

    Shares that differ between clients are drawn all the same: who gets what is their point.
    """
    found = {}
    for (method,), own in rounds.group_by("method", maintain_order=True):
        means = own.group_by("client", "round").agg(pl.col(column).cast(pl.Float64).mean())
        spans = means.group_by("client").agg(
            (pl.col(column).max() - pl.col(column).min()).alias("span"), pl.col(column).first()
        )
        values = spans[column].drop_nulls()
        alike = column == "reputation" or values.n_unique() == 1
        if len(values) and alike and (spans["span"].drop_nulls() < 1e-6).all():
            ends = values.to_numpy().min(), values.to_numpy().max()
            ends = dict.fromkeys(f"{100 * end:.3g}" for end in ends)
            found[str(method)] = f"{' to '.join(ends)} %"
    return found


def _ends(axes: Axes, mean: pl.DataFrame) -> None:
    """The least and the most that a client ends with, beside the last round; one if they agree."""
    last = mean.group_by("client", maintain_order=True).agg(
        pl.col("round").last(), pl.col("accuracy").last()
    )
    if not len(last):
        return
    low, high = last["accuracy"].to_numpy().min(), last["accuracy"].to_numpy().max()
    texts = {f"{100 * high:.1f}": (high, "bottom"), f"{100 * low:.1f}": (low, "top")}
    for text, (y, side) in texts.items():
        place = (last["round"].to_numpy().max(), y)
        axes.annotate(
            *(text, place, (-1, 2 if side == "bottom" else -4)),
            textcoords="offset points",
            fontsize=7,
            ha="right",
            va=side,
            zorder=6,
        )


def _wrapped(name: str) -> str:
    """A name that may be long, as the title of a panel; it breaks before a choice if it can."""
    return textwrap.fill(name.replace(",", ", "), 40) if len(name) > 40 else name


def _bands(axes: Axes, mean: pl.DataFrame, column: str) -> list[Line2D | Patch]:
    """Median and quantiles over clients."""
    levels = sorted({0.5, *(level for low, high, _ in BANDS for level in (low, high))})
    table = (
        mean.group_by("round")
        .agg(pl.col(column).quantile(level, "linear").alias(str(level)) for level in levels)
        .sort("round")
    )
    handles: list[Line2D | Patch] = []
    for (low, high, name), alpha in zip(BANDS, (0.25, 0.45), strict=True):
        style = {"color": BLUE, "alpha": alpha, "linewidth": 0}
        axes.fill_between(table["round"], table[str(low)], table[str(high)], **style)
        handles.append(Patch(label=f"{name} of clients", **style))
    line = axes.plot(
        *(table["round"], table["0.5"]),
        **_dotted(len(table)),
        color=BLUE,
        linewidth=1.6,
        label="median client",
    )
    return [*line, *handles]


def _extremes(
    axes: Axes, mean: pl.DataFrame, column: str, held: pl.DataFrame, scale: _Scale
) -> list[Line2D]:
    """Means over the tenth of the clients that hold least and the tenth that hold most."""
    tenth = len(held) // 10
    groups = (("fewest", held["client"][:tenth], 0.0), ("most", held["client"][-tenth:], 1.0))
    handles = []
    for name, members, place in groups:
        line = mean.filter(pl.col("client").is_in(members.implode())).group_by("round")
        line = line.agg(pl.col(column).mean()).sort("round")
        label = f"mean of the tenth with {name} {scale.column}"
        style = {"color": scale.colormap(place), "linewidth": 1.4, "label": label}
        handles += axes.plot(line["round"], line[column], **_dotted(len(line)), **style)
    return handles


def _against_alone(axes: Axes, own: pl.DataFrame, scale: _Scale) -> None:
    """A point per client at its means, with its deviations where they can be read."""
    values = ("standalone_accuracy", "accuracy")
    points = (
        own.group_by("client")
        .agg(
            pl.col(scale.column).first(),
            *(pl.col(name).cast(pl.Float64).mean() for name in values),
            *(pl.col(name).cast(pl.Float64).std().alias(f"{name}_sd") for name in values),
        )
        .sort(scale.column, "client")
    )
    few = len(points) <= LINES
    if few:
        for row in points.iter_rows(named=True):
            axes.errorbar(
                *(row["standalone_accuracy"], row["accuracy"]),
                xerr=row["standalone_accuracy_sd"] or 0,
                yerr=row["accuracy_sd"] or 0,
                color=scale.colour(row[scale.column]),
                linewidth=0.9,
                zorder=2,
            )
    axes.scatter(
        *(points["standalone_accuracy"], points["accuracy"]),
        c=points[scale.column],
        cmap=scale.colormap,
        norm=scale.norm,
        s=26 if few else 7,
        linewidths=0.5 if few else 0,
        edgecolors="white",
        zorder=3,
    )


def _fairness_text(row: Mapping[str, Any]) -> str:
    if row["fairness"] is None:
        mark = tables.MARK if tables.unsettled(row) else ""
        return textwrap.fill(f"fairness undefined{mark}: {row['fairness_undefined'][:300]}", 38)
    text = f"fairness {tables.fairness_text(row)}"
    if row["fairness_seeds"] < row["seeds"]:
        text += f" ({row['fairness_seeds']} of {row['seeds']} {tables.unit(row)})"
    if row["accuracy_spread"] is not None:  # what the fairness rests on
        text += f"\nspread {tables.number(row['accuracy_spread'], 100)} points"
    return text


def _defined(
    means: pl.DataFrame, methods: Sequence[str], ever: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """The methods that a fairness is drawn of, and lines on those that have none.

    Args:
      means: `frames.fairness_table`.
      methods: all.
      ever: those whose fairness is defined at some evaluation.
    """
    judged = [method for method in methods if method != frames.YARDSTICK]
    known = {*means.drop_nulls("fairness")["method"], *ever}
    drawn = [method for method in judged if method in known]
    if not drawn:  # a figure of something, whose titles say why
        return judged or list(methods), []
    return drawn, tables.why_undefined(means.filter(~pl.col("method").is_in(drawn)))


def _doubts(row: Mapping[str, Any]) -> list[str]:
    """What the signs beside a fairness mean, of those that are there."""
    said = {  # shorter than below a table: there is less room
        tables.BOTH: "its interval contains both signs",
        tables.MARK: "its sign changes over the last quarter, or it is lost there",
        tables.ORACLE: "oracle, an input is the standalone accuracy: fair by construction in part",
    }
    return [f"{sign} {said[sign]}" for sign in tables.signs(row)]


def _explain(figure: Figure, doubts: Sequence[str]) -> None:
    if doubts:
        wide = max(40, int(12 * figure.get_figwidth()))  # characters of a line
        lines = (textwrap.fill(line, wide) for line in dict.fromkeys(doubts))
        figure.suptitle("\n".join([figure.get_suptitle(), *lines]), fontsize=10)


def columns_of(number: int) -> int:
    """Of a grid of panels; four are two by two."""
    return 2 if number == 4 else min(number, COLUMNS)


def _panels(number: int, title: str, square: bool = False) -> tuple[Figure, list[Axes]]:
    columns = columns_of(number)
    rows = -(-number // columns)
    width, height = PANEL
    height += 0.7 if square else 0  # titles of several lines
    figure = Figure(
        figsize=(max(width * columns, 4.6) + 1.1, height * rows + 0.7), layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(grid.flat)
    for axes in panels[number:]:
        axes.remove()
    for axes in panels[:number]:
        _plain(axes)
    return figure, panels[:number]


def _style(index: int) -> dict[str, Any]:
    """Colour and marker of the index-th run; 49 differ."""
    lap, place = divmod(index, len(CYCLE))
    return {"color": CYCLE[place], "marker": MARKERS[(place + lap) % len(MARKERS)]}


def _nothing(method: str) -> str:
    return "yardstick" if method == frames.YARDSTICK else "undefined"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _label_left(panels: Sequence[Axes], label: str) -> None:
    for axes in panels:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(label)
        else:
            axes.tick_params(labelleft=False)


def _legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """Below all panels, where it covers nothing."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    room = int(16 * figure.get_figwidth() / (longest + 4))  # some sixteen characters in an inch
    columns = max(1, min(len(handles), 3, room))
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )


def _dotted(points: int) -> dict[str, Any]:
    """A line through one point is invisible."""
    return {"marker": "o", "markersize": 3} if points < 3 else {}


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = max(0.06 * (high - low), 0.005)
    return low - margin, high + margin


def _methods(frame: pl.DataFrame) -> list[str]:
    return frame["method"].unique(maintain_order=True).to_list()


def save(
    figures: Mapping[str, Callable[[], Figure]],
    folder: pathlib.Path,
    formats: Sequence[str],
    of: Path,
    missing: bool = False,
) -> list[pathlib.Path]:
    """Writes figures in every format, all of them or none; equal figures give equal bytes.

    Args:
      figures: how each is made, by the name of its file.
      folder: where they go.
      formats: of directory.FIGURE_FORMATS.
      of: where the numbers in them come from.
      missing: leave those that are there.

    Returns:
      The files written.

    Raises:
      ValueError: when a name is none for a file, or what is read cannot be drawn.
      OSError: when the folder cannot be written to.
    """
    drawn: dict[str, bytes] = {}
    for name, figure in figures.items():
        into = {files.inside(folder, f"{name}.{suffix}"): suffix for suffix in formats}
        if missing and all(files.kind(file) == "file" for file in into):
            continue
        with files.reading(of), _fixed():
            made = figure()
            for file, suffix in into.items():
                content = io.BytesIO()
                made.savefig(content, format=suffix, dpi=DPI, metadata=METADATA[suffix])
                drawn[file.name] = content.getvalue()
    if drawn:
        files.write_files(folder, drawn)
    return [folder / name for name in drawn]


@contextlib.contextmanager
def _fixed() -> Iterator[None]:
    """Matplotlib as it comes: no setting of the user's, no formula in a name, no warning of one.

    The ids of an SVG are random unless salted.
    """
    own = {"svg.hashsalt": "cgsv", "text.parse_math": False}
    with warnings.catch_warnings(), style.context(["default", own]):
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield
