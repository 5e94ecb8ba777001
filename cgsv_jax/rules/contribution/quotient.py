"""One share for all who say the same: near-duplicates divide what one of them is worth."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.contribution import likeness
from cgsv_jax.rules.spec import Number, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Upload

ALIKE = Number(
    0.95,
    Interval(0, 1, "()"),
    "cosine of what two clients have sent from which on they count as one, between 0 and 1",
    "alike",
)
MEMORY = Number(
    0.9,
    Interval(0, 1, "[)"),
    "weight of earlier uploads where clients are compared, in [0, 1)",
    flag="quotient_memory",
)
PENALTY = Number(
    0.0,
    Interval(0, math.inf, "[)"),
    "what each further client costs those who count as one, in shares: 0 is one share for all of "
    "them together",
    "penalty",
)


class QuotientState(NamedTuple):
    """What clients have sent, and the state of the measure that is divided."""

    history: Array  # [N, D]
    of: ArrayTree


def quotient(
    of: Contribution,
    alike: chex.Numeric = 0.95,
    memory: chex.Numeric = 0.9,
    penalty: chex.Numeric = 0.0,
) -> Contribution:
    """psi_i = (m_i - lambda (|C_i| - 1) |m_i|) / |C_i|, m the measure, C_i who sent the same as i.

    j is in C_i where cos(h_i, h_j) > tau, or where a third has that with both, and
    h_i = mu h_i + u_i / ‖u_i‖ over the rounds. One client that poses as m has one share in all
    (lambda = 0), or less: a negative psi takes back what a crowd had before it was known for one,
    which the memory of a reputation would leave it for many rounds. Noise that copies add to hide
    is new in every round and averages out of h, as far as what they copy goes on in one direction;
    honest clients, whose own noise does so too, part within some rounds even where their rows are
    alike. Two honest clients with the same rows are one to it. O(N² D) a round and N D numbers of
    memory.

    Args:
      of: the measure that is divided.
      alike: tau, in (0, 1).
      memory: mu, in [0, 1); 0 compares the uploads of the round.
      penalty: lambda >= 0.

    Reference:
      A finding of this project (`python -m experiments.robustness`), after the quotient of a game
      by its duplicates.
    """
    checks.numbers(ALIKE.allowed, alike=alike)
    checks.numbers(MEMORY.allowed, memory=memory)
    checks.numbers(PENALTY.allowed, penalty=penalty)
    checks.kinds(of=(of, Contribution, "cosine()"))

    def init(num_clients: int, num_parameters: int) -> QuotientState:
        nothing = jnp.zeros((num_clients, num_parameters))
        return QuotientState(nothing, of.init(num_clients, num_parameters))

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: QuotientState
    ) -> tuple[Array, QuotientState]:
        score, inner = of.update(key, upload, aggregate, weights, state.of)
        length = jnp.where(upload.norms > 0, upload.norms, 1.0)[:, None]
        history = memory * state.history + upload.deltas / length
        sizes = cluster_sizes(history, upload.present & (upload.norms > 0), alike)
        history = jnp.where(upload.present[:, None], history, state.history)
        history = history.astype(jnp.asarray(state.history).dtype)
        # The penalty lowers a value below 0 as well: reversed, it would pay a crowd that does harm.
        kept = 1 - jnp.sign(score) * penalty * (sizes - 1)
        return score * kept / sizes, QuotientState(history, inner)

    return Contribution(init, update, of.needs)


def cluster_sizes(histories: Array, there: Array, alike: chex.Numeric) -> Array:
    """|C_i| >= 1 of every client [N], by what they sent [N, D]; who is away is like nobody."""
    near = (likeness.pairs(histories, there) > alike) | jnp.eye(there.size, dtype=bool)
    near = near.astype(histories.dtype)
    return jnp.sum(vectors.gram(near) > 0.5, axis=1).astype(near.dtype)


QUOTIENT = Spec(
    lambda quotient_of, **numbers: quotient(quotient_of, **numbers),
    {"alike": ALIKE, "memory": MEMORY, "penalty": PENALTY},
    parts={"quotient_of": "cosine"},
)
