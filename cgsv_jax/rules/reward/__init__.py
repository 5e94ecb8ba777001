"""What each client gets back. A new rule is one file and one line of `REWARDS`."""

from cgsv_jax.rules.reward.mix import mix
from cgsv_jax.rules.reward.others import less_own, of_others
from cgsv_jax.rules.reward.ranked import no_better
from cgsv_jax.rules.reward.ratio import ratios, times_size
from cgsv_jax.rules.reward.scale import scale
from cgsv_jax.rules.reward.share import own_update, share_all
from cgsv_jax.rules.reward.sparsify import quotas, sparsify

# name -> (hyper, options) -> Reward
REWARDS = {
    "sparsify": lambda hyper, options: sparsify(
        hyper.beta,
        scope=options.mask_scope,
        tensors=options.tensors,
        count=options.mask_count,
        ties=options.mask_ties,
        beta_on=options.beta_on,
    ),
    "scale": lambda hyper, options: scale(hyper.beta, beta_on=options.beta_on),
    "share": lambda hyper, options: share_all(),
}

__all__ = [
    "REWARDS",
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
