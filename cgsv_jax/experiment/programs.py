"""The pure functions behind a run, to be compiled."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import grid, simulation
from cgsv_jax.core import layout as layout_lib
from cgsv_jax.data import partition as partition_lib
from cgsv_jax.experiment import budget, execute, hardware
from cgsv_jax.experiment.bind import Bound
from cgsv_jax.experiment.execute import Batch, Chunk, Counted, Programs, Seen
from cgsv_jax.results import frames
from cgsv_jax.types import ArrayTree, Evaluation, Hyper, Record, State


def programs(bound: Bound) -> Programs:
    """The pure functions behind the runs of a method on a task; `execute` compiles them."""
    task, settings = bound.task, bound.settings
    mesh = settings.mesh
    # Rows of the matrices in an order that gives every device its share of the work.
    number = len(task.sizes)
    order = np.arange(number)
    if mesh is not None:
        order = layout_lib.dealt(bound.steps, mesh.size)
    places = np.argsort(order)
    clients = jax.tree.map(lambda x: x[order], task.clients)
    clients = clients._replace(numbers=order.astype(np.int32))
    chosen = None if task.chosen is None else places[task.chosen].astype(np.int32)
    shared = ((bound.data, bound.choosing), clients, chosen)
    shared = jax.device_put(shared, None if mesh is None else layout_lib.everywhere(mesh))

    def origin(seeds: jax.Array) -> ArrayTree:
        keys = jax.vmap(jax.random.key)(seeds)
        return layout_lib.over_clients(lambda key: simulation.origin(key, task.model))(keys)

    def settled(state: State) -> State:
        """The state, of which no segment finds anything elsewhere than the one before left it.

        Models and optimizers are pinned where they are made; of the rest the compiler would decide.
        """
        rest = state._replace(clients=(), optimizer=())
        rest = layout_lib.keep_whole(rest, mesh)
        return rest._replace(clients=state.clients, optimizer=state.optimizer)

    def start(key: jax.Array, hyper: Hyper, params: ArrayTree) -> State:
        return settled(simulation.init(key, number, bound.federation(hyper), params))

    def begin(seeds: jax.Array, hyper: Hyper, params: ArrayTree) -> State:
        return grid.runs(start, jax.vmap(jax.random.key)(seeds), hyper, carry=params)

    def segment(
        rounds: int,
        seeds: jax.Array,
        hyper: Hyper,
        state: State,
        shared: tuple,
        evaluated: bool = True,
        alone: bool = False,
    ) -> Any:
        def one(key, hyper, state, examples, clients, chosen):
            data, choosing = examples
            federation = bound.federation(hyper)
            federation = federation._replace(settings=federation.settings._replace(rounds=rounds))
            arguments = (key, state, data, clients, federation)

            def go_on() -> tuple[State, Record, Evaluation]:
                return simulation.advance(
                    *arguments, chosen=chosen, evaluated=evaluated, validation=choosing
                )

            if alone:  # nothing is recorded of it: what would be, with no rounds
                state = simulation.train_alone(*arguments, settings.rounds)
                record, evaluation = jax.tree.map(
                    lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), jax.eval_shape(go_on)[1:]
                )
            else:
                state, record, evaluation = go_on()
            # Of all evaluations but one the answers end here: they are the largest part.
            rows = None
            if choosing is not None and bound.select == "validation":
                rows = choosing[1].size
            counted = _counted(evaluation, rows)
            if bound.save_models:  # of the segment's end, where its evaluation is
                models = simulation.models_of(state, federation.algorithm)[:number]
                counted = counted._replace(models=(state.server, models))
            outputs = record, evaluation._replace(answers=None), counted
            return settled(state), *layout_lib.keep_whole(outputs, mesh)

        return grid.runs(one, jax.vmap(jax.random.key)(seeds), hyper, *shared, carry=state)

    def in_order(
        record: Record, evaluation: Evaluation, counted: Counted
    ) -> tuple[Record, Evaluation, Counted]:
        record = jax.tree.map(lambda x: x[..., places], record)
        if counted.models is not None:
            server, models = counted.models
            counted = counted._replace(models=(server, models[..., places, :]))
        if task.chosen is None:
            fields = {name: getattr(evaluation, name) for name in simulation.PER_CLIENT}
            evaluation = evaluation._replace(**jax.tree.map(lambda x: x[..., places], fields))
            answers = jax.tree.map(lambda x: x[..., places, :], counted.answers)
            counted = counted._replace(answers=answers)
        return record, evaluation, counted

    # The numbers stay off the mesh: rules and trainers close over them (see `layout.over_clients`).
    hyper = jax.tree.map(lambda x: np.full(1, x, np.float32), bound.hyper)
    return Programs(
        origin, begin, segment, hyper, shared, in_order, origin_code=("origin", task.model)
    )


def batch_of(bound: Bound) -> Batch:
    """The runs of one method on one draw of a partition: all seeds."""

    def chunk(seeds: tuple[int, ...]) -> Chunk:
        numbers = jax.tree.map(lambda x: np.full(len(seeds), x, np.float32), bound.hyper)
        return Chunk(np.asarray(seeds, np.uint32), numbers)

    return Batch(
        build=lambda: programs(bound)._replace(code=_code(bound)),
        chunks=tuple(map(chunk, _together(bound))),
        segments=budget.segments_of(bound),
    )


def _code(bound: Bound) -> Any:
    """What decides the code of a method's programs, within a config, besides shapes."""
    task = bound.task
    return bound.rules, (*bound.hyper,), bound.laid_out(), task.model, task.attacks


