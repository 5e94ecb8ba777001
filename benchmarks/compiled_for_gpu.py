"""What an H100 would be asked to do: programs compiled for one where there is none.

    python3.12 -m venv gpu
    gpu/bin/pip install jax==0.11.2 jax-cuda13-plugin==0.11.2 jax-cuda13-pjrt==0.11.2
    gpu/bin/pip install flax optax chex scipy scikit-learn
    JAX_PLATFORMS=cpu gpu/bin/python -m benchmarks.compiled_for_gpu [--only WORDS ...] [--json FILE]

JAX's CUDA compiler runs without a GPU when it is given a description of one (`h100.txtpb`), and
needs no library of NVIDIA's. What it makes is read off its text (`hlo`): kernels, bytes and memory
are facts, the roofline is the time that no device of these rates could beat, and none of it was
measured. Autotuning needs a device: tiles and algorithms are XLA's defaults.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks import common, hlo
from cgsv_jax.core import simulation
from cgsv_jax.models import conv as conv_lib
from cgsv_jax.types import State, Upload

DESCRIPTION = Path(__file__).with_name("h100.txtpb")
# Bytes and FLOPs a second of an H100 SXM; single precision multiplies in TF32.
BANDWIDTH, SINGLE, HALF = 3.35e12, 495e12, 989e12
NETWORKS = {"mnist_cnn": 32, "cifar_cnn": 128}  # batch sizes of the released code
# Forms of the convolution: as a CPU computes, as accelerators do, and the library's.
FORMS = ("phases", "winner", "lax")
WIDTHS = (8, 32, 64, 128)
EVALUATED = 1_000  # test rows of a batch


class Counts(NamedTuple):
    """Of a program: what one turn of its loop does, or one call where there is none."""

    name: str
    clients: int
    kernels: int
    products: str  # how many of them multiply, and whose they are
    moved: int  # bytes
    temporary: int  # bytes
    seconds: float  # roofline
    window: int  # the largest side of a convolution's, 0 where there is none
    length: str  # whether the compiler knows how often the loop turns


def complaint() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        return "JAX_PLATFORMS must be cpu, or the plugin looks for a driver"
    try:
        importlib.metadata.version("jax-cuda13-pjrt")
    except importlib.metadata.PackageNotFoundError:
        return "there is no jax-cuda13-pjrt in this environment"
    return None


@functools.cache
def _sharding() -> jax.sharding.Sharding:
    from jax.experimental import topologies

    text = DESCRIPTION.read_text(encoding="utf-8")
    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=text)
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """The program for the described device, of arrays or their shapes."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding()), arguments
    )
    traced = jax.jit(function).trace(*shapes)
    return traced.lower(lowering_platforms=("cuda",)).compile()


def counts(name: str, clients: int, program: Any) -> Counts:
    """Of the loop that moves most in a turn, or of the whole program where there is none."""
    module = hlo.module(program.as_text())
    bodies = {body: known for body, known in module.loops()}
    turns = {body: list(module.kernels(body)) for body in bodies or (module.entry,)}
    chosen = max(turns, key=lambda body: sum(kernel.bytes for kernel in turns[body]))
    kernels = turns[chosen]
    whose = [kernel.product for kernel in kernels if kernel.product]
    return Counts(
        name,
        clients,
        len(kernels),
        ", ".join(f"{whose.count(one)} {one}" for one in sorted(set(whose))),
        sum(kernel.bytes for kernel in kernels),
        program.memory_analysis().temp_size_in_bytes,
        sum(kernel.seconds(BANDWIDTH, SINGLE, HALF) for kernel in kernels),
        max((max(kernel.windows, default=0) for kernel in kernels), default=0),
        {True: "known", False: "not known", None: "no loop"}[bodies.get(chosen)],
    )


# ---------------------------------------------------------------- programs


def conv_of(form: str) -> str:
    """The package's name of a form's convolution."""
    return "lax" if form == "lax" else "block"


def in_form(form: str) -> contextlib.AbstractContextManager[Any]:
    """What is traced within computes block convolutions in this form, on every platform."""
    chosen = {"phases": conv_lib.by_phases, "winner": conv_lib.by_winner}.get(form)
    return mock.patch.object(conv_lib, "matmul_max", chosen)


