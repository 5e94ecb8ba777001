"""Whom a reputation takes in: measure x attack x partition, with one and with three of ten.

The claim tested: that a measure which uses what the server itself has sent, and to whom, that lets
those who say the same share one value, and that hears every class, cannot be fooled by what fools
the cosine, and costs nothing where nobody cheats. Attackers are drawn anew with every draw of a
partition; the yardstick of an honest client is never attacked. Whatever honest clients lose is
against the same clients, seed and draw where nobody cheats.
"""

import concurrent.futures
import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from cgsv_jax import data
from cgsv_jax.core import attacks, metrics
from cgsv_jax.experiment import names
from cgsv_jax.host import terminal
from cgsv_jax.results import frames, tables
from experiments import attacked, common
from experiments.attacked import NOBODY, Cell

PARTITIONS = ("uniform", "power_law", "class_imbalance")
SHORT = {"uniform": "UNI", "power_law": "POW", "class_imbalance": "CLA"}
# What a run of each is, beside its task; a measure whose rules do not exist is left out.
MEASURES: dict[str, dict[str, Any]] = {
    "cosine": {"algorithms": ["cgsv"]},
    "witness": {"algorithms": ["witness"]},
    "echo": {"algorithms": ["cgsv"], "contribution": "echo", "echo_of": "cosine"},
    "quotient": {"algorithms": ["cgsv"], "contribution": "quotient", "quotient_of": "cosine"},
    "class_cosine": {"algorithms": ["cgsv"], "contribution": "class_cosine"},
    "leave_self_out": {"algorithms": ["cgsv"], "contribution": "leave_self_out"},
    "foolsgold": {"algorithms": ["cgsv"], "contribution": "foolsgold"},
    "viceroy": {"algorithms": ["cgsv"], "contribution": "viceroy"},
    "fgfl": {"algorithms": ["cgsv"], "contribution": "fgfl"},
    "s2_wef": {"algorithms": ["cgsv"], "contribution": "s2_wef"},
    "cosine, removal": {"algorithms": ["cgsv"], "removal": 1 / 3},
    "rffl": {"algorithms": ["rffl"]},
    # A server's step that shrinks: downloads of successive rounds, and what the honest send, are
    # nearly one direction there, which must not be taken for an echo.
    "cosine, steady": {"algorithms": ["cgsv"], "preset": "steady"},
    "witness, steady": {"algorithms": ["witness"], "preset": "steady"},
}
STANDARD, CURE = "cosine", "witness"
LEADING = (CURE, STANDARD)
STEADY = tuple(f"{name}, steady" for name in LEADING)
OTHERS = tuple(name for name in MEASURES if name not in LEADING + STEADY)
# The attacks that the cure is held against.
AGAINST = (
    *("free_rider_replay", "free_rider_replay_noise", "free_rider_replay_delayed"),
    attacks.REPLICATION,
)
# And those that measures without a claim meet on the larger set: one of each kind.
OF_ALL = (*AGAINST, "sybils", "free_rider", "free_rider_noise", "sign_flip", "label_flip")


class Part(NamedTuple):
    """Cells that are crossed completely, and with a world in which nobody cheats."""

    dataset: str
    measures: Sequence[str]
    attacks: Sequence[str]
    counts: Sequence[int]
    seeds: int
    draws: int
    partitions: Sequence[str] = PARTITIONS


class Scale(NamedTuple):
    """What is run, in this order: what says most comes first, and what is there is not run anew."""

    base: Mapping[str, Mapping[str, Any]]  # data set -> what differs from its defaults
    parts: Sequence[Part]
    clients: int = 10


