"""Arrays given from Python, checked once at the border: shapes, types, finite values, ranges.

Everything that is wrong is named in one error, before anything is traced. Of tracers only what is
static can be judged: their shapes and types.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax import vectors
from cgsv_jax.types import Array, Clients, Conduct, Dataset, Model

MOST = 2**31 - 1  # rows are numbered, and entries of a model counted, in int32


def check(
    data: Dataset, clients: Clients, model: Model | None = None, *, num_classes: int | None = None
) -> None:
    """Refuses arrays that do not belong together.

    Arguments as in `problems`.

    Raises:
      ValueError: one line for every problem: the field, what it is and what it must be.

    >>> rows = np.zeros((2, 3), np.float32)
    >>> data = Dataset(rows, np.array([0, 5]), rows, np.array([0, 1]))
    >>> check(data, Clients(np.array([[0], [2]]), np.ones((2, 1), bool)), num_classes=2)
    Traceback (most recent call last):
    ValueError: Dataset.labels holds 5, it must hold classes from 0 to 1
    Clients.rows holds 2, it must hold rows of the training set from 0 to 1
    """
    found = problems(data, clients, model, num_classes=num_classes)
    if found:
        raise ValueError("\n".join(found))


def problems(
    data: Dataset, clients: Clients, model: Model | None = None, *, num_classes: int | None = None
) -> list[str]:
    """What is wrong with these arrays, a line each; nothing is copied to a device.

    Args:
      data: training, test and validation rows.
      clients: who holds which training rows.
      model: the network they are for, judged by its shapes alone; it says how many classes exist.
      num_classes: C, where no model says so; None: labels must only be at least 0.
    """
    found = []
    for value, kind in ((data, Dataset), (clients, Clients)):
        if not isinstance(value, kind):
            found.append(f"a {kind.__name__} is expected, got {type(value).__name__}")
    if found:
        return found
    row, own = _of_inputs("Dataset.inputs", data.inputs, least=1)
    found += own
    if model is not None and row is not None:
        num_classes, own = _of_model(model, row)
        found += own
    classes = _Range(num_classes, "classes")
    found += _of_labels("Dataset.labels", data.labels, _length(data.inputs), classes)
    others = {"test_": (data.test_inputs, data.test_labels, 1)}
    if data.validation is not None:
        if not isinstance(data.validation, tuple | list) or len(data.validation) != 2:
            found.append("Dataset.validation must be inputs and labels, or None")
        else:  # no rows at all are a server that holds none
            others["validation "] = (*data.validation, 0)
    for name, (inputs, labels, least) in others.items():
        where = f"Dataset.{name}"
        like, own = _of_inputs(f"{where}inputs", inputs, least)
        found += own
        if row is not None and like is not None and not _alike(like, row):
            found.append(
                f"{where}inputs are rows of {_row(like)}, they must be of {_row(row)} as "
                "Dataset.inputs"
            )
        found += _of_labels(f"{where}labels", labels, _length(inputs), classes)
    return found + _of_clients(clients, _length(data.inputs), classes)


# ---------------------------------------------------------------- one field each


class _Range(NamedTuple):
    """What integers may be: from 0 to below `end`, if that is known."""

    end: int | None
    what: str

    def problems(self, name: str, values: Array, among: Array | None = None) -> list[str]:
        """Of the values where `among` holds."""
        if not _known(values) or (among is not None and not _known(among)):
            return []
        values = np.asarray(values) if among is None else np.asarray(values)[np.asarray(among)]
        if not values.size:
            return []
        for value in (values.min(), values.max()):
            if value < 0 or (self.end is not None and value >= self.end):
                to = "" if self.end is None else f" to {self.end - 1}"
                return [f"{name} holds {value}, it must hold {self.what} from 0{to}"]
        return []


def _of_inputs(name: str, inputs: Any, least: int) -> tuple[jax.ShapeDtypeStruct | None, list[str]]:
    """One row's shape and type, None where there is none; and what is wrong."""
    if not _is_array(inputs):
        return None, [_no_array(name, inputs)]
    number = jnp.issubdtype(inputs.dtype, jnp.floating) or _whole(inputs)
    if not inputs.ndim or not number:
        return None, [f"{name} is {_shown(inputs)}, it must be numbers [rows, ...]"]
    dtype = jax.dtypes.canonicalize_dtype(inputs.dtype)  # as it will be on a device
    row = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), dtype)
    if not least <= len(inputs) <= MOST:
        return row, [f"{name} holds {len(inputs)} rows, it must hold from {least} to {MOST}"]
    if 0 in inputs.shape[1:]:
        return None, [f"{name} is {_shown(inputs)}, a row must hold something"]
    if _known(inputs) and inputs.size and not _whole(inputs):
        # The ends are enough, since NaN is both, and no array of truths is made.
        values = np.asarray(inputs)
        ends = np.asarray([values.min(), values.max()], np.float64)
        # NaN is not less either, and float64 beyond float32 would become infinite.
        bad = ends[~(np.abs(ends) <= float(jnp.finfo(dtype).max))]
        if bad.size:
            return row, [f"{name} holds {bad[0]}, it must be finite"]
    return row, []


