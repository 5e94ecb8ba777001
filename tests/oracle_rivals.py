"""The rivals of cgsv in plain NumPy loops: whole runs, to compare with and to pin.

As `oracle.py`, on which it builds: nothing is imported from the package, float64 throughout,
everybody present. What a method draws at random is given to it, since no two libraries draw alike.

Shapes: N clients, D parameters, T rounds.
"""

import itertools
import math

import numpy as np
import oracle
import oracle_second_wave_c

Array = np.ndarray


def clipped(delta: Array, gamma: float) -> Array:
    """u_i = dw_i min(1, Gamma / ‖dw_i‖)."""
    length = oracle.norm(delta)
    return delta * (gamma / length) if length > gamma else delta


def top(vector: Array, count: int) -> Array:
    """The `count` largest entries by magnitude, the rest 0."""
    return np.where(oracle.ranks(vector) < count, vector, 0.0)


def own_loss(params: list, inputs: Array, labels: Array, logits) -> float:
    """F_i, the mean loss of a client's model on its own rows."""
    return float(oracle.loss(logits(params, inputs), labels))


class Server:
    """What all methods know: the sizes, the validation rows, the network, the numbers."""

    def __init__(self, sizes, like, logits, validation, places, **numbers):
        self.sizes = np.asarray(sizes, float)
        self.share = self.sizes / self.sizes.sum()
        self.like, self.logits, self.validation = like, logits, validation
        self.places = places  # [C, F + 1] of the last layer's weights and bias in the vector
        self.__dict__.update(numbers)

    def length(self, seen) -> float:
        return self.gamma * self.gamma_decay ** seen["t"]  # Gamma_t = Gamma d^t

    def accuracy(self, weights: Array) -> float:
        inputs, labels = self.validation
        logits = self.logits(oracle.unravel(weights, self.like), inputs)
        return float(np.mean(logits.argmax(axis=1) == labels))

    def reputation(self, old: Array, scores: Array, alpha: float, floor: float) -> Array:
        return oracle.reputation(old, scores, np.ones(len(old), bool), alpha, floor)


# Every method: (server, memory, w_N [D], w_i [N, D], dw_i [N, D], seen) -> aggregate u_N [D],
# weights [N], rewards [N, D], reputation [N] or None, memory. `seen` holds what else the server
# is told of the round: its number `t`, the losses before training, and draws.


def standalone(s, memory, server, clients, deltas, seen):
    weights = np.full(len(deltas), 1 / len(deltas))
    return weights @ deltas, weights, deltas, None, memory


def fedavg(s, memory, server, clients, deltas, seen):
    aggregate = s.share @ deltas
    return aggregate, s.share, np.array([aggregate] * len(deltas)), None, memory


def fedavg_finetuned(s, memory, server, clients, deltas, seen):
    stage = fedavg if seen["t"] < s.rounds else standalone
    return stage(s, memory, server, clients, deltas, seen)


def q_ffl(s, memory, server, clients, deltas, seen):
    loss, eta, above, below = seen["start_loss"], seen["learning_rate"], 0.0, 0.0
    for delta, f in zip(deltas, loss, strict=True):
        gradient = delta / eta
        above = above + f**s.q * gradient
        below = below + s.q * f ** (s.q - 1) * gradient @ gradient + f**s.q / eta
    aggregate = above / below
    return aggregate, loss**s.q / np.sum(loss**s.q), np.array([aggregate] * len(loss)), None, memory


def quota(length: int, ratio: float, kept: int) -> int:
    """floor(length ratio); on the edge of an integer, where a rounding decides, what was kept."""
    product, nearest = length * ratio, round(length * ratio)
    on_the_edge = abs(product - nearest) < 1e-9 and kept in (nearest - 1, nearest)
    return kept if on_the_edge else oracle.quota(length, ratio, "floor")


def masked(s, aggregate, reputation, seen):
    """CGSV's reward of these reputations."""
    ratios = oracle.ratios(reputation, s.beta, np.ones(len(reputation), bool))
    return np.array(
        [
            top(aggregate, quota(len(aggregate), ratio, kept))
            for ratio, kept in zip(ratios, seen["quota"], strict=True)
        ]
    )


def size_weighted(s, memory, server, clients, deltas, seen):
    aggregate = s.share @ np.array([oracle.upload(d, s.length(seen), 0.0) for d in deltas])
    return aggregate, s.share, masked(s, aggregate, s.share, seen), s.share, memory


def random_reward(s, memory, server, clients, deltas, seen):
    """Reputations are drawn: x_i / sum x, x given."""
    weights = s.share if memory is None else memory
    aggregate = weights @ np.array([oracle.upload(d, s.length(seen), 0.0) for d in deltas])
    reputation = seen["drawn"] / seen["drawn"].sum()
    return aggregate, weights, masked(s, aggregate, reputation, seen), reputation, reputation


def rffl(s, memory, server, clients, deltas, seen):
    """No removal: it begins in round 10."""
    uploads = np.array([clipped(d, s.length(seen)) for d in deltas])
    old = np.zeros(len(deltas)) if memory is None else memory
    weights = s.share if memory is None else memory
    aggregate = weights @ uploads
    scores = np.array([oracle.cosine(u, aggregate) for u in uploads])
    reputation = s.reputation(old, scores, s.alpha, 0.0)
    rewards = uploads + masked(s, aggregate, reputation, seen)
    return aggregate, weights, rewards, reputation, reputation


