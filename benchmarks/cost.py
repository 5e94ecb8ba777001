"""What a round of `cgsv` costs, beside measured runs, and what 10^6 clients would elsewhere.

    python -m benchmarks.cost [--scale smoke|full] [--only wide,deep]   # measured beside predicted
    python -m benchmarks.cost --million                                 # 10^6 clients elsewhere
    python -m benchmarks.cost --communication                           # beside what XLA compiles

The formulas are pure functions of a `Work`; a `Machine` is a tuple of rates. Of the machine at hand
the rates are those that the smallest population had (`fitted`), and every larger one is predicted
from them. docs/scaling.md says the formulas in words.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, hlo, population
from cgsv_jax.experiment import bind

ITEM = 4  # bytes of a number in models, updates and examples
# Readings and writings of a matrix [C, D] by the server: u_N, the scores, the models twice.
PASSES = 4
SLOT = 9  # bytes of an example that a client holds: its row, its label, whether it counts
# Bytes of a client in the record of a round, and in the state beside its model.
RECORDED, REMEMBERED = 6 * 4 + 4 + 2, 3 * 4 + 1
SCALARS = 9 * 4  # bytes of sums and maxima of vectors [N]
JUDGED = 3 * 4  # bytes of a client in an evaluation: accuracy, loss, distance
ANSWER = 5  # bytes of one model's answer to one test example
# Bytes of a row of a cohort: its place, once for each array that is gathered or scattered, and a
# flag.
PLACED = 18 * 4 + 1
WITHIN = 0.3  # of the measured value, for a prediction to hold


class Network(NamedTuple):
    """What a network costs, by row of a batch and by step."""

    name: str
    parameters: int  # D
    forward: float  # FLOPs a row
    backward: float  # FLOPs a row of a training step, the forward pass included
    step_bytes: float  # moved by a client's step whatever its rows
    row_bytes: float  # moved by a row of a training step
    test_bytes: float  # moved by a row of an evaluation
    step_memory: float  # bytes of scratch of a client in training
    test_memory: float  # bytes of scratch of a row in evaluation


class Work(NamedTuple):
    """A round."""

    network: Network
    clients: int  # N
    rows: int  # examples of each client
    epochs: int  # E
    batch: int  # B, rows of a step at most
    entries: int  # numbers in an example's input
    test_rows: int  # n
    evaluated: int  # K, clients whose models are evaluated; N: all, whose rows need no gathering
    cohort: int | None = None  # C, None: everybody
    devices: int = 1  # P
    width: int = 4  # clients computed at once on a device
    test_batch: int = 500  # rows of a forward pass
    half: bool = False  # whether local training multiplies and moves 16 bits
    examples: int | None = None  # distinct ones; None: those of all clients


class Machine(NamedTuple):
    """Rates of one device of several, and what they share."""

    name: str
    train: float  # FLOP/s of local training
    train_half: float  # the same in 16 bits
    test: float  # FLOP/s of evaluation
    near: float  # bytes/s of what a step moves; infinite where that stays in caches
    bandwidth: float  # bytes/s of the server's matrices
    link: float  # bytes/s that a device sends to others
    step: float  # seconds to start one step of a chunk, or one batch of an evaluation
    collective: float  # seconds to start one
    memory: float  # bytes
    base: float = 0.0  # bytes of the process before any client
    copies: int = 1  # of the examples; 2 where host and device are one memory


class Phases(NamedTuple):
    """A number for each part of a round."""

    training: float
    server: float
    evaluation: float
    messages: float = 0.0


def mlp(entries: int, hidden: int, classes: int = 10) -> Network:
    """One hidden layer; bytes are those of parameters and activations, each once a use.

    >>> mlp(32, 46).parameters
    1988
    """
    weights, units = entries * hidden + hidden * classes, entries + hidden + classes
    parameters = weights + hidden + classes
    return Network(
        f"MLP {entries}-{hidden}-{classes}",
        parameters,
        forward=2.0 * weights,
        backward=6.0 * weights,
        step_bytes=5.0 * ITEM * parameters,  # read twice, a gradient written and read, updated
        row_bytes=4.0 * ITEM * units,  # written, read, and their gradients the same
        test_bytes=2.0 * ITEM * units,
        step_memory=3.0 * ITEM * parameters,
        test_memory=1.0 * ITEM * units,
    )


# FLOPs are XLA's count of the plain form, bytes and scratch those of the programs that are compiled
# for an H100 (benchmarks/compiled_for_gpu.md, `winner`, 64 clients and B = 32; evaluation).
MNIST_CNN = Network(
    "MNIST CNN", 104_242, 7.52e6, 21.8e6, 0.0, 90.7e6 / 32, 0.515e6, 13.1e6, 8042e6 / 32_000
)


# ---------------------------------------------------------------- the formulas


def taking_part(work: Work) -> int:
    """C, or N where everybody takes part."""
    return work.clients if work.cohort is None else work.cohort


def padded(count: int, devices: int) -> int:
    """Rows of a matrix of which every device holds equally many."""
    return -(-count // devices) * devices


def rows_of_round(work: Work) -> int:
    """Rows of the updates: a cohort has one more, which stands for those who stay away."""
    return padded(taking_part(work) + (work.cohort is not None), work.devices)


def steps(work: Work) -> int:
    """E ceil(rows / B): mini-batch steps of a client."""
    return work.epochs * -(-work.rows // work.batch)


def flops(work: Work) -> Phases:
    """Floating-point operations of a round on all devices together.

    Training: C E rows times those of a step's row. Server: 2 C D for u_N = r U and 2 C D for the
    scores U u_N. Evaluation: (K + 1) n forward passes.
    """
    network, many = work.network, taking_part(work)
    return Phases(
        training=many * work.epochs * work.rows * network.backward,
        server=4.0 * many * network.parameters,
        evaluation=(work.evaluated + 1) * work.test_rows * network.forward,
    )


def moved(work: Work) -> Phases:
    """Bytes that a round moves in the memories of all devices together.

    Server: PASSES readings or writings of [C, D], of a cohort as many again: its rows are copied
    out of those of all and back. Steps in 16 bits move half.
    """
    network, many = work.network, taking_part(work)
    training = network.step_bytes * steps(work) + network.row_bytes * work.epochs * work.rows
    passes = PASSES * (1 if work.cohort is None else 2)
    return Phases(
        training=many * training / (2 if work.half else 1),
        server=1.0 * passes * ITEM * many * network.parameters,
        evaluation=(work.evaluated + 1)
        * (work.test_rows * network.test_bytes + ITEM * network.parameters),
    )


def answers(work: Work) -> int:
    """Bytes of the evaluated models' answers to every test row, 0 where a run keeps none."""
    each = work.evaluated * work.test_rows
    return ANSWER * work.test_rows if each <= bind.MOST_ANSWERS else 0


