"""What is shown of a run, in a terminal and in Markdown.

A table is columns over rows; a report is the cells, with a title and the lines below them.
"""

import functools
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from rich import box
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cgsv_jax.config import variants
from cgsv_jax.host import terminal
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results.frames import YARDSTICK

BOTH = "±?"  # in place of a fairness whose interval contains both signs
MARK = "*"  # beside a fairness that the last quarter of the evaluations does not bear out
ORACLE = "†"  # beside one whose method had the standalone accuracies as an input
PAID_BY = "an input is the standalone accuracy that fairness compares with"  # of such a method
CLOSE = 0.01  # accuracies nearer to each other than this leave fairness to a few test rows
NAME = 12  # characters of a name that are never broken
MANY = 20  # clients; more are shown by a selection
FEW = 6  # methods; of more, the clients are in the files alone

Row = Mapping[Any, Any]


class Column(NamedTuple):
    """A column of a table; it is left out where no row has a text."""

    title: str  # with its unit
    text: Callable[[Row], str | None]


class Report(NamedTuple):
    """A table: rich prints it, `markdown` writes its cells."""

    cells: pl.DataFrame  # texts
    title: str = ""
    lines: Sequence[str] = ()  # below the table
    keys: int = 1  # columns in front that tell the rows apart

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Any]:
        parts = _fitting(self, options.max_width) if self.cells.width else []
        for place, part in enumerate(parts):
            yield from [Text()] * (place > 0)
            yield rich_table(part)
        # Not as a caption, which would be as narrow as the table.
        yield from map(Text, self.lines)

    def __repr__(self) -> str:
        """As a terminal shows it."""
        shown = io.StringIO()
        Console(file=shown, highlight=False, markup=False, emoji=False).print(self)
        return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        return html(self)


def texts(columns: Iterable[Column], rows: Iterable[Row]) -> pl.DataFrame:
    """The cells of a table."""
    rows = list(rows)
    cells = {column.title: [column.text(row) for row in rows] for column in columns}
    cells = {title: own for title, own in cells.items() if any(text is not None for text in own)}
    return pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))


# ---------------------------------------------------------------- columns


def number(value: float | None, factor: float = 1, digits: int | None = 1) -> str:
    """A number with so many digits after the point; None: three digits, wherever the point is."""
    if value is None:
        return "–"
    if digits is not None:
        # Adding 0 after rounding turns -0.0 into 0.0.
        return f"{round(value * factor, digits) + 0.0:.{digits}f}"
    value = float(f"{value * factor:.2e}")  # rounded first: 9.999 has one digit after the point
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def mean(row: Row, name: str, factor: float = 1, digits: int | None = 1, aside: str = "") -> str:
    """A mean over seeds, and aside its deviation, "sd", or its interval, where these are known."""
    shown = functools.partial(number, factor=factor, digits=digits)
    text = shown(row[name])
    if aside == "sd" and row[f"{name}_sd"] is not None:
        text += f" ± {shown(row[f'{name}_sd'])}"
    if aside == "interval" and row[f"{name}_low"] is not None:
        text += f" [{shown(row[f'{name}_low'])}, {shown(row[f'{name}_high'])}]"
    return text


def over_seeds(title: str, name: str, *how: Any, text: Callable[..., str] = mean) -> Column:
    """A column of `frames.fairness_table`, which says over how many seeds, where not over all."""

    def cell(row: Row) -> str:
        count = row[f"{name}_seeds"]
        left = f" ({count} of {row['seeds']})" if 0 < count < row["seeds"] else ""
        return text(row, name, *how) + left

    return Column(title, cell)


def fairness_text(
    row: Row, name: str = "fairness", digits: int = 1, with_interval: bool = True
) -> str:
    """One of `frames.JUDGED` or what there is in its place, with a MARK where it is unsettled.

    Where the interval contains both signs no number is shown, since not even its sign is known.

    Args:
      row: of `frames.fairness_table`.
      name: which.
      digits: after the point.
      with_interval: show that, too.
    """
    mark = MARK if unsettled(row, name) else ""
    if row[name] is None:
        return ("yardstick" if row["method"] == YARDSTICK else "undefined") + mark
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    bounds = [] if low is None else [number(low, 1, digits), number(high, 1, digits)]
    value = BOTH if both_signs(row, name) else number(row[name], 1, digits)
    mark += ORACLE if name == "fairness" and oracle(row) else ""
    return value + mark + (f" [{', '.join(bounds)}]" if bounds and with_interval else "")


def unsettled(row: Row, name: str = "fairness") -> bool:
    """Whether the last quarter of the evaluations does not bear a fairness out, in some run."""
    return bool(row[f"unsettled{name.removeprefix('fairness')}"])


