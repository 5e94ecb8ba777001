"""Named methods. A new method is one file, one line of `ALGORITHMS` and one of `READS`."""

from cgsv_jax.rules.aggregation import AGGREGATIONS
from cgsv_jax.rules.compose import ComposedState, compose, needs_of
from cgsv_jax.rules.contribution import CONTRIBUTIONS, validation_shapley
from cgsv_jax.rules.methods.cffl import cffl
from cgsv_jax.rules.methods.cgsv import cgsv, cgsv_released
from cgsv_jax.rules.methods.eci import eci
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.methods.fedavg_finetuned import fedavg_finetuned
from cgsv_jax.rules.methods.iafl import iafl
from cgsv_jax.rules.methods.q_ffl import q_ffl
from cgsv_jax.rules.methods.random_reward import random_reward
from cgsv_jax.rules.methods.rank import rank
from cgsv_jax.rules.methods.rffl import rffl
from cgsv_jax.rules.methods.shapfed_wa import shapfed_wa
from cgsv_jax.rules.methods.size_weighted import size_weighted
from cgsv_jax.rules.methods.standalone import standalone
from cgsv_jax.rules.removal import Removal
from cgsv_jax.rules.reward import REWARDS
from cgsv_jax.rules.then import then
from cgsv_jax.types import Algorithm, Contribution, Hyper, Options


def _cgsv(hyper: Hyper, options: Options) -> Algorithm:
    return cgsv(
        hyper.gamma,
        hyper.alpha,
        hyper.beta,
        floor=hyper.floor,
        norm_epsilon=hyper.norm_epsilon,
        relative_floor=options.relative_floor,
        normalise_scores=options.normalise_scores,
        contribution=CONTRIBUTIONS[options.contribution](hyper, options),
        aggregation=AGGREGATIONS[options.aggregation](hyper, options),
        reward=REWARDS[options.reward](hyper, options),
        removal=Removal(hyper.removal, alone=options.removed == "alone")
        if options.removes
        else None,
    )


def _cffl(hyper: Hyper, options: Options) -> Algorithm:
    return cffl(
        options.network,
        hyper.clip,
        hyper.alpha,
        hyper.removal,
        gamma=hyper.gamma if options.clip_by == "norm" else None,
        growth=hyper.growth,
        rounds=options.rounds,
        combine=options.combine,
        own_off=options.own_off,
        removed=options.removed,
        ties=options.mask_ties,
    )


def _with_rules(build, *first):
    """A method that shares aggregation and reward with cgsv."""

    def builder(hyper: Hyper, options: Options) -> Algorithm:
        return build(
            *(argument(hyper, options) for argument in first),
            hyper.gamma,
            norm_epsilon=hyper.norm_epsilon,
            aggregation=AGGREGATIONS[options.aggregation](hyper, options),
            reward=REWARDS[options.reward](hyper, options),
        )

    return builder


def _index(hyper: Hyper, options: Options) -> Contribution:
    return validation_shapley(
        options.network, permutations=options.permutations, tolerance=hyper.tolerance
    )


# name -> (hyper, options) -> Algorithm
ALGORITHMS = {
    "standalone": lambda hyper, options: standalone(),
    "fedavg": lambda hyper, options: fedavg(),
    "fedavg_finetuned": lambda hyper, options: fedavg_finetuned(
        options.rounds, AGGREGATIONS[options.aggregation](hyper, options)
    ),
    "q_ffl": lambda hyper, options: q_ffl(hyper.q),
    "size_weighted": lambda hyper, options: size_weighted(
        hyper.gamma,
        norm_epsilon=hyper.norm_epsilon,
        reward=REWARDS[options.reward](hyper, options),
    ),
    "random_reward": _with_rules(random_reward),
    "cffl": _cffl,
    "rffl": lambda hyper, options: rffl(
        hyper.gamma,
        hyper.alpha,
        hyper.removal,
        removed=options.removed,
        negative=options.negative,
        reward=REWARDS["sparsify"](hyper, options),
    ),
    "eci": _with_rules(eci, _index),
    "iafl": lambda hyper, options: iafl(hyper.kappa, hyper.recovery, options.contribution_by),
    "rank": lambda hyper, options: rank(options.network),
    "shapfed_wa": lambda hyper, options: shapfed_wa(
        options.network, hyper.alpha, options.broadcast, options.negative
    ),
    "cgsv": _cgsv,
}

_MASK = {"mask_scope", "mask_count", "mask_ties"}
_REWARD = {"reward", "beta", "beta_on", *_MASK}
_RULES = {"gamma", "norm_epsilon", "aggregation", "first_weights", *_REWARD}
# name -> the options beside those of training that it reads
READS: dict[str, set[str]] = {
    "standalone": set(),
    "fedavg": set(),
    "fedavg_finetuned": {"finetune_rounds", "finetune_optimizer", "aggregation", "first_weights"},
    "q_ffl": {"q"},
    "size_weighted": _REWARD | {"gamma", "norm_epsilon"},
    "random_reward": _RULES,
    "cffl": {"clip", "clip_by", "gamma", "alpha", "growth", "combine", "own_off", "mask_ties"}
    | {"removal", "removal_imbalanced", "removed"},
    "rffl": _REWARD - {"reward"} | {"gamma", "alpha", "negative", "removal", "removed"},
    "eci": _RULES | {"permutations", "tolerance"},
    "iafl": {"kappa", "recovery", "contribution_by"},
    "rank": set(),
    "shapfed_wa": {"alpha", "broadcast", "negative"},
    "cgsv": _RULES
    | {"alpha", "floor", "relative_floor", "normalise_scores", "cosine_epsilon"}
    | {"removal", "removed"}
    | {"contribution", "game", "permutations", "tolerance", "scale_values"},
}
# Methods that go on for `finetune_rounds` after the last round.
STAGED = {"fedavg_finetuned"}

__all__ = [
    "ALGORITHMS",
    "READS",
    "STAGED",
    "ComposedState",
    "Removal",
    "cffl",
    "cgsv",
    "cgsv_released",
    "compose",
    "eci",
    "fedavg",
    "fedavg_finetuned",
    "iafl",
    "needs_of",
    "q_ffl",
    "random_reward",
    "rank",
    "rffl",
    "shapfed_wa",
    "size_weighted",
    "standalone",
    "then",
]
