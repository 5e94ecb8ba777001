"""What a coalition of clients is worth: nu(S), for many coalitions at once.

A `Game` is made for one round, `game(upload, aggregate [D], weights [N])`, and gives a function of
membership [K, N] (0 or 1) to values [K]. Which solution (Shapley, leave-one-out, ...) is computed
from the values is another file's business.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval, from_
from cgsv_jax.rules.spec import Count, Number, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Needs, Network, PRNGKey, Upload

Value = Callable[[Array], Array]  # membership [K, N] -> nu [K]
Solution = Callable[[PRNGKey, Value, int], Array]  # key, value, N -> phi [N]

_BLOCK = 64  # models rebuilt at once: a matrix [64, D]
# Entries of a membership matrix: 2^22 floats are 16 MiB, whatever the number of coalitions.
ENTRIES = 1 << 22

# Scores of every measure but the cosine sum to about 1, or have the scale of an accuracy: brought
# to the scale of reputations, they are neither swallowed by an absolute floor nor drowned.
OTHER_SCALE = {"normalise_scores": True, "relative_floor": True}
PERMUTATIONS = Count(
    100,
    from_(1),
    "permutations drawn per round by a sampled value (eci and banzhaf: beyond 10 clients)",
)
TOLERANCE = Number(0.01, Interval(0, math.inf, "[)"), "gain below which a truncated sampling stops")


class Game(NamedTuple):
    """A game, and what it needs; a plain function of the same arguments needs nothing."""

    of_round: Callable[[Upload, Array, Array], Value]
    needs: Needs = Needs()

    def __call__(self, upload: Upload, aggregate: Array, weights: Array) -> Value:
        """The game of a round: what its coalitions are worth."""
        return self.of_round(upload, aggregate, weights)


def steps(function: Callable[[Array], Array], count: int) -> Array:
    """`function` of 0, 1, ..., [count, ...]; one step is no loop.

    A loop over a new function is compiled in every call that is not traced itself, and what is
    compiled stays in memory.
    """
    if count == 1:
        return function(jnp.int32(0))[None]
    return jax.lax.map(function, jnp.arange(count))


def measure_of(
    game: Game | None,
    solution: Solution,
    check: Callable[[int], None] | None = None,
    *,
    valuations: Callable[[int], int],
    draws: bool = False,
) -> Contribution:
    """A solution concept as a measure of one round. It has no state.

    Called eagerly, it is compiled once per measure and shapes.

    An absent client adds nothing to a coalition, so that its value is 0 in every game but for
    rounding and sampling: it is set to 0.

    Args:
      game: what a coalition is worth; None: `cosine_game()`.
      solution: phi [N] from a function of coalitions.
      check: raises where N is not for this solution.
      valuations: N -> coalitions that the solution looks at in a round, at most.
      draws: whether the solution uses its key; then it sees clients in the order of their numbers,
        so that results do not depend on how rows are dealt to devices.
    """
    game = game or cosine_game()
    needs = game.needs if isinstance(game, Game) else Needs()

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_parameters
        if check is not None:
            check(num_clients)
        return ()

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        value, numbers = game(upload, aggregate, weights), upload.numbers
        if not draws or numbers is None:
            phi = solution(key, value, upload.present.size)
        else:
            phi = solution(key, lambda member: value(member[:, numbers]), upload.present.size)
            phi = phi[numbers]
        return jnp.where(upload.present, phi, 0.0), state

    return Contribution(init, jax.jit(update), needs._replace(valuations=valuations))


def of_orders(permutations: int) -> Callable[[int], int]:
    """N -> coalitions that so many orders look at: their prefixes, nobody and everybody."""
    return lambda players: permutations * (players - 1) + 2


def in_blocks(value: Value, members: Callable[[Array], Array], count: int, players: int) -> Array:
    """nu of coalitions 0, 1, ..., [count], so many at once as keep their membership small.

    Args:
      value: nu.
      members: numbers [K] -> membership [K, N]; it is asked for `count` - 1 at most.
      count: of coalitions, at least 1.
      players: N.
    """
    blocks = -(-count // max(ENTRIES // players, 1))
    size = -(-count // blocks)

    def block(step: Array) -> Array:
        numbers = jnp.minimum(step * size + jnp.arange(size), count - 1)
        return value(members(numbers))

    return steps(block, blocks).reshape(-1)[:count]


def nobody_and_everybody(value: Value, players: int) -> tuple[Array, Array]:
    """nu of the empty coalition and of the grand one, [] each."""
    ends = value(jnp.broadcast_to(jnp.array([[False], [True]]), (2, players)))
    return ends[0], ends[1]


def cosine_gram(upload: Upload, weights: Array) -> Array:
    """Inner products of the weighted uploads w_i u_i, in units of the longest: [N, N].

    The cosine does not see a common unit, and lengths go in after the product: those of raw updates
    may differ by powers of ten.
    """
    directions = upload.deltas / jnp.where(upload.norms == 0, 1.0, upload.norms)[:, None]
    lengths = weights * upload.scales * upload.norms
    lengths = lengths / jnp.maximum(jnp.max(lengths), jnp.finfo(lengths.dtype).tiny)
    return vectors.gram(directions) * lengths[:, None] * lengths[None, :]


def cosine_value(gram: Array) -> Value:
    """nu(S) = cos(u_S, u_N), 0 where either is zero, from inner products [N, N] alone.

    1_S^T G 1 = <u_S, u_N> and 1_S^T G 1_S = ‖u_S‖^2.
    """
    players = gram.shape[0]
    towards = jnp.sum(gram, axis=1)  # <u_i, u_N>
    length = jnp.sum(towards)  # ‖u_N‖^2
    # Where vectors cancel, rounding leaves of ‖u_S‖^2 up to this much of the sum of their squares,
    # since |<u_i, u_j>| <= (‖u_i‖^2 + ‖u_j‖^2) / 2: such a u_S is zero.
    squares = players * jnp.finfo(gram.dtype).eps * jnp.diagonal(gram)
    long_enough = length > jnp.sum(squares)

    def value(member: Array) -> Array:
        member = member.astype(gram.dtype)
        dots = jnp.sum(member * towards[None, :], axis=1)
        products = jnp.matmul(member, gram, precision=jax.lax.Precision.HIGHEST)
        norms = jnp.sum(products * member, axis=1)
        defined = (norms > jnp.sum(member * squares[None, :], axis=1)) & long_enough
        cosine = dots / jnp.sqrt(jnp.where(defined, norms * length, 1.0))
        return jnp.where(defined, jnp.clip(cosine, -1.0, 1.0), 0.0)

    return value


def cosine_game() -> Game:
    """nu(S) = cos(u_S, u_N), u_S = sum_{i in S} w_i u_i with the aggregation's weights w.

    nu of everybody is 1. O(N^2 D) a round for the inner products, O(N^2) for a coalition.
    """

    def game(upload: Upload, aggregate: Array, weights: Array) -> Value:
        del aggregate
        return cosine_value(cosine_gram(upload, weights))

    return Game(game)


def validation_game(network: Network | None, what: str = "accuracy") -> Game:
    """nu(S) = accuracy, or minus the loss, of the model that S alone would have made this round.

    The model is w_N + sum_{i in S} w_i u_i / sum_{i in S} w_i, with the aggregation's weights w;
    that of nobody, or of clients without weight, is w_N. NEEDS VALIDATION DATA: an evaluation a
    coalition, 64 of them rebuilt at once.

    Args:
      network: evaluates models.
      what: "accuracy" or "loss".

    Raises:
      ValueError: `what` is another word, there is no network, or (when traced) no validation rows.
    """
    checks.choice("game", what, "accuracy", "loss")
    if network is None:
        raise ValueError("a game on validation rows needs a network")

    def game(upload: Upload, aggregate: Array, weights: Array) -> Value:
        del aggregate
        if upload.validation is None:
            raise ValueError("a game on validation rows needs the server to hold some")
        inputs, labels = upload.validation
        weights = jnp.where(upload.present, weights, 0.0)

        def block(member: Array) -> Array:
            shares = member.astype(weights.dtype) * weights[None, :]
            total = jnp.sum(shares, axis=1, keepdims=True)
            shares = jnp.where(total > 0, shares / jnp.where(total > 0, total, 1.0), 0.0)
            moved = jnp.matmul(
                shares * upload.scales[None, :], upload.deltas, precision=jax.lax.Precision.HIGHEST
            )
            models = upload.server[None, :] + moved
            accuracy, loss = network.evaluate(models, inputs, labels)
            return accuracy if what == "accuracy" else -loss

        def value(member: Array) -> Array:
            count = member.shape[0]
            if count <= _BLOCK:
                return block(member)
            short = -count % _BLOCK
            padded = jnp.pad(member, ((0, short), (0, 0)))
            blocks = padded.reshape(-1, _BLOCK, member.shape[1])
            return jax.lax.map(block, blocks).reshape(-1)[:count]

        return value

    return Game(game, Needs(validation=True))


GAMES = {
    "cosine": Spec(cosine_game),
    "accuracy": Spec(functools.partial(validation_game, what="accuracy"), given=("network",)),
    "loss": Spec(functools.partial(validation_game, what="loss"), given=("network",)),
}
