"""The round in BlazeFL with PyTorch: its FedAvg (`blazefl.contrib`) over threads, one per core.

Threads are what BlazeFL recommends, for a Python that has no global interpreter lock. Under the
lock they overlap only while PyTorch computes. Its processes are not used: their pool starts anew
for every round. The loop over rounds is that of its README.
"""

import itertools
import os
import platform
import sys
from typing import NamedTuple

# Before PyTorch and tqdm are imported: every worker computes alone, and no bars in the log.
os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}

import numpy as np
import torch
from blazefl.contrib import FedAvgBaseServerHandler, FedAvgThreadPoolClientTrainer
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset

from benchmarks.peers import protocol, torch_networks
from benchmarks.peers.work import Case, Work, load


class Networks(NamedTuple):
    """What BlazeFL calls a model selector: a fresh network for whoever asks."""

    case: Case

    def select_model(self, model_name: str) -> torch.nn.Module:
        """The case's network; its parameters are overwritten by the server's."""
        del model_name  # there is one
        return torch_networks.network(self.case)


class Rows(NamedTuple):
    """What BlazeFL calls a partitioned data set: the clients' rows, in memory."""

    clients: list[TensorDataset]

    def get_dataset(self, type_: str, cid: int) -> Dataset:
        """A client's rows."""
        del type_  # nobody evaluates
        return self.clients[cid]

    def set_dataset(self, type_: str, cid: int, dataset: Dataset) -> None:
        """Nothing: a client's rows stay what they are."""

    def get_dataloader(
        self, type_: str, cid: int, batch_size: int, generator: torch.Generator | None
    ) -> DataLoader:
        """A client's batches, in the order in which its rows lie.

        A batch is one indexing: a loader that is left to batch by itself takes row after row.
        """
        del generator  # nobody shuffles
        rows = self.get_dataset(type_, cid)
        batches = BatchSampler(SequentialSampler(rows), batch_size, drop_last=False)
        return DataLoader(rows, sampler=batches, batch_size=None)


def build(work: Work) -> protocol.Federation:
    """The federation."""
    case, networks = work.case, Networks(work.case)
    rows = Rows(
        [
            TensorDataset(*torch_networks.rows(work.inputs[start:stop], work.labels[start:stop]))
            for start, stop in itertools.pairwise(work.offsets)
        ]
    )
    same = {
        "model_selector": networks,
        "model_name": case.network,
        "dataset": rows,
        "device": "cpu",
        "num_clients": case.clients,
        "batch_size": case.batch,
        "seed": 0,
    }
    handler = FedAvgBaseServerHandler(global_round=sys.maxsize, sample_ratio=1.0, **same)
    same |= {"epochs": case.epochs, "lr": case.learning_rate, "num_parallels": os.cpu_count()}
    trainer = FedAvgThreadPoolClientTrainer(**same)

    def reset() -> None:
        start = {name: torch.from_numpy(array) for name, array in work.start.items()}
        handler.model.load_state_dict(start)

    def advance(rounds: int) -> None:
        for _ in range(rounds):
            trainer.local_process(handler.downlink_package(), handler.sample_clients())
            for package in trainer.uplink_package():
                handler.load(package)

    def parameters() -> dict[str, np.ndarray]:
        return {name: p.numpy().copy() for name, p in handler.model.state_dict().items()}

    reset()
    return protocol.Federation(advance, reset, parameters)


def main() -> None:
    """A peer's whole program. It tells under which Python its threads run."""
    wire = protocol.claim()
    try:
        federation = build(load(sys.argv[1]))
    except Exception as error:
        wire.send(error=protocol.error_of(error))
        return
    protocol.answer(
        wire,
        federation,
        ("blazefl", "torch", "numpy"),
        python=platform.python_version(),
        workers="threads under the GIL" if sys._is_gil_enabled() else "threads without a GIL",
    )


if __name__ == "__main__":
    main()
