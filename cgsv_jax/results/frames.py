"""What is kept of a run, as tables of polars: their columns, and how they come from arrays."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from cgsv_jax.config import schema
from cgsv_jax.core import metrics, uncertainty
from cgsv_jax.types import Answers, Array, Evaluation, Record

YARDSTICK = schema.YARDSTICK  # the method that fairness compares with

# Names, order and types of the columns. What is not known is null, never NaN.
KEYS = {
    **dict.fromkeys(("partition", "method"), pl.String),
    "partition_seed": pl.Int64,  # with which the partition was drawn
    "seed": pl.Int64,
}
# On a client's own rows, held out for it alone (`Clients.own_rows`); null where it has none.
OWN = {"own_accuracy": pl.Float32}
OWN_OF_CLIENTS = {
    "own_rows": pl.Int32,  # how many these are; null where nobody has some
    **OWN,  # at the end
    "standalone_own_accuracy": pl.Float32,
}
# Over clients; the gain is over standalone, on the same rows.
OWN_OF_RUNS = dict.fromkeys(("mean_own_accuracy", "min_own_accuracy", "own_gain"), pl.Float64)
ROUND_COLUMNS = {  # a row per key, round and client, in this order
    **KEYS,
    "round": pl.Int32,  # rounds completed, from 1
    "client": pl.Int32,
    **dict.fromkeys(("score", "reputation", "weight"), pl.Float32),
    "quota": pl.Int32,
    "share": pl.Float32,  # quota / D
    **dict.fromkeys(("present", "broken"), pl.Boolean),  # broken: absent, the update not finite
    **dict.fromkeys(("loss", "update_norm"), pl.Float32),  # of training, null where absent; ‖dw‖
    "energy": pl.Float32,  # ‖v_i‖² / ‖u_N‖²
    # Fractions, test losses and ‖w_N - w_i‖: null in rounds without evaluation, and for clients
    # that are not evaluated.
    **dict.fromkeys(("accuracy", "test_loss", "distance"), pl.Float32),
    **dict.fromkeys(("server_accuracy", "server_test_loss"), pl.Float32),
    **OWN,
}
# Of a client's model at the end, where hidden units may be off in it; null elsewhere. FLOPs are per
# example, two for every multiplication by a parameter.
SIZES = {"parameters": pl.Float64, "flops": pl.Float64}
CLIENT_COLUMNS = {  # a row per key and client
    **KEYS,
    "client": pl.Int32,
    "owner": pl.String,  # null where clients are not owners of rows
    **dict.fromkeys(("rows", "classes"), pl.Int32),
    "standalone_accuracy": pl.Float32,  # null where the partition was not run with `standalone`
    **dict.fromkeys(("accuracy", "reputation"), pl.Float32),  # at the end
    **dict.fromkeys(("share", "energy"), pl.Float32),  # means over rounds
    "distance": pl.Float32,  # at the end
    **dict.fromkeys(("upload_bytes", "download_bytes"), pl.Int64),  # sums, see `metrics.volumes`
    "attack": pl.String,  # null where honest
    "present": pl.Float64,  # share of rounds taken part in
    "broken": pl.Int64,  # updates that were not finite
    **OWN_OF_CLIENTS,
    **SIZES,
}
# Of runs in which some clients cheat: how the honest ones fare, what the others get. Accuracies
# are means, the attackers' reputation is over the mean honest one, and `separation` the probability
# that an honest client has the higher reputation (AUC).
HONESTY = (
    *("honest_fairness", "honest_accuracy", "attacker_accuracy", "attacker_share"),
    *("attacker_energy", "attacker_reputation", "separation"),
)
TRAFFIC = ("share", "energy", "upload_bytes", "download_bytes")
# How fair an evaluation is, as 100 x a correlation over clients: `fairness` is Pearson's of the
# accuracies alone and at the evaluation; the others are of the losses, whose common sign falls out,
# and of the ranks. The standalone side is the end of its own run, whatever the round.
BY = ("fairness", "fairness_by_loss", "rank_fairness", "rank_fairness_by_loss")
FAIRNESS_COLUMNS = {  # a row per key and evaluation
    **KEYS,
    "round": pl.Int32,  # rounds completed
    "counts": pl.Boolean,  # whether the run ends here, as clients and summary have it
    **dict.fromkeys(("mean_accuracy", "accuracy_spread"), pl.Float32),  # over clients
    **dict.fromkeys(BY, pl.Float32),  # null where undefined
    "bounded_rate": pl.Float32,  # FedRAC's, see `metrics.bounded_rate`
}
# Of the last quarter of the evaluations: mean and range of what is defined there, and whether the
# sign changes (see `unsettled`); of fairness, and of fairness by loss.
LATE = {
    f"{what}{by}{which}": kind
    for by in ("", "_by_loss")
    for what, which, kind in (
        *(("late_fairness", which, pl.Float64) for which in ("", "_min", "_max")),
        ("unsettled", "", pl.Boolean),
    )
}
# Of all runs of a partition and a method together, the same in each of their rows: the 95 %
# interval of fairness, and of fairness by loss, and how wide one source of doubt alone would make
# it (see `uncertainty.fairness_interval`). Null where the answers to test rows were not kept.
_MOST_SCORES = 10_000_000  # of one side that are resampled: .9 s on two CPU cores
JUDGED = ("fairness", "fairness_by_loss")
SOURCES = ("by_rows", "by_seeds", "by_partitions")
INTERVALS = {
    f"{name}_{part}": pl.Float64
    for name in JUDGED
    for part in ("low", "high", *(f"width_{source}" for source in SOURCES))
}
# After fairness itself, what says how far it can be trusted.
TRUST = {
    **dict.fromkeys(BY[1:], pl.Float64),
    "bounded_rate": pl.Float64,
    **dict.fromkeys(("accuracy_spread", "standalone_spread"), pl.Float64),
    **LATE,
    **INTERVALS,
}
# The round that validation rows chose, which is the run's end then; null: it is the last.
CHOSEN = {"chosen_round": pl.Int32}
# The last round of a run that was ended early; null: it was not.
STOPPED = {"stopped_round": pl.Int32}
# Whether the standalone accuracies, with which fairness compares, were an input of the method; null
# where an earlier version wrote the table, which did not say.
ORACLE = {"oracle": pl.Boolean}
SUMMARY_COLUMNS = {  # a row per key, at the run's end
    **KEYS,
    "fairness": pl.Float64,  # null where undefined; then the next says why
    "fairness_undefined": pl.String,
    **dict.fromkeys(("mean_accuracy", "max_accuracy"), pl.Float64),
    **dict.fromkeys(("server_accuracy", "min_accuracy"), pl.Float64),
    # Over standalone, which fairness does not see: mean, standard deviation, and the share of
    # clients that end no worse than alone.
    **dict.fromkeys(("mean_gain", "gain_spread", "no_worse"), pl.Float64),
    # Means over clients.
    "distance": pl.Float64,
    **dict.fromkeys(("energy", "share", "upload_bytes", "download_bytes"), pl.Float64),
    **dict.fromkeys(("clients", "evaluated"), pl.Int64),
    "present": pl.Float64,  # mean share of rounds
    **dict.fromkeys(("broken", "attackers"), pl.Int64),
    **dict.fromkeys(HONESTY, pl.Float64),
    **TRUST,
    **CHOSEN,
    **STOPPED,
    **ORACLE,
    **OWN_OF_RUNS,
}
# Who holds what: a row per draw of a partition, client and label that it holds. Where clients carry
# labels of their own, as those do that cheat with them, those count.
HOLDINGS_COLUMNS = {
    "partition": pl.String,
    "partition_seed": pl.Int64,
    **dict.fromkeys(("client", "label", "rows"), pl.Int32),
}
COLUMNS = {
    "rounds": ROUND_COLUMNS,
    "clients": CLIENT_COLUMNS,
    "fairness": FAIRNESS_COLUMNS,
    "summary": SUMMARY_COLUMNS,
    "holdings": HOLDINGS_COLUMNS,
}
_TYPES = [item for columns in COLUMNS.values() for item in columns.items()]
TEXTS = {name for name, kind in _TYPES if kind == pl.String}
TRUTHS = {name for name, kind in _TYPES if kind == pl.Boolean}  # in some table
# Columns that not every version has written: where they lack, they are null, or of the config.
LATER = {"owner": pl.String, "partition_seed": pl.Int64}
LATER |= {**TRUST, **CHOSEN, **STOPPED, **ORACLE}
LATER |= {**OWN_OF_RUNS, **OWN_OF_CLIENTS, **SIZES}
AVERAGED = (  # over seeds, and over partition seeds, in the fairness table
    *("fairness", "mean_accuracy", "max_accuracy", "mean_gain", "gain_spread", "no_worse"),
    *("distance", *TRAFFIC, "present", *HONESTY),
    *(*BY[1:], "bounded_rate", "accuracy_spread", "standalone_spread"),
    *("late_fairness", "late_fairness_by_loss"),
    *OWN_OF_RUNS,
)


class Cell(NamedTuple):
    """One method on one draw of a partition, all its seeds, as NumPy arrays."""

    partition: str
    method: str
    seeds: tuple[int, ...]  # S
    sizes: np.ndarray  # [N] rows held
    classes: np.ndarray  # [N] distinct labels held
    num_parameters: int  # D
    record: Record  # leaves [S, T, N]
    evaluation: Evaluation  # round, server_* [S, K], the others [S, K, N]
    evaluated: np.ndarray | None = None  # numbers of the clients in `evaluation`; None: all N
    cheats: tuple[str, ...] = ()  # [N] every client's attack, "" where honest; (): all are
    owners: tuple[str, ...] = ()  # [N] whose rows a client holds; (): nobody's by name
    # Leaves [S, K, n], of the evaluation that counts; None where they would not fit in memory.
    answers: Answers | None = None
    counts: np.ndarray | None = None  # [S] which evaluation (0..) counts; None: the last
    partition_seed: int = 0
    # [S] rounds at which runs were ended early, 0: they were not; None: none was. Arrays are as
    # long as if none had been; what comes after an end is nothing (see `execute.execute`).
    stopped: np.ndarray | None = None
    held: np.ndarray | None = None  # [N, C] rows of every label that each client holds
    # The server's [S, D] and the clients' [S, N, D] at the evaluation that counts; None: not kept.
    models: tuple[np.ndarray, np.ndarray] | None = None
    own_rows: np.ndarray | None = None  # [N] rows that each client is judged on by itself
    oracle: bool = False  # whether the method read standalone accuracies (`Needs.alone`)
    work: int | None = None  # multiplications of the whole model per example, where they are known
    messages: metrics.Messages | None = None  # None: an update up, a reward down

    def __repr__(self) -> str:
        """A line: arrays are many, and large."""
        runs, rounds, number = self.record.present.shape
        what = f"{runs} seeds, {rounds} rounds, {number} clients"
        ends = [at_the_end(cell, cell.evaluation.accuracy) for cell in ended([self])]
        accuracy = 100 * np.mean(ends)
        return f"Cell({self.method} on {self.partition}: {what}, accuracy {accuracy:.1f} %)"


class Answered(NamedTuple):
    """What an interval needs of a cell."""

    partition: str
    method: str
    partition_seed: int
    seeds: tuple[int, ...]  # S
    answers: Answers | None  # leaves [S, K, n]


class Outcome(NamedTuple):
    """What a summary needs of one run at its end."""

    accuracy: np.ndarray  # [K] of the clients that were evaluated
    loss: np.ndarray  # [K]
    late_accuracy: np.ndarray  # [Q, K] at the last quarter of the evaluations
    late_loss: np.ndarray  # [Q, K]
    distance: np.ndarray  # [K]
    server_accuracy: np.ndarray  # []
    share: np.ndarray  # [N] mean over rounds
    energy: np.ndarray  # [N] mean over rounds
    upload_bytes: np.ndarray  # [N]
    download_bytes: np.ndarray  # [N]
    reputation: np.ndarray  # [N]
    present: np.ndarray  # [N] share of rounds
    broken: np.ndarray  # [N] updates that were not finite
    honest: np.ndarray  # [N] bool
    honest_seen: np.ndarray  # [K] bool, of the clients that were evaluated
    chosen_round: Any = np.int32(0)  # [] which validation rows chose; 0: it is the last
    oracle: Any = np.bool_(False)  # [] whether standalone accuracies were an input
    own_accuracy: Any = np.zeros(0, np.float32)  # [K], NaN without own rows; [0] where nobody has
    rows: Any = np.int32(0)  # [] n, test rows of which `right` is known; 0: it was not kept
    right: Any = np.zeros(0, np.uint8)  # [K n / 8] whether each is classified right, as bits


# ---------------------------------------------------------------- rounds and clients


def frames_of(cells: Iterable[Cell]) -> dict[str, pl.DataFrame]:
    """All tables of a run by name, as in COLUMNS."""
    cells = list(cells)
    return {
        "rounds": rounds_frame(cells),
        "clients": clients_frame(cells),
        "fairness": fairness_frame(cells),
        "summary": summary_frame(cells),
        "holdings": holdings_frame(cells),
    }


def ended(cells: Iterable[Cell]) -> list[Cell]:
    """The cells, each as long as its runs; a cell per seed where one of all was ended early."""
    cells = list(cells)
    if all(cell.stopped is None for cell in cells):
        return cells
    return [_one_seed(cell, place) for cell in cells for place in range(len(cell.seeds))]


def _one_seed(cell: Cell, place: int) -> Cell:
    """One seed of a cell, cut where it ended."""
    rounds = 0 if cell.stopped is None else int(cell.stopped[place])
    own = slice(place, place + 1)
    last = rounds or np.shape(cell.record.reputation)[1]
    number = int((np.asarray(cell.evaluation.round)[place] > 0).sum())  # it has 0 after an end
    return cell._replace(
        seeds=cell.seeds[own],
        record=jax.tree.map(lambda x: x[own, :last], cell.record),
        evaluation=jax.tree.map(lambda x: x[own, :number], cell.evaluation),
        answers=jax.tree.map(lambda x: x[own], cell.answers),
        counts=None if cell.counts is None else cell.counts[own],
        stopped=None if cell.stopped is None else cell.stopped[own],
        models=jax.tree.map(lambda x: x[own], cell.models),
    )


def holdings_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per draw of a partition, client and label that it holds: HOLDINGS_COLUMNS."""
    draws = {(cell.partition, cell.partition_seed): cell.held for cell in cells}
    frames = []
    for (partition, seed), held in draws.items():
        if held is not None:
            client, label = np.nonzero(held)
            columns = {"client": client, "label": label, "rows": held[client, label]}
            drawn = {"partition": [partition] * len(label), "partition_seed": [seed] * len(label)}
            frames.append(pl.DataFrame(drawn | columns, schema=HOLDINGS_COLUMNS))
    return _stacked(frames, HOLDINGS_COLUMNS)


