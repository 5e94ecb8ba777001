"""What is kept of a run, and how it is shown."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgsv_jax.results.saved import models

__all__ = ["models"]


def __getattr__(name: str) -> Any:
    if name != "models":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.saved").models