def memory(work: Work) -> dict[str, float]:
    """Bytes that each of the devices holds at most, by what they are for.

    Models N D and updates C D lie in rows over the devices; a cohort's models are copied out of
    them, and on several devices the copies are on every one of them twice, on their way out and
    back. Examples, who holds which, and what is recorded are on every device.
    """
    network, many = work.network, rows_of_round(work)
    row = float(ITEM * network.parameters)
    copied = 0.0
    if work.cohort is not None:
        copied = row * many * (1 / work.devices + (2 if work.devices > 1 else 0))
    held = work.clients * work.rows
    examples = (held if work.examples is None else work.examples) + work.test_rows
    wide = min(work.width, -(-taking_part(work) // work.devices))
    scratch = max(network.step_memory, network.test_memory * min(work.test_batch, work.test_rows))
    return {
        "models": row * padded(work.clients, work.devices) / work.devices,
        "updates": row * many / work.devices,
        "a cohort's models": copied,
        "examples": float(ITEM * examples * work.entries),
        "who holds which": float(SLOT * held),
        "records": float((RECORDED + REMEMBERED) * work.clients + answers(work) * work.evaluated),
        "steps": wide * scratch,
    }


def peak(work: Work, machine: Machine) -> float:
    """Bytes of a device at most, or of the process where host and device are one memory."""
    held = memory(work)
    return machine.base + sum(held.values()) + (machine.copies - 1) * held["examples"]


def messages(work: Work) -> dict[str, int]:
    """Bytes of what the devices tell each other in a round: results on one device, by collective.

    The aggregate is a sum over devices, of D numbers and a few scalars. Records, and what the state
    remembers of each client, are brought together: every device holds them. Evaluation brings
    together its results; where K < N are evaluated their models are a sum over devices (each adds
    those it holds). The models of a cohort are such a sum before the round, and gathered after it.
    """
    if work.devices == 1:
        return {}
    row, many = ITEM * work.network.parameters, rows_of_round(work)
    reduced, gathered = row + SCALARS, (RECORDED + REMEMBERED) * many
    if work.cohort is not None:
        reduced, gathered = reduced + many * row, many * (row + RECORDED + PLACED)
    if work.evaluated:
        judged = padded(work.evaluated, work.devices)
        gathered += (JUDGED + answers(work)) * judged
        if work.evaluated < work.clients:
            reduced, gathered = reduced + work.evaluated * row, gathered + 4 * judged
    return {"all-reduce": reduced, "all-gather": gathered}


def sent(work: Work) -> float:
    """Bytes that each device sends in a round: 2 (P - 1) / P of a sum, (P - 1) / P of a gathering.

    That is what a ring of P devices needs at least (Patarasuk and Yuan 2009).
    """
    share = (work.devices - 1) / work.devices
    weights = {"all-reduce": 2 * share, "all-gather": share}
    return sum(weights[kind] * size for kind, size in messages(work).items())


def seconds(work: Work, machine: Machine) -> Phases:
    """Of a round: each phase takes its arithmetic or its bytes, whichever is longer.

    Steps are started one after another, chunk by chunk; that hides behind them where they are
    longer.
    """
    done, bytes_ = flops(work), moved(work)
    rate = machine.train_half if work.half else machine.train

    def longest(flops: float, rate: float, bytes_: float, bandwidth: float, starts: int) -> float:
        each = max(flops / rate, bytes_ / bandwidth) / work.devices
        return max(each, starts * machine.step)

    def chunks(clients: int) -> int:
        return -(-clients // (work.devices * work.width))

    trained = chunks(taking_part(work)) * steps(work)
    batches = -(-work.test_rows // work.test_batch)
    judged = chunks(work.evaluated + 1) * batches
    count = 20 if work.devices > 1 else 0  # collectives of a round
    return Phases(
        longest(done.training, rate, bytes_.training, machine.near, trained),
        longest(done.server, machine.train, bytes_.server, machine.bandwidth, 0),
        longest(done.evaluation, machine.test, bytes_.evaluation, machine.near, judged),
        sent(work) / machine.link + count * machine.collective,
    )


def fitted(work: Work, phases: Phases, round_: float, most: float) -> Machine:
    """The rates of one machine, from one measured run of one work on it.

    Args:
        work: what was measured, on one device.
        phases: seconds of its phases, each timed alone: their shares count, and their sum is the
            round.
        round_: seconds of a whole round.
        most: peak memory, bytes.
    """
    done, scale = flops(work), round_ / sum(phases)
    training, server, evaluation, _ = (scale * x for x in phases)
    rate = done.training / training
    bare = Machine(
        "this machine", rate, rate, done.evaluation / evaluation, math.inf,
        moved(work).server / server, math.inf, 0.0, 0.0, math.inf, 0.0, 2,
    )  # fmt: skip
    # The server's few products cost no more than its bytes.
    return bare._replace(base=most - peak(work, bare))


def at(machine: Machine, share: float) -> Machine:
    """The machine at a share of its rates."""
    names = ("train", "train_half", "test", "near", "bandwidth", "link")
    return machine._replace(**{name: share * getattr(machine, name) for name in names})


# ---------------------------------------------------------------- measured beside predicted


def work_of(kind: population.Population, clients: int) -> Work:
    """The round of `benchmarks.population`."""
    if kind.model != "mlp":
        raise ValueError(f"model is {kind.model}, it must be mlp")
    entries = math.prod(kind.shape)
    return Work(
        network=mlp(entries, *kind.hidden),
        clients=clients,
        rows=kind.rows,
        epochs=kind.epochs,
        batch=32,
        entries=entries,
        test_rows=population.TEST_ROWS,
        evaluated=clients,
    )


SIZES = {
    "smoke": {"wide": (50, 100), "deep": (20, 40)},
    "full": {"wide": (1_000, 10_000, 100_000), "deep": (1_250, 2_500, 5_000, 10_000)},
}

MEASURED = (
    "| population | N | s a round, measured | predicted | ratio | peak GiB, measured | predicted "
    "| ratio | within 30 % |\n" + 9 * "|---" + "|"
)


def phases_of(name: str, clients: int) -> Phases:
    """Seconds of the phases of a population's first round, each timed alone in this process."""
    from cgsv_jax.experiment import profiling

    found = profiling.profile(population.bound_of(name, clients)[0], repeats=9).phases
    return Phases(*(phase.seconds.median for phase in found))


def compared(name: str, scale: str) -> list[str]:
    """Lines of `MEASURED`: the smallest population gives the rates, the others are predicted."""
    command = [sys.executable, "-m", "benchmarks.cost", "--phases"]
    machine, lines = None, []
    for clients in SIZES[scale][name]:
        # Rounds of the small ones are short, and what all else rests on should not be a hiccup.
        rounds = 1 if scale == "smoke" else max(3, 30_000 // clients)
        run = population.apart(name, clients, rounds)
        work, took = work_of(population.KINDS[name], clients), float(np.median(run["seconds"]))
        if machine is None:
            phases = Phases(*json.loads(common.said([*command, f"{name},{clients}"])))
            machine = fitted(work, phases, took, run["peak"])
        lines.append(beside(name, work, machine, took, run["peak"], fit=not lines))
    return lines


def beside(
    name: str, work: Work, machine: Machine, took: float, most: float, fit: bool = False
) -> str:
    """A line of `MEASURED`; `fit` says that the machine's rates come from it."""
    expected = sum(seconds(work, machine)), peak(work, machine)
    ratios = expected[0] / took, expected[1] / most
    holds = all(abs(ratio - 1) <= WITHIN for ratio in ratios)
    verdict = "fitted" if fit else "yes" if holds else "**no**"
    times = f"{took:.3g} | {expected[0]:.3g} | {ratios[0]:.2f}"
    sizes = f"{most / 2**30:.2f} | {expected[1] / 2**30:.2f} | {ratios[1]:.2f}"
    title = f"{name}, D = {work.network.parameters:,}"
    return f"| {title} | {work.clients:,} | {times} | {sizes} | {verdict} |"


# ---------------------------------------------------------------- 10^6 clients

# Peak rates of dense products, one device. H100 SXM: 989 TFLOP/s in TF32 and 1,979 in bfloat16 with
# sparsity, hence half of each, 80 GB at 3.35 TB/s, NVLink 900 GB/s, of both directions
# (https://www.nvidia.com/en-us/data-center/h100/). TPU v5e: 197 TFLOP/s in bfloat16, in which
# products of float32 are computed too unless asked otherwise, 16 GB at 819 GB/s, 400 GB/s between
# chips in both directions (https://docs.cloud.google.com/tpu/docs/v5e). The seconds to start a step
# (45 kernels of 2.7 us) or a collective are assumed.
H100 = Machine(
    "H100", 495e12, 989e12, 495e12, 3.35e12, 3.35e12, 450e9, 45 * 2.7e-6, 20e-6, 80e9
)  # fmt: skip
V5E = Machine("TPU v5e", 197e12, 197e12, 197e12, 819e9, 819e9, 200e9, 20e-6, 20e-6, 16e9)
UTILISATION = 0.5  # share of the peak rates that is taken for granted


def _million() -> list[tuple[str, Work]]:
    dense = Work(mlp(32, 46), 10**6, 10, 1, 32, 32, 500, 10**6, width=64)
    images = Work(
        MNIST_CNN, 10**6, 5, 1, 32, 1024, 500, 10**6, width=64, test_batch=100, examples=60_000
    )
    cohort = images._replace(cohort=1_000, evaluated=100)
    return [
        ("MLP, 10 rows each, every model evaluated", dense),
        ("the same, 4,096 clients at once", dense._replace(width=4_096)),
        ("the same, 1,000 models evaluated", dense._replace(width=4_096, evaluated=1_000)),
        ("MNIST CNN, 5 rows each, everybody", images._replace(evaluated=100)),
        ("the same, cohorts of 1,000", cohort),
        ("the same, cohorts of 10,000", cohort._replace(cohort=10_000)),
        ("the same, bfloat16", cohort._replace(cohort=10_000, half=True)),
        ("the same, 5,000,000 distinct images", cohort._replace(cohort=10_000, examples=None)),
    ]


MILLION = (
    "| 10^6 clients | devices | GB a device | of | fits | most of it | training, s | server "
    "| evaluation | messages | a round |\n" + 11 * "|---" + "|"
)


def million() -> list[str]:
    """Lines of `MILLION`, on eight H100 and on 64 TPU v5e."""
    lines = []
    for title, work in _million():
        for machine, devices in ((H100, 8), (V5E, 64)):
            here = work._replace(devices=devices)
            held = memory(here)
            total, largest = peak(here, machine), max(held, key=lambda what: held[what])
            fits = total <= machine.memory
            took = seconds(here, at(machine, UTILISATION))
            cells = (
                *(title, f"{devices} x {machine.name}", f"{total / 1e9:.1f}"),
                *(f"{machine.memory / 1e9:.0f}", "yes" if fits else "**no**"),
                f"{largest}, {held[largest] / 1e9:.1f}",
                *(f"{x:.2g}" for x in (*took, sum(took))),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return lines


# ---------------------------------------------------------------- messages, as compiled

DEVICES = 8
Case = tuple[int, int, int, int]  # N, hidden units of an MLP on digits, K, and C or 0 for everybody
# 13 clients do not divide by the devices.
COMPILED: tuple[Case, ...] = (
    (16, 64, 0, 0), (24, 32, 0, 0), (16, 64, 16, 0), (24, 32, 5, 0), (13, 64, 0, 0),
    (40, 64, 0, 15), (30, 32, 0, 20),
)  # fmt: skip


def compiled(case: Case) -> tuple[Work, dict[str, int]]:
    """A round of `cgsv` as the command runs it on this process's devices, and its collectives."""
    import jax

    from cgsv_jax.experiment import deal, names

    clients, hidden, evaluated, cohort = case
    who: dict[str, Any] = {"cohort": cohort} if cohort else {}
    who |= {"eval_clients": evaluated} if 0 < evaluated < clients else {}
    config = names.configure(
        dataset="digits",
        partitions="uniform",
        clients=clients,
        hidden=(hidden,),
        algorithms="cgsv",
        seeds=1,
        **who,
    )
    (task,) = deal.tasks(config)
    bound = bind.bind(config, config.methods[0], task)
    text = population.round_of(bound, evaluated > 0)[0].compile().as_text()
    found: dict[str, int] = {}
    for each in hlo.module(text).collectives():
        found[each.kind] = found.get(each.kind, 0) + each.bytes
    entries = task.data.inputs[0].size
    work = Work(
        network=mlp(entries, hidden),
        clients=clients,
        rows=int(task.sizes.max()),
        epochs=bound.settings.epochs,
        batch=bound.batch,
        entries=entries,
        test_rows=len(task.data.test_labels),
        evaluated=evaluated,
        cohort=cohort or None,
        devices=jax.device_count(),
    )
    assert work.network.parameters == sum(task.tensors)
    return work, found


def on_eight(cases: Sequence[Case] = COMPILED) -> list[dict[str, Any]]:
    """Bytes by collective, as compiled and by the model, in a process with eight CPU devices."""
    asked = ";".join(",".join(map(str, case)) for case in cases)
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    command = [sys.executable, "-m", "benchmarks.cost", "--compiled", asked]
    return json.loads(common.said(command, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"))


def _compiled(asked: str) -> list[dict[str, Any]]:
    made = []
    for words in asked.split(";"):
        clients, hidden, evaluated, cohort = map(int, words.split(","))
        work, found = compiled((clients, hidden, evaluated, cohort))
        case = {"N": clients, "D": work.network.parameters, "K": evaluated, "C": cohort or clients}
        made.append(case | {"P": work.devices, "compiled": found, "model": messages(work)})
    return made


COMMUNICATION = (
    "| N | D | evaluated | taking part | collective | bytes, compiled | by the model | equal |\n"
    + 8 * "|---"
    + "|"
)


def communication(found: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of `COMMUNICATION`."""
    lines = []
    for one in found:
        for kind in sorted(one["compiled"] | one["model"]):
            there, said = one["compiled"].get(kind, 0), one["model"].get(kind, 0)
            equal = "yes" if there == said else "**no**"
            head = f"{one['N']} | {one['D']:,} | {one['K']} | {one['C']}"
            lines.append(f"| {head} | {kind} | {there:,} | {said:,} | {equal} |")
    return lines


# ---------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> None:
    """Prints tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", choices=list(SIZES), default="full")
    parser.add_argument("--only", default="wide,deep", help="populations, comma-separated")
    parser.add_argument("--million", action="store_true", help="that table alone")
    parser.add_argument("--communication", action="store_true", help="that table alone")
    parser.add_argument("--phases", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.phases:
        name, clients = asked.phases.split(",")
        print(json.dumps(phases_of(name, int(clients))))
    elif asked.compiled:
        print(json.dumps(_compiled(asked.compiled)))
    elif asked.communication:
        print("\n".join([COMMUNICATION, *communication(on_eight())]))
    else:
        if not asked.million:
            print(MEASURED, flush=True)
            for name in asked.only.split(","):
                print("\n".join(compared(name, asked.scale)), flush=True)
            print()
        print(f"At {UTILISATION:g} of the peak rates:\n")
        print("\n".join([MILLION, *million()]))


if __name__ == "__main__":
    main()
