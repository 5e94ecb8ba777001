"""What is lost when one client stays away."""

import jax
import jax.numpy as jnp

from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, Contribution


def without_one(value: games.Value, players: int) -> Array:
    """phi_i = nu(everybody) - nu(everybody but i): [N], from N + 1 coalitions.

    Symmetric, zero for a null player and additive in nu, but not efficient: of two clients who
    bring the same, neither is missed.
    """

    def members(numbers: Array) -> Array:
        """Coalition i lacks client i, and the last one nobody."""
        return numbers[:, None] != jnp.arange(players)[None, :]

    values = games.in_blocks(value, members, players + 1, players)
    return values[players] - values[:players]


def leave_one_out(game: games.Game | None = None) -> Contribution:
    """phi_i = nu(N) - nu(N without i), by default with nu(S) = cos(u_S, u_N).

    N + 1 coalitions a round: O(N^3) with the cosine game after its inner products.

    Args:
      game: another game than `games.cosine_game()`.
    """

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        del key
        return without_one(value, players)

    return games.measure_of(game, solution, valuations=lambda players: players + 1)


LEAVE_ONE_OUT = Spec(leave_one_out, parts={"game": "cosine"}, defaults=games.OTHER_SCALE)
