"""Our side of a `Work`, the comparison that precedes every timing, and how repeats are paired.

The comparison has two halves, both from one given state. Training: dw of a few clients over two
mini-batches. The server: everything from uploads to models, from the SAME dw on both sides, so that
its tolerance is that of sums and not that of training.

It is done in float64 first, where nothing but a mistake can differ by more than 1e-9, and then in
the precision that is timed, where two things beside rounding may differ:

* Two entries of a pooling window can be so near that rounding decides which is the larger. Its
  gradient then goes to another patch, and one such window in millions shows in dw. An error of
  layout, of a gradient or of the loss gives gaps of order 1.
* An entry of u_N so near a client's threshold that rounding decides whether it is received. How
  many of these there can be follows from the numbers themselves: see `_check_rewards`.
"""

import argparse
import contextlib
import importlib.util
import itertools
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import table
from benchmarks.pytorch.work import Work, shortened, shuffled
from benchmarks.pytorch.worker import Ask
from cgsv_jax import models
from cgsv_jax.core import layout, local, simulation, vectors
from cgsv_jax.experiment import timing
from cgsv_jax.rules import methods, reward
from cgsv_jax.types import (
    Algorithm,
    Clients,
    Dataset,
    Download,
    Federation,
    Model,
    Record,
    Settings,
    State,
    Trainer,
    Upload,
)

KEY = jax.random.key(0)  # every draw that matters is given; what is left has no effect

VOCABULARY = 16_583  # V of SST
TEXT = "without dropout, whose draws differ; padding counts on neither side"

# Largest relative gap of dw after two steps, by precision; "default" may multiply in TF32, which
# keeps 10 bits, so that thousands of times more windows are within rounding of a tie.
STEP_GAP = {"float64": 1e-9, "float32": 1e-2, "default": 1e-1}


# ---------------------------------------------------------------- works


