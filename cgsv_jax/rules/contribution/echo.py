"""Agreement that is not explained by what the server itself has said."""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.core import Tracer

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.spec import Count, Number, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Sent, Upload

ROUNDS = Count(
    3,
    Interval(1, 16, whole=True),
    "rounds whose downloads are taken out of an upload before it is judged",
    flag="echo_rounds",
)
SIGNIFICANCE = Number(
    3.0,
    Interval(0, math.inf, "[)"),
    "deviations of chance that an upload must agree by when what its client was sent is out",
    "significance",
)
_LEAST = 1e-3  # what is left of a vector of length 1 that is more than rounding


def echo(of: Contribution, rounds: int = 3, significance: chex.Numeric = 3.0) -> Contribution:
    """psi_i = the measure, of who still agrees when what it was sent is taken out; else 0.

    v_i(t-1), ..., v_i(t-k) are what client i was sent, and P_i projects on them. With e_i = u_i -
    P_i u_i and d_i = u_N - P_i u_N, i is heard where cos(e_i, d_i) > z / sqrt(D): the partial
    correlation of u_i and u_N beside the v_i, of which chance alone makes a normal number of
    deviation 1 / sqrt(D). Only the server knows which masked vector went to whom. Whoever sends it
    back, amplified or not, of whatever of the last k rounds, has e_i = 0 but for rounding (below
    .001 ‖u_i‖ nobody is heard); with noise added, e_i is noise, which agrees by chance alone, but
    for its own part of u_N, which is a_i ‖e_i‖ / ‖d_i‖ of a client of weight a_i. Where all go on
    in the direction of before, as with a small step, u_N itself is explained by what was sent; d_i
    is what that leaves, so that honest clients are not taken for an echo.

    z must be below sqrt(D), as nobody is heard otherwise; of parts below sqrt(F), which is said
    before a run (`Needs.notes`).

    Of a measure that judges parts of the vector each by itself (`class_cosine`) every part is
    heard, or not, by itself, F numbers in place of D. One test of the whole would hear whoever
    sends back the last layer alone (`test_a_part_of_a_replay_has_nothing_left`).

    A round in which a client was absent is one of the k, and nothing was sent in it: whoever takes
    part less often than every k-th round is not seen through. Nor is who copies some entries of its
    download into an update of its own.

    O(k² N D) a round, of parts O(k² N P F), and k (2 D + 2 N) numbers of memory.

    Args:
      of: the measure.
      rounds: k >= 1.
      significance: z >= 0.

    Reference:
      A finding of this project (`python -m experiments.robustness`).
    """
    checks.numbers(ROUNDS.allowed, rounds=rounds)
    checks.numbers(SIGNIFICANCE.allowed, significance=significance)
    checks.kinds(of=(of, Contribution, "cosine()"))

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        sent = sent_lib.recent(upload, rounds)
        if of.parts is not None:
            places = jnp.asarray(of.parts.places)
            heard = heard_in_parts(upload.deltas, aggregate, sent, places, significance)
            layer = jnp.moveaxis(upload.deltas[:, places], 1, 0)  # [P, N, F]
            agreement = vectors.cosines_of_parts(layer, aggregate[places])
            return of.parts.joined(jnp.where(heard, agreement, 0.0), upload.present), state
        score, state = of.update(key, upload, aggregate, weights, state)
        whole = jnp.arange(aggregate.size)[None, :]
        heard = heard_in_parts(upload.deltas, aggregate, sent, whole, significance)[0]
        return jnp.where(heard, score, 0.0), state

    needs = of.needs._replace(sent=max(rounds, of.needs.sent))
    return Contribution(
        of.init, update, needs._replace(notes=needs.notes + _notes(of, significance))
    )


def _notes(of: Contribution, significance: chex.Numeric) -> tuple[str, ...]:
    """A sentence where no upload can be heard, as a cosine is at most 1."""
    if of.parts is None or isinstance(significance, Tracer):
        return ()
    width = of.parts.places.shape[1]
    if float(significance) ** 2 < width:
        return ()
    return (
        f"echo hears nobody: a class of this model has F = {width} entries, --significance must be "
        f"below sqrt(F) = {math.sqrt(width):.3g}",
    )


def heard_in_parts(
    deltas: Array, aggregate: Array, sent: Sent, places: Array, significance: chex.Numeric
) -> Array:
    """Whether what is left of a part of u_i agrees with what is left of that of u_N, [P, N] bool.

    Args:
      deltas: [N, D].
      aggregate: [D] u_N.
      sent: what is taken out.
      places: [P, F] of each part in the vector.
      significance: z.
    """
    number, width = places.shape

    def rows(vectors: Array) -> Array:  # [N, P F] -> [P N, F]
        return jnp.moveaxis(vectors.reshape(-1, number, width), 1, 0).reshape(-1, width)

    flat = places.reshape(-1)
    sent = sent._replace(aggregate=sent.aggregate[:, flat], takers=sent.takers[:, flat])
    left_of = residual(lambda slot: rows(sent_lib.received(sent, slot)), sent.made.size)
    own = rows(deltas[:, flat])
    towards = rows(jnp.broadcast_to(aggregate[flat], (deltas.shape[0], flat.size)))
    # Of unit length first: products of what is left must not leave the range of float32.
    unit = [v / _positive(vectors.norms(v))[:, None] for v in (own, towards)]
    left, directed = map(left_of, unit)
    lengths = [vectors.norms(v) for v in (left, directed)]
    agreement = jnp.sum(left * directed, axis=1) / _positive(lengths[0] * lengths[1])
    there = (lengths[0] > _LEAST) & (lengths[1] > _LEAST)
    return (there & (agreement > significance / width**0.5)).reshape(number, -1)


def _positive(lengths: Array) -> Array:
    return jnp.where(lengths > 0, lengths, 1.0)


def residual(received: Callable[[int], Array], rounds: int) -> Callable[[Array], Array]:
    """Vectors [N, D] -> each less its projection on all that its client was sent, [N, D].

    Downloads of successive rounds may be nearly the same vector: of these, the directions that
    rounding made are left out.

    Args:
      received: [N, D] of each of the rounds, by number.
      rounds: how many.
    """
    slots = range(rounds)
    norms = [vectors.norms(received(slot)) for slot in slots]

    def unit(slot: int) -> Array:  # made anew where it is read: [N, D], never kept
        length = norms[slot][:, None]
        return received(slot) / jnp.where(length > 0, length, 1.0)

    def products(left: Array, right: Array) -> Array:
        return jnp.sum(left * right, axis=1)

    gram = jnp.stack([jnp.stack([products(unit(a), unit(b)) for b in slots], 1) for a in slots], 1)
    inverse = jnp.linalg.pinv(gram, rtol=1e-5, hermitian=True)  # [N, k, k]

    def left_of(vectors: Array) -> Array:
        # Twice: what the first projection leaves by rounding, the second takes.
        for _ in range(2):
            along = jnp.stack([products(vectors, unit(slot)) for slot in slots], 1)
            weights = jnp.einsum("nab,nb->na", inverse, along, precision="highest")
            vectors = vectors - sum(weights[:, slot, None] * unit(slot) for slot in slots)
        return vectors

    return left_of


ECHO = Spec(
    lambda echo_of, **numbers: echo(echo_of, **numbers),
    {"rounds": ROUNDS, "significance": SIGNIFICANCE},
    parts={"echo_of": "class_cosine"},
)
