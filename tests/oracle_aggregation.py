"""Robust aggregations in plain NumPy loops, from the uploads u_i [N, D] of those who are present.

Nothing is imported from the package and nothing is fast. Every function gives u_N [D] and the
weights [N] that are recorded.
"""

import numpy as np


def trimmed_mean(uploads, cut):
    """Of every coordinate the mean without the `cut` smallest and largest, sorted as they are."""
    number, dimension = uploads.shape
    mean, weights = np.zeros(dimension), np.zeros(number)
    for d in range(dimension):
        kept = sorted(uploads[:, d])[cut : number - cut]
        mean[d] = sum(kept) / len(kept)
        inside = [i for i in range(number) if kept[0] <= uploads[i, d] <= kept[-1]]
        for i in inside:
            weights[i] += 1 / len(inside) / dimension
    return mean, weights


def median(uploads):
    number = len(uploads)
    return trimmed_mean(uploads, (number - 1) // 2)


def krum(uploads, f, m=1):
    """Sums of the n - f - 2 smallest squares of distances; the mean of the m with the least."""
    number = len(uploads)
    scores = []
    for i in range(number):
        squares = sorted(
            sum((a - b) ** 2 for a, b in zip(uploads[i], uploads[j], strict=True))
            for j in range(number)
            if j != i
        )
        scores.append(sum(squares[: max(number - f - 2, 1)]))
    last = sorted(scores)[m - 1]
    better = [i for i in range(number) if scores[i] < last]
    tied = [i for i in range(number) if scores[i] == last]
    weights = np.zeros(number)
    for i in better:
        weights[i] = 1 / m
    for i in tied:
        weights[i] = (m - len(better)) / m / len(tied)
    return weights @ uploads, weights


def geometric_median(uploads, steps, nu):
    number = len(uploads)
    lengths = [np.linalg.norm(u) for u in uploads]
    unit = np.median(lengths)
    centre = sum(unit * u / n for u, n in zip(uploads, lengths, strict=True) if n > 0) / number
    for _ in range(steps):
        pulls = np.array([1 / max(nu * unit, np.linalg.norm(u - centre)) for u in uploads])
        weights = pulls / sum(pulls)
        centre = sum(w * u for w, u in zip(weights, uploads, strict=True))
    return centre, weights


def norm_clipping(uploads, sizes, longest=None, by="size"):
    lengths = [np.linalg.norm(u) for u in uploads]
    most = np.median(lengths) if longest is None else longest
    weights = np.array([n if by == "size" else 1 for n in sizes], float)
    weights = weights / sum(weights)
    total = np.zeros(uploads.shape[1])
    for u, n, w in zip(uploads, lengths, weights, strict=True):
        total += w * (u * most / n if n > most else u)
    return total, weights


def fltrust(uploads, slope):
    """`slope` [D] is the gradient of the server's loss at its model."""
    own = -slope / np.linalg.norm(slope)
    lengths = [np.linalg.norm(u) for u in uploads]
    unit = np.median(lengths)
    trust = [max(0, u @ own / n) if n > 0 else 0 for u, n in zip(uploads, lengths, strict=True)]
    if sum(trust) == 0:
        return unit * own, np.full(len(uploads), 1 / len(uploads))
    total = np.zeros(uploads.shape[1])
    for u, n, t in zip(uploads, lengths, trust, strict=True):
        total += t * unit * u / n if n > 0 else 0
    return total / sum(trust), np.array(trust) / sum(trust)
