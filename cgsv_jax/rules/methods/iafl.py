"""IAFL: incentives by how many other clients' updates one receives."""

import functools

import chex
import jax

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.aggregation import uniform
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.contribution import cosine
from cgsv_jax.rules.reputation import (
    STANDALONE_ON,
    moving_average,
    participation_rate,
    size_share,
    standalone_accuracy,
)
from cgsv_jax.rules.reward import KAPPA, mix
from cgsv_jax.rules.spec import Choice, Number, Spec, When
from cgsv_jax.types import Algorithm, Array, PRNGKey

RECOVERY = Number(
    0.0,
    Interval(0, 1),
    "iafl: probability of starting a round from the reference model",
    "recovery",
)
_BY = ("size", "accuracy", "participation", "cosine")
_MEMORY = 0.95  # CGSV's alpha


def iafl(
    kappa: chex.Numeric = 0.0,
    recovery: chex.Numeric = 0.0,
    by: str = "size",
    standalone_on: str = "validation",
) -> Algorithm:
    """v_i = the mean of dw_i and of ceil(gamma_i (N - 1)) others' updates.

    gamma_i = (p_i / max p)^(1 - kappa), p_i what client i contributes; the others are drawn
    uniformly in every round. Before a round, with probability `recovery`, a client gives its model
    up for the reference model, then trains it and is rewarded as ever. The reference model moves by
    the reward of the client with the largest p, which is the mean update: it is the server's.
    O(N^2 D) a round, one N x N matrix product.

    No validation data, except with `by="accuracy"`, which NEEDS it and as much training again as
    the run has: a client first trains alone (see `simulation.train_alone`).

    As in its code, whose defaults these are, with these differences. It reads standalone accuracies
    on the TEST set, which enters a decision here only where that is asked for, and of training
    without decay. It is told the rates of participation, which here are those of the rounds so far.
    An absent client gets nothing here, and keeps its model; there it is rewarded, and may recover,
    like the others. The largest p is that of the clients present, there that of all. The download
    of a recovery is not counted.

    Args:
      kappa: in [0, 1]; 1 gives everybody everything.
      recovery: q of the original, in [0, 1].
      by: what p is: "size", the share of the data; "accuracy", that of the standalone model;
        "participation", the share of rounds; "cosine", CGSV's reputation with alpha = .95, which is
        not in its text or code: what it pays without an oracle. Clients of equal p, as by size
        under equal sizes, all get everything.
      standalone_on: the rows of that accuracy, "validation", or "test" as in its code.

    Raises:
      ValueError: `by` or `standalone_on` is another word.

    Reference:
      Wu et al., Incentive-Aware Federated Learning with Training-Time Model Rewards, ICLR 2024;
      ZhaoxuanWu/Incentive-Aware-FL, 732ffeb.
    """
    checks.numbers(RECOVERY.allowed, recovery=recovery)
    measured = {
        "size": size_share,
        "accuracy": functools.partial(standalone_accuracy, standalone_on),
        "participation": participation_rate,
        "cosine": functools.partial(moving_average, cosine(), _MEMORY),
    }[checks.choice("contribution_by", by, *_BY)]
    checks.choice("standalone_on", standalone_on, *STANDALONE_ON.allowed)

    def recovers(key: PRNGKey, round_: Array, numbers: Array) -> Array:
        del round_
        keys = vectors.draws(key, numbers, numbers.size)
        return jax.vmap(lambda key: jax.random.bernoulli(key, recovery))(keys)

    return compose(measured(), uniform(), mix(kappa))._replace(recovers=recovers)


IAFL = Spec(
    iafl,
    {
        "kappa": KAPPA,
        "recovery": RECOVERY,
        "by": Choice(
            "size",
            _BY,
            "iafl: what a client contributes: its size, the accuracy it reaches alone (trained "
            "before the run, judged on validation rows), its participation in the rounds so far or "
            "cgsv's reputation",
            flag="contribution_by",
        ),
        "standalone_on": STANDALONE_ON._replace(when=When(("contribution_by",), ("accuracy",))),
    },
)
