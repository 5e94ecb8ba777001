"""Up to 100,000 clients on a CPU: memory and time of a round, and how they grow with N.

    python -m benchmarks.population [--scale smoke|full] [--only deep,wide,cohort]

* deep: an MLP of about 25,000 parameters, six rows of MNIST for every client (random rows of its
  shape where it is not there, or has too few), three local epochs, up to 10,000 clients.
* wide: an MLP of about 2,000 parameters, ten rows of 32 random features, one local epoch, up to
  100,000 clients.
* cohort: the MNIST CNN, five rows of its shape, 100 clients a round of up to 10,000: a round costs
  what the cohort costs, and the models of all are held once.

Every client is evaluated, of a cohort's population ten, on 500 rows; `cgsv`: the program that the
command runs. Each N runs in a process of its own, so that the peak is its own. The bound is a
number of matrices [N, D] of float32 for the whole process: models, updates, and all the rest. On an
accelerator the full scale of `deep` goes up to 100,000 clients, and the bound is for the device's
memory in use.
"""

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, table
from cgsv_jax.experiment import bind, timing
from cgsv_jax.experiment.bind import Bound

TEST_ROWS, EVALUATED = 500, 10  # to evaluate on; clients, where a cohort trains


class Population(NamedTuple):
    """Clients of one kind, more and more of them."""

    title: str
    model: str
    shape: tuple[int, ...]  # of an input
    rows: int  # of every client
    epochs: int
    bound: float  # matrices [N, D] of float32
    cohort: int | None = None
    hidden: tuple[int, ...] = ()
    exponent: float = 1.05  # of the time of a round in N, at most


KINDS = {
    "deep": Population("MLP", "mlp", (32, 32, 1), 6, 3, 4.0, hidden=(24,)),
    "wide": Population("MLP", "mlp", (32,), 10, 1, 3.5, hidden=(46,)),
    "cohort": Population("MNIST CNN, cohorts of 100", "mnist_cnn", (32, 32, 1), 5, 1, 1.5, 100,
                         exponent=0.05),
}  # fmt: skip


class Scale(NamedTuple):
    """How much of it."""

    clients: dict[str, tuple[int, ...]]  # of every kind
    rounds: int  # timed, after one that is not


_FULL = {
    "deep": (1250, 2500, 5000, 10_000),
    "wide": (10_000, 31_600, 100_000),
    "cohort": (1000, 10_000),
}
SCALES = {
    "smoke": Scale({"deep": (20, 40), "wide": (20, 40), "cohort": (120, 240)}, 1),
    "full": Scale(_FULL, 3),
    "gpu": Scale({**_FULL, "deep": (12_500, 25_000, 50_000, 100_000)}, 3),
}


