"""The two CNNs of the comparison as PyTorch modules, written from their description."""

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


NETWORKS: dict[str, type[nn.Module]] = {"mnist_cnn": MnistCNN, "cifar_cnn": CifarCNN}
