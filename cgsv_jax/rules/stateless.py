"""Rules without memory, written as the one function that they are."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from cgsv_jax.types import Aggregation, ArrayTree, Contribution, Needs, Reputation, Reward

Rule = TypeVar("Rule", Contribution, Reputation, Aggregation, Reward)

# What `update` is given, but for the state.
_GIVEN: dict[Any, tuple[str, ...]] = {
    Contribution: ("key", "upload", "aggregate", "weights"),
    Reputation: ("key", "upload", "aggregate", "weights", "standing"),
    Aggregation: ("key", "upload", "standing"),
    Reward: ("key", "upload", "aggregate", "standing"),
}
_OF_ENERGY = ("upload", "aggregate", "standing", "quota")


def stateless(
    kind: type[Rule],
    compute: Callable[..., Any],
    *,
    energy: Callable[..., Any] | None = None,
    needs: Needs | None = None,
) -> Rule:
    """A rule of a function whose arguments are named after those of `update` that it reads.

    Args:
      kind: Contribution, Reputation, Aggregation or Reward.
      compute: what `update` gives but the state: a score [N]; a Standing; u_N [D] and weights [N];
        rewards [N, D] and quota [N].
      energy: of a Reward, see there; its arguments by name too.
      needs: see `Needs`.

    Raises:
      ValueError: a function has an argument that `update` has not.

    >>> rule = stateless(Contribution, lambda upload: upload.norms)
    >>> rule.init(3, 8)
    ()
    """
    computed = _by_name(compute, _GIVEN[kind])
    several = kind in (Aggregation, Reward)

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients, num_parameters
        return ()

    def update(*given: Any) -> tuple[Any, ...]:
        *arguments, state = given
        made = computed(*arguments)
        return (*made, state) if several else (made, state)

    more: dict[str, Any] = {} if needs is None else {"needs": needs}
    if energy is not None:
        more["energy"] = _by_name(energy, _OF_ENERGY)
    return kind(init, update, **more)


def _by_name(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """The function of all these arguments, of which it is given those that it names."""
    read = tuple(inspect.signature(function).parameters)
    unknown = [name for name in read if name not in names]
    if unknown:
        raise ValueError(f"a rule reads {', '.join(unknown)}, it may read {', '.join(names)}")
    places = [names.index(name) for name in read]
    return lambda *given: function(*(given[place] for place in places))
