"""Five seeds by six beta of a digits run: one compiled program against one run after another.

    python -m benchmarks.sweeps [--scale smoke|full]

Both sides are this package. One after another is what a script with a loop does, at its best: one
compiled function called thirty times, nothing else in between. The grid is one call.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, table
from cgsv_jax.core import grid, layout, simulation
from cgsv_jax.experiment import bind, deal, names, timing

BETAS = (0.5, 1.0, 1.2, 1.5, 2.0, np.inf)
TARGETS = {"cpu": 0.8}  # elsewhere 5


class Scale(NamedTuple):
    """How much of it."""

    seeds: int
    betas: int
    rounds: int
    repeats: int


SCALES = {"smoke": Scale(2, 2, 1, 1), "full": Scale(5, 6, 20, 5)}


def rows(scale: str = "full") -> list[table.Row]:
    """The one row.

    Raises:
        RuntimeError: if a run of the grid ends elsewhere than the run by itself.
    """
    size = SCALES[scale]
    config = names.configure(algorithms="cgsv", rounds=size.rounds, eval_every=size.rounds)
    (task,), (method,) = deal.tasks(config), config.methods
    bound = bind.bind(config, method, task)
    data, clients = jax.device_put((task.data._replace(validation=None), task.clients))

    def final(key: Any, hyper: Any, data: Any, clients: Any) -> Any:
        return simulation.run(key, data, clients, bound.federation(hyper))[2].accuracy[-1]

    keys = jax.random.split(jax.random.key(0), size.seeds)
    betas = jnp.asarray(BETAS[: size.betas], jnp.float32)
    hyper = jax.tree.map(lambda x: jnp.full(size.betas, x, jnp.float32), method.hyper())
    hyper = {**hyper, "beta": betas}
    # Runs lie on the hardware as clients do: side by side on an accelerator, in turn on a CPU.
    width = layout.default_width()
    together = jax.jit(lambda *args: grid.grid(final, *args, width=width))
    one = jax.jit(final)
    single = [
        (keys[s], jax.tree.map(lambda x, h=h: x[h], hyper))
        for s in range(size.seeds)
        for h in range(size.betas)
    ]

    def in_turn() -> Any:
        return [one(key, own, data, clients) for key, own in single]

    apart = np.stack(in_turn()).reshape(size.seeds, size.betas, -1)
    gap = np.abs(np.asarray(together(keys, hyper, data, clients)) - apart).max()
    if not gap <= 5 / len(task.data.test_labels):
        # Rounding may tip a few of the test rows on a long run; a wrong setting tips dozens.
        raise RuntimeError(f"a run of the grid differs from the run by itself by {gap:.3f}")
    times = timing.alternate(
        {"theirs": in_turn, "ours": lambda: together(keys, hyper, data, clients)}, size.repeats
    )
    return [
        table.Row(
            work=f"{size.seeds} seeds x {size.betas} beta of digits, {size.rounds} rounds",
            against="the same runs one after another, compiled once",
            ours=times["ours"],
            theirs=times["theirs"],
            ratio=timing.ratio(times["theirs"], times["ours"]),
            target=TARGETS.get(jax.default_backend(), 5.0),
            note=f"final accuracies differ by at most {100 * gap:.2f} points",
        )
    ]


if __name__ == "__main__":
    common.main(rows, __doc__)