SCALES = {
    "smoke": Scale(
        {"digits": {"rounds": 3, "eval_every": 1}},
        [
            Part("digits", LEADING, AGAINST[:1], (1,), 2, 1, ("class_imbalance",)),
            Part("digits", LEADING, ("label_flip", AGAINST[3]), (1,), 1, 1, ("class_imbalance",)),
        ],
        4,
    ),
    "small": Scale(
        {
            "digits": {"rounds": 40, "eval_every": 4},
            "mnist": {"model": "mlp", "hidden": [32], "rows_per_client": 100, "eval_rows": 1000}
            | {"rounds": 40, "epochs": 2, "eval_every": 8},
        },
        [
            Part("digits", LEADING, AGAINST, (1, 3), 5, 3),
            Part("mnist", LEADING, AGAINST, (1, 3), 5, 3),
            Part("digits", LEADING, attacks.ATTACKS, (1, 3), 5, 3),
            Part("mnist", STEADY, AGAINST, (3,), 5, 3),
            Part("digits", STEADY, AGAINST, (3,), 5, 3),
            Part("digits", OTHERS, attacks.ATTACKS, (3,), 2, 3),
            Part("mnist", LEADING, attacks.ATTACKS, (3,), 5, 3),
            Part("digits", OTHERS, attacks.ATTACKS, (1,), 1, 3),
            Part("mnist", OTHERS, OF_ALL, (3,), 1, 3),
        ],
    ),
    "full": Scale(
        {"digits": {}, "mnist": {"model": "mlp"}},
        [
            Part(dataset, measures, attacks.ATTACKS, (1, 3), 5, 3)
            for measures in (LEADING, OTHERS, STEADY)
            for dataset in ("digits", "mnist")
        ],
    ),
}
# column -> (heading, factor, digits)
SHOWN = {
    "separation": ("AUC of reputation, honest above attackers", 1, 2),
    "entries": ("entries that an attacker receives over those of an honest client", 1, 2),
    "power": ("energy that an attacker receives over that of an honest client", 1, 2),
    "accuracy": ("accuracy of honest clients, %", 100, 1),
    "late_fairness": ("fairness among honest clients, last quarter", 1, 0),
    "late_fairness_by_loss": ("the same by loss", 1, 0),
}
MARK = "#ffd400"  # of a corner, to be seen on red and on blue
# What is promised of a cell with attackers: column of `differences` -> (words, whether it holds).
LINES: dict[str, tuple[str, Callable[[pl.Expr], pl.Expr]]] = {
    "separation": ("AUC at least .95", lambda x: x >= 0.95),
    "entries": ("entries below a third", lambda x: x < 1 / 3),
    "lost": ("at most a point of accuracy lost", lambda x: x <= 1),
    "unfair": ("at most five points of fairness lost", lambda x: x <= 5),
}

