"""S2-WEF's idea: whose large entries are those of what it was sent is not heard."""

import math

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, order_statistics
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.spec import Count, Number, Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Sent, Upload

ROUNDS = Count(
    1,
    Interval(1, 64, whole=True),
    "s2_wef: rounds whose downloads an upload is compared with",
    flag="s2_wef_rounds",
)
DEVIATIONS = Number(
    5.0,
    Interval(0, math.inf, "()"),
    "s2_wef: median deviations above the median likeness beyond which a client is not heard",
    flag="s2_wef_deviations",
)
NEAREST = 1e-3  # the squared distance that no distance counts as, its code's


def s2_wef(of: Contribution, rounds: int = 1, deviations: chex.Numeric = 5.0) -> Contribution:
    """The measure where gamma_i <= median + c median|gamma - median|, and at most 0 elsewhere.

    F_i = 1[|u_i| > mean |u_i|] marks the large entries of an upload, G_i those of v_i(t-1), what
    its client was sent last; gamma_i = 1000 cos(F_i, G_i) / ‖F_i - G_i‖², the distance at least
    1e-3: a replay has 1e6, whatever its length, and one with little noise not much less. Of several
    rounds the greatest counts. Medians are over those who take part and were sent something. O(k N
    D) a round and k (2 D + 2 N) numbers of memory; no client reports anything.

    What differs from the paper and its code (FujitsuResearch/S2-WEF, 9841eaf). There a client
    reports how often each entry of one layer moved in its local steps, which it may invent; here
    the server looks at the whole upload, one step a round, as it came. There the pattern to compare
    with is one for all, of the difference of two global models; here everybody was sent another
    part of u_N, and is compared with its own. There a second score (how a report deviates from the
    others') and a clustering in two dimensions decide together; here it is the first score's
    threshold alone (its `gamma_only`), since the second always finds somebody and needs the
    clustering to be held back: so it does not know noise, which `of` has to know. Where more than
    half replay, they are the median, and nobody is found.

    Args:
      of: what a client is worth that is heard.
      rounds: k >= 1.
      deviations: c > 0, the code's 5.

    Raises:
      ValueError: a number is out of its range; (when traced) there is no `Upload.sent`.

    Reference:
      Nakamura, Dynamic Free-Rider Detection in Federated Learning via Simulated Attack Patterns,
      arXiv:2604.04611, 2026.
    """
    checks.numbers(ROUNDS.allowed, rounds=rounds)
    checks.numbers(DEVIATIONS.allowed, deviations=deviations)
    checks.kinds(of=(of, Contribution, "cosine()"))

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        sent = sent_lib.recent(upload, rounds)
        score, state = of.update(key, upload, aggregate, weights, state)
        gamma, known = likeness(upload.deltas, sent)
        known = known & upload.present
        middle = order_statistics.middle(gamma, known)
        spread = order_statistics.middle(jnp.abs(gamma - middle), known)
        replays = known & (gamma > middle + deviations * spread)
        return jnp.where(replays, jnp.minimum(score, 0.0), score), state

    return Contribution(of.init, update, of.needs._replace(sent=max(rounds, of.needs.sent)))


def likeness(deltas: Array, sent: Sent) -> tuple[Array, Array]:
    """gamma [N] of uploads and what their clients were sent; and who was sent anything [N]."""
    large = _large(deltas)
    most = jnp.zeros_like(deltas[:, 0])
    known = jnp.zeros(deltas.shape[0], bool)
    for slot in range(sent.made.size):
        marks = _large(sent_lib.received(sent, slot))
        mine, its, both = (
            jnp.sum(x, axis=1, dtype=most.dtype) for x in (large, marks, large & marks)
        )
        cosine = both / jnp.sqrt(jnp.maximum(mine * its, 1.0))
        distance = mine + its - 2 * both
        most = jnp.maximum(most, 1000 * cosine / jnp.maximum(distance, NEAREST))
        known = known | (its > 0)
    return most, known


def _large(rows: Array) -> Array:
    magnitudes = jnp.abs(rows)
    return magnitudes > jnp.mean(magnitudes, axis=1, keepdims=True)


S2_WEF = Spec(
    lambda s2_wef_of, **numbers: s2_wef(s2_wef_of, **numbers),
    {"rounds": ROUNDS, "deviations": DEVIATIONS},
    parts={"s2_wef_of": "cosine"},
)
