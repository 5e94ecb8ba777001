"""The functions that a configuration means."""

import jax
import numpy as np

from cgsv_jax.config import schema
from cgsv_jax.config.schema import Config, ConfigError, Method
from cgsv_jax.core import attacks, local, participation
from cgsv_jax.core import layout as layout_lib
from cgsv_jax.core.participation import Participation
from cgsv_jax.experiment import budget
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.experiment.task import Task
from cgsv_jax.results import frames
from cgsv_jax.rules.methods import ALGORITHMS, STAGED
from cgsv_jax.types import (
    Algorithm,
    Dataset,
    Hyper,
    Model,
    Needs,
    Network,
    Options,
    Settings,
    Trainer,
)


def forged_uploads(config: Config, method: Method) -> attacks.Attack | None:
    """What cheating clients upload in a method; None where all uploads are honest.

    The yardstick has no server to deceive: its clients cheat at most with their labels.
    """
    names = [schema.attacking(text).name for text in config.attacks]
    names = [name for name in names if name in attacks.UPLOADS]
    return attacks.attack(names) if names and method.algorithm != frames.YARDSTICK else None


def participation_of(
    config: Config, method: Method, task: Task, hyper: Hyper
) -> Participation | None:
    """Who takes part; None: everybody who has joined. The yardstick trains in the same rounds."""
    dropout = hyper.dropout if method.dropout > 0 else 0.0
    if task.attendance is not None:
        return participation.given(task.attendance, dropout)
    if config.cohort is None:
        return participation.everybody(dropout) if method.dropout > 0 else None
    drawn = {
        "uniform": participation.uniform,
        "reputation": participation.by_reputation,
    }[config.cohort_by]
    return drawn(config.cohort, dropout)


def options_of(config: Config, method: Method, task: Task) -> Options:
    """The choices of rule of a method on a task."""
    return method.options(tensors=task.tensors, rounds=config.rounds, network=task.network)


# What rules are made of where they are asked what they need, and compute nothing.
_ANY_NETWORK = Network(lambda weights, inputs, labels: None, lambda: np.zeros((1, 1), np.int32))


def needs_of(config: Config, method: Method) -> Needs:
    """What the rules of a method need and cost, as they say themselves."""
    options = method.options(tensors=(1,), rounds=config.rounds, network=_ANY_NETWORK)
    return ALGORITHMS[method.algorithm](method.hyper(), options).needs


def rounds_of(config: Config, method: Method) -> int:
    """Rounds of a method: T, those of its second stage, and those alone before, if it has them."""
    alone = needs_of(config, method).alone
    staged = method.finetune_rounds if method.algorithm in STAGED else 0
    return config.rounds * (1 + alone) + staged


def data_of(config: Config, method: Method, task: Task) -> Dataset:
    """The data as a method's programs are given them: validation rows only to whom they serve."""
    if needs_of(config, method).rows:
        return task.data
    return task.data._replace(validation=None)


def settings_of(config: Config, method: Method, task: Task) -> Settings:
    """`settings`, and what the method's uploads must carry."""
    needs = needs_of(config, method)
    return settings(config, task)._replace(start_loss=needs.start_loss, alone=needs.alone)


def parts(
    config: Config, method: Method, task: Task, hyper: Hyper
) -> dict[str, Model | Algorithm | Trainer]:
    """Model, algorithm and trainer of a method; the numbers of `hyper` may be traced."""
    schedule = local.decayed(
        hyper.learning_rate, hyper.decay, per=method.decay_per, epochs=config.epochs
    )
    optimizer = names_lib.OPTIMIZERS[method.optimizer]
    again = method.algorithm in STAGED and method.finetune_optimizer == "new"
    return {
        "model": task.model,
        "algorithm": ALGORITHMS[method.algorithm](hyper, options_of(config, method, task)),
        "trainer": local.trainer(
            task.model,
            optimizer,
            schedule,
            batch_size=config.batch_size,
            precision=config.precision,
            restart=method.optimizer_state == "restart",
            afresh=config.rounds if again else None,
        ),
    }


def steps(config: Config, task: Task) -> np.ndarray:
    """Mini-batch steps of each client in a round, [N]."""
    batch = min(config.batch_size, task.clients.mask.shape[1])
    return config.epochs * -(-task.sizes // batch)


def settings(config: Config, task: Task) -> Settings:
    """The static settings of a run.

    Raises:
      ConfigError: more devices are asked for than there are.
    """
    mesh = layout_lib.mesh_of(devices(config))
    width = eval_width = width_asked(config.layout)
    if config.layout == "balanced":
        width = layout_lib.balanced_width(
            steps(config, task), most=budget.fitting(config, task, True)
        )
    if eval_width is None:
        eval_width = budget.fitting(config, task, False)
    return Settings(
        rounds=config.rounds,
        epochs=config.epochs,
        eval_every=config.eval_every,
        eval_batch=config.eval_batch,
        width=width,
        eval_width=eval_width,
        mesh=mesh,
    )


def devices(config: Config) -> list[jax.Device]:
    """The devices that share the clients.

    Raises:
      ConfigError: more of them are asked for than there are.
    """
    available = jax.devices()
    if config.devices > len(available):
        raise ConfigError(
            f"--devices is {config.devices}, it must be at most {len(available)}, what there is"
        )
    if jax.process_count() > 1 and config.devices < len(available):
        raise ConfigError(
            f"--devices is {config.devices}, it must be {len(available)}: "
            f"each of the {jax.process_count()} processes takes part with all it has"
        )
    wanted = config.devices if jax.process_count() > 1 else min(config.devices, config.clients)
    return available[:wanted]


def width_asked(layout: str) -> int | None:
    """Clients computed together where the layout is a number of them; None: as many as fit."""
    if layout == "one":
        return 1
    return int(layout) if layout.isdigit() else None
