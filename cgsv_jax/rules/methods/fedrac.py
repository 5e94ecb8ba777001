"""FedRAC: submodels of the units trained least so far, as large as a client's target allows."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval, from_
from cgsv_jax.rules import submodels as submodels_lib
from cgsv_jax.rules.spec import Count, Number, Spec
from cgsv_jax.rules.submodels import EARNING, STEEPNESS
from cgsv_jax.types import Algorithm, Array, Download, Network, Standing, Upload

HELD_BACK = Number(
    0.2, Interval(0, 1), "fedrac: lambda, how much of w_N's accuracy is out of reach in the end"
)
HELD_BACK_LATE = Number(0.8, Interval(0, 1), "fedrac: lambda of later rounds")
HELD_BACK_ROUNDS = Number(
    100.0, Interval(0, np.inf), "fedrac: rounds with the first lambda, from which on it is another"
)
HELD_BACK_PACE = Number(
    0.3, Interval(0, np.inf, "[)"), "fedrac: kappa of lambda (1 - 1 / ln(kappa t + zeta))"
)
HELD_BACK_START = Number(
    3.0, Interval(2, np.inf, "[)"), "fedrac: zeta of lambda (1 - 1 / ln(kappa t + zeta))"
)
SIZES = Count(50, from_(1), "fedrac: how many sizes of submodels are tried, evenly up to all units")
EVERY = Count(1, from_(1), "fedrac: rounds from one allocation of submodels to the next")
# Models that exist at once while sizes are tried.
_TOGETHER = 16


class FedRACState(NamedTuple):
    """What the next round starts from."""

    frequency: Array  # [H] int32, how often a unit was on, over clients and rounds
    keep: Array  # [N, H] bool, the units that are on in every client's model
    best: Array  # [] the highest standalone accuracy heard of so far
    reputation: Array  # [N]


def fedrac(
    network: Network | None,
    steepness: chex.Numeric = 80.0,
    held_back: chex.Numeric = 0.2,
    held_back_late: chex.Numeric = 0.8,
    held_back_rounds: chex.Numeric = 100.0,
    held_back_pace: chex.Numeric = 0.3,
    held_back_start: chex.Numeric = 3.0,
    sizes: int = 50,
    every: int = 1,
    earned_by: str = "accuracy",
    alpha: chex.Numeric = 0.95,
    standalone_on: str = "validation",
) -> Algorithm:
    """v_i = m_i (w_N + u_N) - w_i: the units trained least, as many as reach client i's target.

    target_i = s_i + A (1 - al) c_i / 100, with A the accuracy of w_N + u_N on the server's
    validation rows, s_i that of client i alone, c_i = 100 exp(beta s_i) / max_j exp(beta s_j), and
    al = lambda (1 - 1 / ln(kappa t + zeta)) in round t, counted from 1. Units are ordered by how
    often they were on, least first, for all clients alike, and the model is judged with the first
    H k / 50 of them, k = 1..50. In ascending order of s_i a client has the largest of these sizes
    whose next larger one is no better than its target and which is above those of the clients
    before it; where none is so, one size more than these. The best client has all units. u_N[d] is
    the mean of dw_i[d] over the clients in whose update d moved. The score is s_i, the reputation
    c_i over their sum; the quota counts the entries that are on.

    A HIGH FAIRNESS IS PARTLY BY CONSTRUCTION: every client is steered to a target that is made of
    its own standalone accuracy, with which fairness correlates the result. With beta = 80 the
    weaker half is aimed at that very accuracy. `earned_by="cosine"` shows what is left without.

    NEEDS VALIDATION DATA and as much training again as the run has, see `simulation.train_alone`.
    O(N D + N H) a round, and 51 evaluations, 16 at a time, in every round, or in every
    `every`-th; with many seeds at once, in every round.

    As in its code, with these differences. There networks have 400 units and steps are of 8; here
    of H / 50, rounded down. There s_i is a constant, the accuracy on the TEST rows
    (`standalone_on="test"`), and which client has all units is the tenth; here the best of all that
    were heard of, so that somebody else may be the best where it is away. There clients of equal
    accuracies have different sizes, in the order of their numbers; here the same. There a client
    receives the whole model and a mask of activations, which it may ignore; here the entries that
    are off are 0, with the same logits and updates. There the model of a round is tested with the
    masks that it was trained with, here with those that are sent with it. In the text lambda is one
    number; in the code .2, and .8 after 100 rounds. With more clients than sizes the strongest
    share the largest.

    Args:
      network: knows the units of the model and evaluates it.
      steepness: beta, at least 0.
      held_back: lambda of the first rounds, in [0, 1].
      held_back_late: lambda of the rounds after.
      held_back_rounds: how many are the first.
      held_back_pace: kappa, at least 0.
      held_back_start: zeta, at least 2.
      sizes: how many of submodels are tried; H, where the model has fewer units.
      every: rounds from one allocation to the next; 1 in its code.
      earned_by: "accuracy", or "cosine": then s_i = A r_i / max_j r_j, with r_i CGSV's reputation,
        of cosines with the part of u_N that the client holds; nobody trains alone first. That is
        nobody's method: it tells how much of the fairness the standalone accuracies pay for.
      alpha: weight of the old reputation with "cosine", in [0, 1].
      standalone_on: rows of s_i, "validation" or "test".

    Raises:
      ValueError: the model does not say which units it has, or they do not stay off; a word is
        another one, or a number out of range; or (when traced) uploads lack what it reads.

    Reference:
      Wang et al., FedRAC: Rolling Submodel Allocation for Collaborative Fairness in Federated
      Learning, CVPR 2026; ZiHuiWangpcl1/FedRAC, 0d32a5c. Read: abstract and code, not the text.
    """
    checks.numbers(HELD_BACK.allowed, held_back=held_back, held_back_late=held_back_late)
    checks.numbers(HELD_BACK_ROUNDS.allowed, held_back_rounds=held_back_rounds)
    checks.numbers(HELD_BACK_PACE.allowed, held_back_pace=held_back_pace)
    checks.numbers(HELD_BACK_START.allowed, held_back_start=held_back_start)
    checks.numbers(SIZES.allowed, sizes=sizes)
    checks.numbers(EVERY.allowed, every=every)
    earning = submodels_lib.earning("fedrac", earned_by, standalone_on, steepness, alpha)
    chosen = submodels_lib.submodels("fedrac", network)
    assert network is not None
    number = chosen.number
    bounds = bounds_of(number, sizes)

    def init(num_clients: int, num_parameters: int) -> FedRACState:
        del num_parameters
        return FedRACState(
            frequency=jnp.zeros(number, jnp.int32),
            keep=jnp.ones((num_clients, number), bool),
            best=jnp.zeros(()),
            reputation=jnp.zeros(num_clients),
        )

    def accuracies(weights: Array, rank: Array, validation: tuple[Array, Array]) -> Array:
        """Of the model with the first units of an order, [K], as many as `bounds` says."""

        def together(limits: Array) -> Array:
            keep = rank[None, :] < limits[:, None]
            models = jnp.where(chosen.masks(keep), weights[None, :], 0.0)
            return network.evaluate(models, *validation)[0]

        limits = bounds[1:]
        size = min(_TOGETHER, limits.size)
        short = -limits.size % size
        limits = jnp.pad(jnp.asarray(limits), (0, short)).reshape(-1, size)
        return jax.lax.map(together, limits).reshape(-1)[: bounds.size - 1]

    def update(
        key: jax.Array, upload: Upload, state: FedRACState
    ) -> tuple[Download, Standing, FedRACState]:
        del key
        if upload.validation is None:
            raise ValueError(
                "fedrac judges submodels on validation rows, it needs the server to hold some"
            )
        validation, present = upload.validation, upload.present
        aggregate = submodels_lib.masked_mean(upload, upload.deltas != 0)
        weights = upload.server + aggregate
        held = chosen.masks(state.keep)
        standing, best = earning.standing(upload, aggregate, held, state.best, state.reputation)

        def allocated() -> Array:
            """keep [N, H] of a new allocation."""
            whole = network.evaluate(weights[None, :], *validation)[0][0]  # A
            own, most, earned = earning.reached(upload, best, standing.reputation, whole)  # s, c
            round_ = upload.round + 2  # the next one, counted from 1
            out = jnp.where(round_ > held_back_rounds, held_back_late, held_back)  # lambda
            out = out * (1 - 1 / jnp.log(held_back_pace * round_ + held_back_start))  # al_t
            targets = own + whole * (1 - out) * earned / 100
            rank = jnp.zeros(number, jnp.int32)
            rank = rank.at[jnp.argsort(state.frequency)].set(jnp.arange(number, dtype=jnp.int32))
            places = allocation(
                accuracies(weights, rank, validation), targets, jnp.where(present, own, jnp.inf)
            )
            limits = jnp.where(own >= most, number, jnp.asarray(bounds)[places])
            keep = rank[None, :] < limits[:, None]
            return jnp.where(present[:, None], keep, state.keep)

        if every == 1:
            keep = allocated()
        else:
            due = (upload.round + 1) % every == 0
            keep = jax.lax.cond(due, allocated, lambda: state.keep)
        counts = jnp.sum(keep & present[:, None], axis=0, dtype=jnp.int32)
        new = FedRACState(
            frequency=state.frequency + counts,
            keep=keep,
            best=best,
            reputation=standing.reputation.astype(state.reputation.dtype),
        )
        download = submodels_lib.served(upload, aggregate, chosen.masks(keep))
        return download, standing, new

    def valuations(num_clients: int) -> int:
        del num_clients
        return -(-(sizes + 1) // every)

    return Algorithm(init, update, needs=earning.needs(valuations))


def bounds_of(number: int, sizes: int) -> np.ndarray:
    """How many units the submodels of every size have: [K + 1] int32, from none to all.

    >>> bounds_of(400, 50)[:4]
    array([ 0,  8, 16, 24], dtype=int32)
    >>> bounds_of(3, 50)
    array([0, 1, 2, 3], dtype=int32)

    Args:
      number: H.
      sizes: how many are tried; H, where that is less.
    """
    steps = min(sizes, number)
    return (np.arange(steps + 1) * number // steps).astype(np.int32)


def allocation(accuracy: Array, targets: Array, order: Array) -> Array:
    """Which size every client has: [N] int32 in 1..K - 1, of the sizes of `bounds_of`.

    Args:
      accuracy: [K] of the model with as many units as each size has, the smallest first.
      targets: [N].
      order: [N] by which clients choose, the lowest first; the same for who is as good.
    """
    steps = jnp.arange(accuracy.size, dtype=jnp.int32)
    last = max(accuracy.size - 1, 1)

    def choose(carry: tuple[Array, Array], client: Array) -> tuple[tuple[Array, Array], Array]:
        before, value = carry
        within = (steps > before) & (accuracy <= targets[client])
        found = jnp.max(jnp.where(within, steps, -1))
        found = jnp.where(found < 0, jnp.minimum(before + 1, last), found)
        found = jnp.where(order[client] == value, before, found).astype(jnp.int32)
        return (found, order[client]), found

    clients = jnp.argsort(order)
    _, found = jax.lax.scan(choose, (jnp.int32(0), jnp.full_like(order[0], -jnp.inf)), clients)
    return jnp.zeros(order.shape, jnp.int32).at[clients].set(found)


FEDRAC = Spec(
    fedrac,
    {
        "steepness": STEEPNESS,
        "held_back": HELD_BACK,
        "held_back_late": HELD_BACK_LATE,
        "held_back_rounds": HELD_BACK_ROUNDS,
        "held_back_pace": HELD_BACK_PACE,
        "held_back_start": HELD_BACK_START,
        "sizes": SIZES._replace(flag="submodel_sizes"),
        "every": EVERY._replace(flag="allocation_every"),
        **EARNING,
    },
    defaults={"steepness": 80.0},
    given=("network",),
)
