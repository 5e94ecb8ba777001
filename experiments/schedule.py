"""Where the released MNIST schedule stops learning: float32 against a vanishing learning rate.

The released code decays the learning rate once per LOCAL EPOCH (its first public commit: once per
round). The model is frozen after 25 rounds of the setting `released`; from there every client makes
one local update at the learning rate of round t, in the same order of rows for every t, so that
nothing but the rate differs. A float32 step can be lost in three places, and each is counted:

1. the product lr * gradient may underflow to 0;
2. w + product may round back to w, where the product is below half a last place of w;
3. dw = after - before may underflow.

The products are summed beside the parameters, without ever being added to them: their norm is what
the update would have been. dw of one parameter is 0 exactly if its bits did not change: numbers
within a factor of two of each other are subtracted without error, and others differ.

    python -m experiments.schedule --scale small
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cgsv_jax import data as data_lib
from cgsv_jax.core import evaluation, local, simulation, vectors
from cgsv_jax.experiment import bind, deal, names
from cgsv_jax.results import figures
from cgsv_jax.types import Array, ArrayTree
from experiments import common

TORCH_EPSILON = 1e-8  # smallest norm in PyTorch's cosine unless another is given
GAMMA, EPSILON = 0.5, 1e-7  # of the upload, u = Gamma dw / (‖dw‖ + epsilon)
RATE, DECAY = 1e-3, 0.955  # of MNIST in the setting `released`
SCHEDULES = {"epoch": "per local epoch (released)", "round": "per round (first public commit)"}
PROBES = (26, 60, 80, 100, 120, 150, 200)

# One run, seed 0, of another implementation: (schedule, round) -> what it saw.
REFERENCE: dict[tuple[str, int], dict[str, float]] = {
    ("epoch", 26): {
        "dw": 2.6e-4,
        "u": 0.500,
        "changed": 0.998,
        "descent_damped": 1.0,
        "pair_damped": 0.737,
    },
    ("epoch", 60): {
        "dw": 2.2e-6,
        "u": 0.478,
        "changed": 0.639,
        "descent_damped": 0.919,
        "pair_damped": 0.724,
    },
    ("epoch", 80): {
        "dw": 4.6e-8,
        "u": 0.156,
        "changed": 0.067,
        "descent_damped": 0.335,
        "pair_damped": 0.659,
    },
    ("epoch", 100): {"dw": 7.4e-10, "u": 0.0037, "changed": 0.0044, "descent_damped": 0.006}
    | {"pair_damped": 0.004},
    ("epoch", 120): {
        "dw": 1.1e-11,
        "u": 5e-5,
        "changed": 3e-4,
        "descent_damped": 0.0,
        "pair_damped": 0.0,
    },
    ("epoch", 200): {"dw": 0.0, "u": 0.0, "changed": 0.0},
    ("round", 100): {"descent_damped": 1.0},
    ("round", 150): {"descent_damped": 0.992},
    ("round", 200): {"changed": 0.34, "descent_damped": 0.720},
}


class Scale(NamedTuple):
    """How much of it."""

    dataset: str
    seeds: int
    frozen: int  # rounds before the probes
    step: int  # every how many rounds one is probed, beside `PROBES`
    last: int = 200


SCALES = {
    "smoke": Scale("digits", 1, 3, 20),
    "small": Scale("mnist", 2, 25, 1),
    "full": Scale("mnist", 10, 25, 1),
}


class Ledger(NamedTuple):
    """An optimizer's state that remembers what descent wanted to add."""

    total: ArrayTree  # sum of lr * gradient with its sign, never added to a parameter
    lost: Array  # [] products that are 0 although the gradient is not
    products: Array  # [] products of gradients that are not 0


def sgd_with_ledger(learning_rate: Array) -> optax.GradientTransformation:
    """`optax.sgd` whose state is a `Ledger`."""

    def init(params: ArrayTree) -> Ledger:
        return Ledger(jax.tree.map(jnp.zeros_like, params), jnp.int32(0), jnp.int32(0))

    def update(gradient: ArrayTree, state: Ledger, params: ArrayTree | None = None):
        del params
        step = jax.tree.map(lambda g: -learning_rate * g, gradient)
        total = jax.tree.map(jnp.add, state.total, step)
        wanted = jax.tree.map(lambda g: jnp.sum(g != 0, dtype=jnp.int32), gradient)
        lost = jax.tree.map(
            lambda g, s: jnp.sum((g != 0) & (s == 0), dtype=jnp.int32), gradient, step
        )
        state = Ledger(
            total,
            state.lost + sum(jax.tree.leaves(lost)),
            state.products + sum(jax.tree.leaves(wanted)),
        )
        return step, state

    return optax.GradientTransformation(init, update)


