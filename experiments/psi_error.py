"""psi against the exact Shapley value and against sampling: L1, L2, Pearson, seconds.

The game is that of the released stand-alone study, nu(S) = cos(u_S, u_N) with unit weights,
u_S = sum_{i in S} u_i; all values are divided by their sum before they are compared. Three
estimates of the exact value: psi_i = cos(u_i, u_N); plain, the mean gain over K = 150 uniform
orders, as released (which first listed all N! orders, where this draws K); pairs,
`sampled_shapley.sample`, as many orders in antithetic pairs.

Vectors are i.i.d. Gaussian, as released; the same scaled to norm 1, as uploads are; or updates of a
perceptron on digits whose hidden width h gives D = 75 h + 10: after some rounds of cgsv each
client's next local update, scaled to norm 1. Clients hold power-law shares. One of them, in the
middle by size, is the odd one: honest, noisy (its labels are random throughout the run) or reversed
(its uploads have the wrong sign throughout the run).

    python -m experiments.psi_error --scale small
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cgsv_jax import data as data_lib
from cgsv_jax.config import schema
from cgsv_jax.core import attacks, simulation, vectors
from cgsv_jax.data import partition
from cgsv_jax.experiment import bind, deal, names, timing
from cgsv_jax.results import figures
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.contribution.sampled_shapley import sample
from cgsv_jax.rules.contribution.shapley import exact
from cgsv_jax.types import Algorithm, Array, Clients, Dataset, Upload
from experiments import common

ORDERS = 150  # of Maleki et al.'s bound for eps = delta = 0.1, as released
ESTIMATES = ("psi", "plain", "pairs")
RANDOM = ("random", "unit")
KINDS = ("honest", "noisy", "reversed")

# The csv files of the released code, running averages over all smaller N (or D) too:
# L1 of psi and of sampling, Pearson of psi and of sampling, seconds of psi and of sampling.
PUBLISHED_N = {  # D = 1,000
    5: (0.00917, 2.3e-7, 0.9760, 1.0000, 0.000204, 0.0408),
    6: (0.00869, 0.01413, 0.9796, 0.8769, 0.000222, 0.0594),
    7: (0.00955, 0.02452, 0.9817, 0.8589, 0.000264, 0.0795),
    8: (0.01016, 0.02970, 0.9821, 0.8541, 0.000403, 0.1177),
    9: (0.01014, 0.03264, 0.9832, 0.8314, 0.000492, 0.4794),
    10: (0.01013, 0.03602, 0.9839, 0.8327, 0.000589, 4.2259),
}
PUBLISHED_D = {  # N = 10; Pearson and seconds are known at both ends
    1024: (0.01031, 0.03697, 0.9834, 0.8333, 0.00056, 4.85),
    2048: (0.01000, 0.03870),
    4096: (0.00953, 0.03941),
    8192: (0.00899, 0.04055),
    16384: (0.00841, 0.04113),
    32768: (0.00787, 0.04113, 0.9848, 0.6873, 0.00157, 5.27),
}


class Scale(NamedTuple):
    """How much of it."""

    trials: int
    players: tuple[int, ...]
    usual_players: int  # while D varies
    powers: tuple[int, ...]  # D = 2^power of random vectors
    real_powers: tuple[int, ...]  # D is next to 2^power
    usual_power: int  # while N varies
    rounds: int  # of cgsv before the update that is looked at
    repeats: int  # of every timing


SCALES = {
    "smoke": Scale(3, (4,), 4, (8,), (8,), 8, 1, 1),
    "small": Scale(
        10, (5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20), 10, tuple(range(10, 21)),
        tuple(range(10, 21, 2)), 10, 5, 3,
    ),
    "full": Scale(
        30, tuple(range(5, 21)), 10, tuple(range(10, 21)), tuple(range(10, 21)), 10, 5, 7
    ),
}  # fmt: skip


# ---------------------------------------------------------------- the values


def plain(key: Array, value: games.Value, players: int, permutations: int) -> Array:
    """The mean gain [N] over independent uniform orders, as released."""
    keys = jax.random.split(key, permutations)
    ranks = jax.vmap(jax.random.permutation, (0, None))(keys, players)  # [K, N]
    lengths = jnp.arange(players + 1)
    members = ranks[:, None, :] < lengths[None, :, None]  # [K, N + 1, N], nobody first
    values = value(members.reshape(-1, players)).reshape(permutations, players + 1)
    gains = jnp.diff(values, axis=1)  # [K, N] of the client at each place
    return jnp.mean(jnp.take_along_axis(gains, ranks, axis=1), axis=0)


def psi(updates: Array) -> Array:
    """cos(u_i, u_N) of vectors [N, D], u_N their sum: [N]."""
    norms = vectors.norms(updates)
    ones = jnp.ones_like(norms)
    # As a product: a sum over the rows takes a CPU twenty times as long.
    return vectors.cosines(updates, norms, ones, vectors.weighted_sum(ones, updates))


# name -> (key, vectors [N, D]) -> [N]
METHODS: dict[str, Callable[[Array, Array], Array]] = {
    "exact": lambda key, updates: exact(vectors.gram(updates)),
    "psi": lambda key, updates: psi(updates),
    "plain": lambda key, updates: plain(
        key, games.cosine_value(vectors.gram(updates)), len(updates), ORDERS
    ),
    "pairs": lambda key, updates: sample(
        key, games.cosine_value(vectors.gram(updates)), len(updates), ORDERS
    )[0],
}


@functools.cache
def compiled(name: str) -> Callable[[Array, Array], Array]:
    """The method under `jit`, once per shape."""
    return jax.jit(METHODS[name])


def errors(key: Array, updates: Array, odd: int) -> list[dict[str, Any]]:
    """A row per method: distances from the exact value, after each is divided by its sum.

    Args:
      key: draws the orders.
      updates: [N, D].
      odd: the client whose own values are reported.
    """
    found = {}
    for name in METHODS:
        values = np.asarray(compiled(name)(key, updates), np.float64)
        found[name] = values / values.sum()
    truth = found["exact"]
    rows = []
    for name, values in found.items():
        gap = np.abs(values - truth)
        spread = truth.std() * values.std()
        # Values that are alike up to rounding have no correlation.
        pearson = np.corrcoef(values, truth)[0, 1] if spread > 1e-12 else None
        rows.append(
            {
                "method": name,
                "l1": gap.sum(),
                "l2": np.sqrt((gap**2).sum()),
                "pearson": pearson,
                "odd": values[odd],
                "odd_exact": truth[odd],
            }
        )
    return rows


def seconds(key: Array, updates: Array, repeats: int) -> dict[str, float]:
    """Median seconds of every method, its inner products included, compiled before."""
    calls = {name: functools.partial(compiled(name), key, updates) for name in METHODS}
    return {name: t.median for name, t in timing.alternate(calls, repeats).items()}


# ---------------------------------------------------------------- real updates


def reversing(algorithm: Algorithm, signs: Array) -> Algorithm:
    """The same server, which receives the uploads of clients with sign -1 reversed."""

    def update(key: Array, upload: Upload, state: Any) -> Any:
        upload = upload._replace(deltas=upload.deltas * signs[:, None])
        return algorithm.update(key, upload, state)

    return Algorithm(algorithm.init, update)


class World(NamedTuple):
    """A compiled run of cgsv on digits that ends in the uploads of its next round."""

    updates: Callable[..., Array]  # (key, data, clients, signs [N]) -> [N, D], each of norm 1
    config: schema.Config
    odd: int


@functools.cache
def world(players: int, power: int, rounds: int) -> World:
    """For N clients and D next to 2^power."""
    hidden = max(round((2**power - 10) / 75), 1)
    config = names.configure(
        dataset="digits", clients=players, hidden=(hidden,), algorithms="cgsv",
        partitions="power_law", seeds=1, rounds=rounds, devices=1,
        # Wide layers fill the caches one client at a time; of small ones, four share each step.
        layout="1" if power > 14 else "4",
    )  # fmt: skip
    (task,), (method,) = deal.tasks(config), config.methods
    honest = bind.bind(config, method, task).federation(method.hyper(task.partition))

    @jax.jit
    def updates(key, data, clients, signs):
        federation = honest._replace(algorithm=reversing(honest.algorithm, signs))
        state = simulation.init(key, players, federation)

        def one_round(state, _):
            return simulation.round_(key, state, data, clients, federation)[0], None

        state = jax.lax.scan(one_round, state, None, rounds)[0]
        upload, _ = simulation.train(key, state, data, clients, federation)
        scales = signs / jnp.where(upload.norms > 0, upload.norms, 1.0)
        return scales[:, None] * upload.deltas

    return World(updates, config, players // 2)


@functools.cache
def dealt(players: int, seed: int) -> tuple[Dataset, Clients]:
    """Digits without a tenth of its rows, the rest in power-law shares."""
    rng = np.random.default_rng(seed)
    full = data_lib.load("digits")
    pool, _ = partition.split(rng, len(full.labels), 0.1)
    clients = partition.power_law(rng, full.labels[pool], players)
    return full, partition.take(clients, pool)


def real(made: World, kind: str, trial: int) -> Array:
    """The updates [N, D] of one seed; start, orders and partition are all its own."""
    data, clients = dealt(made.config.clients, trial)
    # Labels of one's own even where all are true: one program serves the three kinds.
    clients = clients._replace(labels=np.asarray(data.labels)[clients.rows])
    if kind == "noisy":
        rng, asked = np.random.default_rng([trial, 1]), [("random_labels", 1, None)]
        clients, _ = attacks.dishonest(rng, clients, data.labels, 10, asked, [made.odd])
    signs = np.ones(made.config.clients, np.float32)
    signs[made.odd] = -1 if kind == "reversed" else 1
    return made.updates(jax.random.key(trial), data, clients, signs)


def gaussian(players: int, parameters: int, kind: str, trial: int) -> Array:
    """I.i.d. standard normal vectors [N, D], of norm 1 where the kind is "unit"."""
    drawn = jax.random.normal(jax.random.key(trial), (players, parameters))
    return drawn / vectors.norms(drawn)[:, None] if kind == "unit" else drawn


# ---------------------------------------------------------------- the study


def measured(scale: Scale) -> pl.DataFrame:
    """A row per sweep, kind of vectors, N, D, trial and method."""
    rows = []

    def point(sweep: str, kind: str, players: int, make: Callable[[int], Array]) -> None:
        for trial in range(scale.trials):
            updates = jax.block_until_ready(make(trial))
            key = jax.random.fold_in(jax.random.key(trial), 1)
            if trial == 0:
                times = seconds(key, updates, scale.repeats)
            place = {"sweep": sweep, "kind": kind, "players": players}
            place |= {"parameters": updates.shape[1], "trial": trial}
            for row in errors(key, updates, players // 2):
                rows.append(place | row | {"seconds": times[row["method"]]})

    for kind in RANDOM:
        for players in scale.players:
            parameters = 2**scale.usual_power
            point("N", kind, players, functools.partial(gaussian, players, parameters, kind))
        for power in scale.powers:
            players = scale.usual_players
            point("D", kind, players, functools.partial(gaussian, players, 2**power, kind))
    for sweep, players, power in (
        *(("N", players, scale.usual_power) for players in scale.players),
        *(("D", scale.usual_players, power) for power in scale.real_powers),
    ):
        made = world(players, power, scale.rounds)
        for kind in KINDS:
            point(sweep, kind, players, functools.partial(real, made, kind))
    return pl.DataFrame(rows, infer_schema_length=None)


def _own(frame: pl.DataFrame, **where: Any) -> pl.DataFrame:
    for name, value in where.items():
        frame = frame.filter(pl.col(name) == value)
    return frame


def beside_published(frame: pl.DataFrame, sweep: str, known: Mapping[int, tuple]) -> pl.DataFrame:
    """Random vectors: ours, mean ± sd over trials, and the published running average."""
    column = {"N": "players", "D": "parameters"}[sweep]
    rows = []
    for value in _own(frame, sweep=sweep, kind="random")[column].unique(maintain_order=True):
        seen = {
            name: _own(frame, sweep=sweep, kind="random", method=name, **{column: value})
            for name in METHODS
        }
        unit = _own(frame, sweep=sweep, kind="unit", method="psi", **{column: value})
        told = [*known.get(value, ()), *[None] * 6][:6]
        row: dict[str, Any] = {sweep: f"{value:,}"}
        row["L1 of psi, norm 1"] = common.spread(unit["l1"].to_list(), 1e3, 2)
        for name, place in (("psi", 0), ("plain", 1), ("pairs", None)):
            row[f"L1 of {name}"] = common.spread(seen[name]["l1"].to_list(), 1e3, 2)
            if place is not None:
                row[f"published, {name}"] = told[place] and f"{1e3 * told[place]:.2g}"
        for name, place in (("psi", 2), ("plain", 3), ("pairs", None)):
            row[f"Pearson of {name}"] = common.spread(seen[name]["pearson"].to_list(), 1, 3)
            if place is not None:
                row[f"published, {name} "] = told[place] and f"{told[place]:.3f}"
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def times(frame: pl.DataFrame, sweep: str, known: Mapping[int, tuple]) -> pl.DataFrame:
    """Milliseconds on random vectors."""
    column = {"N": "players", "D": "parameters"}[sweep]
    rows = []
    for value in _own(frame, sweep=sweep, kind="random")[column].unique(maintain_order=True):
        own = _own(frame, sweep=sweep, kind="random", trial=0, **{column: value})
        told = [*known.get(value, ()), *[None] * 6][:6]
        row: dict[str, Any] = {sweep: f"{value:,}"}
        row |= {f"{m}, ms": f"{1e3 * s:.3g}" for m, s in own.select("method", "seconds").rows()}
        row["published psi, ms"] = told[4] and f"{1e3 * told[4]:.2g}"
        row["published sampling, ms"] = told[5] and f"{1e3 * told[5]:.3g}"
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def of_real(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Real updates: errors of every estimate, and N times the value of the odd client."""
    errors, values = [], []
    real_ones = frame.filter(pl.col("kind").is_in(KINDS))
    for (_, kind, players, parameters), own in real_ones.group_by(
        "sweep", "kind", "players", "parameters", maintain_order=True
    ):
        place = {"odd client": kind, "N": str(players), "D": f"{parameters:,}"}

        def cells(header, methods, column, factor, digits, own=own):
            return {
                f"{header}{name}": common.spread(
                    _own(own, method=name)[column].to_list(), factor, digits
                )
                for name in methods
            }

        errors.append(
            place
            | cells("L1 of ", ESTIMATES, "l1", 1e3, 1)
            | cells("L2 of ", ESTIMATES, "l2", 1e3, 1)
            | cells("Pearson of ", ESTIMATES, "pearson", 1, 4)
        )
        values.append(place | cells("", METHODS, "odd", players, 2))
    return pl.DataFrame(errors).unique(maintain_order=True), pl.DataFrame(values).unique(
        maintain_order=True
    )


