"""u_N as a weighted sum of uploads."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.rules.shares import over_present, population, rows_of_all
from cgsv_jax.rules.spec import Choice, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Aggregation, Array, ArrayTree, Standing, Upload


def _sum(weights: Array, upload: Upload) -> Array:
    return vectors.weighted_sum(weights * upload.scales, upload.deltas)  # u_N


def shares(upload: Upload, first: str) -> Array:
    """Of everybody's rows [N] that of each client, "size", or 1 / N, "uniform"."""
    dtype = upload.deltas.dtype
    if first == "uniform":
        return jnp.full(upload.present.shape, 1 / population(upload), dtype)
    rows = upload.num_examples.astype(dtype)  # floats: in all, more than an int32 may count
    return rows / jnp.maximum(jnp.sum(rows), 1)  # nobody has rows: uniform, further up


def by_reputation(*, first: str = "size") -> Aggregation:
    """u_N = sum_i r_{i,t-1} u_i over the present clients, weights renormalised to sum 1.

    A client has no reputation before its first aggregation: there it enters with its share of the
    data (`first="size"`) or with 1 / N (`first="uniform"`).

    Returns:
      An Aggregation; its state [N] bool says who has been aggregated before.

    Raises:
      ValueError: `first` is another word.
    """
    checks.choice("first_weights", first, "size", "uniform")

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_parameters
        return jnp.zeros(num_clients, bool)

    def update(
        key: jax.Array, upload: Upload, standing: Standing, joined: Array
    ) -> tuple[Array, Array, Array]:
        del key
        weights = jnp.where(joined, standing.reputation, shares(upload, first))  # r_{i,t-1}
        weights = over_present(weights, upload.present)
        return _sum(weights, upload), weights, joined | upload.present

    return Aggregation(init, update)


def _fixed(first: str, scale: Callable[[Upload], Array] | None = None) -> Aggregation:
    def aggregated(upload: Upload) -> tuple[Array, Array]:
        weights = over_present(shares(upload, first), upload.present)
        factor = 1.0 if scale is None else scale(upload)
        return _sum(factor * weights, upload), weights

    return stateless(Aggregation, aggregated)


def by_size() -> Aggregation:
    """u_N = sum_i n_i u_i / sum_i n_i over the present clients."""
    return _fixed("size")


def uniform() -> Aggregation:
    """u_N is the mean upload of the present clients."""
    return _fixed("uniform")


def by_size_of_all() -> Aggregation:
    """u_N = sum_i n_i u_i over the present clients / sum_i n_i over these and the removed."""

    def part(upload: Upload) -> Array:
        rows = rows_of_all(upload)
        return jnp.sum(jnp.where(upload.present, rows, 0)) / jnp.maximum(jnp.sum(rows), 1)

    return _fixed("size", part)


def added() -> Aggregation:
    """u_N = sum_i u_i over the present clients; the recorded weights sum to 1 all the same."""
    return _fixed("uniform", lambda upload: jnp.sum(upload.present).astype(upload.norms.dtype))


BY_REPUTATION = Spec(
    by_reputation,
    {
        "first": Choice(
            "size",
            ("size", "uniform"),
            "weights of a client's first aggregation: size or uniform",
            flag="first_weights",
        )
    },
)
