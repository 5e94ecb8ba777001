"""Runs with clients that cheat: one compiled program for all that differ by who cheats, and how.

Who cheats is data, and so are the partition, its draw and the seed. Of attacks on uploads a run has
one at most: a program holds all of them and computes that one (`one_of`). So a data set, a measure
and a number of clients are a program, which several threads call at once.
"""

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl

from cgsv_jax.config.schema import Config
from cgsv_jax.core import attacks, simulation
from cgsv_jax.experiment import bind, deal, names
from cgsv_jax.experiment.task import Task, attacks_of
from cgsv_jax.results import frames
from cgsv_jax.types import (
    Array,
    ArrayTree,
    Attack,
    Clients,
    Conduct,
    Dataset,
    Evaluation,
    Hyper,
    PRNGKey,
    Record,
    Upload,
)

# Programs that are kept at once: all of a part of the table. Each takes a thousand memory maps, of
# which a process may have 65,530.
MOST_PROGRAMS = 36
NOBODY = "none"  # the attack where nobody cheats


class Cell(NamedTuple):
    """Runs of one measure under one attack: every seed on every draw of a partition."""

    dataset: str
    partition: str
    measure: str
    attack: str
    count: int  # of clients that cheat; with replication of copies that come on top
    seeds: tuple[int, ...]
    draws: int


KEYS = Cell._fields[:5]
# Of a run, beside KEYS, its seed and that of the partition. All but the first five are of honest
# clients alone, by the instrument of `results.frames`; shares and energies are means over rounds.
NUMBERS = (
    *("separation", "attacker_share", "attacker_energy", "attacker_reputation", "broken"),
    *("share", "energy", "accuracy", "no_worse", "fairness", "fairness_by_loss"),
    *("late_fairness", "late_fairness_by_loss"),
    *("fairness_low", "fairness_high", "fairness_by_loss_low", "fairness_by_loss_high"),
    "rank_of_all_classes",  # by reputation, 1 is the highest; where one client holds all classes
)


def asked_of(cell: Cell) -> list[str]:
    """The attack as `experiment.configure` takes it: one poses as one more than the copies."""
    posing = cell.attack == attacks.REPLICATION
    return [] if cell.attack == NOBODY else [f"{cell.attack}:{cell.count + posing}"]


def one_of(kinds: Sequence[str], which: Array, epochs: int) -> Attack:
    """The attack number `which` of `kinds`, from 1; 0: none. A run computes no other.

    Attackers have code 1. Attacks that remember things of the same shapes share the place.

    Args:
      kinds: attacks on uploads.
      which: [] int32, traced.
      epochs: E of local training.
    """
    every = [attacks.attack([kind], epochs) for kind in kinds]
    # Whatever N and D are, memories differ in their shapes as they do for these.
    shapes = [str(jax.eval_shape(lambda own=own: own.init(5, 7))) for own in every]
    distinct = list(dict.fromkeys(shapes))
    place = [distinct.index(shape) for shape in shapes]

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        # As there is one attack in a run, whose place it is makes no difference before it starts.
        owners = [every[shapes.index(shape)] for shape in distinct]
        return tuple(own.init(num_clients, num_parameters) for own in owners)

    def forge(key: PRNGKey, upload: Upload, conduct: Conduct, state: ArrayTree) -> Array:
        forged = [
            lambda memories, own=own, at=at: own.forge(key, upload, conduct, memories[at])
            for own, at in zip(every, place, strict=True)
        ]
        return jax.lax.switch(which, [lambda _: upload.deltas, *forged], state)

    def receive(download: Any, present: Array, state: ArrayTree) -> ArrayTree:
        def kept(own: Attack, at: int, memories: ArrayTree) -> ArrayTree:
            new = own.receive(download, present, memories[at])
            return (*memories[:at], new, *memories[at + 1 :])

        received = [functools.partial(kept, *pair) for pair in zip(every, place, strict=True)]
        return jax.lax.switch(which, [lambda memories: memories, *received], state)

    return Attack(init, forge, receive)


# ---------------------------------------------------------------- tasks


class World(NamedTuple):
    """A data set, dealt out to honest clients."""

    tasks: Mapping[tuple[str, int], Task]  # by partition and draw
    slots: int  # M, as many as any of them needs
    on_device: Callable[[Dataset], Dataset]  # the same arrays once


def world(base: Mapping[str, Any], partitions: Sequence[str], draws: int) -> World:
    """Deals a data set out once for all cells."""
    wanted = {"partitions": list(partitions), "partition_seeds": draws, "algorithms": ["cgsv"]}
    tasks = deal.tasks(names.configure(named=False, **{**base, **wanted}))
    known: dict[int, Array] = {}

    def on_device(data: Dataset) -> Dataset:
        def put(x: Array) -> Array:
            if id(x) not in known:  # the tasks hold it, so that no other has its id
                known[id(x)] = jax.device_put(x)
            return known[id(x)]

        return jax.tree.map(put, data)

    return World(
        {(task.partition, task.partition_seed): task for task in tasks},
        max(task.clients.mask.shape[1] for task in tasks),
        on_device,
    )