def in_words(frame: pl.DataFrame) -> str:
    """How psi treats the odd client, over everything that was measured."""
    lines = []
    for kind in KINDS:
        own = _own(frame, kind=kind, method="psi")
        truth, found = own["odd_exact"] * own["players"], own["odd"] * own["players"]
        lines.append(
            f"{kind}: N times the odd client's value is {truth.mean():.2f} exactly and "
            f"{found.mean():.2f} by psi, L1 of psi {own['l1'].mean():.3f}"
        )
    return (
        "; ".join(lines)
        + ". "
        + (
            "Reference figures on Gaussian vectors around a common direction, N = 10, ten trials: "
            "noisy .07 exactly and .24 by psi, L1 .035; reversed -.90 and -.57, L1 .078; honest of "
            "spread alignment, L1 .053."
        )
    )


MEANINGS = {
    "exact": "exact value",
    "psi": "psi: cos(u_i, u_N)",
    "plain": f"plain: sampled, {ORDERS} independent orders",
    "pairs": f"pairs: sampled, {ORDERS // 2} orders and their reverses",
}
ODD = {
    "honest": "the odd client is like all others",
    "noisy": "its labels are random",
    "reversed": "its uploads have the wrong sign",
}


def _look(estimate: str, kind: str = "") -> dict[str, Any]:
    """A colour per estimate and a marker per odd client."""
    colours = dict(zip(MEANINGS, (figures.BLACK, *figures.CYCLE), strict=False))
    markers: dict[str, str] = dict(zip(KINDS, figures.MARKERS, strict=False))
    look = {"color": colours.get(estimate, figures.GREY), "marker": markers.get(kind, ".")}
    return look | {"markersize": 4, "linewidth": 1.3}


