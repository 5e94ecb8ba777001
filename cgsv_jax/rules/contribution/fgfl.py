"""FGFL's contribution: how near an upload is to what all of them became."""

import jax.numpy as jnp

from cgsv_jax.core import vectors
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.spec import Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Array, Contribution, Upload

MOST = 1e15  # of a quotient of lengths, whose square is still a number in float32


def fgfl() -> Contribution:
    """psi_i = 1 - ‖u_i - u_N‖² / ‖u_N‖², at most 1; 0 if u_N is. O(N D) a round.

    With l_i = ‖u_i‖ / ‖u_N‖ it is l_i (2 cos(u_i, u_N) - l_i), and so it is computed: 1 for who
    sends u_N itself, 0 for who sends nothing, and below 0 for whoever is farther from u_N still.
    Where all uploads have the length Gamma, as in `cgsv`, l is the same for all, Gamma cancels, and
    psi is the cosine's ranking on another scale; the less clients agree, the shorter is u_N, and
    the farther below 0 is everybody. Where lengths are free, as in `fedavg`, an update twice as
    long as u_N in the very same direction is worth 0.

    A replay is near u_N and scores high: no cure of that. Its scale is that of no reputation, so
    use it with `normalise_scores`. Its authors' threshold, below which a client is a free rider, is
    the median less some standard deviations; the benchmark that follows them
    (LukasXperiaZ/FL-free-rider-benchmark, 66e4893) has 2.1 of them on MNIST, 2.8 on CIFAR-10.

    Reference:
      Gao et al., FGFL: A Blockchain-based Fair Incentive Governor for Federated Learning,
      Journal of Parallel and Distributed Computing, 2022.
    """

    def score(upload: Upload, aggregate: Array) -> Array:
        cosines = vectors.cosines(upload.deltas, upload.norms, upload.scales, aggregate)
        length = vectors.norm(aggregate)
        lengths = upload.scales * upload.norms / jnp.where(length > 0, length, 1.0)
        lengths = jnp.where(length > 0, jnp.minimum(lengths, MOST), 0.0)
        psi = lengths * (2 * cosines - lengths)
        return jnp.where(upload.present, psi, 0.0)

    return stateless(Contribution, score)


FGFL = Spec(fgfl, defaults=games.OTHER_SCALE)
