"""The server's step under every aggregation, N = 100 clients of the MNIST CNN, D = 104,242.

    python -m benchmarks.aggregations [--scale smoke|full]

The whole of `cgsv`'s step from the same dw, with one rule for u_N in place of another: what a
robust aggregate costs beside the weighted mean of the paper. FLTrust takes the gradient on 600
validation rows with it. Before anything is timed, every rule gives back an upload that all clients
send.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, table
from cgsv_jax import models
from cgsv_jax.core import evaluation, vectors
from cgsv_jax.experiment import timing
from cgsv_jax.rules import methods
from cgsv_jax.rules import spec as spec_lib
from cgsv_jax.rules.aggregation import AGGREGATIONS
from cgsv_jax.types import State


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    validation: int  # rows
    repeats: int


SCALES = {"smoke": Scale(5, 8, 1), "full": Scale(100, 600, 7)}
SHAPE = (32, 32, 1)
CLOSE = 1e-3  # of the length of an upload: sums of N terms, and the last Weiszfeld step


def rows(scale: str = "full") -> list[table.Row]:
    """Every aggregation against that by reputation.

    Raises:
        RuntimeError: if a rule does not give back what all clients send.
    """
    size = SCALES[scale]
    rng = np.random.default_rng(0)
    model = models.MODELS["mnist_cnn"](SHAPE, 10)
    start = vectors.ravel(model.init(common.KEY))
    network = evaluation.network(model, SHAPE)
    deltas = jnp.asarray(rng.normal(size=(size.clients, start.size)), jnp.float32)
    held = (
        jnp.asarray(rng.normal(size=(size.validation, *SHAPE)), jnp.float32),
        jnp.asarray(rng.integers(0, 10, size.validation), jnp.int32),
    )
    clients = jnp.broadcast_to(start, deltas.shape)
    sizes = jnp.asarray(rng.integers(10, 100, size.clients), jnp.int32)

    given = (clients, start, held, sizes)

    def step_of(name: str) -> Callable[..., Any]:
        rule = spec_lib.made(AGGREGATIONS[name], {}, {"network": network}, {})
        algorithm = methods.cgsv(aggregation=rule)
        state = algorithm.init(*deltas.shape)

        @jax.jit
        def step(
            deltas: jax.Array, clients: jax.Array, start: jax.Array, held: Any, sizes: jax.Array
        ) -> Any:
            seen = State(start, clients, (), state, jnp.int32(0), jnp.zeros(size.clients))
            sent = common.upload_of(seen, deltas, vectors.norms(deltas), sizes)
            return algorithm.update(common.KEY, sent._replace(validation=held), state)

        return step

    steps = {name: step_of(name) for name in AGGREGATIONS}
    # Where all send the server's own direction, FLTrust trusts them as well.
    same = -jnp.broadcast_to(network.gradient(start, *held), deltas.shape)
    for name, step in steps.items():
        download, *_ = step(same, *given)
        want = 0.5 * same[0] / vectors.norm(same[0])
        gap = float(vectors.norm(download.aggregate - want)) / 0.5
        if not gap <= CLOSE:
            raise RuntimeError(f"{name} of equal uploads is off by {gap:.1e}, allowed {CLOSE:.0e}")
    calls = {name: lambda step=step: step(deltas, *given) for name, step in steps.items()}
    times = timing.alternate(calls, size.repeats)
    title = f"server's step, N = {size.clients}, D = {start.size:,}, aggregation"
    return [
        table.Row(
            work=f"{title} {name}",
            against="the same by reputation",
            ours=times[name],
            theirs=times["reputation"],
            ratio=timing.ratio(times[name], times["reputation"]),
            target=None,
            at_most=True,
            note="ours / theirs; of equal uploads each is that upload",
        )
        for name in AGGREGATIONS
        if name != "reputation"
    ]


if __name__ == "__main__":
    common.main(rows, __doc__.splitlines()[0])
