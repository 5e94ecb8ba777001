"""Viceroy: FoolsGold of what a client sent lately and of what it sends now, by its steadiness."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.contribution import likeness
from cgsv_jax.rules.spec import Number, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Upload

OMEGA = Number(
    0.525,
    Interval(0, 1, "[)"),
    "viceroy: weight of the old history in a new one, in [0, 1)",
    flag="viceroy_omega",
)
ETA = Number(
    0.2,
    Interval(0, 2, "[]"),
    "viceroy: how fast trust in the history grows and falls, in [0, 2]",
    flag="viceroy_eta",
)
DROP = Number(
    0.1,
    Interval(0, 1, "[)"),
    "viceroy: weight up to which a client is worth 0, in [0, 1)",
    flag="viceroy_drop",
)
EPSILON = 1e-9  # of its FoolsGold, whose authors have 1e-5


class Memory(NamedTuple):
    """What is known of each client."""

    history: Array  # [N, D] H
    trust: Array  # [N] R, in [0, 1]
    heard: Array  # [N] bool, whether it ever sent something


def viceroy(
    confidence: Array | float = 0.5,
    omega: Array | float = 0.525,
    eta: Array | float = 0.2,
    drop: Array | float = 0.1,
) -> Contribution:
    """psi_i = p_i = R_i F(H)_i + (1 - R_i) F(u)_i in [0, 1], 0 where p_i <= drop.

    F is FoolsGold's weight with kappa = `confidence`. H_i = omega H_i + u_i; R_i = clip(R_i +
    eta / 2 (1 - 2 |F(H of before)_i - F(u)_i|), 0, 1): who is judged now as it was before is judged
    by its history, so that neither an attack that switches on and off nor a single odd round
    decides. In a client's first round H_i = u_i, R_i = 0, and it is not dropped. O(N^2 D) a round
    and [N, D] to remember; three inner products of all pairs where FoolsGold has one.

    What FoolsGold cannot see, this cannot: a client that replays alone is like nobody. Whoever
    falls to `drop` is worth 0 for the round; that it be taken out for good is the business of a
    removal. An absent client keeps H and R, is worth 0 and nobody is compared with it.

    What is followed is the detector of a published benchmark of free riders
    (LukasXperiaZ/FL-free-rider-benchmark, 66e4893), which drops at .1 with kappa .5 on MNIST, at
    .01 with kappa .9 on CIFAR-10. Its FoolsGold leaves out of a client's greatest likeness the 0
    that the authors' has: where a client is like nobody, so that all its cosines are below 0, a
    pardon there changes their sign. Here it is as the authors of FoolsGold have it.

    Args:
      confidence: kappa > 0.
      omega: in [0, 1).
      eta: in [0, 2].
      drop: in [0, 1).

    Raises:
      ValueError: a number is out of its range.

    Reference:
      Lewis, Varadharajan and Noman, Attacks against Federated Learning Defense Systems and their
      Mitigation, JMLR 24, 2023.
    """
    checks.numbers(likeness.CONFIDENCE.allowed, confidence=confidence)
    checks.numbers(OMEGA.allowed, omega=omega)
    checks.numbers(ETA.allowed, eta=eta)
    checks.numbers(DROP.allowed, drop=drop)

    def init(num_clients: int, num_parameters: int) -> Memory:
        return Memory(
            jnp.zeros((num_clients, num_parameters)),
            jnp.zeros(num_clients),
            jnp.zeros(num_clients, bool),
        )

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        del key, aggregate, weights
        present, dtype = upload.present, upload.deltas.dtype

        def weight(rows: Array) -> Array:
            return likeness.singular(likeness.pairs(rows, present), present, confidence, EPSILON)

        sent = upload.scales[:, None] * upload.deltas  # an absent client's row is 0
        old = state.history.astype(dtype)
        history = jnp.where(present[:, None], omega * old + sent, old)
        before, now, after = weight(old), weight(sent), weight(history)
        trust = state.trust.astype(dtype)
        moved = jnp.clip(trust + eta / 2 * (1 - 2 * jnp.abs(before - now)), 0.0, 1.0)
        trust = jnp.where(present & state.heard, moved, trust)
        p = trust * after + (1 - trust) * now
        score = jnp.where(present & ((p > drop) | ~state.heard), p, 0.0)
        return score, Memory(
            history.astype(state.history.dtype),
            trust.astype(state.trust.dtype),
            state.heard | present,
        )

    return Contribution(init, update)


VICEROY = Spec(
    viceroy,
    {"confidence": likeness.CONFIDENCE, "omega": OMEGA, "eta": ETA, "drop": DROP},
    defaults={"foolsgold_confidence": 0.5},
)