def probed(scale: Scale, rounds: tuple[int, ...], seed: int, data_dir: str | None) -> pl.DataFrame:
    """A row per schedule, probed round and client.

    Args:
      scale: data set and number of rounds before the probes.
      rounds: the rounds t, counted from 1, whose learning rate is tried.
      seed: of the start, the orders and the partition.
      data_dir: folder of the stored sets.
    """
    config = names.configure(
        dataset=scale.dataset, data_dir=data_dir, algorithms="cgsv", preset="released",
        clients=2, rows_per_client=160, partitions="uniform", partition_seed=seed, epochs=3,
        batch_size=32, rounds=scale.frozen, seeds=1, learning_rate=RATE, decay=DECAY, gamma=GAMMA,
        layout="one", devices=1,
    )  # fmt: skip
    (task,), (method,) = deal.tasks(config), config.methods
    federation = bind.bind(config, method, task).federation(method.hyper(task.partition))
    key = jax.random.key(seed)
    clients = jax.tree.map(jnp.asarray, task.clients)
    data = jax.tree.map(jnp.asarray, task.data._replace(validation=None))

    @jax.jit
    def before(data, clients):
        state = simulation.init(key, config.clients, federation)
        one_round = lambda state, _: simulation.round_(  # noqa: E731
            key, state, data, clients, federation
        )
        return jax.lax.scan(one_round, state, None, scale.frozen)[0]

    @jax.jit
    def full_gradients(weights, data, clients):
        """The gradient of each client's mean loss over all its rows, [N, D]."""
        loss = evaluation.mean_loss(task.model, 160)
        labels = data.labels[clients.rows]

        def one(parts):
            rows, mask, labels, weights = parts
            return jax.grad(lambda w: loss(data.inputs, rows, mask, labels, w))(weights)

        return jax.lax.map(one, (clients.rows, clients.mask, labels, weights))

    state = before(data, clients)
    gradients = np.asarray(full_gradients(state.clients, data, clients), np.float64)
    draw = jax.vmap(lambda k, mask: local.draw_order(k, mask, config.epochs))
    orders = draw(jax.random.split(jax.random.fold_in(key, 1), config.clients), clients.mask)
    size = state.server.size

    rows = []
    for per in SCHEDULES:
        trainer = local.trainer(
            task.model,
            sgd_with_ledger,
            local.decayed(jnp.float32(RATE), jnp.float32(DECAY), per=per, epochs=config.epochs),
            batch_size=config.batch_size,
        )

        probed_ = federation._replace(trainer=trainer)

        @jax.jit
        def probe(state, data, clients, orders, round_, federation=probed_):
            fresh = simulation.init(key, config.clients, federation)
            state = state._replace(optimizer=fresh.optimizer, round=round_)
            upload, ledger = simulation.train(key, state, data, clients, federation, orders)
            wanted = jax.vmap(vectors.ravel)(ledger.total)
            rate = upload.learning_rate
            return upload.deltas, wanted, ledger.lost / ledger.products, rate

        for number in rounds:
            # Norms and cosines in float64, on the host: only the training itself is in question.
            deltas, wanted, lost, rate = (
                np.asarray(x, np.float64)
                for x in probe(state, data, clients, orders, jnp.int32(number - 1))
            )
            norms = np.linalg.norm(deltas, axis=1)
            for i in range(config.clients):
                rows.append(
                    {
                        "dataset": scale.dataset,
                        "schedule": per,
                        "seed": seed,
                        "round": number,
                        "client": i,
                        "learning_rate": float(rate),
                        "dw": norms[i],
                        "wanted": np.linalg.norm(wanted[i]),
                        "u": GAMMA * norms[i] / (norms[i] + EPSILON),
                        "changed": np.count_nonzero(deltas[i]) / size,
                        "lost_products": lost[i],
                        "descent": _cosine(deltas[i], -gradients[i]),
                        "pair": _cosine(deltas[0], deltas[1]),
                        "descent_damped": _cosine(deltas[i], -gradients[i], TORCH_EPSILON),
                        "pair_damped": _cosine(deltas[0], deltas[1], TORCH_EPSILON),
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def _cosine(one: np.ndarray, other: np.ndarray, epsilon: float = 0.0) -> float | None:
    """None where a vector is zero: it has no direction. Norms count at least `epsilon`."""
    lengths = np.linalg.norm(one), np.linalg.norm(other)
    if min(lengths) == 0:
        return None
    return float(one @ other / (max(lengths[0], epsilon) * max(lengths[1], epsilon)))


def first(frame: pl.DataFrame, column: str, below: float) -> int | None:
    """The first round from which on the mean over clients stays below a number."""
    means = frame.group_by("round", maintain_order=True).agg(pl.col(column).mean()).sort("round")
    low = means[column].to_numpy() < below
    if not low[-1]:
        return None
    return int(means["round"][int(np.flatnonzero(~low)[-1]) + 1 if not low.all() else 0])


def table(frame: pl.DataFrame, per: str, shown: tuple[int, ...]) -> pl.DataFrame:
    """Means over clients and seeds at the probed rounds, the reference's value behind a slash."""
    rows = []
    for number in shown:
        own = frame.filter((pl.col("schedule") == per) & (pl.col("round") == number))
        known = REFERENCE.get((per, number), {}) if own["dataset"][0] == "mnist" else {}

        def cell(column: str, form: str, own=own, known=known, factor: float = 1.0) -> str:
            mean = own[column].drop_nulls().mean()
            text = "–" if mean is None else format(factor * mean, form)
            return f"{text} / {format(factor * known[column], form)}" if column in known else text

        rows.append(
            {
                "round": str(number),
                "lr": cell("learning_rate", ".1e"),
                "‖sum lr g‖": cell("wanted", ".1e"),
                "‖dw‖": cell("dw", ".1e"),
                "‖u‖": cell("u", ".3g"),
                "changed, %": cell("changed", ".3g", factor=100),
                "lr g = 0, %": cell("lost_products", ".2g", factor=100),
                "cos(dw, -full gradient)": cell("descent", ".3f"),
                "at epsilon 1e-8": cell("descent_damped", ".3f"),
                "cos(u_1, u_2)": cell("pair", ".3f"),
                "at epsilon 1e-8 ": cell("pair_damped", ".3f"),
            }
        )
    return pl.DataFrame(rows)


def stops(frame: pl.DataFrame) -> pl.DataFrame:
    """When each schedule stops learning, by seed."""
    rows = []
    for per, title in SCHEDULES.items():
        limits = {
            "fewer than 1 % of the parameters change": ("changed", 0.01),
            "‖u‖ is below Gamma / 2": ("u", GAMMA / 2),
            "half of ‖sum lr g‖ is lost": ("kept", 0.5),
        }
        row = {"learning rate decays": title}
        for header, (column, below) in limits.items():
            found = [
                first(
                    own.with_columns((pl.col("dw") / pl.col("wanted")).alias("kept")), column, below
                )
                for _, own in frame.filter(pl.col("schedule") == per).group_by(
                    "seed", maintain_order=True
                )
            ]
            row["first probed round where " + header] = ", ".join(
                "never" if number is None else str(number) for number in found
            )
        rows.append(row)
    return pl.DataFrame(rows)


def place_of_loss(frame: pl.DataFrame) -> str:
    """Which of the three places loses the step, in words made from the numbers."""
    dead = frame.filter((pl.col("dw") == 0) & (pl.col("wanted") > 0))
    lost = frame["lost_products"].max()
    kept = "hardly any product underflows" if lost < 0.01 else "products underflow as well"
    return (
        f"Over all probes at most {100 * lost:.2g} % of the products lr * gradient are 0 where the "
        f"gradient is not, so {kept}; the smallest learning rate is "
        f"{frame['learning_rate'].min():.1e}. In {len(dead)} of {len(frame)} updates the products' "
        "sum is not 0 and yet no parameter changed: the step is lost in the addition w + product, "
        "which rounds back to w. (The subtraction after - before of two near floats is exact.)"
    )


def drawn(frame: pl.DataFrame, shown: tuple[int, ...], title: str) -> Figure:
    """Norms, changed share and cosines over the rounds; crosses are the reference's.

    The reference's cosines are damped, those of the lines are not; see the note of the table.
    """
    figure, grid = common.panels(1, 3, (12, 4.4), title)
    means = (
        frame.group_by("schedule", "round", maintain_order=True)
        .agg(pl.col("dw", "wanted", "changed", "descent", "pair").mean())
        .sort("round")
    )
    norms, changed, cosines = grid[0]
    for place, per in enumerate(SCHEDULES):
        own = means.filter(pl.col("schedule") == per)
        look = {"color": figures.CYCLE[place], "linewidth": 1.4}
        x = own["round"].to_numpy()
        norms.plot(x, np.where(own["dw"] > 0, own["dw"], np.nan), **look)
        norms.plot(x, own["wanted"], linestyle=":", **look)
        changed.plot(x, 100 * own["changed"].to_numpy(), **look)
        for column, dash in (("descent", "-"), ("pair", "--")):
            values = own[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            cosines.plot(x, values, linestyle=dash, **look)
        if frame["dataset"][0] == "mnist":
            known = {t: seen for (kind, t), seen in REFERENCE.items() if kind == per}
            for axes, column, factor in (
                (norms, "dw", 1), (changed, "changed", 100), (cosines, "descent_damped", 1),
            ):  # fmt: skip
                points = [(t, factor * v[column]) for t, v in known.items() if v.get(column)]
                if points:
                    axes.plot(*zip(*points, strict=True), "x", color=figures.BLACK, markersize=6)
    norms.axhline(EPSILON, color=figures.GREY, linewidth=0.8)
    norms.annotate(
        *("epsilon of the upload", (shown[-1], EPSILON), (0, 2)),
        **{"textcoords": "offset points", "fontsize": 8, "ha": "right", "va": "bottom"},
    )
    norms.set_yscale("log")
    for axes, label in (
        (norms, "norm of the update"),
        (changed, "parameters changed, %"),
        (cosines, "cosine"),
    ):
        axes.set_xlabel("round whose learning rate is tried", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
    grey = {"color": figures.GREY, "linewidth": 1.4}
    handles = [
        *(
            Line2D([], [], color=figures.CYCLE[place], linewidth=1.4, label=f"decay {name}")
            for place, name in enumerate(SCHEDULES.values())
        ),
        Line2D([], [], **grey, label="‖dw‖; right: cosine of dw and minus the full gradient"),
        Line2D([], [], **grey, ls=":", label="‖sum of lr × gradient‖, never added to a weight"),
        Line2D([], [], **grey, ls="--", label="cosine of the two clients' uploads u_1 and u_2"),
    ]
    if frame["dataset"][0] == "mnist":
        label = "reference: another implementation, cosines at epsilon 1e-8"
        handles.append(Line2D([], [], color=figures.BLACK, marker="x", lw=0, label=label))
    common.legend_below(figure, handles, 3)
    return figure


def main(argv: list[str] | None = None) -> pl.DataFrame:
    """Writes the tables of both schedules; returns the tidy rows."""
    what = common.asked("schedule", __doc__, argv)
    scale = SCALES[what.scale]
    known = {line.name: line for line in data_lib.available(what.data_dir)}[scale.dataset]
    if not known.present:
        raise SystemExit(f"schedule at scale {what.scale} needs {scale.dataset}: {known.where}")
    shown = tuple(t for t in PROBES if t > scale.frozen)
    rounds = tuple(sorted({*shown, *range(scale.frozen + 1, scale.last + 1, scale.step)}))
    frame = pl.concat(probed(scale, rounds, seed, what.data_dir) for seed in range(scale.seeds))
    model = "MNIST CNN" if scale.dataset == "mnist" else "digits MLP (a stand-in for MNIST)"
    setup = (
        f"{model}, 2 clients of 160 rows, float32, setting `released` with lr {RATE:g} and decay "
        f"{DECAY:g}; frozen after {scale.frozen} rounds, then one local update of 3 epochs at the "
        "learning rate of each round. Means over clients and seeds"
    )
    setup += (
        "; behind a slash the value of a reference run of the released code's computation in "
        "another implementation (one run, seed 0). Its cosines seem to have PyTorch's default "
        "epsilon, norms count at least 1e-8: that shrinks the cosine of a shorter dw, but not what "
        "the server sees after rescaling."
        if scale.dataset == "mnist"
        else "."
    )
    common.report(
        what,
        "The released schedule stops learning when float32 additions stop changing parameters",
        [
            ("", setup),
            *(
                (f"Learning rate decays {title}", table(frame, per, shown))
                for per, title in SCHEDULES.items()
            ),
            ("When learning stops", stops(frame)),
            ("Where the step is lost", place_of_loss(frame)),
        ],
        frame,
        drawn(frame, shown, f"One local update at the learning rate of round t: {model}"),
        common.provenance(scale.seeds),
    )
    return frame


if __name__ == "__main__":
    main()
