"""A server that takes a step of an optimizer along the aggregate of another rule."""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from cgsv_jax.core import checks
from cgsv_jax.core.ranges import Interval
from cgsv_jax.rules.spec import Number
from cgsv_jax.types import Aggregation, Array, ArrayTree, Standing, Upload

SERVER_RATE = Number(
    1.0,
    Interval(0, math.inf, "()"),
    "learning rate of the server's own step",
    "server rate",
    flag="server_rate",
)
SERVER_MOMENTUM = Number(
    0.9,
    Interval(0, 1, "[)"),
    "share of its former steps that the server keeps; fedadam, fedyogi: beta_1",
    "server momentum",
    flag="server_momentum",
)
SERVER_BETA2 = Number(
    0.99,
    Interval(0, 1, "[)"),
    "fedadam, fedyogi: beta_2, share of the server's former mean square that is kept",
    "server beta_2",
    flag="server_beta2",
)
TAU = Number(
    1e-3,
    Interval(0, math.inf, "()"),
    "fedadam, fedyogi: tau, what is added to the root of the mean square; the larger, the less the "
    "server adapts",
    "tau",
    flag="server_tau",
)
# What `adaptive` is told, by argument of the methods that step by it.
ADAPTIVE = {"rate": SERVER_RATE, "momentum": SERVER_MOMENTUM, "beta2": SERVER_BETA2, "tau": TAU}


def descent(
    rate: chex.Numeric, momentum: chex.Numeric | None = None
) -> optax.GradientTransformation:
    """`optax.sgd` for the methods that take no other step; its numbers may be traced.

    Raises:
      ValueError: a number is out of range.
    """
    checks.numbers(SERVER_RATE.allowed, server_rate=rate)
    if momentum is not None:
        checks.numbers(SERVER_MOMENTUM.allowed, server_momentum=momentum)
    return optax.sgd(jnp.asarray(rate), momentum)


def stepped(aggregation: Aggregation, optimizer: optax.GradientTransformation) -> Aggregation:
    """u_N = the optimizer's step, with -Delta as its gradient; Delta is the other's aggregate.

    In a round in which nobody is present the server takes no step and its optimizer waits. The
    recorded weights are the other rule's. O(D) a round more, and the optimizer's state.

    Args:
      aggregation: how uploads become Delta, for instance `by_size()`.
      optimizer: any of optax, for instance `optax.adam(0.01)`; parameters are one vector [D] to it,
        those of the server.

    Returns:
      An Aggregation whose state is the other's and the optimizer's.

    Reference:
      Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 1.
    """

    def init(num_clients: int, num_parameters: int) -> tuple[ArrayTree, ArrayTree]:
        inner = aggregation.init(num_clients, num_parameters)
        return inner, optimizer.init(jnp.zeros(num_parameters))

    def update(
        key: jax.Array, upload: Upload, standing: Standing, state: tuple[ArrayTree, ArrayTree]
    ) -> tuple[Array, Array, tuple[ArrayTree, ArrayTree]]:
        mean, weights, inner = aggregation.update(key, upload, standing, state[0])
        step, new = optimizer.update(-mean, state[1], upload.server)
        heard = jnp.any(upload.present)
        new = jax.tree.map(lambda x, old: jnp.where(heard, x, old), new, state[1])
        return jnp.where(heard, jnp.asarray(step), 0.0), weights, (inner, new)

    return Aggregation(init, update, aggregation.needs)


class Moments(NamedTuple):
    """The state of `adaptive`."""

    mean: Array  # [D] m
    square: Array  # [D] v


def adaptive(
    rate: chex.Numeric,
    beta1: chex.Numeric,
    beta2: chex.Numeric,
    tau: chex.Numeric,
    squares: Callable[[Array, Array, chex.Numeric], Array],
    initial: chex.Numeric | None = None,
) -> optax.GradientTransformation:
    """eta m / (sqrt(v) + tau), m = beta_1 m + (1 - beta_1) Delta, with the moments as they are.

    `optax.adam` and `optax.yogi` divide moments by 1 - beta^t, and start v at 0 or 1e-6, Yogi's m
    too; the server optimizers of Reddi et al. do not, and start at v = tau².

    Args:
      rate: eta.
      beta1: of m.
      beta2: of v.
      tau: above 0.
      squares: (v, Delta², beta_2) -> v of this round.
      initial: v before the first round; default: tau².

    Raises:
      ValueError: a number is out of range.
    """
    checks.numbers(SERVER_RATE.allowed, server_rate=rate)
    checks.numbers(SERVER_MOMENTUM.allowed, server_momentum=beta1)
    checks.numbers(SERVER_BETA2.allowed, server_beta2=beta2)
    checks.numbers(TAU.allowed, server_tau=tau)
    first = tau**2 if initial is None else initial  # v_{-1} >= tau²

    def init(params: Array) -> Moments:
        return Moments(jnp.zeros_like(params), jnp.full_like(params, first))

    def update(
        gradient: Array, state: Moments, params: Array | None = None
    ) -> tuple[Array, Moments]:
        del params
        mean = beta1 * state.mean - (1 - beta1) * gradient  # m_t, of Delta = -gradient
        most = jnp.finfo(gradient.dtype).max  # beyond it the difference of two squares is no number
        squared = jnp.minimum(jnp.square(gradient), most)
        square = squares(state.square, squared, beta2)  # v_t
        return rate * mean / (jnp.sqrt(square) + tau), Moments(mean, square)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
