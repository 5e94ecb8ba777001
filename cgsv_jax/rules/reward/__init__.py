"""What each client gets back. A new rule is one file and one line of `REWARDS`."""

from cgsv_jax.rules.reward.mix import KAPPA, mix
from cgsv_jax.rules.reward.others import less_own, of_others
from cgsv_jax.rules.reward.ranked import no_better
from cgsv_jax.rules.reward.ratio import BETA, ratios, times_size
from cgsv_jax.rules.reward.scale import SCALE, scale
from cgsv_jax.rules.reward.share import own_update, share_all
from cgsv_jax.rules.reward.sparsify import SPARSIFY, TIES, by_ratio, quotas, sparsify
from cgsv_jax.rules.spec import Spec

REWARDS = {
    "sparsify": SPARSIFY,
    "scale": SCALE,
    "share": Spec(share_all),
}

__all__ = [
    "BETA",
    "KAPPA",
    "REWARDS",
    "SPARSIFY",
    "TIES",
    "by_ratio",
    "less_own",
    "mix",
    "no_better",
    "of_others",
    "own_update",
    "quotas",
    "ratios",
    "scale",
    "share_all",
    "sparsify",
    "times_size",
]
