"""Do fairness and accuracy come out the same in PyTorch and here? Over seeds, method by method.

    python -m benchmarks.agreement [--scale smoke|digits|full]

Two comparisons of standalone, fedavg and cgsv on the same partition:

* Same start and same batch orders: what a client ends with may differ by what rounding explains.
  That is measured here by replays from starts moved by up to 16 units in the last place, and the
  command fails where PyTorch is further away than twice their spread and two test rows.
* Own starts and own shuffling, each framework's from its own generator: two independent samples of
  the same experiment, whose means are compared over seeds.

Fairness is 100 x Pearson(standalone, final accuracy) over clients; it is undefined, and printed so,
where all clients end with the same accuracy, as they do under fedavg.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks import common
from benchmarks.pytorch.work import Work, shuffled
from benchmarks.pytorch.worker import Ask, worker
from cgsv_jax import data as data_lib
from cgsv_jax import models
from cgsv_jax.core import local, metrics, simulation
from cgsv_jax.data import partition
from cgsv_jax.types import Clients, Dataset, State

METHODS = ("standalone", "fedavg", "cgsv")
ULPS = 16  # what summing a few hundred float32 terms does to an activation


class Setting(NamedTuple):
    """A data set, its network, and how much of it."""

    dataset: str
    network: str
    clients: int
    rows: int | None  # of the training pool; None: all
    rounds: int
    test_rows: int


class Scale(NamedTuple):
    """What is compared, over how many seeds."""

    settings: tuple[Setting, ...]
    seeds: int
    replays: int  # from moved starts


SCALES = {
    "smoke": Scale((Setting("digits", "mlp", 3, 60, 2, 100),), 2, 1),
    "digits": Scale((Setting("digits", "mlp", 5, None, 20, 355),), 3, 3),
    "full": Scale(
        (
            Setting("digits", "mlp", 5, None, 20, 355),
            Setting("mnist", "mnist_cnn", 5, 500, 10, 2_000),
        ),
        3,
        3,
    ),
}


class Samples(NamedTuple):
    """Final test accuracies of one method, PyTorch's and ours."""

    setting: Setting
    method: str
    strict_gap: float  # largest difference from the same start and orders
    strict_noise: float  # largest difference between replays
    theirs: np.ndarray  # [S, N] own starts and shuffling
    ours: np.ndarray  # [S, N]


def study(scale: str = "full") -> list[Samples]:
    """All settings and methods; a setting whose data are not on this machine is left out.

    Raises:
        RuntimeError: from the same start and orders, a client ends where rounding cannot take it.
    """
    size, result = SCALES[scale], []
    with worker() as ask:
        for setting in size.settings:
            try:
                full = data_lib.load(setting.dataset)
            except ValueError:
                continue
            work = _work(setting, full)
            result += [_samples(ask, setting, method, work, size) for method in METHODS]
    return result


def _work(setting: Setting, full: Dataset) -> Work:
    rng = np.random.default_rng(0)
    pool, _ = partition.split(rng, len(full.labels), 0.1, setting.rows)
    clients = partition.class_imbalance(rng, full.labels[pool], setting.clients, num_classes=10)
    numbers = data_lib.DATASETS[setting.dataset].training
    names = ("batch_size", "learning_rate", "decay", "epochs", "gamma")
    model = models.MODELS[setting.network](full.inputs.shape[1:], 10)
    return Work(
        network=setting.network,
        start=common.random_start(model, rng),
        inputs=full.inputs[pool],
        labels=full.labels[pool],
        rows=np.asarray(clients.rows),
        sizes=np.asarray(clients.sizes),
        orders=None,
        test_inputs=full.test_inputs[: setting.test_rows],
        test_labels=full.test_labels[: setting.test_rows],
        **{name: numbers[name] for name in names},
    )


def _samples(ask: Ask, setting: Setting, method: str, work: Work, size: Scale) -> Samples:
    work = work._replace(method=method)
    final = _final(work, setting.rounds)
    strict, theirs, mine = [], [], []
    for seed in range(size.seeds):
        strict.append(_strict(ask, setting, work, final, seed, size.replays))
        theirs.append(_torch(ask, work, setting.rounds, seed=seed))
        mine.append(final(*_drawn(work, setting.rounds, seed)))
    gap, noise = (max(values) for values in zip(*strict, strict=True))
    return Samples(setting, method, gap, noise, np.stack(theirs), np.stack(mine))


def _torch(ask: Ask, work: Work, rounds: int, **options: Any) -> np.ndarray:
    """Final test accuracies [N] in PyTorch."""
    ask("start", "sequential", work, **options)
    ask("run", rounds)
    return ask("evaluate", batch=1000)[0][:-1]


def _strict(
    ask: Ask, setting: Setting, work: Work, final: Callable, seed: int, replays: int
) -> tuple[float, float]:
    """(largest difference from PyTorch, largest between replays) from one start and its orders."""
    rng = np.random.default_rng(seed)
    work = work._replace(
        start=common.random_start(common.model_of(work), rng),
        orders=shuffled(rng, work.sizes, setting.rounds, work.epochs),
    )
    theirs = _torch(ask, work, setting.rounds)
    ulp = np.finfo(np.float32).eps
    moved = [
        {
            name: (x * (1 + ULPS * ulp * rng.uniform(-1, 1, x.shape))).astype(np.float32)
            for name, x in work.start.items()
        }
        for _ in range(replays)
    ]
    mine = np.stack([final(given, work.orders) for given in (work.start, *moved)])
    gap, noise = float(np.abs(mine[0] - theirs).max()), float(np.ptp(mine, axis=0).max())
    if gap > 2 * noise + 2.5 / len(work.test_labels):
        raise RuntimeError(
            f"{setting.dataset}, {work.method}, seed {seed}: from the same start and orders a "
            f"client's final accuracy differs from PyTorch's by {100 * gap:.2f} points, replays by "
            f"{100 * noise:.2f}"
        )
    return gap, noise


