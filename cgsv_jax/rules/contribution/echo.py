"""Agreement that is not explained by what the server itself has said."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.spec import Count, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Sent, Upload

ROUNDS = Count(
    3,
    Interval(1, 64, whole=True),
    "rounds whose downloads are taken out of an upload before it is judged",
    flag="echo_rounds",
)


def echo(of: Contribution, rounds: int = 3) -> Contribution:
    """psi_i = ‖e_i‖ / ‖u_i‖ times the measure of e_i, e_i = u_i less what it was sent before.

    e_i = u_i - P_i u_i, P_i the projection on v_i(t-1), ..., v_i(t-k). Only the server knows which
    masked vector went to whom, and whoever sends it back, amplified or not, of whatever of the last
    k rounds, has nothing left: exactly 0 but for rounding; with noise added, what the noise is
    worth. O(k² N D) a round and k (2 D + 2 N) numbers of memory.

    Args:
      of: the measure of what is left.
      rounds: k >= 1.

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
        left = residual(upload.deltas, upload.sent, upload.round - rounds)
        norms = vectors.norms(left)
        own = upload._replace(deltas=left, norms=norms)
        score, state = of.update(key, own, aggregate, weights, state)
        share = norms / jnp.where(upload.norms > 0, upload.norms, 1.0)
        return jnp.minimum(share, 1.0) * score, state

    return Contribution(of.init, update, of.needs._replace(sent=max(rounds, of.needs.sent)))


def residual(deltas: Array, sent: Sent, since: Array) -> Array:
    """u_i less its projection on all that its client was sent from a round on, [N, D].

    Downloads of successive rounds may be nearly the same vector: of these, the directions that
    rounding made are left out.
    """
    sent = sent._replace(made=jnp.where(sent.made >= since, sent.made, -1))
    slots = range(sent.made.size)
    norms = [vectors.norms(sent_lib.received(sent, slot)) for slot in slots]

    def unit(slot: int) -> Array:  # made anew where it is read: [N, D], never kept
        length = norms[slot][:, None]
        return sent_lib.received(sent, slot) / jnp.where(length > 0, length, 1.0)

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
