"""What is shown of a run, in a terminal and in Markdown."""

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cgsv_jax.host import terminal
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results.frames import Cell

CLOSE = 0.01  # accuracies nearer to each other than this leave fairness to a few test rows
NAME = 12  # characters of a name that are never broken
MANY = 20  # clients; more are shown by a selection
FEW = 6  # methods; of more, the clients are in the files alone


# ---------------------------------------------------------------- for people


def shown_fairness(summary: pl.DataFrame) -> pl.DataFrame:
    """The fairness table as text, units in the headers; for a terminal or for `markdown`.

    Means over seeds: fairness with its interval, the accuracy of the mean client ± its deviation
    and (of the best), the gain. A mean over fewer seeds than there are says over how many.
    """
    rows = []
    for row in frames_lib.fairness_table(summary).iter_rows(named=True):
        fairness = _number(row["fairness"])
        if row["fairness"] is None:
            fairness = "yardstick" if row["method"] == frames_lib.YARDSTICK else "undefined"
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
        for row in frames_lib.fairness_table(summary).iter_rows(named=True)
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
    table = frames_lib.fairness_table(summary).filter(
        pl.col("fairness_undefined").is_not_null(), pl.col("method") != frames_lib.YARDSTICK
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
        for row in frames_lib.fairness_table(summary).iter_rows(named=True)
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
    methods = (
        [name for name in present if name != frames_lib.YARDSTICK] if methods is None else methods
    )
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
        f"{frames_lib.YARDSTICK} accuracy, %": _texts(base["standalone_accuracy"], chosen, 100),
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
    summary = frames_lib.summary_frame(cells)
    reports = zip(fairness_reports(summary), traffic_reports(summary), strict=True)
    several = summary["partition"].n_unique() > 1
    few = summary["method"].n_unique() <= FEW
    return [
        *(table for pair in reports for table in pair),
        *honesty_reports(summary),
        *(clients_reports(frames_lib.clients_frame(cells), console_width) if few else ()),
        *([overview(summary)] if several else ()),
    ]


def shown_overview(summary: pl.DataFrame) -> pl.DataFrame:
    """Methods down, partitions across: fairness (average accuracy, %) as text."""
    table = frames_lib.fairness_table(summary)
    rows = []
    for method in table["method"].unique(maintain_order=True):
        cells = {"method": method}
        for row in table.filter(method=method).iter_rows(named=True):
            fairness = "yardstick" if method == frames_lib.YARDSTICK else "undefined"
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
    table = frames_lib.fairness_table(summary)
    counts = [pl.col(f"{name}_seeds") for name in frames_lib.AVERAGED]
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
            if method == frames_lib.YARDSTICK:
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
