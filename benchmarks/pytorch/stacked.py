"""The best PyTorch that a fair expert would write: all clients in one call.

Parameters are stacked [N, ...]; one step of all clients is `vmap` over `grad` over
`functional_call`; the server's step is algebra on the [N, D] matrix with one sort of |u_N|;
`compile=True` hands both to torch.compile.
"""

from typing import Any

import numpy as np
import torch
from torch.func import functional_call, grad, vmap

from benchmarks.pytorch import common
from benchmarks.pytorch.work import Work


class Stacked:
    """N clients as rows. The same questions and answers as `sequential.Sequential`; cgsv only.

    Args:
        work: what to do, batch orders included.
        device: "cpu" or "cuda".
        precision: see `common.set_precision`.
        dtype: "float32", or "float64" for comparisons.
        compile: hand the training step and the server's step to torch.compile.
        chunk: clients trained at once, of similar size; None is all.

    Raises:
        ValueError: another method than cgsv, another optimizer than sgd, or no orders.
    """

    def __init__(
        self,
        work: Work,
        device: str = "cpu",
        precision: str = "float32",
        dtype: str = "float32",
        compile: bool = False,
        chunk: int | None = None,
    ):
        if (work.method, work.optimizer) != ("cgsv", "sgd") or work.orders is None:
            raise ValueError("stacked clients know the method cgsv, sgd and given orders only")
        common.set_precision(precision)
        self.work, self.device, self.dtype = work, torch.device(device), getattr(torch, dtype)
        place = (self.device, self.dtype)
        self.net = common.build(work).to(*place)
        self.shapes = {n: p.shape for n, p in self.net.named_parameters()}
        self.lengths = [p.numel() for p in self.net.parameters()]
        self.inputs = common.inputs(work, work.inputs, *place)
        self.labels = common.tensor(work.labels, self.device, torch.long)
        self.test_inputs = common.inputs(work, work.test_inputs, *place)
        self.test_labels = common.tensor(work.test_labels, self.device, torch.long)
        self.shares = common.tensor(work.sizes / work.sizes.sum(), *place)
        start = np.concatenate([x.ravel() for x in work.start.values()])
        self.server = common.tensor(start, *place)
        self.clients = self.server.repeat(work.num_clients, 1)  # [N, D]
        self.reputation, self.first = torch.zeros_like(self.shares), True
        self.deltas = torch.zeros_like(self.clients)
        self.score = self.ratio = self.reputation
        self.aggregated = torch.zeros_like(self.server)
        self.rewards = self.deltas
        wrap = torch.compile if compile else lambda function: function
        self.step, self.serve_all = wrap(self._step), wrap(self._serve)
        by_size = np.argsort(work.sizes, kind="stable")
        width = chunk or work.num_clients
        self.chunks = [by_size[i : i + width] for i in range(0, len(by_size), width)]
        self.batches = [
            [self._batches(orders, members) for members in self.chunks] for orders in work.orders
        ]

    def _batches(self, orders: np.ndarray, members: np.ndarray) -> list[tuple]:
        """(epoch, rows [n, B], weights [n, B]) of every step of one chunk, on the device.

        A weight is 1 / (rows in the batch), 0 on padding: a client that has finished has a loss of
        0 and stays where it is, which is right for plain descent.
        """
        size, steps = self.work.batch_size, []
        for epoch in range(self.work.epochs):
            order = orders[members, epoch]
            longest = int((order >= 0).sum(1).max())
            for first in range(0, longest, size):
                slots = order[:, first : first + size]
                missing = size - slots.shape[1]
                slots = np.pad(slots, ((0, 0), (0, missing)), constant_values=-1)
                valid = slots >= 0
                rows = np.take_along_axis(self.work.rows[members], np.maximum(slots, 0), axis=1)
                weights = valid / np.maximum(valid.sum(1, keepdims=True), 1)
                steps.append(
                    (
                        epoch,
                        common.tensor(rows, self.device, torch.long),
                        common.tensor(weights, self.device, self.dtype),
                    )
                )
        return steps

    def _params(self, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        """[n, D] -> name -> [n, ...]."""
        parts = matrix.split(self.lengths, dim=1)
        return {
            name: part.reshape(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def _step(self, params: dict, x: Any, y: Any, weights: Any, rate: Any) -> dict:
        def loss(params, x, y, weights):
            log_probabilities = functional_call(self.net, params, (x,))
            return -(log_probabilities.gather(1, y[:, None])[:, 0] * weights).sum()

        gradients = vmap(grad(loss))(params, x, y, weights)
        return {name: p - rate * gradients[name] for name, p in params.items()}

    def train(self, round: int = 0) -> None:
        """Local epochs of all clients: dw [N, D]."""
        deltas = torch.empty_like(self.clients)
        for members, steps in zip(
            self.chunks, self.batches[round % len(self.batches)], strict=True
        ):
            members = torch.from_numpy(members).to(self.device)
            before = self.clients[members]
            params = self._params(before)
            for epoch, rows, weights in steps:
                # A tensor, because every new Python number would be compiled anew.
                rate = common.learning_rate(self.work, round, epoch)
                rate = torch.tensor(rate, device=self.device, dtype=self.dtype)
                params = self.step(params, self.inputs[rows], self.labels[rows], weights, rate)
            after = torch.cat([p.reshape(len(before), -1) for p in params.values()], dim=1)
            deltas[members] = after - before
        self.deltas = deltas

    def serve(self) -> None:
        """The server's half of a round: normalise to download."""
        weights = self.shares if self.first else self.reputation
        state = (self.clients, self.server, self.deltas, weights, self.reputation)
        with torch.no_grad():
            answer = self.serve_all(*state)
        self.clients, self.server, self.aggregated, self.score, self.reputation, self.ratio = answer
        self.first = False

    def _serve(self, clients, server, deltas, weights, reputation):
        norm_epsilon, cosine_epsilon = common.epsilons(self.work)
        norms = torch.linalg.vector_norm(deltas, dim=1)
        scales = torch.where(norms > 0, self.work.gamma / (norms + norm_epsilon), 0.0)
        aggregate = (weights * scales) @ deltas
        lengths = (norms * scales).clamp(min=cosine_epsilon)
        lengths = lengths * torch.linalg.vector_norm(aggregate).clamp(min=cosine_epsilon)
        score = torch.where(lengths > 0, (deltas @ aggregate) * scales / lengths, 0.0)
        reputation = common.judged(reputation, score, self.work.alpha)
        ratio = common.ratios(reputation, self.work.beta)
        # In place: the old clients are not needed any more, and fresh pages cost more than memory.
        clients.add_(torch.where(self._kept(aggregate, ratio), aggregate, 0.0))
        return clients, server + aggregate, aggregate, score, reputation, ratio

    def _kept(self, aggregate: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        """Which entries each client receives: [N, D], from one sort of each masked vector."""
        magnitudes = aggregate.abs()
        if self.work.setting == "paper":
            order = magnitudes.argsort(descending=True, stable=True)
            places = torch.arange(len(order), device=order.device)
            rank = torch.empty_like(order).scatter_(0, order, places)
            return rank < torch.floor(len(order) * ratio)[:, None]
        masks = []
        for part in magnitudes.split(self.lengths):
            count = torch.clamp(torch.ceil(len(part) * ratio), max=len(part) - 1).long()
            ordered = part.sort(descending=True).values
            threshold = torch.where(count > 0, ordered[(count - 1).clamp(min=0)], torch.inf)
            masks.append(part >= threshold[:, None])
        return torch.cat(masks, dim=1)

    def evaluate(self, batch: int = 1000, models: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Test accuracy and mean loss of every client's model and, last, the server's: [N + 1].

        `models` are evaluated at once, on `batch` test rows.
        """
        forward = vmap(lambda p, x: functional_call(self.net, p, (x,)), (0, None))
        right, loss = [], []
        with torch.no_grad():
            for group in torch.cat([self.clients, self.server[None]]).split(models):
                params, hits, total = self._params(group), 0, 0
                for x, y in zip(
                    self.test_inputs.split(batch), self.test_labels.split(batch), strict=True
                ):
                    scores = forward(params, x)  # [n, B, C]
                    hits = hits + (scores.argmax(dim=2) == y).sum(dim=1)
                    total = total - scores.gather(2, y.expand(len(group), -1)[..., None]).sum(
                        (1, 2)
                    )
                right.append(hits)
                loss.append(total)
        rows = len(self.test_labels)
        return tuple(torch.cat(x).double().cpu().numpy() / rows for x in (right, loss))

    def set_state(
        self, clients: np.ndarray, server: np.ndarray, reputation: np.ndarray, first: bool
    ) -> None:
        """Models [N, D] and [D] in the order of the tensors, r [N]."""
        place = (self.device, self.dtype)
        self.clients = common.tensor(np.array(clients), *place)  # a copy: `serve` writes into it
        self.server = common.tensor(server, *place)
        self.reputation, self.first = common.tensor(reputation, *place), first

    def set_deltas(self, deltas: np.ndarray) -> None:
        """dw [N, D], as if trained."""
        self.deltas = common.tensor(deltas, self.device, self.dtype)

    def look(self, *names: str) -> Any:
        """Of deltas, aggregate, score, reputation, ratio, rewards, clients, server: as arrays."""
        return {name: self._look(name).detach().cpu().numpy() for name in names}

    def _look(self, name: str) -> torch.Tensor:
        if name == "rewards":  # never stored
            return torch.where(self._kept(self.aggregated, self.ratio), self.aggregated, 0.0)
        return getattr(self, "aggregated" if name == "aggregate" else name)
