"""Experiments from Python: a configuration in, arrays and a run directory out.

>>> from cgsv_jax import experiment
>>> config = experiment.configure(clients=3, algorithms="cgsv", rounds=2, seeds=1)
>>> experiment.run(config).cells[0].record.quota.shape  # seeds, rounds, clients
(1, 2, 3)
"""

import importlib
from typing import TYPE_CHECKING, Any

from cgsv_jax.core import deprecated

if TYPE_CHECKING:
    from cgsv_jax.experiment.comparing import compare
    from cgsv_jax.experiment.deal import again, given, tasks
    from cgsv_jax.experiment.names import configure, read
    from cgsv_jax.experiment.running import Progress, Result, run, save

__all__ = [
    "Progress",
    "Result",
    "again",
    "compare",
    "configure",
    "given",
    "read",
    "run",
    "save",
    "tasks",
]

# Where they are. What computes and writes is loaded by whoever asks for it, and not where only
# another module of this folder is needed.
_MODULES = {
    **dict.fromkeys(("again", "given", "tasks"), "deal"),
    "compare": "comparing",
    **dict.fromkeys(("configure", "read"), "names"),
    **dict.fromkeys(("Progress", "Result", "run", "save"), "running"),
}
_former = deprecated.names(__name__, {"problems": "cgsv_jax.experiment.tasks"}, within=1)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        return _former(name)
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