def both_signs(row: Row, name: str = "fairness") -> bool:
    """Whether the interval of a fairness contains 0, so that even its sign is not known."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return low is not None and low <= 0 <= high


def oracle(row: Row) -> bool:
    """Whether a fairness is that of a method which the standalone accuracies were an input of.

    It is paid by what fairness compares with, so that a high one says little of the method.
    """
    return bool(row["oracle"]) and row["fairness"] is not None


def signs(row: Row) -> list[str]:
    """What stands in place of a fairness, or beside it, and needs a sentence."""
    both = row["fairness"] is not None and both_signs(row)
    return [BOTH] * both + [MARK] * unsettled(row) + [ORACLE] * oracle(row)


def _late(row: Row, name: str) -> str | None:
    """Mean and range over the last quarter of the evaluations; None where nothing is known."""
    value, low, high = (row[f"late_{name}{end}"] for end in ("", "_min", "_max"))
    if value is None:
        return None
    ends = number(low, 1, 0), number(high, 1, 0)
    return number(value, 1, 0) + (f" ({ends[0]}, {ends[1]})" if ends[0] != ends[1] else "")


def _known(title: str, name: str, *how: Any) -> Column:
    """A column of numbers that is left out where nobody has one."""
    return Column(title, lambda row: None if row[name] is None else mean(row, name, *how))


def _with_best(row: Row, *how: Any) -> str:
    best = row["max_accuracy"]
    return mean(row, *how) + ("" if best is None else f" ({number(best, 100)})")


def plain(title: str, name: Any, *how: Any) -> Column:
    """A column of numbers, shown as `number` does; without `how`, of words or whole numbers."""
    return Column(title, lambda row: number(row.get(name), *how) if how else str(row[name]))


def _classes(count: float) -> str:
    return number(count, 1, int(count % 1 > 0))


METHOD = plain("method", "method")
FAIRNESS = (
    METHOD,
    over_seeds("fairness", "fairness", text=fairness_text),
    over_seeds("accuracy: mean (max), %", "mean_accuracy", 100, 1, "sd", text=_with_best),
    over_seeds("gain", "mean_gain", 100),
    # What a fairness rests on: of nearly equal clients it is a matter of a few test examples.
    _known("spread", "accuracy_spread", 100),
)
# Mean and range over the last quarter of the evaluations; by loss, its interval and the like; by
# ranks.
_BY_LOSS = "fairness_by_loss"
TRUST = (
    METHOD,
    Column("last quarter", lambda row: _late(row, "fairness")),
    Column("by loss", lambda row: row[_BY_LOSS] and fairness_text(row, _BY_LOSS, 0)),
    Column("by loss, last quarter", lambda row: _late(row, _BY_LOSS)),
    _known("by rank", "rank_fairness", 1, 0),
)
# CGS is the standard deviation of the gains over clients, IPR the share of clients no worse than
# alone; the distance is that to the server's model; energy and entries are those received of u_N,
# means over rounds; megabytes (10^6) are of one client in the whole run.
TRAFFIC = (
    METHOD,
    over_seeds("CGS (points)", "gain_spread", 100),
    over_seeds("IPR (%)", "no_worse", 100),
    over_seeds("distance", "distance", 1, None),
    over_seeds("energy (%)", "energy", 100),
    over_seeds("entries (%)", "share", 100),
    over_seeds("upload (MB)", "upload_bytes", 1e-6, None),
    over_seeds("download (MB)", "download_bytes", 1e-6, None),
)
# Fairness and accuracy are those of the honest clients; what attackers receive are shares of u_N's
# entries and energy; AUC is the probability that an honest client's reputation is higher.
HONESTY = (
    METHOD,
    over_seeds("honest: fairness", "honest_fairness"),
    over_seeds("accuracy, %", "honest_accuracy", 100),
    over_seeds("attackers: accuracy, %", "attacker_accuracy", 100),
    over_seeds("entries, %", "attacker_share", 100),
    over_seeds("energy, %", "attacker_energy", 100),
    over_seeds("reputation / honest", "attacker_reputation", 1, 2),
    over_seeds("AUC", "separation", 1, 2),
)
ON_OWN_ROWS = (
    METHOD,
    over_seeds("accuracy: mean, %", "mean_own_accuracy", 100, 1, "sd"),
    over_seeds("least, %", "min_own_accuracy", 100),
    over_seeds("gain", "own_gain", 100),
    over_seeds("on the test set, %", "mean_accuracy", 100, 1, "sd"),
)
SECONDS = (
    METHOD,
    plain("compile, s", "compile_seconds", 1, 1),
    plain("run, s", "run_seconds", 1, 1),
    plain("rounds per s", "rounds_per_second", 1, None),
)
HOLDINGS = (
    plain("client", "client"),
    plain("rows", "rows"),
    plain("share of rows, %", "share", 100, 2),
    Column("classes", lambda row: _classes(row["classes"])),
)


# ---------------------------------------------------------------- reports


def first(frames: Mapping[str, pl.DataFrame]) -> list[Report]:
    """What a terminal shows after a run, as far as it answers the question: who got what.

    The fairness of one partition at length, of several in one table; and how the honest clients
    fare where some are not. All other tables are those of `reports`.
    """
    summary = frames["summary"]
    partitions = summary.partition_by("partition", maintain_order=True)
    return [
        *(map(fairness, partitions) if len(partitions) == 1 else [overview(summary)]),
        *(on_own_rows(summary) if len(partitions) == 1 else []),
        *(honesty(own) for own in partitions if (own["attackers"] > 0).any()),
    ]


def reports(frames: Mapping[str, pl.DataFrame], console_width: int = 80) -> list[Report]:
    """All that is known of a run but its seconds; nothing is printed here.

    Args:
      frames: the tables of the run, see `frames.frames_of`.
      console_width: characters in a line.

    Returns:
      Per partition, the fairness table, how far to trust it, and gains, distance and traffic; one
      of dishonest clients if there are any; then the clients in as many tables as the width asks
      for, unless the methods are many; for several partitions one table of all at the end.
    """
    summary = frames["summary"]
    few = summary["method"].n_unique() <= FEW
    clients = frames["clients"] if few else frames["clients"].clear()
    partitions = summary.partition_by("partition", maintain_order=True)
    return [
        *(
            report
            for own in partitions
            for report in (fairness(own), *on_own_rows(own), *trust(own), traffic(own))
        ),
        *(honesty(own) for own in partitions if (own["attackers"] > 0).any()),
        *(
            table
            for own in clients.partition_by("partition", maintain_order=True)
            for table in clients_after(own, console_width)
        ),
        *([overview(summary)] if len(partitions) > 1 else ()),
    ]


def fairness(summary: pl.DataFrame) -> Report:
    """Fairness, accuracy and gain of the methods on one partition, and what to know of them.

    Means over seeds: fairness with its interval, the accuracy of the mean client ± its deviation
    and (of the best), the gain.
    """
    table = frames_lib.fairness_table(summary)
    (partition,), seeds = summary["partition"].unique(), frames_lib.over(summary)
    lines = ["fairness = 100 x Pearson(standalone, final accuracy) over clients"]
    if table["accuracy_spread"].count():
        lines.append("points: mean gain over standalone; spread, the deviation over clients")
    over = [x for x in table["interval_over"].drop_nulls().unique() if x != "seeds"]
    if over:
        lines.append(f"[95 % interval over {over[0]}]")
    if seeds:
        bootstrap = "" if over else "[95 % bootstrap interval], "
        lines.append(f"mean over {seeds}, {bootstrap}± standard deviation")
        counts = [pl.col(f"{name}_seeds") for name in frames_lib.AVERAGED]
        some = pl.any_horizontal((n > 0) & (n < pl.col("seeds")) for n in counts)
        if table.select(some.any()).item():
            runs = unit(table.row(0, named=True))
            lines.append(f"(k of n): in n - k {runs} the value is undefined, and they are left out")
    clients, evaluated = summary["clients"][0], summary["evaluated"].min()
    if evaluated < clients:
        lines.append(f"over the {evaluated:,} of {clients:,} clients that were evaluated")
    lines += chosen_rounds(summary) + stopped_rounds(summary) + doubts(table)
    lines += why_undefined(table) + close_accuracies(summary) + absences(summary)
    cells = texts(FAIRNESS, table.iter_rows(named=True))
    return Report(cells, f"Fairness and accuracy on {partition}", lines)


def doubts(table: pl.DataFrame) -> list[str]:
    """What the words and the mark of `fairness_text` mean, of those that are in the table."""
    said = {
        BOTH: "its interval contains both signs: the data do not say which is right",
        MARK: "its sign changes, or it comes and goes, over the last quarter of rounds",
        ORACLE: f"oracle: {PAID_BY}, so that it is fair by construction in part",
    }
    there = {sign for row in table.iter_rows(named=True) for sign in signs(row)}
    return [f"{sign} {what}" for sign, what in said.items() if sign in there]


def trust(summary: pl.DataFrame) -> list[Report]:
    """How far the fairness on one partition can be trusted; no report where nothing is known."""
    table = frames_lib.fairness_table(summary)
    if not table["late_fairness"].count() + table["fairness_by_loss"].count():
        return []
    lines = [
        "last quarter: of the evaluations, mean (least, most)",
        "by loss: of log-likelihoods for accuracies; by rank: Spearman for Pearson",
        *_widths(table),
    ]
    cells = texts(TRUST, table.iter_rows(named=True))
    return [Report(cells, f"How far to trust it, on {summary['partition'][0]}", lines)]


def _widths(table: pl.DataFrame) -> list[str]:
    """How wide one source of doubt alone would make the interval of fairness, of a few methods."""
    parts = {"test rows": "by_rows", "seeds": "by_seeds", "partitions": "by_partitions"}
    columns = {word: f"fairness_width_{part}" for word, part in parts.items()}
    known = {word: name for word, name in columns.items() if table[name].count()}
    rows = table.drop_nulls([*known.values()]).head(FEW).iter_rows(named=True) if known else ()
    each = [
        f"{row['method']} {', '.join(number(row[name], 1, 0) for name in known.values())}"
        for row in rows
    ]
    alone = f"the interval's width by {', '.join(known)} alone: "
    return [alone + "; ".join(each)] if each else []


def on_own_rows(summary: pl.DataFrame) -> list[Report]:
    """The methods on one partition by the rows that each client holds out for itself.

    No report where nobody does.
    """
    table = frames_lib.fairness_table(summary)
    if not table["mean_own_accuracy"].count():
        return []
    lines = [
        "each client on the rows that it holds out for itself, and does not train on",
        "gain: over standalone, on the same rows",
    ]
    if seeds := frames_lib.over(summary):
        lines.append(f"mean over {seeds}, ± standard deviation")
    cells = texts(ON_OWN_ROWS, table.iter_rows(named=True))
    return [Report(cells, f"Clients on their own rows, on {summary['partition'][0]}", lines)]


def chosen_rounds(summary: pl.DataFrame) -> list[str]:
    """A line where the last round is not the end: which rounds validation rows chose."""
    rounds = summary["chosen_round"].drop_nulls()
    if not len(rounds):
        return []
    least, most = rounds.min(), rounds.max()
    which = f"{least}" if least == most else f"{least} to {most}"
    return [f"numbers of the round that validation rows chose: {which}"]


def stopped_rounds(summary: pl.DataFrame) -> list[str]:
    """A line where runs were ended early: of which methods, how many of them, and when."""
    said = []
    for own in summary.partition_by("method", maintain_order=True):
        rounds = own["stopped_round"].drop_nulls()
        if len(rounds):
            least, most = rounds.min(), rounds.max()
            which = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            some = "" if len(rounds) == len(own) else f" ({len(rounds)} of {len(own)})"
            said.append(f"{own['method'][0]} at round {which}{some}")
    return [f"stopped early: {', '.join(said)}"] if said else []


def unit(row: Row) -> str:
    """What the runs of a row of `frames.fairness_table` differ in."""
    return "seeds" if row["draws"] == 1 else "runs"


def why_undefined(table: pl.DataFrame) -> list[str]:
    """A line per reason why a fairness is undefined in some seed: of which methods, and where."""
    several = table["partition"].n_unique() > 1
    reasons: dict[str, dict[str, list[str]]] = {}
    for row in table.filter(pl.col("method") != YARDSTICK).iter_rows(named=True):
        if row["fairness_undefined"] is None:
            continue
        where = row["partition"] if several else ""
        if row["fairness"] is not None:
            where += f" in {row['seeds'] - row['fairness_seeds']} of {row['seeds']} {unit(row)}"
        methods = reasons.setdefault(row["fairness_undefined"], {})
        methods.setdefault(row["method"], []).append(where)
    on = " on " if several else ""
    lines = []
    for why, methods in reasons.items():
        named = ", ".join(method + on + ", ".join(own) for method, own in methods.items())
        lines.append(f"undefined for {named}: {why}")
    return lines


def close_accuracies(summary: pl.DataFrame) -> list[str]:
    """A line on the methods whose fairness is a number but rests on very small differences."""
    spread = (pl.col("max_accuracy") - pl.col("min_accuracy")).min()
    defined = summary.filter(pl.col("fairness").is_not_null())
    spreads = defined.group_by("method", maintain_order=True).agg(spread.alias("spread"))
    close = spreads.filter(pl.col("spread") < CLOSE).rows()
    if not close:
        return []
    within = ", ".join(f"{method} {number(least, 100, 2)}" for method, least in close)
    return [f"fairness rests on little where final accuracies are within a point: {within}"]


def absences(summary: pl.DataFrame) -> list[str]:
    """Lines on who did not take part: by plan, and because an update was not finite."""
    lines = []
    present = summary.drop_nulls("present")
    if (present["present"] < 1).any():
        # Methods may differ in it: some choose themselves who takes part.
        shares: dict[str, list[str]] = {}
        means = present.group_by("method", maintain_order=True).agg(pl.col("present").mean())
        for method, mean in means.iter_rows():
            shares.setdefault(number(mean, 100), []).append(method)
        several = len(shares) > 1
        said = [
            f"{share} %" + (f" ({', '.join(methods)})" if several else "")
            for share, methods in shares.items()
        ]
        lines.append(f"a client took part in {', '.join(said)} of rounds")
    broken = summary.group_by("method", maintain_order=True).agg(pl.col("broken").sum())
    lines += [
        f"{method}: {count} updates were not finite, their clients absent in these rounds"
        for method, count in broken.iter_rows()
        if count
    ]
    return lines


def traffic(summary: pl.DataFrame) -> Report:
    """Gains, distance and traffic of the methods on one partition."""
    lines = (
        "CGS: standard deviation of the gains; IPR: clients no worse than alone",
        "distance to the server's model at the end, ‖w_N - w_i‖",
        "energy and entries received, of ‖u_N‖² and of its entries, mean over rounds",
        "MB of one client in the whole run, values and indices",
    )
    cells = texts(TRAFFIC, frames_lib.fairness_table(summary).iter_rows(named=True))
    return Report(cells, f"Gains, distance and traffic on {summary['partition'][0]}", lines)


def honesty(summary: pl.DataFrame) -> Report:
    """The methods on one partition in runs with attackers."""
    cheating = summary.filter(pl.col("attackers") > 0)
    lines = (
        f"{cheating['attackers'][0]} of {cheating['clients'][0]} clients cheat; fairness and "
        "accuracy are of the honest ones",
        "attackers: their accuracy, what they receive of u_N, and their reputation over",
        "the mean honest one; AUC: an honest client has the higher reputation",
    )
    cells = texts(HONESTY, frames_lib.fairness_table(cheating).iter_rows(named=True))
    return Report(cells, f"Dishonest clients on {summary['partition'][0]}", lines)


def overview(summary: pl.DataFrame) -> Report:
    """All methods on all partitions in one table: fairness (average accuracy, %)."""
    table = frames_lib.fairness_table(summary)
    rows: dict[str, dict[str, Any]] = {}
    for row in table.iter_rows(named=True):
        rows.setdefault(row["method"], {"method": row["method"]})[row["partition"]] = row
    of = over_seeds("", "fairness", 0, False, text=fairness_text).text

    def cell(row: Row, partition: str) -> str | None:
        own = row.get(partition)
        if own is None:
            return None
        of_own = own["mean_own_accuracy"]
        beside = "" if of_own is None else f"; own {number(of_own, 100)}"
        return f"{of(own)} ({number(own['mean_accuracy'], 100)}{beside})"

    columns = [
        Column(name, functools.partial(cell, partition=name))
        for name in table["partition"].unique(maintain_order=True)
    ]
    lines = [f"fairness: 100 x Pearson(standalone, final accuracy), mean over {_overall(table)}"]
    title = "All partitions: fairness (average accuracy, %)"
    if table["mean_own_accuracy"].count():
        lines.append("own: accuracy of each client on the rows that it holds out")
    lines += doubts(table) + why_undefined(table)
    return Report(texts([METHOD, *columns], rows.values()), title, lines)


def _overall(table: pl.DataFrame) -> str:
    return "seeds" if (table["draws"] == 1).all() else "seeds and draws of a partition"


def seconds(timing: Mapping[str, Any]) -> Report:
    """Seconds per method, as timing.json has them, and per phase where these were profiled.

    A compiled program is one piece: training, server and evaluation are of one round of one seed,
    each measured apart by `--profile`.
    """
    phases: dict[tuple[str, str], dict[str, float]] = {}
    for profile in timing.get("profiles", ()):
        medians = {
            f"{phase['name']}, ms": phase["seconds"]["median"] for phase in profile["phases"]
        }
        phases[profile["partition"], profile["method"]] = medians
    rows = [
        own | phases.get((own["partition"], own["method"]), {})
        for own in _of_all_draws(timing["methods"])
    ]
    columns = list(SECONDS)
    several = len({row["partition"] for row in rows}) > 1
    if several:
        columns.insert(0, plain("partition", "partition"))
    for title in dict.fromkeys(title for medians in phases.values() for title in medians):
        columns.append(plain(title, title, 1e3, None))
    lines = ["rounds per second: of all seeds together, evaluation included"]
    lines += ["ms: of one round of one seed, each phase on its own"] if phases else []
    return Report(texts(columns, rows), "Seconds", lines, 1 + several)


def _of_all_draws(methods: Iterable[Row]) -> list[dict[str, Any]]:
    """The seconds of every method on a partition, of all its draws together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for own in methods:
        groups.setdefault((own["partition"], own["method"]), []).append(own)
    rows = []
    for draws in groups.values():
        compiling, running = (sum(x[f"{n}_seconds"] for x in draws) for n in ("compile", "run"))
        rounds = sum(own["rounds_per_second"] * own["run_seconds"] for own in draws)
        sums = {"compile_seconds": compiling, "run_seconds": running}
        rows.append({**draws[0], **sums, "rounds_per_second": rounds / running})
    return rows


