"""Fairness over rounds, under a Gamma that stays and under one that decays.

Every upload is rescaled to Gamma in every round, so the server's step never shrinks. At the plateau
it jumps across the optimum, and all clients with it: the cosine of one step with the one before
turns negative, and the fairness of the round that happens to be the last changes its sign from one
evaluation to the next. With Gamma_t = Gamma d^t it does not.

Fairness is 100 x Pearson over clients between what each reaches alone after the last round and what
it has in this round: accuracies, or minus the mean negative log-likelihoods ("by loss").

    python -m experiments.steadiness --scale small
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cgsv_jax.config.schema import Config, Method
from cgsv_jax.core import metrics, simulation, vectors
from cgsv_jax.experiment import bind, deal, names
from cgsv_jax.experiment.task import Task
from cgsv_jax.results import frames
from cgsv_jax.types import Array, Clients, Dataset, Hyper
from experiments import common

STEADY = names.configure(algorithms="cgsv:steady").methods[0].gamma_decay
DECAYS = (1.0, 0.99, 0.98, STEADY, 0.95)
FEW = (1.0, STEADY, 0.95)
PARTITIONS = ("uniform", "power_law", "class_imbalance", "dirichlet")
RIVALS = ("rffl", "eci", "size_weighted")


class Part(NamedTuple):
    """Runs of one data set."""

    dataset: str
    partitions: tuple[str, ...]
    methods: tuple[str, ...]
    decays: tuple[float, ...]
    seeds: int
    partition_seeds: int
    asked: dict[str, object]  # what else is asked for


_DIGITS = {"rounds": 60, "eval_every": 3}
_MNIST = {"rounds": 120, "eval_every": 3, "model": "mlp"}
_TWO = ("power_law", "class_imbalance")
SCALES = {
    "smoke": (
        Part("digits", _TWO[1:], ("cgsv",), (1.0, STEADY), 2, 2, {"rounds": 4, "eval_every": 1}),
    ),
    "small": (
        Part("digits", PARTITIONS, ("cgsv",), DECAYS, 5, 3, _DIGITS),
        Part("digits", PARTITIONS, ("cgsv:released", *RIVALS), FEW, 3, 1, _DIGITS),
        Part("mnist", _TWO, ("cgsv", "cgsv:released"), FEW, 1, 1, _MNIST),
    ),
    "full": (
        Part("digits", PARTITIONS, ("cgsv", "cgsv:released", *RIVALS), DECAYS, 10, 5, _DIGITS),
        Part("mnist", PARTITIONS, ("cgsv", "cgsv:released", *RIVALS), DECAYS, 5, 3, _MNIST),
    ),
}

KEYS = ("dataset", "partition", "partition_seed", "method", "decay", "seed")


class Curves(NamedTuple):
    """What a method does, leaves [S, H, K, ...]: seeds, decays and evaluations."""

    accuracy: np.ndarray  # [S, H, K, N]
    loss: np.ndarray  # [S, H, K, N]
    cosine: np.ndarray  # [S, H, K] of u_N with that of the round before, mean since the last one


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all parts at the chosen scale."""
    what = common.asked("steadiness", __doc__, argv)
    with common.compiled_once():
        parts = [frame for part in SCALES[what.scale] for frame in runs(part, what.data_dir)]
    frame = pl.concat(parts)
    common.report(
        *(what, "Fairness over rounds, and a Gamma that decays", sections(frame)),
        *(frame, figure(frame), common.provenance(frame["seed"].max() + 1)),
    )


# ---------------------------------------------------------------- runs


