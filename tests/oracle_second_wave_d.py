"""FedProx, FedAvgM, FedAdam, FedYogi and SCAFFOLD in plain NumPy loops, with absent clients.

As `oracle.py`, on which it builds: nothing is imported from the package, float64 throughout.
SCAFFOLD's variates are made of models and step counts, as its paper writes them.
"""

import numpy as np
import oracle

METHODS = ("fedprox", "fedavgm", "fedadam", "fedyogi", "scaffold")


class Server:
    """w_N, and what each method remembers."""

    def __init__(self, name, start, sizes, numbers):
        self.name, self.model, self.sizes, self.numbers = name, start.copy(), sizes, numbers
        self.m = np.zeros_like(start)
        self.v = np.full_like(start, numbers.get("tau", 0.0) ** 2)
        self.c = np.zeros_like(start)
        self.own = [np.zeros_like(start) for _ in sizes]

    def pull(self, client, weights):
        """What is added to the client's gradient at these weights."""
        if self.name == "fedprox":
            return self.numbers["mu"] * (weights - self.model)
        if self.name == "scaffold":
            return self.c - self.own[client]
        return 0.0 * weights

    def hear(self, trained, rates):
        """One round: client -> its weights after training, client -> its steps' learning rates."""
        evenly = self.numbers.get("weights") == "uniform"
        share = {i: 1.0 if evenly else float(self.sizes[i]) for i in trained}
        moved = sum(share[i] * (trained[i] - self.model) for i in trained) / sum(share.values())
        if self.name == "scaffold":
            everybody = len(self.sizes) if evenly else sum(self.sizes)
            before = self.c.copy()
            for i in trained:
                new = self.own[i] - before + (self.model - trained[i]) / sum(rates[i])
                self.c = self.c + share[i] / everybody * (new - self.own[i])
                self.own[i] = new
        self.model = self.model + self.step(moved)

    def step(self, moved):
        eta, beta = self.numbers.get("rate", 1.0), self.numbers.get("momentum", 0.0)
        if self.name in ("fedprox", "scaffold"):
            return eta * moved
        if self.name == "fedavgm":
            self.m = beta * self.m + moved
            return eta * self.m
        beta2, tau = self.numbers["beta2"], self.numbers["tau"]
        self.m = beta * self.m + (1 - beta) * moved
        for k, square in enumerate(moved**2):
            if self.name == "fedadam":
                self.v[k] = beta2 * self.v[k] + (1 - beta2) * square
            else:
                self.v[k] = self.v[k] - (1 - beta2) * square * np.sign(self.v[k] - square)
        return eta * self.m / (np.sqrt(self.v) + tau)


def run(
    name, numbers, init_params, client_inputs, client_labels, orders, options, present, *, batch,
    gradient,
):  # fmt: skip
    """T rounds of which every client starts from the server's model; w_N [D] after each.

    Args:
      name: of the method.
      numbers: mu, rate, momentum, beta2, tau; `weights` is "uniform" or anything else for sizes.
      init_params: w_0.
      client_inputs: of each client.
      client_labels: likewise.
      orders: [T][N][E][M], of a client's rows.
      options: learning rate and decay.
      present: [T, N] bool; a round of nobody changes nothing.
      batch: rows of a step.
      gradient: of the mean loss.
    """
    sizes = [len(labels) for labels in client_labels]
    server, history = Server(name, oracle.ravel(init_params), sizes, numbers), []
    for t in range(len(orders)):
        planned = oracle.learning_rates(options, t, len(orders[t][0]))
        trained, rates = {}, {}
        for i in np.flatnonzero(present[t]):
            weights, rates[i] = server.model.copy(), []
            for epoch, eta in enumerate(planned):
                rows = oracle.visited(orders[t][i][epoch])
                for first in range(0, len(rows), batch):
                    chosen = rows[first : first + batch]
                    params = oracle.unravel(weights, init_params)
                    slope = gradient(params, client_inputs[i][chosen], client_labels[i][chosen])
                    slope = oracle.ravel(slope) + server.pull(i, weights)
                    weights = weights - eta * slope
                    rates[i].append(eta)
            trained[i] = weights
        if trained:
            server.hear(trained, rates)
        history.append(server.model.copy())
    return history
