"""Gains along orders that end early: what truncated samplings share."""

import jax
import jax.numpy as jnp

from cgsv_jax.rules.contribution import games
from cgsv_jax.types import Array


def gains(
    value: games.Value, ranks: Array, nobody: Array, everybody: Array, tolerance: Array | float
) -> tuple[Array, Array]:
    """nu(predecessors and i) - nu(predecessors) of every client in every order, [P, N].

    An order is truncated at the first prefix with |nu(everybody) - nu(prefix)| < tolerance: the
    clients that follow gain 0. All orders advance by one client together, their prefixes in one
    call of `value`, until the last of them is truncated: those truncated before are looked at and
    ignored. So the gains are those of orders walked one by one, and the number of evaluations is P
    times the length of the longest walk.

    Args:
      value: nu.
      ranks: [P, N] the place of every client in every order, from 0.
      nobody: [] nu of the empty coalition.
      everybody: [] nu of the grand one, which is not evaluated again.
      tolerance: [] 0 truncates nothing.

    Returns:
      The gains [P, N], and how many prefixes of each order were looked at, [] int32.
    """
    orders, players = ranks.shape
    places = jnp.arange(players + 1)

    def goes_on(seen: Array) -> Array:
        return jnp.abs(everybody - seen) >= tolerance  # [P]

    def unfinished(carry: tuple[jax.Array, jax.Array]) -> Array:
        length, path = carry
        return (length < players) & jnp.any(goes_on(path[:, -1]))

    def advance(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        length, path = carry
        old = path[:, -1]
        new = jnp.where(goes_on(old), value(ranks < length), old)
        # From here on as if nothing followed: what a truncated order keeps.
        return length + 1, jnp.where((places >= length)[None, :], new[:, None], path)

    path = jnp.broadcast_to(nobody, (orders, players + 1))
    length, path = jax.lax.while_loop(unfinished, advance, (jnp.int32(1), path))
    last = jnp.where(goes_on(path[:, -1]), everybody, path[:, -1])
    path = path.at[:, -1].set(last)
    return jnp.take_along_axis(jnp.diff(path, axis=1), ranks, axis=1), length - 1
