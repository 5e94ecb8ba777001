"""The round in this package, as a user writes it: `simulation.round_` under one jit."""

import itertools
from functools import partial

import jax
import numpy as np
import optax

from benchmarks.peers.protocol import Federation
from benchmarks.peers.work import CLASSES, Case, Work
from cgsv_jax import models, types
from cgsv_jax.core import local, simulation, vectors
from cgsv_jax.rules import methods


def model_of(case: Case) -> types.Model:
    """The package's network of a case."""
    if case.network == "mlp":
        return models.mlp(case.shape, CLASSES, hidden=case.hidden)
    return models.MODELS[case.network](case.shape, CLASSES)


def partition(work: Work) -> tuple[types.Clients, np.ndarray]:
    """The clients, and the order [N, E, M] in which each visits its slots: as they lie."""
    sizes = work.sizes
    slots = np.arange(sizes.max())
    mask = slots < sizes[:, None]
    rows = np.where(mask, work.offsets[:-1, None] + slots, 0).astype(np.int32)
    order = np.where(mask, slots, -1).astype(np.int32)
    orders = np.broadcast_to(order[:, None], (len(sizes), work.case.epochs, len(slots)))
    return types.Clients(rows, mask), orders


def build(work: Work, width: int | None = None) -> Federation:
    """The federation, ready to run.

    Args:
        work: what is computed.
        width: clients computed at once; None: all.
    """
    case = work.case
    start = models.params_from_torch(work.start)
    model = model_of(case)._replace(init=lambda key: start)
    schedule = local.decayed(case.learning_rate, 1.0)
    trainer = local.trainer(model, optax.sgd, schedule, batch_size=case.batch)
    settings = types.Settings(rounds=1, epochs=case.epochs, width=width)
    federation = types.Federation(model, trainer, methods.fedavg(), settings)
    key = jax.random.key(0)  # every draw is given
    unravel = vectors.unraveler(jax.eval_shape(model.init, key))

    @partial(jax.jit, donate_argnums=0)
    def one_round(state, data, clients, orders):
        return simulation.round_(key, state, data, clients, federation, orders)

    @jax.jit
    def initial():
        return simulation.init(key, case.clients, federation)

    # Never read: `round_` evaluates nothing.
    test = (np.zeros((1, *case.shape), np.float32), np.zeros(1, np.int32))
    data = types.Dataset(np.asarray(work.inputs), work.labels, *test)
    arguments = jax.device_put((data, *partition(work)))
    carry = {}

    def reset() -> None:
        carry["state"] = initial()

    def advance(rounds: int) -> None:
        for _ in itertools.repeat(None, rounds):
            carry["state"], _ = one_round(carry["state"], *arguments)
        jax.block_until_ready(carry["state"])

    def parameters() -> dict[str, np.ndarray]:
        return models.params_to_torch(unravel(carry["state"].server))

    reset()
    return Federation(advance, reset, parameters)