def clients_after(clients: pl.DataFrame, console_width: int = 80) -> list[Report]:
    """The clients of one partition at the end, in more tables where one is too wide.

    Of more than two methods their accuracies are shown, side by side.
    """
    alike = _alike(clients)
    clients = clients.filter(~pl.col("method").is_in([*alike])) if alike else clients
    if not _methods(clients) and alike:
        return [Report(pl.DataFrame(), "", [_ends_alike(alike)])]
    brief = len(_methods(clients)) > 2
    lines = ["entries received: share of the aggregate's entries, mean over rounds"]
    if brief:
        lines = ["test accuracies, %; reputations and shares are in files and figures"]
    lines += [_ends_alike(alike)] if alike else []
    if clients["own_accuracy"].count():
        lines.append("(in brackets: on the rows that the client holds out for itself)")
    apart = frames_lib.told_apart(clients)
    means = frames_lib.over(clients, draws=apart == ["client"])
    lines += [f"means over {means}"] if means else []
    lines += _selection_line(clients.select(apart).n_unique())
    title = f"Clients of {clients['partition'][0]} at the end"
    made: list[Report] = []
    group: list[str] = []
    for method in _methods(clients):
        wider = Report(clients_of(clients, [*group, method], brief), title, lines, len(apart))
        if group and _width(wider) <= console_width:
            made[-1], group = wider, [*group, method]
        else:
            own = clients_of(clients, [method], brief)
            made.append(Report(own, title, lines, len(apart)))
            group = [method]
    return made or [Report(clients_of(clients), title, lines, len(apart))]


