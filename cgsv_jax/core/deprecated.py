"""Names of the version before: they work for this one, and say what they are called now."""

import functools
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def names(module: str, new_of: Mapping[str, str], within: int = 0) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that it no longer has.

    Args:
      module: its own name.
      new_of: old name -> dotted public name, looked up when it is asked for: the module may lie
        below the one that it names.
      within: how many functions stand between this one and whoever asks, whose line is named.

    >>> names("here", {"PRNGKey": "jax.random.key"})("key")
    Traceback (most recent call last):
    AttributeError: module 'here' has no attribute 'key'
    """

    def get(name: str) -> Any:
        if name not in new_of:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", new_of[name], within)
        return pkgutil.resolve_name(new_of[name])

    return get


def arguments(function: Callable[P, R], **new_of: str) -> Callable[P, R]:
    """The function, which also takes some arguments by the keywords that they had.

    >>> with warnings.catch_warnings(action="ignore"):
    ...     arguments(lambda new: new, old="new")(old=3)
    3
    """

    @functools.wraps(function)
    def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in [name for name in kwargs if name in new_of]:
            if (new := new_of[name]) in kwargs:
                raise TypeError(f"{function.__name__} is given {new} twice, once as {name}")
            _warn(f"{name} of {function.__name__}", new)
            kwargs[new] = kwargs.pop(name)
        return function(*args, **kwargs)

    return renamed


def _warn(old: str, new: str, within: int = 0) -> None:
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3 + within)
