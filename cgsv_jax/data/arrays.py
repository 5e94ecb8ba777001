"""A data set of one's own, from a .npz file.

| array | holds |
|---|---|
| inputs, test_inputs | examples [n, ...], of one shape, finite, taken as float32 as they are |
| labels, test_labels | their classes [n], whole numbers 0, 1, ... |
| validation_inputs, validation_labels | the server's own, if there are any |
"""

import os
import zipfile
from typing import Any

import numpy as np

from cgsv_jax import types
from cgsv_jax.host import files

NEEDED = ("inputs", "labels", "test_inputs", "test_labels")
VALIDATION = ("validation_inputs", "validation_labels")
_MOST = 1 << 36  # bytes of all arrays; what does not fit the memory is refused before
_LARGEST = 1_000_000  # classes


def is_file(name: Any) -> bool:
    """Whether the name of a data set is that of such a file, by its ending, in capitals or not."""
    return isinstance(name, str | os.PathLike) and os.fspath(name).lower().endswith(".npz")


def has_validation(path: files.Path) -> bool:
    """Whether a file holds validation rows; of one that cannot be read, no: `load` says why."""
    try:
        with files.opened(files.path_of(path, "--dataset")) as stream:
            names = zipfile.ZipFile(stream).namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return f"{VALIDATION[0]}.npy" in names


def load(path: files.Path) -> types.Dataset:
    """The arrays of a file as a data set.

    Raises:
      ValueError: it cannot be read, or an array lacks or is none of a data set: a line for each.
    """
    path = files.path_of(path, "--dataset")
    found = files.read_arrays(path, min(_MOST, files.host_memory()))
    allowed = (*NEEDED, *VALIDATION)
    wrong = [f"lacks {name}" for name in NEEDED if name not in found]
    wrong += [f"holds {name!r:.80}, which is none of {', '.join(allowed)}" for name in found
              if name not in allowed]  # fmt: skip
    if len(VALIDATION & found.keys()) == 1:
        wrong.append(f"must hold both of {' and '.join(VALIDATION)}, or none")
    for prefix in ("", "test_", "validation_"):
        inputs, labels = (found.get(f"{prefix}{part}") for part in ("inputs", "labels"))
        if inputs is not None:
            wrong += _inputs_complaints(f"{prefix}inputs", inputs, found.get("inputs"))
        if labels is not None:
            wrong += _labels_complaints(f"{prefix}labels", labels, inputs)
    if wrong:
        raise ValueError("\n".join(f"--dataset {path} {line}" for line in wrong))
    made = {
        name: array.astype(np.float32 if name.endswith("inputs") else np.int32)
        for name, array in found.items()
    }
    train, test = ((made[f"{x}inputs"], made[f"{x}labels"]) for x in ("", "test_"))
    inputs, labels = (made.get(name) for name in VALIDATION)
    held_out = None if inputs is None or labels is None else (inputs, labels)
    return types.Dataset(*train, *test, held_out)


def _inputs_complaints(name: str, inputs: np.ndarray, train: np.ndarray | None) -> list[str]:
    if inputs.dtype.kind not in "fiub" or inputs.ndim < 2 or not len(inputs):
        return [
            f"holds {name} of type {inputs.dtype} and shape {list(inputs.shape)}, it must hold "
            "numbers [n, ...], n at least 1"
        ]
    if train is not None and inputs.shape[1:] != train.shape[1:]:
        shapes = list(inputs.shape[1:]), list(train.shape[1:])
        return [f"holds {name} of shape {shapes[0]} each, inputs are of {shapes[1]}"]
    with np.errstate(over="ignore"):
        finite = np.isfinite(inputs.astype(np.float32)).all()
    if not finite:
        return [f"holds {name} that are not finite in float32"]
    return []


def _labels_complaints(name: str, labels: np.ndarray, inputs: np.ndarray | None) -> list[str]:
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        return [
            f"holds {name} of type {labels.dtype} and shape {list(labels.shape)}, it must hold "
            "whole numbers [n]"
        ]
    if inputs is not None and len(labels) != len(inputs):
        return [f"holds {len(labels)} {name} for {len(inputs)} {name.replace('labels', 'inputs')}"]
    if len(labels) and not (labels.min() >= 0 and labels.max() < _LARGEST):
        span = f"{labels.min()} to {labels.max()}"
        return [f"holds {name} from {span}, they must be classes from 0 to {_LARGEST - 1}"]
    return []
