"""Everybody alone: the standalone baseline, which fairness is held against."""

from cgsv_jax.rules.aggregation import uniform
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.reputation import size_share
from cgsv_jax.rules.reward import own_update
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Algorithm


def standalone() -> Algorithm:
    """w_i += dw_i: the same local training, no federation. O(N D) a round.

    The server's model is then the mean of the clients' models, which nobody receives.
    """
    return compose(size_share(), uniform(), own_update())


STANDALONE = Spec(standalone)