def _of_labels(name: str, labels: Any, rows: int | None, classes: _Range) -> list[str]:
    if not _is_array(labels):
        return [_no_array(name, labels)]
    if labels.ndim != 1 or not _whole(labels) or rows not in (None, labels.shape[0]):
        count = "rows" if rows is None else rows
        return [f"{name} is {_shown(labels)}, it must be integers [{count}], one per row"]
    return classes.problems(name, labels)


def _of_model(model: Model, row: jax.ShapeDtypeStruct) -> tuple[int | None, list[str]]:
    """How many classes it tells apart, and what is wrong; by its shapes, so nothing is computed."""
    try:
        parameters, floats, logits = _shapes(model, row)
    except Exception as error:  # a stranger's function may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return None, [f"Model cannot be applied to inputs of {_row(row)}: {reason}"]
    if len(logits) != 2 or logits[0] != 1:
        return None, [
            f"Model.apply gives {list(logits)} for inputs of {_row(row)}, "
            "it must give logits [1, classes]"
        ]
    found = []
    if not 1 <= parameters <= MOST:
        found.append(f"Model has {parameters} parameters, it must have from 1 to {MOST}")
    if not floats:
        found.append("Model.init gives parameters that are no floats, all must be")
    return logits[1], found


@functools.lru_cache(maxsize=64)
def _shapes(model: Model, row: jax.ShapeDtypeStruct) -> tuple[int, bool, tuple[int, ...]]:
    """Number of parameters, whether all are floats, shape of the logits of one row."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    floats = all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(params))
    parameters = max((tensor.stop for tensor in vectors.tensors(params)), default=0)
    if parameters > MOST:
        return parameters, floats, (1, 1)
    return parameters, floats, jax.eval_shape(model.apply, params, row).shape


def _of_clients(clients: Clients, rows: int | None, classes: _Range) -> list[str]:
    fields = {name: value for name, value in clients._asdict().items() if value is not None}
    if isinstance(clients.conduct, Conduct):
        conduct = fields.pop("conduct")._asdict()
        fields |= {f"conduct.{name}": value for name, value in conduct.items()}
    found = [_no_array(f"Clients.{n}", v) for n, v in fields.items() if not _is_array(v)]
    if found:
        return found
    mask = clients.mask
    if mask.ndim != 2 or 0 in mask.shape or mask.dtype != bool:
        return [
            f"Clients.mask is {_shown(mask)}, it must be bool [clients, slots], at least [1, 1]"
        ]
    number, slots = mask.shape
    shapes = {"rows": (number, slots), "labels": (number, slots)}
    shapes |= {name: (number,) for name in ("numbers", "joins", "conduct.attack")}
    ranges = {
        "rows": _Range(rows, "rows of the training set"),
        "labels": classes,
        "numbers": _Range(number, "numbers of clients"),
        "joins": _Range(None, "rounds"),
        "conduct.attack": _Range(None, "attacks"),
    }
    for name, shape in shapes.items():
        value = fields.get(name)
        if value is None:
            continue
        if value.shape != shape or not _whole(value):
            found.append(f"Clients.{name} is {_shown(value)}, it must be integers {list(shape)}")
            continue
        own = ranges[name].problems(f"Clients.{name}", value, None if value.ndim == 1 else mask)
        if name == "numbers" and not own and _known(value):
            values, counts = np.unique(np.asarray(value), return_counts=True)
            if (counts > 1).any():
                own = [f"Clients.numbers holds {values[counts > 1][0]} twice, it must be distinct"]
        found += own
    strength = fields.get("conduct.strength")
    if strength is not None:
        known = jnp.issubdtype(strength.dtype, jnp.floating) and strength.shape == (number,)
        if not known:
            found.append(
                f"Clients.conduct.strength is {_shown(strength)}, it must be floats [{number}]"
            )
        elif _known(strength) and not np.isfinite(np.asarray(strength)).all():
            found.append("Clients.conduct.strength holds what is not finite")
    return found


# ---------------------------------------------------------------- small things


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array | jax.ShapeDtypeStruct)


def _alike(row: jax.ShapeDtypeStruct, other: jax.ShapeDtypeStruct) -> bool:
    """Of one shape, and both floats or both integers; the precision is anybody's own."""
    return row.shape == other.shape and _whole(row) == _whole(other)


def _known(values: Array) -> bool:
    """Whether the numbers are there, and here: no tracer, and nothing spread over other hosts."""
    if isinstance(values, np.ndarray):
        return True
    concrete = isinstance(values, jax.Array) and not isinstance(values, jax.core.Tracer)
    return concrete and values.is_fully_addressable


def _whole(values: Array) -> bool:
    return jnp.issubdtype(values.dtype, jnp.integer)


def _length(inputs: Any) -> int | None:
    return inputs.shape[0] if _is_array(inputs) and inputs.ndim else None


def _no_array(name: str, value: Any) -> str:
    return f"{name} is a {type(value).__name__}, it must be an array"


def _shown(values: Array) -> str:
    return f"{values.dtype} {list(values.shape)}"


def _row(row: jax.ShapeDtypeStruct) -> str:
    return f"{row.dtype} {list(row.shape[1:])}"
