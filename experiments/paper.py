"""The paper's tables at its own scale: its rows, networks, epochs and batches, cell by cell.

A cell is one method on one partition of one data set with one seed. What it recorded is one file in
`results/paper`, written when it is through; a cell that is there is not run again, one that was
interrupted goes on where it was, one that another process computes is left to it: a process per
core, `taskset -c 0 python -m ...`, gets through 1.4 times as many rounds as one with two cores.
`experiments.fairness` and `experiments.accuracy` with `--scale paper` run what is missing, in the
order of `CELLS`, and show what is there; an interrupt, or SIGTERM, ends the running and shows the
rest; with `--there` nothing is run.

The published runs have 200 rounds. Here they have 60, evaluated every fifth: on two CPU cores a
cell takes minutes to an hour, and the released schedule stops learning at about round 90. Texts
have 20, so that an hour does for all of them.
"""

import io
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cgsv_jax import data
from cgsv_jax.command import stopping
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.experiment import deal, execute, identity, names, progress, running
from cgsv_jax.host import files, terminal
from cgsv_jax.results import directory, environment, frames
from cgsv_jax.types import Answers, Evaluation, Record
from experiments import common

FOLDER = "paper"
STARTED = time.time()  # of this process, near enough
UNFINISHED = "unfinished"  # folder of run directories that are gone on with
SCALE = {"seeds": [0], "rounds": 60, "eval_every": 5}
OF_TEXTS = {"rounds": 20, "eval_every": 2}
TEXTS = ("sst", "mr")
MAIN = ("standalone", "cgsv", "cgsv:steady", "cgsv:released")
ALL = (*MAIN, "fedavg_finetuned", "rffl", "cffl", "iafl")


class Cell(NamedTuple):
    """What is asked for."""

    dataset: str
    clients: int
    partition: str
    method: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        words = (self.dataset, self.clients, self.partition, self.method, self.seed)
        return "-".join(map(str, words)).replace(":", "_")


# In the order in which they are run: what says most first.
CELLS = [
    *(Cell("mnist", 10, p, m) for m in MAIN for p in ("power_law", "class_imbalance")),
    *(Cell("mnist", 10, p, m) for m in ALL[4:] for p in ("power_law", "class_imbalance")),
    *(Cell("mnist", 10, "uniform", m) for m in ALL),
    *(Cell("cifar10", 10, p, m) for m in MAIN for p in ("power_law", "class_imbalance")),
    *(Cell("cifar10", 10, p, m) for m in ALL[4:] for p in ("power_law", "class_imbalance")),
    *(Cell("cifar10", 10, "uniform", m) for m in ALL),
    *(Cell(name, 5, "power_law", m) for name in TEXTS for m in MAIN),
]


class Known(NamedTuple):
    """A cell that is through."""

    cell: Cell
    found: frames.Cell
    seconds: float  # of compiling and running, on the device that `made_by` names
    made_by: str


def known(what: common.Asked) -> list[Known]:
    """The cells, after whatever is missing was run, as far as that went."""
    here = {line.name for line in data.available(what.data_dir) if line.present}
    for cell in CELLS:
        if what.there:
            break
        if cell.dataset in here and not _through(what, cell):
            try:
                run(what, cell)
            except directory.InUse:
                terminal.complain(f"{cell.name}: another process computes it")
            except stopping.Ended as ended:
                terminal.complain(f"{cell.name}: {ended}")
                break
    there = [found for cell in CELLS if (found := read(what, cell)) is not None]
    if all(found.cell.method == frames.YARDSTICK for found in there):
        raise SystemExit("nothing is there yet to be compared")
    return there


def missing(what: common.Asked) -> list[str]:
    """Cells that are not there, and why."""
    here = {line.name for line in data.available(what.data_dir) if line.present}
    found = {}
    for cell in CELLS:
        if read(what, cell) is None:
            why = "" if cell.dataset in here else " (data not on this machine)"
            found.setdefault(f"{cell.dataset} {cell.partition}{why}", []).append(cell.method)
    return [f"{where}: {', '.join(methods)}" for where, methods in found.items()]


