"""ShapFed-WA: class by class agreement of the last layer decides who leads and who gets what."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.rules.reputation import ALPHA, NEGATIVE
from cgsv_jax.rules.shares import over_present, renewed
from cgsv_jax.rules.spec import Choice, Spec
from cgsv_jax.types import Algorithm, Array, Download, Network, Standing, Upload


class ShapFedState(NamedTuple):
    """What the next round starts from."""

    gamma: Array  # [N] averaged agreement, in [0, 1]
    joined: Array  # [N] bool, who has ever been heard
    reputation: Array  # [N]


def shapfed_wa(
    network: Network | None,
    memory: chex.Numeric = 0.9,
    broadcast: str = "gamma",
    negative: str = "zero",
) -> Algorithm:
    """gamma_i = mean_c cos(dW_{i,c}, dW_{N,c}), averaged; w_N leads by it, w_i receives by it.

    dW_c is the update of the last layer's weights and bias of class c, and dW_N the sum of those of
    the clients in proportion to the previous gamma (at first alike; a newcomer has the mean of
    those present). gamma_i = mu gamma_i + (1 - mu) gamma_i of this round, at least 0. The server's
    model is w_N = sum_i a_i (w_i + dw_i), a_i = gamma_i / sum gamma, and client i goes on from
    gamma_i w_N + (1 - gamma_i) (w_i + dw_i).

    No validation data. O(N D) a round, O(N C F) of it for the scores. The quota is D. Where sources
    differ: gamma is not normalised in the broadcast, as in the paper and the released script for
    synthetic data; dW_c are updates, as in the one for CIFAR, and not the layers themselves. The
    code has no floor of 0 (`negative="kept"`): a client that points away weighs less than nothing.

    Args:
      network: knows the places of the last layer.
      memory: mu, in [0, 1].
      broadcast: what client i receives of w_N: "gamma", gamma_i; "sum", a_i, as the released script
        for CIFAR does; "max", gamma_i / max gamma, which stands there beside it.
      negative: "zero" or "kept", of gamma below 0.

    Raises:
      ValueError: the network has no last layer that can be told, or a word is another one.

    Reference:
      Tastan et al., Redefining Contributions: Shapley-Driven Federated Learning, IJCAI 2024;
      tnurbek/shapfed, 5771a37.
    """
    checks.numbers(ALPHA.allowed, memory=memory)
    checks.choice("broadcast", broadcast, "gamma", "sum", "max")
    least = 0.0 if checks.choice("negative", negative, "zero", "kept") == "zero" else -jnp.inf
    places = None if network is None else network.output()
    if places is None:
        raise ValueError("shapfed_wa needs a model whose last layer is a kernel [F, C] and a bias")

    def init(num_clients: int, num_parameters: int) -> ShapFedState:
        del num_parameters
        nothing = jnp.zeros(num_clients)
        return ShapFedState(nothing, nothing > 0, nothing)

    def update(
        key: jax.Array, upload: Upload, state: ShapFedState
    ) -> tuple[Download, Standing, ShapFedState]:
        del key
        present, deltas = upload.present, upload.deltas
        layer = jnp.moveaxis(deltas[:, places], 1, 0)  # [C, N, F]
        heard = state.joined & present
        known = jnp.sum(jnp.where(heard, state.gamma, 0.0))
        mean = known / jnp.maximum(jnp.sum(heard), 1)
        before = jnp.where(state.joined, state.gamma, jnp.where(known > 0, mean, 1.0))
        before = over_present(before, present)
        whole = jnp.einsum("n,cnf->cf", before, layer, precision="highest")
        agreement = vectors.cosines_of_parts(layer, whole)  # [C, N]
        score = jnp.where(present, jnp.mean(agreement, axis=0), 0.0)
        averaged = memory * state.gamma + (1 - memory) * score
        gamma = jnp.clip(jnp.where(state.joined, averaged, score), least, 1.0)
        gamma = jnp.where(present, gamma, state.gamma).astype(state.gamma.dtype)
        weights = over_present(gamma, present)  # a_i
        moved = vectors.weighted_sum(weights, upload.clients) + vectors.weighted_sum(
            weights, deltas
        )
        aggregate = jnp.where(jnp.any(present), moved - upload.server, 0.0)
        own = upload.clients + deltas
        most = jnp.max(jnp.where(present, gamma, 0.0))
        most = jnp.where(most > 0, most, 1.0)
        part = {"gamma": gamma, "sum": weights, "max": gamma / most}[broadcast]
        rewards = part[:, None] * (moved[None, :] - own) + deltas
        rewards = jnp.where(present[:, None], rewards, 0.0)
        quota = jnp.where(present, aggregate.size, 0).astype(jnp.int32)
        old = state.reputation
        reputation = renewed(gamma, old, present).astype(old.dtype)
        joined = state.joined | present
        new = ShapFedState(gamma, joined, reputation)
        return Download(aggregate, weights, rewards, quota), Standing(score, reputation), new

    return Algorithm(init, update)


SHAPFED_WA = Spec(
    shapfed_wa,
    {
        "memory": ALPHA._replace(flag="alpha"),
        "broadcast": Choice(
            "gamma",
            ("gamma", "sum", "max"),
            "shapfed_wa: what a client receives of the server's model: gamma, or gamma over its "
            "sum or over its max",
        ),
        "negative": NEGATIVE,
    },
    defaults={"alpha": 0.9},
    given=("network",),
)
