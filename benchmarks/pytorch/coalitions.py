"""The exact Shapley value as the released code has it: coalition by coalition, on vectors."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F


class Coalitions:
    """nu(S) = cos(u_S, u_N) for every player and every coalition of the others."""

    def __init__(self, updates: np.ndarray, **options: Any):
        self.updates = torch.from_numpy(updates)  # [N, D]

    def values(self) -> np.ndarray:
        """[N]."""
        count = len(self.updates)
        whole = self.updates.sum(dim=0)
        phi = torch.zeros(count)
        for player in range(count):
            others = [i for i in range(count) if i != player]
            for size in range(count):
                weight = 1 / (count * math.comb(count - 1, size))
                for members in itertools.combinations(others, size):
                    without = self._worth(list(members), whole)
                    phi[player] += weight * (self._worth([*members, player], whole) - without)
        return phi.numpy()

    def _worth(self, members: list[int], whole: torch.Tensor) -> torch.Tensor:
        if not members:
            return torch.zeros(())
        return F.cosine_similarity(self.updates[members].sum(dim=0), whole, dim=0)
