"""Measures that a replay, a copy or a rare class does not fool, in plain NumPy loops.

As `oracle.py`, on which it builds: from the equations alone, nothing imported from the package, one
client after another, the dtype that of the inputs.

Shapes: N clients, D parameters, C classes, F places of a class, k rounds that the server remembers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import oracle

Array = np.ndarray
# uploads [N, D], u_N [D], weights [N], present [N] -> psi [N]
Measure = Callable[[Array, Array, Array, Array], Array]


def cosine(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
    """psi_i = cos(u_i, u_N)."""
    del weights
    psi = np.zeros(len(uploads), uploads.dtype)
    for i in range(len(uploads)):
        if present[i]:
            psi[i] = oracle.cosine(uploads[i], aggregate)
    return psi


def leave_self_out(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
    """psi_i = cos(u_i, u_N - a_i u_i), what the others agree on."""
    psi = np.zeros(len(uploads), uploads.dtype)
    for i in range(len(uploads)):
        if present[i]:
            psi[i] = oracle.cosine(uploads[i], aggregate - weights[i] * uploads[i])
    return psi


# ---------------------------------------------------------------- echo


def basis(rows: Sequence[Array], tolerance: float = 1e-6) -> list[Array]:
    """Orthonormal vectors that span the rows [D]; a row that those before it span adds nothing.

    Gram and Schmidt, twice, because once leaves what one rounding makes of nearly parallel rows.
    """
    found: list[Array] = []
    for row in rows:
        length = oracle.norm(row)
        if length == 0:
            continue
        rest = row / length
        for _ in range(2):
            for direction in found:
                rest = rest - np.sum(rest * direction) * direction
        if oracle.norm(rest) > tolerance:
            found.append(rest / oracle.norm(rest))
    return found


def without_echo(upload: Array, received: Sequence[Array]) -> Array:
    """e_i = u_i less its projection on all that the client was sent in the rounds remembered."""
    rest = upload.copy()
    for _ in range(2):
        for direction in basis(received):
            rest = rest - np.sum(rest * direction) * direction
    return rest


def echo(measure: Measure, received: Sequence[Sequence[Array]]) -> Measure:
    """psi_i = ‖e_i‖ / ‖u_i‖ times the measure of e_i in place of u_i; received [N][k] of [D]."""

    def psi(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
        rest, left = np.zeros_like(uploads), np.zeros(len(uploads), uploads.dtype)
        for i in range(len(uploads)):
            length = oracle.norm(uploads[i])
            if present[i] and length > 0:
                rest[i] = without_echo(uploads[i], received[i])
                left[i] = oracle.norm(rest[i]) / length
        return left * measure(rest, aggregate, weights, present)

    return psi


# ---------------------------------------------------------------- class by class


def class_cosines(upload: Array, aggregate: Array, places: Array) -> Array:
    """cos(u_ic, u_Nc) of the last layer's weights and bias of class c, [C]; places [C, F]."""
    return np.array([oracle.cosine(upload[row], aggregate[row]) for row in places], upload.dtype)


def class_cosine(
    places: Array, rare: bool = False, received: Sequence[Sequence[Array]] | None = None
) -> Measure:
    """psi_i = sum_c p_c cos(u_ic, u_Nc), p_c = 1 / C, or in inverse proportion to what all bring.

    Rare: p_c = 1 / sum_i max(0, cos_ic), normalised; a class that brings less than .001 has 0. With
    `received` [N][k] of [D] the echo: ‖e_ic‖ / ‖u_ic‖ cos(e_ic, u_Nc) in place of each cosine, e_ic
    what is left of u_ic beside the same class of all that was received.
    """

    def psi(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
        del weights
        cosines = np.zeros((len(uploads), len(places)), uploads.dtype)
        for i in range(len(uploads)):
            if present[i]:
                cosines[i] = class_cosines(uploads[i], aggregate, places)
            if present[i] and received is not None:
                for c, row in enumerate(places):
                    length = oracle.norm(uploads[i][row])
                    if length > 0:
                        rest = without_echo(uploads[i][row], [v[row] for v in received[i]])
                        left = oracle.norm(rest) / length
                        cosines[i, c] = left * oracle.cosine(rest, aggregate[row])
        parts = np.ones(len(places), uploads.dtype)
        if rare:
            for c in range(len(places)):
                brought = sum(max(0.0, cosines[i, c]) for i in range(len(uploads)))
                parts[c] = 1 / brought if brought >= 1e-3 else 0.0
        total = np.sum(parts)
        if total == 0:
            return np.zeros(len(uploads), uploads.dtype)
        return np.array([np.sum(parts * row) / total for row in cosines], uploads.dtype)

    return psi


# ---------------------------------------------------------------- quotient


def near(uploads: Array, present: Array, threshold: float) -> Array:
    """Who sends nearly the same direction, [N, N] bool: cos(u_i, u_j) > threshold; i with itself.

    A zero upload has no direction: it is near itself alone.
    """
    number = len(uploads)
    pairs = np.eye(number, dtype=bool)
    for i in range(number):
        for j in range(number):
            if i != j and present[i] and present[j]:
                pairs[i, j] = oracle.cosine(uploads[i], uploads[j]) > threshold
    return pairs


def cluster_sizes(pairs: Array, steps: int) -> Array:
    """How many clients are within so many steps of each, itself among them, [N]."""
    number = len(pairs)
    sizes = np.zeros(number, int)
    for i in range(number):
        reached = {i}
        for _ in range(steps):
            reached |= {j for j in range(number) for k in reached if pairs[k, j]}
        sizes[i] = len(reached)
    return sizes


def quotient(measure: Measure, threshold: float, steps: int = 2) -> Measure:
    """psi_i of the measure, divided by the number of clients in its cluster."""

    def psi(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
        sizes = cluster_sizes(near(uploads, present, threshold), steps)
        return measure(uploads, aggregate, weights, present) / sizes

    return psi
