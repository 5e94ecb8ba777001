"""Clients trained one after the other in PyTorch, in a process of its own.

PyTorch is imported only there, so that the process which measures JAX never loads its threads.
"""

from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def serve(
    connection: Connection, network: str, learning_rate: float, work: Any, threads: int
) -> None:
    """Answers ("train", steps) when every client is trained, ("parameters", 0) with theirs.

    Anything else stops it.

    Args:
        connection: to the process that asks.
        network: key of `networks.NETWORKS`.
        learning_rate: of plain SGD.
        work: start (arrays by torch name), inputs [N, S, B, H, W, C] and labels [N, S, B].
        threads: of PyTorch.
    """
    import torch

    from benchmarks.pytorch.networks import NETWORKS

    torch.set_num_threads(threads)
    start, inputs, labels = work
    images = torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 1, 2, 5, 3, 4)))
    labels = torch.from_numpy(labels).long()
    start = {name: torch.from_numpy(array) for name, array in start.items()}
    clients = [NETWORKS[network]() for _ in images]

    def train(steps: int) -> None:
        for client, client_images, client_labels in zip(clients, images, labels, strict=True):
            client.load_state_dict(start)
            optimizer = torch.optim.SGD(client.parameters(), lr=learning_rate)
            for x, y in zip(client_images[:steps], client_labels[:steps], strict=True):
                optimizer.zero_grad()
                torch.nn.functional.nll_loss(client(x), y).backward()
                optimizer.step()

    def parameters(_: int) -> list[dict[str, np.ndarray]]:
        return [{n: p.detach().numpy() for n, p in client.named_parameters()} for client in clients]

    answers = {"train": train, "parameters": parameters}
    while (asked := connection.recv())[0] in answers:
        connection.send(answers[asked[0]](asked[1]))
