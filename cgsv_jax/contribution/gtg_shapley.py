"""The Shapley value from guided, truncated permutations, drawn until it settles."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.contribution import games, truncated
from cgsv_jax.types import Array, Measure

SETTLED = 0.05  # mean relative change of the values below which no more orders are drawn
_WINDOW = 10  # orders over which the change is looked at, at least


class Drawn(NamedTuple):
    """An estimate and what it took."""

    phi: Array  # [N]
    permutations: Array  # [] int32, orders drawn; 0 where the round was skipped


def guided(key: jax.Array, first: Array, players: int) -> Array:
    """Ranks [P, N] of orders that begin with these clients [P], uniform in the rest."""
    drawn = jax.random.uniform(key, (first.size, players))
    leads = jnp.arange(players)[None, :] == first[:, None]
    order = jnp.argsort(jnp.where(leads, -1.0, drawn), axis=1)
    return jnp.argsort(order, axis=1)


def sample(
    key: jax.Array, value: games.Value, players: int, permutations: int, tolerance: chex.Numeric
) -> Drawn:
    """phi_i = mean of the truncated gains over guided orders.

    1. Between rounds: where |nu(everybody) - nu(nobody)| <= tolerance, all values are 0 and no
       other coalition is looked at.
    2. Guided: order k begins with client (k + c) mod N, c drawn once, so that N orders in a row
       hold every client first once. Which orders are drawn is uniform for each by itself.
    3. Within a round: an order ends where |nu(everybody) - nu(prefix)| < tolerance.
    4. Orders are drawn until `permutations` is reached or the values have settled:
       sum_i |phi_i - phi_i before| / sum_i |phi_i|, averaged over the earlier values of the last
       ten orders, is below 5 %.

    What is not as in the paper. Orders come in batches of min(N, permutations), evaluated together
    (see `truncated.gains`); 4 is asked after a batch, with the values after earlier batches,
    enough of them for ten orders and at least one; the number of orders is rounded up to whole
    batches. The change is a ratio of sums where the paper has the mean of ratios, which a client
    whose value is near 0 would rule. c is 0 in the paper; drawn, it makes the estimate unbiased
    (but for truncation and stopping) when there are fewer orders than clients. The paper's number
    of guided places, m, is 1.

    Args:
      key: draws the orders.
      value: nu.
      players: N.
      permutations: orders drawn, at most.
      tolerance: of 1 and 3, in units of nu.
    """
    batch = min(players, permutations)
    batches = -(-permutations // batch)
    window = -(-_WINDOW // batch)  # earlier values looked at
    offset_key, orders_key = jax.random.split(key)
    offset = jax.random.randint(offset_key, (), 0, players)
    nobody, everybody = games.nobody_and_everybody(value, players)
    worth = jnp.abs(everybody - nobody) > tolerance

    def settled(done: Array, recent: Array) -> Array:
        now, before = recent[-1], recent[:-1]  # [N], [window, N]
        changes = jnp.sum(jnp.abs(before - now[None, :]), axis=1)
        return (done > window) & (jnp.mean(changes) < SETTLED * jnp.sum(jnp.abs(now)))

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        done, _, recent = carry
        return worth & (done < batches) & ~settled(done, recent)

    def draw(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        done, total, recent = carry
        first = (done * batch + jnp.arange(batch) + offset) % players
        ranks = guided(jax.random.fold_in(orders_key, done), first, players)
        found, _ = truncated.gains(value, ranks, nobody, everybody, tolerance)
        total, done = total + jnp.sum(found, axis=0), done + 1
        return done, total, jnp.concatenate([recent[1:], (total / (done * batch))[None]])

    zeros = jnp.zeros((window + 1, players), everybody.dtype)
    done, _, recent = jax.lax.while_loop(unfinished, draw, (jnp.int32(0), zeros[0], zeros))
    return Drawn(recent[-1], done * batch)


def gtg_shapley(
    game: games.Game | None = None, permutations: int = 100, tolerance: chex.Numeric = 0.01
) -> Measure:
    """phi_i, the guided truncated gradient Shapley value, see `sample`.

    At most P (N - 1) + 2 coalitions a round, with P = `permutations` rounded up to batches, and 2
    in a round that changes little.

    Args:
      game: another game than `games.cosine_game()`; the paper's is `games.validation_game`.
      permutations: P >= 1, orders drawn per round, at most.
      tolerance: gain below which an order, or a round, is left; may be traced.

    Raises:
      ValueError: fewer than one permutation.

    Reference:
      Liu et al., GTG-Shapley: Efficient and Accurate Participant Contribution Evaluation in
      Federated Learning, ACM TIST 2022.
    """
    games.at_least_one(permutations)

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        return sample(key, value, players, permutations, tolerance).phi

    return games.measure_of(game, solution, draws=True)
