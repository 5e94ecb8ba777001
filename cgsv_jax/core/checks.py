"""What comes from Python, judged once at the border: numbers, parts, functions and arrays.

A ValueError names the field, what it is and what it must be, before anything is traced. Of tracers
only what is static is judged, their shapes and types, so that every factory may be called inside a
transformation.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from cgsv_jax.core import vectors
from cgsv_jax.core.ranges import RANGES, Interval, shown
from cgsv_jax.types import Array, ArrayTree, Clients, Conduct, Dataset, Model

MOST = 2**31 - 1  # rows are numbered, and entries of a model counted, in int32


# ---------------------------------------------------------------- numbers, parts, functions


def numbers(like: str | Interval | None = None, /, **values: Any) -> None:
    """Refuses numbers that are out of range, traced ones apart.

    Args:
      like: where they must lie, or the key of `ranges.RANGES` that says so; default: each its own
        name.
      **values: numbers, or arrays of which every entry is one.

    Raises:
      ValueError: a line for every value that may not be.

    >>> numbers(decay=0.5, learning_rate=0.1)
    >>> numbers(Interval(0, 1), memory=1.5)
    Traceback (most recent call last):
    ValueError: memory is 1.5, it must be a number at least 0 and at most 1
    """
    wrong, dtype = [], jax.dtypes.canonicalize_dtype(float)
    for name, value in values.items():
        ends, allowed = [value], like if isinstance(like, Interval) else RANGES[like or name]
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            if not (isinstance(value, np.generic) or known(value)) or not value.size:
                continue
            if jnp.issubdtype(value.dtype, jnp.number):  # NaN is both ends
                ends = [np.asarray(value).min().item(), np.asarray(value).max().item()]
        for end in ends:
            wrong += allowed.complaints(name, end, dtype)
    _refuse(wrong)


def kinds(**parts: tuple[Any, Any, str]) -> None:
    """Refuses what is of another kind: name = (value, its type or types, what to give instead).

    Raises:
      ValueError: a line for every value of another type.

    >>> kinds(rng=(0, np.random.Generator, "numpy.random.default_rng(0)"))
    Traceback (most recent call last):
    ValueError: rng is 0, it must be of type Generator, for instance numpy.random.default_rng(0)
    """
    wrong = []
    for name, (value, kind, instance) in parts.items():
        if not isinstance(value, kind):
            words = [k.__name__.rpartition(".")[2] for k in getattr(kind, "__args__", (kind,))]
            words = " or ".join(words).replace("NoneType", "None")
            given = f"{name} is {_what(value)}, it must be of type {words}"
            wrong.append(f"{given}, for instance {instance}")
    _refuse(wrong)


def choice(name: str, value: str, *allowed: str) -> str:
    """The word itself.

    Raises:
      ValueError: it is none of those allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {_what(value)}, it must be {' or '.join(allowed)}")
    return value


def generator(rng: Any) -> None:
    """Refuses a seed, or anything else that is not NumPy's generator.

    Raises:
      ValueError: it is none.
    """
    kinds(rng=(rng, np.random.Generator, "numpy.random.default_rng(0)"))