def _line(axes: Axes, own: pl.DataFrame, value: str, **look: Any) -> None:
    """Means over trials of a column, over whatever the rows sweep."""
    column = "players" if own["sweep"][0] == "N" else "parameters"
    means = own.group_by(column).agg(pl.col(value).mean()).sort(column)
    axes.plot(means[column], means[value], **look)


def _over(axes: Axes, sweep: str) -> None:
    """Names the x axis of a panel."""
    axes.set_xlabel("clients N" if sweep == "N" else "parameters D", fontsize=9)
    if sweep == "D":
        axes.set_xscale("log", base=2)


def _fixed(own: pl.DataFrame, sweep: str) -> str:
    """What does not vary in a sweep."""
    return f"D = {own['parameters'].min():,}" if sweep == "N" else f"N = {own['players'].min()}"


def drawn(frame: pl.DataFrame) -> Figure:
    """Errors and the odd client's value over N (above) and over D (below).

    A colour is an estimate and a marker the odd client, in every panel. Sampling's error hardly
    depends on who is odd and is a mean over all; the sampled value lies on the exact one and is
    left out.
    """
    title = "psi and sampling against the exact Shapley value"
    figure, grid = common.panels(2, 3, (12, 7.6), title)
    worth = frame.with_columns(pl.col("odd") * pl.col("players"))
    for row, sweep in zip(grid, ("N", "D"), strict=True):
        own = _own(worth, sweep=sweep)
        row[1].sharey(row[0])  # one scale: which error is the greater is seen
        for name in ESTIMATES:
            _line(row[0], _own(own, kind="random", method=name), "l1", **_look(name))
        _line(row[0], _own(own, kind="unit", method="psi"), "l1", linestyle=":", **_look("psi"))
        sampled = own.filter(pl.col("kind").is_in(KINDS), pl.col("method") == "pairs")
        _line(row[1], sampled, "l1", **_look("pairs"))
        for kind in KINDS:
            _line(row[1], _own(own, kind=kind, method="psi"), "l1", **_look("psi", kind))
            for name in ("exact", "psi"):
                _line(row[2], _own(own, kind=kind, method=name), "odd", **_look(name, kind))
        row[2].axhline(0, color=figures.GREY, linewidth=0.8)
        for axes, title in zip(
            row, ("Gaussian vectors", "real updates", "real updates"), strict=True
        ):
            axes.set_title(f"{title}, {_fixed(own, sweep)}", fontsize=9)
            _over(axes, sweep)
        for axes in row[:2]:
            axes.set_yscale("log")
            axes.set_ylabel("L1 distance to the exact value", fontsize=9)
        row[2].set_ylabel("N x value of the odd client", fontsize=9)
    handles = [
        *(Line2D([], [], label=words, **_look(name)) for name, words in MEANINGS.items()),
        Line2D([], [], label="psi of vectors of norm 1", linestyle=":", **_look("psi")),
        *(
            Line2D([], [], label=f"{kind}: {words}", linestyle="", **_look("", kind))
            for kind, words in ODD.items()
        ),
    ]
    common.legend_below(figure, handles, 2)
    return figure


