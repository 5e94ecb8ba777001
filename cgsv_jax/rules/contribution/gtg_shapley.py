"""The Shapley value from guided, truncated permutations, drawn until it settles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.contribution import games, truncated
from cgsv_jax.rules.spec import Spec, Truth
from cgsv_jax.types import Array, Contribution

SETTLED = 0.05  # mean relative change of the values up to which they have settled
_WINDOW = 10  # orders over which the change is looked at
_LEAST = 30  # orders, or N if that is more, before it is looked at


class Drawn(NamedTuple):
    """An estimate and what it took."""

    phi: Array  # [N]
    permutations: Array  # [] int32, orders drawn; 0 where the round was skipped
    gain: Array  # [] nu(everybody) - nu(nobody)


def guided(key: jax.Array, first: Array, players: int) -> Array:
    """Ranks [P, N] of orders that begin with these clients [P], uniform in the rest."""
    drawn = jax.random.uniform(key, (first.size, players))
    leads = jnp.arange(players)[None, :] == first[:, None]
    order = jnp.argsort(jnp.where(leads, -1.0, drawn), axis=1)
    return jnp.argsort(order, axis=1)


def sample(
    key: jax.Array, value: games.Value, players: int, permutations: int, tolerance: Array | float
) -> Drawn:
    """phi_i = mean of the truncated gains over guided orders.

    1. Between rounds: where |nu(everybody) - nu(nobody)| <= tolerance, all values are 0 and no
       other coalition is looked at.
    2. Guided: order k begins with client (k + c) mod N, c drawn once, so that N orders in a row
       hold every client first once. Which orders are drawn is uniform for each by itself.
    3. Within a round: an order ends where |nu(everybody) - nu(prefix)| < tolerance.
    4. Orders are drawn until `permutations` is reached or, more than max(30, N) being there, the
       values have settled: with phi(k) the mean over k orders and K of them drawn, no k among the
       last ten has mean_i |phi_i(k) - phi_i(K)| / |phi_i(K)| above .05.

    That is what the authors' library does (cyyever/torch_algorithm), with these differences. Orders
    come in batches of min(N, permutations), evaluated together (see `truncated.gains`), as there;
    here their number is rounded up to whole batches, there it is at most .8 2^N. c is 0 there;
    drawn, it makes the estimate unbiased (but for truncation and stopping) when there are fewer
    orders than clients. Where everybody is the best coalition seen, an order drawn twice counts
    once there. Its tolerance is .001. The paper's number of guided places, m, is 1.

    Args:
      key: draws the orders.
      value: nu.
      players: N.
      permutations: orders drawn, at most.
      tolerance: of 1 and 3, in units of nu.
    """
    batch = min(players, permutations)
    batches = -(-permutations // batch)
    offset_key, orders_key = jax.random.split(key)
    offset = jax.random.randint(offset_key, (), 0, players)
    nobody, everybody = games.nobody_and_everybody(value, players)
    worth = jnp.abs(everybody - nobody) > tolerance

    def settled(done: Array, recent: Array) -> Array:
        now = recent[-1:]  # phi(K) [1, N] of phi(k) [10, N]
        change = jnp.mean(jnp.abs(recent - now) / (jnp.abs(now) + 1e-12), axis=1)
        return (done * batch > max(_LEAST, players)) & (jnp.max(change) <= SETTLED)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        done, _, recent = carry
        return worth & (done < batches) & ~settled(done, recent)

    def draw(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        done, total, recent = carry
        orders = done * batch + jnp.arange(batch)
        ranks = guided(jax.random.fold_in(orders_key, done), (orders + offset) % players, players)
        found, _ = truncated.gains(value, ranks, nobody, everybody, tolerance)
        totals = total[None] + jnp.cumsum(found, axis=0)
        recent = jnp.concatenate([recent, totals / (orders + 1)[:, None]])[-_WINDOW:]
        return done + 1, totals[-1], recent

    zeros = jnp.zeros((_WINDOW, players), everybody.dtype)
    done, _, recent = jax.lax.while_loop(unfinished, draw, (jnp.int32(0), zeros[0], zeros))
    return Drawn(recent[-1], done * batch, everybody - nobody)


def scaled(phi: Array, gain: Array) -> Array:
    """phi times what makes those of its values that have the gain's sign sum to it: [N], [] -> [N].

    As the authors' library does at the end of a round. Where a value has the other sign, the result
    is no Shapley value and does not sum to the gain.
    """
    same = jnp.sum(jnp.where((phi >= 0) == (gain >= 0), phi, 0.0))
    return phi * jnp.where(same == 0, 1.0, gain / jnp.where(same == 0, 1.0, same))


def gtg_shapley(
    game: games.Game | None = None,
    permutations: int = 100,
    tolerance: Array | float = 1e-3,
    scale_values: bool = False,
) -> Contribution:
    """phi_i, the guided truncated gradient Shapley value, see `sample`.

    At most P (N - 1) + 2 coalitions a round, with P = `permutations` rounded up to batches, and 2
    in a round that changes little.

    Args:
      game: another game than `games.cosine_game()`; the paper's is `games.validation_game`.
      permutations: P >= 1, orders drawn per round, at most.
      tolerance: gain below which an order, or a round, is left; may be traced.
      scale_values: whether the values are `scaled` to the round's gain, as in the authors' library.

    Raises:
      ValueError: fewer than one permutation.

    Reference:
      Liu et al., GTG-Shapley: Efficient and Accurate Participant Contribution Evaluation in
      Federated Learning, ACM TIST 2022; cyyever/torch_algorithm, d09097c.
    """
    checks.numbers(games.PERMUTATIONS.allowed, permutations=permutations)
    checks.numbers(games.TOLERANCE.allowed, tolerance=tolerance)

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        drawn = sample(key, value, players, permutations, tolerance)
        return scaled(drawn.phi, drawn.gain) if scale_values else drawn.phi

    return games.measure_of(game, solution, valuations=games.of_orders(permutations), draws=True)


GTG_SHAPLEY = Spec(
    gtg_shapley,
    {
        "permutations": games.PERMUTATIONS,
        "tolerance": games.TOLERANCE,
        "scale_values": Truth(
            False, "gtg_shapley: scale its values so that those of the gain's sign sum to the gain"
        ),
    },
    parts={"game": "cosine"},
    defaults=games.OTHER_SCALE | {"tolerance": 1e-3},
)
