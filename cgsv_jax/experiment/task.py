"""What all methods of one partition share."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

from cgsv_jax import data as data_lib
from cgsv_jax.config import schema
from cgsv_jax.config.schema import Attacking, Config
from cgsv_jax.core import attacks
from cgsv_jax.types import Clients, Dataset, Model, Network


class DataIdentity(TypedDict):
    """Which data were meant, by content; environment.json holds it as `data`."""

    sets: dict[str, data_lib.Identity]  # of all that a sweep reads
    files: dict[str, str]  # field of `config.FILES` -> SHA-256 of its bytes


class Task(NamedTuple):
    """What all methods of one partition share."""

    partition: str
    data: Dataset  # the pool of training rows, the test set, the server's validation rows
    clients: Clients
    sizes: np.ndarray  # [N] rows held
    classes: np.ndarray  # [N] distinct labels held
    model: Model
    tensors: tuple[int, ...]
    network: Network  # the model, as rules see it
    chosen: np.ndarray | None  # [K] the clients that are evaluated; None: all
    cheats: tuple[str, ...] = ()  # [N] every client's attack, "" where honest; (): all are
    attacks: tuple[Attacking, ...] = ()  # as asked for
    attendance: np.ndarray | None = None  # [T, C] who takes part in which round, if that is given
    identity: DataIdentity | None = None  # of the data as a config named them; None: of one's own
    own_model: bool = False  # whether the model was given too, and is not the config's
    owners: tuple[str, ...] = ()  # [N] whose rows a client holds; (): nobody's by name
    partition_seed: int = 0  # with which all this was drawn
    recipe: Mapping[str, Any] | None = None  # how the config's model is built; None: it was given

    @property
    def validation_rows(self) -> int:
        """How many the server holds."""
        return 0 if self.data.validation is None else len(self.data.validation[1])

    def __repr__(self) -> str:
        """A line: arrays are many, and large."""
        number, shape = len(self.sizes), list(self.data.inputs.shape)
        held, test = f"{self.data.inputs.dtype} {shape}", len(self.data.test_labels)
        return (
            f"Task({self.partition}: {number} clients of inputs {held}, {test} test examples, "
            f"{sum(self.tensors):,} parameters)"
        )


class Flags(NamedTuple):
    """The flags that decide a shape, for sentences about what does not fit."""

    clients: tuple[str, ...]  # N
    model: tuple[str, ...]  # D


def attacks_of(config: Config) -> tuple[Attacking, ...]:
    """What some clients do, as asked for."""
    return tuple(map(schema.attacking, config.attacks))


def counts_of(config: Config) -> tuple[int, int]:
    """Clients of a run, those that one poses as included, and how many of them are evaluated."""
    copies = (x.count - 1 for x in attacks_of(config) if x.name == attacks.REPLICATION)
    number = config.clients + sum(copies)
    return number, min(number, config.eval_clients or number)


def flags_of(config: Config) -> Flags:
    """Which flags decide N and D."""
    number, _ = counts_of(config)
    return Flags(
        ("--clients", "--attack") if number > config.clients else ("--clients",),
        ("--hidden",) if config.model == "mlp" else ("--model",),
    )


def width_asked(layout: str) -> int | None:
    """Clients computed together where the layout is a number of them; None: as many as fit."""
    if layout == "one":
        return 1
    return int(layout) if layout.isdigit() else None
