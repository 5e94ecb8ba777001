"""What dishonest clients do: method x attack x share of attackers.

The claim tested: that the cosine reputation, which never sees data, tells clients that cheat from
those that do not, and keeps models from the former and harm from the latter. Attackers are drawn
anew with every partition; the yardstick of an honest client is never attacked. `cgsv, removal`
takes out for good, from round 10 on, whoever has less than a third of the mean reputation.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
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
# column -> (heading, factor, digits)
SHOWN = {
    "honest_accuracy": ("average accuracy of honest clients, %", 100, 1),
    "honest_fairness": ("fairness among honest clients", 1, 0),
    "attacker_share": ("entries of u_N that attackers receive, %", 100, 0),
    "attacker_reputation": ("attackers' reputation over the honest mean", 1, 2),
    "separation": ("AUC of reputation: honest above attackers", 1, 2),
}
# Of the figure: column -> (heading, digits, colours); the scale begins at 0.
DRAWN = {
    "lost": ("accuracy that honest clients lose, points", 1, "Reds"),
    "received": ("entries of u_N that attackers receive, %", 0, "Purples"),
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
        for column, (heading, factor, digits) in SHOWN.items():
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


def harm(frame: pl.DataFrame) -> pl.DataFrame:
    """What most attackers do, a row per partition, attack and method: means over runs.

    Of the greatest number of attackers. `lost` is the honest clients' accuracy where nobody cheats
    less that under attack, in points; the attack that takes most from all methods together is
    first.
    """
    keys = ("partition", "kind", "method")
    most = frame.filter(pl.col("count").is_in([0, frame["count"].to_numpy().max()]))
    means = most.group_by(*keys, maintain_order=True).agg(
        (100 * pl.col("honest_accuracy").mean()).alias("honest"),
        (100 * pl.col("attacker_share").mean()).alias("received"),
    )
    none = means.filter(kind="none").select("partition", "method", pl.col("honest").alias("none"))
    attacked = means.filter(pl.col("kind") != "none").join(
        none, on=("partition", "method"), maintain_order="left"
    )
    damage = pl.col("lost").mean().over("kind")
    return attacked.with_columns((pl.col("none") - pl.col("honest")).alias("lost")).sort(
        damage, descending=True, maintain_order=True
    )


def figure(frame: pl.DataFrame, number: int) -> Figure:
    """A row of panels per partition, a panel per harm: attacks down by damage, methods across."""
    found = harm(frame)
    partitions = frame["partition"].unique(maintain_order=True).to_list()
    methods = frame["method"].unique(maintain_order=True).to_list()
    kinds = found["kind"].unique(maintain_order=True).to_list()
    size = (4.6 * len(DRAWN) + 1.2, (0.3 * len(kinds) + 1.2) * len(partitions) + 0.4)
    title = f"{frame['count'].max()} attackers among {number} clients, mean over runs"
    drawn, grid = common.panels(len(partitions), len(DRAWN), size, title)
    for column, (value, (heading, digits, colours)) in enumerate(DRAWN.items()):
        # One scale for all partitions, and for nothing else.
        scale = Normalize(0, max(found[value].to_numpy().max(), 1))
        image = ScalarMappable(scale, colours)
        for axes, partition in zip(grid[:, column], partitions, strict=True):
            own = found.filter(partition=partition)
            cells = {(k, m): v for k, m, v in own.select("kind", "method", value).rows()}
            values = np.array([[cells[k, m] for m in methods] for k in kinds], float)
            axes.imshow(values, norm=scale, cmap=colours, aspect="auto")
            for (i, j), harmed in np.ndenumerate(values):
                axes.text(
                    *(j, i, f"{harmed:z.{digits}f}"),
                    **{"ha": "center", "va": "center", "fontsize": 8},
                    color="white" if scale(harmed) > 0.5 else "black",
                )
            axes.set_title(f"{partition}: {heading}", fontsize=9)
            none = dict(own.select("method", "none").rows())
            labels = [f"{m}\n{none[m]:.1f} %" if value == "lost" else m for m in methods]
            axes.set_xticks(range(len(methods)), labels, fontsize=8)
            axes.set_yticks(range(len(kinds)), kinds if column == 0 else [], fontsize=8)
            axes.grid(visible=False)
            if value == "lost":
                axes.set_xlabel("method, and what it reaches where nobody cheats", fontsize=8)
        bar = drawn.colorbar(image, ax=grid[:, column].tolist(), shrink=0.6, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8)
    return drawn


if __name__ == "__main__":
    main()
