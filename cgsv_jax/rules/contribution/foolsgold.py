"""FoolsGold: who goes the way of another is worth less."""

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks
from cgsv_jax.rules.contribution import likeness
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, ArrayTree, Contribution, Upload


def foolsgold(confidence: Array | float = 1.0) -> Contribution:
    """psi_i = a_i in [0, 1], small for clients whose summed uploads point where another's do.

    h_i = sum of all u_i so far; cs_ij = cos(h_i, h_j); m_i = max_j cs_ij + 1e-5; where m_i < m_j,
    cs_ij is multiplied by m_i / m_j, so that honest clients are pardoned who are like a sybil;
    a_i = 1 - max_j cs_ij, divided by the greatest, at most .99; a_i = clip(kappa (ln(a_i / (1 -
    a_i) + 1e-5) + .5), 0, 1). O(N^2 D) a round and [N, D] to remember.

    It is a defence against sybils and takes the rest for granted: whoever is alone in what it sends
    is worth 1, an update of zeros or of noise included; a single replay is not like anybody; and
    honest clients whose data are alike, as those of a uniform partition, are taken for sybils, all
    of them. It was made for weights of the aggregate in place of FedAvg's; here they are scores,
    which reputations average over rounds once more. Gamma makes rounds count the same in h. An
    absent client keeps its h, is worth 0 and nobody is compared with it.

    Its code (DistributedML/FoolsGold, 0aa5511) can look at some features alone, which its main
    experiments do by hand, and says NaN where all clients are the same; here they are worth 0.

    Args:
      confidence: kappa > 0; the code has 1.

    Raises:
      ValueError: confidence is not above 0.

    Reference:
      Fung, Yoon and Beschastnikh, The Limitations of Federated Learning in Sybil Settings,
      RAID 2020.
    """
    checks.numbers(likeness.CONFIDENCE.allowed, confidence=confidence)

    def init(num_clients: int, num_parameters: int) -> Array:
        return jnp.zeros((num_clients, num_parameters))  # h

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, weights: Array, state: ArrayTree
    ) -> tuple[Array, ArrayTree]:
        del key, aggregate, weights
        scales = jnp.where(upload.present, upload.scales, 0.0)
        state = state + (scales[:, None] * upload.deltas).astype(state.dtype)
        cosines = likeness.pairs(state.astype(upload.deltas.dtype), upload.present)
        return likeness.singular(cosines, upload.present, confidence), state

    return Contribution(init, update)


FOOLSGOLD = Spec(foolsgold, {"confidence": likeness.CONFIDENCE})
