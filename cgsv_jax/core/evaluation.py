"""The model as rules see it: vectors in, accuracy and loss out."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from cgsv_jax.core import layout, local, vectors
from cgsv_jax.core import units as units_lib
from cgsv_jax.types import Answers, Array, ArrayTree, Model, Network, Spans


def scorer(model: Model, batch: int) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """A function of ONE model: (inputs [n, ...], labels [n], weights [D]) -> (accuracy, loss) [].

    Args:
      model: the network; it is evaluated without a key.
      batch: rows per forward pass, at most.
    """
    judge = _judge(model, batch, each=False)

    def score(inputs: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
        accuracy, loss, _ = judge(inputs, labels, weights)
        return accuracy, loss

    return score


def answerer(
    model: Model, batch: int
) -> Callable[[Array, Array, Array], tuple[Array, Array, Answers]]:
    """As `scorer`, with what the model makes of every row: leaves [n], in the rows' order."""
    judge = _judge(model, batch, each=True)

    def score(inputs: Array, labels: Array, weights: Array) -> tuple[Array, Array, Answers]:
        accuracy, loss, answers = judge(inputs, labels, weights)
        assert answers is not None
        return accuracy, loss, answers

    return score


def _judge(
    model: Model, batch: int, each: bool
) -> Callable[[Array, Array, Array], tuple[Array, Array, Answers | None]]:
    """`scorer` and `answerer`; rows are only kept apart where `each` asks for them."""
    unravel = vectors.unraveler(_shapes(model))

    def judge(inputs: Array, labels: Array, weights: Array) -> tuple[Array, Array, Answers | None]:
        rows = labels.size
        size = min(batch, rows)
        params = unravel(weights)

        def one_batch(step: Array) -> tuple[Array, Array, Answers | None]:
            # The last batch starts early enough to be whole; rows seen before do not count again.
            start = jnp.minimum(step * size, rows - size)
            x = jax.lax.dynamic_slice_in_dim(inputs, start, size)
            y = jax.lax.dynamic_slice_in_dim(labels, start, size)
            fresh = start + jnp.arange(size) >= step * size
            logits = model.apply(params, x)
            right = jnp.where(fresh, jnp.argmax(logits, axis=-1) == y, False)
            losses = jnp.where(fresh, local.negative_log_likelihood(logits, y), 0.0)
            own = Answers(right, losses) if each else None
            return jnp.sum(right), jnp.sum(losses), own

        def in_order(x: Array) -> Array:
            """[batches, size] -> [n]: of the last batch those rows that none before it has."""
            whole = x[:-1].reshape(-1)
            return jnp.concatenate([whole, x[-1, whole.size - rows :]])

        right, losses, own = jax.lax.map(one_batch, jnp.arange(-(-rows // size)))
        return jnp.sum(right) / rows, jnp.sum(losses) / rows, jax.tree.map(in_order, own)

    return judge


def _over_slots(model: Model, batch: int, of: Callable[..., Array]) -> Callable[..., Array]:
    """`of(logits [B, C], labels [B], mask [B])` of ONE client's model on every batch of its slots.

    (inputs [n, ...], rows [M], mask [M], labels [M], weights [D]) -> [batches, ...]. Slots that
    fill up the last batch are masked, and of row 0.
    """
    unravel = vectors.unraveler(_shapes(model))

    def values(inputs: Array, rows: Array, mask: Array, labels: Array, weights: Array) -> Array:
        size = min(batch, rows.size)
        params = unravel(weights)
        short = -rows.size % size

        def one_batch(slots: tuple[Array, Array, Array]) -> Array:
            rows, mask, labels = slots
            return of(model.apply(params, inputs[rows]), labels, mask)

        slots = (jnp.pad(x, (0, short)).reshape(-1, size) for x in (rows, mask, labels))
        return jax.lax.map(one_batch, tuple(slots))

    return values


def mean_loss(model: Model, batch: int) -> Callable[..., Array]:
    """F_i, the mean loss of ONE client's model on its own rows.

    (inputs [n, ...], rows [M], mask [M], labels [M], weights [D]) -> []; 0 without rows.

    Args:
      model: the network; it is evaluated without a key.
      batch: rows per forward pass, at most.
    """

    def total(logits: Array, labels: Array, mask: Array) -> Array:
        return jnp.sum(jnp.where(mask, local.negative_log_likelihood(logits, labels), 0.0))

    totals = _over_slots(model, batch, total)

    def loss(inputs: Array, rows: Array, mask: Array, labels: Array, weights: Array) -> Array:
        found = totals(inputs, rows, mask, labels, weights)
        return jnp.sum(found) / jnp.maximum(jnp.sum(mask), 1)

    return loss


def own_accuracy(model: Model, batch: int) -> Callable[..., Array]:
    """The accuracy of ONE client's model on rows that are its own; arguments as of `mean_loss`.

    NaN without rows.
    """

    def right(logits: Array, labels: Array, mask: Array) -> Array:
        return jnp.sum((jnp.argmax(logits, axis=-1) == labels) & mask)

    totals = _over_slots(model, batch, right)

    def accuracy(inputs: Array, rows: Array, mask: Array, labels: Array, weights: Array) -> Array:
        return jnp.sum(totals(inputs, rows, mask, labels, weights)) / jnp.sum(mask)

    return accuracy


def example_losses(model: Model, batch: int) -> Callable[..., Array]:
    """Losses of ONE client's model, example by example.

    (inputs [n, ...], rows [M], labels [M], weights [D]) -> [M]; what stands in padding slots is of
    row 0.

    Args:
      model: the network; it is evaluated without a key.
      batch: rows per forward pass, at most.
    """

    def each(logits: Array, labels: Array, mask: Array) -> Array:
        del mask
        return local.negative_log_likelihood(logits, labels)

    of_batches = _over_slots(model, batch, each)

    def losses(inputs: Array, rows: Array, labels: Array, weights: Array) -> Array:
        mask = jnp.ones(rows.shape, bool)
        return of_batches(inputs, rows, mask, labels, weights).reshape(-1)[: rows.size]

    return losses


def gradient(model: Model, batch: int) -> Callable[[Array, Array, Array], Array]:
    """The gradient of ONE model's mean loss: (weights [D], inputs [n, ...], labels [n]) -> [D].

    Args:
      model: the network; it is evaluated without a key.
      batch: rows per forward and backward pass, at most.
    """
    unravel = vectors.unraveler(_shapes(model))

    def slope(weights: Array, inputs: Array, labels: Array) -> Array:
        rows = labels.size
        size = min(batch, rows)

        def total(weights: Array, x: Array, y: Array, fresh: Array) -> Array:
            losses = local.negative_log_likelihood(model.apply(unravel(weights), x), y)
            return jnp.sum(jnp.where(fresh, losses, 0.0))

        def one_batch(step: Array, found: Array) -> Array:
            # As in evaluation: the last batch starts early, rows seen before do not count again.
            start = jnp.minimum(step * size, rows - size)
            x = jax.lax.dynamic_slice_in_dim(inputs, start, size)
            y = jax.lax.dynamic_slice_in_dim(labels, start, size)
            fresh = start + jnp.arange(size) >= step * size
            return found + jax.grad(total)(weights, x, y, fresh)

        nothing = jnp.zeros_like(weights)
        return jax.lax.fori_loop(0, -(-rows // size), one_batch, nothing) / rows

    return slope


def network(
    model: Model,
    input_shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike = jnp.float32,
    *,
    batch: int = 500,
    width: int | None = None,
) -> Network:
    """What rules that judge models, or look at the last layer, are given.

    Args:
      model: the network.
      input_shape: of one row.
      dtype: of the inputs.
      batch: rows per forward pass.
      width: models evaluated together, see `layout.over_clients`.
    """
    score = scorer(model, batch)

    @jax.jit  # called eagerly, its loops are otherwise compiled in every call
    def evaluate(weights: Array, inputs: Array, labels: Array) -> tuple[Array, Array]:
        shared = (jnp.asarray(inputs), jnp.asarray(labels))
        return layout.over_clients(score, width, shared=shared)(weights)

    row = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    places = functools.partial(output_places, model, row)
    units = functools.partial(units_lib.units_of, model, row)
    depth = functools.partial(layers, model, row)
    return Network(evaluate, places, jax.jit(gradient(model, batch)), units, depth)


@functools.lru_cache(maxsize=64)
def output_places(model: Model, row: jax.ShapeDtypeStruct) -> np.ndarray | None:
    """The places [C, F + 1] in the raveled vector of every class's weights and bias.

    The last layer is known by what it does, not by its name: its bias is the tensor [C] that moves
    each logit by as much as its own entry moves, and its kernel [F, C] stands beside it.

    Args:
      model: the network.
      row: shape [1, ...] and type of one input.

    Returns:
      None where there is no such bias, or no kernel beside it.
    """
    table = vectors.tensors(_shapes(model))
    with jax.ensure_compile_time_eval():
        params = model.init(jax.random.key(0))
        leaves, structure = jax.tree.flatten(params)
        inputs = jnp.zeros(row.shape, row.dtype)
        classes = jax.eval_shape(model.apply, params, inputs).shape[-1]
        for place, tensor in enumerate(table):
            if tensor.shape != (classes,):
                continue

            def logits(bias: Array, place: int = place) -> Array:
                moved = [*leaves[:place], bias, *leaves[place + 1 :]]
                return model.apply(jax.tree.unflatten(structure, moved), inputs)[0]

            if not np.array_equal(jax.jacrev(logits)(leaves[place]), np.eye(classes)):
                continue
            layer = tensor.name.rpartition("[")[0]
            for kernel in table:
                beside = kernel.name.rpartition("[")[0] == layer
                if beside and len(kernel.shape) == 2 and kernel.shape[1] == classes:
                    places = np.arange(kernel.start, kernel.stop).reshape(kernel.shape).T
                    bias = np.arange(tensor.start, tensor.stop)[:, None]
                    return np.concatenate([places, bias], axis=1).astype(np.int32)
    return None


@functools.lru_cache(maxsize=64)
def layers(model: Model, row: jax.ShapeDtypeStruct) -> tuple[Spans, ...]:
    """The places of every layer's entries, in the order in which the network reads them.

    A layer is the tensors of one module: those whose paths differ in the last step alone, such as
    a kernel and its bias. What it is called, and so where it lies in the vector, says nothing of
    its depth: `fc10` lies before `fc2`.

    Args:
      model: the network.
      row: shape [1, ...] and type of one input.

    Returns:
      A layer that is never read comes first.
    """
    shapes = _shapes(model)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    leaves, structure = jax.tree.flatten(shapes)
    traced = jax.make_jaxpr(lambda leaves, x: model.apply(jax.tree.unflatten(structure, leaves), x))
    program = traced(leaves, row).jaxpr
    first: dict[int, int] = {}
    known = {variable: leaf for leaf, variable in enumerate(program.invars[: len(leaves)])}
    for place, leaf in enumerate(_reads(program, known)):
        first.setdefault(leaf, place)
    modules: dict[Any, list[int]] = {}
    for number, path in enumerate(paths):
        inner = jax.tree_util.GetAttrKey("value")  # of a variable of nnx
        path = path[:-1] if path and path[-1] == inner else path
        modules.setdefault(path[:-1], []).append(number)
    table = vectors.tensors(shapes)
    order = sorted(modules.values(), key=lambda own: min(first.get(n, -1) for n in own))
    return tuple(tuple((table[n].start, table[n].stop) for n in own) for own in order)


def _reads(program: Any, known: dict[Any, int]) -> Iterator[int]:
    """The tensors in the order in which a program reads them, of the variables that they are in."""
    for step in program.eqns:
        held = [None if isinstance(x, Literal) else known.get(x) for x in step.invars]
        inner = [getattr(own, "jaxpr", own) for own in step.params.values()]
        inner = [own for own in inner if hasattr(own, "eqns")]
        if len(inner) == 1 and len(inner[0].invars) == len(held):
            pairs = zip(inner[0].invars, held, strict=True)
            yield from _reads(inner[0], {x: own for x, own in pairs if own is not None})
        else:
            yield from (own for own in held if own is not None)


def _shapes(model: Model) -> ArrayTree:
    """Of the parameters."""
    return jax.eval_shape(model.init, jax.random.key(0))
