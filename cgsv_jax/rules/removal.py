"""Taking out, for good, whom hardly anybody agrees with."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.shares import renewed
from cgsv_jax.rules.spec import Choice, Number, When
from cgsv_jax.types import Array, Standing, Upload

REMOVAL = Number(
    0.0,
    Interval(0, 1, "[)"),
    "share of the mean reputation below which a client is removed for good, from round 10 on "
    "(cffl: from the first), in [0, 1)",
    "removal",
)
REMOVED = Choice(
    "frozen",
    ("frozen", "alone"),
    "a removed client keeps its model (frozen) or trains on by itself (alone)",
    when=When(("removal",)),
)


class Removal(NamedTuple):
    """From round `first` on, a client with r_i < share x mean r is out, in that round already.

    The mean is over the clients R that take part: 1 / |R| where nobody is absent. The client with
    the highest reputation of a round always stays. Whoever is removed has reputation 0 from then
    on, which the others share, and receives nothing of u_N any more.

    Reference:
      Xu and Lyu, A Reputation Mechanism Is All You Need, arXiv:2011.10464, 2020.
    """

    share: chex.Numeric  # of the mean reputation, RFFL's is 1/3; 0 removes nobody
    first: int = 10  # rounds before anybody is removed, RFFL's
    alone: bool = False  # v_i = u_i for the removed, who train alone; or 0: they keep their model


def without(upload: Upload, removed: Array) -> Upload:
    """The upload in which who is removed [N] bool is absent, as the rules see it."""
    return upload._replace(
        present=upload.present & ~removed,
        removed=upload.present & removed,
        deltas=jnp.where(removed[:, None], 0.0, upload.deltas),
        norms=jnp.where(removed, 0.0, upload.norms),
    )


def remove(
    removal: Removal, upload: Upload, standing: Standing, removed: Array
) -> tuple[Standing, Array]:
    """The standing without those who fall too low in this round, and all who are removed [N]."""
    r, stays = standing.reputation, upload.present
    mine = jnp.where(stays, r, 0.0)
    mean = jnp.sum(mine) / jnp.maximum(jnp.sum(stays), 1)
    low = stays & (r < removal.share * mean) & (r < jnp.max(mine))
    low = low & (upload.round >= removal.first)
    r = jnp.where(low, 0.0, r)
    r = jnp.where(jnp.any(low), renewed(r, r, stays & ~low), r)
    return standing._replace(reputation=r), removed | low
