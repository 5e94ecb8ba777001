"""Krum: the uploads that stand closest to their neighbours, and no others."""

from collections.abc import Callable

import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import from_
from cgsv_jax.rules.aggregation import lengths
from cgsv_jax.rules.shares import over_present
from cgsv_jax.rules.spec import Count, Spec
from cgsv_jax.rules.stateless import stateless
from cgsv_jax.types import Aggregation, Array, ArrayTree, Upload

ASSUMED = Count(
    0,
    from_(0),
    "krum, multi_krum: dishonest clients f that are assumed, at most (N - 3) / 2; 0: as many as "
    "the clients present allow",
    "f",
    flag="assumed_attackers",
)
KEPT = Count(
    0,
    from_(0),
    "multi_krum: clients m whose mean is taken; 0: those present less f",
    "m",
    flag="krum_kept",
)


def krum(assumed: int = 0) -> Aggregation:
    """u_N = u_j, j the client whose n - f - 2 nearest others are the nearest, in sum of squares.

    Of n clients present f are assumed to be dishonest, and 2 f + 3 <= n is needed: f is `assumed`,
    or where that is 0 as many as n allows, and in a round in which fewer are present never more.
    Clients that tie share alike: of two closest neighbours neither is preferred by its number. No
    weights: neither size nor reputation enters. O(N^2 D) a round, one product of [N, D] with its
    transpose. The recorded weight is 1 of the client chosen.

    Distances are those of inner products: uploads that differ by less than a rounding of their
    length are as good as equal. What is 1e19 times as long as the median upload is infinitely far.

    Args:
      assumed: f; 0: floor((n - 3) / 2).

    Returns:
      An Aggregation without state.

    Raises:
      ValueError: f is negative, or (by `init`) 2 f + 3 > N.

    Reference:
      Blanchard, El Mhamdi, Guerraoui, Stainer, Machine Learning with Adversaries: Byzantine
      Tolerant Gradient Descent, NeurIPS 2017.
    """
    return _nearest("krum", assumed, lambda count, f: jnp.int32(1))


def multi_krum(assumed: int = 0, kept: int = 0) -> Aggregation:
    """u_N = mean of the m uploads whose n - f - 2 nearest others are the nearest; see `krum`.

    They are chosen at once, as in the paper, and not one after another. O(N^2 D) a round. The
    recorded weight is 1 / m of each client chosen; those that tie for the last place share it.

    Args:
      assumed: f; 0: floor((n - 3) / 2).
      kept: m, at most the clients present; 0: n - f.

    Returns:
      An Aggregation without state.

    Raises:
      ValueError: f or m is negative, or (by `init`) 2 f + 3 > N or m > N.

    Reference:
      Blanchard, El Mhamdi, Guerraoui, Stainer, Machine Learning with Adversaries: Byzantine
      Tolerant Gradient Descent, NeurIPS 2017, section 6.
    """
    checks.numbers(KEPT.allowed, krum_kept=kept)

    def number(count: Array, f: Array) -> Array:
        return jnp.minimum(kept, count) if kept else count - f

    return _nearest("multi_krum", assumed, number, kept)


def _nearest(
    name: str,
    assumed: int,
    number: Callable[[Array, Array], Array],
    kept: int = 0,
) -> Aggregation:
    """The mean of so many uploads with the lowest scores.

    Args:
      name: of the rule.
      assumed: f, or 0.
      number: clients present [] and f [] -> how many [].
      kept: how many, or 0 where N does not limit it.
    """
    checks.numbers(ASSUMED.allowed, assumed_attackers=assumed)

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        del num_parameters
        if assumed and 2 * assumed + 3 > num_clients:
            raise ValueError(
                f"assumed_attackers is {assumed}, {name} of {num_clients} clients withstands at "
                f"most {max((num_clients - 3) // 2, 0)}: it needs 2 f + 3 clients"
            )
        if kept > num_clients:
            raise ValueError(f"krum_kept is {kept}, it must be at most the {num_clients} clients")
        return ()

    def aggregated(upload: Upload) -> tuple[Array, Array]:
        present = upload.present
        count = jnp.sum(present, dtype=jnp.int32)
        most = jnp.maximum((count - 3) // 2, 0)
        f = jnp.minimum(assumed, most) if assumed else most
        scores = _scores(upload, jnp.maximum(count - f - 2, 1))
        weights = _lowest(scores, present, number(count, f))
        return vectors.weighted_sum(weights * upload.scales, upload.deltas), weights

    return stateless(Aggregation, aggregated)._replace(init=init)


def _scores(upload: Upload, neighbours: Array) -> Array:
    """Sum of the squares of the distances to so many nearest others, [N]; any unit."""
    present, count = upload.present, upload.present.size
    # In units of the median length squares of honest lengths stay in range.
    _, unit = lengths.of_uploads(upload)
    scales = upload.scales / jnp.where(unit > 0, unit, 1.0)
    inner = vectors.gram(scales[:, None] * upload.deltas)
    inner = (inner + inner.T) / 2  # a tie of two is one to the last bit
    squares = jnp.diagonal(inner)
    apart = jnp.maximum(squares[:, None] + squares[None, :] - 2 * inner, 0.0)
    apart = jnp.where(jnp.isnan(apart), jnp.inf, apart)  # infinity less infinity
    others = present[None, :] & ~jnp.eye(count, dtype=bool)
    ordered = jnp.sort(jnp.where(others, apart, jnp.inf), axis=1)
    near = jnp.arange(count)[None, :] < jnp.minimum(neighbours, jnp.sum(present) - 1)
    return jnp.sum(jnp.where(near, ordered, 0.0), axis=1)


def _lowest(scores: Array, present: Array, number: Array) -> Array:
    """Weights [N] of the present clients with the lowest scores, equal but for ties; sum 1."""
    scores = jnp.where(present, scores, jnp.inf)
    number = jnp.clip(number, 1, jnp.maximum(jnp.sum(present), 1))
    last = jnp.sort(scores)[number - 1]
    better = present & (scores < last)
    tied = present & (scores == last)
    left = (number - jnp.sum(better)) / jnp.maximum(jnp.sum(tied), 1)
    return over_present(jnp.where(better, 1.0, jnp.where(tied, left, 0.0)), present)


KRUM = Spec(krum, {"assumed": ASSUMED})
MULTI_KRUM = Spec(multi_krum, {"assumed": ASSUMED, "kept": KEPT})
