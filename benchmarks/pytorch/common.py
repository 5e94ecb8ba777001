"""What both PyTorch sides share: a network for a `Work`, its arrays on a device, flat vectors."""

import numpy as np
import torch
from torch import nn

from benchmarks.pytorch.networks import NETWORKS
from benchmarks.pytorch.work import Work


def set_precision(precision: str) -> None:
    """ "float32" forbids TF32 everywhere; "default" is PyTorch as it comes.

    As it comes, PyTorch multiplies matrices in float32 and lets cuDNN convolve in TF32.

    Raises:
        ValueError: another word.
    """
    if precision not in ("float32", "default"):
        raise ValueError(f"precision is {precision!r}, it must be float32 or default")
    torch.backends.cuda.matmul.allow_tf32 = False  # PyTorch's own default
    torch.backends.cudnn.allow_tf32 = precision == "default"


def build(work: Work) -> nn.Module:
    """The work's network with PyTorch's own random start."""
    classes = next(reversed(work.start.values())).size
    if work.network == "mlp":
        return NETWORKS["mlp"](work.inputs[0].size, work.hidden, classes)
    if work.network == "text_cnn":
        return NETWORKS["text_cnn"](*work.words, classes)
    return NETWORKS[work.network]()


def tensor(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """On the device, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)


def inputs(work: Work, array: np.ndarray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """As the network wants them: images NCHW, the rows of an MLP as they are, tokens as indices."""
    if work.network == "text_cnn":
        return tensor(array, device, torch.int32)
    return tensor(array if work.network == "mlp" else array.transpose(0, 3, 1, 2), device, dtype)


def learning_rate(work: Work, round_: int, epoch: int) -> float:
    """eta decay^round; the released code counts epochs."""
    count = round_ if work.setting == "paper" else round_ * work.epochs + epoch
    return work.learning_rate * work.decay**count


def epsilons(work: Work) -> tuple[float, float]:
    """(added to ‖dw‖, smallest norm in the cosine's denominator)."""
    return (1e-7, 1e-10) if work.setting == "released" else (0.0, 0.0)


FLOOR = 1e-3  # smallest reputation before normalising, in both settings


def judged(reputation: torch.Tensor, score: torch.Tensor, alpha: float) -> torch.Tensor:
    """r = alpha r + (1 - alpha) psi, at least `FLOOR`, normalised: [N]."""
    r = torch.clamp(alpha * reputation + (1 - alpha) * score, min=FLOOR)
    return r / r.sum()


def ratios(reputation: torch.Tensor, beta: float) -> torch.Tensor:
    """tanh(beta r_i) / max_j tanh(beta r_j): [N]."""
    bent = torch.tanh(beta * reputation)
    return bent / bent.max()


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A client's tensors as one vector [D]."""
    return torch.cat([t.reshape(-1) for t in tensors])
