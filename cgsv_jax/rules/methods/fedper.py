"""FedPer: a shared body, and a head of one's own."""

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.private import parted, private
from cgsv_jax.rules.spec import Count, Spec
from cgsv_jax.types import Aggregation, Algorithm, Network

PRIVATE_LAYERS = Count(
    1, Interval(1, 100, whole=True), "fedper: last layers that stay with a client", "private layers"
)


def fedper(
    network: Network | None, aggregation: Aggregation | None = None, *, private_layers: int = 1
) -> Algorithm:
    """FedAvg of all layers but the last k, which stay each client's own.

    On the shared entries u_N = sum_i n_i dw_i / sum_i n_i, given whole to everybody; on the others
    v_i = dw_i. A client's model is the shared body under its own head, so clients differ and
    fairness is defined. Which layers are the last is how deep they lie (`Network.layers`). No
    validation data is needed. O(N D) a round.

    Body and head are trained together, in all local epochs, as in the paper. There all clients take
    part and the head starts from a common w_0, here as well; a client that was absent has w_N in
    its body and its old head. The state of the local optimizer stays with the client, as in every
    method here.

    Args:
      network: knows the layers.
      aggregation: another aggregation than `by_size()`.
      private_layers: k, K_P of the paper.

    Raises:
      ValueError: the network has no more layers than k, or they are not known.

    Reference:
      Arivazhagan et al., Federated Learning with Personalization Layers, arXiv 1912.00818, 2019.
    """
    checks.numbers(PRIVATE_LAYERS.allowed, private_layers=private_layers)
    _, head = parted(network, "private_layers", private_layers, "shared")
    return private(fedavg(aggregation), head)


FEDPER = Spec(
    fedper,
    {"private_layers": PRIVATE_LAYERS},
    parts={"aggregation": "reputation"},
    defaults={"aggregation": "size"},
    given=("network",),
)