def _alike(clients: pl.DataFrame) -> dict[str, list[float]]:
    """The methods under which all clients are alike in each run, and their accuracies.

    They end with the same accuracy and received the same share of entries: a
    column of them would be one number.
    """
    ends = ["accuracy", "share"]  # and where they are judged on their own rows, by these too
    ends += ["own_accuracy"] if clients["own_accuracy"].count() else []
    of_runs = clients.filter(pl.col("method") != YARDSTICK).group_by(
        *("method", "partition_seed", "seed"), maintain_order=True
    ).agg(pl.col(ends).n_unique().eq(1), pl.col("accuracy").first().alias("value"))  # fmt: skip
    return {
        str(method): runs["value"].to_list()
        for (method,), runs in of_runs.group_by("method", maintain_order=True)
        if runs.select(pl.all_horizontal(pl.col(ends).all())).item()
    }


def _ends_alike(alike: Mapping[str, Sequence[float | None]]) -> str:
    shown = []
    for method, values in alike.items():
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)  # what one run lacks has no mean
        shown.append(f"{method} {number(float(np.mean(known)), 100) if whole else 'undefined'}")
    return f"all clients alike, accuracy in %: {', '.join(shown)}"


def _methods(clients: pl.DataFrame) -> list[str]:
    return [m for m in clients["method"].unique(maintain_order=True) if m != YARDSTICK]


