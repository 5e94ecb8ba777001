"""What `first_minutes` asks, one question in one process.

    python -m benchmarks.gpu_questions alive|rates|steps|loop|profile|server|rounds --out DIR

It needs JAX, flax, optax, chex, scipy and scikit-learn; `alive` and `rounds` need PyTorch beside
them. Each line is written as soon as it is known, so that a question that is cut short keeps what
it has found.
"""

import argparse
import functools
import itertools
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, compiled_for_gpu, first_minutes, gpu_rounds, server_step, table
from benchmarks.pytorch.work import Work
from cgsv_jax.core import layout, top_k, vectors
from cgsv_jax.experiment import timing

NETWORK = "mnist_cnn"  # of all questions but `steps`, which has others, too


class Scale(NamedTuple):
    """How much of it."""

    clients: int  # that take `steps`
    steps: int
    batches: Mapping[str, int]  # of a network, rows
    widths: tuple[int, ...]
    few: int  # clients of `loop`, and of `profile` four times as many
    turns: int  # of the loop that `loop` times
    megabytes: tuple[int, ...]  # that are copied
    products: int  # of a batch
    receivers: tuple[int, ...]
    rounds: str  # scale of gpu_rounds
    repeats: int


SCALES = {
    "smoke": Scale(3, 1, {"mnist_cnn": 4}, (2,), 2, 2, (1,), 1, (3,), "smoke", 1),
    "full": Scale(
        *(128, 4, compiled_for_gpu.NETWORKS, (8, 32, 64, 128), 8, 32, (10, 100, 1_000), 128),
        *((100, 1_000), "minutes", 5),
    ),
}


class Answer(NamedTuple):
    """What a case gives: the cells of its line, and its numbers."""

    result: str
    note: str = ""
    numbers: dict[str, Any] | None = None


Answers = Iterator[tuple[str, Answer]]  # what it is of, what was found


def cases(measures: Mapping[str, Callable[[], Answer]], until: float) -> Answers:
    """Answers one after another; one that fails ends no other.

    Args:
        measures: what it is of -> what finds it out.
        until: seconds since the epoch; what may not be ready by then, if it takes as long as the
            longest before it, is left out.
    """
    longest = 0.0
    for what, measure in measures.items():
        begun = time.time()
        if begun + longest > until:
            yield what, Answer("left out", f"one took {longest:.0f} s, the limit is nearer")
            continue
        try:
            answer = measure()
        except Exception as error:  # out of memory, or a form that the compiler refuses
            first = next(iter(str(error).splitlines()), "")
            answer = Answer("failed", f"{type(error).__name__}: {first[:300]}")
        longest = max(longest, time.time() - begun)
        yield what, answer


def _microseconds(times: timing.Timing, per: float = 1.0) -> str:
    low, mid, high = (1e6 * s / per for s in (times.lower, times.median, times.upper))
    return f"{mid:.2f} ({low:.2f}-{high:.2f}) us"


# ---------------------------------------------------------------- alive, rounds


def alive(size: Scale, until: float) -> Answers:
    """Whether both sides compute the same, in float64 and in float32, of next to nothing."""
    one, limit = jax.devices()[0], timing.memory_limit()
    memory = f"{limit / 2**30:.1f} GiB for JAX" if limit else "it does not tell its memory"
    versions = f"jax {jax.__version__}, PyTorch {common.torch_version()}"
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}{_card()}"
    device = f"{one.device_kind} x {jax.device_count()} ({one.platform}), {memory}"
    yield "this machine", Answer(device, f"{versions}; {machine}")
    for row in gpu_rounds.measured("smoke"):  # which raises where they do not
        yield f"{row.work}, against {row.against}", Answer("the same", row.note)


def _card() -> str:
    """What NVIDIA's own tool says of the device, where it is there: driver, clock, watts."""
    ask = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv"]
    if shutil.which(ask[0]) is None:
        return ""
    answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
    return "; " + " ".join(answer.stdout.splitlines())


