"""CGSV in plain NumPy loops: the specification that every faster implementation is compared with.

Method: Xu, Lyu, Ma, Miao, Foo, Low, "Gradient Driven Rewards to Guarantee Fairness in Collaborative
Machine Learning", NeurIPS 2021, and the code its authors released. One short function per step, the
paper's symbol at the end of the line. Nothing is imported from the package, and nothing is fast.

Shapes: N clients, D parameters, L tensors, T rounds, E local epochs, M slots per client, B rows per
batch, C classes. The dtype follows the inputs: float64 arrays give a float64 run, float32 ones a
float32 run.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Params = list[Array]
Gradient = Callable[[Params, Array, Array], Params]


# ---------------------------------------------------------------- options


@dataclass(frozen=True)
class Options:
    """Every choice in which the paper and the released code differ, and the numbers of a run."""

    mask_scope: str = "vector"  # "vector": one quota of D entries; "tensor": one per tensor
    mask_count: str = "floor"  # "floor": floor(len ratio); "ceil": min(ceil(len ratio), len - 1)
    mask_ties: str = "position"  # "position": exactly q survive; "all": all >= the threshold do
    norm_epsilon: float = 0.0  # added to ‖dw‖
    cosine_epsilon: float = 0.0  # smallest norm in the cosine's denominator
    floor: float = 1e-3  # smallest reputation before normalising
    first_weights: str = "size"  # a client's first aggregation: "size" n_i / sum n, "uniform" 1 / N
    decay_per: str = "round"  # or "epoch"
    beta: float = 1.0  # altruism degree, infinity allowed
    learning_rate: float = 0.15
    decay: float = 0.977
    gamma: float = 0.5  # Gamma, norm of every upload
    alpha: float = 0.95  # weight of the old reputation
    beta_on: str = "sum"  # beta acts on r that sums to 1, or on r / "max" r
    normalise_scores: bool = False  # psi on the scale of r before the moving average
    relative_floor: bool = False  # floor / N

    def __post_init__(self) -> None:
        allowed = {
            "mask_scope": ("vector", "tensor"),
            "mask_count": ("floor", "ceil"),
            "mask_ties": ("position", "all"),
            "first_weights": ("size", "uniform"),
            "decay_per": ("round", "epoch"),
            "beta_on": ("sum", "max"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}, not {getattr(self, name)!r}")


PAPER = Options()
RELEASED = Options(
    mask_scope="tensor",
    mask_count="ceil",
    mask_ties="all",
    norm_epsilon=1e-7,
    cosine_epsilon=1e-10,
    decay_per="epoch",
    learning_rate=1e-3,
    decay=0.955,
)


# ---------------------------------------------------------------- upload and aggregate


def norm(vector: Array) -> np.floating:
    return np.sqrt(np.sum(vector * vector))


def is_finite(delta: Array) -> bool:
    """Whether an upload can be used at all; what cannot is treated as an absent client.

    A finite delta whose length overflows has no direction that could be rescaled, so it counts as
    non-finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.all(np.isfinite(delta)) and np.isfinite(norm(delta)))


def upload(delta: Array, gamma: float, epsilon: float) -> Array:
    """Rescales one client's update [D] to the norm Gamma; an all-zero update stays zero."""
    length = norm(delta)  # ‖dw_i‖
    if length == 0:
        return np.zeros_like(delta)
    return gamma * delta / (length + epsilon)  # u_i = Gamma dw_i / ‖dw_i‖


def size_shares(sizes: Array, dtype: np.dtype) -> Array:
    """n_i over the sum of all n, [N]; no rows anywhere gives the uniform share."""
    total = int(np.sum(sizes))
    if total == 0:
        return np.full(len(sizes), 1 / len(sizes), dtype)
    return np.array([int(n) / total for n in sizes], dtype)


def share(values: Array, present: Array, mass: float = 1.0) -> Array:
    """Scales the present entries [N] to the sum `mass`, uniformly if they sum to 0; absent: 0."""
    total = sum(values[i] for i in range(len(values)) if present[i])
    shares = np.zeros_like(values)
    for i in range(len(values)):
        if present[i]:
            shares[i] = mass * values[i] / total if total > 0 else mass / np.sum(present)
    return shares