def clients_of(
    clients: pl.DataFrame, methods: Sequence[str] | None = None, brief: bool = False
) -> pl.DataFrame:
    """The clients of one partition as texts, means over seeds; a selection where they are many.

    Means over its draws as well, unless these differ in who holds how much: then every draw has
    clients of its own.

    Args:
      clients: rows of one partition, CLIENT_COLUMNS.
      methods: which methods to show; default all but the yardstick.
      brief: their accuracies alone.
    """
    methods = _methods(clients) if methods is None else methods
    values = pl.col(
        *("standalone_accuracy", "accuracy", "reputation", "share"),
        *("own_accuracy", "standalone_own_accuracy", *frames_lib.SIZES),
    )
    whole = pl.when(values.null_count() == 0)  # what one seed lacks has no mean
    apart = frames_lib.told_apart(clients)
    means = clients.group_by("method", *apart, maintain_order=True).agg(
        pl.col("owner", "rows").first(),
        pl.col("classes").cast(pl.Float64).mean(),
        whole.then(values.cast(pl.Float64).mean()),
    )
    rows = means.filter(method=clients["method"][0]).sort(apart).to_dicts()
    digits = 4 if len(rows) <= MANY else 6  # of reputations, which are about 1 / N
    what = "" if brief else " accuracy, %"
    columns = [
        Column("draw", lambda row: None if len(apart) == 1 else str(row[apart[0]])),
        plain("client", "client"),
        Column("owner", lambda row: row["owner"] and _cut(row["owner"])),
        plain("rows", "rows"),
        Column("classes", lambda row: _classes(row["classes"])),
        _of_client(YARDSTICK + what, "standalone_accuracy", "standalone_own_accuracy"),
    ]
    for method in methods:
        own = means.filter(method=method).sort(apart).iter_rows(named=True)
        rows = [
            row | {(method, name): value for name, value in of_method.items()}
            for row, of_method in zip(rows, own, strict=True)
        ]
        columns.append(_of_client(method + what, (method, "accuracy"), (method, "own_accuracy")))
        columns += (
            []
            if brief
            else [
                plain(f"{method} reputation", (method, "reputation"), 1, digits),
                plain(f"{method} entries received, %", (method, "share"), 100),
                _if_any(f"{method} parameters", (method, "parameters"), 1, 0),
                _if_any(f"{method} kFLOPs", (method, "flops"), 1e-3, 1),
            ]
        )
    return texts(columns, [rows[i] for i in _selection([row["rows"] for row in rows])])


