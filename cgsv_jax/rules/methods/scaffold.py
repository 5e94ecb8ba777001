"""SCAFFOLD: federated averaging whose clients know in which direction the others go."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.rules.aggregation import SERVER_RATE, by_size, descent, shares, stepped, uniform
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.spec import Choice, Spec
from cgsv_jax.types import (
    Algorithm,
    Array,
    ArrayTree,
    Download,
    Local,
    PRNGKey,
    Standing,
    Upload,
)

_MEANS = {"uniform": uniform, "size": by_size}


class Variates(NamedTuple):
    """FedAvg's state, and the control variates."""

    averaging: ArrayTree
    shared: Array  # [D] c
    own: Array  # [N, D] c_i


def scaffold(rate: chex.Numeric = 1.0, weights: str = "uniform") -> Algorithm:
    """Clients step along g_i(w) + c - c_i; u_N = eta_g x the mean update, whole to everybody.

    Without c - c_i, E > 1 epochs lead each client towards its own optimum, and FedAvg's fixed point
    is not the optimum of the mean loss; with it, w* is where nobody moves. After a round of K_i
    steps the clients S that were present have

        c_i+ = c_i - c + (w_N - y_i) / (K_i eta)    (option II)
        c    = c + sum_{i in S} a_i (c_i+ - c_i)

    with a_i = 1 / N, so that c = sum_i a_i c_i always; who is absent keeps c_i. For plain SGD this
    c_i+ is the mean gradient of the client's K_i steps, and as that it is computed: each weighted
    by the eta of its step, where eta decays within a round. So it means the same under momentum and
    Adam, where (w_N - y_i) / (K_i eta) is no gradient; what its authors prove is about SGD alone.

    N D numbers of state (c_i), and N D in a round (the mean gradients). A client sends twice as
    much as under FedAvg, its update and its mean gradient, and receives c too. An attack forges its
    update, not its mean gradient. O(N D) a round.

    All clients hold one model, so fairness is undefined. No validation data is needed.

    Args:
      rate: eta_g, above 0.
      weights: of the clients in u_N (of those present) and in c: "uniform", as in the paper, which
        leads to the optimum of the mean of their losses, or "size", n_i / sum n.

    Raises:
      ValueError: `rate` is out of range, `weights` another word, or (when its state is updated)
        uploads have no gradients.

    Reference:
      Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML
      2020, Algorithm 1.
    """
    mean = _MEANS[checks.choice("variate_weights", weights, *_MEANS)]
    averaging = fedavg(stepped(mean(), descent(rate)))

    def init(num_clients: int, num_parameters: int) -> Variates:
        return Variates(
            averaging.init(num_clients, num_parameters),
            jnp.zeros(num_parameters),
            jnp.zeros((num_clients, num_parameters)),
        )

    def update(
        key: PRNGKey, upload: Upload, state: Variates
    ) -> tuple[Download, Standing, Variates]:
        if upload.gradients is None:
            raise ValueError("scaffold needs uploads with gradients (see Local.with_gradient)")
        download, standing, inner = averaging.update(key, upload, state.averaging)
        gradients = upload.gradients.astype(state.own.dtype)
        own = jnp.where(upload.present[:, None], gradients, state.own)  # c_i+
        parts = shares(upload, weights).astype(own.dtype)  # a_i, of all N
        parts = jnp.where(upload.present, parts, 0.0)
        shared = state.shared + vectors.weighted_sum(parts, own - state.own)
        return download, standing, Variates(inner, shared, own)

    def broadcast(state: Variates, server: Array, round_: Array) -> tuple[Array, Array]:
        del server, round_
        return state.shared, state.own

    def pull(weights: Array, start: Array, shared: Array, own: Array) -> Array:
        del start
        return (shared - own).astype(weights.dtype)  # c - c_i

    local = Local(pull, broadcast, with_gradient=True, news=1)
    return averaging._replace(init=init, update=jax.jit(update), local=local)


SCAFFOLD = Spec(
    scaffold,
    {
        "rate": SERVER_RATE,
        "weights": Choice(
            "uniform",
            tuple(_MEANS),
            "scaffold: weights of the clients, uniform or size",
            flag="variate_weights",
        ),
    },
)
