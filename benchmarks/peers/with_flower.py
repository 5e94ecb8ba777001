"""The round in Flower's simulation: FedAvg over ClientApps that run in Ray actors, with PyTorch.

One actor per core with one thread each. The simulation stays up between rounds: the ServerApp,
which runs in a thread of this process, waits for what is asked and starts the strategy for so many
rounds. A client trains on slices of memory-mapped rows; nothing goes through a DataLoader.
"""

import functools
import os
import sys

# No reports to anybody, whatever the libraries' defaults are; before they are imported.
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers import protocol, torch_networks
from benchmarks.peers.work import Work, load

client_app = ClientApp()


@functools.cache
def _prepared(folder: str) -> tuple[Work, torch.nn.Module]:
    """Once per actor: the rows, mapped, and a network to load parameters into."""
    torch.set_num_threads(1)
    work = load(folder)
    return work, torch_networks.network(work.case)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """A client's round."""
    work, network = _prepared(message.content["config"]["folder"])
    case, client = work.case, int(context.node_config["partition-id"])
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    held = slice(work.offsets[client], work.offsets[client + 1])
    inputs, labels = torch_networks.rows(work.inputs[held], work.labels[held])
    optimizer = torch.optim.SGD(network.parameters(), lr=case.learning_rate)
    for _ in range(case.epochs):
        for x, y in zip(inputs.split(case.batch), labels.split(case.batch), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    records = {
        "arrays": ArrayRecord(network.state_dict()),
        "metrics": MetricRecord({"num-examples": len(labels)}),
    }
    return Message(content=RecordDict(records), reply_to=message)


def build(work: Work, folder: str, grid: Grid) -> protocol.Federation:
    """The server's side of the federation."""
    state = {}

    def reset() -> None:
        state["arrays"] = ArrayRecord({n: torch.from_numpy(a) for n, a in work.start.items()})

    def advance(rounds: int) -> None:
        strategy = FedAvg(fraction_evaluate=0.0)  # everybody trains, nobody evaluates
        config = ConfigRecord({"folder": folder})
        result = strategy.start(grid, state["arrays"], num_rounds=rounds, train_config=config)
        state["arrays"] = result.arrays

    def parameters() -> dict[str, np.ndarray]:
        return {n: t.numpy() for n, t in state["arrays"].to_torch_state_dict().items()}

    reset()
    return protocol.Federation(advance, reset, parameters)


def main() -> None:
    """Brings the simulation up and answers from within it."""
    wire = protocol.claim()
    folder = sys.argv[1]
    work = load(folder)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        del context
        federation = build(work, folder, grid)
        protocol.answer(wire, federation, ("flwr", "ray", "torch", "numpy"))

    try:
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=work.case.clients,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    except Exception as error:
        wire.send(error=protocol.error_of(error))
        raise


if __name__ == "__main__":
    # By its importable name, so that the actors import this file rather than unpickle it.
    from benchmarks.peers import with_flower

    with_flower.main()