def _if_any(title: str, name: Any, factor: float, digits: int) -> Column:
    """A number of clients in whose models hidden units may be off; elsewhere no column."""

    def text(row: Row) -> str | None:
        return None if row.get(name) is None else number(row[name], factor, digits)

    return Column(title, text)


def _of_client(title: str, name: Any, own: Any) -> Column:
    """A client's accuracy in %, and in brackets that on its own rows, if it has some."""

    def text(row: Row) -> str:
        of_own = row.get(own)
        beside = "" if of_own is None else f" ({number(of_own, 100)})"
        return number(row.get(name), 100) + beside

    return Column(title, text)


def _cut(name: str) -> str:
    """A stranger's name, as much as a table has room for."""
    name = terminal.plain(name)
    return name if len(name) <= 2 * NAME else f"{name[: 2 * NAME - 1]}…"


def holdings(sizes: np.ndarray, classes: np.ndarray, partition: str = "") -> Report:
    """What each client holds, before training; a selection where they are many.

    Args:
      sizes: [N] rows.
      classes: [N] distinct labels; a mean over draws need not be whole.
      partition: named in the title.
    """
    total = int(np.sum(sizes))
    title = f"What each client holds ({partition})" if partition else "What each client holds"
    lines = [f"{len(sizes):,} clients, {total:,} rows in all", *_selection_line(len(sizes))]
    shares = np.asarray(sizes) / max(total, 1)
    rows = (
        {"client": i, "rows": sizes[i], "share": shares[i], "classes": classes[i]}
        for i in _selection(sizes)
    )
    return Report(texts(HOLDINGS, rows), title, lines)