def bound_of(name: str, clients: int) -> tuple[Bound, str]:
    """`cgsv` on a population of a kind, as the command binds it, and what its examples are."""
    import jax

    from cgsv_jax import data as data_lib
    from cgsv_jax import models
    from cgsv_jax.core import evaluation, vectors
    from cgsv_jax.data import partition, synthetic
    from cgsv_jax.experiment import names
    from cgsv_jax.experiment.task import Task

    kind = KINDS[name]
    options: dict[str, Any] = {"hidden": kind.hidden} if kind.hidden else {}
    who: dict[str, Any] = {}
    if kind.cohort:
        who = {"cohort": kind.cohort, "eval_clients": EVALUATED}
    config = names.configure(
        dataset="mnist",
        model=kind.model,
        clients=clients,
        partitions="uniform",
        algorithms="cgsv",
        seeds=1,
        rounds=1,
        epochs=kind.epochs,
        **options,
        **who,
    )
    held = kind.rows * clients
    try:
        full, where = data_lib.load("mnist"), "MNIST"
    except ValueError:
        full, where = None, "random rows"
    if full is None or held > len(full.labels) or full.inputs.shape[1:] != kind.shape:
        flat = synthetic.load(max(held, 10), TEST_ROWS, num_features=math.prod(kind.shape))
        full, where = flat, "random rows"
    data = full._replace(
        inputs=full.inputs[:held].reshape(held, *kind.shape),
        labels=full.labels[:held],
        test_inputs=full.test_inputs[:TEST_ROWS].reshape(-1, *kind.shape),
        test_labels=full.test_labels[:TEST_ROWS],
    )
    del full
    dealt = partition.uniform(np.random.default_rng(0), data.labels, clients)
    model = models.MODELS[kind.model](kind.shape, 10, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tensors = tuple(t.stop - t.start for t in vectors.tensors(shapes))
    described = partition.describe(dealt, data.labels)
    seen = evaluation.network(model, kind.shape)
    chosen = None if kind.cohort is None else np.arange(EVALUATED)
    task = Task("uniform", data, dealt, *described, model, tensors, seen, chosen)
    return bind.bind(config, config.methods[0], task), where


def round_of(bound: Bound, evaluated: bool = True) -> tuple[Any, tuple[Any, ...]]:
    """A round as a run compiles it, lowered, and its arguments: seeds, numbers, state, data."""
    import jax

    from cgsv_jax.experiment import programs

    made = programs.programs(bound)
    seeds = np.asarray(bound.seeds, np.uint32)
    state = jax.jit(made.begin)(seeds, made.hyper, jax.jit(made.origin)(seeds))
    step = jax.jit(lambda *args: made.segment(1, *args, evaluated=evaluated), donate_argnums=2)
    arguments = seeds, made.hyper, state, made.shared
    return step.lower(*arguments), arguments


def measure(name: str, clients: int, rounds: int) -> dict[str, Any]:
    """Seconds of every round, and the peak memory of this process."""
    bound, where = bound_of(name, clients)
    lowered, (seeds, hyper, state, shared) = round_of(bound)
    step = lowered.compile()
    call = timing.chained(lambda carry: step(seeds, hyper, carry, shared)[0], state, 1)
    del state
    return {
        "clients": clients,
        "parameters": sum(bound.task.tensors),
        "seconds": timing.repeat(call, rounds).seconds,
        "peak": timing.peak_memory(),
        "rows": where,
    }


def apart(name: str, clients: int, rounds: int) -> dict[str, Any]:
    """`measure` in a process of its own, so that the peak is its own."""
    command = [sys.executable, "-m", "benchmarks.population", "--measure", str(clients)]
    return json.loads(common.said([*command, "--only", name, "--rounds", str(rounds)]))


def rows(scale: str = "full", only: Sequence[str] = tuple(KINDS)) -> list[table.Row]:
    """Of every kind the peak memory at the largest N, and the exponent of the time in N."""
    import jax

    size = SCALES["gpu" if scale == "full" and jax.default_backend() != "cpu" else scale]
    return [row for name in only for row in _rows_of(name, size)]


def _rows_of(name: str, size: Scale) -> list[table.Row]:
    kind = KINDS[name]
    found = [apart(name, clients, size.rounds) for clients in size.clients[name]]
    last = found[-1]
    matrix = 4 * last["clients"] * last["parameters"]
    medians = [float(np.median(one["seconds"])) for one in found]
    exponent = np.polyfit(np.log([one["clients"] for one in found]), np.log(medians), 1)[0]
    grown = ", ".join(
        f"{one['clients']:,}: {seconds:.2f} s" for one, seconds in zip(found, medians, strict=True)
    )
    work = f"{last['clients']:,} clients, {kind.title}, D = {last['parameters']:,}"
    return [
        table.Row(
            work=f"{work}: peak memory / (N D float32)",
            against="",
            ours=timing.summary(list(last["seconds"])),
            theirs=None,
            ratio=timing.summary([last["peak"] / matrix]),
            target=kind.bound,
            at_most=True,
            note=f"{last['peak'] / 2**30:.2f} GiB, {last['rows']} included",
        ),
        table.Row(
            work=f"{work}: exponent of time per round in N",
            against="",
            ours=None,
            theirs=None,
            ratio=timing.summary([float(exponent)]),
            target=kind.exponent,
            at_most=True,
            note=grown,
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    """The rows, or with --measure one measurement as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, comma-separated")
    parser.add_argument("--measure", type=int, help="one N of one kind, in this process")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    only = options.only.split(",")
    if options.measure:
        print(json.dumps(measure(only[0], options.measure, options.rounds)))
    else:
        print(table.show(common.answered(functools.partial(rows, only=only), options.scale)))


if __name__ == "__main__":
    main()