def _drawn(work: Work, rounds: int, seed: int) -> tuple[dict, np.ndarray]:
    """A start and orders [T, N, E, M] of this package's own drawing."""
    keys = jax.random.split(jax.random.key(seed), 2)
    start = models.params_to_torch(common.model_of(work).init(keys[0]))
    mask = np.arange(work.rows.shape[1]) < work.sizes[:, None]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def orders(keys: jax.Array, mask: jax.Array) -> jax.Array:
        return jax.vmap(lambda k, m: local.draw_order(k, m, work.epochs))(keys, mask)

    shape = (rounds, work.num_clients)
    return start, np.asarray(orders(jax.random.split(keys[1], shape), mask))


def _final(work: Work, rounds: int) -> Callable[[dict, np.ndarray], np.ndarray]:
    """(start, orders [T, N, E, M]) -> final test accuracies [N] here, in one program."""
    side = common.ours(work)
    settings = side.settings._replace(rounds=rounds, eval_every=rounds)
    federation = side.federation._replace(settings=settings)

    @jax.jit
    def run(state: State, orders: jax.Array, data: Dataset, clients: Clients) -> jax.Array:
        results = simulation.advance(common.KEY, state, data, clients, federation, orders)
        return results[2].accuracy[-1]

    def final(start: dict[str, np.ndarray], orders: np.ndarray) -> np.ndarray:
        state = common.start(work._replace(start=start), side)
        return np.asarray(run(state, jnp.asarray(orders), side.data, side.clients))

    return final


# ---------------------------------------------------------------- the table


def show(samples: Sequence[Samples]) -> str:
    """Markdown; accuracies in %, mean ± standard deviation over seeds."""
    lines = [
        "| setting | method | fairness PyTorch | fairness here | mean accuracy PyTorch "
        "| mean accuracy here | same start and orders: difference (rounding) |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = {s.setting: s for s in samples if s.method == "standalone"}
    for s in samples:
        fair = [
            _fairness(standalone, final)
            for standalone, final in (
                (alone[s.setting].theirs, s.theirs),
                (alone[s.setting].ours, s.ours),
            )
        ]
        accuracy = [100 * final.mean(axis=1) for final in (s.theirs, s.ours)]
        cells = (
            f"{s.setting.dataset}, {s.setting.network}, {s.setting.clients} clients, "
            f"{s.setting.rounds} rounds",
            s.method,
            *(["yardstick"] * 2 if s.method == "standalone" else _pair(*fair)),
            *_pair(*accuracy),
            f"{100 * s.strict_gap:.2f} ({100 * s.strict_noise:.2f}) points",
        )
        lines.append("| " + " | ".join(cells) + " |")
    seeds = len(samples[0].ours) if samples else 0
    lines += [
        "",
        f"{seeds} seeds, class_imbalance; own starts and own shuffling on either side; "
        "* where Welch's test at 1 % tells the means apart.",
    ]
    return "\n".join(lines)


def _fairness(standalone: np.ndarray, final: np.ndarray) -> np.ndarray:
    """[S], NaN where undefined."""
    pairs = zip(standalone, final, strict=True)
    return np.array([float(metrics.fairness(alone, ended)) for alone, ended in pairs])


def _pair(theirs: np.ndarray, ours: np.ndarray) -> list[str]:
    mark = "" if alike(theirs, ours) else " *"
    return [_cell(theirs), _cell(ours) + mark]


def _cell(values: np.ndarray) -> str:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return "undefined"
    spread = f" ± {defined.std(ddof=1):.1f}" if defined.size > 1 else ""
    some = "" if defined.size == values.size else f" ({defined.size} of {values.size} seeds)"
    return f"{defined.mean():.1f}{spread}{some}"


def alike(theirs: np.ndarray, ours: np.ndarray) -> bool:
    """Whether Welch's test at 1 % finds no difference of the means; NaN is left out.

    >>> alike(np.array([90.0, 91.0, 92.0]), np.array([90.5, 91.5, 91.0]))
    True
    >>> alike(np.array([90.0, 90.1, 90.2]), np.array([80.0, 80.1, 80.2]))
    False
    """
    theirs, ours = (values[~np.isnan(values)] for values in (theirs, ours))
    if min(theirs.size, ours.size) < 2:
        return theirs.size == ours.size or bool(theirs.size and ours.size)
    if np.ptp(theirs) == np.ptp(ours) == 0:
        return bool(theirs[0] == ours[0])
    return bool(scipy.stats.ttest_ind(theirs, ours, equal_var=False).pvalue > 0.01)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    scale = parser.parse_args(argv).scale
    samples = study(scale)
    present = {s.setting.dataset for s in samples}
    for setting in SCALES[scale].settings:
        if setting.dataset not in present:
            print(f"{setting.dataset} is not on this machine (TFDS_DATA_DIR) and left out.\n")
    print(show(samples))


if __name__ == "__main__":
    main()
