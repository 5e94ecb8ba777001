"""What a coalition of clients is worth: nu(S), for many coalitions at once.

A game is made for one round, `game(upload, aggregate [D], weights [N])`, and gives a function of
membership [K, N] (0 or 1) to values [K]. Which solution (Shapley, leave-one-out, ...) is computed
from the values is another file's business.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cgsv_jax import vectors
from cgsv_jax.types import Array, Network, Upload

Value = Callable[[Array], Array]  # membership [K, N] -> nu [K]
Game = Callable[[Upload, Array, Array], Value]

_BLOCK = 64  # models rebuilt at once: a matrix [64, D]


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

    return game


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
    if what not in ("accuracy", "loss"):
        raise ValueError(f"game is {what!r}, it must be accuracy or loss")
    if network is None:
        raise ValueError("a game on validation rows needs options.network")

    def game(upload: Upload, aggregate: Array, weights: Array) -> Value:
        del aggregate
        if upload.validation is None:
            raise ValueError("a game on validation rows needs the server to hold some")
        weights = jnp.where(upload.present, weights, 0.0)

        def block(member: Array) -> Array:
            shares = member.astype(weights.dtype) * weights[None, :]
            total = jnp.sum(shares, axis=1, keepdims=True)
            shares = jnp.where(total > 0, shares / jnp.where(total > 0, total, 1.0), 0.0)
            moved = jnp.matmul(
                shares * upload.scales[None, :], upload.deltas, precision=jax.lax.Precision.HIGHEST
            )
            models = upload.server[None, :] + moved
            accuracy, loss = network.evaluate(models, *upload.validation)
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

    return game


# name -> (hyper, options) -> Game
GAMES = {
    "cosine": lambda hyper, options: cosine_game(),
    "accuracy": lambda hyper, options: validation_game(options.network, "accuracy"),
    "loss": lambda hyper, options: validation_game(options.network, "loss"),
}
# Games that need the server's validation rows.
ON_VALIDATION = ("accuracy", "loss")
