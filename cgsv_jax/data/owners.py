"""Who owns which training row, for `partition.by_owner`."""

import numpy as np

from cgsv_jax.host import files

_MOST = 1 << 30  # bytes of all arrays


def load(path: files.Path, num_rows: int) -> np.ndarray:
    """One owner id [num_rows] per training row, in the order of the data set's rows.

    Three layouts are read: a .npy file, a .npz file with one array, and a .npz file with the ids
    in another order, `train_writer` [num_rows], and `train_tfds_to_raw` [num_rows], the position
    in it of every training row (MNIST by writer: QMNIST's labels follow the original order, TFDS's
    rows do not).

    Args:
      path: the file.
      num_rows: training rows of the data set.

    Raises:
      ValueError: if the file cannot be read, is laid out otherwise or of another length.
    """
    path = files.path_of(path, "--owners")
    try:
        arrays = files.read_arrays(path, _MOST)
    except ValueError as error:
        raise ValueError(f"owners must be a .npy or .npz file: {error}") from error
    order = None
    if {"train_writer", "train_tfds_to_raw"} <= arrays.keys():
        ids, order = arrays["train_writer"], arrays["train_tfds_to_raw"]
        numbers = order.shape == (num_rows,) and order.dtype.kind in "iu"
        if not (numbers and np.array_equal(np.sort(order), np.arange(num_rows))):
            raise ValueError(
                f"owners: train_tfds_to_raw in {path} must hold every number from 0 to "
                f"{num_rows - 1} once, got shape {order.shape}"
            )
    elif len(arrays) == 1:
        (ids,) = arrays.values()
    else:
        raise ValueError(
            f"owners: {path} must hold one array, or train_writer and train_tfds_to_raw, "
            f"got {', '.join(sorted(arrays)) or 'none'}"
        )
    if ids.shape != (num_rows,) or ids.dtype.kind not in "iuSU":
        raise ValueError(
            f"owners: {path} must hold one integer or string for each of the {num_rows} training "
            f"rows, got {ids.dtype} of shape {ids.shape}"
        )
    return _writable(ids if order is None else ids[order])


def _writable(ids: np.ndarray) -> np.ndarray:
    """Numbers as they are; bytes as strings, and strings without what is no Unicode."""
    if ids.dtype.kind == "U":
        ids = np.char.encode(ids, "utf-8", "backslashreplace")
    return ids if ids.dtype.kind in "iu" else np.char.decode(ids, "utf-8", "backslashreplace")
