"""Time overhead of every contribution measure per round, relative to local training.

Every entry of `contribution.CONTRIBUTIONS` scores the uploads of one round: those of a game both
with the cosine game and with the accuracy on validation rows. Its compiled update is timed in turn
with one round of local training of all clients on the same device, so that a share is a median over
ratios of neighbours in time.

A measure that evaluates too many models for the patience of the scale is not run: its evaluations
are counted with a network that only counts, and multiplied by the time of one. Such a figure leaves
out the rebuilding of models and is marked with ≈; for measures that stop early it is an upper
bound.

    python -m experiments.overhead --scale small --data-dir FOLDER
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cgsv_jax import data as data_lib
from cgsv_jax.core import simulation, vectors
from cgsv_jax.experiment import bind, deal, timing
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.results.figures import GREY
from cgsv_jax.rules import rescale
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.contribution import CONTRIBUTIONS, games
from cgsv_jax.types import Array, Contribution, Network, Upload
from experiments import common

TITLES = {"digits": "digits MLP", "mnist": "MNIST CNN"}
GAMES = ("cosine", "accuracy")
BLOCK = 64  # models in one evaluation whose time is the unit of what is not run
SENT = 3  # rounds whose downloads the server remembers, the default of the measures that read them
SHORTEST = 0.02  # seconds that a timed sample lasts at least, by calling repeatedly


class Scale(NamedTuple):
    """How much of it."""

    datasets: tuple[str, ...]
    clients: tuple[int, ...]
    repeats: int
    patience: float  # seconds of one call of a measure
    validation: int | None  # rows, None: all there are
    rounds: int = 1  # of cgsv before the one that is timed


SCALES = {
    "smoke": Scale(("digits",), (3,), 2, 0.5, 40),
    "small": Scale(("digits", "mnist"), (5, 10, 20), 5, 5.0, 500),
    "full": Scale(("digits", "mnist"), (5, 10, 20), 11, 60.0, None),
}


class Round(NamedTuple):
    """One round of a run, as far as measures see it, and the call that trains it."""

    upload: Upload
    aggregate: Array  # [D]
    weights: Array  # [N]
    train: Callable[[], Any]
    network: Network
    validation: int  # rows


def round_of(dataset: str, clients: int, scale: Scale, data_dir: str | None) -> Round:
    """The uploads of N clients under a power law, with the data set's own training numbers.

    Raises:
      ConfigError: the data are not there.
    """
    config = names_lib.configure(
        dataset=dataset, data_dir=data_dir, clients=clients, algorithms="cgsv", seeds=1, devices=1,
        rounds=scale.rounds,
    )  # fmt: skip
    (task,), (method,) = deal.tasks(config), config.methods
    held = tuple(x[: scale.validation] for x in task.data.validation)
    data = jax.tree.map(jnp.asarray, task.data._replace(validation=held))
    dealt = jax.tree.map(jnp.asarray, task.clients)
    federation = bind.bind(config, method, task).federation(method.hyper(task.partition))
    key = jax.random.key(0)

    @jax.jit
    def train(state, data, dealt):
        return simulation.train(key, state, data, dealt, federation)

    state = simulation.init(key, clients, federation)
    for _ in range(scale.rounds):
        state, _ = simulation.serve(key, state, *train(state, data, dealt), federation)
    upload, _ = train(state, data, dealt)
    upload = upload._replace(scales=rescale.to_norm(method.gamma)(upload.norms, upload.round))
    # As many rounds were sent before as any measure reads, each what this one sends.
    download, _, _ = federation.algorithm.update(key, upload, state.algorithm)
    sent = sent_lib.nothing(clients, upload.server.size, SENT)
    for place in range(SENT):
        sent = sent_lib.remembered(
            sent, jnp.int32(place), download.aggregate, download.rewards, upload.present
        )
    upload = upload._replace(sent=sent, round=jnp.int32(SENT))
    weights = upload.num_examples / jnp.sum(upload.num_examples)
    aggregate = vectors.weighted_sum(weights * upload.scales, upload.deltas)
    return Round(
        upload,
        aggregate,
        weights,
        lambda: train(state, data, dealt),
        task.network,
        len(held[1]),
    )


def counted(build: Callable[[Network], Contribution], seen: Round) -> int:
    """How many models a measure evaluates in a round, at most.

    It runs on a model of one parameter, whose scores are so rugged that nothing is ever close
    enough to stop early.
    """
    counts = []

    def evaluate(models: Array, inputs: Array, labels: Array) -> tuple[Array, Array]:
        del inputs, labels
        jax.debug.callback(lambda: counts.append(models.shape[0]))
        score = jnp.mod(1e4 * jnp.sin(1e3 * models[:, 0]), 1.0)
        return score, -score

    upload = seen.upload._replace(
        **{name: getattr(seen.upload, name)[..., :1] for name in ("server", "clients", "deltas")}
    )
    measure = build(Network(evaluate))
    state = measure.init(upload.present.size, 1)
    update = jax.jit(measure.update)
    jax.block_until_ready(
        update(jax.random.key(0), upload, seen.aggregate[:1], seen.weights, state)
    )
    jax.effects_barrier()
    return sum(counts)


def cases() -> list[tuple[str, str | None]]:
    """(measure, game) of every row; no game where the measure is of none."""
    return [
        (name, game)
        for name, spec in CONTRIBUTIONS.items()
        for game in (GAMES if "game" in spec.parts else (None,))
    ]


def measured(
    dataset: str, clients: int, scale: Scale, data_dir: str | None
) -> list[dict[str, Any]]:
    """A row per measure and game for N clients."""
    seen = round_of(dataset, clients, scale, data_dir)
    models = jnp.tile(seen.upload.server, (BLOCK, 1))
    judge = jax.jit(lambda models, held: seen.network.evaluate(models, *held))
    unit = timing.repeat(lambda: judge(models, seen.upload.validation), 3).median / BLOCK

    place = {"dataset": dataset, "clients": clients, "parameters": seen.aggregate.size}
    place["validation_rows"] = seen.validation
    rows, calls, counts = {}, {"training": seen.train}, {"training": 1}
    for name, game in cases():
        row = place | {"measure": name, "game": game, "evaluations": 0, "estimated": False}
        row |= {"seconds": None, "lower": None, "upper": None, "share": None, "reason": None}
        rows[name, game] = row

        def build(network: Network, name=name, game=game) -> Contribution:
            spec, words = CONTRIBUTIONS[name], {"game": game or "cosine"}
            options = spec_lib.options_of(spec, words, names_lib.TABLES.parts)
            values = {flag: option.default for flag, option in options.items()} | words
            return spec_lib.made(spec, values, {"network": network}, names_lib.TABLES.parts)

        try:
            if game == "accuracy":
                row["evaluations"] = counted(build, seen)
            measure = build(seen.network)
            state = measure.init(clients, seen.aggregate.size)
            if row["evaluations"] * unit > scale.patience:
                row |= {"seconds": row["evaluations"] * unit, "estimated": True}
                continue
            update = jax.jit(measure.update)
            arguments = jax.random.key(1), seen.upload, seen.aggregate, seen.weights, state
            call = functools.partial(update, *arguments)
            timing.once(call)
        except ValueError as error:
            row["reason"] = str(error).splitlines()[0]
            continue
        counts[name, game] = count = max(round(SHORTEST / timing.once(call)), 1)
        calls[name, game] = lambda call=call, count=count: [call() for _ in range(count)]

    times = timing.alternate(calls, scale.repeats)
    training = times.pop("training")
    for case, found in times.items():
        each = np.asarray(found.seconds) / counts[case]
        quartiles = timing.summary(each.tolist())
        rows[case] |= {
            "seconds": quartiles.median,
            "lower": quartiles.lower,
            "upper": quartiles.upper,
            "share": timing.ratio(found, training).median / counts[case],
        }
    for row in rows.values():
        row["training"] = training.median
        if row["estimated"]:
            row["share"] = row["seconds"] / training.median
    return list(rows.values())


def table(frame: pl.DataFrame) -> pl.DataFrame:
    """What is printed for one data set: a row per measure, game and N."""
    rows = []
    for row in frame.iter_rows(named=True):
        about = "≈ " if row["estimated"] else ""
        ms, share = "–", f"not for {row['clients']} clients: {row['reason']}"
        if row["reason"] is None:
            ms = f"{about}{_short(1e3 * row['seconds'])}"
            share = f"{about}{_short(100 * row['share'])}"
        rows.append(
            {
                "measure": row["measure"],
                "game": row["game"] or "–",
                "N": str(row["clients"]),
                "models evaluated": f"{row['evaluations']:,}",
                "ms per round": ms,
                "share of local training, %": share,
            }
        )
    return pl.DataFrame(rows)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def drawn(frame: pl.DataFrame) -> Figure:
    """Share of local training by measure, a marker per N; hollow where it is an estimate."""
    names = list(dict.fromkeys(frame["dataset"]))
    labels = [f"{name} ({game})" if game else name for name, game in cases()]
    size = 6.2 * len(names), 1.6 + 0.32 * len(labels)
    figure, grid = common.panels(1, len(names), size, "Time of a contribution measure in a round")
    for axes in grid[0, 1:]:
        axes.sharex(grid[0, 0])  # the same place is the same share
    for axes, dataset in zip(grid[0], names, strict=True):
        for place, clients in enumerate(sorted(set(frame["clients"]))):
            look = common.style(place) | {"linewidth": 0, "markersize": 6}
            own = frame.filter((pl.col("dataset") == dataset) & (pl.col("clients") == clients))
            for row in own.filter(pl.col("share").is_not_null()).iter_rows(named=True):
                fill = "none" if row["estimated"] else look["color"]
                y = cases().index((row["measure"], row["game"])) + 0.18 * (place - 1)
                axes.plot(100 * row["share"], y, markerfacecolor=fill, **look)
        axes.axvline(100, color=GREY, linewidth=0.8)
        axes.set_xscale("log")
        axes.tick_params(which="minor", length=0)
        axes.set_yticks(range(len(labels)), labels if axes is grid[0][0] else [])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlabel("% of one round of local training", fontsize=9)
        axes.set_title(TITLES[dataset], fontsize=9)
    handles = [
        *(
            Line2D([], [], **common.style(place) | {"linewidth": 0}, label=f"N = {clients}")
            for place, clients in enumerate(sorted(set(frame["clients"])))
        ),
        Line2D([], [], color=GREY, marker="o", markerfacecolor="none", lw=0, label="estimated"),
        Line2D([], [], color=GREY, linewidth=0.8, label="as long as local training"),
    ]
    common.legend_below(figure, handles, len(handles))
    return figure


def main(argv: list[str] | None = None) -> pl.DataFrame:
    """Writes shares of local training; returns the tidy rows."""
    what = common.asked("overhead", __doc__, argv)
    scale = SCALES[what.scale]
    there = {line.name: line for line in data_lib.available(what.data_dir)}
    rows, sections = [], []
    for dataset in TITLES:
        title = TITLES[dataset]
        if dataset not in scale.datasets:
            sections.append((title, f"Not measured at the scale {what.scale}."))
        elif not there[dataset].present:
            sections.append((title, f"Not measured: {there[dataset].where}."))
        else:
            own = [
                row
                for clients in scale.clients
                for row in measured(dataset, clients, scale, what.data_dir)
            ]
            rows += own
            frame = pl.DataFrame(own, infer_schema_length=None)
            order = pl.Series([f"{m} {g}" for m, g in cases()])
            ranked = frame.with_columns(
                pl.concat_str("measure", pl.lit(" "), pl.col("game").fill_null("None"))
                .replace_strict(order, pl.Series(range(len(order))))
                .alias("place")
            ).sort("place", "clients")
            training = ", ".join(
                f"{1e3 * seconds:,.0f} ms for N = {clients}"
                for clients, seconds in frame.select("clients", "training")
                .unique()
                .sort("clients")
                .rows()
            )
            sections += [
                (
                    title,
                    f"{frame['parameters'][0]:,} parameters, {frame['validation_rows'][0]} "
                    f"validation rows; one round of local training takes {training}.",
                ),
                ("", table(ranked)),
            ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    note = (
        f"Medians of {scale.repeats} repeats that alternate with local training, compiled before; "
        f"{games.PERMUTATIONS.default} orders where orders are drawn; more than {BLOCK} models are "
        f"evaluated in blocks of {BLOCK}. ≈: not run, because a call was expected to take more "
        f"than {scale.patience:g} s; the number of models evaluated times the time of one."
    )
    common.report(
        what,
        "Time overhead of every contribution measure per round, relative to local training",
        [("", note), *sections],
        frame,
        drawn(frame),
        common.provenance(1),
    )
    return frame


if __name__ == "__main__":
    main()
