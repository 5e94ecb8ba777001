"""The sparsified gradient reward: the best coordinates of u_N, as many as one has earned."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, top_k, vectors
from cgsv_jax.rules.reward.ratio import BETA, BETA_ON, ratios, times_size
from cgsv_jax.rules.spec import Choice, Spec
from cgsv_jax.types import Array, ArrayTree, Reward, Standing, Upload


def quotas(ratio: Array, length: int, *, count: str = "floor") -> Array:
    """Entries to keep out of `length`: [N] in [0, 1] -> [N] int32.

    "floor" is floor(length ratio), where a ratio of 1 gives exactly `length` even if float32
    cannot hold it; "ceil" is the released code's min(ceil(length ratio), length - 1).
    """
    product = length * ratio
    # A product that rounds up to the length in float32 may not convert to int32: the top of either
    # rule is an integer of its own.
    if count == "ceil":
        top = jnp.ceil(product) >= length - 1
        below = jnp.where(top, 0.0, jnp.ceil(product)).astype(jnp.int32)
        return jnp.where(top, length - 1, below)
    top = jnp.floor(product) >= length
    below = jnp.where(top, 0.0, jnp.floor(product)).astype(jnp.int32)
    return jnp.where(top, length, below)


def sparsify(
    beta: chex.Numeric,
    *,
    scope: str = "vector",
    tensors: tuple[int, ...] = (),
    count: str = "floor",
    ties: str = "position",
    beta_on: str = "sum",
    by_size: bool = False,
) -> Reward:
    """v_i = mask(u_N, q_i): the q_i largest-magnitude entries of u_N, eqs. (5) and (6).

    q_i = floor(D tanh(beta r_i) / max_j tanh(beta r_j)). One ranking of |u_N| serves all clients,
    so the kept sets are nested; sparsity of one client never costs another a pass over D.

    Args:
      beta: altruism degree, >= 0, infinity allowed.
      scope: "vector" masks the whole of u_N, "tensor" each of the model's tensors on its own, as
        the released code does.
      tensors: sizes of the model's tensors in raveled order, for scope "tensor".
      count: "floor" or "ceil", see `quotas`.
      ties: "position" keeps exactly q_i, "all" every entry at the threshold.
      beta_on: "sum" or "max", see `ratios`.
      by_size: whether the ratio is multiplied by the client's size, see `times_size`.

    Returns:
      A Reward without state: rewards [N, D], quota [N] the entries kept.

    Raises:
      ValueError: a choice is another word, or `tensors` do not add up to D (which shows when the
        algorithm is initialised).
    """
    checks.numbers(BETA.allowed, beta=beta)
    checks.choice("beta_on", beta_on, "sum", "max")

    def ratio_of(upload: Upload, aggregate: Array, standing: Standing) -> Array:
        ratio = ratios(
            standing.reputation, upload.present, beta, on=beta_on, entries=aggregate.size
        )
        return times_size(ratio, upload) if by_size else ratio

    return by_ratio(ratio_of, scope=scope, tensors=tensors, count=count, ties=ties)


def by_ratio(
    ratio_of: Callable[[Upload, Array, Standing], Array],
    *,
    scope: str = "vector",
    tensors: tuple[int, ...] = (),
    count: str = "floor",
    ties: str = "position",
) -> Reward:
    """`sparsify` of other ratios, each within [0, 1] and 0 where a client is absent.

    Args:
      ratio_of: (upload, aggregate [D], standing) -> [N].
      scope: as in `sparsify`, like all that follow.
      tensors: sizes.
      count: a word.
      ties: a word.
    """
    checks.choice("mask_scope", scope, "vector", "tensor")
    checks.choice("mask_count", count, "floor", "ceil")
    checks.choice("mask_ties", ties, "position", "all")
    if scope == "tensor" and not tensors:
        raise ValueError("mask_scope is 'tensor', which needs the sizes of the tensors")

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_clients
        if scope == "tensor" and sum(tensors) != num_parameters:
            raise ValueError(
                f"tensors add up to {sum(tensors)} parameters, the model has {num_parameters}"
            )
        return ()

    def update(
        key: jax.Array, upload: Upload, aggregate: Array, standing: Standing, state: ArrayTree
    ) -> tuple[Array, Array, ArrayTree]:
        del key
        ratio = ratio_of(upload, aggregate, standing)
        # An absent client has ratio 0, hence quota 0, hence nothing.
        if scope == "vector" and ties == "position":
            quota = quotas(ratio, aggregate.size, count=count)  # q_{i,t}, eq. (5)
            mask = top_k.largest(aggregate, quota)
        else:
            place, first = _by_tensor(aggregate, ratio)
            mask = place[:, None] >= first[None, :]
            quota = _sums(place, first, jnp.ones(aggregate.size, jnp.int32))
        return jnp.where(mask, aggregate[None, :], 0.0), quota, state  # v_{i,t}, eq. (6)

    def energy(upload: Upload, aggregate: Array, standing: Standing, quota: Array) -> Array:
        # What is computed again here, XLA computes once: it is the same program.
        if scope == "vector" and ties == "position":
            return top_k.energy_of_largest(aggregate, quota)
        ratio = ratio_of(upload, aggregate, standing)
        place, first = _by_tensor(aggregate, ratio)
        return vectors.share_of_squares(aggregate, lambda squares: _sums(place, first, squares))

    def _sums(place: Array, first: Array, weights: Array) -> Array:
        """Sums [N] of weights [D] over the entries that each client gets."""
        starting = jnp.zeros(place.size + 1, weights.dtype).at[first].add(weights)
        return jnp.cumsum(starting)[place]

    def _by_tensor(aggregate: Array, ratio: Array) -> tuple[Array, Array]:
        """The order where tensors, or tied entries, are kept together: places [N], firsts [D].

        A client with a higher ratio gets at least as much of every tensor. So an entry goes to all
        clients from some place on in the order of ratios, and one comparison of places makes all
        masks, however many tensors there are.
        """
        clients = ratio.size
        order = jnp.argsort(ratio)
        place = jnp.zeros(clients, jnp.int32).at[order].set(jnp.arange(clients, dtype=jnp.int32))
        first, start = [], 0  # the place from which on clients get an entry, [length] each
        for length in tensors if scope == "tensor" else (aggregate.size,):
            tensor = aggregate[start : start + length]
            quota = quotas(ratio[order], length, count=count)  # q_{i,t}, eq. (5), ascending
            if ties == "all":
                keys, last = top_k.tied(tensor, quota)
                earned = jnp.searchsorted(last, keys, side="left")
            else:
                earned = jnp.searchsorted(quota, top_k.ranks(tensor), side="right")
            first.append(earned.astype(jnp.int32))
            start += length
        return place, jnp.concatenate(first)

    return Reward(init, update, energy)


TIES = Choice(
    "position",
    ("position", "all"),
    "equal magnitudes: broken by position, or all kept",
    flag="mask_ties",
)
SPARSIFY = Spec(
    sparsify,
    {
        "beta": BETA,
        "beta_on": BETA_ON,
        "scope": Choice(
            "vector",
            ("vector", "tensor"),
            "one mask over the whole vector, or one per tensor",
            flag="mask_scope",
        ),
        "count": Choice(
            "floor",
            ("floor", "ceil"),
            "entries kept: floor(len ratio), or ceil: min(ceil(len ratio), len - 1)",
            flag="mask_count",
        ),
        "ties": TIES,
    },
    given=("tensors",),
)
