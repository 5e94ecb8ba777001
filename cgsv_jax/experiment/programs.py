"""The pure functions behind a run, to be compiled."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.config.schema import Config, Method
from cgsv_jax.core import grid, simulation
from cgsv_jax.core import layout as layout_lib
from cgsv_jax.experiment import bind, budget
from cgsv_jax.experiment.execute import Batch, Chunk, Programs, Seen
from cgsv_jax.experiment.task import Task
from cgsv_jax.results import frames
from cgsv_jax.types import Evaluation, Hyper, Record, State


def programs(config: Config, method: Method, task: Task) -> Programs:
    """The pure functions behind a run; `run` jits them.

    Raises:
      ConfigError: more devices are asked for than there are.
    """
    static = bind.settings_of(config, method, task)
    mesh = static.mesh
    # Rows of the matrices in an order that gives every device its share of the work.
    number = len(task.sizes)
    order = np.arange(number)
    if mesh is not None:
        order = layout_lib.dealt(bind.steps(config, task), mesh.size)
    places = np.argsort(order)
    clients = jax.tree.map(lambda x: x[order], task.clients)
    clients = clients._replace(numbers=order.astype(np.int32))
    chosen = None if task.chosen is None else places[task.chosen].astype(np.int32)
    shared = (bind.data_of(config, method, task), clients, chosen)
    shared = jax.device_put(shared, None if mesh is None else layout_lib.everywhere(mesh))

    attack = bind.forged_uploads(config, method)

    def start(key: jax.Array, hyper: Hyper) -> State:
        made = bind.parts(config, method, task, hyper)
        return simulation.init(key, number, attack=attack, mesh=mesh, alone=static.alone, **made)

    def begin(seeds: jax.Array, hyper: Hyper) -> State:
        return grid.runs(start, jax.vmap(jax.random.key)(seeds), hyper)

    def segment(
        rounds: int,
        seeds: jax.Array,
        hyper: Hyper,
        state: State,
        shared: tuple,
        evaluated: bool = True,
        alone: bool = False,
    ) -> Any:
        def one(key, hyper, state, data, clients, chosen):
            arguments = (key, state, data, clients)
            options = {
                "settings": static._replace(rounds=rounds),
                "participation": bind.participation_of(config, method, task, hyper),
                **bind.parts(config, method, task, hyper),
            }

            def go_on() -> tuple[State, Record, Evaluation]:
                looks = {"attack": attack, "chosen": chosen, "evaluated": evaluated}
                return simulation.advance(*arguments, **options, **looks)

            if alone:  # nothing is seen of it: what would be, with no rounds
                state = simulation.train_alone(*arguments, rounds=config.rounds, **options)
                seen = jax.tree.map(
                    lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), jax.eval_shape(go_on)[1:]
                )
            else:
                state, *seen = go_on()
            return state, *layout_lib.keep_whole(seen, mesh)

        return grid.runs(one, jax.vmap(jax.random.key)(seeds), hyper, *shared, carry=state)

    def in_order(record: Record, evaluation: Evaluation) -> tuple[Record, Evaluation]:
        record = jax.tree.map(lambda x: x[..., places], record)
        if task.chosen is None:
            fields = {n: getattr(evaluation, n)[..., places] for n in simulation.PER_CLIENT}
            evaluation = evaluation._replace(**fields)
        return record, evaluation

    # The numbers stay off the mesh: rules and trainers close over them (see `layout.over_clients`).
    hyper = jax.tree.map(lambda x: np.full(1, x, np.float32), method.hyper(task.partition))
    return Programs(begin, segment, hyper, shared, in_order)


def batch_of(config: Config, method: Method, task: Task) -> Batch:
    """The runs of one method on one partition: all seeds."""

    def chunk(seeds: tuple[int, ...]) -> Chunk:
        numbers = jax.tree.map(
            lambda x: np.full(len(seeds), x, np.float32), method.hyper(task.partition)
        )
        return Chunk(np.asarray(seeds, np.uint32), numbers)

    chunks = tuple(chunk(seeds) for seeds in _together(config, method, task))
    return Batch(
        build=lambda: programs(config, method, task),
        chunks=chunks,
        segments=budget.segments_of(config, method, task),
    )


def cell_of(config: Config, method: Method, task: Task, seen: Sequence[Seen]) -> frames.Cell:
    """What the chunks of a method showed, as the results keep it."""
    record, evaluation = jax.tree.map(lambda *x: np.concatenate(x), *seen)
    return frames.Cell(
        partition=task.partition,
        method=method.name,
        seeds=config.seeds,
        sizes=task.sizes,
        classes=task.classes,
        num_parameters=sum(task.tensors),
        record=record,
        evaluation=evaluation,
        evaluated=task.chosen,
        cheats=task.cheats,
        owners=task.owners,
    )


def _together(config: Config, method: Method, task: Task) -> list[tuple[int, ...]]:
    """The seeds in groups, each of which is one program.

    On a CPU width does not pay, and over several devices the clients already fill them: there one
    after another, so that one state is in memory at a time. Elsewhere all at once if their matrices
    take half of the memory.
    """
    if jax.default_backend() != "cpu" and config.devices == 1:
        each = sum(own.size for own in budget.memory_of(config, method, task))
        if 2 * each * len(config.seeds) <= budget.memory():
            return [config.seeds]
    return [(seed,) for seed in config.seeds]