def summary(cells: list[Known]) -> pl.DataFrame:
    """As of a run of all methods, with a column dataset."""
    kept = []
    for dataset in dict.fromkeys(known.cell.dataset for known in cells):
        own = [known.found for known in cells if known.cell.dataset == dataset]
        frame = frames.summary_frame(own)
        kept.append(frame.select(pl.lit(dataset).alias("dataset"), pl.all()))
    return pl.concat(kept)


def table(cells: list[Known]) -> pl.DataFrame:
    """Which cells are there, where they ran and how long they took."""
    return pl.DataFrame(
        {
            "cell": where(known.cell),
            "method": known.cell.method,
            "seed": str(known.cell.seed),
            "rounds": str(known.found.record.present.shape[1]),
            "minutes": f"{known.seconds / 60:.0f}",
            "made by": known.made_by,
        }
        for known in cells
    )


OVER_ROUNDS = (
    "Fairness by accuracy and by loss (minus the mean negative log-likelihood) against standalone "
    "after its last round: at the round of the best mean accuracy, at the last round, and mean "
    "(least to greatest) over the last quarter of the evaluations."
)


def over_rounds(cells: Sequence[Known]) -> pl.DataFrame:
    """When a method is fair, by which measure."""
    rows = []
    for dataset in dict.fromkeys(known.cell.dataset for known in cells):
        of_set = [known for known in cells if known.cell.dataset == dataset]
        frame = frames.fairness_frame(known.found for known in of_set)
        for known in of_set:
            own = frame.filter(partition=known.cell.partition, method=known.cell.method).sort(
                "round"
            )
            if known.cell.method == frames.YARDSTICK or own["fairness_by_loss"].is_null().all():
                continue  # nothing to be compared, or with
            late, last = own.tail(frames.late_evaluations(len(own))), own.row(-1, named=True)
            best = own.row(own["mean_accuracy"].arg_max(), named=True)
            row = {
                "cell": where(known.cell),
                "method": known.cell.method,
                "best round": str(best["round"]),
                "accuracy, %: best, last": both(best, last, "mean_accuracy", 100),
                "spread of the last, points": f"{100 * last['accuracy_spread']:.2f}",
            }
            for title, name in (("fairness", "fairness"), ("by loss", "fairness_by_loss")):
                row[f"{title}: best, last"] = both(best, last, name)
                row[f"{title}, last quarter"] = common.ranged(late[name])
            rows.append(row)
    return pl.DataFrame(rows)


def where(cell: Cell) -> str:
    """Without its method."""
    return f"{cell.dataset} {cell.partition}-{cell.clients}"


def both(best: Mapping[str, Any], last: Mapping[str, Any], name: str, factor: int = 1) -> str:
    """A value at two rounds."""
    return ", ".join(common.whole(own[name], factor, int(factor > 1)) for own in (best, last))


# ---------------------------------------------------------------- one cell


def configured(what: common.Asked, cell: Cell) -> Config:
    """The experiment of a cell."""
    return names.configure(
        dataset=cell.dataset,
        data_dir=what.data_dir,
        clients=cell.clients,
        partitions=[cell.partition],
        algorithms=[cell.method],
        **SCALE | (OF_TEXTS if cell.dataset in TEXTS else {}) | {"seeds": [cell.seed]},
    )


def run(what: common.Asked, cell: Cell) -> None:
    """Runs a cell, or the rest of it, and writes its file.

    Raises:
      stopping.Ended: a signal asked for it; what was computed is kept.
      directory.InUse: another process is about it.
    """
    folder = what.out / UNFINISHED / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    with directory.held(folder):
        if not _through(what, cell):  # by another process, before this one held it
            _compute(what, cell, folder)
        shutil.rmtree(folder)


def _through(what: common.Asked, cell: Cell) -> bool:
    """Whether it is there; where all are run again, whether somebody has since the start."""
    if not what.again:
        return read(what, cell) is not None
    file = file_of(what, cell)
    return file.exists() and file.stat().st_mtime > STARTED