def aggregation_weights(
    reputation_before: Array, joined: Array, sizes: Array, present: Array, first: str = "size"
) -> Array:
    """Weights [N] of the aggregate: the reputation, or a first weight for whoever is new.

    `joined` [N] says who has taken part in an aggregation before: r_{i,0} = 0 says nothing about a
    client, so a newcomer comes in with its share of the data of ALL clients, and only then are the
    present ones renormalised.
    """
    number = len(reputation_before)
    if first == "size":
        new = size_shares(sizes, reputation_before.dtype)
    else:
        new = np.full(number, 1 / number, reputation_before.dtype)
    weights = np.zeros_like(reputation_before)
    for i in range(number):
        weights[i] = reputation_before[i] if joined[i] else new[i]
    return share(weights, present)  # r_{i,t-1}


def aggregate(uploads: Array, weights: Array, present: Array) -> Array:
    """Weighted sum of the present uploads [N, D]; an absent row may hold anything, even NaN."""
    total = np.zeros_like(uploads[0])
    for i in range(len(uploads)):
        if present[i]:
            total = total + weights[i] * uploads[i]
    return total  # u_N = sum_i r_{i,t-1} u_i


# ---------------------------------------------------------------- contribution and reputation


def cosine(left: Array, right: Array, epsilon: float = 0.0) -> float:
    """Cosine of two vectors [D], each norm at least epsilon; 0 if one of them is zero."""
    left_norm, right_norm = norm(left), norm(right)
    if left_norm == 0 or right_norm == 0:
        return left.dtype.type(0)
    # Two divisions: the product of two small norms may underflow where neither norm does.
    value = np.sum(left * right) / max(left_norm, epsilon) / max(right_norm, epsilon)
    return left.dtype.type(min(max(value, -1.0), 1.0))  # psi_i = cos(u_i, u_N)


def reputation(
    reputation_before: Array,
    scores: Array,
    present: Array,
    alpha: float,
    floor: float,
    normalise_scores: bool = False,
) -> Array:
    """Reputations [N] after this round's scores [N].

    Moving average, floor, normalise, in this order, and what is fed back is normalised. Absent
    clients keep theirs, so the present ones share what the absent ones leave of 1.
    """
    number = len(scores)
    # Float noise in the absent sum must not make a mass negative.
    mass = max(0.0, 1.0 - sum(reputation_before[i] for i in range(number) if not present[i]))
    if normalise_scores:
        total = sum(abs(scores[i]) for i in range(number) if present[i])
        if total > 0:
            scores = np.array([s / total * mass for s in scores], scores.dtype)
    average = np.zeros_like(reputation_before)
    for i in range(number):
        if present[i]:
            mixed = alpha * reputation_before[i] + (1 - alpha) * scores[i]
            average[i] = max(mixed, floor)
    shared = share(average, present, mass)
    result = reputation_before.copy()
    for i in range(number):
        if present[i]:
            result[i] = shared[i]
    return result  # r_{i,t}


# ---------------------------------------------------------------- quota and mask


def ratios(reputations: Array, beta: float, present: Array, beta_on: str = "sum") -> Array:
    """Share of the entries each client earns, [N]: 1 for the best present client, 0 if absent.

    beta = infinity means tanh = 1 and beta = 0 its limit r / max r, in which tanh is linear. If all
    present reputations are 0 they are equal, and equal reputations earn the maximal ratio.
    """
    number = len(reputations)
    result = np.zeros_like(reputations)
    best = max((reputations[i] for i in range(number) if present[i]), default=0)
    for i in range(number):
        if not present[i]:
            continue
        if np.isinf(beta) or best == 0:
            result[i] = 1
        elif beta == 0:
            result[i] = reputations[i] / best
        else:
            scale = best if beta_on == "max" else 1
            # tanh is increasing, so the maximum over clients is the tanh of the maximum.
            result[i] = np.tanh(beta * (reputations[i] / scale)) / np.tanh(beta * (best / scale))
    result[result >= 1 - 8 * np.finfo(result.dtype).eps] = 1  # equal but for roundings
    return result  # tanh(beta r_i) / max_j tanh(beta r_j)


def quota(length: int, ratio: float, count: str) -> int:
    """How many of `length` entries a given ratio in [0, 1] earns.

    The product is rounded in the dtype of the ratio: float32 and float64 products can lie on
    different sides of an integer, so a comparison must start from the same ratio in the same dtype.
    """
    if count == "floor":
        # Beyond 2^24 entries float32 cannot hold every length, but ratio 1 still earns them all.
        return length if ratio == 1 else min(int(np.floor(length * ratio)), length)
    return min(int(np.ceil(length * ratio)), length - 1)  # q_i


