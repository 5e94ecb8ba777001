"""The published benchmark of free riders in its own form: recall and false positives of detectors.

The claims tested: that cosine reputations catch whoever sends random weights and nobody who returns
what it was sent; that published detectors of free riders do better, at the price of honest clients;
and that a server which knows what it sent to whom catches both.

As in the benchmark (LukasXperiaZ/FL-free-rider-benchmark, 66e4893): labels by Dirichlet(1) at equal
sizes, Adam made anew in every round, 20 rounds, and a tenth, three tenths or seven tenths of the
clients ride free. *Random weights* are uniform in [-.01, .01], a whole model in place of a trained
one; a *replay* is what the client was sent last and noise of deviation .001 on every weight. A
client counts as detected if it ever was; but for WEF, who is detected is out for good.

The detectors above the line are the benchmark's own rules in its own world, FedAvg with one model
for all. Those below are this project's methods, in which everybody has a model of its own and
receives a part of u_N: there a client is out for good whose reputation is below a third of the
mean, from round 10 on.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from cgsv_jax.core import attacks, simulation, vectors
from cgsv_jax.experiment import bind, deal, names
from cgsv_jax.host import terminal
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.contribution import fgfl, foolsgold, s2_wef, viceroy
from cgsv_jax.rules.removal import without
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import (
    Algorithm,
    Array,
    ArrayTree,
    Attack,
    Clients,
    Conduct,
    Contribution,
    Dataset,
    Download,
    Network,
    PRNGKey,
    Standing,
    Upload,
)
from experiments import common

UNIFORM, NOISE = 1e-2, 1e-3  # the benchmark's R and sigma
ATTACKS = {"none": 0, "random weights": 2, "replay": 1}
SHARES = (0.1, 0.3, 0.7)


class Scale(NamedTuple):
    """How much of it."""

    asked: dict[str, Any]
    clients: tuple[int, ...]
    partition_seeds: int
    shares: tuple[float, ...] = SHARES
    detectors: tuple[str, ...] = ()  # none: all


DIGITS = {"dataset": "digits", "epochs": 5, "learning_rate": 3e-3}
SCALES = {
    "smoke": Scale(
        DIGITS | {"rounds": 12},
        *((4,), 1, (0.25,), ("rffl of models", "s2_wef", "ours-witness")),
    ),
    "small": Scale(DIGITS | {"rounds": 20}, (10,), 3),
    "full": Scale(
        {"dataset": "mnist", "epochs": 1, "learning_rate": 1e-3, "rounds": 20}, (10, 100), 3
    ),
}
# What this project offers, by the method that it is.
OURS = {
    "ours-rffl": {"algorithm": "rffl", "removed": "frozen"},
    "ours-cgsv": {"algorithm": "cgsv", "removal": 1 / 3},
    "ours-echo": {
        "algorithm": "cgsv",
        "contribution": "echo",
        "echo_of": "cosine",
        "removal": 1 / 3,
    },
    "ours-witness": {"algorithm": "witness", "removal": 1 / 3},
}
# clients -> (attack, share) -> detector -> mean recall and false positives of three runs, MNIST.
PUBLISHED: dict[int, dict[tuple[str, float], dict[str, tuple[float, float]]]] = {
    number: {
        case: dict(zip(("rffl of models", "wef", "viceroy", "fgfl"), row, strict=True))
        for case, row in cases.items()
    }
    for number, cases in {
        10: {
            ("none", 0.0): ((0, 0), (0, 4.7), (0, 1.3), (0, 5.3)),
            ("random weights", 0.1): ((1, 0), (1, 0), (1, 7), (1, 4.3)),
            ("random weights", 0.3): ((1, 0), (0.78, 0), (1, 1), (0.33, 0.3)),
            ("random weights", 0.7): ((1, 0), (0.14, 2), (0, 0), (0, 3)),
            ("replay", 0.1): ((0, 0), (1, 1.7), (0, 0.7), (1, 4)),
            ("replay", 0.3): ((0, 0), (0.89, 0.7), (1, 0), (0, 0.7)),
            ("replay", 0.7): ((0, 0), (0, 1.7), (1, 0), (0, 3)),
        },
        100: {
            ("none", 0.0): ((0, 0), (0, 16.3), (0, 34.7), (0, 24.3)),
            ("random weights", 0.1): ((1, 0), (1, 0), (1, 20.7), (1, 24.3)),
            ("random weights", 0.3): ((1, 0), (1, 20.7), (1, 34.7), (1, 21.3)),
            ("random weights", 0.7): ((1, 0), (0, 30), (1, 11.3), (0.17, 30)),
            ("replay", 0.1): ((0, 0), (1, 8.3), (1, 19), (0, 7.7)),
            ("replay", 0.3): ((0, 0), (0.69, 13.3), (1, 19.3), (0, 5)),
            ("replay", 0.7): ((0, 0), (0, 20), (1, 8.7), (0.19, 30)),
        },
    }.items()
}
NOTE = (
    "Recall (false positives): the share of free riders that were detected, and how many honest "
    "clients were beside them; means over runs. `rffl of models` is the benchmark's RFFL, the "
    "cosine of whole models in one world of FedAvg, `ours-rffl` this project's, of updates."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Plays every detector against every attack and share."""
    what = common.asked("free_riders", __doc__, argv)
    scale = SCALES[what.scale]
    cells = [(number, seed) for number in scale.clients for seed in range(scale.partition_seeds)]
    rows: list[dict[str, Any]] = []
    watching = terminal.watching(terminal.console(stderr=True), len(cells), "partitions")
    with watching as watch, common.compiled_once():
        for place, (number, seed) in enumerate(cells):
            asked = {"data_dir": what.data_dir} | scale.asked
            rows += played(asked, number, seed, scale.shares, scale.detectors)
            watch(f"{number} clients, partition {seed}", place + 1, now=True)
    frame = pl.DataFrame(rows)
    sections: list = [("", NOTE)]
    for number in scale.clients:
        own = frame.filter(clients=number)
        sections.append((f"{number} clients", table(own)))
        sections.append((f"{number} clients: accuracy of honest clients, %", accuracies(own)))
        if number in PUBLISHED:
            sections.append((f"{number} clients, published (MNIST)", published(number)))
    common.report(
        *(what, "The published benchmark of free riders: recall and false positives"),
        *(sections, frame, figure(frame), common.provenance(1)),
    )