def rounds(size: Scale, until: float) -> Answers:
    """Rounds beside PyTorch, the released procedure and the stacked one."""
    yield from _rows(size.rounds)


def _rows(scale: str) -> Answers:
    for row in gpu_rounds.measured(scale):
        what, numbers = f"{row.work}, against {row.against}", table.json_of(row)
        if row.ratio is None or row.ours is None or row.theirs is None:
            yield what, Answer("not measured", row.note, numbers)
            continue
        ratio = f"{row.ratio.median:.2f} ({row.ratio.lower:.2f}-{row.ratio.upper:.2f})"
        times = f"ours {row.ours.milliseconds()} ms, theirs {row.theirs.milliseconds()} ms"
        yield what, Answer(f"{ratio} times as fast", f"{times}; {row.note}", numbers)


# ---------------------------------------------------------------- rates

# The products of a step of the MNIST CNN in the block form, of one client: [m, k] x [k, n].
PRODUCTS = {
    "a square": (2048, 2048, 2048),
    "conv1 forward": (256, 16, 6272),
    "conv1, its weights": (256, 6272, 16),
    "conv2 forward": (64, 4096, 512),
    "conv2, its weights": (64, 512, 4096),
    "conv2, its columns": (4096, 64, 512),
}


def rates(size: Scale, until: float) -> Answers:
    """What the device does: arrays rewritten in place, and the products of a local step."""
    measures: dict[str, Callable[[], Answer]] = {}
    for megabytes in size.megabytes:
        measures[f"{megabytes} MB rewritten in place"] = functools.partial(_copy, megabytes)
    for precision in PRECISIONS:  # where time ends them, the last precision is not known
        for name, shape in PRODUCTS.items():
            what = f"{size.products} x {name}, {precision}"
            measures[what] = functools.partial(_product, size, shape, precision)
    return cases(measures, until)


def _copy(megabytes: int) -> Answer:
    rate = timing.copy_rate(megabytes)
    return Answer(f"{rate / 1e9:.0f} GB/s", "", {"rate": rate})


def _product(size: Scale, shape: tuple[int, int, int], precision: str) -> Answer:
    m, k, n = shape
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    rng = np.random.default_rng(0)
    # Not of equal numbers, which a GPU multiplies faster; one draw for all, which takes longer.
    a, b = (
        jnp.tile(jnp.asarray(rng.standard_normal(part), dtype), (size.products, 1, 1))
        for part in ((m, k), (k, n))
    )
    chosen = "float32" if precision == "float32" else None
    multiply = jax.jit(functools.partial(jnp.matmul, precision=chosen))
    turns = 4  # enqueued at once, so that starting one hides behind the one before it
    times = timing.repeat(timing.chained(lambda _: multiply(a, b), None, turns), size.repeats)
    each = times.median / turns
    flops, moved = 2 * a.size * n, a.nbytes + b.nbytes + size.products * m * n * a.itemsize
    result = f"{flops / each / 1e12:.1f} TFLOP/s, {moved / each / 1e9:.0f} GB/s"
    return Answer(result, _microseconds(times, turns), {"seconds": each, "flops": flops})


# ---------------------------------------------------------------- steps, loop


class Case(NamedTuple):
    """How clients train."""

    network: str
    form: str  # of the convolution: compiled_for_gpu.FORMS
    precision: str
    width: int  # clients at once


# What a GPU takes by default stands in front.
FORMS = ("winner", "phases", "lax")
PRECISIONS = ("default", "bfloat16", "float32")


def by_distance(networks: Iterable[str], widths: Sequence[int]) -> list[Case]:
    """All cases, first the default, then those that differ from it in one thing, in two, ..."""
    default = Case(NETWORK, FORMS[0], PRECISIONS[0], min(layout.WIDEST_ON_GPU, max(widths)))
    every = itertools.starmap(Case, itertools.product(networks, FORMS, PRECISIONS, widths))
    return sorted(every, key=lambda case: sum(a != b for a, b in zip(case, default, strict=True)))


