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


def is_heard(
    upload: Array, aggregate: Array, received: Sequence[Array], significance: float
) -> bool:
    """cos(e, d) > z / sqrt(D), of what is left of upload and u_N; a thousandth is nothing."""
    lengths = oracle.norm(upload), oracle.norm(aggregate)
    if lengths[0] == 0 or lengths[1] == 0:
        return False
    left = without_echo(upload, received)
    directed = without_echo(aggregate, received)
    if oracle.norm(left) <= 1e-3 * lengths[0] or oracle.norm(directed) <= 1e-3 * lengths[1]:
        return False
    return bool(oracle.cosine(left, directed) > significance / np.sqrt(len(upload)))


def echo(
    measure: Measure, received: Sequence[Sequence[Array]], significance: float = 3.0
) -> Measure:
    """psi_i of the measure where i is heard, else 0; received [N][k] of [D]."""

    def psi(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
        found = measure(uploads, aggregate, weights, present).copy()
        for i in range(len(uploads)):
            if not is_heard(uploads[i], aggregate, received[i], significance):
                found[i] = 0.0
        return found

    return psi


# ---------------------------------------------------------------- class by class


def class_cosines(upload: Array, aggregate: Array, places: Array) -> Array:
    """cos(u_ic, u_Nc) of the last layer's weights and bias of class c, [C]; places [C, F]."""
    return np.array([oracle.cosine(upload[row], aggregate[row]) for row in places], upload.dtype)


def class_cosine(
    places: Array,
    rare: bool = False,
    received: Sequence[Sequence[Array]] | None = None,
    significance: float = 3.0,
    ignored: bool = False,
) -> Measure:
    """psi_i = sum_c p_c cos(u_ic, u_Nc), p_c = 1 / C, or in inverse proportion to what all bring.

    Rare: p_c = 1 / sum_i max(0, cos_ic), normalised; a class that brings less than .001 has 0.
    Ignored: max(0, cos_ic) in place of each. With `received` [N][k] of [D] the echo: a class of a
    client that is not heard beside the same class of all that it received has 0 in its place.
    """

    def psi(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
        del weights
        cosines = np.zeros((len(uploads), len(places)), uploads.dtype)
        for i in range(len(uploads)):
            if present[i]:
                cosines[i] = class_cosines(uploads[i], aggregate, places)
            if received is not None:
                for c, row in enumerate(places):
                    got = [v[row] for v in received[i]]
                    if not is_heard(uploads[i][row], aggregate[row], got, significance):
                        cosines[i, c] = 0.0
        if ignored:
            cosines = np.maximum(cosines, 0.0)
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


# uploads [N, D] and present [N] of a round
Round = tuple[Array, Array]


def histories(rounds: Sequence[Round], memory: float) -> Array:
    """h_i = mu h_i + u_i / ‖u_i‖ over the rounds in which i was present, the oldest first, [N, D].

    A zero upload adds no direction, and what was there fades as beside any other.
    """
    history = np.zeros_like(rounds[0][0])
    for uploads, present in rounds:
        for i in range(len(uploads)):
            if present[i]:
                history[i] = memory * history[i]
                length = oracle.norm(uploads[i])
                if length > 0:
                    history[i] = history[i] + uploads[i] / length
    return history


def near(history: Array, there: Array, threshold: float) -> Array:
    """Whose histories point in nearly one direction, [N, N] bool: cos > threshold; i with itself.

    Who is away, or sends nothing in this round, is near itself alone.
    """
    number = len(history)
    pairs = np.eye(number, dtype=bool)
    for i in range(number):
        for j in range(number):
            if i != j and there[i] and there[j]:
                pairs[i, j] = oracle.cosine(history[i], history[j]) > threshold
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


def quotient(
    measure: Measure,
    threshold: float,
    memory: float = 0.9,
    penalty: float = 0.0,
    before: Sequence[Round] = (),
) -> Measure:
    """psi_i = (m - penalty (n - 1) |m|) / n, m the measure and n the clients in its cluster."""

    def psi(uploads: Array, aggregate: Array, weights: Array, present: Array) -> Array:
        history = histories([*before, (uploads, present)], memory)
        there = np.array(
            [bool(p and oracle.norm(u) > 0) for u, p in zip(uploads, present, strict=True)]
        )
        sizes = cluster_sizes(near(history, there, threshold), steps=2)
        found = measure(uploads, aggregate, weights, present).copy()
        for i in range(len(found)):
            cost = penalty * (float(sizes[i]) - 1.0) * abs(found[i])
            found[i] = (found[i] - cost) / float(sizes[i])
        return found

    return psi
