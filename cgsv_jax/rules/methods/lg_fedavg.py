"""LG-FedAvg: representations of one's own, and a shared head on top."""

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.methods.fedavg import fedavg
from cgsv_jax.rules.private import parted, private
from cgsv_jax.rules.spec import Count, Spec
from cgsv_jax.types import Aggregation, Algorithm, Network

SHARED_LAYERS = Count(
    1, Interval(1, 100, whole=True), "lg_fedavg: last layers that all share", "shared layers"
)


def lg_fedavg(
    network: Network | None, aggregation: Aggregation | None = None, *, shared_layers: int = 1
) -> Algorithm:
    """FedAvg of the last k layers; those below stay each client's own.

    On the shared entries u_N = sum_i n_i dw_i / sum_i n_i, given whole to everybody; on the others
    v_i = dw_i. The converse of `fedper`: a client learns its own representation of its data and all
    agree on how it is read. No validation data is needed. O(N D) a round.

    Local representations and the shared layers are trained by one gradient of the supervised loss;
    the paper's further, self-supervised losses of a representation are not there, nor its ensemble
    over clients for data of an unknown one. There runs start from a model that FedAvg has trained;
    here they start from w_0.

    Args:
      network: knows the layers.
      aggregation: another aggregation than `by_size()`.
      shared_layers: k.

    Raises:
      ValueError: the network has no more layers than k, or they are not known.

    Reference:
      Liang et al., Think Locally, Act Globally: Federated Learning with Local and Global
      Representations, arXiv 2001.01523, 2020.
    """
    checks.numbers(SHARED_LAYERS.allowed, shared_layers=shared_layers)
    body, _ = parted(network, "shared_layers", shared_layers, "private")
    return private(fedavg(aggregation), body)


LG_FEDAVG = Spec(
    lg_fedavg,
    {"shared_layers": SHARED_LAYERS},
    parts={"aggregation": "reputation"},
    defaults={"aggregation": "size"},
    given=("network",),
)