def cell_of(bound: Bound, seen: Sequence[Seen]) -> frames.Cell:
    """What the chunks of a method recorded, as the results keep it."""
    record, evaluation, counted = jax.tree.map(lambda *x: np.concatenate(x), *seen)
    task = bound.task
    own = task.clients.own_mask
    return frames.Cell(
        partition=task.partition,
        method=bound.name,
        seeds=bound.seeds,
        sizes=task.sizes,
        classes=task.classes,
        num_parameters=sum(task.tensors),
        messages=bound.messages,
        record=record,
        evaluation=evaluation,
        evaluated=task.chosen,
        cheats=task.cheats,
        owners=task.owners,
        partition_seed=task.partition_seed,
        held=partition_lib.holdings(task.clients, task.data.labels),
        answers=None if counted is None else counted.answers,
        counts=which_counts(bound.select, evaluation, counted),
        stopped=execute.stopped(record, evaluation),
        models=None if counted is None else counted.models,
        own_rows=None if own is None else np.asarray(own).sum(axis=1),
        oracle=bound.needs.alone,
        work=None if record.work is None else _multiplications(bound),
    )


def _multiplications(bound: Bound) -> int | None:
    """By a parameter, of the whole model per example."""
    units = bound.task.model.units
    return None if units is None else int(np.sum(units().times, dtype=np.int64))


def which_counts(select: str, evaluation: Evaluation, counted: Counted | None) -> np.ndarray | None:
    """The evaluation of every run that validation rows chose, [R] from 0; None: it is the last."""
    if select == "last" or counted is None:
        return None
    return np.argmax(np.asarray(evaluation.round) == np.asarray(counted.round)[:, None], axis=1)


def _counted(evaluation: Evaluation, rows: int | None) -> Counted:
    """The evaluation of a segment that counts; its clients in the order of the matrices' rows.

    Args:
      evaluation: of the segment, leaves [K, ...].
      rows: validation rows that choose it; None: it is the last.
    """
    if not evaluation.round.size:  # no other counts less
        answers = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), evaluation.answers)
        return Counted(jnp.int32(-1), jnp.int32(0), answers)
    if rows is None:
        scores, place = evaluation.round, -1
    else:
        # Rows that all clients have right: whole numbers tie where means of floats may not, and are
        # the same in whatever program they are added up.
        right = jnp.round(jnp.asarray(evaluation.validation_accuracy) * rows)
        scores = jnp.sum(right.astype(jnp.int32), axis=-1)
        place = jnp.argmax(scores)
    answers = jax.tree.map(lambda x: x[place], evaluation.answers)
    return Counted(scores[place], evaluation.round[place], answers)


def _together(bound: Bound) -> list[tuple[int, ...]]:
    """The seeds in groups, each of which is one program.

    On a CPU width does not pay, and over several devices the clients already fill them: there one
    after another, so that one state is in memory at a time. Elsewhere all at once if their matrices
    take half of the memory.
    """
    if jax.default_backend() != "cpu" and bound.settings.mesh is None:
        each = sum(memory.size for memory in budget.memory_of(bound))
        if 2 * each * len(bound.seeds) <= hardware.memory():
            return [bound.seeds]
    return [(seed,) for seed in bound.seeds]
