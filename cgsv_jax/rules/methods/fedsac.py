"""FedSAC: a client's reward is a submodel, as many of the least important units as it earned."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import from_
from cgsv_jax.rules import submodels as submodels_lib
from cgsv_jax.rules.spec import Choice, Count, Spec, Truth
from cgsv_jax.rules.submodels import EARNING, STEEPNESS, SUBMODEL_MASK
from cgsv_jax.types import Algorithm, Array, Download, Network, Standing, Upload

EVERY = Count(10, from_(1), "fedsac: rounds from one look at what units matter to the next")
UNIT_ORDER = Choice(
    "ascending",
    ("ascending", "descending"),
    "fedsac: a client takes the units that matter least first (ascending), or most (descending)",
)
PRUNE_OUTPUT = Truth(
    False, "fedsac: whether classes of the last layer are units too, which a client may lack"
)
# Models that exist at once while it is found out which units matter.
_TOGETHER = 64


class FedSACState(NamedTuple):
    """What the next round starts from."""

    importance: Array  # [H] I_h in percent, as of the last look
    keep: Array  # [N, H] bool, the units that are on in every client's model
    best: Array  # [] the highest standalone accuracy heard of so far
    reputation: Array  # [N]


def fedsac(
    network: Network | None,
    steepness: chex.Numeric = 1.0,
    every: int = 10,
    order: str = "ascending",
    prune_output: bool = False,
    mask: str = "both",
    earned_by: str = "accuracy",
    alpha: chex.Numeric = 0.95,
    standalone_on: str = "validation",
) -> Algorithm:
    """v_i = m_i (w_N + u_N) - w_i: client i has the units worth r_i = 100 exp(beta s_i) / max.

    I_h = max(0, L(w_N without unit h) - L(w_N)), in percent of all, L the loss on the server's
    validation rows and s_i what client i reaches alone. Units are taken in the order of I until
    they are worth r_i, the one that crosses it included; the entries of all others are 0 in the
    client's model. u_N[d] is the mean of dw_i[d] over those who hold d, whatever their sizes. The
    score is s_i and the reputation r_i over their sum; the quota counts the entries that are on.

    NEEDS VALIDATION DATA and as much training again as the run has, see `simulation.train_alone`.
    O(N D + N H) a round, and H + 1 evaluations, 64 at a time, after the first and then after every
    tenth round; with many seeds at once, in every round.

    Text and the code at hand, which is not the authors', agree in this but for what follows.
    Before the first reward no client has a submodel: in round 0 all train the whole model, from
    which units are judged first (there, of the random one). What nobody holds stays as it is (there
    it becomes 0 for good, as does what happens to be 0); and where a client was away its update
    counts, from the model that it has (there everybody is there). There the last layer's rows are
    units as well (`prune_output`) and only what feeds a unit is 0 (`mask="incoming"`); s_i is a
    constant, the accuracy on the TEST rows (`standalone_on="test"`). Units of equal importance are
    taken by their place. In the text units are hidden ones.

    Args:
      network: knows the units of the model and evaluates it.
      steepness: beta, at least 0; at 0 everybody has everything.
      every: rounds from one look at the units to the next.
      order: "ascending", or "descending": the units that matter most first.
      prune_output: whether the last layer's classes are units too. One that is off has logit 0,
        and training moves it, which is taken back.
      mask: "both", what feeds a unit and what reads it are 0 where it is off, or "incoming".
      earned_by: "accuracy", or "cosine": then s_i = r_i / max_j r_j with r_i CGSV's reputation, of
        cosines with the part of u_N that the client holds; nobody trains alone first. That is
        nobody's method: it tells how much of the fairness the standalone accuracies pay for.
      alpha: weight of the old reputation with "cosine", in [0, 1].
      standalone_on: rows of s_i, "validation" or "test".

    Raises:
      ValueError: the model does not say which units it has, or they do not stay off; a word is
        another one, or a number out of range; or (when traced) uploads lack what it reads.

    Reference:
      Wang et al., FedSAC: Dynamic Submodel Allocation for Collaborative Fairness in Federated
      Learning, KDD 2024; YOVC/FedSAC, 2dd43da, which implements it anew.
    """
    checks.numbers(EVERY.allowed, every=every)
    rising = checks.choice("order", order, *UNIT_ORDER.allowed) == "ascending"
    earning = submodels_lib.earning("fedsac", earned_by, standalone_on, steepness, alpha)
    chosen = submodels_lib.submodels("fedsac", network, mask)
    assert network is not None
    if prune_output:
        chosen = submodels_lib.with_output("fedsac", chosen, network)
    number = chosen.number

    def init(num_clients: int, num_parameters: int) -> FedSACState:
        del num_parameters
        return FedSACState(
            importance=jnp.zeros(number),
            keep=jnp.ones((num_clients, number), bool),
            best=jnp.zeros(()),
            reputation=jnp.zeros(num_clients),
        )

    def importance_of(weights: Array, validation: tuple[Array, Array]) -> Array:
        """I [H] of the units of a model [D]."""

        def together(units: Array) -> Array:
            """The losses without each of some units, [64]."""
            keep = units[:, None] != jnp.arange(number)[None, :]
            models = jnp.where(chosen.masks(keep), weights[None, :], 0.0)
            return network.evaluate(models, *validation)[1]

        size = min(_TOGETHER, number)
        places = jnp.arange(-(-number // size) * size).reshape(-1, size)  # beyond H: without none
        without = jax.lax.map(together, places).reshape(-1)[:number]
        return submodels_lib.lossless(
            network.evaluate(weights[None, :], *validation)[1][0], without
        )

    def update(
        key: jax.Array, upload: Upload, state: FedSACState
    ) -> tuple[Download, Standing, FedSACState]:
        del key
        if upload.validation is None:
            raise ValueError(
                "fedsac judges units on validation rows, it needs the server to hold some"
            )
        validation, present = upload.validation, upload.present
        held = chosen.masks(state.keep)
        aggregate = submodels_lib.masked_mean(upload, held)
        due = (upload.round == 0) | ((upload.round + 1) % every == 0)
        importance = jax.lax.cond(
            due,
            lambda: importance_of(upload.server + aggregate, validation).astype(
                state.importance.dtype
            ),
            lambda: state.importance,
        )
        standing, best = earning.standing(upload, aggregate, held, state.best, state.reputation)
        *_, earned = earning.reached(upload, best, standing.reputation)  # r_i
        ranked = jnp.argsort(importance if rising else -importance)
        keep = submodels_lib.within(ranked, importance, earned)
        keep = jnp.where(present[:, None], keep, state.keep)
        reputation = standing.reputation.astype(state.reputation.dtype)
        download = submodels_lib.served(upload, aggregate, chosen.masks(keep))
        new = FedSACState(importance, keep, best, reputation)
        return download, standing._replace(reputation=reputation), new

    def valuations(num_clients: int) -> int:
        del num_clients
        return math.ceil((number + 1) / every)

    return Algorithm(init, update, needs=earning.needs(valuations))


FEDSAC = Spec(
    fedsac,
    {
        "steepness": STEEPNESS,
        "every": EVERY._replace(flag="importance_every"),
        "order": UNIT_ORDER._replace(flag="unit_order"),
        "prune_output": PRUNE_OUTPUT,
        "mask": SUBMODEL_MASK._replace(flag="submodel_mask"),
        **EARNING,
    },
    given=("network",),
)