WORDS = dict(zip(LINES, ("AUC", "entries", "accuracy", "fairness"), strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, and shows what is there."""
    what = common.asked("robustness", str(__doc__), argv)
    scale = SCALES[what.scale]
    here = {line.name for line in data.available(what.data_dir) if line.present}
    missing = [f"{name}: data not on this machine" for name in scale.base if name not in here]
    missing += [f"{name}: no such rule" for name in MEASURES if not exists(name)]
    wanted = [cell for cell in cells(scale) if cell.dataset in here and exists(cell.measure)]
    frame = tidy(remembered(what, scale, wanted))
    there = set(frame.select(attacked.KEYS).unique().rows())
    left = sum(cell[: len(attacked.KEYS)] not in there for cell in wanted)
    missing += [f"{left} of {len(wanted)} cells: interrupted"] if left else []
    frame = frame.filter(pl.col("measure") != frames.YARDSTICK)
    drawn = [name for name in scale.base if name in frame["dataset"]]
    for dataset in drawn[1:]:
        common.save(what, figure(frame, dataset, scale.clients), dataset)
    common.report(
        *(what, f"Whom a reputation takes in: attackers among {scale.clients} clients"),
        sections(frame, scale, missing),
        of_cells(frame),
        figure(frame, drawn[0], scale.clients),
        common.provenance(),
    )


# ---------------------------------------------------------------- what is run


def exists(measure: str) -> bool:
    """Whether all rules of a measure do."""
    asked, there = MEASURES.get(measure, {"algorithms": [measure]}), names.TABLES
    words = [asked.get(name, "cosine") for name in ("contribution", "echo_of", "quotient_of")]
    return set(words) <= set(there.contributions) and asked["algorithms"][0] in there.algorithms


def cells(scale: Scale) -> list[Cell]:
    """All cells in order, each once: as the first part that has it has it."""
    found: dict[tuple, Cell] = {}

    def add(cell: Cell) -> None:
        found.setdefault(cell[: len(attacked.KEYS)], cell)

    for part in scale.parts:
        for partition in part.partitions:
            runs = tuple(range(part.seeds)), part.draws
            place = part.dataset, partition
            add(Cell(*place, frames.YARDSTICK, NOBODY, 0, *runs))
            for measure in part.measures:
                add(Cell(*place, measure, NOBODY, 0, *runs))
            for attack in part.attacks:
                for count in part.counts:
                    for measure in part.measures:
                        add(Cell(*place, measure, attack, count, *runs))
    return list(found.values())


def asked_of(what: common.Asked, scale: Scale, cell: Cell) -> dict[str, Any]:
    """The cell as `experiment.configure` takes it, all its draws."""
    return {
        **{"dataset": cell.dataset, "data_dir": what.data_dir, "clients": scale.clients},
        **scale.base[cell.dataset],
        **MEASURES.get(cell.measure, {"algorithms": [cell.measure]}),
        "partitions": [cell.partition],
        "seeds": list(cell.seeds),
        "partition_seeds": cell.draws,
        "attacks": attacked.asked_of(cell),
    }


def remembered(what: common.Asked, scale: Scale, wanted: Sequence[Cell]) -> pl.DataFrame:
    """`attacked.rows` of every cell; those that were run already, by these versions, are read.

    An interrupt ends the running; what is there then is returned.
    """
    file = what.out / f"robustness-runs-{what.scale}.parquet"
    known = pl.read_parquet(file) if file.exists() and not what.again else None
    here = common.provenance()
    codes = {cell: common.fingerprint(asked_of(what, scale, cell)) for cell in wanted}
    parts: dict[Cell, pl.DataFrame] = {}
    if known is not None:
        by_code = known.partition_by("configuration", as_dict=True)
        parts = {cell: by_code[code,] for cell, code in codes.items() if (code,) in by_code}
    # Of these versions, but of another scale of another time: kept, and not shown.
    others = []
    if known is not None:
        beside = ~pl.col("configuration").is_in([*codes.values()]) & (pl.col("made_by") == here)
        others = [known.filter(beside)]
    left = [cell for cell in wanted if cell not in parts]

    def write() -> pl.DataFrame:
        if not parts:
            raise SystemExit("nothing is there yet to be shown")
        whole = pl.concat([parts[cell] for cell in wanted if cell in parts])
        pl.concat([whole, *others]).write_parquet(file.with_suffix(".tmp"), compression="zstd")
        os.replace(file.with_suffix(".tmp"), file)
        return whole

    written = time.monotonic()
    with terminal.watching(terminal.console(stderr=True), len(wanted), "cells") as watch, ended():
        try:
            for cell, rows in run(what, scale, left, wanted):
                code = pl.lit(codes[cell]).alias("configuration")
                parts[cell] = rows.with_columns(code, pl.lit(here).alias("made_by"))
                watch(", ".join(map(str, cell[: len(attacked.KEYS)])), len(parts))
                if time.monotonic() - written > 20:
                    write()
                    written = time.monotonic()
        except KeyboardInterrupt:
            terminal.complain(f"{len(wanted) - len(parts)} of {len(wanted)} cells are left")
        except Exception:
            write()
            raise
    return write().drop("configuration")


@contextlib.contextmanager
def ended() -> Iterator[None]:
    """Within it SIGTERM is an interrupt, as of the keyboard."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(
    what: common.Asked, scale: Scale, left: Sequence[Cell], wanted: Sequence[Cell]
) -> Iterator[tuple[Cell, pl.DataFrame]]:
    """Runs what is left, a thread for every core, and yields each cell as it ends."""
    if not left:
        return
    worlds = {}
    for dataset in dict.fromkeys(cell.dataset for cell in left):
        own = [cell for cell in wanted if cell.dataset == dataset]
        base = {"dataset": dataset, "data_dir": what.data_dir, "clients": scale.clients}
        partitions = [*dict.fromkeys(cell.partition for cell in own)]
        draws = max(cell.draws for cell in own)
        worlds[dataset] = attacked.world({**base, **scale.base[dataset]}, partitions, draws)
    one = attacked.runner(worlds)
    baselines = {cell[:2]: cell for cell in wanted if cell.measure == frames.YARDSTICK}

    locks = {place: threading.Lock() for place in baselines}

    @functools.cache
    def of_baseline(place: tuple[str, str]) -> list[frames.Cell]:
        own = baselines[place]
        return attacked.ran(one, own, asked_of(what, scale, own) | {"partition_seeds": 1}, worlds)

    def alone(place: tuple[str, str]) -> list[frames.Cell]:
        with locks[place]:  # whoever comes first runs it
            return of_baseline(place)

    def through(cell: Cell) -> tuple[Cell, pl.DataFrame]:
        if cell.measure == frames.YARDSTICK:
            return cell, attacked.rows(cell, alone(cell[:2]), alone(cell[:2]))
        asked = asked_of(what, scale, cell) | {"partition_seeds": 1}
        return cell, attacked.rows(cell, attacked.ran(one, cell, asked, worlds), alone(cell[:2]))

    workers = os.cpu_count() if jax.default_backend() == "cpu" else 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(through, cell) for cell in left]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------- what is said