def runs(part: Part, data_dir: str | None) -> Iterator[pl.DataFrame]:
    """A frame per partition, its seed and method: a row per decay, seed and evaluated round."""
    for partition_seed in range(part.partition_seeds):
        config = names.configure(
            dataset=part.dataset,
            data_dir=data_dir,
            clients=10,
            partitions=list(part.partitions),
            algorithms=["standalone", *part.methods],
            seeds=part.seeds,
            partition_seed=partition_seed,
            **part.asked,
        )
        baseline, *methods = config.methods
        for task in deal.tasks(config):
            alone = curves(config, baseline, task, ())
            for method in methods:
                found = curves(config, method, task, part.decays)
                keys = (part.dataset, task.partition, partition_seed, method.name)
                yield tidy(keys, part.decays, config, found, alone)


def curves(config: Config, method: Method, task: Task, decays: Sequence[float]) -> Curves:
    """A method with every seed and decay, as one program; without decays, as it is."""
    bound = bind.bind(config, method, task)

    def one(key: Array, hyper: Hyper, data: Dataset, clients: Clients) -> tuple[Array, ...]:
        federation = bound.federation(hyper)
        state = simulation.init(key, config.clients, federation)

        def round_(carry: tuple, _: None) -> tuple[tuple, Array]:
            state, before = carry
            after, _ = simulation.round_(key, state, data, clients, federation)
            step = after.server - state.server  # u_N
            lengths = vectors.norm(step) * vectors.norm(before)
            return (after, step), jnp.sum(step * before) / jnp.where(lengths > 0, lengths, jnp.inf)

        def block(carry: tuple, _: None) -> tuple[tuple, tuple[Array, ...]]:
            carry, cosines = jax.lax.scan(round_, carry, None, config.eval_every)
            found = simulation.evaluate(carry[0], data.test_inputs, data.test_labels, federation)
            return carry, (found.accuracy, found.loss, jnp.mean(cosines))

        start = state, jnp.zeros_like(state.server)
        return jax.lax.scan(block, start, None, config.rounds // config.eval_every)[1]

    changes = {"gamma_decay": decays} if decays else {}
    return Curves(*common.on_grid(one, bound, bound.data, changes))


def tidy(
    keys: tuple, decays: Sequence[float], config: Config, found: Curves, alone: Curves
) -> pl.DataFrame:
    """A row per decay, seed and evaluated round."""
    fairness = jax.jit(jnp.vectorize(metrics.fairness, signature="(n),(n)->()"))
    seeds, settings, evaluations = found.cosine.shape
    cells = np.meshgrid(config.seeds, decays, np.arange(evaluations), indexing="ij")
    columns = {
        "decay": cells[1],
        "seed": cells[0],
        "round": (cells[2] + 1) * config.eval_every,
        "accuracy": found.accuracy.mean(-1),
        "spread": found.accuracy.std(-1),
        # What each reaches alone is that of the last round, of the same seed.
        "fairness": fairness(alone.accuracy[:, :, -1:], found.accuracy),
        "by_loss": fairness(-alone.loss[:, :, -1:], -found.loss),
        "cosine": found.cosine,
    }
    fixed = [
        pl.lit(value).alias(name)
        for name, value in zip(
            ("dataset", "partition", "partition_seed", "method"), keys, strict=True
        )
    ]
    shape = (seeds, settings, evaluations)
    frame = pl.DataFrame({n: np.broadcast_to(v, shape).ravel() for n, v in columns.items()})
    return frame.select(*fixed, pl.all()).fill_nan(None)


# ---------------------------------------------------------------- tables


def sections(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame | str]]:
    """What is printed."""
    found = []
    for dataset, partition in (
        frame.select("dataset", "partition").unique(maintain_order=True).rows()
    ):
        own = frame.filter(dataset=dataset, partition=partition, partition_seed=0)
        for method in ("cgsv", "cgsv:released") if partition in _TWO else ():
            of_method = own.filter(pl.col("method") == method, pl.col("decay").is_in([1.0, STEADY]))
            if len(of_method):
                title = f"{dataset}, {partition}, {method} round by round"
                found += [(title, by_round(of_method))]
    note = (
        "Means over seeds and partitions of the last quarter of the evaluations; in brackets its "
        "least and greatest value in any run. `changes sign`: share of runs whose fairness by "
        "accuracy has both signs there, or is undefined. cosine: of u_N with that of the round "
        "before."
    )
    found += [("Gamma decay", note)]
    for (dataset,), own in frame.group_by("dataset", maintain_order=True):
        found.append((f"{dataset}", by_decay(own)))
    paper = frame.filter(method="cgsv", partition_seed=0, dataset="digits")
    found.append(("digits at the last round, by seed", last_round(paper)))
    found.append(
        (
            "steady less paper, pairs of equal seed and partition",
            "Mean [95 % bootstrap interval over the pairs] of the last quarter.",
        )
    )
    found.append(("", against_paper(frame)))
    return found


