"""Personal models in plain NumPy loops: FedPer, LG-FedAvg and Ditto; clients stay away.

As `oracle.py`, on which it builds: nothing is imported from the package, float64 throughout. A
client is two lists here, of shared and of private layers; nobody keeps a vector with both.
"""

import numpy as np
import oracle

METHODS = ("fedper", "lg_fedavg", "ditto")


def fedavg_of_layers(
    shared, init_params, client_inputs, client_labels, orders, options, present, *, batch, gradient
):
    """T rounds of FedAvg of the tensors `shared`, the others each client's own.

    Args:
      shared: numbers of tensors of `init_params`.
      init_params: w_0.
      client_inputs: of each client.
      client_labels: likewise.
      orders: [T][N][E][M], of a client's rows.
      options: learning rate and decay.
      present: [T, N] bool.
      batch: rows of a step.
      gradient: of the mean loss.

    Returns:
      Per round the server's tensors, and every client's as it would use them: the server's shared
      ones beside its own.
    """
    number, kinds = len(client_inputs), range(len(init_params))
    server = [init_params[k] for k in kinds]
    own = [[init_params[k] for k in kinds] for _ in range(number)]
    history = []
    for t in range(len(orders)):
        rates = oracle.learning_rates(options, t, len(orders[t][0]))
        moved, rows = [0.0 * p for p in init_params], 0
        for i in np.flatnonzero(present[t]):
            start = [server[k] if k in shared else own[i][k] for k in kinds]
            delta = oracle.local_training(
                start, client_inputs[i], client_labels[i], np.asarray(orders[t][i]), rates, batch,
                gradient,
            )  # fmt: skip
            trained = oracle.unravel(delta, init_params)
            rows += len(client_labels[i])
            for k in kinds:
                moved[k] = moved[k] + len(client_labels[i]) * trained[k]
                if k not in shared:
                    own[i][k] = start[k] + trained[k]
        server = [server[k] + moved[k] / rows if k in shared else server[k] for k in kinds]
        used = [[server[k] if k in shared else own[i][k] for k in kinds] for i in range(number)]
        history.append((server, used))
    return history


def ditto(
    pull, init_params, client_inputs, client_labels, orders, options, present, *, batch, gradient
):
    """T rounds of Ditto, w_i held near w_N with strength `pull`; arguments as above.

    Returns:
      Per round the server's vector and those of the clients, [D] and [N, D].
    """
    number, server = len(client_inputs), oracle.ravel(init_params)
    own, history = [server.copy() for _ in range(number)], []

    def trained(start, i, t, towards):
        rates = oracle.learning_rates(options, t, len(orders[t][0]))
        weights = start.copy()
        for epoch, eta in zip(orders[t][i], rates, strict=True):
            rows = oracle.visited(epoch)
            for first in range(0, len(rows), batch):
                chosen = rows[first : first + batch]
                params = oracle.unravel(weights, init_params)
                slope = gradient(params, client_inputs[i][chosen], client_labels[i][chosen])
                weights = weights - eta * (oracle.ravel(slope) + towards(weights))
        return weights

    for t in range(len(orders)):
        moved, rows, before = 0.0, 0, server
        for i in np.flatnonzero(present[t]):
            of_shared = trained(before, i, t, lambda weights: 0.0)
            moved = moved + len(client_labels[i]) * (of_shared - before)
            rows += len(client_labels[i])
            own[i] = trained(own[i], i, t, lambda weights, w_n=before: pull * (weights - w_n))
        server = before + moved / rows
        history.append((server, np.array(own)))
    return history