def holdings_of(clients: pl.DataFrame) -> list[Report]:
    """What each client holds, of every partition of a run; of each draw, where they differ.

    Args:
      clients: CLIENT_COLUMNS.
    """
    made = []
    for own in clients.partition_by("partition", maintain_order=True):
        own = own.filter(method=own["method"][0]).unique(
            ["partition_seed", "client"], maintain_order=True
        )
        draws = own.partition_by("partition_seed", maintain_order=True)
        several = len(frames_lib.told_apart(own)) > 1
        for draw in draws if several else draws[:1]:
            name = draw["partition"][0]
            name += f", draw {draw['partition_seed'][0]}" if several else ""
            made.append(holdings(draw["rows"].to_numpy(), draw["classes"].to_numpy(), name))
    return made


def held(sizes: np.ndarray, classes: np.ndarray) -> str:
    """What each client holds, in half a line: from the poorest to the richest.

    >>> held(np.array([5, 10, 45]), np.array([2, 2, 2]))
    '5 to 45 examples, 2 classes'
    """
    parts = []
    for values, one, several in ((sizes, "example", "examples"), (classes, "class", "classes")):
        ends = [_classes(float(end)) for end in (np.min(values), np.max(values))]
        parts.append(f"{' to '.join(dict.fromkeys(ends))} {one if ends[1] == '1' else several}")
    return ", ".join(parts)


def _selection(sizes: Sequence[int] | np.ndarray) -> list[int]:
    """All clients, or eleven from the fewest rows to the most where there are many."""
    if len(sizes) <= MANY:
        return list(range(len(sizes)))
    order = np.argsort(sizes, kind="stable")
    return [int(i) for i in order[np.linspace(0, len(sizes) - 1, 11).round().astype(int)]]


def _selection_line(number: int) -> list[str]:
    if number <= MANY:
        return []
    return [f"11 of {number:,} clients: at every tenth from the fewest rows to the most"]


# ---------------------------------------------------------------- renderers


