"""The cases' networks in PyTorch, as users of pfl and Flower write them."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.peers.work import CLASSES, Case


class MLP(nn.Module):
    """Dense layers fc1, fc2, ... with relu between them."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.depth = len(widths) - 1
        for i in range(1, self.depth + 1):
            setattr(self, f"fc{i}", nn.Linear(widths[i - 1], widths[i]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of rows [B, features]."""
        for i in range(1, self.depth):
            x = F.relu(getattr(self, f"fc{i}")(x))
        return getattr(self, f"fc{self.depth}")(x)


class TutorialCNN(nn.Module):
    """The CIFAR-10 network of PyTorch's classifier tutorial."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, 10] of images [B, 3, 32, 32]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def network(case: Case) -> nn.Module:
    """A module whose parameters are named as `Work.start` names them."""
    if case.network == "tutorial_cnn":
        return TutorialCNN()
    return MLP((math.prod(case.shape), *case.hidden, CLASSES))


def rows(inputs: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A client's rows as PyTorch wants them: images NCHW, labels int64."""
    if inputs.ndim == 4:
        inputs = inputs.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.array(inputs, order="C")), torch.from_numpy(labels.astype(np.int64))