def quotas(lengths: Sequence[int], ratio: float, count: str) -> list[int]:
    """One client's quota in every segment of the vector, [L]."""
    return [quota(int(length), ratio, count) for length in lengths]


def ranks(vector: Array) -> Array:
    """Rank [D] of every entry by magnitude descending, then by position; 0 is the largest."""
    order = np.argsort(-np.abs(vector), kind="stable")  # stable: equal magnitudes keep their order
    result = np.empty(len(vector), int)
    result[order] = np.arange(len(vector))
    return result


def mask_segment(vector: Array, kept: int, ties: str) -> Array:
    """Which entries of one segment survive, [len] bool; a quota of 0 keeps nothing."""
    rank = ranks(vector)
    if kept == 0 or ties == "position":
        return rank < kept
    threshold = abs(vector[np.argmax(rank == kept - 1)])
    return np.abs(vector) >= threshold


def mask(vector: Array, kept: Sequence[int], lengths: Sequence[int], ties: str) -> Array:
    """Which entries of the vector [D] survive, segment by segment; lengths [L] sum to D."""
    pieces, start = [], 0
    for length, count in zip(lengths, kept, strict=True):
        pieces.append(mask_segment(vector[start : start + length], count, ties))
        start += length
    if start != len(vector):
        raise ValueError(f"tensors hold {start} entries, the vector {len(vector)}")
    return np.concatenate(pieces)


def reward(vector: Array, keep: Array) -> Array:
    return np.where(keep, vector, 0)  # v_i = mask(u_N, q_i)


def energy(reward: Array, vector: Array) -> float:
    """‖v_i‖² / ‖u_N‖², 0 where u_N is zero."""
    whole = sum(x * x for x in vector)
    return float(sum(x * x for x in reward) / whole) if whole > 0 else 0.0


# ---------------------------------------------------------------- one round of the server


class State(NamedTuple):
    """All that a later round needs."""

    server: Array  # [D] w_N
    clients: Array  # [N, D] w_i
    reputation: Array  # [N] r_i, zeros at the start
    joined: Array  # [N] bool, has taken part in an aggregation before
    round: int = 0  # counted from 0


def start(server: Array, number: int) -> State:
    """The common start w_0 [D] of a server and `number` clients."""
    clients = np.array([server.copy() for _ in range(number)])
    return State(server.copy(), clients, np.zeros(number, server.dtype), np.zeros(number, bool))


def who_is_present(deltas: Array, present: Array | None = None) -> Array:
    """[N] bool: present as far as is known, and with a finite update."""
    known = np.ones(len(deltas), bool) if present is None else np.asarray(present, bool)
    return np.array([bool(known[i]) and is_finite(deltas[i]) for i in range(len(deltas))])


def earned_ratios(standing: Array, present: Array, options: Options) -> Array:
    return ratios(standing, options.beta, present, options.beta_on)


