"""From a `Config` to results: data, partition, model, compiled segments, the host's look at them.

Everything numerical happens in compiled functions; here they are built, timed and watched.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cgsv_jax.config import resolve
from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.experiment import bind, deal, execute
from cgsv_jax.experiment import identity as identity_lib
from cgsv_jax.experiment import programs as programs_lib
from cgsv_jax.experiment.execute import Look
from cgsv_jax.experiment.task import Task
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import environment as environment_lib
from cgsv_jax.results import frames


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


class Result(NamedTuple):
    """A finished experiment, as arrays."""

    config: Config
    tasks: tuple[Task, ...]  # one per partition and partition seed
    cells: tuple[frames.Cell, ...]  # one per partition, method and partition seed, in this order
    timing: dict[str, Any]  # seconds, of compiling and running; loading the data is not in it


def run(
    config: Config,
    watch: Callable[[Progress], None] | None = None,
    dealt: tuple[Task, ...] | None = None,
    keeper: execute.Keeper | None = None,
) -> Result:
    """Every method of the config on every draw of every partition, all seeds in one program.

    Args:
      config: see `configure`.
      watch: called before compilation, and between segments.
      dealt: what `deal.tasks(config)` gave, if it has been called already.
      keeper: saves what is computed, and may know where to go on (see `execute.execute`).

    Returns:
      Arrays; nothing is written, unless by the keeper.

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

    def look(look: Look) -> None:
        if watch is None:
            return
        bound = bounds[look.batch]
        accuracy = server = None
        if look.evaluation is not None:
            accuracy = np.asarray(look.evaluation.accuracy[:, -1].mean(0))
            server = float(look.evaluation.server_accuracy[:, -1].mean())
        counts = look.done, look.rounds, look.compiling, look.pace
        seen = accuracy, server, look.until, bound.task.partition_seed
        watch(Progress(bound.task.partition, bound.name, *counts, *seen))

    batches = [programs_lib.batch_of(bound) for bound in bounds]
    seen, clocks = execute.execute(batches, look, keeper=keeper)
    cells = map(programs_lib.cell_of, bounds, seen)
    clock = [
        {
            "partition": bound.task.partition,
            "method": bound.name,
            "partition_seed": bound.task.partition_seed,
            "compile_seconds": seconds.compiling,
            "run_seconds": seconds.running,
            "rounds_per_second": bound.rounds * len(bound.seeds) / seconds.running,
        }
        for bound, seconds in zip(bounds, clocks, strict=True)
    ]
    timing = {"total_seconds": sum(seconds.elapsed for seconds in clocks), "methods": clock}
    return Result(config, dealt, tuple(cells), timing)


def save(directory: Any, result: Result, earlier: Sequence[Any] = ()) -> dict[str, Any]:
    """Writes a run directory (see `results.directory`); figures are drawn from it, not from here.

    Args:
      directory: where.
      result: what `run` gave.
      earlier: other environments in which a part of it was computed.

    Returns:
      Its tables, see `frames.frames_of`.

    Raises:
      OSError: when it cannot be written.
    """
    environment = environment_lib.environment() | {"data": result.tasks[0].identity}
    own = [task for task in result.tasks if task.identity is None]
    described_ = resolve.of_given(result.config, identity_lib.described(own[0])) if own else None
    return directory_lib.write(
        directory,
        described_ or resolve.to_dict(result.config),
        environment | ({"earlier": list(earlier)} if earlier else {}),
        result.timing,
        result.cells,
    )
