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


def fedrac_sizes(accuracies, alone, whole, order, step_units, number, *, best, lam, pace, start, t,
                 steepness):  # fmt: skip
    """How many units each client has, as its code goes through clients and sizes.

    `order` holds the clients present; those of equal accuracy alone have equal sizes.
    """
    out = lam - lam / np.log(pace * t + start)
    sizes, before, last = {}, 0, None
    for i in sorted(order, key=lambda i: alone[i]):
        if last is not None and alone[i] == alone[last]:
            sizes[i] = sizes[last]
            continue
        earned = np.exp(steepness * (alone[i] - best))
        target = alone[i] + (whole - whole * out) * earned
        place = min(before + 1, len(accuracies) - 1)
        for s in range(len(accuracies) - 1, before, -1):
            if accuracies[s] <= target:
                place = s
                break
        sizes[i], before, last = step_units[place], place, i
    for i in order:
        if alone[i] >= best:
            sizes[i] = number
    return sizes


def fedrac(
    init_params, client_inputs, client_labels, orders, *, alone, validation, logits, gradient,
    options, batch, present, steepness, lams, until, pace, start, sizes,
):  # fmt: skip
    """T rounds; per round keep [N][H], frequency [H], server [D], clients [N, D], quota."""
    number = len(client_inputs)
    server = oracle.ravel(init_params)
    clients = [server.copy() for _ in range(number)]
    units = units_of(init_params, False)
    keep = [[True] * len(units) for _ in range(number)]
    frequency, history, best = [0] * len(units), [], 0.0
    reputation = np.zeros(number)
    steps = min(sizes, len(units))
    step_units = [len(units) * k // steps for k in range(steps + 1)]

    def accuracy(own: list[bool]) -> float:
        params = oracle.unravel(server * mask_of(init_params, own, False, False), init_params)
        return float(np.mean(np.argmax(logits(params, validation[0]), axis=1) == validation[1]))

    for t in range(len(orders)):
        rates = oracle.learning_rates(options, t, len(orders[t][0]))
        deltas = [
            oracle.local_training(
                oracle.unravel(clients[i], init_params), client_inputs[i], client_labels[i],
                np.asarray(orders[t][i]), rates, batch, gradient,
            )
            for i in range(number)
        ]  # fmt: skip
        server = server + masked_mean(deltas, [x != 0 for x in deltas], present[t])
        here = [i for i in range(number) if present[t][i]]
        best = max([best] + [alone[i] for i in here])
        ranked = sorted(range(len(units)), key=lambda h: frequency[h])
        first = [[ranked.index(h) < size for h in range(len(units))] for size in step_units]
        found = fedrac_sizes(
            [accuracy(own) for own in first[1:]], alone, accuracy([True] * len(units)), here,
            step_units, len(units), best=best, lam=lams[t + 2 > until], pace=pace, start=start,
            t=t + 2, steepness=steepness,
        )  # fmt: skip
        quota = [0] * number
        for i in here:
            keep[i] = [ranked.index(h) < found[i] for h in range(len(units))]
            frequency = [f + on for f, on in zip(frequency, keep[i], strict=True)]
            mask = mask_of(init_params, keep[i], False, False)
            clients[i] = np.where(mask, server, 0.0)
            quota[i] = int(mask.sum())
        earned = np.exp(steepness * (np.array(alone) - best))
        away = ~np.array(present[t])
        share = (1 - reputation[away].sum()) / earned[here].sum()
        reputation[here] = share * earned[here]
        history.append(
            {
                "keep": [list(own) for own in keep],
                "frequency": list(frequency),
                "server": server.copy(),
                "clients": np.array(clients),
                "quota": list(quota),
                "reputation": reputation.copy(),
            }
        )
    return history
