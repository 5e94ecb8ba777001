"""FedAVE: reputations by accuracy and by how alike losses are here and at the server."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.aggregation import by_size
from cgsv_jax.rules.contribution import validation_accuracy
from cgsv_jax.rules.reputation import ALPHA, FLOOR
from cgsv_jax.rules.rescale import GAMMA, GAMMA_DECAY, NORM_EPSILON, to_norm
from cgsv_jax.rules.reward import BETA, SPARSIFY, by_ratio, ratios
from cgsv_jax.rules.shares import renewed, scored
from cgsv_jax.rules.spec import Choice, Number, Spec
from cgsv_jax.types import (
    Algorithm,
    Array,
    Download,
    Losses,
    Network,
    Reward,
    Standing,
    Upload,
)

# Examples of a batch whose mean loss is one entry of a loss vector.
BATCH = 64

KL_FLOOR = Number(
    1 / BATCH,
    Interval(0, math.inf, "()"),
    "fedave: least divergence of losses that counts; next to 0, as released",
    "KL floor",
)


class FedAVEState(NamedTuple):
    """What the next round starts from."""

    reputation: Array  # [N]
    joined: Array  # [N] bool, who has ever been heard


def fedave(
    network: Network | None,
    tensors: tuple[int, ...] = (),
    gamma: chex.Numeric = 0.5,
    alpha: chex.Numeric = 0.95,
    beta: chex.Numeric = 2.0,
    *,
    floor: chex.Numeric = 1e-3,
    gamma_decay: chex.Numeric = 1.0,
    norm_epsilon: chex.Numeric = 1e-7,
    kl_floor: chex.Numeric = 1 / BATCH,
    loss_vectors: str = "shuffled",
    scope: str = "tensor",
    count: str = "ceil",
    ties: str = "all",
    batch: int = BATCH,
) -> Algorithm:
    """r_i = alpha r_i + (1 - alpha) acc_i k_i², k_i = (1 / KL_i) / max_j (1 / KL_j).

    KL_i = sum_l p_l log(p_l / q_l): p and q are in proportion to the mean losses of w_i, before
    training, on batches of its own examples and of the server's validation rows, as many as both
    have. acc_i is the accuracy of w_i + dw_i on the validation rows. u_i = Gamma dw_i / ‖dw_i‖,
    u_N = sum_i n_i u_i / sum n, and v_i = the largest entries of u_N in every tensor of the model,
    min(ceil(q_i len), len - 1) of them and all that are equal to the last of these, with
    q_i = k_i tanh(beta r_i) / max_j tanh(beta r_j). Nobody receives anything in round 0. r_i is
    acc_i k_i² when a client is first heard, at least `floor`, normalised; a client's own update is
    rolled back.

    NEEDS VALIDATION DATA: the losses of N models on their own and on the validation rows, and N
    evaluations, a round; and O(N D + D log D).

    As in its code (commit b1f77f9), whose defaults these are, but for `kl_floor`. The text divides
    by KL where the code multiplies by k, which is 1 / KL in other units, and once where the code
    does so twice, in the reputation. What both call the distribution of losses is no histogram: it
    is the means of batches in the order of the batches, and that order is drawn anew for either
    side, so that entry l of p has nothing to do with entry l of q. Where losses vary little, KL is
    half the sum of the squared coefficients of variation of both: how uneven batches are, not how
    alike. `loss_vectors="sorted"` compares what the text means, quantiles: the mean losses of as
    many groups of examples, ranked by loss, as there are batches.

    A client of one batch, of 64 examples or fewer, has p = q = 1 and KL = 0: there k, and with it
    every reputation, is no number in the code. So a KL counts at least `kl_floor`, 1/64 by default:
    that is what KL is by chance, (1/64 + 1/64) / 2, where the loss of one example has a coefficient
    of variation of 1. A smaller one would say that nothing is known of a client, and give it the
    largest k of all. Early in training losses hardly vary, and most k are 1 for this reason.

    Assumed: k is of the clients present; a loss that is no number has KL = infinity, k = 0; a
    client that joins later starts as in round 0, but is paid at once.

    Args:
      network: evaluates models on the validation rows.
      tensors: sizes of the model's tensors, for scope "tensor".
      gamma: Gamma > 0, the norm of every upload.
      alpha: weight of the old reputation, in [0, 1].
      beta: >= 0, infinity allowed; the README's run on MNIST has 5.
      floor: smallest reputation before normalising.
      gamma_decay: d in (0, 1], Gamma_t = Gamma d^t.
      norm_epsilon: added to ‖dw_i‖.
      kl_floor: least KL that counts, > 0.
      loss_vectors: "shuffled" or "sorted".
      scope: as in `reward.sparsify`.
      count: likewise.
      ties: likewise.
      batch: examples of a batch of losses.

    Raises:
      ValueError: a number is out of range or a word another one, there is no network, or (when
        traced) uploads without losses.

    Reference:
      Wang et al., FedAVE: Adaptive Data Value Evaluation Framework for Collaborative Fairness in
      Federated Learning, Neurocomputing 574, 2024; wangzihuixmu/FedAVE, b1f77f9. Read: the code,
      and of the text a digest.
    """
    checks.numbers(ALPHA.allowed, alpha=alpha)
    checks.numbers(BETA.allowed, beta=beta)
    checks.numbers(FLOOR.allowed, floor=floor)
    checks.numbers(KL_FLOOR.allowed, kl_floor=kl_floor)
    checks.choice("loss_vectors", loss_vectors, "shuffled", "sorted")
    accuracy, mean = validation_accuracy(network), by_size()
    rescale = to_norm(gamma, norm_epsilon, gamma_decay)

    def masked(ratio: Array) -> Reward:
        return by_ratio(lambda *_: ratio, scope=scope, tensors=tensors, count=count, ties=ties)

    def init(num_clients: int, num_parameters: int) -> FedAVEState:
        nothing = jnp.zeros(num_clients)
        masked(nothing).init(num_clients, num_parameters)  # refuses tensors of another model
        return FedAVEState(nothing, nothing > 0)

    def update(
        key: jax.Array, upload: Upload, state: FedAVEState
    ) -> tuple[Download, Standing, FedAVEState]:
        present, old = upload.present, state.reputation
        if upload.losses is None:
            raise ValueError("fedave needs uploads with losses, see Settings.losses")
        keys = vectors.draws(key, upload.numbers, present.size)
        apart = divergences(keys, upload.losses, batch, ordered=loss_vectors == "sorted")
        k = closeness(jnp.maximum(apart, kl_floor), present)
        score, _ = scored(accuracy, key, upload, upload.server, upload.norms, ())
        score = score * k**2
        sent = upload._replace(scales=rescale(upload.norms, upload.round))
        aggregate, weights, _ = mean.update(key, sent, Standing(score, old), ())
        r = jnp.where(state.joined, alpha * old + (1 - alpha) * score, score)
        reputation = renewed(jnp.maximum(r, floor), old, present).astype(old.dtype)
        ratio = k * ratios(reputation, present, beta, entries=aggregate.size)
        ratio = jnp.where(upload.round > 0, ratio, 0.0)
        standing = Standing(score, reputation)
        reward = masked(ratio)
        rewards, quota, _ = reward.update(key, sent, aggregate, standing, ())
        energy = None
        if reward.energy is not None:
            energy = reward.energy(sent, aggregate, standing, quota)
        new = FedAVEState(reputation, state.joined | present)
        return Download(aggregate, weights, rewards, quota, energy), standing, new

    needs = accuracy.needs._replace(validation=True, losses=True)
    return Algorithm(init, update, needs=needs)


def closeness(apart: Array, present: Array) -> Array:
    """k_i [N]: 1 / KL_i over the largest of those present, 0 where a client is absent."""
    near = jnp.where(present & jnp.isfinite(apart), 1 / apart, 0.0)
    most = jnp.max(near)
    return near / jnp.where(most > 0, most, 1.0)


def divergences(keys: Array, losses: Losses, batch: int, *, ordered: bool = False) -> Array:
    """KL_i [N] between a model's losses on its client's examples and on the validation rows.

    Args:
      keys: [N], draw the orders.
      losses: before training.
      batch: examples of an entry.
      ordered: whether entries are groups by rank, and not by a drawn order.
    """
    rows = losses.validation.shape[1]
    most = min(-(-losses.own.shape[1] // batch), -(-rows // batch))  # entries, at most

    def one(key: jax.Array, own: Array, held: Array, validation: Array) -> Array:
        every = jnp.ones(rows, bool)
        number = jnp.sum(held)
        length = jnp.minimum(-(-number // batch), -(-rows // batch))
        pair = []
        for draw, values, valid in zip(
            jax.random.split(key), (own, validation), (held, every), strict=True
        ):
            by = values if ordered else jax.random.uniform(draw, values.shape)
            order = jnp.argsort(jnp.where(valid, by, jnp.inf))  # padding slots stand last
            place = jnp.arange(values.size)
            size = jnp.maximum(jnp.sum(valid), 1)
            group = _group(place, length, size, most) if ordered else place // batch
            group = jnp.where(place < jnp.sum(valid), group, most)
            ranked = jnp.where(valid, values, 0.0)[order]
            total = jnp.zeros(most, values.dtype).at[group].add(ranked, mode="drop")
            count = jnp.zeros(most, values.dtype).at[group].add(1.0, mode="drop")
            pair.append(total / jnp.maximum(count, 1))
        left, right = pair
        return divergence(left, right, length)

    return jax.vmap(one)(jnp.asarray(keys), losses.own, losses.held, losses.validation)


def _group(place: Array, length: Array, size: Array, most: int) -> Array:
    """floor(place length / size) < most, where the product may be beyond an int32."""
    later = jnp.minimum(jnp.arange(1, most), length)  # no start is beyond the size
    starts = later * (size // length) - (-later * (size % length)) // length
    return jnp.searchsorted(starts, place, side="right")


def divergence(left: Array, right: Array, length: Array) -> Array:
    """sum_l p_l log(p_l / q_l) of the first `length` entries, p and q in proportion to them: [].

    A loss of 0 counts as next to nothing, for its logarithm.
    """
    among = jnp.arange(left.size) < length
    least = jnp.finfo(left.dtype).eps ** 2
    p, q = (jnp.where(among, jnp.maximum(x, least), 0.0) for x in (left, right))
    p, q = (x / jnp.maximum(jnp.sum(x), least) for x in (p, q))
    logs = jnp.log(jnp.where(among, p, 1.0)) - jnp.log(jnp.where(among, q, 1.0))
    return jnp.sum(jnp.where(among, p * logs, 0.0))


_MASK = SPARSIFY.options
FEDAVE = Spec(
    fedave,
    {
        "gamma": GAMMA,
        "gamma_decay": GAMMA_DECAY,
        "norm_epsilon": NORM_EPSILON,
        "alpha": ALPHA,
        "floor": FLOOR,
        "beta": BETA,
        "kl_floor": KL_FLOOR,
        "loss_vectors": Choice(
            "shuffled",
            ("shuffled", "sorted"),
            "fedave: losses are compared batch by batch in drawn orders, or quantile by quantile",
        ),
        "scope": _MASK["scope"],
        "count": _MASK["count"],
        "ties": _MASK["ties"],
    },
    defaults={
        **{"alpha": 0.95, "beta": 2.0, "norm_epsilon": 1e-7},
        **{"mask_scope": "tensor", "mask_count": "ceil", "mask_ties": "all"},
    },
    given=("network", "tensors"),
)
