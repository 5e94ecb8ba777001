"""Tiny models and worlds for every test, and no silent broadcasting anywhere."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from declared import METHODS, Hyper, Options

from cgsv_jax.core import evaluation as evaluation_lib
from cgsv_jax.core import local, participation, simulation, vectors
from cgsv_jax.types import (
    Clients,
    Dataset,
    Federation,
    Losses,
    Model,
    Network,
    Settings,
    Trainer,
    Units,
    Upload,
)

# A [N] that meets an [N, D] must say so; at import, so that wider fixtures obey as well.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the suite's time is XLA compiling: one cache for all tests, for workers, for the processes
# that tests start, and for the next time. With a largest size, and only then, JAX locks it while an
# entry is written. Compiled code is of one processor: another one has another folder.
_processor = next(Path("/proc").glob("cpuinfo"), None)
_flags = re.findall(r"^flags.*$", _processor.read_text(), re.M)[:1] if _processor else []
_key = hashlib.sha256(repr((jax.__version__, _flags)).encode()).hexdigest()[:12]
_cache = Path(tempfile.gettempdir(), f"cgsv-jax-tests-{os.getuid()}-{_key}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(4 << 30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_compilation_cache_max_size", 4 << 30)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

FEATURES, HIDDEN, CLASSES = 3, 4, 3
SIZES = (5, 3, 8, 6)  # batch 4: short last batches, one client below a batch, one without a rest


def _dense(key, fan_in, fan_out):
    bias, kernel = jax.random.split(key)
    return {
        "bias": jax.random.normal(bias, (fan_out,)) / 4,
        "kernel": jax.random.normal(kernel, (fan_in, fan_out)) / 2,
    }


def _linear(params, inputs):
    # Highest: on an accelerator, too, these tests are about arithmetic and not about TF32.
    return jnp.matmul(inputs, params["kernel"], precision="highest") + params["bias"][None]


def softmax(features=FEATURES, classes=CLASSES):
    """Softmax regression; ravels as bias [C], kernel [F, C], like the oracle's."""
    return Model(
        lambda key: _dense(key, features, classes),
        lambda params, x, key=None: _linear(params, x),
        functools.partial(_units_of, (features, classes)),
    )


def mlp(features=FEATURES, hidden=HIDDEN, classes=CLASSES):
    """One hidden layer of tanh; ravels as bias, kernel, bias, kernel, like the oracle's."""

    def init(key):
        first, second = jax.random.split(key)
        return {"0": _dense(first, features, hidden), "1": _dense(second, hidden, classes)}

    def apply(params, x, key=None):
        return _linear(params["1"], jnp.tanh(_linear(params["0"], x)))

    return Model(init, apply, functools.partial(_units_of, (features, hidden, classes)))


def _units_of(widths):
    """The hidden units of dense layers that ravel as bias, kernel; of one layer, its features.

    A feature is no unit: training moves the entries that read it. Rules must not care.
    """
    feeds, reads, first = [], [], 0
    features = len(widths) == 2
    for place, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        last = place == len(widths) - 2
        own = np.full(fan_out, -1) if last else first + np.arange(fan_out)
        before = first - fan_in + np.arange(fan_in) if place else np.full(fan_in, -1)
        before = np.arange(fan_in) if features else before
        feeds += [own, np.tile(own, fan_in)]
        reads += [np.full(fan_out, -1), np.repeat(before, fan_out)]
        first += 0 if last else fan_out
    feeds, reads = np.int32(np.concatenate(feeds)), np.int32(np.concatenate(reads))
    layers = tuple(widths[:1] if features else widths[1:-1])
    return Units(feeds, reads, np.int32(reads >= 0), layers, incoming=features)


def model_of(name):
    """The smallest model that a method can be of: of one layer no part is another's."""
    return mlp() if name in ("fedper", "lg_fedavg") else softmax()


def world(sizes=SIZES, seed=0, test=7, pad=0, noise=0.3):
    """(Dataset, Clients): ragged clients of a teacher's labels, rows scattered over the set."""
    rng = np.random.default_rng(seed)
    n, width = sum(sizes), max(sizes) + pad
    teacher = rng.normal(size=(FEATURES, CLASSES))

    def draw(count):
        x = rng.normal(size=(count, FEATURES)).astype(np.float32)
        y = np.argmax(x @ teacher + noise * rng.normal(size=(count, CLASSES)), axis=1)
        return x, y.astype(np.int32)

    (x, y), (test_x, test_y) = draw(n), draw(test)
    mask = np.arange(width) < np.array(sizes)[:, None]
    rows = np.zeros(mask.shape, np.int32)
    rows[mask] = rng.permutation(n)
    return Dataset(x, y, test_x, test_y, draw(test)), Clients(rows, mask)


