"""Time of one local step (forward, backward, SGD) per client: PyTorch against JAX.

    python -m benchmarks.step_time [--smoke] [--repeats 9] [--forms auto lax]

N clients with weights of their own take the same steps on the same mini-batches from the same
start. PyTorch goes through the clients one after the other; JAX does the same in one program, with
the package's own trainer and layout. The two sides alternate, so that both meet the same state of
the machine, each in a process of its own, which waits while the other one works, so that neither's
threads meet the other's. First it is checked that both end at the same parameters.

Target: JAX / PyTorch at most 1.4 for the MNIST CNN at 32 rows and 2.0 for the CIFAR CNN at 128.
"""

import argparse
import multiprocessing
import platform
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from benchmarks.pytorch import sequential
from cgsv_jax import local, models
from cgsv_jax.layout import default_width, over_clients
from cgsv_jax.types import Examples


class Case(NamedTuple):
    """One network at one size; `target` is the largest acceptable ratio."""

    network: str
    shape: tuple[int, int, int]
    batch: int
    learning_rate: float
    target: float


CASES = (
    Case("mnist_cnn", (32, 32, 1), 32, 0.15, 1.4),
    Case("cifar_cnn", (32, 32, 3), 128, 0.015, 2.0),
)


class Work(NamedTuple):
    """The common start and every client's mini-batches."""

    start: dict[str, np.ndarray]  # torch names and layouts
    inputs: np.ndarray  # [N, S, B, H, W, C] float32
    labels: np.ndarray  # [N, S, B] int32


def make_work(case: Case, clients: int, steps: int, seed: int = 0) -> Work:
    """Random images with a constant border, as MNIST's: pooling meets ties there."""
    rng = np.random.default_rng(seed)
    model = models.MODELS[case.network](case.shape, 10)
    start = models.params_to_torch(model.init(jax.random.key(seed)))
    inputs = rng.normal(size=(clients, steps, case.batch, *case.shape)).astype(np.float32)
    inputs[..., :6, :, :] = inputs[..., :, -6:, :] = -0.42
    labels = rng.integers(0, 10, (clients, steps, case.batch)).astype(np.int32)
    return Work(start, inputs, labels)


def jax_side(case: Case, work: Work, form: str):
    """The package's own local training, one client after the other in one program."""
    model = models.MODELS[case.network](case.shape, 10, conv=form)
    start = models.params_from_torch(work.start)
    clients, steps, batch = work.labels.shape
    pool = jnp.asarray(work.inputs.reshape(-1, *case.shape))
    rows = jnp.arange(clients * steps * batch).reshape(clients, steps * batch)
    labels = jnp.asarray(work.labels.reshape(clients, steps * batch))
    order = jnp.arange(steps * batch)[None, :]  # one epoch, rows as they come
    schedule = local.decayed(case.learning_rate, 1.0)
    trainer = local.trainer(model, optax.sgd, schedule, batch_size=batch)

    @jax.jit
    def train(params, pool, rows, labels):
        def one_client(rows, labels):
            examples = Examples(pool, rows, labels)
            key, opt_state = jax.random.key(0), trainer.init(params)
            delta, _, _ = trainer.update(key, params, opt_state, examples, order, jnp.int32(0))
            return jax.tree.map(jnp.add, params, delta)

        return over_clients(one_client, default_width("cpu"))(rows, labels)

    return lambda: train(start, pool, rows, labels)


def largest_gap(start, torch_params, jax_params) -> float:
    """Largest ‖jax - torch‖ / ‖torch - start‖ over clients: difference relative to the way gone."""
    gaps = []
    for i, theirs in enumerate(torch_params):
        ours = models.params_to_torch(jax.tree.map(lambda p, i=i: p[i], jax_params))
        difference = [theirs[n] - ours[n] for n in start]
        way = [theirs[n] - start[n] for n in start]
        gaps.append(_norm(difference) / _norm(way))
    return max(gaps)


def _norm(arrays) -> float:
    return float(np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays)))


def compare(case: Case, forms, clients: int, steps: int, repeats: int, threads: int) -> list[str]:
    """Table rows of one case, one per form of the convolution.

    Raises:
        RuntimeError: if the two sides do not compute the same.
    """
    work = make_work(case, clients, steps)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    arguments = (there, case.network, case.learning_rate, tuple(work), threads)
    worker = context.Process(target=sequential.serve, args=arguments, daemon=True)
    worker.start()

    def ask(what: str, number: int = 0) -> Any:
        here.send((what, number))
        return here.recv()

    # Two steps are compared, since rounding grows from step to step; all of them are timed.
    ask("train", 2)
    reference = ask("parameters")
    first = Work(work.start, work.inputs[:, :2], work.labels[:, :2])
    gaps = {
        form: largest_gap(work.start, reference, jax_side(case, first, form)()) for form in forms
    }
    # In float64 the two sides agree to 1e-13 (tests/test_models.py). In float32 two entries of a
    # pooling window can be so near that rounding decides which is the larger; its gradient then
    # goes to another patch, and one such window in millions shows in the gap, which is printed. An
    # error of layout, of a gradient or of the loss gives gaps of order 1.
    if not max(gaps.values()) < 1e-2:
        raise RuntimeError(f"{case.network}: JAX and PyTorch disagree, relative gaps {gaps}.")
    # A word through the pipe and back takes microseconds, a repeat a second.
    calls = {form: jax_side(case, work, form) for form in forms}
    times = timing.alternate({"PyTorch": lambda: ask("train", steps)} | calls, repeats)
    here.send(("stop", 0))
    worker.join()
    per, rows = clients * steps, []
    for form in forms:
        pairs = zip(times[form].seconds, times["PyTorch"].seconds, strict=True)
        ratio = timing.summary([ours / theirs for ours, theirs in pairs])
        rows.append(
            f"| {case.network}, B {case.batch} | {form} | {times['PyTorch'].milliseconds(per)} "
            f"| {times[form].milliseconds(per)} "
            f"| **{ratio.median:.2f}** ({ratio.lower:.2f}-{ratio.upper:.2f}) | {case.target} "
            f"| {gaps[form]:.1e} |"
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one tiny repeat, numbers meaningless")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="mini-batches per client and repeat")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--forms", nargs="+", default=["auto"], choices=["auto", "block", "lax"])
    options = parser.parse_args(arguments)
    cases = CASES
    if options.smoke:
        cases = [case._replace(batch=4) for case in CASES]
        options.clients, options.steps, options.repeats = 2, 2, 1
    print(f"Device: {jax.devices()[0]}, {platform.processor() or platform.machine()}; ", end="")
    print(f"jax {jax.__version__}, torch {version('torch')}, {options.threads} torch threads; ")
    print(f"{options.clients} clients x {options.steps} steps, {options.repeats} repeats; ", end="")
    print("ms per client and step, median (quartiles).\n")
    print("| case | conv | PyTorch ms | JAX ms | JAX / PyTorch | target | gap |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        sizes = (options.clients, options.steps, options.repeats, options.threads)
        print("\n".join(compare(case, options.forms, *sizes)), flush=True)


if __name__ == "__main__":
    main()