def rich_table(report: Report, narrow: bool = False) -> Table:
    """The table of a report for a terminal; headers break between words, values never do.

    Args:
      report: its cells are shown.
      narrow: whether long names are broken, as where the width would not do otherwise.
    """
    table = Table(
        title=report.title or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in report.cells:
        # A unit stays with its quantity; a preset may leave its method.
        header = _filled(column.name.replace(", ", ",\N{NO-BREAK SPACE}"))
        justify = "right" if _is_numeric(column) else "left"
        # Where the width does not do, long names break before numbers would be cut.
        longest = max(map(len, header.split("\n")))
        longest = max(longest, *(len(piece) for text in column for piece in _pieces(text)), 0)
        table.add_column(
            Text(header),
            justify=justify,
            no_wrap=justify == "right",
            overflow="ellipsis" if justify == "right" else "fold",
            min_width=None if justify == "right" else min(longest, NAME),
            max_width=min(longest, NAME) if narrow and justify == "left" else None,
            vertical="bottom",
        )
    for row in report.cells.iter_rows():
        table.add_row(*(_Cell("–" if value is None else value) for value in row))
    return table


def _width(report: Report, narrow: bool = False) -> int:
    """Characters in a line of the table."""
    wide = Console(width=10_000, file=io.StringIO())
    return wide.measure(rich_table(report, narrow)).maximum


def _fitting(report: Report, width: int) -> list[Report]:
    """The table, or several below each other, with its keys in each, where it is too wide.

    A value that is cut, or a column that is left out, would look like one that is not there.
    """
    names = report.cells.columns
    keys = names[: report.keys]
    parts = [[*keys]]
    for name in names[report.keys :]:
        longer = Report(report.cells.select(*parts[-1], name))
        if len(parts[-1]) > len(keys) and _width(longer, narrow=True) > width:
            parts.append([*keys])
        parts[-1].append(name)
    tables = [Report(report.cells.select(names)) for names in parts]
    return [tables[0]._replace(title=report.title), *tables[1:]]


def _filled(header: str) -> str:
    """A header in lines as short as its longest word, or piece of a method's name."""
    words = [_pieces(word) for word in header.split(" ")]
    width = max(len(piece) for pieces in words for piece in pieces)
    return "\n".join(_broken(words, width))


def _broken(words: Iterable[Sequence[str]], width: int, indent: str = "") -> list[str]:
    """Lines of words, each in pieces; `indent` stands before all lines but the first."""
    lines = [""]
    for pieces in words:
        for place, piece in enumerate(pieces):
            joined = f"{lines[-1]} {piece}" if lines[-1] and place == 0 else lines[-1] + piece
            if lines[-1] and len(joined) > width:
                lines.append(indent + piece)
            else:
                lines[-1] = joined
    return lines


def _pieces(text: str | None) -> list[str]:
    """What is broken last: of a method's name, its options in brackets and its preset."""
    return (text and variants.breakable(text)) or ["–"]


class _Cell(NamedTuple):
    """A text for rich, which breaks lines at spaces alone."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        pieces = _pieces(self.text)
        if len(pieces) == 1:
            return Measurement.get(console, options, Text(*pieces))
        return Measurement(max(map(len, pieces)), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        pieces = _pieces(self.text)
        return map(Text, pieces if len(pieces) == 1 else _broken([pieces], options.max_width, " "))


def markdown(frame: pl.DataFrame) -> str:
    """Any frame as a Markdown table; numbers to the right, null as an en dash.

    >>> print(markdown(pl.DataFrame({"method": ["cgsv"], "seeds": [3]})))
    | method | seeds |
    |---|---:|
    | cgsv | 3 |
    """

    def cell(value: Any) -> str:
        text = number(value, digits=4) if isinstance(value, float) else str(value)
        text = text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
        return "–" if value is None else text

    right = [_is_numeric(column) for column in frame]
    lines = [
        "| " + " | ".join(cell(name) for name in frame.columns) + " |",
        "|" + "|".join("---:" if yes else "---" for yes in right) + "|",
    ]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in frame.iter_rows()]
    return "\n".join(lines)


def html(report: Report) -> str:
    """A report as an HTML table with its title and the lines below it; no style but alignment."""

    def cell(kind: str, text: str | None, right: bool) -> str:
        align = f' style="text-align: {"right" if right else "left"}"'
        return f"<{kind}{align}>{escape(terminal.plain('–' if text is None else text))}</{kind}>"

    right = [_is_numeric(column) for column in report.cells]
    head = "".join(map(cell, ("th",) * len(right), report.cells.columns, right))
    rows = ("".join(map(cell, ("td",) * len(right), row, right)) for row in report.cells.rows())
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    lines = "<br>".join(escape(terminal.plain(line)) for line in report.lines)
    return (
        f"<table><caption>{escape(report.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table><p><small>{lines}</small></p>"
    )


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_LATEX |= {"±": r"$\pm$", "–": "--", "‖": r"$\Vert$", "×": r"$\times$", "…": r"\ldots{}"}
_LATEX |= {"†": r"\textdagger{}"}
# A bracket after the end of a row would be its height.
_LATEX |= {"[": "{[}", "]": "{]}", "²": r"\textsuperscript{2}", "\N{NO-BREAK SPACE}": "~"}


def latex_text(text: str) -> str:
    """A text as LaTeX prints it, in one line, whatever is in it.

    >>> print(latex_text("50 % of a_b"))
    50 \\% of a\\_b
    """
    # A control character would be one for TeX too, and a line's end the end of a comment.
    line = " ".join(terminal.plain(text).split())
    return "".join(_LATEX.get(character, character) for character in line)


def latex(report: Report) -> str:
    """A report as a table of LaTeX with the rules of booktabs."""
    columns = "".join("r" if _is_numeric(column) else "l" for column in report.cells)
    rows = [report.cells.columns, *report.cells.iter_rows()]
    head, *body = (" & ".join(latex_text(x or "–") for x in row) + r" \\" for row in rows)
    notes = [rf"  \par\footnotesize {latex_text(line)}" for line in report.lines]
    table = [rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule", f"    {head}"]
    table += [r"    \midrule", *(f"    {row}" for row in body), r"    \bottomrule"]
    table += [r"  \end{tabular}"]
    title = [rf"  \caption{{{latex_text(report.title)}}}"] if report.title else []
    shown = table if report.cells.width else []
    whole = [r"\begin{table}", r"  \centering", *title, *shown, *notes, r"\end{table}"]
    return "\n".join(whole)


def markdown_of(report: Report) -> str:
    """A report as Markdown: its title, the table, and the lines below it."""
    title = [f"**{markdown_text(report.title)}**"] if report.title else []
    table = [markdown(report.cells)] if report.cells.width else []
    lines = ["  \n".join(map(markdown_text, report.lines))] if report.lines else []
    return "\n\n".join([*title, *table, *lines])


def markdown_text(text: str) -> str:
    """A text in one line that is neither markup nor a border."""
    for mark in "\\|<*_`":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split("\n"))


def _is_numeric(values: pl.Series) -> bool:
    if values.dtype != pl.String:
        return values.dtype.is_numeric()
    return any(
        value[:1].isdigit() or value[:2][1:].isdigit() or value.startswith(BOTH)
        for value in values.drop_nulls()
    )
