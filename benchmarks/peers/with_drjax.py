"""The round in DrJAX: broadcast, map, weighted mean, in one compiled program.

`map_fn` is a vmap over clients, so that all of them must have the same shape: everybody is padded
to as many batches as the largest client has. A batch of nothing but padding has a gradient of zero,
so that plain SGD stands still.
"""

from functools import partial

import drjax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import jax_networks, protocol
from benchmarks.peers.work import Work


def stacked(work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [N, S, B, ...], labels [N, S, B] and the mask of true rows [N, S, B]."""
    case, sizes = work.case, work.sizes
    steps = -(-int(sizes.max()) // case.batch)
    inputs = np.zeros((case.clients, steps * case.batch, *case.shape), np.float32)
    labels = np.zeros(inputs.shape[:2], np.int32)
    for i, (start, size) in enumerate(zip(work.offsets, sizes, strict=False)):
        inputs[i, :size] = work.inputs[start : start + size]
        labels[i, :size] = work.labels[start : start + size]
    mask = np.arange(inputs.shape[1]) < sizes[:, None]
    batched = (case.clients, steps, case.batch)
    return inputs.reshape(*batched, *case.shape), labels.reshape(batched), mask.reshape(batched)


def build(work: Work) -> protocol.Federation:
    """The federation: clients are the leading axis of arrays on the device."""
    case = work.case
    logits = jax_networks.network(case)

    def train(params, inputs, labels, mask):
        def step(params, batch):
            x, y, valid = batch

            def loss(params):
                rows = jnp.where(valid, jax_networks.losses(logits(params, x), y), 0.0)
                return jnp.sum(rows) / jnp.maximum(jnp.sum(valid), 1)

            gradient = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - case.learning_rate * g, params, gradient), None

        def epoch(params, _):
            return jax.lax.scan(step, params, (inputs, labels, mask))

        trained, _ = jax.lax.scan(epoch, params, length=case.epochs)
        return jax.tree.map(jnp.subtract, trained, params)

    @partial(jax.jit, donate_argnums=0)
    @drjax.program(clients=case.clients)
    def one_round(params, inputs, labels, mask, weights):
        deltas = drjax.map_fn(train, (drjax.broadcast(params), inputs, labels, mask))
        mean = jax.tree.map(lambda d: drjax.reduce_weighted_mean(d, weights), deltas)
        return jax.tree.map(jnp.add, params, mean)

    data = jax.device_put(stacked(work))
    weights = jnp.asarray(work.sizes, jnp.float32)
    state = {}

    def reset() -> None:
        state["params"] = jax_networks.to_jax(work.start)

    def advance(rounds: int) -> None:
        for _ in range(rounds):
            state["params"] = one_round(state["params"], *data, weights)
        jax.block_until_ready(state["params"])

    reset()
    return protocol.Federation(advance, reset, lambda: jax_networks.from_jax(state["params"]))


if __name__ == "__main__":
    protocol.serve(build, ("drjax", "jax", "numpy"))