def orders(clients, rounds, epochs, seed=0):
    """[T, N, E, M] an order of every client's slots for every round and epoch, -1 pads."""
    rng = np.random.default_rng(seed)
    mask = np.asarray(clients.mask)
    number, width = mask.shape
    drawn = np.full((rounds, number, epochs, width), -1, np.int32)
    for t, i, e in itertools.product(range(rounds), range(number), range(epochs)):
        size = mask[i].sum()
        drawn[t, i, e, :size] = rng.permutation(size)
    return drawn


def hyper(**changes):
    base = {
        "learning_rate": 0.3,
        "decay": 0.9,
        "gamma": 0.5,
        "alpha": 0.8,
        "beta": 1.0,
        "floor": 1e-3,
        "norm_epsilon": 0.0,
        "cosine_epsilon": 0.0,
        "significance": 0.5,  # of classes of four entries 3 deviations hear nobody
        "clip": 10.0,
    }
    base = Hyper._field_defaults | base
    return Hyper(**{k: jnp.asarray(v, float) for k, v in (base | changes).items()})


def sizes_of(model):
    return tuple(t.stop - t.start for t in vectors.tensors(jax.eval_shape(model.init, _KEY)))


_KEY = jax.random.key(0)


def federation(
    name="cgsv", model=None, hyper=None, options=None, optimizer=optax.sgd, batch=4, per="round",
    **settings,
):  # fmt: skip
    """A federation of one method, built by way of the tables."""
    model, numbers = model or mlp(), hyper if hyper is not None else _hyper()
    options = (options or Options())._replace(tensors=sizes_of(model))
    options = options._replace(network=evaluation_lib.network(model, (FEATURES,)))
    settings["start_loss"] = settings.get("start_loss", name == "q_ffl")
    settings["alone"] = settings.get("alone", name in ("fedsac", "fedrac"))
    settings["losses"] = settings.get("losses", name == "fedave")
    settings = Settings(**({"rounds": 3, "epochs": 2, "eval_batch": 3} | settings))
    schedule = local.decayed(numbers.learning_rate, numbers.decay, per=per, epochs=settings.epochs)
    return Federation(
        model=model,
        trainer=local.trainer(model, optimizer, schedule, batch_size=batch),
        algorithm=METHODS[name](numbers, options),
        settings=settings,
    )


_hyper = hyper


def spy(clients, epochs=2):
    """A trainer that trains nothing and shows, as its state, what it was given.

    The state is (order [E, M], rows [M], labels [M], the key's words).
    """
    slots = jnp.zeros(clients.mask.shape[1], jnp.int32)

    def init(params):
        words = jax.random.key_data(_KEY)
        return jnp.stack([slots] * epochs), slots, slots, jnp.zeros_like(words)

    def update(key, params, opt_state, examples, order, round_):
        seen = (order, examples.rows, examples.labels, jax.random.key_data(key))
        return jax.tree.map(jnp.zeros_like, params), seen, jnp.zeros(())

    return Trainer(init, update, lambda round_: jnp.zeros(()))


def upload(deltas, sizes, present=None, clients=None, server=None, seed=0):
    """What the simulation sends for these raw updates [N, D], absent rows zeroed as it does."""
    deltas = jnp.asarray(deltas)
    count, dimension = deltas.shape
    present = jnp.ones(count, bool) if present is None else jnp.asarray(present, bool)
    deltas = jnp.where(present[:, None], deltas, 0)
    rng = np.random.default_rng(seed)
    server = rng.normal(size=dimension) if server is None else server
    clients = rng.normal(size=(count, dimension)) if clients is None else clients
    norms = vectors.norms(deltas)
    losses = 5 / (2 + jnp.asarray(sizes, deltas.dtype))  # a client's own, wherever it is listed
    return Upload(
        server=jnp.asarray(server, deltas.dtype),
        clients=jnp.asarray(clients, deltas.dtype),
        deltas=deltas,
        norms=norms,
        scales=jnp.ones_like(norms),
        present=present,
        num_examples=jnp.asarray(sizes, jnp.int32),
        loss=jnp.where(present, losses, jnp.nan),
        start_loss=jnp.where(present, 2 * losses, jnp.nan),
        learning_rate=jnp.asarray(0.1, deltas.dtype),
        validation=(
            jnp.asarray(rng.normal(size=(8, FEATURES)), deltas.dtype),
            jnp.asarray(rng.integers(CLASSES, size=8), jnp.int32),
        ),
        round=jnp.int32(0),
        alone=losses / (1 + losses),  # likewise
        losses=_example_losses(jnp.asarray(sizes), deltas.dtype),
        own=jnp.where(present[:, None], deltas[:, ::-1], 0),
        gradients=jnp.where(present[:, None], deltas[:, ::-1], 0),
    )


def attended(federation, present):
    """The federation in which these [T, N] take part; who is away is not in the cohort."""
    schedule = np.full(present.shape, -1)
    for t, here in enumerate(present):
        schedule[t, : here.sum()] = np.flatnonzero(here)
    return federation._replace(participation=participation.given(schedule))