NOTE = """Every measure stands in the same method, CGSV, in place of its cosine; `witness` is the
composition of three (quotient of the echo of the class cosine), `cosine, removal` takes out for
good, from round 10 on, whoever has less than a third of the mean reputation, `rffl` is that method.
A cell is the mean over its runs. AUC: the probability that an honest client's last reputation is
above an attacker's. Entries and energy are those that were received, means over rounds. Accuracy,
fairness and what is lost are those of the honest clients alone; lost is what the same clients, in
runs of the same seed and draw, have where nobody cheats. Three of ten that send nothing new take
their data with them, under CLA whole classes: what `free_rider` (zeros) costs, an attacker costs
that is found out at once, and `lost beyond zeros` is what it costs more than that.
Fairness is 100 x Pearson's correlation with the standalone accuracies, the mean over the last
quarter of the evaluations; an interval that contains the limit is marked `?`."""


def tidy(runs: pl.DataFrame) -> pl.DataFrame:
    """A row per run, with what is against others: the yardstick's own among them."""
    return differences(attacked.beside_nobody(runs))


def of_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """A row per cell: how many runs, mean and sample deviation of every number."""
    numbers = [name for name in frame.columns if frame.schema[name].is_float()]
    values = [
        own for n in numbers for own in (pl.col(n).mean(), pl.col(n).std().name.suffix("_sd"))
    ]
    return frame.group_by(attacked.KEYS, maintain_order=True).agg(pl.len().alias("runs"), *values)


def differences(frame: pl.DataFrame) -> pl.DataFrame:
    """With what attackers receive beside an honest client, and what these lose to them."""

    def over(one: str, other: str) -> pl.Expr:
        return pl.when(pl.col(other) > 0).then(pl.col(one) / pl.col(other))

    attacks_it = pl.col("attack") != NOBODY
    return frame.with_columns(
        over("attacker_share", "share").alias("entries"),
        over("attacker_energy", "energy").alias("power"),
        *(
            pl.when(attacks_it).then(factor * (pl.col(f"none_{name}") - pl.col(name))).alias(lost)
            for name, factor, lost in (
                ("accuracy", 100, "lost"),
                ("late_fairness", 1, "unfair"),
                ("late_fairness_by_loss", 1, "unfair_by_loss"),
            )
        ),
    )


def sections(frame: pl.DataFrame, scale: Scale, missing: Sequence[str]) -> list:
    """What is printed."""
    found: list[tuple[str, pl.DataFrame | str]] = [("", NOTE.replace("\n", " "))]
    found += [("", crossed(scale))]
    if missing:
        found.append(("Not run", "\n".join(f"* {line}" for line in missing)))
    found += against_the_lines(frame)
    found.append(("Who is not taken in", HELD))
    found.append(("", overview(frame)))
    for (dataset,), own in frame.filter(attack=NOBODY).group_by("dataset", maintain_order=True):
        found.append((f"Nobody cheats: {dataset}", nobody(own)))
    cheated = frame.filter(pl.col("attack") != NOBODY)
    for place, own in cheated.group_by("dataset", "partition", maintain_order=True):
        for column, (heading, factor, digits) in SHOWN.items():
            if own[column].null_count() < len(own):
                title = f"{place[0]}, {SHORT[place[1]]}: {heading}"
                found.append((title, table(own, column, factor, digits)))
    return found


def crossed(scale: Scale) -> str:
    """Which cells there are, in words."""
    lines = []
    for part in scale.parts:
        kinds = ", ".join(part.attacks) if len(part.attacks) < 9 else "every attack"
        counts = " and ".join(map(str, part.counts))
        where = ", ".join(SHORT[name] for name in part.partitions)
        runs = f"{part.seeds} seeds on each of {part.draws} draws"
        lines.append(
            f"* {part.dataset}, {where}: {', '.join(part.measures)} x {kinds}, by {counts} of "
            f"{scale.clients} clients: {runs}"
        )
    return "What is crossed; a cell that several lines have is that of the first:\n\n" + "\n".join(
        lines
    )


