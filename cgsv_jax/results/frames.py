"""What is kept of a run, as tables of polars."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl

from cgsv_jax.core import metrics
from cgsv_jax.types import Evaluation, Record

YARDSTICK = "standalone"  # the method that fairness compares with

KEYS = ("partition", "method", "seed")
ROUND_COLUMNS = (
    *KEYS,
    *("round", "client", "score", "reputation", "weight", "quota", "share", "present"),
    *("broken", "loss", "update_norm", "energy", "accuracy", "test_loss", "distance"),
    *("server_accuracy", "server_test_loss"),
)
CLIENT_COLUMNS = (
    *KEYS,
    *("client", "owner", "rows", "classes", "standalone_accuracy", "accuracy", "reputation"),
    *("share", "energy", "distance", "upload_bytes", "download_bytes"),
    *("attack", "present", "broken"),
)
# Of runs in which some clients cheat: how the honest ones fare, what the others get.
HONESTY = (
    *("honest_fairness", "honest_accuracy", "attacker_accuracy", "attacker_share"),
    *("attacker_energy", "attacker_reputation", "separation"),
)
SUMMARY_COLUMNS = (
    *KEYS,
    *("fairness", "fairness_undefined", "mean_accuracy", "max_accuracy", "server_accuracy"),
    *("min_accuracy", "mean_gain", "gain_spread", "no_worse", "distance", "energy", "share"),
    *("upload_bytes", "download_bytes", "clients", "evaluated", "present", "broken", "attackers"),
    *HONESTY,
)
TEXTS = ("partition", "method", "fairness_undefined", "attack", "owner")
LATER = ("owner",)  # columns that not every version has written: where they lack, they are null
AVERAGED = (  # over seeds, in the fairness table
    *("fairness", "mean_accuracy", "max_accuracy", "mean_gain", "gain_spread", "no_worse"),
    *("distance", "energy", "share", "upload_bytes", "download_bytes", "present", *HONESTY),
)


@jax.jit  # one program for all methods and seeds
def _judge(alone: jax.Array, final: jax.Array) -> dict[str, jax.Array]:
    names = ("fairness", "mean_gain", "gain_spread", "no_worse")
    return {name: getattr(metrics, name)(alone, final) for name in names}


class Cell(NamedTuple):
    """One method on one partition, all its seeds, as NumPy arrays."""

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


TRAFFIC = ("share", "energy", "upload_bytes", "download_bytes")


class Outcome(NamedTuple):
    """What a summary needs of one run after its last round."""

    accuracy: np.ndarray  # [K] of the clients that were evaluated
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


# ---------------------------------------------------------------- frames


def rounds_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per partition, method, seed, round and client, in this order.

    `round` counts the rounds completed, from 1. Accuracies (fractions), test losses and distances
    ‖w_N - w_i‖ are null in rounds without evaluation, and for clients that are not evaluated.
    `share` is quota / D, `energy` ‖v_i‖² / ‖u_N‖², `loss` the local training loss, null where a
    client was absent; `broken` says that it was because its update was not finite.
    """
    frames = [_rounds_of(cell) for cell in cells]
    return pl.concat(frames, rechunk=True) if frames else _empty(ROUND_COLUMNS)


def _rounds_of(cell: Cell) -> pl.DataFrame:
    record = jax.tree.map(np.asarray, cell.record)
    seeds, rounds, clients = record.reputation.shape
    whole = (seeds, rounds, clients)

    def spread(values: np.ndarray, *axes: int) -> np.ndarray:
        """The given axes of [S, T, N], repeated along the others, raveled."""
        shape = [whole[axis] if axis in axes else 1 for axis in range(3)]
        return np.broadcast_to(np.asarray(values).reshape(shape), whole).ravel()

    def at_rounds(values: np.ndarray) -> np.ndarray:
        """[S, K, ...] -> [S, T, ...], NaN in rounds without evaluation."""
        values = np.asarray(values, np.float32)
        filled = np.full((seeds, rounds, *values.shape[2:]), np.nan, np.float32)
        filled[np.arange(seeds)[:, None], np.asarray(cell.evaluation.round) - 1] = values
        return filled

    evaluation = cell.evaluation
    quota = record.quota.ravel()
    return pl.DataFrame(
        {
            "partition": pl.repeat(cell.partition, quota.size, eager=True),
            "method": pl.repeat(cell.method, quota.size, eager=True),
            "seed": spread(np.asarray(cell.seeds, np.int64), 0),
            "round": spread(np.arange(1, rounds + 1, dtype=np.int32), 1),
            "client": spread(np.arange(clients, dtype=np.int32), 2),
            "score": _known(record.score),
            "reputation": _known(record.reputation),
            "weight": _known(record.weight),
            "quota": quota.astype(np.int32),
            "share": _known(quota / cell.num_parameters),
            "present": record.present.ravel(),
            "broken": record.broken.ravel(),
            "loss": _known(record.loss),
            "update_norm": _known(record.norm),
            "energy": _known(record.energy),
            "accuracy": _known(at_rounds(_of_all(cell, evaluation.accuracy))),
            "test_loss": _known(at_rounds(_of_all(cell, evaluation.loss))),
            "distance": _known(at_rounds(_of_all(cell, evaluation.distance))),
            "server_accuracy": _known(spread(at_rounds(evaluation.server_accuracy), 0, 1)),
            "server_test_loss": _known(spread(at_rounds(evaluation.server_loss), 0, 1)),
        }
    )