def server_round(
    state: State,
    deltas: Array,
    sizes: Array,
    present: Array | None = None,
    options: Options = PAPER,
    ratios: Array | None = None,
    tensors: Sequence[int] | None = None,
    measure: Callable[[Array, Array, Array, Array], Array] | None = None,
) -> tuple[State, dict]:
    """One round of CGSV from the raw updates dw [N, D] to the clients' new parameters.

    `ratios` [N] replaces the computed ones, so that quotas are compared from the same number.
    `tensors` [L] are the lengths of the tensors, needed where the mask is per tensor. `measure` is
    another one than the cosine: (u [N, D], u_N [D], weights [N], present [N]) -> psi [N]. Returns
    the new state and every intermediate quantity by name.
    """
    number, dimension = deltas.shape
    if options.mask_scope == "tensor" and tensors is None:
        raise ValueError("a mask per tensor needs the lengths of the tensors")
    lengths = [dimension] if options.mask_scope == "vector" else [int(n) for n in tensors]
    present = who_is_present(deltas, present)
    floor = options.floor / number if options.relative_floor else options.floor

    uploads = np.zeros_like(deltas)  # u_i
    for i in range(number):
        if present[i]:
            uploads[i] = upload(deltas[i], options.gamma, options.norm_epsilon)
    weights = aggregation_weights(
        state.reputation, state.joined, sizes, present, options.first_weights
    )  # r_{i,t-1}
    total = aggregate(uploads, weights, present)  # u_N

    scores = np.zeros_like(state.reputation)  # psi_i
    for i in range(number):
        if present[i]:
            scores[i] = cosine(uploads[i], total, options.cosine_epsilon)
    if measure is not None:
        scores = np.where(present, measure(uploads, total, weights, present), 0)
    standing = reputation(
        state.reputation, scores, present, options.alpha, floor, options.normalise_scores
    )  # r_{i,t}

    if ratios is None:
        ratios = earned_ratios(standing, present, options)
    ratios = np.where(present, ratios, 0)
    kept = np.zeros((number, len(lengths)), int)  # q_i
    keep = np.zeros((number, dimension), bool)
    rewards = np.zeros_like(deltas)  # v_i
    for i in range(number):
        if present[i]:
            kept[i] = quotas(lengths, ratios[i], options.mask_count)
            keep[i] = mask(total, kept[i], lengths, options.mask_ties)
            rewards[i] = reward(total, keep[i])

    new = State(
        server=state.server + total,  # w_N += u_N
        clients=state.clients + rewards,  # w_i += v_i
        reputation=standing,
        joined=state.joined | present,
        round=state.round + 1,
    )
    seen = {
        "present": present,
        "norms": np.array([norm(d) if p else 0 for d, p in zip(deltas, present, strict=True)]),
        "uploads": uploads,
        "upload_norms": np.array([norm(u) for u in uploads]),
        "weights": weights,
        "aggregate": total,
        "psi": scores,
        "r": standing,
        "ratio": ratios,
        "quota": kept,
        "mask": keep,
        "rewards": rewards,
    }
    return new, seen


def fedavg_round(
    state: State, deltas: Array, sizes: Array, present: Array | None = None
) -> tuple[State, dict]:
    """FedAvg on the same wire: raw updates, data-size shares, everybody receives all of u_N."""
    present = who_is_present(deltas, present)
    weights = share(size_shares(sizes, deltas.dtype), present)
    total = aggregate(deltas, weights, present)  # u_N
    rewards = np.array([total if p else np.zeros_like(total) for p in present])
    return shared_end(state, deltas, present, weights, total, rewards)


def standalone_round(
    state: State, deltas: Array, sizes: Array, present: Array | None = None
) -> tuple[State, dict]:
    """No collaboration: everybody receives its own update, the server follows their plain mean."""
    del sizes
    present = who_is_present(deltas, present)
    weights = share(np.ones(len(deltas), deltas.dtype), present)
    total = aggregate(deltas, weights, present)
    rewards = np.array(
        [d if p else np.zeros_like(total) for d, p in zip(deltas, present, strict=True)]
    )
    return shared_end(state, deltas, present, weights, total, rewards)


def shared_end(
    state: State, deltas: Array, present: Array, weights: Array, total: Array, rewards: Array
) -> tuple[State, dict]:
    """The download of the rules that keep no reputation; what they do not define is None."""
    new = state._replace(
        server=state.server + total,
        clients=state.clients + rewards,
        joined=state.joined | present,
        round=state.round + 1,
    )
    norms = np.array([norm(d) if p else 0 for d, p in zip(deltas, present, strict=True)])
    seen = {
        "present": present,
        "norms": norms,
        "uploads": np.where(present[:, None], deltas, 0),
        "upload_norms": norms,
        "weights": weights,
        "aggregate": total,
        "rewards": rewards,
    }
    return new, seen | dict.fromkeys(("psi", "r", "ratio", "quota", "mask"))


# ---------------------------------------------------------------- two models with their gradients
#
# Parameters are a list, per layer the bias before the kernel, kernels [in, out]: the order in which
# the sorted names "bias" < "kernel" of a dictionary ravel, so that vectors can be compared entry by
# entry.


def ravel(params: Params) -> Array:
    return np.concatenate([p.reshape(-1) for p in params])


def unravel(vector: Array, like: Params) -> Params:
    pieces, start = [], 0
    for p in like:
        pieces.append(vector[start : start + p.size].reshape(p.shape))
        start += p.size
    return pieces


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))


def loss(logits: Array, labels: Array) -> np.floating:
    """Mean negative log-likelihood of the batch, logits [B, C]."""
    return -np.mean(log_softmax(logits)[np.arange(len(labels)), labels])


