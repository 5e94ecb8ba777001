"""Does a contribution score survive a robust aggregator? aggregation x measure x attack.

The question: a score that reads u_N is at the mercy of what makes u_N. A robust aggregate keeps
what attackers send out of it, so that a score might tell them more surely; or it is so little like
anybody's upload that the score no longer tells anybody from anybody. `fedavg` has the same
aggregate and no score, and shows what the aggregate alone saves.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from experiments import common

METHODS = ("fedavg", "cgsv", "witness")
SCORED = METHODS[1:]
AGGREGATIONS = (
    *("reputation", "uniform", "median", "trimmed_mean", "multi_krum", "geometric_median"),
    "fltrust",
)
ATTACKS = (*("none", "sign_flip:3", "coordinated_sign_flip:3", "free_rider_replay:3", "sybils:3"),)
SCALES = {
    "smoke": {
        "base": {"clients": 5, "rounds": 2, "seeds": 1},
        "partitions": ("class_imbalance",),
        "aggregations": ("reputation", "median"),
        "attacks": ("none", "sign_flip:1"),
    },
    "small": {
        "base": {"clients": 10, "rounds": 40, "seeds": 2},
        "partitions": ("uniform", "class_imbalance"),
        "aggregations": AGGREGATIONS,
        "attacks": ATTACKS,
    },
    "full": {
        "base": {"dataset": "mnist", "clients": 10, "seeds": 5},
        "partitions": ("uniform", "power_law", "class_imbalance"),
        "aggregations": (*AGGREGATIONS, "krum", "norm_clipping"),
        "attacks": ATTACKS,
    },
}
# column -> (heading, factor, digits, methods)
SHOWN = {
    "separation": ("AUC of reputation: honest above attackers", 1, 2, SCORED),
    "attacker_share": ("entries of u_N that attackers receive, %", 100, 0, SCORED),
    "honest_accuracy": ("average accuracy of honest clients, %", 100, 1, METHODS),
    "honest_fairness": ("fairness among honest clients", 1, 0, SCORED),
}
NOTE = (
    "`reputation` weighs uploads by reputation and is the paper's; `fedavg` weighs by size there. "
    "The attackers are three of ten, drawn with the partition; trimmed_mean cuts off three at "
    "either end, multi_krum assumes three, fltrust reads the server's validation rows. Fairness in "
    "k of n runs where it is undefined in others."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every attack against every measure under every aggregation."""
    what = common.asked("fragility", __doc__, argv)
    chosen = SCALES[what.scale]
    configs, columns = asked_of(chosen, what.data_dir)
    with common.compiled_once():
        frame = common.remembered(what, "fragility-runs", configs, columns)
    frame = frame.filter(pl.col("method") != "standalone").with_columns(
        # Where nobody cheats, all are honest.
        pl.coalesce("honest_accuracy", "mean_accuracy").alias("honest_accuracy"),
        pl.when(pl.col("attackers") == 0)
        .then("fairness")
        .otherwise("honest_fairness")
        .alias("honest_fairness"),
    )
    sections: list = [("", NOTE)]
    for partition in chosen["partitions"]:
        own = frame.filter(partition=partition)
        for column, (heading, factor, digits, methods) in SHOWN.items():
            made = table(own.filter(pl.col("method").is_in(methods)), column, factor, digits)
            if len(made):
                sections.append((f"{partition}: {heading}", made))
    base = chosen["base"]
    common.report(
        *(what, f"Scores under robust aggregates, N = {base['clients']}, {base['seeds']} seeds"),
        sections,
        *(frame, figure(frame), common.provenance(base["seeds"])),
    )


def asked_of(chosen: dict, data_dir: str | None) -> tuple[list[dict], list[dict]]:
    """Configurations of a scale, and the columns that tell them apart."""
    configs, columns = [], []
    for rule in chosen["aggregations"]:
        for attack in chosen["attacks"]:
            asked = [] if attack == "none" else [attack]
            configs.append(
                {"data_dir": data_dir, "eval_every": 10**6, **chosen["base"]}
                | {"algorithms": ["standalone", *METHODS], "aggregation": rule}
                | {"partitions": list(chosen["partitions"]), "attacks": asked}
            )
            columns.append({"aggregation": rule, "attack": attack.partition(":")[0]})
    return configs, columns


def table(frame: pl.DataFrame, column: str, factor: float, digits: int) -> pl.DataFrame:
    """Aggregation and measure down, attacks across: mean over seeds; without what says nothing."""
    rows = []
    for (method,), ours in frame.group_by("method", maintain_order=True):
        for (rule,), own in ours.group_by("aggregation", maintain_order=True):
            row = {"method": method, "aggregation": rule}
            for (attack,), runs in own.group_by("attack", maintain_order=True):
                row[attack] = common.spread(runs[column].to_list(), factor, digits)
            rows.append(row)
    made = pl.DataFrame(rows)
    empty = [c for c in made.columns if (made[c] == "–").all()]
    made = made.drop(empty)
    return made if len(made.columns) > 2 else made.clear()


def figure(frame: pl.DataFrame) -> Figure:
    """A row of panels per partition: AUC and honest accuracy of every method, as maps."""
    partitions, attacks, rules = (
        frame[name].unique(maintain_order=True).to_list()
        for name in ("partition", "attack", "aggregation")
    )
    wanted = [("separation", m) for m in SCORED] + [("honest_accuracy", m) for m in METHODS]
    size = (2.2 * len(wanted) + 1.6, (0.32 * len(rules) + 1.3) * len(partitions) + 0.5)
    title = "AUC of reputation and accuracy of honest clients, aggregation x attack, means"
    drawn, grid = common.panels(len(partitions), len(wanted), size, title)
    for place, (column, method) in enumerate(wanted):
        factor, digits, colours = (1, 2, "RdYlGn") if column == "separation" else (100, 0, "Blues")
        for axes, partition in zip(grid[:, place], partitions, strict=True):
            own = frame.filter(partition=partition, method=method)
            means = own.group_by("aggregation", "attack").agg(factor * pl.col(column).mean())
            cells = {(r, a): v for r, a, v in means.rows()}
            values = np.array([[cells[r, a] for a in attacks] for r in rules], float)
            common.written_map(
                *(axes, values),
                lambda value, digits=digits: f"{value:.{digits}f}",
                lambda value, most=factor: most > 1 and value > most / 2,
                # One scale for all, of a probability and of per cent.
                **{"vmin": 0, "vmax": factor, "cmap": colours},
            )
            what = "AUC" if column == "separation" else "honest, %"
            axes.set_title(f"{method}: {what}\n{partition}", fontsize=8)
            axes.set_xticks(range(len(attacks)), attacks, fontsize=7, rotation=60)
            axes.set_yticks(range(len(rules)), rules if place == 0 else [], fontsize=7)
    return drawn


if __name__ == "__main__":
    main()
