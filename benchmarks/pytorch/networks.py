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


class TextCNN(nn.Module):
    """Tokens [B, L] -> log-probabilities [B, C]: embedding, three convolutions, maxima over time.

    Padding, token 0 after the words of a sentence, is no word: its embedding is 0, and a window
    with padding in it counts only where a sentence is shorter than a window, which has one then.
    """

    def __init__(
        self,
        vocabulary: int = 16_583,
        embedding: int = 300,
        kernels: int = 128,
        classes: int = 5,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.conv1, self.conv2, self.conv3 = (nn.Conv1d(embedding, kernels, 3) for _ in range(3))
        # None at all where there is nothing to draw: `vmap` refuses whatever may draw.
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc1 = nn.Linear(3 * kernels, classes)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]."""
        words = tokens != 0
        padded = ~words[:, None, 2:]  # [B, 1, L - 2], windows by their last word
        padded = padded & (torch.arange(padded.shape[2], device=tokens.device) > 0)
        x = (self.embed(tokens) * words[..., None]).transpose(1, 2)  # [B, E, L]
        pooled = []
        for conv in (self.conv1, self.conv2, self.conv3):
            # 0 is what relu gives at least, so that it hides no response of a window that counts.
            responses = F.relu(conv(x)).masked_fill(padded, 0.0)
            pooled.append(F.max_pool1d(responses, responses.shape[2])[..., 0])
        return self.fc1(self.dropout(torch.cat(pooled, dim=1)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, C]."""
        return F.log_softmax(self.logits(tokens), dim=1)


NETWORKS: dict[str, type[nn.Module]] = {
    "mnist_cnn": MnistCNN,
    "cifar_cnn": CifarCNN,
    "mlp": MLP,
    "text_cnn": TextCNN,
}