def result(
    name: str,
    function: Any,
    form: str,
    *arguments: Any,
    seen: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """The shapes of what a function gives for these shapes; nothing is computed.

    Args:
      name: of the function.
      function: whatever was given.
      form: how it is called, what it gives, and an instance of one.
      *arguments: `ShapeDtypeStruct`s, or what has shapes.
      seen: makes arrays of what the function gives, if that is something else.

    Raises:
      ValueError: it is no function, or none that can be called so.
    """
    if not callable(function):
        raise ValueError(f"{name} is {_what(function)}, it must be a function {form}")
    try:
        return jax.eval_shape(lambda *given: seen(function(*given)), *arguments)
    except Exception as error:  # a stranger's function may raise anything
        reason = _reason(error)
        raise ValueError(
            f"{name} cannot be called, it must be a function {form}: {reason}"
        ) from error


def array(name: str, value: Any) -> Array:
    """An array, or what NumPy makes one of, as `counted` leaves it.

    Raises:
      ValueError: it is masked, and its mask would be lost.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(_no_array(name, value))
    return counted(value if _is_array(value) else np.asarray(value))


def known(values: Array) -> bool:
    """Whether the numbers are there, and here: no tracer, and nothing spread over other hosts."""
    if isinstance(values, np.ndarray):
        return True
    concrete = isinstance(values, jax.Array) and not isinstance(values, Tracer)
    return concrete and values.is_fully_addressable


def native(tree: ArrayTree) -> ArrayTree:
    """The same numbers in this machine's byte order, in types that JAX has."""
    return jax.tree.map(
        lambda x: x.astype(_native(x), copy=False) if isinstance(x, np.ndarray) else x, tree
    )


def counted(tree: ArrayTree) -> ArrayTree:
    """Labels, rows and numbers as int32, since an unsigned one cannot hold what stands for nobody.

    What is no array of integers stays as it is.
    """

    def one(x: Any) -> Any:
        whole = isinstance(x, np.ndarray | jax.Array) and _whole(x)
        return x.astype(jnp.int32) if whole and x.dtype != jnp.int32 else x

    return jax.tree.map(one, native(tree))


def canonical(data: Dataset, clients: Clients) -> tuple[Dataset, Clients]:
    """Data and partition as they are computed with; inputs may have any type of number."""
    inputs = native((data.inputs, data.test_inputs))
    labels = counted((data.labels, data.test_labels))
    held = data.validation
    if held is not None:
        held = native(held[0]), counted(held[1])
    return Dataset(inputs[0], labels[0], inputs[1], labels[1], held), counted(clients)


def _native(x: Array) -> np.dtype:
    """The type of an array in this machine's byte order; of a longer float, JAX's longest."""
    longer = x.dtype.kind == "f" and x.dtype.itemsize > 8
    return np.dtype(np.float64) if longer else x.dtype.newbyteorder("=")


def _what(value: Any) -> str:
    """A value where it is short, else its type."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return shown(value) if plain else f"a {type(value).__name__}"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise ValueError("\n".join(dict.fromkeys(wrong)))


# ---------------------------------------------------------------- arrays


def check(
    data: Dataset, clients: Clients, model: Model | None = None, *, num_classes: int | None = None
) -> None:
    """Refuses arrays that do not belong together.

    Arguments as in `complaints`.

    Raises:
      ValueError: one line for every complaint: the field, what it is and what it must be.

    >>> rows = np.zeros((2, 3), np.float32)
    >>> data = Dataset(rows, np.array([0, 5]), rows, np.array([0, 1]))
    >>> check(data, Clients(np.array([[0], [2]]), np.ones((2, 1), bool)), num_classes=2)
    Traceback (most recent call last):
    ValueError: Dataset.labels holds 5, it must hold classes from 0 to 1
    Clients.rows holds 2, it must hold rows of the training set from 0 to 1
    """
    _refuse(complaints(data, clients, model, num_classes=num_classes))


def complaints(
    data: Dataset, clients: Clients, model: Model | None = None, *, num_classes: int | None = None
) -> list[str]:
    """What is wrong with these arrays, a line each; nothing is copied to a device.

    Args:
      data: training, test and validation rows.
      clients: who holds which training rows.
      model: the network they are for, judged by its shapes alone; it says how many classes exist.
      num_classes: C, where no model says so; None: labels must only be at least 0.
    """
    given = {"data": (data, Dataset), "clients": (clients, Clients), "model": (model, Model)}
    wrong = [
        f"{name} is {_what(value)}, it must be a {kind.__name__}"
        for name, (value, kind) in given.items()
        if not isinstance(value, kind) and not (name == "model" and value is None)
    ]
    if wrong:
        return wrong
    row, more = _of_inputs("Dataset.inputs", data.inputs, least=1)
    wrong += more
    if model is not None and row is not None:
        num_classes, more = _of_model(model, row)
        wrong += more
    classes = _Range(num_classes, "classes")
    wrong += _of_labels("Dataset.labels", data.labels, _length(data.inputs), classes)
    others = {"test_": (data.test_inputs, data.test_labels, 1)}
    if data.validation is not None:
        if not isinstance(data.validation, tuple | list) or len(data.validation) != 2:
            wrong.append("Dataset.validation must be inputs and labels, or None")
        else:  # no rows at all are a server that holds none
            others["validation "] = (*data.validation, 0)
    for name, (inputs, labels, least) in others.items():
        where = f"Dataset.{name}"
        like, more = _of_inputs(f"{where}inputs", inputs, least)
        wrong += more
        if row is not None and like is not None and not _alike(like, row):
            wrong.append(
                f"{where}inputs are rows of {_row(like)}, they must be of {_row(row)} as "
                "Dataset.inputs"
            )
        wrong += _of_labels(f"{where}labels", labels, _length(inputs), classes)
    return wrong + _of_clients(clients, _length(data.inputs), classes)


# ---------------------------------------------------------------- one field each


class _Range(NamedTuple):
    """What integers may be: from 0 to below `end`, if that is known."""

    end: int | None
    what: str

    def complaints(self, name: str, values: Array, among: Array | None = None) -> list[str]:
        """Of the values where `among` holds."""
        if not known(values) or (among is not None and not known(among)):
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
    dtype = jax.dtypes.canonicalize_dtype(_native(inputs))  # as it will be on a device
    row = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), dtype)
    if not least <= len(inputs) <= MOST:
        return row, [f"{name} holds {len(inputs)} rows, it must hold from {least} to {MOST}"]
    if 0 in inputs.shape[1:]:
        return None, [f"{name} is {_shown(inputs)}, a row must hold something"]
    if known(inputs) and inputs.size and not _whole(inputs):
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
    return classes.complaints(name, labels)


def _of_model(model: Model, row: jax.ShapeDtypeStruct) -> tuple[int | None, list[str]]:
    """How many classes it tells apart, and what is wrong; by its shapes, so nothing is computed."""
    try:
        parameters, floats, logits = _shapes(model, row)
    except ValueError as error:
        return None, [str(error)]
    if len(logits) != 2 or logits[0] != 1:
        return None, [
            f"Model.apply gives {list(logits)} for inputs of {_row(row)}, "
            "it must give logits [1, classes]"
        ]
    wrong = []
    if not 1 <= parameters <= MOST:
        wrong.append(f"Model has {parameters} parameters, it must have from 1 to {MOST}")
    if not floats:
        wrong.append("Model.init gives parameters that are no floats, all must be")
    return logits[1], wrong


@functools.lru_cache(maxsize=64)
def _shapes(model: Model, row: jax.ShapeDtypeStruct) -> tuple[int, bool, tuple[int, ...]]:
    """Number of parameters, whether all are floats, shape of the logits of one row."""
    key = jax.random.key(0)
    params = result("Model.init", model.init, "(key) -> params", key)
    floats = all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(params))
    parameters = max((tensor.stop for tensor in vectors.tensors(params)), default=0)
    if parameters > MOST:
        return parameters, floats, (1, 1)
    called = functools.partial(result, "Model.apply", model.apply)
    logits = called(f"(params, inputs {_row(row)}) -> logits [1, classes]", params, row)
    # Training has a key, whether the network draws or not.
    called(f"(params, inputs {_row(row)}, key) -> logits [1, classes]", params, row, key)
    return parameters, floats, getattr(logits, "shape", ())


def _of_clients(clients: Clients, rows: int | None, classes: _Range) -> list[str]:
    fields = {name: value for name, value in clients._asdict().items() if value is not None}
    if isinstance(clients.conduct, Conduct):
        conduct = fields.pop("conduct")._asdict()
        fields |= {f"conduct.{name}": value for name, value in conduct.items()}
    wrong = [_no_array(f"Clients.{n}", v) for n, v in fields.items() if not _is_array(v)]
    if wrong:
        return wrong
    mask = clients.mask
    if mask.ndim != 2 or 0 in mask.shape or mask.dtype != bool:
        return [
            f"Clients.mask is {_shown(mask)}, it must be bool [clients, slots], at least [1, 1]"
        ]
    number, slots = mask.shape
    shapes = {"rows": (number, slots), "labels": (number, slots)}
    shapes |= {name: (number,) for name in ("numbers", "joins", "conduct.attack")}
    own, names = fields.get("own_mask"), [n for n in fields if n.startswith("own_")]
    if names and not {"own_rows", "own_mask"} <= {*names}:
        return [f"Clients has {', '.join(names)}, it must have own_rows and own_mask or neither"]
    if own is not None:
        if own.ndim != 2 or own.dtype != bool or own.shape[0] != number or not own.shape[1]:
            return [
                f"Clients.own_mask is {_shown(own)}, it must be bool [{number}, slots], at least "
                f"[{number}, 1]"
            ]
        shapes |= {"own_rows": own.shape, "own_labels": own.shape}
    masks = {name: own if name.startswith("own_") else mask for name in shapes}
    ranges = {
        "rows": _Range(rows, "rows of the training set"),
        "labels": classes,
        "numbers": _Range(number, "numbers of clients"),
        "own_rows": _Range(rows, "rows of the training set"),
        "own_labels": classes,
        "joins": _Range(None, "rounds"),
        "conduct.attack": _Range(None, "attacks"),
    }
    for name, shape in shapes.items():
        value = fields.get(name)
        if value is None:
            continue
        if value.shape != shape or not _whole(value):
            wrong.append(f"Clients.{name} is {_shown(value)}, it must be integers {list(shape)}")
            continue
        among = None if value.ndim == 1 else masks[name]
        more = ranges[name].complaints(f"Clients.{name}", value, among)
        if name == "numbers" and not more and known(value):
            values, counts = np.unique(np.asarray(value), return_counts=True)
            if (counts > 1).any():
                more = [f"Clients.numbers holds {values[counts > 1][0]} twice, it must be distinct"]
        wrong += more
    strength = fields.get("conduct.strength")
    if strength is not None:
        right = jnp.issubdtype(strength.dtype, jnp.floating) and strength.shape == (number,)
        if not right:
            wrong.append(
                f"Clients.conduct.strength is {_shown(strength)}, it must be floats [{number}]"
            )
        elif known(strength) and not np.isfinite(np.asarray(strength)).all():
            wrong.append("Clients.conduct.strength holds what is not finite")
    return wrong


# ---------------------------------------------------------------- small things


def _is_array(value: Any) -> bool:
    masked = isinstance(value, np.ma.MaskedArray)
    return not masked and isinstance(value, np.ndarray | jax.Array | jax.ShapeDtypeStruct)


def _alike(row: jax.ShapeDtypeStruct, other: jax.ShapeDtypeStruct) -> bool:
    """Of one shape, and both floats or both integers; the precision is anybody's own."""
    return row.shape == other.shape and _whole(row) == _whole(other)


def _whole(values: Array | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(values.dtype, jnp.integer)


def _length(inputs: Any) -> int | None:
    return inputs.shape[0] if _is_array(inputs) and inputs.ndim else None


def _no_array(name: str, value: Any) -> str:
    if isinstance(value, np.ma.MaskedArray):
        return (
            f"{name} is a masked array, whose mask would be lost, it must be an array: "
            "fill it, or leave out the rows that are masked"
        )
    return f"{name} is a {type(value).__name__}, it must be an array"


def _shown(values: Array) -> str:
    return f"{values.dtype} {list(values.shape)}"


def _row(row: jax.ShapeDtypeStruct) -> str:
    return f"{row.dtype} {list(row.shape[1:])}"
