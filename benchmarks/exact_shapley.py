"""Exact Shapley value of the cosine game, N = 10, D = 100,000: Gram matrix against coalitions.

    python -m benchmarks.exact_shapley [--scale smoke|full]

The released procedure goes through every player and every coalition of the others, adds up vectors
and takes two cosines each, in PyTorch. Ours needs the vectors once, for their inner products.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, table
from benchmarks.pytorch.worker import worker
from cgsv_jax.core import vectors
from cgsv_jax.experiment import timing
from cgsv_jax.rules.contribution.shapley import exact

TARGET = 400.0
THREADS = 2


class Scale(NamedTuple):
    """How much of it."""

    players: int
    parameters: int
    calls: int  # of ours, in one repeat: one takes a millisecond
    repeats: int


SCALES = {"smoke": Scale(4, 1000, 1, 1), "full": Scale(10, 100_000, 50, 5)}


def rows(scale: str = "full") -> list[table.Row]:
    """The one row.

    Raises:
        RuntimeError: if the two sides do not give the same values.
    """
    size = SCALES[scale]
    rng = np.random.default_rng(0)
    updates = (rng.normal(size=(size.players, size.parameters)) + 0.1).astype(np.float32)
    ours = jax.jit(lambda updates: exact(vectors.gram(updates)))
    given = jnp.asarray(updates)
    with worker(THREADS) as ask:
        ask("start", "coalitions", updates)
        gap = float(np.abs(np.asarray(ours(given)) - ask("values")).max())
        # Sums of D products on either side, and 2^N values weighted by coefficients that sum to 2.
        limit = 4 * np.finfo(np.float32).eps * np.sqrt(size.parameters)
        if not gap <= limit:
            raise RuntimeError(f"the two Shapley values differ by {gap:.1e}")
        times = timing.alternate(
            {
                "theirs": lambda: ask("values"),
                "ours": lambda: [ours(given) for _ in range(size.calls)],
            },
            size.repeats,
        )
    own = timing.summary([seconds / size.calls for seconds in times["ours"].seconds])
    flops = 2 * size.players**2 * size.parameters + 4 * size.players**2 * 2**size.players
    return [
        table.Row(
            work=f"exact Shapley value, N = {size.players}, D = {size.parameters:,}",
            against=common.against("coalitions of vectors", THREADS),
            ours=own,
            theirs=times["theirs"],
            ratio=timing.ratio(times["theirs"], own),
            target=TARGET,
            floor=flops / timing.matrix_rate(),
            note=f"values agree within {gap:.0e}",
        )
    ]


if __name__ == "__main__":
    common.main(rows, __doc__)