def table(frame: pl.DataFrame, column: str, factor: float, digits: int) -> pl.DataFrame:
    """Attacks down, measures across: means, by few and by many where there are both."""
    measures = present(frame, "measure", MEASURES)
    counts = sorted(frame["count"].unique())
    cells = dict(
        ((attack, measure, count), mean)
        for attack, measure, count, mean in frame.group_by("attack", "measure", "count")
        .agg(pl.col(column).mean())
        .rows()
    )
    heading = f"by {' | '.join(map(str, counts))}"
    rows = []
    for attack in present(frame, "attack", attacks.ATTACKS):
        row = {f"attack, {heading}": attack}
        for measure in measures:
            values = [cells.get((attack, measure, count)) for count in counts]
            row[measure] = " / ".join(
                "–" if v is None else tables.number(v, factor, digits) for v in values
            )
        rows.append(row)
    return pl.DataFrame(rows)


def mean_of(values: pl.Series) -> float | None:
    """Of what is defined; None: nothing is."""
    known = values.drop_nulls().to_numpy()
    return float(known.mean(dtype=np.float64)) if known.size else None


def present(
    frame: pl.DataFrame, column: str, order: Sequence[str] | Mapping[str, Any]
) -> list[str]:
    """The values of a column in this order."""
    there = set(frame[column])
    return [name for name in order if name in there]


# ---------------------------------------------------------------- what was promised


HELD = (
    "Cells (data sets, partitions, one and three attackers) in which AUC is at least .95 and an "
    "attacker receives less than a third of an honest client's entries, of those that were run; in "
    "brackets how many have the second alone."
)


def verdicts(frame: pl.DataFrame) -> pl.DataFrame:
    """A row per cell with attackers: the means of LINES, and whether each line is held."""
    cheated = frame.filter(pl.col("attack") != NOBODY)
    means = cheated.group_by(attacked.KEYS, maintain_order=True).agg(
        *(pl.col(name).mean() for name in LINES), pl.len().alias("runs")
    )
    held = [rule(pl.col(name)).alias(f"{name} held") for name, (_, rule) in LINES.items()]
    return means.with_columns(held)


def overview(frame: pl.DataFrame) -> pl.DataFrame:
    """Attacks down, measures across: in how many cells nobody is taken in."""
    found = verdicts(frame)
    rows = []
    for attack in present(found, "attack", attacks.ATTACKS):
        row = {"attack": attack}
        for measure in present(found, "measure", MEASURES):
            own = found.filter(attack=attack, measure=measure)
            both = (own["separation held"] & own["entries held"]).sum()
            row[measure] = f"{both} ({own['entries held'].sum()}) of {len(own)}"
        rows.append(row)
    return pl.DataFrame(rows)


def against_the_lines(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame | str]]:
    """Whether what was promised of the cure is so, cell by cell, and of the others in how many."""
    tried = verdicts(frame.filter(pl.col("attack").is_in(AGAINST)))
    rows = []
    for measure in present(tried, "measure", MEASURES):
        own = tried.filter(measure=measure)
        row = {"measure": measure, "cells": str(len(own))}
        for name, (words, _) in LINES.items():
            row[words] = str(own[f"{name} held"].sum())
        row["all of it"] = str(
            own.select(pl.all_horizontal(pl.selectors.ends_with(" held"))).to_series().sum()
        )
        rows.append(row)
    kinds = ", ".join(AGAINST)
    found: list[tuple[str, pl.DataFrame | str]] = []
    if rows:
        text = f"Cells in which a line is held, of {kinds}."
        found += [("Against the lines: how often", text), ("", pl.DataFrame(rows))]
    for name in (*LEADING, STEADY[0]):
        own = frame.filter(pl.col("measure") == name, pl.col("attack").is_in(AGAINST))
        if len(own):
            found.append((f"Against the lines: {name} where some cheat", cell_by_cell(own, frame)))
    quiet = where_nobody_cheats(frame)
    if len(quiet):
        text = (
            f"Against {STANDARD} of the same preset, seed by seed and draw by draw. UNI and POW: "
            "at most half a point of accuracy lost. CLA: accuracy and fairness gained, the client "
            "with all classes the first in every run, and more clients no worse than alone (IPR)."
        )
        found += [("Against the lines: where nobody cheats", text), ("", quiet)]
    return found


