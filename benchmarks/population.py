"""10,000 clients on a CPU: memory and time of a round, and how they grow with N.

    python -m benchmarks.population [--scale smoke|full]

An MLP of about 25,000 parameters, six rows of MNIST for every client (random rows of its shape
where it is not there, or has too few), three local epochs, every client evaluated on 500 rows,
`cgsv`: the program that the command runs. Each N runs in a process of its own, so that the peak is
its own. The bound is 4 N D floats for the whole process: models, updates, and twice that for all
the rest. On an accelerator the full scale goes up to 100,000 clients, and the bound is for the
device's memory in use.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, table
from cgsv_jax.experiment import bind, timing

HIDDEN, SHAPE = 24, (32, 32, 1)  # D = 24,850
ROWS, TEST_ROWS = 6, 500  # of every client; to evaluate on
BOUND = 4.0  # matrices [N, D] of float32
EXPONENT = 1.05


class Scale(NamedTuple):
    """How much of it."""

    clients: tuple[int, ...]
    rounds: int  # timed, after one that is not


SCALES = {
    "smoke": Scale((20, 40), 1),
    "full": Scale((1250, 2500, 5000, 10_000), 3),
    "gpu": Scale((12_500, 25_000, 50_000, 100_000), 3),
}


def measure(clients: int, rounds: int) -> dict[str, Any]:
    """Seconds of every round, and the peak memory of this process."""
    import jax

    from cgsv_jax import data as data_lib
    from cgsv_jax import models
    from cgsv_jax.core import evaluation, vectors
    from cgsv_jax.data import partition, synthetic
    from cgsv_jax.experiment import names, programs
    from cgsv_jax.experiment.task import Task

    config = names.configure(
        dataset="mnist",
        model="mlp",
        hidden=(HIDDEN,),
        clients=clients,
        partitions="uniform",
        algorithms="cgsv",
        seeds=1,
        rounds=1,
    )
    held = ROWS * clients
    try:
        full, where = data_lib.load("mnist"), "MNIST"
    except ValueError:
        full, where = None, "random rows"
    if full is None or held > len(full.labels):
        flat = synthetic.load(max(held, 10), 500, num_features=math.prod(SHAPE))
        full, where = flat, "random rows"
    data = full._replace(
        inputs=full.inputs[:held].reshape(held, *SHAPE),
        labels=full.labels[:held],
        test_inputs=full.test_inputs[:TEST_ROWS].reshape(-1, *SHAPE),
        test_labels=full.test_labels[:TEST_ROWS],
    )
    del full
    dealt = partition.uniform(np.random.default_rng(0), data.labels, clients)
    model = models.mlp(SHAPE, 10, hidden=config.hidden)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tensors = tuple(t.stop - t.start for t in vectors.tensors(shapes))
    described = partition.describe(dealt, data.labels)
    seen = evaluation.network(model, SHAPE)
    task = Task("uniform", data, dealt, *described, model, tensors, seen, None)
    made = programs.programs(bind.bind(config, config.methods[0], task))
    seeds = np.asarray(config.seeds, np.uint32)
    state = jax.jit(made.begin)(seeds, made.hyper, jax.jit(made.origin)(seeds))
    clock = time.perf_counter()
    step = jax.jit(lambda *args: made.segment(1, *args), donate_argnums=2)
    step = step.lower(seeds, made.hyper, state, made.shared).compile()
    compiling = time.perf_counter() - clock
    call = timing.chained(lambda carry: step(seeds, made.hyper, carry, made.shared)[0], state, 1)
    del state
    return {
        "clients": clients,
        "parameters": sum(tensors),
        "seconds": timing.repeat(call, rounds).seconds,
        "compile": compiling,
        "peak": timing.peak_memory(),
        "rows": where,
    }


def rows(scale: str = "full") -> list[table.Row]:
    """Peak memory at the largest N, and the exponent of the time in N."""
    import jax

    size = SCALES["gpu" if scale == "full" and jax.default_backend() != "cpu" else scale]
    found = []
    for clients in size.clients:
        command = [sys.executable, "-m", "benchmarks.population", "--measure", str(clients)]
        done = subprocess.run(
            [*command, "--rounds", str(size.rounds)], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    last = found[-1]
    matrix = 4 * last["clients"] * last["parameters"]
    medians = [float(np.median(one["seconds"])) for one in found]
    exponent = np.polyfit(np.log([one["clients"] for one in found]), np.log(medians), 1)[0]
    grown = ", ".join(
        f"{one['clients']:,}: {seconds:.2f} s" for one, seconds in zip(found, medians, strict=True)
    )
    work = f"{last['clients']:,} clients, MLP, D = {last['parameters']:,}"
    return [
        table.Row(
            work=f"{work}: peak memory / (N D float32)",
            against="",
            ours=timing.summary(list(last["seconds"])),
            theirs=None,
            ratio=timing.summary([last["peak"] / matrix]),
            target=BOUND,
            at_most=True,
            note=f"{last['peak'] / 2**30:.2f} GiB, {last['rows']} included",
        ),
        table.Row(
            work=f"{work}: exponent of time per round in N",
            against="",
            ours=None,
            theirs=None,
            ratio=timing.summary([float(exponent)]),
            target=EXPONENT,
            at_most=True,
            note=grown,
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    """The rows, or with --measure one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--measure", type=int, help="one N, in this process")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(measure(options.measure, options.rounds)))
    else:
        print(table.show(common.answered(rows, options.scale)))


if __name__ == "__main__":
    main()
