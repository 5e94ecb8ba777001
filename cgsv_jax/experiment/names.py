"""The names that an experiment may use, and the configuration made of them."""

import functools
from typing import Any

import jax
import optax

from cgsv_jax import data as data_lib
from cgsv_jax import models
from cgsv_jax.config import resolve, schema
from cgsv_jax.config.schema import Config
from cgsv_jax.core import attacks, local
from cgsv_jax.data import partition as partition_lib
from cgsv_jax.rules.aggregation import AGGREGATIONS
from cgsv_jax.rules.contribution import CONTRIBUTIONS, GAMES
from cgsv_jax.rules.methods import METHODS
from cgsv_jax.rules.reward import REWARDS

# name -> learning rate -> optax transformation
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}

TABLES = schema.Tables(
    datasets=data_lib.DATASETS,
    models=models.MODELS,
    partitions=partition_lib.PARTITIONS,
    algorithms=METHODS,
    contributions=CONTRIBUTIONS,
    aggregations=AGGREGATIONS,
    rewards=REWARDS,
    optimizers=OPTIMIZERS,
    precisions=local.PRECISIONS,
    convs=models.FORMS,
    games=GAMES,
    attacks=attacks.ATTACKS,
    label_attacks=attacks.LABELS,
)


def configure(**asked: Any) -> Config:
    """A complete configuration; see `config.resolve` for the names.

    >>> configure(dataset="digits", clients=5, algorithms=["cgsv"], beta=2.0).methods[0].beta
    2.0
    """
    if asked.get("devices") is None:
        asked["devices"] = jax.device_count()
    return resolve.resolve(TABLES, jax.default_backend(), **asked)