def cell_by_cell(own: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """A row per cell of one measure: what LINES are about, and which of them it fails."""
    rows = []
    for (dataset, partition, measure, attack, count), runs in own.group_by(
        attacked.KEYS, maintain_order=True
    ):
        absent = frame.filter(
            dataset=dataset, partition=partition, measure=measure, attack="free_rider", count=count
        )
        (judged,) = verdicts(runs).to_dicts()
        failed = [short for name, short in WORDS.items() if judged[f"{name} held"] is False]
        unknown = [short for name, short in WORDS.items() if judged[f"{name} held"] is None]
        verdict = f"fails: {', '.join(failed)}" if failed else "held"
        verdict += f"; undefined: {', '.join(unknown)}" if unknown else ""
        rows.append(
            {
                "cell": f"{dataset} {SHORT[partition]}, {attack} by {count}",
                "AUC": tables.number(judged["separation"], 1, 2),
                "entries": tables.number(judged["entries"], 1, 2),
                "accuracy lost": doubted(runs["lost"], 1, 1),
                "lost beyond zeros": doubted(beyond(runs, absent), 1, 1),
                "fairness lost": doubted(runs["unfair"], 5, 0),
                "by loss": doubted(runs["unfair_by_loss"], 5, 0),
                "verdict": verdict,
            }
        )
    return pl.DataFrame(rows)


def beyond(runs: pl.DataFrame, absent: pl.DataFrame) -> pl.Series:
    """Points of accuracy that the same honest clients lose more than to attackers that send zeros.

    None of replication, of which one client is no honest one however many copies there are.
    """
    on = ("partition_seed", "seed")
    pairs = runs.join(absent.select(*on, "cheats", "lost"), on, maintain_order="left")
    same = pl.col("cheats") == pl.col("cheats_right")
    return pairs.select(pl.when(same).then(pl.col("lost") - pl.col("lost_right"))).to_series()


def doubted(values: pl.Series, limit: float, digits: int) -> str:
    """`mean [low, high]`, and ? where the interval contains the limit."""
    known = values.drop_nulls().drop_nans().to_numpy()
    low, high = metrics.interval(known)
    return common.interval(values.to_list(), digits) + ("?" if low <= limit <= high else "")


def where_nobody_cheats(frame: pl.DataFrame) -> pl.DataFrame:
    """A row per data set, partition and measure but the standard one of its preset."""
    steady = pl.col("measure").is_in(STEADY).alias("steady")
    quiet = frame.filter(attack=NOBODY).with_columns(steady)
    on = ("dataset", "partition", "partition_seed", "seed", "steady")
    standard = pl.col("measure").is_in([STANDARD, STEADY[1]])
    usual = quiet.filter(standard).select(*on, pl.selectors.exclude(*attacked.KEYS, *on))
    pairs = quiet.filter(~standard).join(usual, on, maintain_order="left")
    rows = []
    for (dataset, partition, measure), own in pairs.group_by(
        attacked.KEYS[:3], maintain_order=True
    ):
        gained = {
            name: factor * (own[name] - own[f"{name}_right"])
            for name, factor in (
                ("accuracy", 100),
                ("late_fairness", 1),
                ("late_fairness_by_loss", 1),
            )
        }
        row = {
            "cell": f"{dataset} {SHORT[partition]}, {measure}",
            "accuracy gained": doubted(
                gained["accuracy"], -0.5 if partition != PARTITIONS[2] else 0, 1
            ),
            "fairness gained": doubted(gained["late_fairness"], 0, 0),
            "by loss": doubted(gained["late_fairness_by_loss"], 0, 0),
            "IPR, %": tables.number(mean_of(own["no_worse"]), 100, 0),
            f"{STANDARD}'s": tables.number(mean_of(own["no_worse_right"]), 100, 0),
            "all classes first in": "–",
        }
        if partition == PARTITIONS[2]:
            ranks = own["rank_of_all_classes"].drop_nulls()
            row["all classes first in"] = f"{(ranks == 1).sum()} of {len(ranks)}"
            tried = {
                "accuracy": (mean_of(gained["accuracy"]) or 0) > 0,
                "fairness": (mean_of(gained["late_fairness"]) or 0) > 0,
                "rank": len(ranks) > 0 and bool((ranks == 1).all()),
                # Where nobody is worse than alone there is no more to gain.
                "IPR": (mean_of(own["no_worse"] - own["no_worse_right"]) or 0) > 0
                or mean_of(own["no_worse"]) == 1,
            }
        else:
            tried = {"accuracy": (mean_of(gained["accuracy"]) or 0) >= -0.5}
        failed = [name for name, is_so in tried.items() if not is_so]
        row["verdict"] = f"fails: {', '.join(failed)}" if failed else "held"
        rows.append(row)
    return pl.DataFrame(rows)


def nobody(frame: pl.DataFrame) -> pl.DataFrame:
    """Partitions and measures down: levels where nobody cheats, of one data set."""
    rows = []
    for partition in present(frame, "partition", PARTITIONS):
        for measure in present(frame, "measure", MEASURES):
            own = frame.filter(partition=partition, measure=measure)
            if not len(own):
                continue
            row = {"partition": SHORT[partition], "measure": measure}
            row["accuracy, %"] = common.spread(own["accuracy"].to_list(), 100, 1)
            for title, name in (("fairness", "fairness"), ("by loss", "fairness_by_loss")):
                low, high = mean_of(own[f"{name}_low"]), mean_of(own[f"{name}_high"])
                at_the_end = tables.number(mean_of(own[name]), 1, 0)
                if low is not None and high is not None:
                    at_the_end += f" [{low:z.0f}, {high:z.0f}]"
                row[f"{title} at the end [interval]"] = at_the_end
                row[f"{title}, last quarter"] = common.spread(own[f"late_{name}"].to_list(), 1, 0)
            row["no worse than alone, %"] = common.spread(own["no_worse"].to_list(), 100, 0)
            ranks = own["rank_of_all_classes"].drop_nulls()
            row["rank of the client with all classes"] = common.ranged(ranks) if len(ranks) else "–"
            rows.append(row)
    return pl.DataFrame(rows)


# ---------------------------------------------------------------- what is drawn


def figure(frame: pl.DataFrame, dataset: str, number: int) -> Figure:
    """AUC of most attackers: a panel per partition, measures down, attacks across.

    A corner is marked where an attacker receives a third of an honest client's entries or more.
    """
    own = frame.filter(pl.col("dataset") == dataset, pl.col("attack") != NOBODY)
    most = own.filter(pl.col("count") == pl.col("count").max())
    partitions = present(most, "partition", PARTITIONS)
    measures, kinds = present(most, "measure", MEASURES), present(most, "attack", attacks.ATTACKS)
    means = most.group_by("partition", "measure", "attack").agg(
        pl.col("separation").mean(), pl.col("entries").mean()
    )
    size = (max(0.44 * len(kinds) + 2.6, 6.5), (0.24 * len(measures) + 0.4) * len(partitions) + 1.9)
    title = (
        f"{dataset}: AUC of reputation, {most['count'].max()} attackers among {number} clients\n"
        "yellow corner: an attacker receives a third of an honest client's entries, or more"
    )
    drawn, grid = common.panels(len(partitions), 1, size, title)
    for axes, partition in zip(grid[:, 0], partitions, strict=True):
        cells = {
            row[:2]: row[2:]
            for row in means.filter(partition=partition)
            .select("measure", "attack", "separation", "entries")
            .rows()
        }
        values = np.array(
            [[cells.get((m, a), (None, None))[0] for a in kinds] for m in measures], float
        )
        image = common.written_map(
            *(axes, values),
            lambda auc: f"{auc:.2f}".lstrip("0") if auc < 0.995 else "1",
            lambda auc: abs(auc - 0.5) > 0.35,
            **{"vmin": 0, "vmax": 1, "cmap": "RdBu"},
        )
        for i, j in np.argwhere(np.isfinite(values)):
            entries = cells[measures[i], kinds[j]][1]
            if entries is not None and entries >= 1 / 3:
                corner = [(j + 0.5, i - 0.5), (j + 0.5, i - 0.12), (j + 0.2, i - 0.5)]
                axes.add_patch(Polygon(corner, color=MARK, linewidth=0))
        axes.set_title(SHORT[partition], fontsize=9, loc="left")
        axes.set_yticks(range(len(measures)), measures, fontsize=8)
        last = partition == partitions[-1]
        axes.set_xticks(range(len(kinds)), kinds if last else [], fontsize=8)
        if last:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", rotation_mode="anchor")
        axes.tick_params(length=0)
    bar = drawn.colorbar(image, ax=grid[:, 0].tolist(), shrink=0.5, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    return drawn


if __name__ == "__main__":
    main()