def random_work(
    network: str,
    sizes: Sequence[int],
    *,
    batch_size: int,
    learning_rate: float,
    epochs: int = 1,
    rounds: int = 2,
    test_rows: int = 200,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    **options: Any,
) -> Work:
    """Random examples of the size of those that a network is for, with random labels.

    Images have a constant border, as MNIST's: pooling meets ties there. Sentences are as long as
    SST's, a third of the longest on average, and their words as frequent as Zipf's law has it.

    Args:
        network: "mnist_cnn", "cifar_cnn", "mlp" or "text_cnn".
        sizes: [N] rows of each client.
        batch_size: B.
        learning_rate: eta.
        epochs: E.
        rounds: T, of batch orders.
        test_rows: examples to evaluate on.
        seed: of everything.
        vocabulary: V of the text network; SST's by default.
        **options: further fields of `Work`.
    """
    rng = np.random.default_rng(seed)
    shape, classes = {
        "mnist_cnn": ((32, 32, 1), 10),
        "cifar_cnn": ((32, 32, 3), 10),
        "mlp": ((8, 8, 1), 10),
        "text_cnn": ((56,), 5),
    }[network]
    text = {"vocabulary": vocabulary} if network == "text_cnn" else {}
    model, sizes = models.MODELS[network](shape, classes, **text), np.asarray(sizes)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        if text:
            examples = _sentences(rng, count, shape[0], vocabulary)
        else:
            examples = rng.normal(size=(count, *shape)).astype(np.float32)
            examples[:, : shape[0] // 5] = examples[:, :, -(shape[1] // 5) :] = -0.42
        return examples, rng.integers(0, classes, count).astype(np.int32)

    inputs, labels = draw(sizes.sum())
    test_inputs, test_labels = draw(test_rows)
    mask = np.arange(sizes.max()) < sizes[:, None]
    rows = np.zeros(mask.shape, np.int32)
    rows[mask] = rng.permutation(sizes.sum())
    return Work(
        network=network,
        start=random_start(model, rng),
        inputs=inputs,
        labels=labels,
        rows=rows,
        sizes=sizes,
        orders=shuffled(rng, sizes, rounds, epochs),
        test_inputs=test_inputs,
        test_labels=test_labels,
        batch_size=batch_size,
        learning_rate=learning_rate,
        epochs=epochs,
        **options,
    )


def _sentences(rng: np.random.Generator, count: int, length: int, vocabulary: int) -> np.ndarray:
    """Tokens [count, length] int32, 0 after the last word."""
    words = np.clip(rng.normal(length / 3, length / 6, count), 1, length).astype(int)
    # A logarithm that is uniform makes token k as frequent as 1 / k.
    tokens = np.minimum(vocabulary ** rng.random((count, length)), vocabulary - 1)
    return np.where(np.arange(length) < words[:, None], tokens, 0).astype(np.int32)


def random_start(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As PyTorch starts, by its names.

    U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases, a standard normal for an embedding.
    Not by `model.init`: that takes seconds to compile, for numbers that any generator can draw.
    """
    shapes = jax.eval_shape(model.init, KEY)
    zeros = models.params_to_torch(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    start, bound = {}, 1.0
    for name, array in zeros.items():
        if array.ndim > 1:  # a bias follows the weight that it belongs to
            bound = math.prod(array.shape[1:]) ** -0.5
        if name.startswith("embed"):
            start[name] = rng.normal(size=array.shape).astype(np.float32)
        else:
            start[name] = rng.uniform(-bound, bound, array.shape).astype(np.float32)
    return start


# ---------------------------------------------------------------- our side


class Ours(NamedTuple):
    """A work in this package's terms."""

    model: Model
    trainer: Trainer
    algorithm: Algorithm
    settings: Settings
    data: Dataset
    clients: Clients
    tensors: tuple[int, ...]  # sizes, in raveled order
    positions: np.ndarray  # [D], where entry j of PyTorch's flat vector lies in ours

    @property
    def federation(self) -> Federation:
        """What the simulation takes."""
        return Federation(self.model, self.trainer, self.algorithm, self.settings)


def model_of(work: Work, conv: str = "auto") -> Model:
    """The package's network of that name, without dropout: its draws are no other library's."""
    shape, classes = work.inputs.shape[1:], list(work.start.values())[-1].size
    if work.network == "mlp":
        return models.mlp(shape, classes, hidden=work.hidden)
    if work.network == "text_cnn":
        options = dict(zip(("vocabulary", "embedding", "kernels"), work.words, strict=True))
        return models.text_cnn(shape, classes, dropout=0.0, **options)
    return models.MODELS[work.network](shape, 10, conv=conv)


def ours(
    work: Work,
    width: int | str | None = "default",
    dtype: Any = np.float32,
    conv: str = "auto",
    precision: str = "default",
) -> Ours:
    """The package's parts for a work; its default layout, convolution, precision unless given."""
    model = model_of(work, conv)
    shapes = jax.eval_shape(model.init, KEY)
    places = vectors.tensors(shapes)
    leaves = [np.arange(t.start, t.stop).reshape(t.shape) for t in places]
    tree = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    names = models.params_to_torch(tree)
    tensors = tuple(t.stop - t.start for t in places)
    per = "round" if work.setting == "paper" else "epoch"
    schedule = local.decayed(work.learning_rate, work.decay, per=per, epochs=work.epochs)
    numbers = (work.gamma, work.alpha, work.beta)
    algorithm = {
        ("cgsv", "paper"): lambda: methods.cgsv(*numbers),
        ("cgsv", "released"): lambda: methods.cgsv_released(tensors, *numbers),
        ("fedavg", "paper"): methods.fedavg,
        ("standalone", "paper"): methods.standalone,
    }[work.method, work.setting]()
    optimizer = {"sgd": optax.sgd, "adam": optax.adam}[work.optimizer]
    mask = np.arange(work.rows.shape[1]) < work.sizes[:, None]
    inputs, test_inputs = (
        x if work.network == "text_cnn" else x.astype(dtype)
        for x in (work.inputs, work.test_inputs)
    )
    data = Dataset(inputs, work.labels, test_inputs, work.test_labels)
    return Ours(
        model=model,
        trainer=local.trainer(
            model, optimizer, schedule, batch_size=work.batch_size, precision=precision
        ),
        algorithm=algorithm,
        settings=Settings(
            rounds=1,
            epochs=work.epochs,
            width=layout.default_width() if width == "default" else width,
        ),
        data=jax.device_put(data),
        clients=jax.device_put(Clients(work.rows, mask)),
        tensors=tensors,
        positions=np.concatenate([names[n].ravel() for n in work.start]),
    )


def start(work: Work, side: Ours, dtype: Any = np.float32) -> State:
    """The state before round 0, from the work's start."""

    @jax.jit
    def init(given: Any) -> State:
        model = side.model._replace(init=lambda key: given)
        return simulation.init(KEY, work.num_clients, side.federation._replace(model=model))

    given = models.params_from_torch(work.start)
    return init(jax.tree.map(lambda x: np.asarray(x, dtype), given))


def training(side: Ours) -> Callable[..., Any]:
    """Local training of all: (key, state, data, clients, orders) -> dw [N, D], norms [N]."""

    def train(key: Any, state: State, data: Dataset, clients: Clients, orders: jax.Array) -> Any:
        upload, _ = simulation.train(key, state, data, clients, side.federation, orders)
        return upload.deltas, upload.norms

    return train


def train_call(side: Ours, state: State, orders: np.ndarray) -> Callable[[], Any]:
    """A call of `training`, in one program."""
    train, orders = jax.jit(training(side)), jax.device_put(orders)
    return lambda: train(KEY, state, side.data, side.clients, orders)


def evaluate_call(side: Ours, state: State) -> Callable[[], Any]:
    """Test accuracy and loss of every client's model and the server's, in one program."""

    @jax.jit
    def evaluate(state: State, inputs: jax.Array, labels: jax.Array) -> Any:
        return simulation.evaluate(state, inputs, labels, side.federation)

    return lambda: evaluate(state, side.data.test_inputs, side.data.test_labels)


def upload_of(state: State, deltas: jax.Array, norms: jax.Array, sizes: jax.Array) -> Upload:
    """What the server would see had the clients trained to these dw."""
    count = norms.size
    return Upload(
        server=state.server,
        clients=state.clients,
        deltas=deltas,
        norms=norms,
        scales=jnp.ones_like(norms),
        present=jnp.ones(count, bool),
        num_examples=sizes,
        loss=jnp.zeros_like(norms),
        learning_rate=jnp.ones((), norms.dtype),
        validation=None,
        round=state.round,
    )


# ---------------------------------------------------------------- arithmetic that is needed


def step_flops(work: Work) -> float:
    """FLOPs per row of one local step: value, gradient and update, with plain convolutions.

    The plain form is the arithmetic that the method needs; the package's own form of a convolution
    does more of it, in larger pieces. Of the text network see `_words_flops`: thrice that, since a
    product has a gradient for either factor.
    """
    if work.network == "text_cnn":
        return 3 * _words_flops(work, work.inputs)
    model, batch = model_of(work, conv="lax"), work.batch_size

    def step(params: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = model.apply(params, inputs, KEY)
            return jnp.mean(local.negative_log_likelihood(logits, labels))

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    return timing.cost(step, *_shapes(work, model, batch))[0] / batch


def forward_flops(work: Work, batch: int = 100) -> float:
    """FLOPs per row of a forward pass with plain convolutions."""
    if work.network == "text_cnn":
        return _words_flops(work, work.test_inputs)
    model = model_of(work, conv="lax")
    params, inputs, _ = _shapes(work, model, batch)
    return timing.cost(model.apply, params, inputs)[0] / batch


def _words_flops(work: Work, tokens: np.ndarray) -> float:
    """FLOPs per sentence of the text network's products, over its windows of words alone.

    XLA counts the package's form as one turn of its loop, and the plain form with all the padding,
    which is more than the method needs.
    """
    height, (_, embedding, kernels) = work.start["conv1.weight"].shape[2], work.words
    windows = np.maximum((tokens != 0).sum(axis=1) - height + 1, 1).mean()
    responses = 3 * kernels  # of three convolutions
    return 2 * responses * float(height * embedding * windows + work.start["fc1.bias"].size)


def _shapes(work: Work, model: Model, batch: int) -> tuple:
    inputs = jax.ShapeDtypeStruct((batch, *work.inputs.shape[1:]), jnp.float32)
    return jax.eval_shape(model.init, KEY), inputs, jax.ShapeDtypeStruct((batch,), jnp.int32)


# ---------------------------------------------------------------- agreement


def agree(
    ask: Ask,
    work: Work,
    kinds: Sequence[str] = ("sequential",),
    *,
    precisions: Sequence[str] = ("float64", "float32"),
    **options: Any,
) -> str:
    """Compares our side with PyTorch's on two rounds of a shortened work, before anything is timed.

    Args:
        ask: a worker; what it held before is replaced.
        work: what will be timed.
        kinds: sides of PyTorch.
        precisions: one after the other, of "float64", "float32" and "default".
        **options: of PyTorch's sides.

    Returns:
        In words, the largest gap of dw in the last precision.

    Raises:
        RuntimeError: saying what differs, and by how much.
    """
    for precision in precisions:
        with _precision(precision):
            gap = _two_rounds(ask, shortened(work), kinds, precision, options)
    return f"dw agree within {gap:.0e}"


@contextlib.contextmanager
def _precision(precision: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if precision == "float64":
            stack.enter_context(jax.enable_x64(True))
        if precision == "float32":
            stack.enter_context(jax.default_matmul_precision("float32"))
        yield


def in_precision(precision: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, traced and run in that precision: it belongs to what jit compiles for."""

    def wrapped() -> Any:
        with _precision(precision):
            return call()

    return wrapped


def _two_rounds(
    ask: Ask, work: Work, kinds: Sequence[str], precision: str, options: Mapping[str, Any]
) -> float:
    dtype = np.float64 if precision == "float64" else np.float32
    side = ours(work, dtype=dtype)
    state = start(work, side, dtype)
    torch_precision = "default" if precision == "default" else "float32"
    chosen = {"dtype": np.dtype(dtype).name, "precision": torch_precision, **options}

    @jax.jit
    def train(state: State, data: Dataset, clients: Clients, orders: jax.Array) -> Any:
        return simulation.train(KEY, state, data, clients, side.federation, orders)

    @jax.jit
    def serve(state: State, upload: Upload, optimizer: Any) -> Any:
        download, _, _ = side.algorithm.update(KEY, upload, state.algorithm)
        new, record = simulation.serve(KEY, state, upload, optimizer, side.federation)
        ratio = reward.ratios(record.reputation, upload.present, work.beta)
        return download, new, record, ratio

    before, rounds = [], []
    for orders in work.orders[:2]:
        before.append(state)
        upload, optimizer = train(state, side.data, side.clients, jnp.asarray(orders))
        rounds.append((upload.deltas, *serve(state, upload, optimizer)))
        state = rounds[-1][2]
    gaps = []
    for kind in kinds:
        ask("start", kind, work, **chosen)
        for t, (old, (deltas, *served)) in enumerate(zip(before, rounds, strict=True)):
            clients, server, deltas = (
                np.asarray(x)[..., side.positions] for x in (old.clients, old.server, deltas)
            )
            reputation = np.asarray(old.algorithm.standing.reputation)
            ask("set_state", clients, server, reputation, t == 0)
            ask("train", round=t)
            gaps.append(_check_training(ask("look", "deltas")["deltas"], deltas, precision, kind))
            ask("set_deltas", deltas)
            ask("serve")
            _check_server(work, side, ask, *served)
    return max(gaps)


def _check_training(theirs: np.ndarray, deltas: np.ndarray, precision: str, kind: str) -> float:
    """Largest ‖ours - theirs‖ / ‖theirs‖ over clients."""
    difference = np.linalg.norm(np.float64(deltas) - theirs, axis=1)
    gap = float((difference / np.linalg.norm(np.float64(theirs), axis=1)).max())
    if not gap <= STEP_GAP[precision]:
        raise RuntimeError(
            f"local training disagrees with PyTorch ({kind}, {precision}): relative gap {gap:.1e}, "
            f"allowed {STEP_GAP[precision]:.0e}"
        )
    return gap


def _check_server(
    work: Work,
    side: Ours,
    ask: Ask,
    download: Download,
    new: State,
    record: Record,
    ratio: jax.Array,
) -> None:
    names = ("score", "reputation", "ratio", "aggregate", "rewards", "clients", "server")
    theirs = ask("look", *names)
    aggregate = np.asarray(download.aggregate)[side.positions]
    # Sums of D products err by about sqrt(D) roundings; a few of them stand in one line.
    allowed = 8 * math.sqrt(aggregate.size) * np.finfo(aggregate.dtype).eps
    length = np.linalg.norm(aggregate)
    pairs = {
        "cosines": (record.score, theirs["score"], 1.0),
        "reputations": (record.reputation, theirs["reputation"], 1.0),
        "ratios": (ratio, theirs["ratio"], 1.0),
        "aggregate": (aggregate, theirs["aggregate"], length),
        "server": (np.asarray(new.server)[side.positions], theirs["server"], length + 1.0),
    }
    for name, (mine, other, size) in pairs.items():
        gap = float(np.abs(np.asarray(mine) - other).max() / size)
        if not gap <= allowed:
            raise RuntimeError(f"{name} differ from PyTorch's by {gap:.1e}, allowed {allowed:.0e}")
    _check_rewards(
        np.asarray(download.rewards)[:, side.positions],
        theirs["rewards"],
        aggregate,
        _segments(work),
        slack=2 * float(np.abs(aggregate - theirs["aggregate"]).max()),
        ratio_error=allowed,
    )
    # What both received moves both alike.
    same = (np.asarray(download.rewards)[:, side.positions] != 0) == (theirs["rewards"] != 0)
    moved = np.abs(np.asarray(new.clients)[:, side.positions] - theirs["clients"])
    if not moved[same].max() <= allowed * (length + 1.0):
        raise RuntimeError(f"clients' models differ from PyTorch's by {moved[same].max():.1e}")


def _segments(work: Work) -> np.ndarray:
    """Borders of what is masked on its own, in PyTorch's order."""
    lengths = [x.size for x in work.start.values()]
    return np.cumsum([0, *lengths]) if work.setting == "released" else np.array([0, sum(lengths)])


def _check_rewards(
    mine: np.ndarray,
    theirs: np.ndarray,
    aggregate: np.ndarray,
    borders: np.ndarray,
    slack: float,
    ratio_error: float,
) -> None:
    """Both sides send the same entries, up to those that rounding decides.

    An entry of u_N moves by at most `slack / 2` between the sides and so does a threshold, hence
    only entries within `slack` of the threshold can be received on one side alone, and a ratio that
    is off by `ratio_error` shifts the number of entries of a segment by at most its length times
    that, plus one.
    """
    for first, last in itertools.pairwise(borders):
        magnitudes = np.abs(aggregate[first:last])
        descending = np.sort(magnitudes)[::-1]
        for one, other in zip(mine[:, first:last] != 0, theirs[:, first:last] != 0, strict=True):
            kept = one.sum()
            threshold = descending[max(kept - 1, 0)]
            near = (np.abs(magnitudes - threshold) <= slack).sum()
            allowed = near + 1 + math.ceil(len(one) * ratio_error)
            if (one != other).sum() > allowed:
                raise RuntimeError(
                    f"{(one != other).sum()} of {len(one)} entries are received on one side only, "
                    f"rounding explains {allowed}"
                )


def check_evaluation(theirs: tuple[np.ndarray, np.ndarray], result: Any, rows: int) -> str:
    """Accuracies may differ where two logits are within rounding: a row in a thousand, or one.

    Raises:
        RuntimeError: they differ by more, or the losses do.
    """
    accuracy, loss = (
        np.append(np.asarray(clients), np.asarray(server))
        for clients, server in (
            (result.accuracy, result.server_accuracy),
            (result.loss, result.server_loss),
        )
    )
    apart = int(np.abs(accuracy - theirs[0]).max() * rows + 0.5)
    relative = float(np.abs(loss / theirs[1] - 1).max())
    if apart > max(1, rows // 1000) or not relative < 1e-3:
        raise RuntimeError(
            f"evaluation differs from PyTorch's by {apart} of {rows} rows, losses by {relative:.1e}"
        )
    return f"accuracies agree within {apart} of {rows} rows"


# ---------------------------------------------------------------- timing


class Measured(NamedTuple):
    """Two sides timed in turn."""

    ours: timing.Timing
    theirs: timing.Timing
    ratio: timing.Timing  # theirs / ours, neighbours in time


def in_turn(
    mine: Callable[[], Any], theirs: Callable[[], Any], repeats: int = 5, slow: int | None = None
) -> Measured:
    """Times two calls in turn after one call of each that does not count.

    Args:
        mine: our call.
        theirs: the yardstick's.
        repeats: of ours.
        slow: of theirs, where a call takes minutes; default: as many. Each is followed by an equal
            share of ours, and divided by each of them.
    """
    slow = min(slow or repeats, repeats)
    timing.once(mine)
    if slow == repeats:
        timing.once(theirs)
    # A yardstick of minutes is warm after its first second, and is not run once for nothing.
    seconds: dict[str, list[float]] = {"ours": [], "theirs": [], "ratio": []}
    for block in np.array_split(np.arange(repeats), slow):
        seconds["theirs"].append(timing.once(theirs))
        for _ in block:
            seconds["ours"].append(timing.once(mine))
            seconds["ratio"].append(seconds["theirs"][-1] / seconds["ours"][-1])
    return Measured(**{name: timing.summary(times) for name, times in seconds.items()})


def per(times: timing.Timing, count: int) -> timing.Timing:
    """Of each of so many equal parts."""
    return timing.summary([seconds / count for seconds in times.seconds])


def faster(calls: Mapping[Any, Callable[[], Any]]) -> Any:
    """The key of the call that takes the least time, of two tries each."""
    times = timing.alternate(calls, repeats=2, warmup=0)
    return min(times, key=lambda name: min(times[name].seconds))


def said(command: Sequence[str], **environment: str) -> str:
    """The last line that a process of its own prints.

    Raises:
        RuntimeError: it failed, with the end of what it complained of.
    """
    own = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout.splitlines()[-1]


def torch_version() -> str:
    """Of the yardstick; rows that need it refuse to run without it, others only name it."""
    return version("torch") if importlib.util.find_spec("torch") else "(not installed)"


def against(kind: str, threads: int | None = None) -> str:
    """How a yardstick is called in the table."""
    where = f", {threads} threads" if threads else ""
    return f"PyTorch {torch_version()} {kind}{where}"


# ---------------------------------------------------------------- the command

PATIENCE = 180.0  # seconds in which the load of the benchmark before dies away
ASLEEP = 5.0  # seconds in which what is busy is another's


def load() -> float:
    """How many cores the machine keeps busy, apart from what this process has just done.

    The load of the last minute; where it is above what is idle, as it is after a question, at most
    the cores that are busy while this process sleeps for a few seconds (by psutil).
    """
    average = os.getloadavg()[0]
    if average <= table.MOST_LOAD or not importlib.util.find_spec("psutil"):
        return average
    import psutil

    return min(average, psutil.cpu_percent(ASLEEP) / 100 * (psutil.cpu_count() or 1))


def answered(
    rows: Callable[[str], list[table.Row]], scale: str, patience: float | None = None
) -> list[table.Row]:
    """The rows of a question with the machine's load before it, and that of the minute after.

    Args:
        rows: the question.
        scale: "smoke" or "full".
        patience: seconds to wait at most for an idle machine; default: none for "smoke".
    """
    patience = PATIENCE * (scale != "smoke") if patience is None else patience
    end = time.monotonic() + patience
    while (before := load()) > table.MOST_LOAD and time.monotonic() < end:
        time.sleep(1.0)
    found = rows(scale)
    return [row._replace(load=(before, os.getloadavg()[0])) for row in found]


def main(
    rows: Callable[[str], list[table.Row]], description: str, argv: Sequence[str] | None = None
) -> None:
    """`python -m benchmarks.<name> [--scale smoke|full]`: prints the table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--scale", choices=("smoke", "full"), default="full", help="smoke: numbers mean nothing"
    )
    options = parser.parse_args(argv)
    device = jax.devices()[0]
    print(f"{device.device_kind} x {jax.device_count()}, jax {jax.__version__}\n")
    print(table.show(answered(rows, options.scale)))
