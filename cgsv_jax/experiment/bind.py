"""A configuration becomes functions, shapes and arrays here; nobody asks it anything afterwards."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cgsv_jax.config.schema import Config, ConfigError, Method
from cgsv_jax.core import attacks, local, metrics, participation
from cgsv_jax.core import layout as layout_lib
from cgsv_jax.experiment import hardware
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.experiment.task import Flags, Task, counts_of, flags_of, width_asked
from cgsv_jax.results import frames
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.types import (
    Algorithm,
    Array,
    Attack,
    Dataset,
    Federation,
    Hyper,
    Needs,
    Network,
    Participation,
    Settings,
    Trainer,
    Units,
)

# Answers of a run's clients that are kept, five bytes each: of ten clients on 10,000 test rows it
# is 100,000. Where there are more a run keeps none, since they travel with every checkpoint.
MOST_ANSWERS = 2**23
_MOST = 2**31 - 1  # right answers on validation rows, which choose a round as an int32


class Bound(NamedTuple):
    """A method on a task, as functions, shapes and arrays."""

    name: str  # of the method, as asked for
    rules: tuple  # what the method is, but for its numbers: methods with equal ones share programs
    task: Task
    seeds: tuple[int, ...]
    hyper: Hyper  # the method's numbers on this task
    needs: Needs
    algorithm: Callable[[Hyper], Algorithm]  # of numbers that may be traced, as the next two
    trainer: Callable[[Hyper], Trainer]
    participation: Callable[[Hyper], Participation | None]
    attack: Attack | None
    settings: Settings  # without widths that follow from the memory, see `laid_out`
    widths: Callable[[], tuple[int | None, int | None]]  # of training and evaluation
    rounds: int  # T, those alone before, and those of a second stage
    batch: int  # rows of a training step, at most
    steps: np.ndarray  # [N] mini-batch steps of each client in a round
    num_clients: int  # N, those that one poses as included
    evaluated: int  # of these
    select: str  # which evaluation counts: the last, or the best on validation rows
    patience: int | None  # evaluations without a better one on validation rows that end a run
    patient_from: int  # the round from which these are counted
    save_models: bool  # whether the models of that evaluation are kept
    cohort: int  # clients of a round, at most
    checkpoint_every: int | None  # rounds
    flags: Flags  # that decide N and D

    def laid_out(self) -> Settings:
        """The settings with their widths; a batch is compiled where these follow from memory."""
        width, eval_width = self.widths()
        return self.settings._replace(width=width, eval_width=eval_width)

    def federation(self, hyper: Hyper) -> Federation:
        """All of a run with these numbers, which may be traced."""
        return Federation(
            self.task.model,
            self.trainer(hyper),
            self.algorithm(hyper),
            self.laid_out(),
            self.participation(hyper),
            self.attack,
        )

    @property
    def data(self) -> Dataset:
        """The data as the programs read them: validation rows only if the method needs them."""
        return self.task.data if self.needs.rows else self.task.data._replace(validation=None)

    @property
    def messages(self) -> metrics.Messages:
        """What a client of the method sends in a round, and is sent beside its reward."""
        return metrics.messages(self.algorithm(self.hyper), sum(self.task.tensors))

    @property
    def choosing(self) -> tuple[Array, Array] | None:
        """Validation rows that choose the evaluation that counts, or end a run early.

        The method never sees them.
        """
        judges = self.select == "validation" or self.patience is not None
        return self.task.data.validation if judges else None


def bind(config: Config, method: Method, task: Task) -> Bound:
    """What a configuration means for one of its methods on one task; nothing is computed.

    Raises:
      ConfigError: more devices are asked for than there are.
      ValueError: a rule refuses its numbers or the model.
    """
    needs = needs_of(config, method)
    number, evaluated = counts_of(config)
    given = {"network": task.network, "tensors": task.tensors, "rounds": config.rounds}
    batch = min(config.batch_size, task.clients.mask.shape[1])
    epochs = epochs_of(config, task)
    steps = epochs * -(-task.sizes // batch)
    if config.local_steps is not None:
        steps = np.minimum(steps, config.local_steps)
    asked = width_asked(config.layout)
    settings = Settings(
        rounds=config.rounds,
        epochs=epochs,
        eval_every=config.eval_every,
        eval_batch=config.eval_batch,
        width=1 if config.layout == "balanced" else asked,
        eval_width=asked,
        mesh=layout_lib.mesh_of(hardware.devices(config)),
        start_loss=needs.start_loss,
        losses=needs.losses,
        alone=needs.alone,
        alone_on_test=needs.alone_on_test,
        answers=keeps_answers(config, task),
    )

    def trainer(hyper: Hyper) -> Trainer:
        schedule = local.decayed(
            hyper["learning_rate"], hyper["decay"], per=method.decay_per, epochs=epochs
        )
        return local.trainer(
            task.model,
            names_lib.OPTIMIZERS[method.optimizer],
            schedule,
            batch_size=config.batch_size,
            precision=config.precision,
            restart=method.get("optimizer_state") == "restart",
            afresh=config.rounds if needs.afresh else None,
            steps=config.local_steps,
        )

    def who(hyper: Hyper) -> Participation | None:
        dropout = hyper.get("dropout", 0.0)  # not there where it is 0
        if task.attendance is not None:
            return participation.given(task.attendance, dropout)
        if config.cohort is None:
            return participation.everybody(dropout) if method.dropout > 0 else None
        draws = {"uniform": participation.uniform, "reputation": participation.by_reputation}
        return draws[config.cohort_by](config.cohort, dropout)

    @functools.cache
    def widths() -> tuple[int | None, int | None]:
        def fitting(rows: int, training: bool) -> int:
            inputs = task.data.inputs
            shape = (min(rows, len(inputs)), *inputs.shape[1:])
            inputs = jax.ShapeDtypeStruct(shape, inputs.dtype)
            return hardware.fitting(task.model, inputs, len(task.sizes), training)

        width = asked
        if config.layout == "balanced":
            width = layout_lib.balanced_width(steps, most=fitting(batch, True))
        return width, asked or fitting(config.eval_batch, False)

    # The standalone baseline has no server to deceive: its clients cheat at most with their labels.
    uploads = [attack.name for attack in task.attacks if attack.name in attacks.UPLOADS]
    deceived = uploads and method.algorithm != frames.YARDSTICK
    listed = None if task.attendance is None else task.attendance.shape[1]
    bound = Bound(
        name=method.name,
        rules=(method.algorithm, *method.words().items()),
        task=task,
        seeds=config.seeds,
        hyper=method.hyper(task.partition),
        needs=needs,
        algorithm=lambda hyper: algorithm_of(config, method, hyper, given),
        trainer=trainer,
        participation=who,
        attack=attacks.attack(uploads, settings.epochs) if deceived else None,
        settings=settings,
        widths=widths,
        rounds=rounds_of(config, method),
        batch=batch,
        steps=steps,
        num_clients=number,
        evaluated=evaluated,
        select=config.select,
        patience=config.patience,
        patient_from=config.rounds if needs.more_rounds else 0,
        save_models=config.save_models,
        cohort=listed or config.cohort or number,
        checkpoint_every=config.checkpoint_every,
        flags=flags_of(config),
    )
    held = 0 if bound.choosing is None else len(bound.choosing[1])
    if evaluated * held > _MOST:
        raise ConfigError(
            f"--eval-clients is {evaluated:,}, it must be {_MOST // held:,} at most where {held:,} "
            "validation rows choose a round"
        )
    return bound


def epochs_of(config: Config, task: Task) -> int:
    """E: as many as asked for, or as the client needs that goes through its rows most often."""
    if config.local_steps is None:
        return config.epochs
    return local.epochs_for(config.local_steps, task.sizes, config.batch_size)


def keeps_answers(config: Config, task: Task) -> bool:
    """Whether the answers of the evaluated clients to all test examples are few enough to keep."""
    return counts_of(config)[1] * len(task.data.test_labels) <= MOST_ANSWERS


def algorithm_of(
    config: Config, method: Method, hyper: Hyper, given: Mapping[str, Any]
) -> Algorithm:
    """The algorithm of a method.

    Args:
      config: it knows which names there are.
      method: its words; its numbers are those of `hyper`.
      hyper: numbers, which may be traced.
      given: what rules are told by the experiment: network, tensors and rounds.
    """
    tables = config.tables
    return spec_lib.made(
        tables.algorithms[method.algorithm], method.words() | hyper, given, tables.parts
    )


_ZERO = np.zeros(1, np.int32)
# What rules are made of where they are asked what they need, and compute nothing.
_ANY_NETWORK = Network(
    lambda weights, *_: (weights, weights),
    lambda: np.zeros((1, 1), np.int32),
    lambda weights, *_: weights,
    lambda: Units(_ZERO, _ZERO, _ZERO, (1,), incoming=True),
    lambda: tuple(((place, place + 1),) for place in range(101)),  # more than any rule asks for
)


def needs_of(config: Config, method: Method) -> Needs:
    """What the rules of a method need and cost, as they say themselves."""
    given = {"network": _ANY_NETWORK, "tensors": (1,), "rounds": config.rounds}
    return algorithm_of(config, method, method.hyper(), given).needs


def rounds_of(config: Config, method: Method) -> int:
    """Rounds of a method: T, those of its second stage, and those alone before, if it has them."""
    needs = needs_of(config, method)
    return config.rounds * (1 + needs.alone) + needs.more_rounds


def runs_of_each(config: Config) -> int:
    """Runs of a method: its seeds on every draw of every partition."""
    return len(config.partitions) * len(config.draws) * len(config.seeds)