def local_step(network: str, form: str, precision: str, clients: int) -> Counts:
    """One mini-batch step of all clients at once, as the package trains."""
    batch = NETWORKS[network]
    work = common.random_work(
        network, [2 * batch] * clients, batch_size=batch, learning_rate=0.05, test_rows=10
    )
    side = common.ours(work, width=None, conv=conv_of(form), precision=precision)
    state = jax.eval_shape(lambda: simulation.init(common.KEY, clients, side.federation))
    with in_form(form):
        program = compiled(
            common.training(side),
            *(common.KEY, state, side.data, side.clients, jnp.asarray(work.orders[0])),
        )
    return counts(f"local step, {network}, {form}, {precision}", clients, program)


def server_step(clients: int) -> Counts:
    """From uploads to models with `cgsv`, D = 104,242."""
    work = common.random_work(
        "mnist_cnn", [4] * clients, batch_size=4, learning_rate=0.1, test_rows=10
    )
    side = common.ours(work)
    state = jax.eval_shape(lambda: simulation.init(common.KEY, clients, side.federation))

    def serve(key: Any, state: State, deltas: jax.Array, norms: jax.Array, sizes: Any) -> Any:
        upload: Upload = common.upload_of(state, deltas, norms, sizes)
        return simulation.serve(key, state, upload, state.optimizer, side.federation)[0]

    norms = jax.ShapeDtypeStruct((clients,), jnp.float32)
    sizes = jax.ShapeDtypeStruct((clients,), jnp.int32)
    program = compiled(serve, common.KEY, state, state.clients, norms, sizes)
    return counts("server's step, cgsv", clients, program)


def evaluation(network: str, clients: int) -> Counts:
    """A batch of test rows through the models of all clients, and through the server's."""
    work = common.random_work(
        network, [4] * clients, batch_size=4, learning_rate=0.1, test_rows=2 * EVALUATED
    )
    side = common.ours(work, width=None)
    settings = side.settings._replace(eval_width=None, eval_batch=EVALUATED)
    federation = side._replace(settings=settings).federation
    state = jax.eval_shape(lambda: simulation.init(common.KEY, clients, federation))

    def evaluate(state: State, inputs: jax.Array, labels: jax.Array) -> Any:
        return simulation.evaluate(state, inputs, labels, federation)

    program = compiled(evaluate, state, side.data.test_inputs, side.data.test_labels)
    return counts(f"evaluation of {EVALUATED} rows, {network}", clients, program)


def programs() -> dict[str, Callable[[], Counts]]:
    """What there is to compile, by name: those that the defaults stand on first."""
    made: dict[str, Callable[[], Counts]] = {}
    for width in sorted(WIDTHS, key=lambda width: width != 32):
        for network in NETWORKS:
            for precision in ("float32", "bfloat16"):
                for form in FORMS if width == 32 else FORMS[:2]:
                    step = functools.partial(local_step, network, form, precision, width)
                    made[f"{network} {form} {precision} {width}"] = step
        if width == 32:
            for clients in (100, 1_000):
                made[f"server {clients}"] = functools.partial(server_step, clients)
            for network in NETWORKS:
                made[f"evaluation {network}"] = functools.partial(evaluation, network, width)
    return made


# ---------------------------------------------------------------- what is printed

HEADER = (
    "| program | clients | kernels | of these multiply | GB moved | MB a client | temporary, MB "
    "| roofline, us | a client | window | loop's length |\n" + 11 * "|---" + "|"
)


def markdown(row: Counts) -> str:
    """A line of the table."""
    cells = (
        row.name,
        row.clients,
        row.kernels,
        row.products,
        f"{row.moved / 1e9:.3f}",
        f"{row.moved / 1e6 / row.clients:.1f}",
        f"{row.temporary / 1e6:,.0f}",
        f"{1e6 * row.seconds:,.0f}",
        f"{1e6 * row.seconds / row.clients:.1f}",
        f"{row.window} x {row.window}" if row.window else "none",
        row.length,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def rows(only: Sequence[str] = ()) -> Iterator[Counts]:
    """Of every program whose name holds all the words of one of these; of all without any."""
    for name, compile_it in programs().items():
        asked = [set(words.split()) for words in only]
        if not asked or any(words <= set(name.split()) for words in asked):
            yield compile_it()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help='such as "mnist_cnn winner 32"')
    parser.add_argument("--json", type=Path, help="write the numbers as well")
    asked = parser.parse_args(argv)
    if missing := complaint():
        raise SystemExit(f"nothing is compiled: {missing}")
    print(f"jax {jax.__version__}, an H100 SXM by {DESCRIPTION.name}\n\n{HEADER}", flush=True)
    found = []
    for row in rows(asked.only):
        found.append(row)
        print(markdown(row), flush=True)
        if asked.json:
            asked.json.write_text(json.dumps([one._asdict() for one in found], indent=1))


if __name__ == "__main__":
    main()