def played(key, data, clients, orders, federation, state=None):
    """The state and the record after every round, from a state or the first one."""
    state = simulation.init(key, len(clients.mask), federation) if state is None else state
    one_round = jax.jit(
        lambda state, order: simulation.round_(key, state, data, clients, federation, order)
    )
    seen = []
    for order in orders:
        state, record = one_round(state, order)
        seen.append((state, record))
    return seen


@functools.partial(jax.jit, static_argnums=1)
def _example_losses(sizes, dtype):
    """A few batches of 64 of most clients, one of some; a client's own, wherever it is listed."""
    sizes = sizes.astype(jnp.int32)
    keys = jax.vmap(lambda n: jax.random.fold_in(_KEY, n))(sizes)
    drawn = jax.vmap(lambda key: jax.random.exponential(key, (2, 150), jnp.float32))(keys)
    held = jnp.arange(150)[None, :] < jnp.minimum(20 * sizes, 150)[:, None]
    return Losses(drawn[:, 0].astype(dtype), held, drawn[:, 1].astype(dtype))


def network(length=20):
    """A linear classifier in the first F C + C entries of a vector of any length, for rules.

    Only its units know the length, of which a third is fed by three units and as much read by them.

    Its accuracy is the mean probability of the true class: hard ones of a few rows tie, and what a
    tie decides at the edge of a quota is a rounding.
    """
    size = FEATURES * CLASSES

    def judged(weights, inputs, labels):
        kernel = weights[:, :size].reshape(-1, FEATURES, CLASSES)
        bias = weights[:, None, size : size + CLASSES]
        logits = jnp.einsum("bf,kfc->kbc", inputs, kernel, precision="highest") + bias
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.broadcast_to(labels, logits.shape[:2])
        )

    def evaluate(weights, inputs, labels):
        losses = judged(weights, inputs, labels)
        return jnp.mean(jnp.exp(-losses), axis=1), jnp.mean(losses, axis=1)

    def gradient(weights, inputs, labels):
        return jax.grad(lambda w: jnp.mean(judged(w[None, :], inputs, labels)))(weights)

    places = np.arange(size).reshape(FEATURES, CLASSES).T
    places = np.c_[places, size + np.arange(CLASSES)].astype(np.int32)
    below = size + CLASSES, size + CLASSES + 8  # of vectors of 20 entries and more
    layers = (below,), ((0, below[0]),)
    place = np.arange(length)
    feeds = np.int32(np.where(place % 3 == 1, place // 3 % 3, -1))
    reads = np.int32(np.where(place % 3 == 2, place // 9 % 3, -1))
    units = Units(feeds, reads, np.int32(reads >= 0), (3,), incoming=True)
    return Network(evaluate, lambda: places, gradient, units=lambda: units, layers=lambda: layers)


@pytest.fixture(autouse=True)
def own_trace_counter():
    """chex counts traces by a function's name, which parametrised tests share."""
    chex.clear_trace_counter()


@pytest.fixture
def own_folders(monkeypatch, tmp_path):
    """No test reads or writes the user's cache, or finds the user's data by accident."""
    monkeypatch.setenv("CGSV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def tiny():
    """The helpers of this file."""
    return SimpleNamespace(
        softmax=softmax, mlp=mlp, model_of=model_of, world=world, orders=orders, hyper=hyper,
        federation=federation, attended=attended, played=played,
        upload=upload, network=network, spy=spy, sizes_of=sizes_of, sizes=SIZES,
        features=FEATURES, hidden=HIDDEN, classes=CLASSES,
    )  # fmt: skip


@pytest.fixture(scope="session")
def forks():
    """Runs commands in processes that cost next to nothing, see tests/forks.py."""
    with _forked() as command:
        yield command


@pytest.fixture
def forking():
    """What `forks` is made by: options of tests/forks.py and variables -> a context of commands."""
    return _forked


@contextlib.contextmanager
def _forked(*options, **variables):
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
        environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forks.py")), *options],
            env=environment | variables,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:

            def command(*words, **job):
                job = {"words": [str(word) for word in words], **job}
                server.stdin.write(json.dumps(job, default=str) + "\n")
                server.stdin.flush()
                return SimpleNamespace(**json.loads(server.stdout.readline()))

            yield command
            server.stdin.close()


@pytest.fixture(scope="session")
def finished():
    """One compiled run shared by many assertions: cgsv, four rounds, evaluated after each.

    Its orders are given, because compiling the draws takes longer than all the rest.
    """
    data, clients = world()
    chosen, key = federation(rounds=4), jax.random.key(7)
    drawn = orders(clients, 4, 2)
    run = jax.jit(
        lambda key, data, clients, orders: simulation.run(key, data, clients, chosen, orders)
    )
    arguments = jax.device_put((key, data, clients, drawn))
    state, record, evaluation = run(*arguments)
    return SimpleNamespace(
        run=run, arguments=arguments, key=key, data=arguments[1], clients=arguments[2],
        orders=drawn, federation=chosen, state=state, record=record, evaluation=evaluation,
    )  # fmt: skip