def logits_gradient(logits: Array, labels: Array) -> Array:
    """(softmax - one hot) / B, [B, C]."""
    slope = np.exp(log_softmax(logits))
    slope[np.arange(len(labels)), labels] -= 1
    return slope / len(labels)


def softmax_logits(params: Params, inputs: Array) -> Array:
    """Softmax regression; params: bias [C], kernel [F, C]."""
    bias, kernel = params
    return inputs.reshape(len(inputs), -1) @ kernel + bias


def softmax_gradient(params: Params, inputs: Array, labels: Array) -> Params:
    """Gradient of the mean loss, in the order of the parameters."""
    rows = inputs.reshape(len(inputs), -1)
    slope = logits_gradient(softmax_logits(params, inputs), labels)
    return [slope.sum(axis=0), rows.T @ slope]


def mlp_logits(params: Params, inputs: Array) -> Array:
    """One hidden layer of tanh; params: biases [H], [C] and kernels [F, H], [H, C] interleaved."""
    bias, kernel, bias_out, kernel_out = params
    hidden = np.tanh(inputs.reshape(len(inputs), -1) @ kernel + bias)
    return hidden @ kernel_out + bias_out


def mlp_gradient(params: Params, inputs: Array, labels: Array) -> Params:
    """Gradient of the mean loss, in the order of the parameters."""
    bias, kernel, _, kernel_out = params
    rows = inputs.reshape(len(inputs), -1)
    hidden = np.tanh(rows @ kernel + bias)
    slope = logits_gradient(mlp_logits(params, inputs), labels)
    slope_hidden = (slope @ kernel_out.T) * (1 - hidden * hidden)  # tanh' = 1 - tanh^2
    return [slope_hidden.sum(axis=0), rows.T @ slope_hidden, slope.sum(axis=0), hidden.T @ slope]


# ---------------------------------------------------------------- a client's round


def learning_rates(options: Options, round_: int, epochs: int) -> list[float]:
    """Learning rate of each local epoch [E] of a round counted from 0."""
    steps = [round_ * epochs + e if options.decay_per == "epoch" else round_ for e in range(epochs)]
    return [options.learning_rate * options.decay**step for step in steps]  # eta


def visited(order: Array) -> list[int]:
    """The rows of one epoch [M], pads cut off.

    A pad between rows would move the batch borders in one implementation and not in another, so it
    is refused.
    """
    rows = [int(row) for row in order if row >= 0]
    if any(row < 0 for row in order[: len(rows)]):
        raise ValueError("padding must follow the rows")
    return rows


def local_training(
    params: Params,
    inputs: Array,
    labels: Array,
    order: Array,
    learning_rates: Sequence[float],
    batch: int,
    gradient: Gradient,
) -> Array:
    """dw_i [D] of one client: mini-batch SGD over the rows in `order` [E, M], -1 pads.

    The last, shorter batch of an epoch is kept, and its loss is the mean over the rows it has. The
    given parameters are not touched: the client goes back to them.
    """
    trained = [p.copy() for p in params]
    for epoch in range(len(order)):
        rows = visited(order[epoch])
        for first in range(0, len(rows), batch):
            chosen = rows[first : first + batch]
            slopes = gradient(trained, inputs[chosen], labels[chosen])
            trained = [
                p - p.dtype.type(learning_rates[epoch]) * g
                for p, g in zip(trained, slopes, strict=True)
            ]
    return ravel(trained) - ravel(params)  # dw_i = w_after - w_{i,t-1}


# ---------------------------------------------------------------- a run


