"""Submodels as rewards in NumPy loops: FedSAC, round by round, with clients that are away.

As `oracle.py`, on which it builds: nothing is imported from the package, float64 throughout.
Parameters are a list of bias, kernel, bias, kernel, ... of dense layers; a hidden unit is a column
of one kernel with its bias, and a row of the next. Units are numbered layer by layer.
"""

import numpy as np
import oracle

Array = np.ndarray


def units_of(params: list, with_output: bool) -> list[tuple[int, int]]:
    """(layer, column) of every unit."""
    layers = len(params) // 2 - (not with_output)
    return [(layer, j) for layer in range(layers) for j in range(params[2 * layer].size)]


def without(params: list, off: list[tuple[int, int]], incoming: bool) -> list:
    """The parameters in which some units are off."""
    made = [p.copy() for p in params]
    for layer, j in off:
        made[2 * layer][j] = 0
        made[2 * layer + 1][:, j] = 0
        if not incoming and 2 * layer + 3 < len(made):
            made[2 * layer + 3][j, :] = 0
    return made


def mask_of(params: list, keep: list[bool], with_output: bool, incoming: bool) -> Array:
    """Which entries are on, [D]."""
    units = units_of(params, with_output)
    off = [unit for unit, on in zip(units, keep, strict=True) if not on]
    return oracle.ravel(without([np.ones_like(p) for p in params], off, incoming)) == 1


def importance(params: list, validation, logits, with_output: bool) -> list[float]:
    """How much the loss on the validation rows rises without each unit, in percent of all."""
    inputs, labels = validation
    loss = float(oracle.loss(logits(params, inputs), labels))
    rises = []
    for unit in units_of(params, with_output):
        cut = without(params, [unit], incoming=True)
        rises.append(max(0.0, float(oracle.loss(logits(cut, inputs), labels)) - loss))
    if sum(rises) == 0:
        rises = [1e-4] * len(rises)
    return [100 * rise / sum(rises) for rise in rises]


def allocated(worth: list[float], limit: float, descending: bool) -> list[bool]:
    """The units that a client takes, one after another, until they are worth the limit."""
    ranked = sorted(range(len(worth)), key=lambda h: -worth[h] if descending else worth[h])
    keep, total = [False] * len(worth), 0.0
    for h in ranked:
        keep[h] = True
        total += worth[h]
        if total >= limit:
            break
    return keep


def masked_mean(deltas: list, held: list, present: list) -> Array:
    """Entry by entry, over the clients present that hold it."""
    mean = np.zeros_like(deltas[0])
    for d in range(mean.size):
        own = [x[d] for x, m, here in zip(deltas, held, present, strict=True) if here and m[d]]
        mean[d] = np.mean(own) if own else 0.0
    return mean


def fedsac(
    init_params, client_inputs, client_labels, orders, *, alone, validation, logits, gradient,
    options, batch, present, steepness, every, descending, with_output, incoming,
):  # fmt: skip
    """T rounds; per round importance, keep [N][H], aggregate, server [D], clients [N, D], quota."""
    number = len(client_inputs)
    server = oracle.ravel(init_params)
    clients = [server.copy() for _ in range(number)]
    keep = [[True] * len(units_of(init_params, with_output)) for _ in range(number)]
    worth, reputation, history, best = None, np.zeros(number), [], 0.0
    for t in range(len(orders)):
        rates = oracle.learning_rates(options, t, len(orders[t][0]))
        deltas = []
        for i in range(number):
            params = oracle.unravel(clients[i], init_params)
            delta = oracle.local_training(
                params, client_inputs[i], client_labels[i], np.asarray(orders[t][i]), rates, batch,
                gradient,
            )  # fmt: skip
            deltas.append(delta)
        held = [mask_of(init_params, own, with_output, incoming) for own in keep]
        aggregate = masked_mean(deltas, held, present[t])
        server = server + aggregate
        if t == 0 or (t + 1) % every == 0:
            worth = importance(oracle.unravel(server, init_params), validation, logits, with_output)
        best = max([best] + [alone[i] for i in range(number) if present[t][i]])
        earned = [100 * np.exp(steepness * (s - best)) for s in alone]
        quota = [0] * number
        for i in range(number):
            if present[t][i]:
                keep[i] = allocated(worth, earned[i], descending)
                mask = mask_of(init_params, keep[i], with_output, incoming)
                clients[i] = np.where(mask, server, 0.0)
                quota[i] = int(mask.sum())
        here = np.array(present[t])
        left = 1 - reputation[~here].sum()
        reputation[here] = left * np.array(earned)[here] / np.array(earned)[here].sum()
        history.append(
            {
                "importance": worth,
                "keep": [list(own) for own in keep],
                "aggregate": aggregate,
                "server": server,
                "clients": np.array(clients),
                "quota": quota,
                "reputation": reputation.copy(),
            }
        )
    return history
