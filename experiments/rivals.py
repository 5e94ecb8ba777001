"""What the choices of the rivals' authors do: every option of a rival that their code decides.

The first line of a method is what its authors' code does, the default; every other line changes
what it names. Fairness is 100 x Pearson(standalone, final accuracy), as everywhere.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from cgsv_jax.results import frames
from experiments import cells, common, fairness

GTG = {"contribution": "gtg_shapley", "game": "accuracy"}
# (method, line, what it asks for)
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("cffl", "", {}),
    ("cffl", "own off before", {"own_off": "before"}),
    ("cffl", "combine sum", {"combine": "sum"}),
    ("cffl", "clip by norm", {"clip_by": "norm"}),
    ("cffl", "alpha .5", {"alpha": 0.5}),
    ("cffl", "growth 0", {"growth": 0.0}),
    ("cffl", "alpha .5, growth 0", {"alpha": 0.5, "growth": 0.0}),
    ("cffl", "removal 1/3 everywhere", {"removal": 1 / 3}),
    ("cffl", "removal 0", {"removal": 0.0}),
    ("cffl", "removed frozen", {"removed": "frozen"}),
    ("cffl", "ties by position", {"mask_ties": "position"}),
    (
        *("cffl", "own off before, clip by norm, alpha .5, growth 0, removed frozen"),
        {"own_off": "before", "clip_by": "norm", "alpha": 0.5, "growth": 0.0, "removed": "frozen"},
    ),
    ("rffl", "", {}),
    ("rffl", "beta 2", {"beta": 2.0}),
    ("rffl", "negative kept", {"negative": "kept"}),
    ("rffl", "removal 0", {"removal": 0.0}),
    ("rffl", "removed frozen", {"removed": "frozen"}),
    ("rffl", "ties by position", {"mask_ties": "position"}),
    ("iafl", "", {}),
    ("iafl", "kappa .5", {"kappa": 0.5}),
    ("iafl", "recovery .1", {"recovery": 0.1}),
    ("iafl", "by accuracy", {"contribution_by": "accuracy"}),
    ("iafl", "by accuracy, kappa .5", {"contribution_by": "accuracy", "kappa": 0.5}),
    ("iafl", "by accuracy, recovery .1", {"contribution_by": "accuracy", "recovery": 0.1}),
    ("iafl", "half drop out", {"dropout": 0.5}),
    (
        *("iafl", "half drop out, by participation"),
        {"dropout": 0.5, "contribution_by": "participation"},
    ),
    ("fedavg_finetuned", "", {}),
    ("fedavg_finetuned", "aggregation size", {"aggregation": "size"}),
    ("fedavg_finetuned", "optimizer kept", {"finetune_optimizer": "kept"}),
    (
        *("fedavg_finetuned", "aggregation size, optimizer kept"),
        {"aggregation": "size", "finetune_optimizer": "kept"},
    ),
    ("shapfed_wa", "", {}),
    ("shapfed_wa", "broadcast sum", {"broadcast": "sum"}),
    ("shapfed_wa", "broadcast max", {"broadcast": "max"}),
    ("shapfed_wa", "negative kept", {"negative": "kept"}),
    ("cgsv", "", {}),
    ("cgsv", "gtg_shapley", GTG),
    ("cgsv", "gtg_shapley, scaled", GTG | {"scale_values": True}),
    ("cgsv", "gtg_shapley, tolerance .01", GTG | {"tolerance": 0.01}),
    *(
        (name, line, {"partitions": ["dirichlet"], "dirichlet_balanced": bool(line)})
        for name in ("fedavg_finetuned", "iafl", "cgsv")
        for line in ("", "dirichlet balanced")
    ),
]
ALL = {"dataset": "digits", "partitions": list(cells.PARTITIONS), "clients": 10}
SCALES = {
    "smoke": {"dataset": "digits", "partitions": ["class_imbalance"], "clients": 3}
    | {"seeds": 2, "rounds": 3},
    "small": ALL | {"seeds": 3},
    "full": ALL | {"dataset": "mnist", "seeds": 5},
}
SMOKE = 2  # lines of a method at that scale


def main(argv: Sequence[str] | None = None) -> None:
    """Runs every line, or reads what was run already, beside the yardstick."""
    what = common.asked("rivals", __doc__, argv)
    asked = {"data_dir": what.data_dir, "eval_every": 10**6} | SCALES[what.scale]
    chosen = VARIANTS
    if what.scale == "smoke":
        names = [name for name, *_ in VARIANTS]
        chosen = [v for i, v in enumerate(VARIANTS) if i - names.index(v[0]) < SMOKE]
    configs = [
        asked | {"algorithms": [frames.YARDSTICK, name]} | changes for name, _, changes in chosen
    ]
    columns = [
        {"dataset": asked["dataset"], "line": f"{name}, {line}" if line else name}
        for name, line, _ in chosen
    ]
    with common.compiled_once():  # the yardstick, and what differs in numbers alone
        frame = common.remembered(what, "rivals-runs", configs, columns)
    frame = frame.filter(pl.col("method") != frames.YARDSTICK)
    frame = frame.with_columns(pl.col("line").alias("method"))
    common.report(
        *(what, "Rivals: what each choice does to fairness and accuracy"),
        [
            ("", "Fairness, mean ± deviation over seeds (average accuracy, %)."),
            ("", cells.table(frame, _fairness)),
            ("Took part, % of clients and rounds", cells.table(frame, _present)),
        ],
        *(frame, fairness.figure(frame), common.provenance(asked["seeds"])),
    )


def _fairness(own: pl.DataFrame) -> str:
    value = common.spread(own["fairness"].to_list(), 1, 0)
    accuracy = 100 * own["mean_accuracy"].mean()
    return f"{'undefined' if value == '–' else value} ({accuracy:.1f})"


def _present(own: pl.DataFrame) -> str:
    return f"{100 * own['present'].mean():.0f}"


if __name__ == "__main__":
    main()