def rounds_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per key, round and client: ROUND_COLUMNS."""
    return _stacked(map(_rounds_of, ended(cells)), ROUND_COLUMNS)


def _rounds_of(cell: Cell) -> pl.DataFrame:
    record, evaluation = cell.record, cell.evaluation
    seeds, rounds, clients = np.shape(record.reputation)

    def at_rounds(values: Array) -> np.ndarray:
        """[S, K, ...] -> [S, T, ...], NaN in rounds without evaluation."""
        filled = np.full((seeds, rounds, *np.shape(values)[2:]), np.nan, np.float32)
        filled[np.arange(seeds)[:, None], np.asarray(evaluation.round) - 1] = values
        return filled

    columns = {
        "round": np.arange(1, rounds + 1)[:, None],
        "client": np.arange(clients),
        "score": record.score,
        "reputation": record.reputation,
        "weight": record.weight,
        "quota": record.quota,
        "share": np.asarray(record.quota) / cell.num_parameters,
        "present": record.present,
        "broken": record.nonfinite,
        "loss": record.loss,
        "update_norm": record.norm,
        "energy": record.energy,
        "accuracy": at_rounds(of_all(cell, evaluation.accuracy)),
        "test_loss": at_rounds(of_all(cell, evaluation.loss)),
        "distance": at_rounds(of_all(cell, evaluation.distance)),
        "server_accuracy": at_rounds(evaluation.server_accuracy)[..., None],
        "server_test_loss": at_rounds(evaluation.server_loss)[..., None],
        "own_accuracy": np.float32(np.nan),
    }
    if evaluation.own_accuracy is not None:
        columns["own_accuracy"] = at_rounds(of_all(cell, evaluation.own_accuracy))
    return _frame(cell, (seeds, rounds, clients), columns, ROUND_COLUMNS)


def clients_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per key and client: CLIENT_COLUMNS."""
    cells = ended(cells)
    alone = {
        (cell.partition, cell.partition_seed, seed): own
        for cell in cells
        if cell.method == YARDSTICK
        for seed, own in zip(cell.seeds, of_all(cell, _ends(cell).accuracy), strict=True)
    }

    on_own = {
        (cell.partition, cell.partition_seed, seed): own
        for cell in cells
        if cell.method == YARDSTICK
        for seed, own in zip(cell.seeds, _own_of_all(cell), strict=True)
    }

    def frame(cell: Cell) -> pl.DataFrame:
        ends, clients = _ends(cell), len(cell.sizes)
        nothing, place = np.full(clients, np.nan), (cell.partition, cell.partition_seed)
        columns = {
            "client": np.arange(clients),
            **{name: getattr(ends, name) for name in (*TRAFFIC, "reputation", "present", "broken")},
            "owner": np.array(cell.owners or ""),
            "rows": cell.sizes,
            "classes": cell.classes,
            "standalone_accuracy": [alone.get((*place, s), nothing) for s in cell.seeds],
            "accuracy": of_all(cell, ends.accuracy),
            "distance": of_all(cell, ends.distance),
            "attack": np.array(cell.cheats or ""),
            "own_rows": cell.own_rows,  # None where nobody has some
            "own_accuracy": _own_of_all(cell),
            "standalone_own_accuracy": [on_own.get((*place, s), nothing) for s in cell.seeds],
            **_sizes(cell),
        }
        return _frame(cell, (len(cell.seeds), clients), columns, CLIENT_COLUMNS)

    return _stacked(map(frame, cells), CLIENT_COLUMNS)


