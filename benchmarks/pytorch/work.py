"""What both sides are asked to do, as NumPy arrays: a federation, its start, its batch orders."""

from typing import NamedTuple

import numpy as np


class Work(NamedTuple):
    """A federation. N clients, M slots, n rows, E epochs, T rounds; torch names and layouts."""

    network: str  # key of models.MODELS and networks.NETWORKS
    start: dict[str, np.ndarray]  # the common w_0 by torch name
    inputs: np.ndarray  # [n, H, W, C] float32, or tokens [n, L] int32 of which 0 is padding
    labels: np.ndarray  # [n] int32
    rows: np.ndarray  # [N, M] int32, left-packed
    sizes: np.ndarray  # [N] rows held
    orders: np.ndarray | None  # [T, N, E, M] int32 slots, -1 pads; None: everybody shuffles alone
    test_inputs: np.ndarray  # [n_test, ...], as inputs
    test_labels: np.ndarray  # [n_test]
    batch_size: int = 32
    learning_rate: float = 0.15
    decay: float = 0.977  # per round
    optimizer: str = "sgd"  # of the clients, or "adam", whose moments stay with a client
    epochs: int = 1
    gamma: float = 0.5
    alpha: float = 0.95
    beta: float = 1.0
    method: str = "cgsv"  # or "fedavg", "standalone"
    setting: str = "paper"  # or "released": the server's rules, for cgsv

    @property
    def num_clients(self) -> int:
        """N."""
        return len(self.sizes)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the dense layers except the last."""
        biases = [x.size for name, x in self.start.items() if name.startswith("fc") and x.ndim == 1]
        return tuple(biases[:-1])

    @property
    def words(self) -> tuple[int, int, int]:
        """Of the text network: V, numbers per word, kernels of each convolution."""
        return *self.start["embed.weight"].shape, self.start["conv1.bias"].size

    @property
    def rows_visited(self) -> int:
        """Rows in all mini-batches of all clients in one round."""
        return int(self.epochs * self.sizes.sum())


def shuffled(rng: np.random.Generator, sizes: np.ndarray, rounds: int, epochs: int) -> np.ndarray:
    """[T, N, E, M] an order of every client's slots for every round and epoch, -1 pads."""
    orders = np.full((rounds, len(sizes), epochs, max(sizes)), -1, np.int32)
    for t in range(rounds):
        for i, size in enumerate(sizes):
            for e in range(epochs):
                orders[t, i, e, :size] = rng.permutation(size)
    return orders


def shortened(work: Work, clients: int = 3, steps: int = 2) -> Work:
    """The first clients, the first mini-batches of their first epoch in two rounds, nothing else.

    Two sides are compared on this: rounding grows from step to step, a mistake shows in the first.
    The rows are renumbered, so that the shapes depend on the batch size alone.
    """
    visits, rounds = steps * work.batch_size, 2
    rows = np.zeros((min(clients, work.num_clients), rounds * visits), np.int32)
    orders = np.full((rounds, len(rows), 1, visits), -1, np.int32)
    sizes = np.zeros(len(rows), np.int64)
    for t in range(rounds):
        for i in range(len(rows)):
            visited = work.orders[t % len(work.orders), i, 0, :visits]
            visited = visited[visited >= 0]
            slots = sizes[i] + np.arange(len(visited))
            rows[i, slots] = work.rows[i, visited]
            orders[t, i, 0, : len(visited)] = slots
            sizes[i] += len(visited)
    return work._replace(
        inputs=work.inputs[rows.ravel()],
        labels=work.labels[rows.ravel()],
        rows=np.arange(rows.size, dtype=np.int32).reshape(rows.shape),
        sizes=sizes,
        orders=orders,
        epochs=1,
        test_inputs=work.test_inputs[:1],
        test_labels=work.test_labels[:1],
    )
