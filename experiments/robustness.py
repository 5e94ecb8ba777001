"""What dishonest clients do: method x attack x share of attackers.

The claim tested: that the cosine reputation, which never sees data, tells clients that cheat from
those that do not, and keeps models from the former and harm from the latter. Attackers are drawn
anew with every partition; the yardstick of an honest client is never attacked. `cgsv, removal`
takes out for good, from round 10 on, whoever has less than a third of the mean reputation.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from cgsv_jax.core import attacks
from experiments import common

METHODS = ("fedavg", "rffl", "cgsv")
SCALES = {
    "smoke": {
        "base": {"clients": 4, "rounds": 3, "seeds": 1},
        "partitions": ("class_imbalance",),
        "partition_seeds": (0,),
        "attackers": (1,),
        "attacks": ("sign_flip", "replication"),
    },
    "small": {
        "base": {"clients": 10, "seeds": 2, "rounds": 40},
        "partitions": ("uniform", "class_imbalance"),
        "partition_seeds": (0, 1),
        "attackers": (1, 3),
        "attacks": attacks.ATTACKS,
    },
    "full": {
        "base": {"dataset": "mnist", "clients": 20, "seeds": 3},
        "partitions": ("uniform", "power_law", "class_imbalance"),
        "partition_seeds": (0, 1, 2),
        "attackers": (2, 4, 8),
        "attacks": attacks.ATTACKS,
    },
}
VARIANTS = {
    "": {"algorithms": ["standalone", *METHODS]},
    "cgsv, removal": {"algorithms": ["standalone", "cgsv"], "removal": 1 / 3},
}
# column -> (heading, factor, digits, what is drawn: low, high, colours)
SHOWN = {
    "honest_accuracy": ("average accuracy of honest clients, %", 100, 1, (20, 100, "viridis")),
    "honest_fairness": ("fairness among honest clients", 1, 0, (-100, 100, "RdBu")),
    "attacker_share": ("entries of u_N that attackers receive, %", 100, 0, (0, 100, "viridis_r")),
    "attacker_reputation": ("attackers' reputation over the honest mean", 1, 2, (0, 2, "RdBu_r")),
    "separation": ("AUC of reputation: honest above attackers", 1, 2, (0, 1, "RdBu")),
}


NOTE = (
    "Fairness in k of n runs where it is undefined in others. A reputation over the honest mean is "
    "undefined where no honest client has any left, all having been removed. With replication the "
    "number is that of the copies that come on top."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every attack with every share of attackers."""
    what = common.asked("robustness", __doc__, argv)
    chosen = SCALES[what.scale]
    configs, columns = [], []
    for seed in chosen["partition_seeds"]:
        for label, name, count in cases(chosen):
            asked = [] if name is None else [f"{name}:{count + (name == attacks.REPLICATION)}"]
            for variant, changes in VARIANTS.items():
                configs.append(
                    {"data_dir": what.data_dir, "eval_every": 10**6, **chosen["base"], **changes}
                    | {"partitions": list(chosen["partitions"]), "partition_seed": seed}
                    | {"attacks": asked}
                )
                columns.append(
                    {"kind": label, "count": count, "partition_seed": seed, "variant": variant}
                )
    # A program knows neither who cheats nor how rows are dealt: most of them are compiled once.
    with common.compiled_once():
        frame = common.remembered(what, "robustness-runs", configs, columns)
    frame = frame.filter(pl.col("method") != "standalone").with_columns(
        pl.when(pl.col("variant") == "").then("method").otherwise("variant").alias("method"),
        # Where nobody cheats, all are honest.
        pl.coalesce("honest_accuracy", "mean_accuracy").alias("honest_accuracy"),
        pl.when(pl.col("attackers") == 0)
        .then("fairness")
        .otherwise("honest_fairness")
        .alias("honest_fairness"),
    )
    number = chosen["base"]["clients"]
    sections: list = [("", NOTE)]
    for partition in chosen["partitions"]:
        own = frame.filter(partition=partition)
        for column, (heading, factor, digits, _) in SHOWN.items():
            if own[column].null_count() < len(own):
                sections.append((f"{partition}: {heading}", table(own, column, factor, digits)))
    seeds = f"{len(chosen['partition_seeds'])} partitions, {chosen['base']['seeds']} seeds each"
    common.report(
        *(what, f"Dishonest clients among {number}: means over {seeds}"),
        sections,
        *(frame, figure(frame, number), common.provenance(chosen["base"]["seeds"])),
    )


def cases(chosen: dict) -> list[tuple[str, str | None, int]]:
    """(label, attack, attackers); first the world without any.

    With replication one client poses as one more than the number of attackers, so that as many
    clients too many take part.
    """
    found: list[tuple[str, str | None, int]] = [("none", None, 0)]
    for name in chosen["attacks"]:
        found += [(name, name, count) for count in chosen["attackers"]]
    return found


def table(frame: pl.DataFrame, column: str, factor: float, digits: int) -> pl.DataFrame:
    """Attacks down, methods across: mean over partitions and seeds; counts where undefined."""
    rows = []
    for (attack, count), own in frame.group_by("kind", "count", maintain_order=True):
        row = {"attack": attack, "attackers": str(count)}
        for (method,), runs in own.group_by("method", maintain_order=True):
            row[method] = common.spread(runs[column].to_list(), factor, digits)
        rows.append(row)
    made = pl.DataFrame(rows)
    return made.filter(pl.any_horizontal(pl.exclude("attack", "attackers") != "–"))


def figure(frame: pl.DataFrame, number: int) -> Figure:
    """A row of panels per partition, a panel per measure: attacks down, methods across."""
    partitions = frame["partition"].unique(maintain_order=True).to_list()
    methods = frame["method"].unique(maintain_order=True).to_list()
    kinds = frame.select("kind", "count").unique(maintain_order=True).rows()
    size = (3.0 * len(SHOWN) + 1.6, (0.19 * len(kinds) + 1.3) * len(partitions))
    drawn, grid = common.panels(
        len(partitions), len(SHOWN), size, f"Attackers among {number} clients, mean over runs"
    )
    for axes_row, partition in zip(grid, partitions, strict=True):
        for place, (axes, (column, (heading, factor, digits, span))) in enumerate(
            zip(axes_row, SHOWN.items(), strict=True)
        ):
            values = np.full((len(kinds), len(methods)), np.nan)
            for i, (attack, count) in enumerate(kinds):
                for j, method in enumerate(methods):
                    own = frame.filter(
                        partition=partition, kind=attack, count=count, method=method
                    )[column].drop_nulls()
                    if len(own):
                        values[i, j] = factor * own.mean()
            low, high, colours = span
            axes.imshow(values, vmin=low, vmax=high, cmap=colours, aspect="auto")
            for (i, j), value in np.ndenumerate(values):
                text = "–" if np.isnan(value) else f"{value:.{digits}f}"
                axes.text(
                    *(j, i, text),
                    ha="center", va="center", fontsize=6, color="black",
                    bbox={"boxstyle": "round,pad=0.1", "fc": "white", "alpha": 0.6, "lw": 0},
                )  # fmt: skip
            axes.set_title(f"{partition}\n{heading}", fontsize=7)
            axes.set_xticks(range(len(methods)), methods, fontsize=6, rotation=20)
            labels = [f"{attack}, {count}" if count else attack for attack, count in kinds]
            axes.set_yticks(range(len(kinds)), labels if place == 0 else [], fontsize=6)
            axes.grid(visible=False)
    return drawn


if __name__ == "__main__":
    main()
