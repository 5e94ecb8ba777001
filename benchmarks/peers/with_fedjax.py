"""The round in FedJAX, with its jit backend.

Training is the library's own (`fed_avg.create_train_for_each_client`), and so are the batches and
the mean. The one difference from its `federated_averaging` is the view of the batches: that one
fills the last batch with rows seen before, where `padded_batch`, which the library's gradients
understand as well, pads it. It is no slower for it: `federated_averaging` also takes norms.
"""

import itertools

import jax

# FedJAX 0.0.17 (2023) calls an alias that JAX has removed since; nothing else of it is changed.
jax.tree_map = jax.tree.map

import fedjax  # noqa: E402
from fedjax.algorithms import fed_avg  # noqa: E402

from benchmarks.peers import jax_networks, protocol  # noqa: E402
from benchmarks.peers.work import Work  # noqa: E402


def build(work: Work) -> protocol.Federation:
    """The federation: clients are NumPy rows, as in FedJAX's own data sets."""
    case = work.case
    logits = jax_networks.network(case)

    def losses(params, batch, rng):
        del rng  # no dropout
        return jax_networks.losses(logits(params, batch["x"]), batch["y"])

    optimizer = fedjax.optimizers.sgd(case.learning_rate)
    server_optimizer = fedjax.optimizers.sgd(1.0)
    with fedjax.for_each_client_backend("jit"):
        train = fed_avg.create_train_for_each_client(fedjax.grad(losses), optimizer)
    keys = jax.random.split(jax.random.PRNGKey(0), case.clients)
    clients = []
    for i, (start, stop) in enumerate(itertools.pairwise(work.offsets)):
        rows = {"x": work.inputs[start:stop], "y": work.labels[start:stop]}
        rows = {name: array.copy() for name, array in rows.items()}  # in memory, not mapped
        batches = fedjax.ClientDataset(rows).padded_batch(batch_size=case.batch)
        clients.append((i, batches, keys[i]))
    sizes = [float(size) for size in work.sizes]

    state = {}

    def reset() -> None:
        params = jax_networks.to_jax(work.start)
        state.update(params=params, optimizer=server_optimizer.init(params))

    def one_round(params, opt_state):
        visits = [
            (i, itertools.chain.from_iterable([batches] * case.epochs), key)
            for i, batches, key in clients
        ]
        deltas = ((delta, sizes[i]) for i, delta in train(params, visits))
        return server_optimizer.apply(fedjax.tree_util.tree_mean(deltas), opt_state, params)

    def advance(rounds: int) -> None:
        for _ in range(rounds):
            opt_state, params = one_round(state["params"], state["optimizer"])
            state.update(params=params, optimizer=opt_state)
        jax.block_until_ready(state["params"])

    reset()
    return protocol.Federation(advance, reset, lambda: jax_networks.from_jax(state["params"]))


if __name__ == "__main__":
    protocol.serve(build, ("fedjax", "jax", "numpy"))
