"""Agreement that is not explained by what the server itself has said."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.spec import Count, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Sent, Upload

ROUNDS = Count(
    3,
    Interval(1, 16, whole=True),
    "rounds whose downloads are taken out of an upload before it is judged",
    flag="echo_rounds",
)


def echo(of: Contribution, rounds: int = 3) -> Contribution:
    """psi_i = ‖e_i‖ / ‖u_i‖ times the measure of e_i, e_i = u_i less what it was sent before.

    e_i = u_i - P_i u_i, P_i the projection on v_i(t-1), ..., v_i(t-k). Only the server knows which
    masked vector went to whom, and whoever sends it back, amplified or not, of whatever of the last
    k rounds, has nothing left: exactly 0 but for rounding; with noise added, what the noise is
    worth. A round in which a client was absent is one of the k, and nothing was sent in it.

    Of a measure that judges parts of the vector each by itself (`class_cosine`) the echo is taken
    out of each, and it is made of <e_{i,p}, u_{N,p}> / (‖u_{i,p}‖ ‖u_{N,p}‖). One projection of the
    whole would leave most of a replay to whoever sends back the last layer alone, or the last layer
    as it was and noise in all the others (`test_a_part_of_a_replay_has_nothing_left`).

    O(k² N D) a round, of parts O(k² N P F), and k (2 D + 2 N) numbers of memory.

    Args:
      of: the measure of what is left.
      rounds: k, from 1 to 16: a program with k² products of all uploads compiles for long.

    Reference:
      A finding of this project (`python -m experiments.robustness`).
    """
    checks.numbers(ROUNDS.allowed, rounds=rounds)
    checks.kinds(of=(of, Contribution, "cosine()"))

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        if upload.sent is None:
            raise ValueError("echo needs uploads with what was sent, see Needs.sent")
        sent = since(upload.sent, upload.round - rounds)
        if of.parts is not None:
            agreement = _of_parts(of.parts.places, upload.deltas, sent, aggregate)
            return of.parts.joined(agreement, upload.present), state
        left = residual(upload.deltas, lambda slot: sent_lib.received(sent, slot), sent.made.size)
        norms = vectors.norms(left)
        own = upload._replace(deltas=left, norms=norms)
        score, state = of.update(key, own, aggregate, weights, state)
        share = norms / jnp.where(upload.norms > 0, upload.norms, 1.0)
        return jnp.minimum(share, 1.0) * score, state

    return Contribution(of.init, update, of.needs._replace(sent=max(rounds, of.needs.sent)))


def since(sent: Sent, round_: Array) -> Sent:
    """What was sent from a round on."""
    return sent._replace(made=jnp.where(sent.made >= round_, sent.made, -1))


def _of_parts(places: Array, deltas: Array, sent: Sent, aggregate: Array) -> Array:
    """<e_{i,p}, u_{N,p}> / (‖u_{i,p}‖ ‖u_{N,p}‖), [P, N]."""
    places = jnp.asarray(places)

    def rows(vectors: Array) -> Array:  # [N, P F] -> [P N, F]
        return jnp.moveaxis(vectors.reshape(-1, *places.shape), 1, 0).reshape(-1, places.shape[1])

    flat = places.reshape(-1)
    heard = sent._replace(aggregate=sent.aggregate[:, flat], takers=sent.takers[:, flat])
    own = rows(deltas[:, flat])
    left = residual(own, lambda slot: rows(sent_lib.received(heard, slot)), sent.made.size)
    parts = (places.shape[0], -1)
    return vectors.cosines_of_parts(
        left.reshape(*parts, places.shape[1]), vectors.norms(own).reshape(parts), aggregate[places]
    )


def residual(deltas: Array, received: Callable[[int], Array], rounds: int) -> Array:
    """u_i less its projection on all that its client was sent, [N, D].

    Downloads of successive rounds may be nearly the same vector: of these, the directions that
    rounding made are left out.

    Args:
      deltas: [N, D].
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
    # Twice: what the first projection leaves by rounding, the second takes.
    for _ in range(2):
        along = jnp.stack([products(deltas, unit(slot)) for slot in slots], 1)
        weights = jnp.einsum("nab,nb->na", inverse, along, precision="highest")
        deltas = deltas - sum(weights[:, slot, None] * unit(slot) for slot in slots)
    return deltas


ECHO = Spec(
    lambda echo_of, **numbers: echo(echo_of, **numbers),
    {"rounds": ROUNDS},
    parts={"echo_of": "class_cosine"},
)