def run(
    init_params: Params,
    client_inputs: Sequence[Array],
    client_labels: Sequence[Array],
    orders: Sequence,
    options: Options = PAPER,
    algorithm: str = "cgsv",
    *,
    batch: int,
    gradient: Gradient = softmax_gradient,
    present: Array | None = None,
) -> list[dict]:
    """T rounds of N clients; `orders` [T][N][E][M] holds every epoch's order of the client's rows.

    `present` [T, N] leaves clients out of a round. Returns, per round, what `server_round` saw,
    with `deltas`, `learning_rates` and the parameters `server` [D] and `clients` [N, D] after it.
    """
    number = len(client_inputs)
    sizes = np.array([len(labels) for labels in client_labels])
    state = start(ravel(init_params), number)
    history = []
    for t in range(len(orders)):
        rates = learning_rates(options, t, len(orders[t][0]))
        deltas = np.array(
            [
                local_training(
                    unravel(state.clients[i], init_params),
                    client_inputs[i],
                    client_labels[i],
                    np.asarray(orders[t][i]),
                    rates,
                    batch,
                    gradient,
                )
                for i in range(number)
            ]
        )
        here = None if present is None else present[t]
        if algorithm == "cgsv":
            tensors = [p.size for p in init_params]
            state, seen = server_round(state, deltas, sizes, here, options, tensors=tensors)
        elif algorithm == "fedavg":
            state, seen = fedavg_round(state, deltas, sizes, here)
        elif algorithm == "standalone":
            state, seen = standalone_round(state, deltas, sizes, here)
        else:
            raise ValueError(f"algorithm must be cgsv, fedavg or standalone, not {algorithm!r}")
        after = {"server": state.server, "clients": state.clients}
        history.append({"deltas": deltas, "learning_rates": rates} | seen | after)
    return history


# ---------------------------------------------------------------- fairness


def is_constant(values: Array) -> bool:
    """Whether the values differ by no more than noise.

    An accuracy counts hits among fewer than a million rows, so a real difference is larger than
    1e-6, while equal accuracies averaged in float32 differ by about 1e-7.
    """
    return bool(np.max(values) - np.min(values) <= 1e-6 * np.max(np.abs(values)))


def fairness(standalone_accuracy: Array, final_accuracy: Array) -> float | None:
    """100 times Pearson's correlation of two vectors [N]; None where it is not defined."""
    x, y = np.asarray(standalone_accuracy, float), np.asarray(final_accuracy, float)
    if x.shape != y.shape:
        raise ValueError(f"accuracies of different clients: {x.shape} and {y.shape}")
    # Two points always lie on a line: their correlation is a sign and no measurement.
    if len(x) < 3 or not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        return None
    if is_constant(x) or is_constant(y):
        return None
    x, y = x - np.mean(x), y - np.mean(y)
    return float(100 * np.sum(x * y) / (norm(x) * norm(y)))


# ---------------------------------------------------------------- games of N players
# nu is a vector [2^N]: player i is in coalition S where bit i of its number is set.


def walk(values: Array, order: Sequence[int], tolerance: float = 0.0) -> Array:
    """Every player's gain where they arrive in this order, [N].

    Once nu(everybody) is nearer than the tolerance, those who follow gain nothing.
    """
    gains, inside, worth = np.zeros(len(order)), 0, values[0]
    for player in order:
        if abs(values[-1] - worth) < tolerance:
            break
        inside |= 1 << player
        gains[player] = values[inside] - worth
        worth = values[inside]
    return gains


def shapley(values: Array) -> Array:
    """The mean gain over all N! orders, [N]."""
    orders = itertools.permutations(range(len(values).bit_length() - 1))
    return np.mean([walk(values, order) for order in orders], axis=0)


def banzhaf(values: Array) -> Array:
    """The mean gain over all coalitions that lack the player, [N]."""
    number = len(values).bit_length() - 1
    return np.array(
        [
            np.mean([values[s | 1 << i] - values[s] for s in range(len(values)) if not s >> i & 1])
            for i in range(number)
        ]
    )


def leave_one_out(values: Array) -> Array:
    """What everybody else lacks without the player, [N]."""
    number = len(values).bit_length() - 1
    return np.array([values[-1] - values[len(values) - 1 - (1 << i)] for i in range(number)])


def deficits(values: Array, shares: Array) -> Array:
    """nu(S) - nu(nobody) - x(S) of all coalitions but nobody and everybody, [2^N - 2]."""
    number = len(shares)
    received = [sum(shares[i] for i in range(number) if s >> i & 1) for s in range(len(values))]
    return (values - values[0] - received)[1:-1]


def cosine_values(vectors: Array) -> Array:
    """nu(S) = cos(u_S, u_N), 0 where either is zero, of the rows u_i [N, D]: [2^N]."""
    number, whole = len(vectors), vectors.sum(axis=0)
    values = np.zeros(2**number)
    for s in range(1, len(values)):
        u = vectors[[i for i in range(number) if s >> i & 1]].sum(axis=0)
        lengths = norm(u) * norm(whole)
        values[s] = u @ whole / lengths if lengths > 1e-12 else 0.0
    return values
