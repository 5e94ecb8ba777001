"""CFFL: credit by validation accuracy, downloads by credit and data."""

import chex

from cgsv_jax.core import checks
from cgsv_jax.rules.aggregation import added, by_size_of_all
from cgsv_jax.rules.compose import CLIP, compose
from cgsv_jax.rules.contribution import validation_accuracy
from cgsv_jax.rules.removal import REMOVAL, REMOVED, Removal
from cgsv_jax.rules.reputation import ALPHA, GROWTH, sharpened
from cgsv_jax.rules.rescale import GAMMA, GAMMA_DECAY, at_most
from cgsv_jax.rules.reward import TIES, less_own, of_others, sparsify
from cgsv_jax.rules.spec import Choice, Number, Spec, When
from cgsv_jax.types import Algorithm, Array, Network


def cffl(
    network: Network | None,
    clip: Array | float = 0.01,
    alpha: chex.Numeric = 0.8,
    removal: chex.Numeric = 1 / 3,
    *,
    clip_by: str = "entry",
    gamma: chex.Numeric = 0.5,
    gamma_decay: chex.Numeric = 1.0,
    sharpness: chex.Numeric = 5.0,
    growth: chex.Numeric = 0.0,
    rounds: int = 0,
    combine: str = "mean",
    own_off: str = "after",
    removed: str = "alone",
    ties: str = "all",
) -> Algorithm:
    """r_i = sinh(k x_i) / sum sinh(k x), x_i = alpha r_i + (1 - alpha) a_i / sum a.

    u_i = dw_i, every entry cut to [-clip, clip], kept by the client; a_i is the accuracy of
    w_i + u_i on the server's validation rows; k = 5 (1 + growth t / T). Who falls below
    removal / |R| is out before u_N = sum_i n_i u_i / sum n is made of the others, n summed over
    all. v_i = u_i + the floor(D r_i / max r n_i / max n) largest entries of u_N - n_i / max n u_i:
    where sizes are equal, a client keeps nothing of its own.

    NEEDS VALIDATION DATA: N evaluations a round, and O(N D + D log D), or O(N D log D) with
    `own_off="before"`. The defaults are what its code does (commit 5c8f854); the text has alpha .5.
    That code runs MNIST and Adult with growth 1, class imbalance with removal 1/6. Its MNIST script
    adds updates (`combine="sum"`) and draws the entries at random; that is not here, nor are
    uploads of a tenth of the entries, five epochs of training before, weights and quotas by the
    number of classes under class imbalance, or its masks by layer. A mistake there: who earns no
    entry gets all of them.

    Args:
      network: evaluates models on the validation rows.
      clip: greatest magnitude of an entry of an upload, > 0; the code has .01, CIFAR-10 .001.
      alpha: weight of the old credit, in [0, 1].
      removal: share of the mean credit below which a client is removed; 0 removes nobody.
      clip_by: "entry" cuts entries to `clip`, "norm" in its place vectors to `gamma`.
      gamma: greatest norm of an upload, > 0.
      gamma_decay: d in (0, 1], Gamma_t = Gamma d^t.
      sharpness: the factor k of the first round.
      growth: how much k has grown at the end of the run, >= 0; 1 doubles it.
      rounds: T.
      combine: "mean", or "sum": u_N = sum u_i, of which a client's own update is taken off whole.
      own_off: "after" the mask, or "before" the ranking, as much of u_i as is in u_N: then the
        client keeps most of its own.
      removed: "alone" lets a removed client go on training by itself; "frozen" leaves it the model
        it has.
      ties: "all" keeps all entries at the threshold, "position" exactly as many as earned.

    Raises:
      ValueError: a choice is another word.

    Reference:
      Lyu et al., Collaborative Fairness in Federated Learning, arXiv:2008.12161, 2020.
    """
    by_norm = checks.choice("clip_by", clip_by, "entry", "norm") == "norm"
    adds = checks.choice("combine", combine, "mean", "sum") == "sum"
    if checks.choice("own_off", own_off, "after", "before") == "after":
        reward = less_own(sparsify(0.0, ties=ties, by_size=True), added=adds)
    else:
        reward = of_others(added=adds, ties=ties)
    return compose(
        sharpened(validation_accuracy(network), alpha, sharpness, growth=growth, rounds=rounds),
        added() if adds else by_size_of_all(),
        reward,
        clip=None if by_norm else clip,
        rescale=at_most(gamma, gamma_decay) if by_norm else None,
        judged_first=True,
        removal=Removal(
            removal, first=0, alone=checks.choice("removed", removed, "alone", "frozen") == "alone"
        ),
        keeps_own=True,
    )


CFFL = Spec(
    cffl,
    {
        "clip_by": Choice(
            "entry",
            ("entry", "norm"),
            "cffl cuts updates entry by entry to --clip, or by norm to --gamma",
        ),
        "clip": CLIP._replace(when=When(("clip_by",), ("entry",))),
        "gamma": GAMMA._replace(when=When(("clip_by",), ("norm",))),
        "gamma_decay": GAMMA_DECAY._replace(when=When(("clip_by",), ("norm",))),
        "alpha": ALPHA,
        "growth": GROWTH,
        "combine": Choice(
            "mean", ("mean", "sum"), "cffl: the mean of updates by size, or their sum"
        ),
        "own_off": Choice(
            "after",
            ("after", "before"),
            "cffl: a client's own update comes off its download after the mask, by n / max n (sum: "
            "whole), or before it, by its weight in the aggregate",
        ),
        "removal": REMOVAL,
        "removal_imbalanced": Number(
            1 / 6,
            REMOVAL.allowed,
            "cffl: the same on the partition class_imbalance; --removal holds there too",
            "removal, imbalanced",
            instead_of="removal",
            partition="class_imbalance",
        ),
        "removed": REMOVED._replace(when=When(("removal", "removal_imbalanced"))),
        "ties": TIES,
    },
    defaults={"alpha": 0.8, "removal": 1 / 3, "removed": "alone", "mask_ties": "all"},
    given=("network", "rounds"),
)
