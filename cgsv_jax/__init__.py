"""Fair collaborative learning in JAX: the cosine gradient Shapley value, clients as rows.

The parts: `models` and `data` on one side, `cgsv`, `fedavg`, `standalone` and `compose` on the
other, `trainer` for local epochs, `participation` and `attacks` for who takes part and who cheats,
`run` for a whole federation and `grid` for many of them. `compare` is the same with defaults, seeds
and results, `cgsv_jax.experiment` what it is made of; the command is built on it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cgsv_jax import data, models
from cgsv_jax.core import attacks, deprecated, participation
from cgsv_jax.core.checks import check
from cgsv_jax.core.grid import grid
from cgsv_jax.core.local import decayed, draw_order, epochs_for, trainer
from cgsv_jax.core.metrics import fairness, pearson
from cgsv_jax.core.simulation import advance, evaluate, init, params_of, round_, run
from cgsv_jax.core.uncertainty import fairness_interval
from cgsv_jax.data import partition
from cgsv_jax.rules import aggregation, contribution, reputation, reward
from cgsv_jax.rules import compose as _compose
from cgsv_jax.rules import methods as _methods
from cgsv_jax.rules.methods import METHODS, cgsv_released, fedavg, standalone
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import (
    Aggregation,
    Algorithm,
    Answers,
    Clients,
    Contribution,
    Dataset,
    Download,
    Evaluation,
    Examples,
    Federation,
    Hyper,
    Local,
    Model,
    Needs,
    Record,
    Reputation,
    Reward,
    Settings,
    Standing,
    State,
    Trainer,
    Units,
    Upload,
)

if TYPE_CHECKING:
    from cgsv_jax.experiment import callbacks, compare, tracking

__version__ = "0.1.0"

compose = deprecated.arguments(_compose.compose, contribution="reputation")
cgsv = deprecated.arguments(_methods.cgsv, measure="contribution")
_former = deprecated.names(__name__, {"Measure": "cgsv_jax.Contribution"}, within=1)


def __getattr__(name: str) -> Any:
    # Tables and what writes them are loaded by whoever compares.
    if name == "compare":
        return importlib.import_module("cgsv_jax.experiment").compare
    if name in ("callbacks", "tracking"):
        return importlib.import_module(f"cgsv_jax.experiment.{name}")
    return _former(name)


__all__ = [
    "METHODS",
    "Aggregation",
    "Algorithm",
    "Answers",
    "Clients",
    "Contribution",
    "Dataset",
    "Download",
    "Evaluation",
    "Examples",
    "Federation",
    "Hyper",
    "Local",
    "Model",
    "Needs",
    "Record",
    "Reputation",
    "Reward",
    "Settings",
    "Standing",
    "State",
    "Trainer",
    "Units",
    "Upload",
    "advance",
    "aggregation",
    "attacks",
    "callbacks",
    "cgsv",
    "cgsv_released",
    "check",
    "compare",
    "compose",
    "contribution",
    "data",
    "decayed",
    "draw_order",
    "epochs_for",
    "evaluate",
    "fairness",
    "fairness_interval",
    "fedavg",
    "grid",
    "init",
    "models",
    "params_of",
    "participation",
    "partition",
    "pearson",
    "reputation",
    "reward",
    "round_",
    "run",
    "standalone",
    "stateless",
    "tracking",
    "trainer",
]