def by_round(frame: pl.DataFrame) -> pl.DataFrame:
    """Rounds down; accuracy and fairness of each decay of one method across, means over seeds."""
    wide: dict[int, dict[str, str]] = {}
    for (decay,), own in frame.group_by("decay", maintain_order=True):
        for row in mean_by(own, "round").iter_rows(named=True):
            wide.setdefault(row["round"], {"round": str(row["round"])}).update(
                {
                    f"d = {decay:g}: accuracy, %": f"{100 * row['accuracy']:.1f}",
                    f"fairness (d = {decay:g})": common.whole(row["fairness"]),
                    f"by loss (d = {decay:g})": common.whole(row["by_loss"]),
                }
            )
    return pl.DataFrame(list(wide.values()))


def by_decay(frame: pl.DataFrame) -> pl.DataFrame:
    """Partitions, methods and decays down: the last quarter."""
    rows = []
    for (partition, method, decay), own in frame.group_by(
        "partition", "method", "decay", maintain_order=True
    ):
        last = last_quarter(own)
        runs = last.group_by("seed", "partition_seed").agg(
            (
                (pl.col("fairness").min() < 0) & (pl.col("fairness").max() > 0)
                | pl.col("fairness").is_null().any()
            ).alias("changes")
        )
        rows.append(
            {
                "partition": partition,
                "method": method,
                "d": f"{decay:g}",
                "accuracy, %": f"{100 * last['accuracy'].mean():.1f}",
                "spread, points": f"{100 * last['spread'].mean():.1f}",
                "fairness": common.ranged(last["fairness"]),
                "changes sign": f"{runs['changes'].sum()} of {len(runs)}",
                "by loss": common.ranged(last["by_loss"]),
                "cosine": f"{last['cosine'].mean():.2f}",
            }
        )
    return pl.DataFrame(rows)


def last_round(frame: pl.DataFrame) -> pl.DataFrame:
    """The number that is usually printed, seed by seed, and the least of its last quarter."""
    rows = []
    for (partition, decay), own in frame.group_by("partition", "decay", maintain_order=True):
        last = own.filter(pl.col("round") == own["round"].max()).sort("seed")
        least = last_quarter(own).group_by("seed").agg(pl.col("by_loss").min()).sort("seed")
        rows.append(
            {
                "partition": partition,
                "d": f"{decay:g}",
                "accuracy, %": f"{100 * last['accuracy'].mean():.1f}",
                "fairness": ", ".join(map(common.whole, last["fairness"])),
                "by loss": ", ".join(map(common.whole, last["by_loss"])),
                "by loss, least of the last quarter": ", ".join(
                    map(common.whole, least["by_loss"])
                ),
            }
        )
    return pl.DataFrame(rows)


