"""Reputation, quota and distance to the server model over rounds, at N = 10, 100 and 1,000.

With and without the two options for large populations: scores brought to the scale of reputations
before the moving average, and the floor relative to 1 / N. Without them r sums to 1 while psi does
not, so that at large N the newest round is all that counts, and the floor of 1e-3 is above 1 / N.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import common

OPTIONS = {
    "as it is": {},
    "relative floor": {"relative_floor": True},
    "both options": {"relative_floor": True, "normalise_scores": True},
}
SCALES = {
    "smoke": {"clients": (10, 20), "rows": 8, "rounds": 4, "seeds": 1},
    "small": {"clients": (10, 100, 1000), "rows": 30, "rounds": 40, "seeds": 3},
    "full": {"clients": (10, 100, 1000, 10_000), "rows": 60, "rounds": 100, "seeds": 3},
}
ALPHA = 0.95
TENTHS = {"fewest rows": (0, (1, 1.5)), "most rows": "-"}  # as they are drawn
OVERLAID = "relative floor"  # alone it hardly changes anything: points on the line of "as it is"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs cgsv on Gaussian classes under a power law for every N and option."""
    what = common.asked("populations", __doc__, argv)
    scale = SCALES[what.scale]
    configs, columns = [], []
    for clients in scale["clients"]:
        for name, extra in OPTIONS.items():
            configs.append(
                {
                    "dataset": "synthetic",
                    "synthetic_rows": round(scale["rows"] * clients / 0.9) + 1,
                    "clients": clients,
                    "algorithms": "cgsv",
                    "alpha": ALPHA,
                    "rounds": scale["rounds"],
                    "seeds": scale["seeds"],
                    "eval_every": 2,
                    **extra,
                }
            )
            columns.append({"N": clients, "options": name})
    rounds = common.run(configs, columns)["rounds"]
    shown = by_tenths(rounds)
    common.report(
        *(what, "Large populations: reputation, quota and distance over rounds"),
        [
            (
                "",
                "After the last round; the tenths of the clients with fewest and most rows. "
                "Reputations are times N, so that 1 is the mean. The weight of the newest round "
                f"in r is nominally 1 - alpha = {1 - ALPHA:.2f}. At the floor: share of clients "
                "who have the smallest reputation together with others.",
            ),
            ("", last_round(rounds)),
        ],
        *(shown, figure(shown), common.provenance(scale["seeds"])),
    )


def by_tenths(rounds: pl.DataFrame) -> pl.DataFrame:
    """Means over seeds and over the tenth of the clients with fewest, middle and most rows.

    The power law's clients are in order of their rows.
    """
    place = pl.col("client") / pl.col("N")
    group = (
        pl.when(place < 0.1)
        .then(pl.lit("fewest rows"))
        .when((place >= 0.45) & (place < 0.55))
        .then(pl.lit("middle"))
        .when(place >= 0.9)
        .then(pl.lit("most rows"))
    )
    return (
        rounds.with_columns(group.alias("tenth"))
        .drop_nulls("tenth")
        .group_by("N", "options", "tenth", "round", maintain_order=True)
        .agg(
            (pl.col("reputation") * pl.col("N")).mean().alias("reputation times N"),
            pl.col("share").mean(),
            pl.col("distance").mean(),
        )
        .sort("N", "options", "tenth", "round")
    )


def newest_weight(own: pl.DataFrame) -> float:
    """Weight of the newest round in r, (1-a) S / (a + (1-a) S), S = sum of psi: mean over rounds.

    With normalised scores S is 1 by construction.
    """
    if own["options"][0] == "both options":
        return 1 - ALPHA
    total = own.group_by("seed", "round").agg(pl.col("score").sum())["score"].to_numpy()
    return float(np.mean((1 - ALPHA) * total / (ALPHA + (1 - ALPHA) * total)))


def last_round(rounds: pl.DataFrame) -> pl.DataFrame:
    """A row per N and option."""
    rows = []
    for (clients, name), own in rounds.group_by("N", "options", maintain_order=True):
        last = own.filter(pl.col("round") == own["round"].max())
        tenths = by_tenths(last)
        lowest = last.group_by("seed").agg(
            (pl.col("reputation") <= pl.col("reputation").min() * 1.0001).mean().alias("at")
        )
        row = {"N": clients, "options": name, "weight of newest round": f"{newest_weight(own):.2f}"}
        few, most = (tenths.filter(tenth=t) for t in ("fewest rows", "most rows"))
        row["N r, fewest"] = f"{few['reputation times N'][0]:.2f}"
        row["N r, most"] = f"{most['reputation times N'][0]:.2f}"
        # One client alone at the smallest is above the floor: somebody always is smallest.
        alike = lowest["at"].to_numpy()
        row["at the floor, %"] = f"{100 * np.where(alike * clients > 1.5, alike, 0).mean():.0f}"
        row["entries, fewest, %"] = f"{100 * few['share'][0]:.0f}"
        row["entries, most, %"] = f"{100 * most['share'][0]:.0f}"
        row["distance, fewest"] = f"{few['distance'][0]:.2f}"
        row["distance, most"] = f"{most['distance'][0]:.2f}"
        accuracy = last["accuracy"].mean()
        row["average accuracy, %"] = f"{100 * accuracy:.1f}"
        rows.append(row)
    return pl.DataFrame(rows)


def figure(shown: pl.DataFrame) -> Figure:
    """Rows: reputation, share of entries, distance; columns: N; a colour per option."""
    numbers = shown["N"].unique(maintain_order=True).to_list()
    wanted = (
        ("reputation times N", "reputation times N"),
        ("share", "entries received, share"),
        ("distance", "distance to\nthe server's model"),
    )
    size = (3.2 * len(numbers) + 0.8, 7.5)
    title = "The tenths of the clients with fewest and with most rows"
    drawn, grid = common.panels(3, len(numbers), size, title)
    for column, number in enumerate(numbers):
        for axes, (value, label) in zip(grid[:, column], wanted, strict=True):
            for place, name in enumerate(OPTIONS):
                for tenth, dash in TENTHS.items():
                    own = shown.filter(
                        pl.col("N") == number,
                        pl.col("options") == name,
                        pl.col("tenth") == tenth,
                    ).drop_nulls(value)
                    look = {"color": common.figures.CYCLE[place], "linestyle": dash}
                    if name == OVERLAID:
                        look |= _marked(place, len(own))
                    axes.plot(own["round"], own[value], **look)
            axes.set_xlim(0, shown["round"].to_numpy().max() + 1)
            if column == 0:
                axes.set_ylabel(label, fontsize=9)
        grid[0, column].set_title(f"N = {number:,}", fontsize=10)
        grid[-1, column].set_xlabel("round", fontsize=9)
    handles = [
        Line2D(
            [], [], label=name, color=common.figures.CYCLE[place],
            **(_marked(place, 1) if name == OVERLAID else {}),
        )
        for place, name in enumerate(OPTIONS)
    ] + [
        Line2D([], [], color=common.figures.GREY, linestyle=dash, label=tenth)
        for tenth, dash in TENTHS.items()
    ]  # fmt: skip
    common.legend_below(drawn, handles, len(handles))
    return drawn


def _marked(place: int, points: int) -> dict[str, Any]:
    """Points without a line: they are seen on a line that goes through them."""
    marker = common.figures.MARKERS[place]
    every = max(points // 12, 1)
    look = {"marker": marker, "markersize": 4.5, "markerfacecolor": "none", "markevery": every}
    return look | {"linestyle": "", "zorder": 3}


if __name__ == "__main__":
    main()
