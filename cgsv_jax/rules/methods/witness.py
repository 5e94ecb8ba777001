"""CGSV that listens to witnesses: no echo of its own words, no crowd of one, every class heard."""

import chex

from cgsv_jax.rules.contribution import class_cosine, echo, quotient
from cgsv_jax.rules.methods.cgsv import CGSV, cgsv
from cgsv_jax.types import Algorithm, Network


def witness(
    network: Network | None,
    gamma: chex.Numeric = 0.5,
    alpha: chex.Numeric = 0.95,
    beta: chex.Numeric = 1.0,
    *,
    rounds: int = 3,
    alike: chex.Numeric = 0.9,
    classes: str = "alike",
) -> Algorithm:
    """`cgsv` with psi_i = mean_c ‖e_{i,c}‖ / ‖u_{i,c}‖ cos(e_{i,c}, u_{N,c}) / |C_i|.

    e_i is what an upload holds beside what its client was sent in the last k rounds (`echo`), c a
    class in the last layer (`class_cosine`), from each of which the echo is taken by itself, and
    C_i the clients who say the same (`quotient`). No validation data is needed. O(N² D + k² N C F
    + D log D) a round.

    Args:
      network: knows the places of the last layer.
      gamma: as in `cgsv`.
      alpha: as in `cgsv`.
      beta: as in `cgsv`.
      rounds: k, as in `echo`.
      alike: tau, as in `quotient`.
      classes: as in `class_cosine`.

    Reference:
      A finding of this project (`python -m experiments.robustness`).
    """
    measure = quotient(echo(class_cosine(network, classes), rounds), alike)
    return cgsv(gamma, alpha, beta, contribution=measure)


WITNESS = CGSV._replace(
    defaults={"contribution": "quotient", "quotient_of": "echo", "echo_of": "class_cosine"}
)
