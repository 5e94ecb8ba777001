"""One algorithm after another: a second stage that starts from the first one's models."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.rules.compose import needs_of
from cgsv_jax.types import (
    Algorithm,
    Array,
    ArrayTree,
    Download,
    Local,
    PRNGKey,
    Standing,
    Upload,
)

# What a download means by a field that it leaves out: both stages' must hold the same ones.
_LEFT_OUT: dict[str, Callable[[Upload, Download], Array]] = {
    "energy": lambda upload, download: vectors.energies(download.rewards, download.aggregate),
    "present": lambda upload, download: upload.present,
    "held": lambda upload, download: jnp.ones(download.rewards.shape, bool),
}


def then(first: Algorithm, second: Algorithm, after: int) -> Algorithm:
    """`first` in rounds 0 .. after - 1, `second` from round `after` on.

    Clients, server and optimizers go on as they are; the second algorithm's own state starts fresh.
    Where the first one has one model for all and the second has not, it is everybody's own from
    then on, also of those who are absent in that round.

    Args:
      first: the algorithm of the first stage.
      second: the algorithm of the second.
      after: rounds of the first stage.

    Returns:
      An Algorithm whose state is both states.

    Raises:
      ValueError: `after` is negative, or both send models, of which other entries are private,
        or one trains a personal model beside.
    """
    if after < 0:
        raise ValueError(f"after is {after}, it must be at least 0")
    if first.personal is not None or second.personal is not None:
        raise ValueError("a stage trains a second, personal model, which the other would not know")
    senders = [own for own in (first, second) if own.common is not None or own.recovers is not None]
    if len(spans := {own.private for own in senders}) > 1:
        raise ValueError(f"the stages' private entries are {spans}, they must be the same")

    def init(num_clients: int, num_parameters: int) -> tuple[ArrayTree, ArrayTree]:
        return first.init(num_clients, num_parameters), second.init(num_clients, num_parameters)

    def update(
        key: jax.Array, upload: Upload, state: tuple[ArrayTree, ArrayTree]
    ) -> tuple[Download, Standing, tuple[ArrayTree, ArrayTree]]:
        early, late = state
        said = [
            jax.eval_shape(own.update, key, upload, of_stage)[0]
            for own, of_stage in zip((first, second), state, strict=True)
        ]
        wanted = {n for n in _LEFT_OUT if any(getattr(own, n) is not None for own in said)}

        def whole(download: Download) -> Download:
            lacks = [name for name in wanted if getattr(download, name) is None]
            return download._replace(**{n: _LEFT_OUT[n](upload, download) for n in lacks})

        def one(_: None) -> tuple[Download, Standing, ArrayTree]:
            download, standing, new = first.update(key, upload, early)
            return whole(download), standing, (new, late)

        def other(_: None) -> tuple[Download, Standing, ArrayTree]:
            download, standing, new = second.update(key, upload, late)
            return whole(download), standing, (early, new)

        # Both branches in the first one's types: a reward has the precision of what it is made of.
        shapes = jax.eval_shape(one, None)

        def alike(_: None) -> tuple[Download, Standing, ArrayTree]:
            return jax.tree.map(lambda x, like: x.astype(like.dtype), other(None), shapes)

        return jax.lax.cond(upload.round < after, one, alike, None)

    def common(round_: Array) -> Array:
        # At round `after` the first stage's last model is still what everybody starts from.
        early = False if first.common is None else first.common(round_)
        late = False if second.common is None else second.common(round_)
        return jnp.where(round_ <= after, early, late)

    def parts(round_: Array) -> Array:
        early, late = (False if own.parts is None else own.parts(round_) for own in (first, second))
        own = jnp.where(round_ < after, early, late)
        alone = True if second.common is None else ~jnp.asarray(second.common(round_))
        return own | ((round_ == after) & common(round_) & alone)

    def recovers(key: PRNGKey, round_: Array, numbers: Array) -> Array:
        nobody = jnp.zeros(numbers.shape, bool)
        early, late = (
            nobody if own.recovers is None else own.recovers(key, round_, numbers)
            for own in (first, second)
        )
        return jnp.where(round_ < after, early, late)

    def chooses(
        key: PRNGKey,
        round_: Array,
        state: tuple[ArrayTree, ArrayTree],
        numbers: Array,
        participates: Array,
    ) -> Array:
        early, late = (
            participates
            if own.chooses is None
            else own.chooses(key, round_, of_stage, numbers, participates)
            for own, of_stage in zip((first, second), state, strict=True)
        )
        return jnp.where(round_ < after, early, late)

    either = first.common is not None or second.common is not None
    # Compiled once where it is called eagerly: a choice between two ways is, in every call.
    some = first.recovers is not None or second.recovers is not None
    return Algorithm(
        init,
        jax.jit(update),
        common if either else None,
        recovers if some else None,
        needs_of(first, second),
        *spans,
        chooses=None if first.chooses is None and second.chooses is None else chooses,
        local=_local(first, second, after),
        parts=parts if first.common or first.parts or second.parts else None,
    )


def _local(first: Algorithm, second: Algorithm, after: int) -> Local | None:
    """What is broadcast is both stages', as their states are; the pull is that of the round."""
    rules = [own.local for own in (first, second)]
    if not any(rules):
        return None

    def broadcast(
        states: tuple[ArrayTree, ArrayTree], server: Array, round_: Array
    ) -> tuple[ArrayTree, ArrayTree]:
        sent = [
            ((), ()) if rule is None else rule.broadcast(state, server, round_)
            for rule, state in zip(rules, states, strict=True)
        ]
        shared, own = zip(*sent, strict=True)
        return (round_ < after, shared), own

    def pull(weights: Array, start: Array, shared: ArrayTree, own: ArrayTree) -> Array:
        early, of_both = shared
        pulls = [
            jnp.zeros_like(weights) if rule is None else rule.pull(weights, start, *sent)
            for rule, *sent in zip(rules, of_both, own, strict=True)
        ]
        return jnp.where(early, *pulls)

    there = [rule for rule in rules if rule is not None]
    with_gradient = any(rule.with_gradient for rule in there)
    return Local(pull, broadcast, with_gradient, sum(rule.news for rule in there))
