"""From a `Config` to results: data, partition, model, compiled segments, the host's look at them.

Everything numerical happens in compiled functions; here they are built, timed and watched.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgsv_jax.config import resolve
from cgsv_jax.config.schema import GIVEN, Config, ConfigError
from cgsv_jax.experiment import bind, callbacks, deal, execute, tracking
from cgsv_jax.experiment import identity as identity_lib
from cgsv_jax.experiment import programs as programs_lib
from cgsv_jax.experiment.bind import Bound
from cgsv_jax.experiment.execute import Look
from cgsv_jax.experiment.task import Task
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import environment as environment_lib
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.results import saved
from cgsv_jax.types import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgsv_jax.results import tables


class Progress(NamedTuple):
    """What the host sees between two segments; rounds are counted over all seeds of a method on one
    draw of a partition.
    """

    partition: str
    method: str
    round: int  # rounds completed
    rounds: int
    compiling: bool
    rounds_per_second: float  # of this method so far, compilation apart
    accuracy: np.ndarray | None  # [N] mean over the seeds that run, latest
    server_accuracy: float | None
    until: int  # rounds completed when the host looks again
    partition_seed: int
    seeds: tuple[int, ...]  # that run now, or next; the others of the method before or after them
    seed_round: int  # rounds completed by each of these
    validation_accuracy: float | None  # mean over clients and seeds that run, latest; None: nobody
    # asked for it, by `select` or `patience`


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A finished experiment: arrays, of which tables and figures are made when asked for."""

    config: Config
    tasks: tuple[Task, ...]  # one per partition and partition seed
    cells: tuple[frames_lib.Cell, ...]  # one per partition, method and partition seed, in order
    timing: dict[str, Any]  # seconds, of compiling and running; loading the data is not in it

    @functools.cached_property
    def frames(self) -> dict[str, Any]:
        """The tables of a run directory: rounds, clients, fairness, summary, holdings."""
        return frames_lib.frames_of(self.cells)

    def table(self) -> "tables.Report":
        """Fairness and accuracy of the methods; of several partitions all in one table."""
        from cgsv_jax.results import tables

        return tables.first(self.frames)[0]

    def figures(self) -> "dict[str, Figure]":
        """What `cgsv plot` would draw, by name; of matplotlib."""
        from cgsv_jax.results import figures

        run = directory_lib.Run(described(self), {}, self.timing, **self.frames)
        return figures.made(run)

    def save(self, directory: Any, overwrite: bool = False) -> pathlib.Path:
        """Writes a run directory, of which `cgsv show` and `cgsv plot` know all.

        Args:
          directory: where; made as needed.
          overwrite: replace the files of a run that is there.

        Raises:
          ValueError: it holds a run already.
          OSError: it cannot be written.
        """
        path = directory_lib.create(directory, overwrite)
        with directory_lib.held(path):
            save(path, self)
        return path

    def __repr__(self) -> str:
        """A line for what it is, and one per method on a partition."""
        from cgsv_jax.results import tables

        summary = frames_lib.fairness_table(self.frames["summary"]).iter_rows(named=True)
        lines = [
            f"{row['method']} on {row['partition']}: accuracy {100 * row['mean_accuracy']:.1f} %, "
            f"fairness {tables.fairness_text(row)}"
            for row in summary
        ]
        counts = {"seed": len(self.config.seeds), "round": self.config.rounds}
        what = [f"{n:,} {name}{'s' * (n != 1)}" for name, n in counts.items()]
        return "\n  ".join([f"Result({', '.join(what)}, {self.tasks[0]!r})", *lines])

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """In a notebook its table."""
        return {"text/plain": repr(self), "text/html": self.table()._repr_html_()}


