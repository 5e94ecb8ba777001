"""Ditto: a personal model beside the shared one, held near it."""

import math

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.spec import Number, Spec
from cgsv_jax.types import (
    Aggregation,
    Algorithm,
    Array,
    ArrayTree,
    Download,
    Local,
    PRNGKey,
    Standing,
    Upload,
)

PERSONAL = Number(
    0.1,
    Interval(0, math.inf, "[)"),
    "ditto: how strongly personal models are pulled to the shared one; 0 is standalone",
    "lambda",
)


def ditto(personal_pull: chex.Numeric = 0.1, aggregation: Aggregation | None = None) -> Algorithm:
    """Client i descends F_i(w_i) + lambda/2 ‖w_i - w_N‖² beside FedAvg, whose w_N it is pulled to.

    Every participant trains twice in a round: from w_N, which gives the upload dw_i and
    u_N = sum_i n_i dw_i / sum_i n_i, and from its own w_i, with lambda (w_i - w_N) added to the
    gradient of every step; what that makes of w_i is v_i. The rows of clients are the personal
    models, so these are evaluated, and fairness is defined; the server's model is FedAvg's.
    lambda = 0 is standalone training, bit for bit. No validation data is needed. O(N D) a round of
    the server, twice the local training of `fedavg`.

    Both models are trained in the same local epochs over the same order of examples. The paper
    leaves open how many steps the personal model takes; w_N is that from before the round, as in
    its Algorithm 1. The optimizer of the personal model stays with the client; that of the upload,
    which starts from another model every round, is a new one in every round. Quota and energy are
    those of w_N, which everybody receives whole.

    Args:
      personal_pull: lambda >= 0; the paper tunes it in .05 .. 2. Where eta lambda is above 2 every
        step overshoots w_N farther.
      aggregation: another aggregation than `by_size()`; the paper's argument for robustness is
        that a personal model may keep away from a w_N that attackers have spoilt.

    Raises:
      ValueError: lambda is out of range.

    Reference:
      Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021,
      Algorithm 1.
    """
    checks.numbers(PERSONAL.allowed, personal_pull=personal_pull)
    shared = fedavg(aggregation)

    def broadcast(state: ArrayTree, server: Array, round_: Array) -> tuple[ArrayTree, ArrayTree]:
        del state, round_
        return server, ()

    def pull(weights: Array, start: Array, server: ArrayTree, own: ArrayTree) -> Array:
        del start, own
        return personal_pull * (weights - server)  # the gradient of lambda/2 ‖w_i - w_N‖²

    def update(
        key: PRNGKey, upload: Upload, state: ArrayTree
    ) -> tuple[Download, Standing, ArrayTree]:
        if upload.own is None:
            raise ValueError("ditto needs uploads with own, the training of personal models")
        download, standing, state = shared.update(key, upload, state)
        rewards = jnp.where(upload.present[:, None], upload.own, 0.0)  # v_i
        return download._replace(rewards=rewards), standing, state

    return Algorithm(
        shared.init,
        jax.jit(update),
        needs=shared.needs._replace(personal=True),
        personal=Local(pull, broadcast),
    )


DITTO = Spec(
    ditto,
    {"personal_pull": PERSONAL},
    parts={"aggregation": "reputation"},
    defaults={"aggregation": "size"},
)