# ---------------------------------------------------------------- runs


def played(
    asked: dict[str, Any],
    number: int,
    seed: int,
    shares: Sequence[float],
    only: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """A row per detector, attack and share on one partition."""
    config = names.configure(
        named=False, clients=number, partitions="dirichlet", partition_seed=seed, seeds=1,
        concentration=1.0, dirichlet_balanced=True, min_rows=10, optimizer="adam",
        optimizer_state="restart", decay=1.0, methods=OURS,
        algorithms=["fedavg", *OURS], eval_every=asked["rounds"], **asked,
    )  # fmt: skip
    (task,) = deal.tasks(config)
    bound = {own.name: bind.bind(config, own, task) for own in config.methods}
    federations = {name: own.federation(own.hyper) for name, own in bound.items()}
    fedavg = federations.pop("fedavg")
    detectors = {
        **{k: fedavg._replace(algorithm=watched(d)) for k, d in watchmen(task.network).items()},
        **federations,
    }
    cases = [("none", 0.0)] + [(name, share) for name in list(ATTACKS)[1:] for share in shares]
    data = task.data._replace(validation=None)
    order = np.random.default_rng(seed).permutation(number)
    rows = []
    for name, chosen in detectors.items():
        if only and name not in only:
            continue
        federation = chosen._replace(attack=attack())

        def run(key: PRNGKey, data: Dataset, clients: Clients, federation: Any = federation):
            _, record, evaluation = simulation.run(key, data, clients, federation)
            return record.score[-1], record.reputation[-1], evaluation.accuracy[-1]

        compiled = jax.jit(run)  # who cheats, and how, is data
        for kind, share in cases:
            rides = np.zeros(number, bool)
            rides[order[: round(share * number)]] = True
            code = np.where(rides, ATTACKS[kind], 0).astype(np.int32)
            clients = task.clients._replace(
                conduct=Conduct(code, np.full(number, NOISE, np.float32))
            )
            score, reputation, accuracy = map(
                np.asarray, compiled(jax.random.key(seed), data, clients)
            )
            found = reputation == 0 if name in OURS else score > 0
            rows.append(
                {"clients": number, "partition_seed": seed, "detector": name, "kind": kind}
                | {"share": share, "riders": int(rides.sum())}
                | {"detected": int((found & rides).sum()), "false": int((found & ~rides).sum())}
                | {"honest_accuracy": float(accuracy[~rides].mean())}
            )
    return rows


def attack() -> Attack:
    """Code 1 of a `Conduct` sends what it was sent last, and noise; code 2 random weights."""
    replay = attacks.attack(["free_rider_adwa"])

    def forge(key: PRNGKey, upload: Upload, conduct: Conduct, state: ArrayTree) -> Array:
        keys = vectors.draws(key, upload.numbers, upload.deltas.shape[0])
        size = upload.deltas.shape[1:]
        model = jax.vmap(lambda k: jax.random.uniform(k, size, minval=-UNIFORM, maxval=UNIFORM))
        random = upload.present & (conduct.attack == 2)
        replayed = replay.forge(key, upload, conduct, state)
        return jnp.where(random[:, None], model(keys) - upload.clients, replayed)

    return replay._replace(forge=forge)


# ---------------------------------------------------------------- the benchmark's detectors


class Watchman(NamedTuple):
    """A measure, and whom it gives away: `finds(score [N], present [N], round []) -> [N] bool`."""

    measure: Contribution
    finds: Callable[[Array, Array, Array], Array]
    bans: bool = True  # whether who is found is out for good


class Watch(NamedTuple):
    """What is carried beside the measure's state."""

    measure: ArrayTree
    sent: ArrayTree
    found: Array  # [N] bool, whoever was found


def watched(watchman: Watchman) -> Algorithm:
    """FedAvg by size of those who are not found, one model for all; the score: who was found."""
    measure, rounds = watchman.measure, watchman.measure.needs.sent

    def init(num_clients: int, num_parameters: int) -> Watch:
        memory = sent_lib.nothing(num_clients, num_parameters, rounds) if rounds else ()
        state = measure.init(num_clients, num_parameters)
        return Watch(state, memory, jnp.zeros(num_clients, bool))

    def update(key: PRNGKey, upload: Upload, state: ArrayTree) -> tuple[Download, Standing, Watch]:
        upload = upload._replace(sent=state.sent if rounds else None)
        if watchman.bans:
            upload = without(upload, state.found)
        everybody, weights = mean(upload, upload.present)
        score, measured = measure.update(key, upload, everybody, weights, state.measure)
        out = upload.present & watchman.finds(score, upload.present, upload.round)
        aggregate, weights = mean(upload, upload.present & ~out)
        receives = upload.present & ~out if watchman.bans else upload.present
        rewards = jnp.where(receives[:, None], aggregate[None], 0.0)
        memory = state.sent
        if rounds:
            memory = sent_lib.remembered(memory, upload.round, aggregate, rewards, receives)
        quota = jnp.where(receives, aggregate.size, 0).astype(jnp.int32)
        found = state.found | out
        standing = Standing(found.astype(weights.dtype), weights)
        present = upload.present
        download = Download(aggregate, weights, rewards, quota, present=present)
        return download, standing, Watch(measured, memory, found)

    return Algorithm(init, update)


def mean(upload: Upload, kept: Array) -> tuple[Array, Array]:
    """The mean by size of the updates of those who are kept, and its weights; 0 where none is."""
    sizes = jnp.where(kept, upload.num_examples, 0).astype(upload.deltas.dtype)
    weights = sizes / jnp.maximum(jnp.sum(sizes), 1)
    return vectors.weighted_sum(weights, upload.deltas), weights


def watchmen(network: Network) -> dict[str, Watchman]:
    """The benchmark's detectors with its numbers for MNIST, FoolsGold by Viceroy's threshold."""

    def low(score: Array, present: Array, round_: Array) -> Array:
        here = jnp.where(present, score, jnp.nan)
        middle, spread = jnp.nanmedian(here), jnp.nanstd(here)
        return score <= middle - 2.1 * spread

    def high(score: Array, present: Array, round_: Array) -> Array:
        return (round_ > 0) & (score >= jnp.max(jnp.where(present, score, -jnp.inf)) - 0.02)

    heard = stateless(Contribution, lambda upload: upload.present.astype(upload.norms.dtype))
    return {
        "rffl of models": Watchman(of_models(), lambda r, here, t: r < 1 / (3 * r.size)),
        "wef": Watchman(wef(network), high, bans=False),
        "viceroy": Watchman(viceroy(), lambda p, here, t: (p <= 0) & (t > 0)),
        "fgfl": Watchman(fgfl(), low),
        "foolsgold": Watchman(foolsgold(), lambda a, here, t: (a <= 0.1) & (t > 0)),
        "s2_wef": Watchman(s2_wef(heard), lambda heard, here, t: heard <= 0),
    }


def of_models(alpha: float = 0.95) -> Contribution:
    """The benchmark's RFFL: r_i = alpha r_i + (1 - alpha) cos(w_N + dw_i, w_N + u_N), shares."""

    def init(num_clients: int, num_parameters: int) -> Array:
        return jnp.full(num_clients, 1 / num_clients)

    def update(
        key: PRNGKey, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        models = upload.server[None] + upload.deltas
        ones = jnp.ones_like(upload.norms)
        near = vectors.cosines(models, vectors.norms(models), ones, upload.server + aggregate)
        r = jnp.where(upload.present, alpha * state + (1 - alpha) * near, 0.0)
        kept = jnp.where(r < 1 / (3 * r.size), 0.0, r)
        return r, kept / jnp.maximum(jnp.sum(kept), 1e-9)

    return Contribution(init, update)


class Evolving(NamedTuple):
    """What WEF knows of each client."""

    last: Array  # [N, F] the last layer that it sent
    counts: Array  # [N, F] how often each entry moved by more than the mean
    heard: Array  # [N] bool


def wef(network: Network) -> Contribution:
    """How much a client's frequencies deviate from the others', as the benchmark counts them.

    F_i counts, over rounds, the entries of the last layer that i sends which moved by more than the
    mean since it sent them last. Of the sum of distances to the others' F, the sum of cosines and
    the mean of F it is the deviation from their mean over clients, each as a share of all.
    """
    places = network.output()
    if places is None:
        raise ValueError("the network has no last layer")
    places = np.asarray(places).ravel()

    def init(num_clients: int, num_parameters: int) -> Evolving:
        start = jnp.zeros((num_clients, places.size))
        return Evolving(start, start, jnp.zeros(num_clients, bool))

    def update(
        key: PRNGKey, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        here = upload.present
        sent = upload.server[places][None] + upload.deltas[:, places]
        moved = jnp.abs(sent - state.last)
        often = moved > jnp.mean(moved, axis=1, keepdims=True)
        counts = state.counts + (often & (here & state.heard)[:, None])
        score = deviations(jnp.where(here[:, None], counts, 0.0), here)
        last = jnp.where(here[:, None], sent, state.last)
        return score, Evolving(last, counts, state.heard | here)

    return Contribution(init, update)


def deviations(counts: Array, here: Array) -> Array:
    """WEF's Dev_i [N] of counts [N, F]; 0 for who is not here."""
    dots = vectors.gram(counts)  # of whole numbers: exact
    squares = jnp.diagonal(dots)
    norms = jnp.sqrt(squares)
    others = here[:, None] & here[None, :] & ~jnp.eye(here.size, dtype=bool)
    far = jnp.sqrt(jnp.maximum(squares[:, None] + squares[None, :] - 2 * dots, 0.0))
    both = norms[:, None] * norms[None, :]
    near = dots / jnp.where(both > 0, both, 1.0)
    seen = [jnp.sum(jnp.where(others, x, 0.0), axis=1) for x in (far, near)]
    total = jnp.zeros_like(norms)
    for value in (*seen, jnp.mean(counts, axis=1)):
        middle = jnp.sum(jnp.where(here, value, 0.0)) / jnp.maximum(jnp.sum(here), 1)
        off = jnp.where(here, jnp.abs(value - middle), 0.0)
        whole = jnp.sum(off)
        total = total + off / jnp.where(whole > 0, whole, 1.0)
    return total


# ---------------------------------------------------------------- tables and the figure


def table(frame: pl.DataFrame) -> pl.DataFrame:
    """Detectors down, attacks and shares across: recall (false positives), means over runs."""

    def cell(own: pl.DataFrame) -> str:
        return said(_recall(own), float(own["false"].to_numpy().mean()))

    return _crossed(frame, cell)


def accuracies(frame: pl.DataFrame) -> pl.DataFrame:
    """The same with the mean accuracy of those who do not ride free."""
    return _crossed(frame, lambda own: f"{100 * own['honest_accuracy'].to_numpy().mean():.1f}")


def _recall(own: pl.DataFrame) -> float | None:
    detected, riders = (float(own[name].to_numpy().sum()) for name in ("detected", "riders"))
    return detected / riders if riders else None


def _crossed(frame: pl.DataFrame, cell: Callable[[pl.DataFrame], str]) -> pl.DataFrame:
    rows = []
    for (detector,), own in frame.group_by("detector", maintain_order=True):
        row = {"detector": str(detector)}
        for (kind, share), runs in own.group_by("kind", "share", maintain_order=True):
            row[heading(str(kind), float(str(share)))] = cell(runs)
        rows.append(row)
    return pl.DataFrame(rows)


def published(number: int) -> pl.DataFrame:
    """The benchmark's own table in the form of `table`."""
    cases = PUBLISHED[number]
    return pl.DataFrame(
        [
            {"detector": name}
            | {
                heading(*case): said(row[name][0] if case[1] else None, row[name][1])
                for case, row in cases.items()
            }
            for name in next(iter(cases.values()))
        ]
    )


def heading(kind: str, share: float) -> str:
    """How a column is called."""
    return f"{kind}, {100 * share:.0f} %" if share else "nobody"


def said(recall: float | None, false: float) -> str:
    """Recall (false positives); without recall where nobody rides free."""
    alone = f"{false:.1f}".removesuffix(".0")
    return f"({alone})" if recall is None else f"{recall:.2f} ({alone})"


def figure(frame: pl.DataFrame) -> Figure:
    """Recall beside the share of honest clients that are taken for free riders; rows: N."""
    numbers = frame["clients"].unique(maintain_order=True).to_list()
    detectors = frame["detector"].unique(maintain_order=True).to_list()
    size = (11, (0.32 * len(detectors) + 1.6) * len(numbers) + 0.4)
    drawn, grid = common.panels(len(numbers), 2, size, "Free riders: who is detected")
    for row, number in zip(grid, numbers, strict=True):
        own = frame.filter(clients=number).with_columns(
            (pl.col("detected") / pl.col("riders")).alias("recall"),
            (pl.col("false") / (pl.col("clients") - pl.col("riders"))).alias("mistaken"),
        )
        cases = own.select("kind", "share").unique(maintain_order=True).rows()
        for axes, value, colours in zip(
            row, ("recall", "mistaken"), ("Greens", "Reds"), strict=True
        ):
            shown = [case for case in cases if case[1] or value == "mistaken"]
            values = np.array(
                [
                    [
                        own.filter(detector=name, kind=kind, share=share)[value].to_numpy().mean()
                        for kind, share in shown
                    ]
                    for name in detectors
                ]
            )
            common.written_map(
                *(axes, values, lambda share: f"{100 * share:.0f}", lambda share: share > 0.5, 8),
                **{"vmin": 0, "vmax": 1, "cmap": colours},
            )
            axes.set_xticks(
                range(len(shown)),
                [
                    heading(*case).replace("random ", "random\n").replace(", ", "\n")
                    for case in shown
                ],
                fontsize=7,
            )
            axes.set_yticks(range(len(detectors)), detectors, fontsize=8)
            title = {
                "recall": "free riders that are detected, %",
                "mistaken": "honest clients that are, %",
            }
            axes.set_title(f"{number} clients: {title[value]}", fontsize=9)
    return drawn


if __name__ == "__main__":
    main()