def _of_all(cell: Cell, values: np.ndarray) -> np.ndarray:
    """What was evaluated [..., K] as [..., N], NaN for the other clients."""
    if cell.evaluated is None:
        return np.asarray(values)
    whole = np.full((*values.shape[:-1], len(cell.sizes)), np.nan, np.float32)
    whole[..., cell.evaluated] = values
    return whole


def clients_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per partition, method, seed and client.

    `accuracy`, `reputation` and `distance` ‖w_N - w_i‖ are those after the last round; `share` and
    `energy` are means over rounds of the share of entries received, quota / D, and of the energy in
    them, ‖v_i‖² / ‖u_N‖²; `upload_bytes` and `download_bytes` are sums over rounds (see
    `metrics.volumes`); `attack` is null for honest clients, `present` the share of rounds taken
    part in, `broken` the number of updates that were not finite. `standalone_accuracy` is null
    where the partition was not run with the method `standalone`, `owner` where clients are not
    owners of rows.
    """
    cells = list(cells)
    alone = _standalone(cells)
    frames = []
    for cell in cells:
        traffic = _traffic(cell)
        for index, seed in enumerate(cell.seeds):
            final = _of_all(cell, cell.evaluation.accuracy)[index, -1]
            distance = _of_all(cell, cell.evaluation.distance)[index, -1]
            nothing = np.full(final.shape, np.nan)
            frames.append(
                pl.DataFrame(
                    {
                        "partition": pl.repeat(cell.partition, final.size, eager=True),
                        "method": pl.repeat(cell.method, final.size, eager=True),
                        "seed": np.full(final.size, seed, np.int64),
                        "client": np.arange(final.size, dtype=np.int32),
                        "owner": pl.Series(
                            list(cell.owners) or [None] * final.size, dtype=pl.String
                        ),
                        "rows": np.asarray(cell.sizes, np.int32),
                        "classes": np.asarray(cell.classes, np.int32),
                        "standalone_accuracy": _known(
                            _of_all(cell, alone[key])
                            if (key := (cell.partition, seed)) in alone
                            else nothing
                        ),
                        "accuracy": _known(final),
                        "reputation": _known(np.asarray(cell.record.reputation)[index, -1]),
                        "share": _known(traffic["share"][index]),
                        "energy": _known(traffic["energy"][index]),
                        "distance": _known(distance),
                        "upload_bytes": traffic["upload_bytes"][index],
                        "download_bytes": traffic["download_bytes"][index],
                        "attack": pl.Series(
                            [name or None for name in cell.cheats] or [None] * final.size,
                            dtype=pl.String,
                        ),
                        "present": np.asarray(cell.record.present)[index].mean(axis=0),
                        "broken": np.asarray(cell.record.broken)[index].sum(axis=0, dtype=np.int64),
                    }
                )
            )
    return pl.concat(frames, rechunk=True) if frames else _empty(CLIENT_COLUMNS)


def _traffic(cell: Cell) -> dict[str, np.ndarray]:
    """What every client sent and received in a run, [S, N]."""
    record = cell.record
    # A round in which nobody receives anything is one of training alone: nothing is sent, although
    # the simulation looks at the updates.
    together = (np.asarray(record.quota) > 0).any(axis=-1, keepdims=True)
    sent = np.asarray(record.present) & together & (cell.method != YARDSTICK)
    volumes = metrics.volumes(sent, record.quota, cell.num_parameters)
    return {
        "share": np.asarray(record.quota, np.float64).mean(axis=1) / cell.num_parameters,
        "energy": np.asarray(record.energy, np.float64).mean(axis=1),
        "upload_bytes": volumes.upload.sum(axis=1),
        "download_bytes": volumes.download.sum(axis=1),
    }


def summary_frame(cells: Iterable[Cell]) -> pl.DataFrame:
    """A row per partition, method and seed, after the last round.

    `fairness` is null where it is undefined, and `fairness_undefined` says why. Accuracies are
    fractions. The gains over standalone, which fairness does not see, are summarised by their mean,
    their standard deviation (`gain_spread`) and the share of clients that end no worse than alone
    (`no_worse`). `distance`, `energy`, `share` and the bytes are means over clients of the columns
    of `clients_frame`, `present` the mean share of rounds that a client took part in, `broken` the
    number of updates that were not finite. The columns of HONESTY are null without attackers:
    accuracies are means, `attacker_share` and `attacker_energy` those of the attackers,
    `attacker_reputation` theirs over the mean honest one, `separation` the probability that an
    honest client has the higher reputation (AUC).
    """
    ends = [
        (cell.partition, cell.method, int(seed), end)
        for cell in cells
        for seed, end in zip(cell.seeds, outcomes(cell), strict=True)
    ]
    alone = {(place, seed): end for place, method, seed, end in ends if method == YARDSTICK}
    return summary_of(
        summary_row(place, method, seed, end, alone.get((place, seed)))
        for place, method, seed, end in ends
    )


def outcomes(cell: Cell) -> list[Outcome]:
    """What is left of every seed of a cell, for `summary_row`."""
    traffic = _traffic(cell)
    honest = np.array([not name for name in cell.cheats] or [True] * len(cell.sizes), bool)
    seen = honest if cell.evaluated is None else honest[cell.evaluated]
    last = [
        np.asarray(getattr(cell.evaluation, name))[:, -1]
        for name in ("accuracy", "distance", "server_accuracy")
    ]
    # In the order of the fields of an Outcome.
    arrays = (
        *last,
        *traffic.values(),
        np.asarray(cell.record.reputation)[:, -1],
        np.asarray(cell.record.present).mean(axis=1),
        np.asarray(cell.record.broken).sum(axis=1, dtype=np.int64),
    )
    return [
        Outcome(*(values[index] for values in arrays), honest, seen)
        for index in range(len(cell.seeds))
    ]


def summary_row(
    partition: str, method: str, seed: int, end: Outcome, alone: Outcome | None
) -> dict[str, Any]:
    """One row of `summary_frame`.

    Args:
      partition: where the run was.
      method: as it is called in the table.
      seed: of the run.
      end: the run's end.
      alone: that of the yardstick on the same partition with the same seed, if there is one.
    """
    final = end.accuracy
    row = {
        "partition": partition,
        "method": method,
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
    }
    row |= _honesty(method, end, alone)
    row |= _against_alone(method, None if alone is None else alone.accuracy, final)
    return {key: _defined(value) for key, value in row.items()}


def summary_of(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Rows of `summary_row` as a frame."""
    whole = {"seed", "clients", "evaluated", "broken", "attackers"}
    schema = {
        name: pl.String if name in TEXTS else pl.Int64 if name in whole else pl.Float64
        for name in SUMMARY_COLUMNS
    }
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def _against_alone(method: str, alone: np.ndarray | None, final: np.ndarray) -> dict[str, Any]:
    if method == YARDSTICK:
        return {"fairness_undefined": f"{YARDSTICK} is the yardstick"}
    if alone is None:
        return {"fairness_undefined": f"no {YARDSTICK} run to compare with"}
    reason = metrics.why_undefined(alone, final)
    return jax.device_get(_judge(alone, final)) | {"fairness_undefined": reason}


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
        found["attacker_reputation"] = reputation[~honest].mean() / reputation[honest].mean()
        found["separation"] = float(metrics.separation(reputation, honest))
    if method != YARDSTICK and alone is not None:
        found["honest_fairness"] = float(metrics.fairness(alone.accuracy[seen], accuracy[seen]))
    return found


