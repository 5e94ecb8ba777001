"""What the altruism degree does: beta on r summing to 1, as released, and on r / max r.

r sums to 1, so r is about 1 / N and tanh(beta r) is nearly linear: the published list of beta up to
2 should barely act, while on r / max r it should. All betas and seeds of a row are one program.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from cgsv_jax.core import metrics
from cgsv_jax.experiment import deal
from cgsv_jax.experiment import names as names_lib
from experiments import common

BETAS = (0.5, 1.0, 1.2, 1.5, 2.0, 5.0, 10.0, 50.0, np.inf)
SCALES = {
    "smoke": {"partitions": ("class_imbalance",), "seeds": 2, "rounds": 3, "clients": 3},
    "small": {"partitions": ("power_law", "class_imbalance"), "seeds": 5},
    "full": {"partitions": ("power_law", "class_imbalance"), "seeds": 5, "dataset": "mnist"},
}
COLUMNS = {
    "fairness": ("fairness", 1, 0),
    "mean_accuracy": ("average accuracy, %", 100, 2),
    "lowest_share": ("entries received by the least, %", 100, 1),
    "mean_share": ("entries received, mean, %", 100, 1),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs cgsv over all betas, on both scales of r."""
    what = common.asked("beta", __doc__, argv)
    asked = {"data_dir": what.data_dir, "layout": "4"} | SCALES[what.scale]
    frame = pl.concat([rows(asked, on) for on in ("sum", "max")])
    order = ("partition", "beta on", "beta")
    seeds = asked["seeds"]
    text = frame.with_columns(pl.col("beta").map_elements(lambda b: f"{b:g}", pl.String))
    common.report(
        *(what, "Fairness, accuracy and entries received over beta"),
        [("", common.over_seeds(text, order, COLUMNS)), ("", effect(frame))],
        *(frame, figure(frame), common.provenance(seeds)),
    )


def rows(asked: dict, on: str) -> pl.DataFrame:
    """A row per partition, beta and seed."""
    config = names_lib.configure(algorithms=("standalone", "cgsv"), beta_on=on, **asked)
    standalone, cgsv = config.methods
    made = []
    for task in deal.tasks(config):
        shared = (task, task.data._replace(validation=None))
        _, alone = common.over_settings(config, standalone, *shared, {"beta": (1.0,)})
        record, accuracy = common.over_settings(config, cgsv, *shared, {"beta": BETAS})
        share = np.float32(record.quota) / np.float32(sum(task.tensors))  # [S, B, T, N]
        for s, seed in enumerate(config.seeds):
            for b, beta in enumerate(BETAS):
                fairness = float(metrics.fairness(alone[s, 0], accuracy[s, b]))
                received = share[s, b].mean(axis=0)
                made.append(
                    {
                        "partition": task.partition,
                        "beta on": "r, sum 1" if on == "sum" else "r / max r",
                        "beta": beta,
                        "seed": int(seed),
                        "fairness": fairness if np.isfinite(fairness) else None,
                        "mean_accuracy": float(accuracy[s, b].mean()),
                        "lowest_share": float(received.min()),
                        "mean_share": float(received.mean()),
                    }
                )
    return pl.DataFrame(made, schema_overrides={"fairness": pl.Float64})


def effect(frame: pl.DataFrame) -> str:
    """How much the published list, .5 to 2, moves what the least client receives."""
    lines = []
    listed = frame.filter(pl.col("beta") <= 2)
    for (partition, on), own in listed.group_by("partition", "beta on", maintain_order=True):
        means = own.group_by("beta").agg(pl.col("lowest_share").mean())["lowest_share"]
        spread = 100 * (means.max() - means.min())
        lines.append(
            f"* {partition}, beta on {on}: from .5 to 2 the least client's share of entries moves "
            f"by {spread:.1f} points"
        )
    return "\n".join(lines)


def figure(frame: pl.DataFrame) -> Figure:
    """Three rows (fairness, accuracy, entries of the least) by partition, a line per scale."""
    names = frame["partition"].unique(maintain_order=True).to_list()
    wanted = (
        ("fairness", "fairness", 1),
        ("mean_accuracy", "average accuracy, %", 100),
        ("lowest_share", "entries of the\nleast client, %", 100),
    )
    drawn, grid = common.panels(3, len(names), (4.2 * len(names) + 0.6, 7), "Altruism degree beta")
    for column, name in enumerate(names):
        for axes, (value, label, factor) in zip(grid[:, column], wanted, strict=True):
            for place, on in enumerate(frame["beta on"].unique(maintain_order=True)):
                own = frame.filter(pl.col("partition") == name, pl.col("beta on") == on)
                table = own.group_by("beta", maintain_order=True).agg(
                    pl.col(value).mean().alias("mean"), pl.col(value).std().alias("sd")
                )
                means = [np.nan if m is None else factor * m for m in table["mean"]]
                deviations = np.array([factor * (s or 0) for s in table["sd"]])
                # Neither a fairness nor a share ends beyond its range.
                low, high = (-100, 100) if value == "fairness" else (0, 100)
                below = np.minimum(deviations, np.nan_to_num(np.subtract(means, low)))
                above = np.minimum(deviations, np.nan_to_num(np.subtract(high, means)))
                for x in np.flatnonzero(np.isnan(means)):
                    axes.text(
                        *(x + 0.2 * place, 0.02, "undefined"),
                        transform=axes.get_xaxis_transform(),
                        **{"rotation": 90, "fontsize": 6, "color": common.style(place)["color"]},
                        **{"ha": "center", "va": "bottom"},
                    )
                axes.errorbar(
                    np.arange(len(BETAS)) + 0.08 * place,
                    means,
                    np.clip([below, above], 0, None),
                    label=f"beta on {on}",
                    capsize=2,
                    **common.style(place),
                )
            axes.set_xlim(-0.4, len(BETAS) - 0.5)
            axes.set_xticks(range(len(BETAS)), [f"{b:g}" for b in BETAS])
            if column == 0:
                axes.set_ylabel(label, fontsize=9)
        grid[0, column].set_title(name, fontsize=10)
        grid[-1, column].set_xlabel("beta")
    common.legend_below(drawn, grid[0, 0].get_legend_handles_labels()[0], 2)
    return drawn


if __name__ == "__main__":
    main()