def steps(size: Scale, until: float) -> Answers:
    """Form, precision and width; and after all the fastest in each precision."""
    reference: dict[str, np.ndarray] = {}  # dw of the first case of a network
    each: dict[Case, float] = {}

    def measure(case: Case) -> Answer:
        work = _work(case.network, size.clients, size.steps, size.batches[case.network])
        answer, deltas, each[case] = _trained(size, work, case)
        expected = reference.setdefault(case.network, deltas)
        gap = np.linalg.norm(deltas - expected, axis=1) / np.linalg.norm(expected, axis=1)
        note = f"{answer.note}, dw within {gap.max():.0e} of the first line's"
        return answer._replace(note=note)

    chosen = {
        f"{case.network}, {case.form}, {case.precision}, {case.width} of {size.clients} clients "
        "at once": functools.partial(measure, case)
        for case in by_distance(size.batches, size.widths)
    }
    yield from cases(chosen, until)
    for network, precision in itertools.product(size.batches, PRECISIONS):
        tried = [c for c in each if (c.network, c.precision) == (network, precision)]
        if tried:
            best = min(tried, key=each.__getitem__)
            result = f"{best.form}, {best.width} at once"
            yield f"fastest, {network}, {precision}", Answer(result, f"of {len(tried)} measured")


def loop(size: Scale, until: float) -> Answers:
    """Many steps of few clients: what a turn of the loop costs beside its kernels."""
    case = Case(NETWORK, FORMS[0], "default", size.few)
    work = _work(case.network, size.few, size.turns, size.batches[case.network])
    what = f"{case.form}, {size.few} clients, {size.turns} steps"
    return cases({what: lambda: _trained(size, work, case)[0]}, until)


@functools.cache
def _work(network: str, clients: int, turns: int, batch: int) -> Work:
    return common.random_work(
        network, [turns * batch] * clients, batch_size=batch, learning_rate=0.05, test_rows=10
    )


def _compiled(work: Work, case: Case) -> tuple[Callable[[], Any], Any, float]:
    """A call of local training, its program, and the seconds that compiling took."""
    conv = compiled_for_gpu.conv_of(case.form)
    side = common.ours(work, width=case.width, conv=conv, precision=case.precision)
    assert work.orders is not None  # `random_work` gives them
    orders = jax.device_put(work.orders[0])
    arguments = (common.KEY, common.start(work, side), side.data, side.clients, orders)
    begun = time.perf_counter()
    with compiled_for_gpu.in_form(case.form):
        program = jax.jit(common.training(side)).lower(*arguments).compile()
    return lambda: program(*arguments), program, time.perf_counter() - begun


def _trained(size: Scale, work: Work, case: Case) -> tuple[Answer, np.ndarray, float]:
    """The answer, dw [N, D], and seconds per client and step."""
    call, program, compiling = _compiled(work, case)
    deltas = np.asarray(call()[0])
    times = timing.repeat(call, size.repeats)
    per = work.rows_visited / work.batch_size
    temporary = program.memory_analysis().temp_size_in_bytes
    note = f"temporary {temporary / 1e6:,.0f} MB, compiled in {compiling:.0f} s"
    numbers = {**case._asdict(), "temporary": temporary, "compiling": compiling, "steps": per}
    numbers["seconds"] = times.seconds
    result = f"{_microseconds(times, per)} per client and step"
    return Answer(result, note, numbers), deltas, times.median / per


# ---------------------------------------------------------------- profile


