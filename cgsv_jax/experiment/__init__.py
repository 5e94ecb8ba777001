"""Experiments from Python: a configuration in, arrays and a run directory out.

>>> from cgsv_jax import experiment
>>> config = experiment.configure(clients=3, algorithms="cgsv", rounds=2, seeds=1)
>>> experiment.run(config).cells[0].record.quota.shape  # seeds, rounds, clients
(1, 2, 3)
"""

from cgsv_jax.core import deprecated
from cgsv_jax.experiment.deal import given, tasks
from cgsv_jax.experiment.names import configure
from cgsv_jax.experiment.running import Progress, Result, run, save

__getattr__ = deprecated.names(__name__, {"problems": "cgsv_jax.experiment.tasks"})

__all__ = ["Progress", "Result", "configure", "given", "run", "save", "tasks"]
