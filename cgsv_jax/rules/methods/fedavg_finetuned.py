"""FedAvg, then some rounds alone: a shared model that has a fairness."""

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import from_
from cgsv_jax.rules.aggregation import uniform
from cgsv_jax.rules.compose import compose
from cgsv_jax.rules.methods.standalone import standalone
from cgsv_jax.rules.reputation import size_share
from cgsv_jax.rules.reward import share_all
from cgsv_jax.rules.spec import Choice, Count, Spec
from cgsv_jax.rules.then import then
from cgsv_jax.types import Aggregation, Algorithm

FINETUNE_ROUNDS = Count(1, from_(1), "rounds alone at the end of fedavg_finetuned", "rounds alone")


def fedavg_finetuned(
    rounds: int,
    aggregation: Aggregation | None = None,
    *,
    finetune_rounds: int = 1,
    finetune_optimizer: str = "new",
) -> Algorithm:
    """u_N = mean of dw_i, given whole to everybody, for T rounds; then local training alone.

    Under FedAvg all clients hold one model, so fairness is undefined; after further local epochs
    each has its own. It needs as many rounds more as are trained alone, by a new optimizer at the
    rate of round 0 (`local.trainer(afresh=T)`). No validation data is needed. O(N D) a round.

    Args:
      rounds: T, of the first stage.
      aggregation: another aggregation than `uniform()`, for instance `by_size()`, that of `fedavg`.
      finetune_rounds: rounds of the second stage, at least 1.
      finetune_optimizer: there "new", at the rate of round 0, or "kept", with its state and rate.

    Raises:
      ValueError: a number or a word is another.

    Reference:
      The "FedAvg finetune" of Wu et al., ICLR 2024, whose extra local epochs make fairness defined;
      ZhaoxuanWu/Incentive-Aware-FL, 732ffeb, which averages uniformly.
    """
    checks.numbers(FINETUNE_ROUNDS.allowed, finetune_rounds=finetune_rounds)
    afresh = checks.choice("finetune_optimizer", finetune_optimizer, "new", "kept") == "new"
    shared = compose(size_share(), aggregation or uniform(), share_all(), common=True)
    staged = then(shared, standalone(), rounds)
    return staged._replace(needs=staged.needs._replace(more_rounds=finetune_rounds, afresh=afresh))


FEDAVG_FINETUNED = Spec(
    fedavg_finetuned,
    {
        "finetune_rounds": FINETUNE_ROUNDS,
        "finetune_optimizer": Choice(
            "new",
            ("new", "kept"),
            "there: new, at the rate of round 0, or kept, with its state and rate",
        ),
    },
    parts={"aggregation": "reputation"},
    defaults={"aggregation": "uniform"},
    given=("rounds",),
)
