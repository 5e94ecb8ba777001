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


RIVALS = {f.__name__: f for f in (fair_yet_equal,)}