def _standalone(cells: Iterable[Cell]) -> dict[tuple[str, int], np.ndarray]:
    """Final accuracies [N] of the yardstick, by partition and seed."""
    return {
        (cell.partition, seed): np.asarray(cell.evaluation.accuracy)[index, -1]
        for cell in cells
        if cell.method == YARDSTICK
        for index, seed in enumerate(cell.seeds)
    }


def fairness_table(summary: pl.DataFrame) -> pl.DataFrame:
    """Mean and sample standard deviation over seeds, a row per partition and method.

    Every value is averaged over the seeds in which it is defined, `<name>_seeds` of `seeds`; the
    reasons why fairness is not stand in `fairness_undefined`. A deviation over one seed is null,
    and so is the 95 % bootstrap interval of fairness, `fairness_low` to `fairness_high`.
    """
    names = [column + end for column in AVERAGED for end in ("", "_sd", "_seeds")]
    names[2:2] = ["fairness_low", "fairness_high"]
    reasons = pl.col("fairness_undefined").drop_nulls().unique().sort()
    table = summary.group_by("partition", "method", maintain_order=True).agg(
        *(pl.col(name).mean() for name in AVERAGED),
        *(pl.col(name).std(ddof=1).alias(f"{name}_sd") for name in AVERAGED),
        *(pl.col(name).count().cast(pl.Int64).alias(f"{name}_seeds") for name in AVERAGED),
        pl.col("fairness").drop_nulls().alias("defined"),
        pl.len().cast(pl.Int64).alias("seeds"),
        reasons.str.join("; ").replace("", None).alias("fairness_undefined"),
    )
    bounds = np.array([metrics.interval(v.to_numpy()) for v in table["defined"]]).reshape(-1, 2)
    return table.with_columns(
        pl.Series(f"fairness_{end}", column, pl.Float64).fill_nan(None)
        for end, column in zip(("low", "high"), bounds.T, strict=True)
    ).select("partition", "method", *names, "seeds", "fairness_undefined")


def _defined(value: Any) -> Any:
    """A number, text or None as Python's own; None for what is not finite."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(values: np.ndarray) -> pl.Series:
    """Any shape, raveled, as float32 with null for what is not finite."""
    values = np.asarray(values, np.float32).ravel()
    return pl.Series(np.where(np.isfinite(values), values, np.nan)).fill_nan(None)


def _empty(columns: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({name: [] for name in columns})
