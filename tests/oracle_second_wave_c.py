"""FedAVE and Fair-yet-Equal in plain NumPy loops, as `oracle.py`: nothing of the package is here.

What is drawn at random is given, since no two libraries draw alike.

Shapes: N clients, D parameters, T rounds.
"""

import numpy as np
import oracle
import scipy.stats

Array = np.ndarray


# ---------------------------------------------------------------- Fair yet asymptotically equal


def hotelling(rows: Array, lag: int) -> float:
    """The p-value of T² of the rows [n, p] against the mean of the first n - lag of them."""
    n, p = rows.shape
    if n <= lag:
        return 0.0
    apart = rows.mean(axis=0) - rows[: n - lag].mean(axis=0)
    t_squared = n * apart @ np.linalg.inv(np.cov(rows, rowvar=False).reshape(p, p)) @ apart
    return float(scipy.stats.f.sf(t_squared * (n - p) / (p * (n - 1)), p, n - p))


def cosine_shapley(uploads: Array) -> Array:
    """Of the game nu(S) = cos(u_S, u_N), from all orders."""
    return oracle.shapley(oracle.cosine_values(uploads))


class FairYetEqual:
    """The server of one run: `round_` goes through its rounds one after another."""

    def __init__(self, sizes, *, beta, steady, lag, watched, stage_one=0, of_all=True, new=True):
        self.sizes, self.beta, self.steady, self.lag = np.asarray(sizes, float), beta, steady, lag
        self.watched, self.stage_one, self.of_all, self.new = watched, stage_one, of_all, new
        self.second, self.t = False, 0
        number = len(sizes)
        self.phi, self.heard, self.rows = np.zeros(number), np.zeros(number, int), []
        self.r = np.zeros(number)

    def known(self):
        some = self.heard > 0
        return np.where(some, self.phi, self.phi[some].mean() if some.any() else 0.0)

    def round_(self, server, clients, deltas, present):
        """(u_N, weights, rewards, psi, reputation) of a round, of these who took part."""
        number = len(deltas)
        held = np.where(present, self.sizes, 0)
        weights = held / held.sum()
        aggregate = np.zeros(len(server))
        for i in range(number):
            aggregate = aggregate + weights[i] * deltas[i]
        if self.second:
            if self.of_all:
                aggregate = aggregate * held.sum() / self.sizes.sum()
            psi = np.where(present, self.known(), 0.0)
        else:
            psi = np.zeros(number)
            there = np.flatnonzero(present)
            psi[there] = cosine_shapley(weights[there, None] * deltas[there])
            for i in there:
                self.heard[i] += 1
                self.phi[i] += (psi[i] - self.phi[i]) / self.heard[i]
            means = np.mean(self.rows, axis=0) if self.rows else np.zeros(len(self.watched))
            self.rows.append(
                [
                    psi[i] if present[i] else mean
                    for i, mean in zip(self.watched, means, strict=True)
                ]
            )
            if self.stage_one:
                self.second = self.t + 1 >= self.stage_one
            else:
                self.second = hotelling(np.array(self.rows), self.lag) > self.steady
        self.t += 1
        chances = np.where(present, np.exp(self.beta * self.known()), 0)
        left = 1 - self.r[~present].sum()
        self.r = np.where(present, left * chances / chances.sum(), self.r)
        rewards = np.zeros_like(deltas)
        for i in np.flatnonzero(present):
            rewards[i] = server + (aggregate if self.new else 0) - clients[i]
        return aggregate, weights, rewards, psi, self.r.copy()


def fair_yet_equal(s, memory, server, clients, deltas, seen):
    """Its first stage, everybody present: as `oracle_rivals` calls a method."""
    if memory is None:
        memory = FairYetEqual(s.sizes, beta=s.selection_beta, steady=1.0, lag=99, watched=[0])
    everybody = np.ones(len(deltas), bool)
    aggregate, weights, rewards, _, r = memory.round_(server, clients, deltas, everybody)
    return aggregate, weights, rewards, r, memory


