"""Taking out, for good, whom hardly anybody agrees with."""

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.algorithms.compose import ComposedState
from cgsv_jax.shares import renewed
from cgsv_jax.types import Algorithm, Array, Download, Standing, Upload

FIRST = 10  # rounds before anybody is removed, as in RFFL


def with_removal(algorithm: Algorithm, share: chex.Numeric, *, first: int = FIRST) -> Algorithm:
    """From round `first` on, a client with r_i < share x mean r is absent in all later rounds.

    The mean is over the clients R that take part: 1 / |R| where nobody is absent. The client with
    the highest reputation of a round always stays. The reputation of who is removed is 0 from then
    on, and it receives nothing; the others share what it had.

    Args:
      algorithm: the method, made by `compose`, whose rules treat absent clients as such.
      share: of the mean reputation, RFFL's is 1/3; 0 removes nobody.
      first: rounds before anybody is removed.

    Returns:
      An Algorithm whose state is the inner one's and the removed clients [N] bool.

    Reference:
      Xu and Lyu, A Reputation Mechanism Is All You Need, arXiv:2011.10464, 2020.
    """

    def init(num_clients: int, num_parameters: int) -> tuple[ComposedState, Array]:
        return algorithm.init(num_clients, num_parameters), jnp.zeros(num_clients, bool)

    def update(
        key: jax.Array, upload: Upload, state: tuple[ComposedState, Array]
    ) -> tuple[Download, Standing, tuple[ComposedState, Array]]:
        inner, removed = state
        stays = upload.present & ~removed
        upload = upload._replace(
            present=stays,
            deltas=jnp.where(removed[:, None], 0.0, upload.deltas),
            norms=jnp.where(removed, 0.0, upload.norms),
        )
        download, standing, inner = algorithm.update(key, upload, inner)
        # What the inner rule keeps for the removed is nobody's: those present have it in
        # proportion, and go on from there.
        r = jnp.where(removed, 0.0, standing.reputation)
        r = jnp.where(jnp.any(removed), renewed(r, r, stays), r)
        mine = jnp.where(stays, r, 0.0)
        mean = jnp.sum(mine) / jnp.maximum(jnp.sum(stays), 1)
        low = stays & (r < share * mean) & (r < jnp.max(mine))
        removed = removed | (low & (upload.round >= first))
        standing = standing._replace(reputation=r)
        inner = inner._replace(standing=standing)
        return download._replace(took_part=stays), standing, (inner, removed)

    return Algorithm(init, update)
