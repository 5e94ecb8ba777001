"""No upload longer than the others: the mean of uploads that are cut to a length."""

import math

import chex
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.aggregation import lengths as lengths_lib
from cgsv_jax.rules.aggregation import weighted
from cgsv_jax.rules.shares import over_present
from cgsv_jax.rules.spec import Choice, Number, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Aggregation, Array, Upload

LONGEST = Number(
    0.0,
    Interval(0, math.inf, "[)"),
    "norm_clipping: greatest norm of an upload; 0 is the median norm of the round",
    "clip norm",
    flag="clip_norm",
    switch=True,
)


def norm_clipping(longest: chex.Numeric | None = None, weights: str = "size") -> Aggregation:
    """u_N = sum_i a_i min(1, c / ‖u_i‖) u_i over the clients present, a_i = n_i / sum n.

    c is the median ‖u_i‖ of the clients present, or a threshold. It bounds what a client can do by
    length, and not what it can do by direction: who reverses its update is not noticed, and where
    all uploads have one length already, as under `cgsv`, c does nothing and this is the weighted
    mean. O(N D) a round. The recorded weights are a_i.

    Args:
      longest: c; default: the median.
      weights: "size", n_i / sum n, or "uniform", 1 / n.

    Returns:
      An Aggregation without state.

    Raises:
      ValueError: c is negative, or `weights` another word.

    Reference:
      Sun, Kairouz, Suresh, McMahan, Can You Really Backdoor Federated Learning?, 2019 (a threshold
      for all); the median of norms is a common adaptive choice.
    """
    checks.choice("clipped_weights", weights, "size", "uniform")
    if longest is not None:
        checks.numbers(LONGEST.allowed, clip_norm=longest)

    def aggregated(upload: Upload) -> tuple[Array, Array]:
        lengths, middle = lengths_lib.of_uploads(upload)
        most = middle if longest is None else jnp.asarray(longest, lengths.dtype)
        cut = jnp.where(lengths > most, lengths_lib.factors(lengths, most), 1.0)
        shares = over_present(weighted.shares(upload, weights), upload.present)
        return vectors.weighted_sum(shares * cut * upload.scales, upload.deltas), shares

    return stateless(Aggregation, aggregated)


NORM_CLIPPING = Spec(
    norm_clipping,
    {
        "longest": LONGEST,
        "weights": Choice(
            "size",
            ("size", "uniform"),
            "norm_clipping: weights of the uploads, size or uniform",
            flag="clipped_weights",
        ),
    },
)