def drawn_times(frame: pl.DataFrame) -> Figure:
    """Seconds of all methods on random vectors; the work does not depend on what they hold."""
    title = "Time of psi, of sampling and of the exact Shapley value"
    figure, grid = common.panels(1, 2, (9, 4.2), title)
    for axes, sweep in zip(grid[0], ("N", "D"), strict=True):
        own = _own(frame, sweep=sweep, kind="random")
        for name in METHODS:
            _line(axes, _own(own, method=name), "seconds", **_look(name))
        axes.set_title(_fixed(own, sweep), fontsize=9)
        _over(axes, sweep)
        axes.set_yscale("log")
        axes.set_ylabel("seconds", fontsize=9)
    handles = [Line2D([], [], label=words, **_look(name)) for name, words in MEANINGS.items()]
    common.legend_below(figure, handles, 2)
    return figure


def main(argv: list[str] | None = None) -> pl.DataFrame:
    """Writes errors and times; returns the tidy rows."""
    what = common.asked("psi_error", __doc__, argv)
    scale = SCALES[what.scale]
    frame = measured(scale)
    real_errors, real_values = of_real(frame)
    note = (
        f"Mean ± sample deviation over {scale.trials} trials, L1 and L2 in thousandths, values "
        f"divided by their sum; {ORDERS} orders. Published: the released code's csv files, "
        "running averages over all smaller N (or D), D = 1,000 in the first; its sampling is exact "
        "at N = 5 and lists all N! orders first, which is what its seconds are."
    )
    common.report(
        what,
        "psi against the exact Shapley value and against sampling",
        [
            ("", note),
            ("Random vectors over N", beside_published(frame, "N", PUBLISHED_N)),
            ("Random vectors over D", beside_published(frame, "D", PUBLISHED_D)),
            ("Milliseconds over N", times(frame, "N", PUBLISHED_N)),
            ("Milliseconds over D", times(frame, "D", PUBLISHED_D)),
            (f"Real updates, after {scale.rounds} rounds of cgsv on digits", real_errors),
            ("N times the value of the odd client: 1 is an equal share", real_values),
            ("The odd client in words", in_words(frame)),
        ],
        frame,
        drawn(frame),
        common.provenance(scale.trials),
    )
    common.save(what, drawn_times(frame), "time")
    return frame


if __name__ == "__main__":
    main()
