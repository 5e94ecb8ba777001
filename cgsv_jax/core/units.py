"""Whether what a model says of its hidden units is so: asked of the model itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import local, vectors
from cgsv_jax.types import Array, Model, Units

_ROWS, _DRAWS = 16, 4  # inputs that are tried, and draws of units that are switched off


@functools.lru_cache(maxsize=64)
def units_of(model: Model, row: jax.ShapeDtypeStruct) -> Units | None:
    """The units of a model, which are tried out where `Units.incoming` leaves it open.

    Half of the units are switched off, drawn at random, and rows and labels drawn too. They are
    units if no gradient reaches their entries, and if logits are the same whether what feeds them,
    what reads them, or both is 0.

    Args:
      model: the network.
      row: shape [1, ...] and type of one input.

    Returns:
      None where the model says nothing.

    Raises:
      ValueError: they are no units, or do not stay switched off.
    """
    if model.units is None:
        return None
    units = model.units()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    units = _judged(units, sum(t.stop - t.start for t in vectors.tensors(shapes)))
    return units if units.incoming is not None else _tried(model, row, units)


def on(units: Units, keep: Array, incoming: bool = False) -> Array:
    """Which entries of the vector are on, of units that are: [..., H] bool -> [..., D] bool.

    An entry is on if the unit that it feeds is, and the unit that it reads; inputs and outputs are.

    Args:
      units: of the model.
      keep: which are on.
      incoming: whether what reads a unit that is off stays on.
    """
    # The unit -1, the last, is on.
    keep = jnp.concatenate([keep, jnp.ones((*keep.shape[:-1], 1), bool)], axis=-1)
    feeds = keep[..., units.feeds]
    return feeds if incoming else feeds & keep[..., units.reads]


def _judged(units: Units, size: int) -> Units:
    """Refuses arrays that are no units of D parameters."""
    if not isinstance(units, Units):
        raise ValueError(f"Model.units gives a {type(units).__name__}, it must give cg.Units")
    number = sum(units.layers)
    for name in ("feeds", "reads", "times"):
        value = np.asarray(getattr(units, name))
        most = number - 1 if name != "times" else 2**31 - 1
        least = -1 if name != "times" else 0
        if value.shape != (size,) or value.dtype.kind != "i":
            raise ValueError(
                f"Units.{name} is {value.dtype} {list(value.shape)}, it must be whole numbers "
                f"[{size}], one for every parameter"
            )
        if value.min() < least or value.max() > most:
            wrong = value.min() if value.min() < least else value.max()
            raise ValueError(f"Units.{name} holds {wrong}, it must hold {least} to {most}")
    return units


def _tried(model: Model, row: jax.ShapeDtypeStruct, units: Units) -> Units:
    unravel = vectors.unraveler(jax.eval_shape(model.init, jax.random.key(0)))
    with jax.ensure_compile_time_eval():
        start = vectors.ravel(model.init(jax.random.key(0)))
        shape = (_ROWS, *row.shape[1:])
        if jnp.issubdtype(row.dtype, jnp.floating):
            inputs = jax.random.normal(jax.random.key(1), shape, row.dtype)
        else:  # a word that every vocabulary has
            inputs = jax.random.randint(jax.random.key(1), shape, 0, 2, row.dtype)

        @jax.jit
        def logits(weights: Array) -> Array:
            return model.apply(unravel(weights), inputs)

        classes = logits(start).shape[-1]
        labels = jax.random.randint(jax.random.key(2), (_ROWS,), 0, classes)

        @jax.jit
        @jax.grad
        def gradient(weights: Array) -> Array:
            found = model.apply(unravel(weights), inputs, jax.random.key(3))  # as in training
            return jnp.mean(local.negative_log_likelihood(found, labels))

        incoming = True
        rng = np.random.default_rng(0)
        for _ in range(_DRAWS):
            keep = rng.random(sum(units.layers)) < 0.5
            fed, whole = (np.asarray(on(units, keep, one_side)) for one_side in (True, False))
            read = whole | ~fed  # what reads a unit that is off is 0, what feeds it is not
            plain = np.asarray(logits(start * whole))
            close = 1e3 * np.finfo(plain.dtype).eps * (1 + np.abs(plain).max())
            if np.any(np.asarray(gradient(start * whole))[~whole]):
                raise ValueError(_REFUSED.format("some of them do not stay 0 in training"))
            for name, mask in (("feed", fed), ("read", read)):
                if np.any(np.abs(logits(start * mask) - plain) > close):
                    others = f"without those that {name} it alone, it is not off"
                    raise ValueError(_REFUSED.format(others))
            incoming &= not np.any(np.asarray(gradient(start * fed))[~fed])
    return units._replace(incoming=bool(incoming))


_REFUSED = (
    "Model.units is wrong, or these units cannot be switched off: of the entries that are said to "
    "belong to a unit, {}. Its activation must be 0 at 0, as that of relu and tanh is, and nothing "
    "may normalise over units"
)