def profile(size: Scale, until: float) -> Answers:
    """Where the time of a step goes, kernel by kernel; on a CPU, operation by operation."""
    clients = 4 * size.few
    case = Case(NETWORK, FORMS[0], "default", clients)
    call, _, _ = _compiled(_work(case.network, clients, 4, size.batches[case.network]), case)
    timing.once(call)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            timing.once(call)
        spent = _spent(Path(folder))
    total = sum(microseconds for _, microseconds in spent.values())
    often = sum(times for times, _ in spent.values())
    numbers = {"kernels": spent}
    what = f"{case.form}, {clients} clients, 4 steps"
    yield what, Answer(f"{total:.0f} us in {often} kernels", "", numbers)
    for name, (times, own) in sorted(spent.items(), key=lambda item: -item[1][1])[:15]:
        yield name[:80], Answer(f"{own:.1f} us", f"{100 * own / total:.1f} %, {times} times")


def _spent(folder: Path) -> dict[str, tuple[int, float]]:
    """Of every kernel of a trace: how often it ran, and for how many microseconds in all."""
    spent: dict[str, tuple[int, float]] = {}
    planes = [
        plane
        for file in folder.rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
    ]
    on_gpu = [(plane, "Stream") for plane in planes if plane.name.startswith("/device:GPU")]
    on_cpu = [(plane, "tf_XLA") for plane in planes if plane.name == "/host:CPU"]
    for plane, prefix in on_gpu or on_cpu:
        for line in plane.lines:
            if line.name.startswith(prefix):
                for event in line.events:
                    times, microseconds = spent.get(event.name, (0, 0.0))
                    spent[event.name] = times + 1, microseconds + event.duration_ns / 1e3
    return spent


# ---------------------------------------------------------------- server


def server(size: Scale, until: float) -> Answers:
    """The server's step, and the thresholds of its masks by sorting and by selecting."""
    measures: dict[str, Callable[[], Answer]] = {}
    for count in size.receivers:
        measures[f"step of {count} clients"] = functools.partial(_step, size, count)
        for name, find in (("sorting", top_k.by_sorting), ("selecting", top_k.by_selecting)):
            measures[f"thresholds of {count} clients by {name}"] = functools.partial(
                _thresholds, size, count, find
            )
    return cases(measures, until)


def _step(size: Scale, count: int) -> Answer:
    work = common.random_work(NETWORK, [4] * count, batch_size=4, learning_rate=0.1, test_rows=10)
    side, turns = common.ours(work), 4 * size.repeats
    state = common.start(work, side)
    deltas = np.random.default_rng(0).normal(size=state.clients.shape).astype(np.float32)
    given = vectors.norms(jnp.asarray(deltas))
    times = timing.repeat(server_step.chain(side, state, deltas, turns, given), size.repeats)
    # Two readings of the updates, the models read and written.
    rate = 4 * deltas.nbytes * turns / times.median
    numbers = {"clients": count, "seconds": times.median / turns}
    note = f"{rate / 1e9:.0f} GB/s of the bytes that must move"
    return Answer(_microseconds(times, turns), note, numbers)


def _thresholds(size: Scale, count: int, find: Callable[..., Any]) -> Answer:
    entries = 104_242  # parameters of the MNIST CNN
    keys = top_k.magnitude_keys(jax.random.normal(jax.random.key(0), (entries,)))
    quota = jax.random.randint(jax.random.key(1), (count,), 0, entries + 1)
    times = timing.repeat(functools.partial(jax.jit(find), keys, quota), size.repeats)
    return Answer(_microseconds(times), "", {"clients": count, "seconds": times.median})


# ---------------------------------------------------------------- the command

QUESTIONS = {
    "alive": alive,
    "rates": rates,
    "steps": steps,
    "loop": loop,
    "profile": profile,
    "server": server,
    "rounds": rounds,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Answers one question, line by line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("question", choices=list(QUESTIONS))
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is there")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds since the epoch")
    given = parser.parse_args(argv)
    flags = os.environ.get("XLA_FLAGS", "")
    for what, answer in QUESTIONS[given.question](SCALES[given.scale], given.until):
        named = f"{what}; {flags}" if flags else what
        first_minutes.record(given.out, first_minutes.Found(given.question, named, *answer))


if __name__ == "__main__":
    main()
