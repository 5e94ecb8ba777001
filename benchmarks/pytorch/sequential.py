"""The released procedure in PyTorch, phase by phase: one client after the other.

    train -> normalise -> aggregate -> cosine -> judge -> reward -> download, and evaluate

Updates are lists of tensors, rewards are deep copies masked tensor by tensor and client by client,
as in the code that users run today. What it does beside the method is left out: it neither prints
nor writes, and its data already lie on the device, so that nothing but the method is timed.
"""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.pytorch import common
from benchmarks.pytorch.work import Work


class Sequential:
    """N models, N optimizers and a server. PyTorch's modules hold state, hence a class.

    Args:
        work: what to do.
        device: "cpu" or "cuda".
        precision: see `common.set_precision`.
        dtype: "float32", or "float64" for comparisons.
        seed: PyTorch's own start and, where the work has no orders, its own shuffling; None starts
            from `work.start`.
    """

    def __init__(
        self,
        work: Work,
        device: str = "cpu",
        precision: str = "float32",
        dtype: str = "float32",
        seed: int | None = None,
    ):
        common.set_precision(precision)
        self.work, self.device, self.dtype = work, torch.device(device), getattr(torch, dtype)
        self.generator = torch.Generator().manual_seed(seed or 0)
        if seed is not None:
            torch.manual_seed(seed)
        self.server = common.build(work).to(self.device, self.dtype)
        if seed is None:
            start = {n: torch.from_numpy(x) for n, x in work.start.items()}
            self.server.load_state_dict(start)
        self.models = [copy.deepcopy(self.server) for _ in work.sizes]
        optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[work.optimizer]
        self.optimizers = [
            optimizer(model.parameters(), lr=work.learning_rate) for model in self.models
        ]
        place = (self.device, self.dtype)
        self.inputs = common.inputs(work, work.inputs, *place)
        self.labels = common.tensor(work.labels, self.device, torch.long)
        self.test_inputs = common.inputs(work, work.test_inputs, *place)
        self.test_labels = common.tensor(work.test_labels, self.device, torch.long)
        self.rows = [common.tensor(rows, self.device, torch.long) for rows in work.rows]
        self.orders = None if work.orders is None else self._given_orders(work.orders)
        self.reputation = torch.zeros(work.num_clients, device=self.device, dtype=self.dtype)
        self.first = True  # nobody has a reputation yet
        # What one phase leaves for the next.
        self.deltas: list[list[torch.Tensor]] = []
        self.uploads: list[list[torch.Tensor]] = []
        self.rewards: list[list[torch.Tensor]] = []
        self.aggregated: list[torch.Tensor] = []
        self.score = self.ratio = self.reputation

    def _given_orders(self, orders: np.ndarray) -> list[list[list[torch.Tensor]]]:
        """[T][N][E] slots without padding."""
        return [
            [
                [common.tensor(epoch[epoch >= 0], self.device, torch.long) for epoch in client]
                for client in round_
            ]
            for round_ in orders
        ]

    def _order(self, client: int, round_: int, epoch: int) -> torch.Tensor:
        if self.orders is None:
            size = int(self.work.sizes[client])
            return torch.randperm(size, generator=self.generator).to(self.device)
        return self.orders[round_ % len(self.orders)][client][epoch]

    # ------------------------------------------------------------ phases

    def train(self, round: int = 0) -> None:
        """Local epochs of every client from its own model, which is then restored: dw_i."""
        self.deltas = [self._train_one(i, round) for i in range(self.work.num_clients)]

    def _train_one(self, client: int, round_: int) -> list[torch.Tensor]:
        model, optimizer = self.models[client], self.optimizers[client]
        model.train()
        before = [p.detach().clone() for p in model.parameters()]
        for epoch in range(self.work.epochs):
            for group in optimizer.param_groups:
                group["lr"] = common.learning_rate(self.work, round_, epoch)
            for slots in self._order(client, round_, epoch).split(self.work.batch_size):
                rows = self.rows[client][slots]
                optimizer.zero_grad()
                F.nll_loss(model(self.inputs[rows]), self.labels[rows]).backward()
                optimizer.step()
        delta = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
        with torch.no_grad():
            for p, b in zip(model.parameters(), before, strict=True):
                p.copy_(b)
        return delta

    def normalise(self) -> None:
        """u_i = Gamma dw_i / (‖dw_i‖ + epsilon)."""
        if self.work.method != "cgsv":
            self.uploads = self.deltas
            return
        epsilon, _ = common.epsilons(self.work)
        self.uploads = []
        for delta in self.deltas:
            length = torch.linalg.vector_norm(common.flat(delta))
            scale = torch.where(length > 0, self.work.gamma / (length + epsilon), 0.0)
            self.uploads.append([scale * part for part in delta])

    def aggregate(self) -> None:
        """u_N = sum_i r_i u_i; shares of the data where nobody has a reputation yet."""
        shares = common.tensor(self.work.sizes / self.work.sizes.sum(), self.device, self.dtype)
        weights = shares if self.first or self.work.method == "fedavg" else self.reputation
        if self.work.method == "standalone":
            weights = torch.full_like(shares, 1 / self.work.num_clients)
        total = [torch.zeros_like(part) for part in self.uploads[0]]
        for weight, upload in zip(weights, self.uploads, strict=True):
            for part, term in zip(total, upload, strict=True):
                part.add_(term * weight)
        self.aggregated, self.first = total, False

    def cosine(self) -> None:
        """psi_i = cos(u_i, u_N)."""
        _, epsilon = common.epsilons(self.work)
        whole = common.flat(self.aggregated)
        self.score = torch.stack(
            [F.cosine_similarity(common.flat(u), whole, dim=0, eps=epsilon) for u in self.uploads]
        )

    def judge(self) -> None:
        """r_i and the share of the best reward that it earns."""
        self.reputation = common.judged(self.reputation, self.score, self.work.alpha)
        self.ratio = common.ratios(self.reputation, self.work.beta)

    def reward(self) -> None:
        """v_i: a masked deep copy of u_N for every client."""
        mask = _mask_each if self.work.setting == "released" else _mask_whole
        if self.work.method == "cgsv":
            self.rewards = [mask(copy.deepcopy(self.aggregated), ratio) for ratio in self.ratio]
        elif self.work.method == "fedavg":
            self.rewards = [self.aggregated for _ in self.models]
        else:
            self.rewards = self.uploads

    def download(self) -> None:
        """w_i += v_i and w_N += u_N."""
        with torch.no_grad():
            for model, reward in zip(
                [*self.models, self.server], [*self.rewards, self.aggregated], strict=True
            ):
                for p, v in zip(model.parameters(), reward, strict=True):
                    p.add_(v)

    def serve(self) -> None:
        """The server's half of a round."""
        self.normalise()
        self.aggregate()
        if self.work.method == "cgsv":
            self.cosine()
            self.judge()
        self.reward()
        self.download()

    def evaluate(self, batch: int = 100) -> tuple[np.ndarray, np.ndarray]:
        """Test accuracy and mean loss of every client's model and, last, the server's: [N + 1]."""
        results = [self._evaluate_one(model, batch) for model in [*self.models, self.server]]
        accuracy, loss = zip(*results, strict=True)
        return np.array(accuracy), np.array(loss)

    def _evaluate_one(self, model: torch.nn.Module, batch: int) -> tuple[float, float]:
        model.eval()
        right = loss = torch.zeros((), device=self.device)
        with torch.inference_mode():
            for x, y in zip(
                self.test_inputs.split(batch), self.test_labels.split(batch), strict=True
            ):
                scores = model(x)
                right = right + (scores.argmax(dim=1) == y).sum()
                loss = loss + F.nll_loss(scores, y, reduction="sum")
        rows = len(self.test_labels)
        return float(right) / rows, float(loss) / rows

    # ------------------------------------------------------------ several phases

    def run(self, rounds: int) -> None:
        """Whole rounds from the start, not evaluated."""
        for t in range(rounds):
            self.train(round=t)
            self.serve()

    # ------------------------------------------------------------ looking in and setting

    def set_state(
        self, clients: np.ndarray, server: np.ndarray, reputation: np.ndarray, first: bool
    ) -> None:
        """Models [N, D] and [D] in the order of the tensors, r [N]."""
        for model, vector in zip([*self.models, self.server], [*clients, server], strict=True):
            vector = common.tensor(vector, self.device, self.dtype)
            torch.nn.utils.vector_to_parameters(vector, model.parameters())
        self.reputation = common.tensor(reputation, self.device, self.dtype)
        self.first = first

    def set_deltas(self, deltas: np.ndarray) -> None:
        """dw [N, D], as if trained."""
        like = list(self.server.parameters())
        self.deltas = []
        for vector in common.tensor(deltas, self.device, self.dtype):
            parts = vector.split([p.numel() for p in like])
            self.deltas.append([v.reshape(p.shape) for v, p in zip(parts, like, strict=True)])

    def look(self, *names: str) -> Any:
        """Of deltas, aggregate, score, reputation, ratio, rewards, clients, server: as arrays."""
        return {name: self._look(name) for name in names}

    def _look(self, name: str) -> np.ndarray:
        value = {
            "deltas": lambda: [common.flat(d) for d in self.deltas],
            "rewards": lambda: [common.flat(v) for v in self.rewards],
            "clients": lambda: [common.flat(list(m.parameters())) for m in self.models],
            "server": lambda: [common.flat(list(self.server.parameters()))],
            "aggregate": lambda: [common.flat(self.aggregated)],
            "score": lambda: [self.score],
            "reputation": lambda: [self.reputation],
            "ratio": lambda: [self.ratio],
        }[name]()
        array = torch.stack(value).detach().cpu().numpy()
        return array if name in ("deltas", "rewards", "clients") else array[0]


def _mask_each(update: list[torch.Tensor], ratio: torch.Tensor) -> list[torch.Tensor]:
    """Each tensor on its own: min(ceil(len ratio), len - 1) entries, and all ties with the last."""
    for part in update:
        magnitudes = part.abs()
        kept = min(math.ceil(part.numel() * ratio), part.numel() - 1)
        if kept:
            threshold = torch.topk(magnitudes.reshape(-1), kept).values[-1]
            part[magnitudes < threshold] = 0
        else:
            part.zero_()
    return update


def _mask_whole(update: list[torch.Tensor], ratio: torch.Tensor) -> list[torch.Tensor]:
    """The whole vector: exactly floor(D ratio) entries."""
    magnitudes = torch.cat([part.abs().reshape(-1) for part in update])
    kept = min(math.floor(magnitudes.numel() * ratio), magnitudes.numel())
    keep = torch.zeros_like(magnitudes, dtype=torch.bool)
    keep[torch.topk(magnitudes, kept).indices] = True
    for part, hold in zip(update, keep.split([part.numel() for part in update]), strict=True):
        part[~hold.reshape(part.shape)] = 0
    return update