def _compute(what: common.Asked, cell: Cell, folder: pathlib.Path) -> None:
    config = configured(what, cell)
    begun = directory.state_of(folder) == "begun"
    if begun and not _same(directory.read_json(folder, "config.json"), config):
        directory.remove_checkpoints(folder)
    console = terminal.console(stderr=True)
    terminal.say(console, cell.name)
    tasks = deal.tasks(config)
    found = environment.environment() | {"data": tasks[0].identity}
    directory.begin(folder, resolve.to_dict(config), found)

    def work(keeper: execute.Keeper | None, see: Any) -> running.Result:
        with progress.watching(console, config) as watch:

            def look(at: running.Progress) -> None:
                see(at)
                watch(at)

            return running.run(config, look, tasks, keeper)

    def computed() -> dict[str, Any]:
        return {"config": resolve.to_dict(config), "rows": identity.fingerprint(tasks)}

    with stopping.kept(console, folder, computed, None, work, "the same command") as (result, _):
        write(what, cell, config, result)


def write(what: common.Asked, cell: Cell, config: Config, result: running.Result) -> None:
    """One file for a cell: all that it recorded, and of every test row whether it was right."""
    (found,) = result.cells
    right = None if found.answers is None else found.answers.right
    kept = {"record": found.record, "evaluation": found.evaluation}
    arrays = {
        f"{name}_{n}": x
        for name, tables in kept.items()
        for n, x in tables._asdict().items()
        if isinstance(x, np.ndarray)  # nothing, or a table of its own, is not
    }
    arrays |= {"sizes": found.sizes, "classes": found.classes}
    if right is not None:
        arrays |= {"right": np.packbits(right, axis=-1), "rows": np.int64(right.shape[-1])}
    said = {
        "config": resolve.to_dict(config) | {"data_dir": None},
        "num_parameters": found.num_parameters,
        "seconds": result.timing["total_seconds"],
        "made_by": f"{common.provenance()}, {_cores()}",
    }
    content = io.BytesIO()
    np.savez_compressed(content, said=np.array(json.dumps(said)), **arrays)
    folder = what.out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files.write_files(folder, {f"{cell.name}.npz": content.getvalue()})


def _cores() -> str:
    """How many the process may use, of which JAX says nothing."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{number} core{'s' * (number != 1)}"


def read(what: common.Asked, cell: Cell) -> Known | None:
    """A cell that is through; None where it is not, or was run with other numbers."""
    file = file_of(what, cell)
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as stored:
        arrays = dict(stored)
    said = json.loads(str(arrays.pop("said")))
    config = configured(what, cell)
    if not _same(said["config"], config):
        return None
    right = arrays.get("right")
    answers = None
    if right is not None:
        right = np.unpackbits(right, axis=-1, count=int(arrays["rows"])).astype(bool)
        answers = Answers(right=right, loss=None)
    found = frames.Cell(
        partition=cell.partition,
        method=cell.method,
        seeds=(cell.seed,),
        sizes=arrays["sizes"],
        classes=arrays["classes"],
        num_parameters=said["num_parameters"],
        record=Record(**dict(_under("record_", arrays))),
        evaluation=Evaluation(**dict(_under("evaluation_", arrays))),
        answers=answers,
    )
    return Known(cell, found, said["seconds"], said["made_by"])


def file_of(what: common.Asked, cell: Cell) -> pathlib.Path:
    """Where a cell is kept."""
    return what.out / FOLDER / f"{cell.name}.npz"


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    return ((name.removeprefix(prefix), x) for name, x in arrays.items() if name.startswith(prefix))


def _same(stored: dict[str, Any], config: Config) -> bool:
    """Whether a config.json, of this version or an earlier one, means this; data lie anywhere."""
    try:
        read = resolve.from_dict({**stored, "data_dir": config.data_dir}, names.TABLES)
    except ConfigError:
        return False
    return read == config