def run(
    config: Config,
    watch: Callable[[Progress], Any] | None = None,
    dealt: tuple[Task, ...] | None = None,
    keeper: execute.Keeper | None = None,
    track: Sequence[tracking.Tracker] = (),
) -> Result:
    """Every method of the config on every draw of every partition, all seeds in one program.

    Args:
      config: see `configure`.
      watch: called before compilation, and between segments. Where it returns True, the seeds that
        run end with the evaluation that it saw, or with the next if it saw none; all others of the
        method, and all methods, go on (see `callbacks`).
      dealt: what `deal.tasks(config)` gave, if it has been called already.
      keeper: saves what is computed, and may know where to go on (see `execute.execute`).
      track: who is told the numbers of every evaluation (see `tracking`); those that `config.track`
        names need a run directory, and `tracking.opened` in it.

    Returns:
      Arrays; nothing is written, unless by the keeper. Of runs that ended early they are as long
        as of the others, see `frames.Cell.stopped`.

    Raises:
      ConfigError: when data or partition cannot be had.
      execute.Stopped: when the keeper says so.
    """
    dealt = deal.tasks(config) if dealt is None else dealt
    if len({(task.partition, task.partition_seed) for task in dealt}) < len(dealt):
        raise ConfigError(
            "dealt holds two tasks of one name, it must hold one: results are by name"
        )
    # All draws of a partition one after another: a method is compiled once for those of one shape.
    bounds = [
        bind.bind(config, method, task)
        for _, draws in itertools.groupby(dealt, lambda task: task.partition)
        for method, task in itertools.product(config.methods, draws)
    ]

    def look(look: Look) -> bool | None:
        return None if watch is None else watch(_progress(bounds[look.batch], look))

    def ended(batch: int, evaluation: Evaluation) -> np.ndarray:
        return _ends(bounds[batch], evaluation)

    batches = [programs_lib.batch_of(bound) for bound in bounds]
    seen, clocks = execute.execute(
        batches,
        look,
        keeper=keeper,
        ended=None if config.patience is None else ended,
        show=tracking.following(bounds, track),
    )
    cells = tuple(map(programs_lib.cell_of, bounds, seen))
    clock = [
        {
            "partition": bound.task.partition,
            "method": bound.name,
            "partition_seed": bound.task.partition_seed,
            "compile_seconds": seconds.compiling,
            "run_seconds": seconds.running,
            "rounds_per_second": _rounds_run(bound, cell) / seconds.running,
        }
        for bound, cell, seconds in zip(bounds, cells, clocks, strict=True)
    ]
    timing = {"total_seconds": sum(seconds.elapsed for seconds in clocks), "methods": clock}
    return Result(config, dealt, cells, timing)


def _progress(bound: Bound, look: Look) -> Progress:
    accuracy = server = held = None
    if (seen := look.evaluation) is not None:
        accuracy = np.asarray(seen.accuracy[:, -1].mean(0))
        server = float(seen.server_accuracy[:, -1].mean())
        if seen.validation_accuracy is not None:
            held = float(np.asarray(seen.validation_accuracy, np.float64)[:, -1].mean())
    return Progress(
        partition=bound.task.partition,
        method=bound.name,
        round=look.done,
        rounds=look.rounds,
        compiling=look.compiling,
        rounds_per_second=look.pace,
        accuracy=accuracy,
        server_accuracy=server,
        until=look.until,
        partition_seed=bound.task.partition_seed,
        seeds=tuple(map(int, look.seeds)),
        seed_round=look.round,
        validation_accuracy=held,
    )


def _ends(bound: Bound, evaluation: Evaluation) -> np.ndarray:
    """The rounds [R] with which runs end whose patience is over, 0 where they go on."""
    assert bound.patience is not None
    # Rows that all clients have right, as `select` counts them: of means, equal ones may differ.
    rows = bound.task.validation_rows
    right = np.rint(np.asarray(evaluation.validation_accuracy, np.float64) * rows).sum(-1)
    ends = (
        callbacks.end_of(rounds, scores, bound.patience, bound.patient_from)
        for rounds, scores in zip(np.asarray(evaluation.round), right, strict=True)
    )
    return np.fromiter(ends, np.int32, len(right))


def _rounds_run(bound: Bound, cell: frames_lib.Cell) -> int:
    """Rounds that the runs of a cell took, those alone before them too."""
    every = np.full(len(bound.seeds), bound.rounds)
    if cell.stopped is None:
        return int(every.sum())
    spared = cell.record.quota.shape[1] - cell.stopped
    return int((every - np.where(cell.stopped > 0, spared, 0)).sum())


def save(directory: Any, result: Result, earlier: Sequence[Any] = ()) -> dict[str, Any]:
    """Writes a run directory (see `results.directory`); figures are drawn from it, not from here.

    Args:
      directory: where.
      result: what `run` gave.
      earlier: other environments in which a part of it was computed.

    Returns:
      Its tables, see `frames_lib.frames_of`.

    Raises:
      OSError: when it cannot be written.
    """
    environment = environment_lib.environment() | {"data": result.tasks[0].identity}
    if any(cell.models is not None for cell in result.cells):
        # Before the tables, by which a run is known to be finished.
        saved.write(directory, result.cells, result.tasks[0].model, _network(result))
    return directory_lib.write(
        directory,
        described(result),
        environment | ({"earlier": list(earlier)} if earlier else {}),
        result.timing,
        result.cells,
    )


def _network(result: Result) -> dict[str, Any]:
    """How somebody may build the model of a run who has its directory alone."""
    recipe = result.tasks[0].recipe
    name = GIVEN if recipe is None else result.config.model
    return {"name": name, "recipe": {} if recipe is None else dict(recipe)}


def described(result: Result) -> dict[str, Any]:
    """What config.json says of a result."""
    own = [task for task in result.tasks if task.identity is None]
    given = resolve.of_given(result.config, identity_lib.described(own[0])) if own else None
    return given or resolve.to_dict(result.config)
