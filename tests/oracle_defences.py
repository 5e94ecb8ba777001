"""Published defences as contribution measures, in plain NumPy loops: one round at a time.

As `oracle.py`, nothing is imported from the package, and all is float64. Shapes: N clients, D
parameters. `present` [N] bool says who takes part; absent clients are worth 0.
"""

import math

import numpy as np
import oracle

Array = np.ndarray


def singular(vectors: Array, present: Array, confidence: float, epsilon: float) -> Array:
    """FoolsGold's weights, client by client and pair by pair."""
    number = len(vectors)
    here = [i for i in range(number) if present[i]]
    cosines = np.zeros((number, number))
    for i in here:
        for j in here:
            if i != j:
                cosines[i, j] = oracle.cosine(vectors[i], vectors[j])
    most = {i: max([0.0, *(cosines[i, j] for j in here)]) + epsilon for i in here}
    alone = {}
    for i in here:
        pardoned = [0.0]
        for j in here:
            factor = most[i] / most[j] if most[i] < most[j] else 1.0
            pardoned.append(cosines[i, j] * factor)
        alone[i] = min(max(1 - max(pardoned), 0.0), 1.0)
    greatest, weights = max(alone.values(), default=0.0), np.zeros(number)
    for i in here:
        share = alone[i] / greatest if greatest > 0 else 0.0
        share = 0.99 if share == 1 else share
        logit = confidence * (math.log(share / (1 - share) + epsilon) + 0.5)
        weights[i] = min(max(logit, 0.0), 1.0)
    return weights


def foolsgold(sent: Array, present: Array, memory: Array, confidence: float) -> tuple[Array, Array]:
    """Scores, and the histories after the round; `sent` are u_i [N, D]."""
    history = memory.copy()
    for i in range(len(sent)):
        if present[i]:
            history[i] = history[i] + sent[i]
    return singular(history, present, confidence, 1e-5), history


def viceroy(sent, present, memory, confidence, omega, eta, drop):
    """Scores, and (H [N, D], R [N], who was ever heard [N]) after the round."""
    history, trust, heard = (x.copy() for x in memory)
    before = singular(history, present, confidence, 1e-9)
    now = singular(sent, present, confidence, 1e-9)
    for i in range(len(sent)):
        if present[i]:
            history[i] = omega * history[i] + sent[i]
            if heard[i]:
                step = eta / 2 * (1 - 2 * abs(before[i] - now[i]))
                trust[i] = min(max(trust[i] + step, 0.0), 1.0)
    after, scores = singular(history, present, confidence, 1e-9), np.zeros(len(sent))
    for i in range(len(sent)):
        if present[i]:
            p = trust[i] * after[i] + (1 - trust[i]) * now[i]
            scores[i] = p if p > drop or not heard[i] else 0.0
    return scores, (history, trust, heard | present)


def fgfl(sent: Array, present: Array, aggregate: Array) -> Array:
    """1 - ‖u_i - u_N‖² / ‖u_N‖²."""
    whole, scores = float(np.sum(aggregate**2)), np.zeros(len(sent))
    for i in range(len(sent)):
        if present[i] and whole > 0:
            scores[i] = 1 - float(np.sum((sent[i] - aggregate) ** 2)) / whole
    return scores


def marks(vector: Array) -> Array:
    """1 where an entry is larger than the mean magnitude."""
    return (np.abs(vector) > np.mean(np.abs(vector))).astype(float)


def s2_wef(scores, sent, present, downloads, deviations):
    """The scores of who is heard; `downloads` [k, N, D] of the last rounds, 0 for nothing."""
    gamma = {}
    for i in range(len(sent)):
        if present[i] and np.any(downloads[:, i]):
            mine, found = marks(sent[i]), [0.0]
            for row in downloads[:, i]:
                its = marks(row)
                if its.any():
                    near = max(float(np.sum((mine - its) ** 2)), 1e-3)
                    found.append(1000 * oracle.cosine(mine, its) / near)
            gamma[i] = max(found)
    if not gamma:
        return scores
    middle = np.median([*gamma.values()])
    spread = np.median([abs(g - middle) for g in gamma.values()])
    out = [i for i, g in gamma.items() if g > middle + deviations * spread]
    return np.array([min(s, 0.0) if i in out else s for i, s in enumerate(scores)])
