"""The networks of the comparison as PyTorch modules, written from their description."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F


class MnistCNN(nn.Module):
    """Images [B, 1, 32, 32] -> log-probabilities [B, 10]."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3)
        self.conv2 = nn.Conv2d(64, 16, 7)
        self.fc1 = nn.Linear(256, 200)
        self.fc2 = nn.Linear(200, 10)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, 10]."""
        x = F.max_pool2d(torch.tanh(self.conv1(images)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(x.flatten(1)))
        return self.fc2(x)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, 10]."""
        return F.log_softmax(self.logits(images), dim=1)


class CifarCNN(nn.Module):
    """Images [B, 3, 32, 32] -> log-probabilities [B, 10]."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.fc1 = nn.Linear(800, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, 10]."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.fc3(x)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, 10]."""
        return F.log_softmax(self.logits(images), dim=1)


class MLP(nn.Module):
    """Rows [B, ...] -> log-probabilities [B, C]: flatten, dense layers fc1, fc2, ... with relu."""

    def __init__(self, features: int = 64, hidden: tuple[int, ...] = (64,), classes: int = 10):
        super().__init__()
        widths = (features, *hidden, classes)
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
            setattr(self, f"fc{i}", nn.Linear(fan_in, fan_out))
        self.depth = len(hidden) + 1

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]."""
        x = inputs.flatten(1)
        for i in range(1, self.depth):
            x = F.relu(getattr(self, f"fc{i}")(x))
        return getattr(self, f"fc{self.depth}")(x)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, C]."""
        return F.log_softmax(self.logits(inputs), dim=1)


NETWORKS: dict[str, type[nn.Module]] = {"mnist_cnn": MnistCNN, "cifar_cnn": CifarCNN, "mlp": MLP}