def cffl(s, memory, server, clients, deltas, seen):
    """Credit by validation accuracy; whoever falls below removal / |R| is out at once."""
    number = len(deltas)
    old, stays = (np.zeros(number), np.ones(number, bool)) if memory is None else memory
    uploads = np.clip(deltas, -s.clip, s.clip)
    scores = np.zeros(number)
    for i in np.flatnonzero(stays):
        scores[i] = s.accuracy(clients[i] + uploads[i])
    x = s.alpha * old + (1 - s.alpha) * scores / scores.sum()
    r = np.where(stays, np.sinh(5 * (1 + s.growth * seen["t"] / s.rounds) * x), 0)
    r = r / r.sum()
    stays = stays & ((r >= s.removal / stays.sum()) | (r == r.max()))
    r = np.where(stays, r, 0) / r[stays].sum()
    held = np.where(stays, s.sizes, 0)
    aggregate = held / s.sizes.sum() @ uploads
    rewards = uploads.copy()  # who is out trains alone
    for i in np.flatnonzero(stays):
        size = s.sizes[i] / s.sizes.max()
        count = quota(len(aggregate), r[i] / r.max() * size, seen["quota"][i])
        rewards[i] += top(aggregate, count) - size * uploads[i]
    return aggregate, held / held.sum(), rewards, r, (r, stays)


def eci(s, memory, server, clients, deltas, seen):
    number = len(deltas)
    total, old = (np.zeros(number), None) if memory is None else memory
    weights = s.share if old is None else old
    uploads = np.array([oracle.upload(d, s.length(seen), 0.0) for d in deltas])
    values = np.zeros(2**number)
    for coalition in range(2**number):
        inside = np.array([coalition >> i & 1 for i in range(number)]) * weights
        moved = inside / inside.sum() @ uploads if inside.sum() > 0 else 0.0
        values[coalition] = s.accuracy(server + moved)
    total = total + oracle.shapley(values)
    size = np.abs(total).sum()
    r = np.maximum(total / size if size > 0 else total, 1e-3 / number)
    r = r / r.sum()
    aggregate = weights @ uploads
    return aggregate, weights, masked(s, aggregate, r, seen), r, (total, r)


def iafl(s, memory, server, clients, deltas, seen):
    """Whose updates a client gets is drawn: found among all that it may get, in `seen`."""
    number, rewards = len(deltas), np.zeros_like(deltas)
    for i in range(number):
        count = math.ceil((s.sizes[i] / s.sizes.max()) ** (1 - s.kappa) * (number - 1) - 1e-4)
        others = [j for j in range(number) if j != i]
        means = [
            deltas[[i, *chosen]].mean(axis=0) for chosen in itertools.combinations(others, count)
        ]
        rewards[i] = min(means, key=lambda mean: np.abs(mean - seen["rewards"][i]).max())
    weights = np.full(number, 1 / number)
    return weights @ deltas, weights, rewards, s.share, memory


def rank(s, memory, server, clients, deltas, seen):
    accuracy = np.array([s.accuracy(w + d) for w, d in zip(clients, deltas, strict=True)])
    weights = np.full(len(deltas), 1 / len(deltas))
    rewards = np.array([deltas[accuracy <= a].mean(axis=0) for a in accuracy])
    return weights @ deltas, weights, rewards, accuracy / accuracy.sum(), memory


def shapfed_wa(s, memory, server, clients, deltas, seen):
    number = len(deltas)
    before = np.full(number, 1 / number) if memory is None else memory / memory.sum()
    score = np.zeros(number)
    for row in s.places:
        whole = before @ deltas[:, row]
        score += [oracle.cosine(delta[row], whole) / len(s.places) for delta in deltas]
    gamma = score if memory is None else s.alpha * memory + (1 - s.alpha) * score
    gamma = np.clip(gamma, 0, 1)
    weights = gamma / gamma.sum()
    moved = weights @ (clients + deltas)
    own = clients + deltas
    rewards = gamma[:, None] * moved + (1 - gamma)[:, None] * own - clients
    return moved - server, weights, rewards, weights, gamma


RIVALS = {
    f.__name__: f
    for f in (
        *(standalone, fedavg, fedavg_finetuned, q_ffl, size_weighted, random_reward),
        *(cffl, rffl, eci, iafl, rank, shapfed_wa),
    )
} | oracle_second_wave_c.RIVALS


def run(name, s, init_params, client_inputs, client_labels, orders, told, *, batch, gradient):
    """T rounds from one start; `told[t]` is what the method is told of round t besides.

    Returns, per round, deltas, start_loss, aggregate, weights, rewards, reputation, and the
    parameters `server` [D] and `clients` [N, D] after it.
    """
    number = len(client_inputs)
    server = oracle.ravel(init_params)
    clients = np.array([server.copy() for _ in range(number)])
    memory, history = None, []
    for t in range(len(orders)):
        rates = oracle.learning_rates(s.options, t, len(orders[t][0]))
        models = [oracle.unravel(w, init_params) for w in clients]
        data = list(zip(client_inputs, client_labels, strict=True))
        start_loss = np.array(
            [own_loss(m, x, y, s.logits) for m, (x, y) in zip(models, data, strict=True)]
        )
        deltas = np.array(
            [
                oracle.local_training(m, x, y, np.asarray(order), rates, batch, gradient)
                for m, (x, y), order in zip(models, data, orders[t], strict=True)
            ]
        )
        seen = told[t] | {"t": t, "start_loss": start_loss, "learning_rate": rates[0]}
        aggregate, weights, rewards, reputation, memory = RIVALS[name](
            s, memory, server, clients, deltas, seen
        )
        server, clients = server + aggregate, clients + rewards
        history.append(
            {
                "deltas": deltas,
                "start_loss": start_loss,
                "aggregate": aggregate,
                "weights": weights,
                "rewards": rewards,
                "reputation": s.share if reputation is None else reputation,
                "server": server,
                "clients": clients,
            }
        )
    return history
