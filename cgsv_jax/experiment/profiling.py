"""Where the time of a round goes, beside what the device could do at best.

The three phases of a round are compiled apart and timed on the run's own data and shapes: local
training, the server's step, evaluation. Each stands beside a floor: for the models, the FLOPs that
their plain form needs at the measured matrix rate; for the server, the bytes that its step cannot
avoid at the measured copy rate.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import layout, local, participation, simulation
from cgsv_jax.experiment import timing
from cgsv_jax.experiment.bind import Bound


class Phase(NamedTuple):
    """One phase of one round of one seed."""

    name: str
    seconds: timing.Timing
    flops: float  # needed: of the models' plain form, without padding; of the server's two products
    bytes: float  # moved: by the models as written, before fusion; by the server at least
    floor: float  # seconds at the device's measured rates
    compile_seconds: float
    per_run: float  # how often it happens in a round: evaluation perhaps less than once


class Profile(NamedTuple):
    """A method's round on a partition."""

    partition: str
    method: str
    phases: tuple[Phase, ...]
    waste: float  # steps computed over steps needed
    width: int | None  # clients trained at once
    matrix_rate: float  # FLOP/s
    copy_rate: float  # bytes/s
    peak_memory: int  # bytes, of the process or the device so far


def profile(bound: Bound, repeats: int = 3) -> Profile:
    """Times the phases of the first round of the first seed.

    Of a cohort its training and its server's step; gathering its rows is in neither, nor is what
    attackers make of their updates.

    Args:
      bound: a method on a task.
      repeats: of every phase.
    """
    task, federation = bound.task, bound.federation(bound.hyper)._replace(attack=None)
    settings, mesh = federation.settings, federation.settings.mesh
    where = None if mesh is None else layout.everywhere(mesh)
    data, clients = jax.device_put((bound.data, task.clients), where)
    chosen = None if task.chosen is None else jnp.asarray(task.chosen)
    key = jax.random.key(bound.seeds[0])
    held = len(task.sizes)
    everybody = jax.jit(lambda: simulation.init(key, held, federation))()
    state, all_clients, members = everybody, clients, None
    participates, steps = jnp.ones(held, bool), bound.steps
    if federation.participation is not None:
        participates, members = participation.who(key, federation.participation, state, clients)
    if members is not None:
        init = federation.algorithm.init
        state, clients = participation.gather(everybody, clients, members, init, mesh)
        taking = np.asarray(members)
        steps = steps[taking[taking < held]]
    number = len(steps)

    def train(state: Any, data: Any, clients: Any) -> Any:
        upload, optimizer = simulation.train(
            key, state, data, clients, federation, participates=participates
        )
        if members is not None:
            upload = participation.as_cohort(upload, all_clients, members)
            upload = upload._replace(population=None)  # a number, not an array
        # The models go in already; another copy of them as an output would cost memory and time.
        return upload._replace(clients=(), server=()), optimizer

    def serve(state: Any, upload: Any, optimizer: Any) -> Any:
        rows = upload.present.size
        whole = upload._replace(clients=state.clients[:rows], server=state.server, population=held)
        return simulation.serve(key, state, whole, optimizer, federation)

    def evaluate(state: Any, data: Any) -> Any:
        return simulation.evaluate(state, data.test_inputs, data.test_labels, federation, chosen)

    matrix, copy = timing.matrix_rate(), timing.copy_rate()
    size = sum(task.tensors)
    forward, step = _costs(bound)
    evaluated = held if task.chosen is None else len(task.chosen)
    batches = -(-len(task.data.test_labels) // min(settings.eval_batch, len(data.test_labels)))

    (upload, optimizer), training = _phase(train, repeats, state, data, clients)
    _, evaluation = _phase(evaluate, repeats, everybody, data)
    _, serving = _phase(serve, repeats, state, upload, optimizer, donate=True)
    # Two readings of the updates (aggregate, scores), one reading and one writing of the models.
    moved = 4.0 * number * size * data.inputs.dtype.itemsize
    products = 4.0 * number * size  # u_N = r U and psi = U u_N
    flops, bytes_ = (float(steps.sum()) * x for x in step)
    tested, read = (batches * (evaluated + 1) * x for x in forward)
    often = 1 / settings.eval_every
    phases = (
        Phase("training", training[0], flops, bytes_, flops / matrix, training[1], 1.0),
        Phase("server", serving[0], products, moved, moved / copy, serving[1], 1.0),
        Phase("evaluation", evaluation[0], tested, read, tested / matrix, evaluation[1], often),
    )
    return Profile(
        task.partition,
        bound.name,
        phases,
        layout.waste(steps, settings.width),
        settings.width,
        matrix,
        copy,
        timing.peak_memory(),
    )


def _phase(
    function: Any, repeats: int, *args: Any, donate: bool = False
) -> tuple[Any, tuple[timing.Timing, float]]:
    """The last result, and (seconds, seconds of compiling)."""
    clock = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=0 if donate else ()).lower(*args).compile()
    compiling = time.perf_counter() - clock
    if donate:
        carry, *rest = args
        call = timing.chained(lambda carry: compiled(carry, *rest)[0], carry, 1)
        return None, (timing.repeat(call, repeats), compiling)
    # Kept, so that the next phase needs no further run; nothing else holds a result of the others.
    kept: list[Any] = []

    def call() -> Any:
        kept.clear()
        kept.append(compiled(*args))
        return kept[0]

    seconds = timing.repeat(call, repeats)
    return kept[0], (seconds, compiling)


