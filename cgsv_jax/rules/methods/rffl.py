"""RFFL, the predecessor: cosine reputations, clients keep their updates, the low are removed."""

import chex
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.aggregation import by_reputation
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.contribution import cosine
from cgsv_jax.rules.removal import REMOVAL, REMOVED, Removal
from cgsv_jax.rules.reputation import ALPHA, NEGATIVE, moving_average
from cgsv_jax.rules.rescale import GAMMA, GAMMA_DECAY, at_most
from cgsv_jax.rules.reward import SPARSIFY, sparsify
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Algorithm, Reward


def rffl(
    gamma: chex.Numeric = 0.5,
    alpha: chex.Numeric = 0.95,
    removal: chex.Numeric = 1 / 3,
    *,
    gamma_decay: chex.Numeric = 1.0,
    removed: str = "alone",
    negative: str = "zero",
    reward: Reward | None = None,
) -> Algorithm:
    """u_i = dw_i clipped to Gamma, kept by the client; r_i as in `cgsv` without a floor.

    u_N = sum_i r_i u_i (shares of the data in the first round); r_i = alpha r_i +
    (1 - alpha) cos(u_i, u_N), at least 0, normalised; v_i = u_i + the r_i / max r largest entries
    of u_N. From round 10 on, who falls below removal / |R| receives nothing of u_N any more, from
    that round on. No validation data is needed. O(N D + D log D) a round.

    Its code (commit 1bd73d7) masks tensor by tensor, ceil of the length times r_i / max r, and
    keeps all entries at the threshold: the defaults of the command. It also keeps what is below 0
    (`negative="kept"`), a negative weight without download, and then divides by a sum that may be
    0 or less: a mistake. Its authors' tables need r_i / max r bent to tanh(2 r_i / max r), which
    the code lacks (its issue 4): a reward with `beta` 2 on the maximum. There the bent r is fed
    back as well, here it only decides what is received.

    Args:
      gamma: Gamma > 0, the greatest norm of an upload.
      alpha: weight of the old reputation, in [0, 1].
      removal: share of the mean reputation below which a client is removed; 0 removes nobody.
      gamma_decay: d in (0, 1], Gamma_t = Gamma d^t.
      removed: "alone" lets a removed client go on training by itself, as the code does; "frozen"
        leaves it the model it has.
      negative: "zero" or "kept", of reputations below 0.
      reward: another reward than `sparsify(0)`, whose ratio is r_i / max r over the whole vector.

    Raises:
      ValueError: a choice is another word.

    Reference:
      Xu and Lyu, A Reputation Mechanism Is All You Need, arXiv:2011.10464, 2020.
    """
    alone = checks.choice("removed", removed, "alone", "frozen") == "alone"
    least = 0.0 if checks.choice("negative", negative, "zero", "kept") == "zero" else -jnp.inf
    return compose(
        moving_average(cosine(), alpha, floor=least),
        by_reputation(),
        reward or sparsify(0.0),
        rescale=at_most(gamma, gamma_decay),
        removal=Removal(removal, alone=alone),
        keeps_own=True,
    )


RFFL = Spec(
    rffl,
    {
        "gamma": GAMMA,
        "gamma_decay": GAMMA_DECAY,
        "alpha": ALPHA,
        "removal": REMOVAL,
        "removed": REMOVED,
        "negative": NEGATIVE,
    },
    parts={"reward": SPARSIFY},
    defaults={
        **{"removal": 1 / 3, "removed": "alone", "beta": 0.0, "beta_on": "max"},
        **{"mask_scope": "tensor", "mask_count": "ceil", "mask_ties": "all"},
    },
)