def against_paper(frame: pl.DataFrame) -> pl.DataFrame:
    """What the decay of `steady` changes, in the means over the last quarter of every run."""
    values = ("accuracy", "fairness", "by_loss")
    each = (
        last_quarter(frame)
        .group_by(*KEYS, maintain_order=True)
        .agg(pl.col(*values).mean().fill_nan(None))
    )
    rows = []
    for (dataset, method, partition), own in each.group_by(
        "dataset", "method", "partition", maintain_order=True
    ):
        wide = own.filter(decay=1.0).join(
            own.filter(decay=STEADY), on=("partition_seed", "seed"), suffix="_steady"
        )
        row = {"data set": dataset, "method": method, "partition": partition}
        for name, title, factor in zip(
            values, ("accuracy, points", "fairness", "by loss"), (100, 1, 1), strict=True
        ):
            differences = factor * (wide[f"{name}_steady"] - wide[name])
            row[title] = common.interval(differences.to_list(), digits=1)
        rows.append(row)
    return pl.DataFrame(rows)


def last_quarter(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of the last quarter of the evaluations, of every data set its own."""
    rounds = frame.group_by("dataset").agg(pl.col("round").unique().sort())
    first = {name: own[-frames.late_evaluations(len(own))] for name, own in rounds.iter_rows()}
    return frame.filter(pl.col("round") >= pl.col("dataset").replace_strict(first))


def mean_by(frame: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Means of what is defined, sorted by the keys."""
    values = ("accuracy", "fairness", "by_loss", "cosine")
    return frame.group_by(*keys).agg(pl.col(*values).mean()).sort(*keys)


# ---------------------------------------------------------------- figure


def figure(frame: pl.DataFrame) -> Figure:
    """Columns are data sets and partitions; `paper` beside `steady`, mean and range over runs."""
    frame = frame.filter(method="cgsv").filter(pl.col("decay").is_in([1.0, STEADY]))
    cells = frame.select("dataset", "partition").unique(maintain_order=True)
    cells = cells.filter(pl.col("partition").is_in(_TWO)).rows()
    rows = (
        ("by_loss", "fairness by loss", 1, 100),
        ("fairness", "fairness by accuracy", 1, 100),
        ("accuracy", "mean accuracy, %", 100, None),
        ("cosine", "cosine of u_N with\nthat of the round before", 1, 1),
    )
    title = "Fairness over rounds: Gamma as in the paper, and decaying"
    labels = {"paper": "paper, mean over runs", "steady": f"steady (d = {STEADY:g}), likewise"}
    drawn, axes = common.panels(len(rows), len(cells), (2.9 * len(cells) + 0.6, 8.2), title)
    for column, (dataset, partition) in enumerate(cells):
        axes[0, column].set_title(f"{dataset}, {partition}", fontsize=9)
        for row, (name, label, factor, limit) in enumerate(rows):
            panel = axes[row, column]
            own = frame.filter(dataset=dataset, partition=partition)
            for place, (decay, word) in enumerate(((1.0, "paper"), (STEADY, "steady"))):
                of_decay = (
                    own.filter(decay=decay)
                    .group_by("round")
                    .agg(
                        pl.col(name).mean().alias("mean"),
                        pl.col(name).min().alias("low"),
                        pl.col(name).max().alias("high"),
                    )
                )
                line = of_decay.sort("round").drop_nulls()
                style = {**common.style((4, 0)[place]), "marker": ""}
                panel.plot(line["round"], factor * line["mean"], label=labels[word], **style)
                low, high = (factor * line[end] for end in ("low", "high"))
                panel.fill_between(line["round"], low, high, color=style["color"], alpha=0.15, lw=0)
            if limit:
                panel.axhline(0, color="#999999", linewidth=0.8)
                panel.set_ylim(-1.05 * limit, 1.05 * limit)
            if column == 0:
                panel.set_ylabel(label, fontsize=8)
    for panel in axes[-1]:
        panel.set_xlabel("round", fontsize=8)
    handles = [
        *axes[0, 0].get_legend_handles_labels()[0],
        Patch(color="#999999", alpha=0.4, lw=0, label="least to greatest of several runs"),
    ]
    common.legend_below(drawn, handles, len(handles))
    return drawn


if __name__ == "__main__":
    main()
