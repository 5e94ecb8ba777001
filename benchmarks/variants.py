"""What was tried, on this device: convolution forms and layouts, masks, donation, small models.

    python -m benchmarks.variants [--scale smoke|full]

The defaults of the package follow from these numbers: `layout.default_width` and `--layout auto`,
`models.cnn`, `vectors.largest`. On a GPU, `lax` under a wide layout is XLA's grouped convolution.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common, compiled_for_gpu
from cgsv_jax import models as models_lib
from cgsv_jax.core import local, simulation, top_k
from cgsv_jax.experiment import timing
from cgsv_jax.rules import methods
from cgsv_jax.types import Clients, Dataset, Federation, Settings


class Scale(NamedTuple):
    """How much of it."""

    clients: int
    steps: int
    parameters: int
    receivers: int
    repeats: int


WIDTHS = {1: "one by one", 2: "chunks of 2", None: "all at once"}
SCALES = {"smoke": Scale(2, 1, 5000, 4, 1), "full": Scale(5, 10, 104_242, 100, 5)}


def _table(title: str, unit: str, times: Mapping[str, timing.Timing], per: float = 1.0) -> str:
    lines = [f"| {title} | {unit}, median (quartiles) |", "|---|---|"]
    lines += [f"| {name} | {one.milliseconds(per)} |" for name, one in times.items()]
    return "\n".join(lines)


def training(size: Scale) -> str:
    """One local step per client, by form of the convolution and width of the layout."""
    tables = []
    for network, batch, rate in (("mnist_cnn", 32, 0.15), ("cifar_cnn", 128, 0.015)):
        times = {}
        # Autodiff of `lax.conv` in a loop takes ten and more times as long on a CPU.
        groups = ((("phases", "winner"), size.steps, size.repeats), (("lax",), 1, 1))
        for forms, steps, repeats in groups:
            work = common.random_work(
                network, [steps * batch] * size.clients, batch_size=batch, learning_rate=rate
            )
            calls: dict[str, Callable[[], Any]] = {}
            for form, (width, name) in itertools.product(forms, WIDTHS.items()):
                side = common.ours(work, width=width, conv=compiled_for_gpu.conv_of(form))
                call = common.train_call(side, common.start(work, side), work.orders[0])
                with compiled_for_gpu.in_form(form):  # in which it is traced
                    timing.once(call)
                calls[f"{form}, {name}"] = call
            for name, measured in timing.alternate(calls, repeats).items():
                times[name] = common.per(measured, size.clients * steps)
        title = f"{network}, B {batch}, {size.clients} clients: convolution, layout"
        tables.append(_table(title, "ms per client and step", times))
    return "\n\n".join(tables)


def _rounds(federation: Federation, data: Dataset, clients: Clients) -> Callable[[], Any]:
    """A call that goes one round on from where the last call stopped."""

    def step(state: Any, data: Dataset, clients: Clients) -> Any:
        return simulation.round_(common.KEY, state, data, clients, federation)[0]

    step = jax.jit(step, donate_argnums=0)
    state = simulation.init(common.KEY, clients.mask.shape[0], federation)
    return timing.chained(lambda state: step(state, data, clients), state, 1)


def small_models(size: Scale) -> str:
    """A round of FedAvg of small models, by width of the layout; ragged clients."""
    tables = []
    rng = np.random.default_rng(0)
    for name, hidden, count, batch in (
        ("MLP 784-128-10", (128,), 20 * size.clients, 20),
        ("logistic 784-10", (), 200 * size.clients, 10),
    ):
        sizes = np.clip(rng.lognormal(3.6, 0.5, count), 5, 200).astype(int)
        mask = np.arange(sizes.max()) < sizes[:, None]
        slots = np.zeros(mask.shape, np.int32)
        slots[mask] = np.arange(sizes.sum())
        inputs = rng.normal(size=(sizes.sum(), 784)).astype(np.float32)
        labels = rng.integers(0, 10, sizes.sum()).astype(np.int32)
        data = jax.device_put(Dataset(inputs, labels, inputs[:1], labels[:1]))
        clients = jax.device_put(Clients(slots, mask))
        model = models_lib.mlp((784,), 10, hidden=hidden)
        trainer = local.trainer(model, optax.sgd, local.decayed(0.1, 1.0), batch_size=batch)
        calls = {}
        for width in (1, 2, 4, 8, None):
            settings = Settings(rounds=1, epochs=1, width=width)
            federation = Federation(model, trainer, methods.fedavg(), settings)
            calls[str(width or "all")] = _rounds(federation, data, clients)
        times = timing.alternate(calls, 2 * size.repeats)
        tables.append(_table(f"{count} clients, {name}: clients at once", "ms a round", times))
    return "\n\n".join(tables)


def masks(size: Scale) -> str:
    """The thresholds of all clients in u_N, and the masks added to the models."""
    rng = np.random.default_rng(0)
    entries, count = size.parameters, size.receivers
    vector = jnp.asarray(rng.normal(size=entries), jnp.float32)
    quota = jnp.asarray(rng.integers(0, entries + 1, count), jnp.int32)

    def by_rank(v: Any, q: Any) -> Any:
        return top_k.ranks(v)[None, :] < q[:, None]

    def find(function: Callable) -> Callable[[], Any]:
        jitted = jax.jit(function)
        return lambda: jitted(vector, quota)

    def add(mask: Callable, donate: bool) -> Callable[[], Any]:
        function = jax.jit(
            lambda models, v, q: models + jnp.where(mask(v, q), v[None, :], 0.0),
            donate_argnums=(0,) if donate else (),
        )
        models = jnp.zeros((count, entries))
        return timing.chained(lambda models: function(models, vector, quota), models, 1)

    calls = {
        "ranks of all entries, one integer sort and a scatter": find(lambda v, q: top_k.ranks(v)),
        "thresholds by that sort": find(lambda v, q: top_k.by_sorting(top_k.magnitude_keys(v), q)),
        "thresholds by radix select": find(
            lambda v, q: top_k.by_selecting(top_k.magnitude_keys(v), q)
        ),
        "argsort of float32 and a scatter": find(
            lambda v, q: (
                jnp.zeros(entries, jnp.int32)
                .at[jnp.argsort(-jnp.abs(v))]
                .set(jnp.arange(entries, dtype=jnp.int32))
            )
        ),
        "masks by ranks, added in place": add(by_rank, True),
        "masks as in the package, added in place": add(top_k.largest, True),
        "masks as in the package, into a fresh matrix": add(top_k.largest, False),
    }
    times = timing.alternate(calls, 2 * size.repeats)
    return _table(f"u_N of {entries:,} entries, {count} clients", "ms", times)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    size = SCALES[parser.parse_args(argv).scale]
    print(f"{jax.devices()[0].device_kind} x {jax.device_count()}, jax {jax.__version__}\n")
    for part in (training, small_models, masks):
        print(part(size), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