def arrays_of(task: Task, slots: int) -> Clients:
    """The clients of a task, as many slots and the same fields whatever the attack."""
    clients = task.clients
    labels = clients.labels
    if labels is None:
        labels = np.asarray(task.data.labels)[clients.rows]

    def wide(x: Array) -> np.ndarray:
        return np.pad(np.asarray(x), ((0, 0), (0, slots - x.shape[1])))

    conduct = clients.conduct
    if conduct is None:
        number = len(clients.mask)
        conduct = Conduct(np.zeros(number, np.int32), np.zeros(number, np.float32))
    return clients._replace(
        rows=wide(clients.rows), mask=wide(clients.mask), labels=wide(labels), conduct=conduct
    )


# ---------------------------------------------------------------- runs


Run = Callable[[Cell, Config, Task, int], tuple[Record, Evaluation]]


def runner(worlds: Mapping[str, World]) -> Run:
    """(cell, its config, its task, seed) -> what one run recorded; threads may share it.

    The first call of a program compiles it while other threads wait for it; the oldest are dropped.
    """
    programs: dict[tuple, Callable[..., Any]] = {}
    locks: dict[tuple, threading.Lock] = defaultdict(threading.Lock)
    kinds = tuple(attacks.UPLOADS)

    def run(cell: Cell, config: Config, task: Task, seed: int) -> tuple[Record, Evaluation]:
        bound = bind.bind(config, config.methods[0], task)
        own = worlds[cell.dataset]
        which = 1 + kinds.index(cell.attack) if cell.attack in kinds else 0
        arguments = (
            jax.random.key(seed),
            {name: np.float32(value) for name, value in bound.hyper.items()},
            np.int32(which),
            own.on_device(bound.data),
            arrays_of(task, own.slots),
        )
        code = (cell.dataset, cell.measure, len(task.sizes), *bound.hyper)
        with locks[code]:
            program = programs.get(code)
            if program is None:
                program = jax.jit(functools.partial(_one, bound, kinds)).lower(*arguments).compile()
                programs[code] = program
                for oldest in [*programs][:-MOST_PROGRAMS]:
                    programs.pop(oldest, None)
        return jax.device_get(program(*arguments))

    return run


def _one(
    bound: bind.Bound,
    kinds: tuple[str, ...],
    key: PRNGKey,
    hyper: Hyper,
    which: Array,
    data: Dataset,
    clients: Clients,
) -> tuple[Record, Evaluation]:
    """One run; of the answers to test rows those of the last evaluation."""
    federation = bound.federation(hyper)
    # One program for all partitions: on a CPU one client after another, so that nobody waits for
    # who has more rows.
    width = 1 if jax.default_backend() == "cpu" else None
    settings = federation.settings._replace(width=width, eval_width=width)
    attack = one_of(kinds, which, settings.epochs)
    federation = federation._replace(settings=settings, attack=attack)
    _, record, evaluation = simulation.run(key, data, clients, federation)
    last = jax.tree.map(lambda x: x[-1], evaluation.answers)
    return record, evaluation._replace(answers=last)


def ran(
    run: Run, cell: Cell, wanted: Mapping[str, Any], worlds: Mapping[str, World]
) -> list[frames.Cell]:
    """The runs of a cell, a table's cell per draw of the partition."""
    found = []
    for draw in range(cell.draws):
        config = names.configure(named=False, **{**wanted, "partition_seed": draw})
        honest = worlds[cell.dataset].tasks[cell.partition, draw]
        task = deal.conducted(config, honest._replace(attacks=attacks_of(config)))
        runs = [run(cell, config, task, seed) for seed in cell.seeds]
        record, evaluation = jax.tree.map(lambda *x: np.stack(x), *runs)
        found.append(
            frames.Cell(
                partition=cell.partition,
                method=config.methods[0].algorithm,
                seeds=cell.seeds,
                sizes=task.sizes,
                classes=task.classes,
                num_parameters=sum(task.tensors),
                record=record,
                evaluation=evaluation,
                cheats=task.cheats or ("",) * len(task.sizes),
                partition_seed=draw,
                answers=evaluation.answers,
            )
        )
    return found


# ---------------------------------------------------------------- rows


def honest_part(cell: frames.Cell, honest: np.ndarray) -> frames.Cell:
    """The same runs, of which only these clients are seen [N] bool."""
    seen = {name: getattr(cell.evaluation, name)[..., honest] for name in ("accuracy", "loss")}
    seen["distance"] = cell.evaluation.distance[..., honest]
    answers = cell.answers
    if answers is not None:
        answers = jax.tree.map(lambda x: x[:, honest], answers)
    return cell._replace(
        sizes=cell.sizes[honest],
        classes=cell.classes[honest],
        record=jax.tree.map(lambda x: x[..., honest], cell.record),
        evaluation=cell.evaluation._replace(**seen, answers=None),
        cheats=(),
        answers=answers,
    )


