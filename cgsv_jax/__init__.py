"""Fair collaborative learning in JAX: the cosine gradient Shapley value, clients as rows.

The parts: `models` and `data` on one side, `cgsv`, `fedavg`, `standalone` and `compose` on the
other, `trainer` for local epochs, `participation` and `attacks` for who takes part and who cheats,
`run` for a whole federation and `grid` for many of them. `cgsv_jax.experiment` is the same with
defaults, partitions and results; the command is built on it.
"""

from cgsv_jax import aggregation, attacks, contribution, data, models, participation, reward
from cgsv_jax.algorithms import ALGORITHMS, cgsv, cgsv_released, compose, fedavg, standalone
from cgsv_jax.checks import check
from cgsv_jax.data import partition
from cgsv_jax.local import decayed, draw_order, trainer
from cgsv_jax.metrics import fairness, pearson
from cgsv_jax.simulation import advance, evaluate, init, round_, run
from cgsv_jax.sweep import grid
from cgsv_jax.types import (
    Aggregation,
    Algorithm,
    Clients,
    Contribution,
    Dataset,
    Download,
    Evaluation,
    Examples,
    Hyper,
    Measure,
    Model,
    Needs,
    Options,
    Record,
    Reward,
    Settings,
    Standing,
    State,
    Trainer,
    Upload,
)
from cgsv_jax.uncertainty import fairness_interval

__version__ = "0.1.0"

__all__ = [
    "ALGORITHMS",
    "Aggregation",
    "Algorithm",
    "Clients",
    "Contribution",
    "Dataset",
    "Download",
    "Evaluation",
    "Examples",
    "Hyper",
    "Measure",
    "Model",
    "Needs",
    "Options",
    "Record",
    "Reward",
    "Settings",
    "Standing",
    "State",
    "Trainer",
    "Upload",
    "advance",
    "aggregation",
    "attacks",
    "cgsv",
    "cgsv_released",
    "check",
    "compose",
    "contribution",
    "data",
    "decayed",
    "draw_order",
    "evaluate",
    "fairness",
    "fairness_interval",
    "fedavg",
    "grid",
    "init",
    "models",
    "participation",
    "partition",
    "pearson",
    "reward",
    "round_",
    "run",
    "standalone",
    "trainer",
]
