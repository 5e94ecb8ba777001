"""What all methods of one partition share."""

from typing import NamedTuple, TypedDict

import numpy as np

from cgsv_jax import data as data_lib
from cgsv_jax.config import schema
from cgsv_jax.config.schema import Config
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
    attendance: np.ndarray | None = None  # [T, C] who takes part in which round, if that is given
    identity: DataIdentity | None = None  # of the data as a config named them; None: of one's own
    own_model: bool = False  # whether the model was given too, and is not the config's
    owners: tuple[str, ...] = ()  # [N] whose rows a client holds; (): nobody's by name


def counts_of(config: Config) -> tuple[int, int]:
    """Clients of a run, those that one poses as included, and how many of them are evaluated."""
    asked = map(schema.attacking, config.attacks)
    number = config.clients + sum(x.count - 1 for x in asked if x.name == attacks.REPLICATION)
    return number, min(number, config.eval_clients or number)
