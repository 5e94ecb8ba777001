"""Personal models in plain NumPy loops: FedPer and LG-FedAvg, with clients that stay away.

As `oracle.py`, on which it builds: nothing is imported from the package, float64 throughout. A
client is two lists here, of shared and of private layers; nobody keeps a vector with both.
"""

import numpy as np
import oracle

METHODS = ("fedper", "lg_fedavg")


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
