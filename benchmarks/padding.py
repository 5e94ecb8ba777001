"""Steps computed over steps needed, N = 100 power-law clients: what a wide layout wastes.

    python -m benchmarks.padding [--scale smoke|full]

Counted, not timed: the sizes decide it. The paper's MNIST setting, 600 rows a client on average,
batches of 32, and all clients in one chunk for comparison.
"""

import numpy as np

from benchmarks import common, table
from cgsv_jax.core import layout
from cgsv_jax.data import partition
from cgsv_jax.experiment import names, timing

TARGET = 1.1
CLIENTS = {"smoke": 10, "full": 100}


def rows(scale: str = "full") -> list[table.Row]:
    """The package's two default layouts, and all at once."""
    count = CLIENTS[scale]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 540 * count)
    clients = partition.power_law(rng, labels, count)
    config = names.configure(dataset="mnist", clients=count, algorithms="cgsv")
    steps = config.epochs * -(-np.asarray(clients.sizes) // config.batch_size)
    balanced = layout.balanced_width(steps)
    layouts = {
        "one (default on a CPU)": (1, TARGET),
        f"balanced, chunks of {balanced} (default on accelerators)": (balanced, TARGET),
        "all": (None, None),
    }
    return [
        table.Row(
            work=f"power-law clients, N = {count}: steps computed / needed, layout {name}",
            against="",
            ours=None,
            theirs=None,
            ratio=timing.summary([layout.waste(steps, width)]),
            target=target,
            at_most=True,
            note=f"{int(steps.sum()):,} steps a round, from {steps.min()} to {steps.max()}",
        )
        for name, (width, target) in layouts.items()
    ]


if __name__ == "__main__":
    common.main(rows, __doc__)
