"""CGSV that hears witnesses: no echo of its own words, no crowd of one, every class for itself."""

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
    significance: chex.Numeric = 3.0,
    alike: chex.Numeric = 0.95,
    memory: chex.Numeric = 0.9,
    penalty: chex.Numeric = 4.0,
    classes: str = "rare",
    disagreement: str = "ignored",
) -> Algorithm:
    """`cgsv` with psi_i = sum_c b_c [cos(u_{i,c}, u_{N,c})]+ over the classes heard.

    c is a class in the last layer and b_c is in inverse proportion to what all clients have there
    (`class_cosine`). A class of a client is heard where its agreement remains, z deviations above
    chance, when what the client was sent in the last k rounds is taken out (`echo`). Of clients
    who have sent the same, psi is divided and reversed (`quotient`), so that posing as several is
    worse than being one. No validation data is needed.
    O(N² D + k² N C F + D log D) a round.

    Args:
      network: knows the places of the last layer.
      gamma: as in `cgsv`.
      alpha: as in `cgsv`.
      beta: as in `cgsv`.
      rounds: k, as in `echo`.
      significance: z, as in `echo`.
      alike: tau, as in `quotient`.
      memory: mu, as in `quotient`.
      penalty: lambda, as in `quotient`.
      classes: as in `class_cosine`.
      disagreement: as in `class_cosine`.

    Reference:
      A finding of this project (`python -m experiments.robustness`).
    """
    judged = echo(class_cosine(network, classes, disagreement), rounds, significance)
    return cgsv(gamma, alpha, beta, contribution=quotient(judged, alike, memory, penalty))


WITNESS = CGSV._replace(
    defaults={
        **{"contribution": "quotient", "quotient_of": "echo", "echo_of": "class_cosine"},
        **{"penalty": 4.0, "class_weights": "rare", "disagreement": "ignored"},
    }
)