def _sizes(cell: Cell) -> dict[str, np.ndarray]:
    """Parameters and FLOPs [S, N] of clients' models at the evaluation that counts, NaN elsewhere.

    They are those of the last reward before it; who never had one has the whole model.
    """
    nothing = np.full((len(cell.seeds), len(cell.sizes)), np.nan)
    if cell.record.work is None or cell.work is None:
        return dict.fromkeys(SIZES, nothing)
    quota, work = np.asarray(cell.record.quota), np.asarray(cell.record.work)
    ends = at_the_end(cell, cell.evaluation.round)
    rounds = np.arange(1, quota.shape[1] + 1)[None, :, None]
    last = np.where((quota > 0) & (rounds <= ends[:, None, None]), rounds, 0).max(axis=1)
    place = np.maximum(last - 1, 0)[:, None, :]
    held, done = (np.take_along_axis(x, place, axis=1)[:, 0] for x in (quota, work))
    return {
        "parameters": np.where(last > 0, held, cell.num_parameters).astype(np.float64),
        "flops": 2.0 * np.where(last > 0, done, cell.work),
    }


def _own_of_all(cell: Cell) -> np.ndarray:
    """Accuracies [S, N] on own rows at the end; NaN where there are none, or nobody looked."""
    own = _ends(cell).own_accuracy
    if not own.shape[1]:
        return np.full((len(cell.seeds), len(cell.sizes)), np.nan)
    return of_all(cell, own)


