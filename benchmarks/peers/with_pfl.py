"""The round in pfl (pfl-research) with PyTorch: FederatedAveraging over a SimulatedBackend.

Started by torchrun, one process per core with one thread each, as pfl spreads a cohort: every
process trains its share of the users, by size, and the sums are all-reduced. Process 0 talks to the
one that measures and tells the others what it was asked.
"""

import os
import sys
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

from benchmarks.peers import protocol, torch_networks
from benchmarks.peers.work import Case, Work, load


class Network(nn.Module):
    """What pfl asks of a module: its loss, and its metrics."""

    def __init__(self, case: Case):
        super().__init__()
        self.inner = torch_networks.network(case)

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of a batch."""
        return nn.functional.cross_entropy(self.inner(inputs), labels)

    @torch.no_grad()
    def metrics(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Weighted]:
        """Only the first round, the warm-up, asks for them."""
        return {"loss": Weighted(self.loss(inputs, labels).item() * len(labels), len(labels))}


def build(work: Work) -> protocol.Federation:
    """This process's part of the federation."""
    case = work.case
    np.random.seed(0)  # noqa: NPY002 (pfl seeds its draws of users from it: all must draw alike)
    network = Network(case)
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    users = {}
    for i in range(case.clients):
        held = slice(work.offsets[i], work.offsets[i + 1])
        rows = torch_networks.rows(work.inputs[held], work.labels[held])
        users[i] = PyTorchTensorDataset(rows, user_id=str(i))
    sampler = get_user_sampler("minimize_reuse", list(users))  # everybody once a round
    sizes = {i: int(size) for i, size in enumerate(work.sizes)}
    data = FederatedDataset(users.__getitem__, sampler, user_id_to_weight=sizes)
    backend = SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()])
    training = NNTrainHyperParams(
        local_batch_size=case.batch,
        local_num_epochs=case.epochs,
        local_learning_rate=case.learning_rate,
    )
    algorithm = FederatedAveraging()
    done = [0]

    def advance(rounds: int) -> None:
        # A further `run` goes on counting, so that all rounds but the first skip the evaluation.
        done[0] += rounds
        settings = NNAlgorithmParams(
            central_num_iterations=done[0],
            evaluation_frequency=sys.maxsize,
            train_cohort_size=case.clients,
            val_cohort_size=None,
        )
        algorithm.run(settings, backend, model, training, send_metrics_to_platform=False)

    def reset() -> None:
        network.inner.load_state_dict({n: torch.from_numpy(a) for n, a in work.start.items()})

    def parameters() -> dict[str, np.ndarray]:
        return {n: p.detach().numpy().copy() for n, p in network.inner.named_parameters()}

    reset()
    return protocol.Federation(advance, reset, parameters)


def leader(federation: protocol.Federation) -> protocol.Federation:
    """Process 0's federation: what it does, all do."""

    def tell(what: str, number: int = 0) -> None:
        torch.distributed.broadcast_object_list([what, number], src=0)

    def advance(rounds: int) -> Any:
        tell("advance", rounds)
        return federation.advance(rounds)

    def reset() -> Any:
        tell("reset")
        return federation.reset()

    return protocol.Federation(advance, reset, federation.parameters)


def follow(federation: protocol.Federation) -> None:
    """The other processes: they do what process 0 is asked, until it stops."""
    while True:
        asked: list[Any] = [None, None]
        torch.distributed.broadcast_object_list(asked, src=0)
        what, number = asked
        if what == "advance":
            federation.advance(number)
        elif what == "reset":
            federation.reset()
        else:
            return


def main() -> None:
    """One of torchrun's processes."""
    wire = protocol.claim() if int(os.environ.get("RANK", "0")) == 0 else None
    try:
        torch.set_num_threads(1)
        federation = build(load(sys.argv[1]))
    except Exception as error:
        if wire is not None:
            wire.send(error=protocol.error_of(error))
        raise
    alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
    if wire is None:
        follow(federation)
    else:
        federation = federation if alone else leader(federation)
        protocol.answer(wire, federation, ("pfl", "torch", "numpy"))
        if not alone:
            torch.distributed.broadcast_object_list(["stop", 0], src=0)


if __name__ == "__main__":
    main()
