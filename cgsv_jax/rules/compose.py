"""An algorithm from parts, the way optax makes an optimizer from transformations."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules import sent as sent_lib
from cgsv_jax.rules.removal import REMOVAL, Removal, remove, without
from cgsv_jax.rules.rescale import Rescale, unchanged
from cgsv_jax.rules.spec import Number
from cgsv_jax.types import (
    Aggregation,
    Algorithm,
    Array,
    ArrayTree,
    Download,
    Needs,
    Reputation,
    Reward,
    Standing,
    Upload,
)

CLIP = Number(
    0.01,
    Interval(0, math.inf, "()"),
    "cffl: greatest magnitude of an entry of an update, above 0",
    "clip",
)


class ComposedState(NamedTuple):
    """The parts' states and the standing that the next aggregation starts from."""

    standing: Standing
    reputation: ArrayTree
    aggregation: ArrayTree
    reward: ArrayTree
    removed: ArrayTree = ()  # [N] bool, who is out for good, where somebody may be
    sent: ArrayTree = ()  # what was sent in the rounds before, where a part asks for it


def compose(
    reputation: Reputation,
    aggregation: Aggregation,
    reward: Reward,
    *,
    clip: Array | float | None = None,
    rescale: Rescale | None = None,
    judged_first: bool = False,
    removal: Removal | None = None,
    keeps_own: bool = False,
    common: bool = False,
) -> Algorithm:
    """Rescale, aggregate, judge, remove, reward: one server round in that order.

    The aggregation sees the standing of the previous round, the reward that of this one.

    Args:
      reputation: who deserves what, from uploads and u_N.
      aggregation: u_N from uploads and the previous standing.
      reward: v_i from u_N and the new standing.
      clip: every entry of an update is cut to [-clip, clip] first; default: none is.
      rescale: how long an upload is made; default: as it is.
      judged_first: judge and remove before the aggregation, for contributions that do not look at
        u_N (they are shown zeros): it sees the standing of its own round.
      removal: who is taken out for good, and what becomes of it; default: nobody.
      keeps_own: whether v_i = u_i + the reward: the client keeps its update instead of rolling it
        back. Quota and energy are of what it receives.
      common: whether there is one model for all, the server's, from which a client that was absent
        starts again.

    Returns:
      An Algorithm whose state is a `ComposedState`.
    """
    checks.kinds(
        reputation=(reputation, Reputation, "moving_average(cosine(), 0.95)"),
        aggregation=(aggregation, Aggregation, "by_reputation()"),
        reward=(reward, Reward, "sparsify(1.0)"),
        removal=(removal, Removal | None, "Removal(1 / 3)"),
    )
    if clip is not None:
        checks.numbers(CLIP.allowed, clip=clip)
    if removal is not None:
        checks.numbers(REMOVAL.allowed, removal=removal.share)
    rescale = rescale or unchanged()
    needs = needs_of(reputation, aggregation, reward)

    def init(num_clients: int, num_parameters: int) -> ComposedState:
        return ComposedState(
            standing=Standing(jnp.zeros(num_clients), jnp.zeros(num_clients)),  # r_{i,0} = 0
            reputation=reputation.init(num_clients, num_parameters),
            aggregation=aggregation.init(num_clients, num_parameters),
            reward=reward.init(num_clients, num_parameters),
            removed=() if removal is None else jnp.zeros(num_clients, bool),
            sent=sent_lib.nothing(num_clients, num_parameters, needs.sent) if needs.sent else (),
        )

    def update(
        key: jax.Array, upload: Upload, state: ComposedState
    ) -> tuple[Download, Standing, ComposedState]:
        aggregate_key, judge_key, reward_key = jax.random.split(key, 3)
        if clip is not None:
            deltas = jnp.clip(upload.deltas, -clip, clip)
            upload = upload._replace(deltas=deltas, norms=vectors.norms(deltas))
        scales = rescale(upload.norms, upload.round)
        sent = upload = upload._replace(scales=scales)  # u_i = scale_i dw_i
        standing, removed = state.standing, state.removed
        if needs.sent:
            sent = upload = upload._replace(sent=state.sent)
        if removal is not None:
            upload = without(sent, removed)
        present = upload.present

        def aggregated() -> tuple[Array, Array, ArrayTree]:
            return aggregation.update(aggregate_key, upload, standing, state.aggregation)

        aggregate, weights = jnp.zeros_like(upload.server), jnp.zeros_like(upload.norms)
        aggregation_state = state.aggregation
        if not judged_first:
            aggregate, weights, aggregation_state = aggregated()
        standing, reputation_state = reputation.update(
            judge_key, upload, aggregate, weights, standing, state.reputation
        )
        if removal is not None:
            standing, removed = remove(removal, upload, standing, removed)
            upload = without(sent, removed)
        if judged_first:
            aggregate, weights, aggregation_state = aggregated()
        rewards, quota, reward_state = reward.update(
            reward_key, upload, aggregate, standing, state.reward
        )
        memory = state.sent
        if needs.sent:
            memory = sent_lib.remembered(memory, upload.round, aggregate, rewards, upload.present)
        if reward.energy is None:
            energy = vectors.energies(rewards, aggregate)
        else:
            energy = reward.energy(upload, aggregate, standing, quota)
        alone = removal is not None and removal.alone
        if keeps_own or alone:  # an absent client's row of deltas is 0
            own = (sent if alone else upload).deltas
            if not keeps_own:  # but those who were taken out train on alone
                own = jnp.where((sent.present & ~upload.present)[:, None], own, 0.0)
            rewards = rewards + sent.scales[:, None] * own
        present = None if removal is None else present
        download = Download(aggregate, weights, rewards, quota, energy, present)
        new = ComposedState(
            *(standing, reputation_state, aggregation_state, reward_state, removed, memory)
        )
        return download, standing, _same_types(new, state)

    return Algorithm(init, update, (lambda round_: round_ >= 0) if common else None, needs=needs)


def needs_of(*rules: Reputation | Aggregation | Reward | Algorithm) -> Needs:
    """What rules need together; their valuations add up."""
    needs = [rule.needs for rule in rules]
    return Needs(
        validation=any(own.validation for own in needs),
        start_loss=any(own.start_loss for own in needs),
        losses=any(own.losses for own in needs),
        alone=any(own.alone for own in needs),
        alone_on_test=any(own.alone_on_test for own in needs),
        more_rounds=sum(own.more_rounds for own in needs),
        afresh=any(own.afresh for own in needs),
        sent=max(own.sent for own in needs),
        personal=any(own.personal for own in needs),
        valuations=lambda num_clients: sum(own.valuations(num_clients) for own in needs),
        notes=tuple(dict.fromkeys(note for own in needs for note in own.notes)),
    )


def _same_types(new: ArrayTree, old: ArrayTree) -> ArrayTree:
    """A carry must keep its dtypes, and a rule may have computed in another precision."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), new, old)