def rows(cell: Cell, found: Sequence[frames.Cell], alone: Sequence[frames.Cell]) -> pl.DataFrame:
    """A row per run: NUMBERS, and of runs in which nobody cheats what every client reached.

    Args:
      cell: what they are runs of.
      found: its runs.
      alone: those of the standalone baseline on the same draws, every seed; honest.
    """
    made = []
    baseline = cell.measure == frames.YARDSTICK
    for own, yardstick in zip(found, alone, strict=False):
        honest = np.array([not name for name in own.cheats])
        number = len(yardstick.sizes)  # copies come after all
        first = _of_seeds(honest_part(yardstick, honest[:number]), own.seeds)
        mine = honest_part(own, honest)
        if cell.attack != NOBODY:  # an interval is of levels, and there of differences
            first, mine = first._replace(answers=None), mine._replace(answers=None)
        made.append((own, honest, first, mine))
    pairs = [x for _, _, *both in made for x in (both[1:] if baseline else both)]
    judged = frames.summary_frame(pairs).filter(
        pl.lit(baseline) | (pl.col("method") != frames.YARDSTICK)
    )
    cheating = frames.summary_frame([own._replace(answers=None) for own, *_ in made])
    lists = []
    for own, honest, _, mine in made:
        late = -frames.late_evaluations(mine.evaluation.accuracy.shape[1])
        last = own.record.reputation[:, -1]
        everything = np.flatnonzero(own.classes == own.classes.max())
        for place in range(len(own.seeds)):
            ends = mine.evaluation.accuracy[place, late:], mine.evaluation.loss[place, late:]
            rank = None
            if len(everything) == 1 and cell.attack == NOBODY and not baseline:
                rank = 1.0 + (last[place] > last[place, everything[0]]).sum()
            lists.append(
                {
                    "rank_of_all_classes": rank,
                    "cheats": np.flatnonzero(~honest).tolist(),
                    "accuracies": ends[0].tolist() if cell.attack == NOBODY else None,
                    "losses": ends[1].tolist() if cell.attack == NOBODY else None,
                }
            )
    types = {"rank_of_all_classes": pl.Float64, "cheats": pl.List(pl.Int32)}
    types |= dict.fromkeys(("accuracies", "losses"), pl.List(pl.List(pl.Float32)))  # [Q, N]
    beside = pl.DataFrame(lists, schema=types)
    of_cheats = ("separation", "attacker_share", "attacker_energy", "attacker_reputation", "broken")
    whole = judged.drop(of_cheats).rename({"mean_accuracy": "accuracy"})
    whole = pl.concat([whole, cheating.select(of_cheats), beside], how="horizontal")
    fixed = [pl.lit(value).alias(key) for key, value in zip(KEYS, cell, strict=False)]
    numbers = [pl.col(name).cast(pl.Float32) for name in NUMBERS]
    return whole.select(
        *fixed, "partition_seed", "seed", *numbers, "cheats", "accuracies", "losses"
    )


def _of_seeds(cell: frames.Cell, seeds: Sequence[int]) -> frames.Cell:
    """Its first seeds."""
    some = slice(len(seeds))
    parts = (cell.record, cell.evaluation, cell.answers)
    record, evaluation, answers = jax.tree.map(lambda x: x[some], parts)
    return cell._replace(seeds=tuple(seeds), record=record, evaluation=evaluation, answers=answers)


def beside_nobody(frame: pl.DataFrame) -> pl.DataFrame:
    """`rows` with what the same honest clients reach where nobody cheats: columns `none_...`.

    Seed by seed and draw by draw: `none_accuracy` at the end, `none_late_fairness` and
    `none_late_fairness_by_loss` over the last quarter.
    """
    on = ("dataset", "partition", "partition_seed", "seed")
    reached = {}  # [Q, 2, N] by measure and on
    for row in frame.filter(attack=NOBODY).iter_rows(named=True):
        both = np.array([row["accuracies"], row["losses"]], np.float32)
        reached[row["measure"], *(row[name] for name in on)] = both.swapaxes(0, 1)

    @functools.cache
    def judged(key: tuple, measure: str, cheats: tuple[int, ...]) -> tuple[float, float, float]:
        own, baseline = reached.get((measure, *key)), reached.get((frames.YARDSTICK, *key))
        if own is None or baseline is None:
            return np.nan, np.nan, np.nan
        honest = np.setdiff1d(np.arange(own.shape[2]), cheats)
        found = frames.judged(baseline[-1][:, honest], own[..., honest])
        late = [found[name] for name in ("fairness", "fairness_by_loss")]
        fairness, by_loss = (
            x[np.isfinite(x)].mean() if np.isfinite(x).any() else np.nan for x in late
        )
        return float(own[-1, 0, honest].mean()), float(fairness), float(by_loss)

    found = [
        judged(tuple(row[name] for name in on), row["measure"], tuple(row["cheats"]))
        for row in frame.iter_rows(named=True)
    ]
    added = ("none_accuracy", "none_late_fairness", "none_late_fairness_by_loss")
    columns = [
        pl.Series(n, v, pl.Float32) for n, v in zip(added, zip(*found, strict=True), strict=True)
    ]
    return frame.with_columns(columns).with_columns(pl.col(added).fill_nan(None))