def chosen_together(p: Array, k: int) -> Array:
    """Chance [N] of each to be among k draws without replacement, one after another."""
    if k == 0:
        return np.zeros(len(p))
    found = np.zeros(len(p))
    for i in np.flatnonzero(p):
        rest = np.where(np.arange(len(p)) == i, 0, p)
        found[i] += p[i]
        if rest.sum() > 0:
            found += p[i] * chosen_together(rest / rest.sum(), k - 1)
    return found


# ---------------------------------------------------------------- FedAVE


def quantile_losses(losses: Array, number: int) -> Array:
    """Mean losses of `number` groups of examples, ranked by loss, as even as can be."""
    ranked, groups = np.sort(losses), [[] for _ in range(number)]
    for place, value in enumerate(ranked):
        groups[place * number // len(ranked)].append(value)
    return np.array([np.mean(group) for group in groups])


class FedAVE:
    """The server of one run, its losses compared by quantiles."""

    def __init__(self, sizes, lengths, *, gamma, alpha, beta, floor, kl_floor, batch, released):
        self.sizes, self.lengths = np.asarray(sizes, float), lengths  # of the model's tensors
        self.gamma, self.alpha, self.beta = gamma, alpha, beta
        self.floor, self.kl_floor, self.batch = floor, kl_floor, batch
        self.released = released  # masks per tensor, as the code
        self.r, self.joined = np.zeros(len(sizes)), np.zeros(len(sizes), bool)

    def round_(self, t, deltas, present, accuracies, own, validation):
        """(u_N, weights, rewards, score, r) from losses `own[i]` and `validation[i]` before."""
        number = len(deltas)
        k = np.zeros(number)
        for i in np.flatnonzero(present):
            length = min(-(-len(own[i]) // self.batch), -(-len(validation[i]) // self.batch))
            left = quantile_losses(own[i], length)
            right = quantile_losses(validation[i], length)
            k[i] = 1 / max(scipy.stats.entropy(left, right), self.kl_floor)
        k = k / k.max()
        weights = np.where(present, self.sizes, 0)
        weights = weights / weights.sum()
        score, aggregate = np.zeros(number), np.zeros(deltas.shape[1])
        for i in np.flatnonzero(present):
            score[i] = accuracies[i] * k[i] ** 2
            aggregate = aggregate + weights[i] * self.gamma * deltas[i] / oracle.norm(deltas[i])
        r = self.r.copy()
        for i in np.flatnonzero(present):
            kept = self.alpha * r[i] + (1 - self.alpha) * score[i] if self.joined[i] else score[i]
            r[i] = max(kept, self.floor)
        left = 1 - r[~present].sum()
        r[present] = left * r[present] / r[present].sum()
        self.r, self.joined = r, self.joined | present
        bent = np.where(present, np.tanh(self.beta * r), 0)
        q = k * bent / bent.max()
        rewards = np.zeros_like(deltas)
        for i in np.flatnonzero(present) if t > 0 else ():
            start = 0
            for length in self.lengths if self.released else [len(aggregate)]:
                part = aggregate[start : start + length]
                if self.released:
                    kept = min(int(np.ceil(length * q[i])), length - 1)
                else:
                    kept = min(int(np.floor(length * q[i] + 1e-9)), length)
                least = np.sort(np.abs(part))[::-1][kept - 1] if kept else np.inf
                rewards[i, start : start + length] = np.where(np.abs(part) >= least, part, 0)
                start += length
        return aggregate, weights, rewards, score, r.copy()


def fedave(s, memory, server, clients, deltas, seen):
    """As `oracle_rivals` calls a method; all clients are of one batch, so that all k are 1."""
    if memory is None:
        memory = FedAVE(
            s.sizes, None, gamma=s.gamma, alpha=s.alpha, beta=s.beta, floor=s.floor,
            kl_floor=1.0, batch=64, released=False,
        )  # fmt: skip
    memory.gamma = s.length(seen)
    accuracies = [s.accuracy(w + d) for w, d in zip(clients, deltas, strict=True)]
    losses = np.ones((len(deltas), 2))
    everybody = np.ones(len(deltas), bool)
    aggregate, weights, rewards, _, r = memory.round_(
        seen["t"], deltas, everybody, accuracies, losses, losses
    )
    return aggregate, weights, rewards, r, memory


RIVALS = {f.__name__: f for f in (fair_yet_equal, fedave)}