def while_all_run(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of those rounds that every run of their method reached.

    A mean over runs of which some were ended early would jump where they end.

    Args:
      rows: of ROUND_COLUMNS or FAIRNESS_COLUMNS.
    """
    ends = rows.with_columns(pl.col("round").max().over(*KEYS).alias("end"))
    shared = pl.col("end").min().over("partition", "method")
    return ends.filter(pl.col("round") <= shared).drop("end")


def told_apart(clients: pl.DataFrame) -> list[str]:
    """The columns by which the clients of a partition are told apart.

    Their numbers; the partition seed before them where its draws are of clients that have no more
    in common than a number: who holds how much, how many classes where all hold equally much, or
    whose rows they are, or who cheats, is another's in another draw.

    Args:
      clients: rows of one partition, CLIENT_COLUMNS.
    """
    if clients["partition_seed"].n_unique() == 1:
        return ["client"]
    held = "classes" if clients["rows"].n_unique() == 1 else "rows"
    known = clients.select("client", held, "attack", "owner").n_unique()
    alike = known == clients["client"].n_unique()
    return ["client"] if alike else ["partition_seed", "client"]


def over(frame: pl.DataFrame, draws: bool = True) -> str:
    """What a mean over the runs of a method on a partition is over; empty where there is one.

    Args:
      frame: rows of one partition of any table.
      draws: whether the mean is over draws of the partition too.
    """
    seeds = frame["seed"].n_unique()
    number = frame["partition_seed"].n_unique() if draws else 1
    each = f"{seeds} seeds" if seeds > 1 else ""
    if number <= 1:
        return each
    return f"{each}{' on each of ' if each else ''}{number} draws of the partition"


def _frame(
    cell: Cell, shape: tuple[int, ...], columns: Mapping[str, Any], types: Mapping[str, Any]
) -> pl.DataFrame:
    """Arrays that broadcast to `shape`, [S, ...], as columns; null where not finite, or ""."""
    seeds = np.reshape(cell.seeds, (-1, *[1] * (len(shape) - 1)))
    frame = pl.DataFrame(
        pl.Series(name, np.broadcast_to(values, shape).ravel(), types[name])
        for name, values in {"seed": seeds, **columns}.items()
    ).with_columns(
        partition=pl.lit(cell.partition),
        method=pl.lit(cell.method),
        partition_seed=pl.lit(cell.partition_seed, pl.Int64),
    )
    words = pl.selectors.string().replace("", None)
    return frame.select(*types).with_columns(_known(), words)


def _known() -> pl.Expr:
    """Null where a number is not finite."""
    floats = pl.selectors.float()
    return pl.when(floats.is_finite()).then(floats)


def _stacked(frames: Iterable[pl.DataFrame], types: Mapping[str, Any]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=types), *frames], rechunk=True)


def of_all(cell: Cell, values: Array) -> np.ndarray:
    """What was evaluated [..., K] as [..., N], NaN for the other clients."""
    if cell.evaluated is None:
        return np.asarray(values)
    whole = np.full((*np.shape(values)[:-1], len(cell.sizes)), np.nan, np.float32)
    whole[..., cell.evaluated] = values
    return whole


# ---------------------------------------------------------------- fairness over rounds


class _Course(NamedTuple):
    """The evaluations of one run."""

    partition: str
    method: str
    partition_seed: int
    seed: int
    rounds: np.ndarray  # [E] rounds completed
    scores: np.ndarray  # [E, 2, K] accuracy and loss of the clients that were evaluated
    counts: int  # which evaluation the run ends at


def fairness_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per key and evaluation: FAIRNESS_COLUMNS."""
    return _fairness_of(
        _Course(cell.partition, cell.method, cell.partition_seed, seed, rounds, scores, int(counts))
        for cell in ended(cells)
        for seed, rounds, scores, counts in zip(
            cell.seeds,
            np.asarray(cell.evaluation.round),
            np.stack([cell.evaluation.accuracy, cell.evaluation.loss], axis=2),
            at_the_end(cell, np.indices(np.shape(cell.evaluation.round))[1]),
            strict=True,
        )
    )


def fairness_of_rounds(rounds: pl.DataFrame) -> pl.DataFrame:
    """`fairness_frame` of runs that are known by their rounds alone, all of which end at the last.

    Args:
      rounds: ROUND_COLUMNS, all rounds and clients of every run.
    """
    seen = pl.any_horizontal(pl.col("accuracy", "server_accuracy").is_not_null())
    courses = []
    for (partition, method, draw, seed), own in rounds.group_by(*KEYS, maintain_order=True):
        own = own.filter(seen.any().over("round")).sort("round", "client")
        own = own.filter(pl.col("accuracy").is_not_null().any().over("client"))
        number = max(own["client"].n_unique(), 1)
        scores = own.select(pl.col("accuracy", "test_loss").cast(pl.Float32).fill_null(np.nan))
        scores = scores.to_numpy().reshape(-1, number, 2).swapaxes(1, 2)
        evaluated = own["round"].to_numpy()[::number]
        run = str(partition), str(method), int(draw), int(seed)
        courses.append(_Course(*run, evaluated, scores, len(evaluated) - 1))
    return _fairness_of(courses)


def _fairness_of(courses: Iterable[_Course]) -> pl.DataFrame:
    courses = list(courses)
    alone = {
        (course.partition, course.partition_seed, course.seed): course.scores[course.counts]
        for course in courses
        if course.method == YARDSTICK and len(course.rounds)
    }

    def frame(course: _Course) -> pl.DataFrame:
        ends = alone.get((course.partition, course.partition_seed, course.seed))
        with np.errstate(invalid="ignore"):
            columns = {
                "mean_accuracy": course.scores[:, 0].mean(axis=1, dtype=np.float64),
                "accuracy_spread": metrics.spread(course.scores[:, 0]),
            }
        if ends is not None and course.method != YARDSTICK and len(course.rounds):
            columns |= judged(ends, course.scores)
        number = len(course.rounds)
        columns |= {name: getattr(course, name) for name in ("partition_seed", "seed")}
        columns["round"] = course.rounds
        columns["counts"] = np.arange(number) == course.counts
        return pl.DataFrame(
            pl.Series(name, np.broadcast_to(columns.get(name, np.nan), number), kind)
            for name, kind in FAIRNESS_COLUMNS.items()
            if kind != pl.String
        ).with_columns(
            pl.lit(course.partition).alias("partition"),
            pl.lit(course.method).alias("method"),
            _known(),
        )

    frames = (frame(course).select(*FAIRNESS_COLUMNS) for course in courses)
    return _stacked(frames, FAIRNESS_COLUMNS)


_TOGETHER = 32  # evaluations that one program judges


@jax.jit
def _judged(alone: Array, final: Array) -> dict[str, Array]:
    """[2, K] and [E, 2, K] -> leaves [E]."""

    def one(final: Array) -> dict[str, Array]:
        # Values and ranks are one batch: half as much to compile as `metrics.rank_correlation` is
        # beside `metrics.fairness`, of which it is the same.
        sides = jnp.stack([alone, final])
        sides = jnp.concatenate([sides, jax.vmap(jax.vmap(metrics.ranks))(sides)], axis=1)
        found = jax.vmap(metrics.fairness)(*sides)
        found = jnp.where(jnp.isnan(jnp.tile(found[:2], 2)), jnp.nan, found)
        rate = metrics.bounded_rate(alone[0], final[0])
        return dict(zip(BY, found, strict=True)) | {"bounded_rate": rate}

    return jax.vmap(one)(final)


def judged(alone: np.ndarray, final: np.ndarray) -> dict[str, np.ndarray]:
    """BY and `bounded_rate` of every evaluation, leaves [E]; NaN where undefined.

    Args:
      alone: [2, K] accuracies and losses at the standalone baseline's end.
      final: [E, 2, K] those of a method at its evaluations.
    """
    number = len(final)
    # Padded to a multiple: one program for runs of whatever length, and for their last quarter.
    whole = np.resize(final, (-(-number // _TOGETHER) * _TOGETHER, *final.shape[1:]))
    found = [
        jax.device_get(_judged(alone, whole[i : i + _TOGETHER]))
        for i in range(0, len(whole), _TOGETHER)
    ]
    return {name: np.concatenate([x[name] for x in found])[:number] for name in found[0]}


# ---------------------------------------------------------------- summaries


def outcomes(cell: Cell) -> list[Outcome]:
    """What is left of every seed of a cell, for `summary_row`."""
    ends = _ends(cell)
    return [Outcome(*(values[index] for values in ends)) for index in range(len(cell.seeds))]


def at_the_end(cell: Cell, values: Array) -> np.ndarray:
    """What was evaluated [S, K, ...] as [S, ...]: of every seed's evaluation that counts."""
    values = np.asarray(values)
    if cell.counts is None:
        return values[:, -1]
    return values[np.arange(len(values)), cell.counts]


def _ends(cell: Cell) -> Outcome:
    """The outcomes of a cell, stacked: leaves [S, ...]."""
    record, evaluation = jax.tree.map(np.asarray, (cell.record, cell.evaluation))
    # After the last round in which anybody received something clients train alone: nothing is sent,
    # although the simulation looks at the updates.
    paid = (record.quota > 0).any(axis=-1, keepdims=True)
    together = np.logical_or.accumulate(paid[:, ::-1], axis=1)[:, ::-1]
    sent = record.present & together & (cell.method != YARDSTICK)
    messages = cell.messages or metrics.Messages(cell.num_parameters)
    volumes = metrics.volumes(sent, record.quota, *messages, held=_trained(cell, record))
    honest = np.array([not name for name in cell.cheats] or [True] * len(cell.sizes), bool)
    honest = np.tile(honest, (len(cell.seeds), 1))
    late = slice(-late_evaluations(evaluation.accuracy.shape[1]), None)
    chosen = np.zeros(len(cell.seeds), np.int32)
    if cell.counts is not None:
        chosen = at_the_end(cell, evaluation.round)
    return Outcome(
        accuracy=at_the_end(cell, evaluation.accuracy),
        loss=at_the_end(cell, evaluation.loss),
        late_accuracy=evaluation.accuracy[:, late],
        late_loss=evaluation.loss[:, late],
        distance=at_the_end(cell, evaluation.distance),
        server_accuracy=at_the_end(cell, evaluation.server_accuracy),
        share=record.quota.astype(np.float64).mean(axis=1) / cell.num_parameters,
        energy=record.energy.astype(np.float64).mean(axis=1),
        upload_bytes=volumes.upload.sum(axis=1),
        download_bytes=volumes.download.sum(axis=1),
        reputation=record.reputation[:, -1],
        present=record.present.mean(axis=1),
        broken=record.nonfinite.sum(axis=1, dtype=np.int64),
        honest=honest,
        honest_seen=honest if cell.evaluated is None else honest[:, cell.evaluated],
        chosen_round=chosen,
        oracle=np.full(len(cell.seeds), cell.oracle),
        own_accuracy=(
            np.zeros((len(cell.seeds), 0), np.float32)
            if evaluation.own_accuracy is None
            else at_the_end(cell, evaluation.own_accuracy)
        ),
        **_bits(cell),
    )


def _trained(cell: Cell, record: Record) -> np.ndarray | None:
    """Entries [S, T, N] that are on in the models that clients train; None: all are, always.

    A quota counts those that are on from then on, and who is absent keeps what it has.
    """
    if record.work is None:
        return None
    rounds = np.arange(record.quota.shape[1])[None, :, None]
    served = np.maximum.accumulate(np.where(record.present, rounds, -1), axis=1)
    quota = np.take_along_axis(record.quota, np.maximum(served, 0), axis=1)
    after = np.where(served < 0, cell.num_parameters, quota)
    first = np.full_like(after[:, :1], cell.num_parameters)
    return np.concatenate([first, after[:, :-1]], axis=1)


def _bits(cell: Cell) -> dict[str, np.ndarray]:
    """`Outcome.rows` and `Outcome.right`, stacked over seeds."""
    seeds = len(cell.seeds)
    if cell.answers is None:
        return {"rows": np.zeros(seeds, np.int32), "right": np.zeros((seeds, 0), np.uint8)}
    right = np.asarray(cell.answers.right)
    rows = np.full(seeds, right.shape[-1], np.int32)
    return {"rows": rows, "right": np.packbits(right.reshape(seeds, -1), axis=1)}


def answers_of(end: Outcome) -> Answers | None:
    """What is left of a run's answers, leaves [1, K, n]."""
    shape = (1, len(end.accuracy), int(end.rows))
    if not end.rows:
        return None
    bits = np.unpackbits(end.right, count=shape[1] * shape[2])
    return Answers(bits.reshape(shape).astype(bool), None)


def summary_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per key, at the run's end: SUMMARY_COLUMNS."""
    cells = ended(cells)
    stopped = [
        {"stopped_round": int(last) or None}
        for cell in cells
        for last in (np.zeros(len(cell.seeds)) if cell.stopped is None else cell.stopped)
    ]
    ends = [
        (cell.partition, cell.method, cell.partition_seed, int(seed), end)
        for cell in cells
        for seed, end in zip(cell.seeds, outcomes(cell), strict=True)
    ]
    alone = {
        (place, draw, seed): end for place, method, draw, seed, end in ends if method == YARDSTICK
    }
    rows = [
        summary_row(place, method, draw, seed, end, alone.get((place, draw, seed)))
        for place, method, draw, seed, end in ends
    ]
    known = intervals(cells)
    return summary_of(
        row | known.get((row["partition"], row["method"]), {}) | end
        for row, end in zip(rows, stopped, strict=True)
    )


def intervals(
    cells: Sequence[Cell] | Sequence[Answered], same_rows: bool = True
) -> dict[tuple[str, str], dict[str, float | None]]:
    """INTERVALS by partition and method, where answers are there on every draw and both sides.

    Args:
      cells: of any partitions and methods, the yardstick's among them.
      same_rows: whether all draws of a partition were judged on the same rows, as on test rows.
    """
    yardsticks = [cell for cell in cells if cell.method == YARDSTICK]
    alone = {(cell.partition, cell.partition_seed, cell.seeds): cell for cell in yardsticks}
    groups: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for cell in cells:
        if cell.method != YARDSTICK:
            own = alone.get((cell.partition, cell.partition_seed, cell.seeds))
            groups.setdefault((cell.partition, cell.method), []).append((own, cell))
    found = {}
    for key, pairs in groups.items():
        draws = [cell.partition_seed for _, cell in pairs for _ in cell.seeds]
        known = [
            (own.answers, cell.answers)
            for own, cell in pairs
            if own is not None and own.answers is not None and cell.answers is not None
        ]
        if len(known) < len(pairs) or len({x.right.shape[1:] for x in sum(known, ())}) > 1:
            continue  # in some draw nobody knows, or draws differ in their clients
        found[key] = {}
        for name, of in zip(JUDGED, ("right", "loss"), strict=True):
            sides = [[getattr(x, of) for x in side] for side in zip(*known, strict=True)]
            if all(scores is not None for side in sides for scores in side):
                # Of losses both sides have the other sign, which falls out.
                standalone, final = map(np.concatenate, sides)
                tested = None if same_rows else draws
                found[key] |= _interval(name, standalone, final, draws, tested)
    return found


def _interval(
    name: str,
    standalone: np.ndarray,
    final: np.ndarray,
    draws: Sequence[int],
    tested: Sequence[int] | None,
) -> dict[str, float | None]:
    """INTERVALS of one name, of scores [R, K, n]; none of what has none, or would take long."""
    runs, clients, rows = final.shape
    finite = np.isfinite(standalone).all() and np.isfinite(final).all()
    if clients < 3 or rows < 2 or runs * clients * rows > _MOST_SCORES or not finite:
        return {}
    if (final == final[:, :1]).all():  # one model for all
        return {}
    rng = np.random.default_rng(0)
    found = uncertainty.fairness_interval(rng, standalone, final, draws, tested=tested)
    parts = {f"width_{source}": getattr(found, source) for source in SOURCES}
    parts |= {"low": found.low, "high": found.high}
    return {f"{name}_{part}": _defined(value) for part, value in parts.items()}


def summary_row(
    partition: str,
    method: str,
    partition_seed: int,
    seed: int,
    end: Outcome,
    alone: Outcome | None,
) -> dict[str, Any]:
    """One row of `summary_frame`.

    Args:
      partition: where the run was.
      method: as it is called in the table.
      partition_seed: with which the partition was drawn.
      seed: of the run.
      end: the run's end.
      alone: that of the yardstick on the same draw with the same seed, if there is one.
    """
    final = end.accuracy
    row = {
        "partition": partition,
        "method": method,
        "partition_seed": partition_seed,
        "seed": seed,
        "mean_accuracy": final.mean(dtype=np.float64),
        "max_accuracy": final.max(),
        "min_accuracy": final.min(),
        "server_accuracy": end.server_accuracy,
        "distance": end.distance.mean(dtype=np.float64),
        **{name: getattr(end, name).mean() for name in TRAFFIC},
        "clients": len(end.share),
        "evaluated": final.size,
        "present": end.present.mean(),
        "broken": int(end.broken.sum()),
        "attackers": int((~end.honest).sum()),
        "chosen_round": int(end.chosen_round) or None,
        "oracle": bool(end.oracle),
        "mean_own_accuracy": known_mean(end.own_accuracy),
        "min_own_accuracy": np.nanmin(end.own_accuracy, initial=np.inf),
    }
    if alone is not None and method != YARDSTICK:
        row["own_gain"] = known_mean(end.own_accuracy - alone.own_accuracy)
    row |= _honesty(method, end, alone)
    row |= _against_alone(method, None if alone is None else alone.accuracy, final)
    row |= _trust(method, end, alone)
    return {key: _defined(value) for key, value in row.items()}


def known_mean(values: Array) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = np.asarray(values, np.float64)[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def summary_of(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Rows of `summary_row` as a frame."""
    return pl.DataFrame(list(rows), schema=SUMMARY_COLUMNS, orient="row")


@jax.jit  # one program for all methods and seeds
def _comparison(alone: jax.Array, final: jax.Array) -> dict[str, jax.Array]:
    names = ("fairness", "mean_gain", "gain_spread", "no_worse")
    return {name: getattr(metrics, name)(alone, final) for name in names}


def _against_alone(method: str, alone: np.ndarray | None, final: np.ndarray) -> dict[str, Any]:
    if method == YARDSTICK:
        return {"fairness_undefined": f"{YARDSTICK} is the yardstick"}
    if alone is None:
        return {"fairness_undefined": f"no {YARDSTICK} run to compare with"}
    reason = metrics.why_undefined(alone, final)
    return jax.device_get(_comparison(alone, final)) | {"fairness_undefined": reason}


def _trust(method: str, end: Outcome, alone: Outcome | None) -> dict[str, Any]:
    """What says how far the fairness of one run can be trusted."""
    found: dict[str, Any] = {"accuracy_spread": metrics.spread(end.accuracy)}
    if alone is None:
        return found
    found["standalone_spread"] = metrics.spread(alone.accuracy)
    if method == YARDSTICK:
        return found
    ends = np.stack([alone.accuracy, alone.loss])
    accuracy = np.concatenate([end.late_accuracy, end.accuracy[None]])
    loss = np.concatenate([end.late_loss, end.loss[None]])
    each = judged(ends, np.stack([accuracy, loss], axis=1))
    found |= {name: each[name][-1] for name in (*BY[1:], "bounded_rate")}
    return found | _late({name: values[:-1] for name, values in each.items()})


def _late(each: Mapping[Any, np.ndarray]) -> dict[str, Any]:
    """LATE of one run, from JUDGED at the last quarter of its evaluations, leaves [Q]."""
    found: dict[str, Any] = {}
    # Where neither is defined all hold one model, as before fine-tuning: nothing is lost there.
    apart = np.any([np.isfinite(each[name]) for name in JUDGED], axis=0)
    for by in ("", "_by_loss"):
        values = each[f"fairness{by}"]
        known = values[np.isfinite(values)]
        if known.size:
            found |= {f"late_fairness{by}": known.mean(dtype=np.float64)}
            found |= {f"late_fairness{by}_min": known.min(), f"late_fairness{by}_max": known.max()}
        found[f"unsettled{by}"] = unsettled(values[apart])
    return found


def trust_of_rounds(summary: pl.DataFrame, fairness: pl.DataFrame) -> pl.DataFrame:
    """A summary whose TRUST is what its evaluations say; of INTERVALS these know nothing.

    Args:
      summary: SUMMARY_COLUMNS, among others.
      fairness: FAIRNESS_COLUMNS of its runs.
    """
    alone, rows = {}, []
    for key, own in fairness.group_by(*KEYS, maintain_order=True):
        (row,) = (
            own.filter("counts")
            .select(*KEYS, *BY[1:], "bounded_rate", "accuracy_spread")
            .to_dicts()
        )
        late = own.sort("round").tail(late_evaluations(len(own)))
        values = {name: late[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in JUDGED}
        row |= {name: _defined(value) for name, value in _late(values).items()}
        if row["method"] == YARDSTICK:
            alone[key[0], *key[2:]] = row["accuracy_spread"]
        rows.append((key, row))
    known = [row | {"standalone_spread": alone.get((key[0], *key[2:]))} for key, row in rows]
    found = pl.DataFrame(known, schema=KEYS | TRUST, orient="row")
    order = summary.columns
    joined = summary.drop(TRUST).join(found, on=[*KEYS], how="left", maintain_order="left")
    return joined.select(order)


def late_evaluations(number: int) -> int:
    """How many of so many evaluations are the last quarter."""
    return max(1, -(-number // 4))


def unsettled(values: np.ndarray) -> bool | None:
    """Whether a fairness says now this and now that: its sign changes, or it comes and goes.

    0 has no sign. What is undefined throughout does not change, and of one evaluation nobody can
    tell.

    Args:
      values: [Q] of successive evaluations, NaN where undefined.

    Returns:
      None where nobody can tell.
    """
    known = np.isfinite(values)
    if len(values) < 2 or not known.any():
        return None
    return not (known.all() and abs(np.sign(values).sum()) == len(values))


def _honesty(method: str, end: Outcome, alone: Outcome | None) -> dict[str, Any]:
    """What cheating did, in one run."""
    honest, seen = end.honest, end.honest_seen
    if honest.all():
        return {}
    reputation, accuracy = np.asarray(end.reputation, np.float64), end.accuracy
    found = {
        "honest_accuracy": accuracy[seen].mean(dtype=np.float64) if seen.any() else None,
        "attacker_accuracy": None if seen.all() else accuracy[~seen].mean(dtype=np.float64),
        "attacker_share": end.share[~honest].mean(),
        "attacker_energy": end.energy[~honest].mean(),
    }
    if method != YARDSTICK and reputation.any():
        if reputation[honest].any():  # removal may have left the honest nothing
            found["attacker_reputation"] = reputation[~honest].mean() / reputation[honest].mean()
        found["separation"] = float(metrics.separation(reputation, honest))
    if method != YARDSTICK and alone is not None:
        found["honest_fairness"] = float(metrics.fairness(alone.accuracy[seen], accuracy[seen]))
    return found


def fairness_table(summary: pl.DataFrame) -> pl.DataFrame:
    """Mean and sample standard deviation over runs, a row per partition and method.

    The runs are those of every seed on every draw of the partition, `seeds` in all on `draws`
    draws. A value is averaged over the runs in which it is defined, `<name>_seeds` of `seeds`; the
    reasons why fairness is not stand in `fairness_undefined`. A deviation over one run is null.

    The 95 % interval of fairness, `fairness_low` to `fairness_high`, is the one that the rows hold
    (INTERVALS), over what `interval_over` says; where they hold none, or not all of them the same,
    it is the bootstrap's of the mean over runs, which knows nothing of the test rows and is null
    for one run. The range over the last quarter of the evaluations is that of all runs; `unsettled`
    says in how many of them the sign changes there, null where nobody can tell.
    """
    names = [column + end for column in AVERAGED for end in ("", "_sd", "_seeds")]
    names[2:2] = ["fairness_low", "fairness_high"]
    reasons = pl.col("fairness_undefined").drop_nulls().unique().sort()
    unsettled = [name for name in LATE if name.startswith("unsettled")]
    lows, highs = ([name for name in LATE if name.endswith(end)] for end in ("_min", "_max"))
    names += [*lows, *highs, *unsettled, *(name for name in INTERVALS if name not in names)]
    table = summary.group_by("partition", "method", maintain_order=True).agg(
        *(pl.col(name).mean() for name in AVERAGED),
        *(pl.col(name).std(ddof=1).alias(f"{name}_sd") for name in AVERAGED),
        *(pl.col(name).count().cast(pl.Int64).alias(f"{name}_seeds") for name in AVERAGED),
        pl.col(lows).min(),
        pl.col(highs).max(),
        *(pl.when(pl.col(n).count() > 0).then(pl.col(n).sum().cast(pl.Int64)) for n in unsettled),
        *map(_of_all_rows, INTERVALS),
        pl.col("fairness").drop_nulls().alias("defined"),
        pl.len().cast(pl.Int64).alias("seeds"),
        pl.col("partition_seed").n_unique().cast(pl.Int64).alias("draws"),
        pl.col("oracle").any(),  # which leaves out what nobody knows
        reasons.str.join("; ").replace("", None).alias("fairness_undefined"),
    )
    made: dict[str, list[Any]] = {"low": [], "high": [], "over": []}
    for row in table.iter_rows(named=True):
        low, high, over = row["fairness_low"], row["fairness_high"], "seeds"
        if low is None:
            low, high = map(_defined, metrics.interval(np.array(row["defined"])))
        else:
            several = {"seeds": row["seeds"] > row["draws"], "partitions": row["draws"] > 1}
            over = ", ".join(["test rows", *(name for name, yes in several.items() if yes)])
        for column, value in zip(
            made.values(), (low, high, None if low is None else over), strict=True
        ):
            column.append(value)
    table = table.with_columns(
        pl.Series("fairness_low", made["low"], pl.Float64),
        pl.Series("fairness_high", made["high"], pl.Float64),
        pl.Series("interval_over", made["over"], pl.String),
    )
    return table.select(
        *("partition", "method", *names, "interval_over", "seeds", "draws"),
        *("fairness_undefined", "oracle"),
    )


def _of_all_rows(name: str) -> pl.Expr:
    """One of INTERVALS, where all rows have the same and what it is of is defined in some."""
    of = max((own for own in JUDGED if name.startswith(f"{own}_")), key=len)
    one = (pl.col(name).n_unique() == 1) & (pl.col(of).count() > 0)
    return pl.when(one).then(pl.col(name).first())


def _defined(value: Any) -> Any:
    """A number, text or None as Python's own; None for what is not finite."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