def _costs(bound: Bound) -> tuple[Any, Any]:
    """(FLOPs, bytes) of one forward pass over an evaluation batch, and of one training step."""
    model, data = bound.task.model, bound.task.data
    params = jax.eval_shape(model.init, jax.random.key(0))

    def loss(params: Any, batch: Any, labels: Any) -> Any:
        # Without a key: the plain form, whose arithmetic is what the method needs.
        return jnp.mean(local.negative_log_likelihood(model.apply(params, batch), labels))

    def cost(function: Any, rows: int) -> tuple[float, float]:
        batch = jax.ShapeDtypeStruct((rows, *data.inputs.shape[1:]), data.inputs.dtype)
        return timing.cost(function, params, batch, jax.ShapeDtypeStruct((rows,), np.int32))

    tests = min(bound.settings.eval_batch, len(data.test_labels))
    return cost(loss, tests), cost(jax.value_and_grad(loss), bound.batch)


def lines(profile: Profile) -> list[str]:
    """The profile as a table of text."""
    total = sum(phase.seconds.median * phase.per_run for phase in profile.phases)
    shown = [
        f"{profile.method} on {profile.partition}: one round of one seed, median of "
        f"{len(profile.phases[0].seconds.seconds)}",
        f"{'phase':>10} {'seconds':>9} {'share':>6} {'GFLOP/s':>9} {'GB/s':>7} {'floor, s':>9} "
        f"{'of floor':>8} {'compile, s':>10}",
    ]
    for phase in profile.phases:
        seconds = phase.seconds.median
        shown.append(
            f"{phase.name:>10} {seconds:>9.4g} {100 * seconds * phase.per_run / total:>5.1f}% "
            f"{phase.flops / seconds / 1e9:>9.1f} {phase.bytes / seconds / 1e9:>7.1f} "
            f"{phase.floor:>9.3g} {100 * phase.floor / seconds:>7.0f}% "
            f"{phase.compile_seconds:>10.1f}"
        )
    width = "all" if profile.width is None else profile.width
    shown += [
        f"steps computed / needed: {profile.waste:.3f}, clients trained at once: {width}",
        f"this device: {profile.matrix_rate / 1e9:.0f} GFLOP/s (product of float32 matrices), "
        f"{profile.copy_rate / 1e9:.0f} GB/s (rewriting an array in place)",
        f"peak memory so far: {profile.peak_memory / 2**30:.2f} GiB",
    ]
    return shown


def plain(profile: Profile) -> dict[str, Any]:
    """The profile for timing.json."""
    phases = [phase._asdict() | {"seconds": phase.seconds._asdict()} for phase in profile.phases]
    return profile._asdict() | {"phases": phases}
