"""Submodels as rewards: some hidden units are on in a client's model, all others are off.

What moves a client is a reward as ever: v_i = m_i (w_N + u_N) - w_i, m_i [D] the entries that are
on in its model from now on. Where a unit is off so are the entries that feed it and those that read
it, and local training leaves these at 0 (see `types.Units`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import checks, vectors
from cgsv_jax.core import units as units_lib
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.reputation import ALPHA, STANDALONE_ON
from cgsv_jax.rules.shares import over_present, renewed
from cgsv_jax.rules.spec import Choice, Number, When
from cgsv_jax.types import Array, Download, Needs, Network, Standing, Units, Upload

SUBMODEL_MASK = Choice(
    "both",
    ("both", "incoming"),
    "what is 0 of a hidden unit that is off in a client's model: what feeds it and what reads it, "
    "or what feeds it alone, as their authors do",
)
STEEPNESS = Number(
    1.0,
    Interval(0, math.inf),
    "fedsac, fedrac: beta of exp(beta s), s a standalone accuracy from 0 to 1; at 0 all are alike",
    "steepness",
)


EARNED_BY = Choice(
    "accuracy",
    ("accuracy", "cosine"),
    "fedsac, fedrac: a client earns its submodel by the accuracy that it reaches alone, or by "
    "cgsv's reputation, of cosines with what it holds of the aggregate: then nobody trains alone",
)
# What `earning` is told beside the steepness, by argument.
EARNING = {
    "earned_by": EARNED_BY,
    "alpha": ALPHA._replace(when=When(("earned_by",), ("cosine",))),
    "standalone_on": STANDALONE_ON._replace(when=When(("earned_by",), ("accuracy",))),
}


class Submodels(NamedTuple):
    """The units of a model of which some may be off, and what is 0 then."""

    units: Units
    incoming: bool  # whether only what feeds a unit is

    @property
    def number(self) -> int:
        """Of all units, H."""
        return sum(self.units.layers)

    def masks(self, keep: Array) -> Array:
        """m [..., D] bool, of units that are on, [..., H] bool."""
        return units_lib.on(self.units, keep, self.incoming)


def submodels(method: str, network: Network | None, mask: str = "both") -> Submodels:
    """The units of the network.

    Args:
      method: that asks.
      network: what the method is given.
      mask: "both" or "incoming", what is 0 of a unit that is off.

    Raises:
      ValueError: the model says nothing of its units or has none, they do not stay off, or the word
        is another one.
    """
    checks.choice("submodel_mask", mask, *SUBMODEL_MASK.allowed)
    units = None if network is None else network.units()
    if units is None:
        raise ValueError(
            f"{method} switches hidden units off, and this model does not say which it has: give "
            "it model._replace(units=lambda: cg.Units(feeds, reads, times, layers))"
        )
    if not units.layers:
        raise ValueError(f"{method} switches hidden units off, and this model has none")
    if mask == "incoming" and not units.incoming:
        raise ValueError(
            f"{method} with --submodel-mask incoming needs an activation whose gradient at 0 is 0, "
            "as that of relu is: other units, of tanh for instance, do not stay off"
        )
    return Submodels(units, mask == "incoming")


def with_output(method: str, submodels: Submodels, network: Network) -> Submodels:
    """With a unit more for every class: the last layer's weights and bias of it feed that.

    Raises:
      ValueError: the network has no last layer that can be told.
    """
    places = network.output()
    if places is None:
        raise ValueError(f"{method} needs a model whose last layer is a kernel [F, C] and a bias")
    units, classes = submodels.units, len(places)
    feeds = np.array(units.feeds)
    feeds[places] = submodels.number + np.arange(classes)[:, None]
    units = units._replace(feeds=feeds, layers=(*units.layers, classes))
    return submodels._replace(units=units)


def masked_mean(upload: Upload, held: Array) -> Array:
    """u_N[d] = the mean of dw_i[d] over those present who hold d; 0 where nobody does. O(N D).

    Args:
      upload: the updates.
      held: [N, D] bool, what is on in the clients' models that were trained.
    """
    counts = held & upload.present[:, None]
    number = jnp.sum(counts, axis=0)
    total = jnp.sum(jnp.where(counts, upload.deltas, 0.0), axis=0)
    return total / jnp.maximum(number, 1)


def served(upload: Upload, aggregate: Array, held: Array) -> Download:
    """The download of submodels: v_i = m_i (w_N + u_N) - w_i, 0 for who is absent. O(N D).

    The quota is the number of entries that are on.

    Args:
      upload: the models before the round.
      aggregate: u_N [D].
      held: [N, D] bool, m_i from now on.
    """
    present = upload.present[:, None]
    whole = (upload.server + aggregate)[None, :]
    rewards = jnp.where(present, jnp.where(held, whole, 0.0) - upload.clients, 0.0)
    held_now = held & present
    moves = jnp.where(held_now, aggregate[None, :], 0.0)
    return Download(
        aggregate=aggregate,
        weights=over_present(jnp.ones_like(upload.norms), upload.present),
        rewards=rewards,
        quota=jnp.sum(held_now, axis=1, dtype=jnp.int32),
        energy=vectors.energies(moves, aggregate),  # ‖m_i u_N‖² / ‖u_N‖²
        held=held,
    )


def within(ranked: Array, worth: Array, limit: Array) -> Array:
    """Units in an order, as many as are worth `limit` together, the one that crosses it included.

    Args:
      ranked: [H] units in the order in which they are taken.
      worth: [H] >= 0 of every unit.
      limit: [N].

    Returns:
      [N, H] bool, which units are taken; the first one always is.
    """
    along = jnp.cumsum(worth[ranked])
    before = jnp.concatenate([jnp.zeros(1, along.dtype), along[:-1]])  # of those taken before
    first = jnp.arange(along.size) == 0
    taken = (before[None, :] < limit[:, None]) | first[None, :]
    return jnp.zeros_like(taken).at[:, ranked].set(taken)


def lossless(loss: Array, without: Array) -> Array:
    """I_h = max(0, the loss without unit h less the loss), in percent; alike where all are 0.

    Args:
      loss: [] of the whole model.
      without: [H] of the model without each unit.
    """
    rise = without - loss
    rise = jnp.where(jnp.isfinite(rise), jnp.maximum(rise, 0.0), 0.0)
    return 100 * over_present(rise, jnp.ones(rise.shape, bool))


def earned(accuracy: Array, best: Array, steepness: chex.Numeric) -> Array:
    """c_i = 100 exp(beta s_i) / max_j exp(beta s_j), [N]; an infinite beta leaves the best alone.

    Args:
      accuracy: [N] s_i.
      best: [] max_j s_j.
      steepness: beta.
    """
    behind = jnp.maximum(best - accuracy, 0.0)
    return 100 * jnp.exp(-jnp.where(behind > 0, steepness * behind, 0.0))


class Earning(NamedTuple):
    """By what clients earn their submodels, as `EARNED_BY` and `STANDALONE_ON` say."""

    method: str  # that asks
    by_accuracy: bool
    on_test: bool
    steepness: chex.Numeric  # beta
    alpha: chex.Numeric  # weight of the old reputation, by cosine

    def needs(self, valuations: Callable[[int], int]) -> Needs:
        """What the method needs: validation rows, and what clients reach alone if that earns."""
        return Needs(
            validation=True,
            alone=self.by_accuracy,
            alone_on_test=self.by_accuracy and self.on_test,
            valuations=valuations,
        )

    def standing(
        self, upload: Upload, aggregate: Array, held: Array, best: Array, reputation: Array
    ) -> tuple[Standing, Array]:
        """The standing of the round, and the highest standalone accuracy heard of so far, [].

        By accuracy the score is s_i and the reputation c_i over their sum; by cosine see
        `agreeing`, whose arguments these are.

        Raises:
          ValueError: the upload does not carry what clients reach alone.
        """
        if not self.by_accuracy:
            return agreeing(upload, aggregate, held, reputation, self.alpha), best
        alone = self._alone(upload)
        score = jnp.where(upload.present, alone, 0.0)
        best = jnp.maximum(best, jnp.max(score)).astype(best.dtype)
        worth = earned(alone, best, self.steepness)
        return Standing(score, renewed(worth, reputation, upload.present)), best

    def reached(
        self, upload: Upload, best: Array, reputation: Array, whole: Array | float = 1.0
    ) -> tuple[Array, Array, Array]:
        """s_i [N], the highest of them [] and c_i [N]; by cosine s_i = A r_i / max_j r_j,
        of those present.

        Args:
          upload: of the round.
          best: from `standing`, likewise the next.
          reputation: r [N].
          whole: A, [].
        """
        own, most = upload.norms, best
        if self.by_accuracy:
            own = self._alone(upload)
        else:
            # Of those present: in a cohort the last row is the sum of all who are away.
            here = jnp.where(upload.present, reputation, 0.0)
            most = jnp.max(here)
            own = whole * here / jnp.where(most > 0, most, 1.0)
            most = jnp.max(own)
        return own, most, earned(own, most, self.steepness)

    def _alone(self, upload: Upload) -> Array:
        if upload.alone is None:
            raise ValueError(f"{self.method} needs uploads with alone, see Settings.alone")
        return jnp.asarray(upload.alone)


def earning(
    method: str,
    earned_by: str,
    standalone_on: str,
    steepness: chex.Numeric,
    alpha: chex.Numeric,
) -> Earning:
    """By what clients earn their submodels.

    Raises:
      ValueError: a word is another one, or a number is out of range.
    """
    checks.numbers(STEEPNESS.allowed, steepness=steepness)
    checks.numbers(ALPHA.allowed, alpha=alpha)
    by_accuracy = checks.choice("earned_by", earned_by, *EARNED_BY.allowed) == "accuracy"
    on_test = checks.choice("standalone_on", standalone_on, *STANDALONE_ON.allowed) == "test"
    return Earning(method, by_accuracy, on_test, steepness, alpha)


def agreeing(
    upload: Upload, aggregate: Array, held: Array, reputation: Array, alpha: chex.Numeric
) -> Standing:
    """psi_i = cos(dw_i, m_i u_N) and r_i = alpha r_i + (1 - alpha) psi_i, at least 0: [N]. O(N D).

    CGSV's reputation, eq. (4), without its floor. What a client does not hold it cannot agree on.

    Args:
      upload: the updates.
      aggregate: u_N [D].
      held: [N, D] bool, what was on in the models that were trained.
      reputation: r [N] of the round before.
      alpha: weight of the old reputation.
    """
    parts = jnp.where(held, aggregate[None, :], 0.0)
    product = jnp.sum(upload.deltas * parts, axis=1)
    length = upload.norms * vectors.norms(parts)
    psi = jnp.where(length > 0, product / jnp.where(length > 0, length, 1.0), 0.0)
    psi = jnp.where(upload.present & jnp.isfinite(psi), psi, 0.0)
    new = jnp.maximum(alpha * reputation + (1 - alpha) * psi, 0.0)
    return Standing(psi, renewed(new, reputation, upload.present))
