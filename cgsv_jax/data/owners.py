"""Who owns which training row, for `partition.by_owner`."""

import os
import pathlib
import zipfile

import numpy as np


def load(path: str | os.PathLike[str], num_rows: int) -> np.ndarray:
    """One owner id [num_rows] per training row, in the order of the data set's rows.

    Three layouts are read: a .npy file, a .npz file with one array, and a .npz file with the ids
    in another order, `train_writer` [num_rows], and `train_tfds_to_raw` [num_rows], the position
    in it of every training row (MNIST by writer: QMNIST's labels follow the original order, TFDS's
    rows do not).

    Args:
      path: the file.
      num_rows: training rows of the data set.

    Raises:
      ValueError: if the file is absent, damaged, laid out otherwise or of another length.
    """
    path = pathlib.Path(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except FileNotFoundError as error:
        raise ValueError(f"owners: there is no file {path}") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"owners: {path} is not a complete .npy or .npz file of numbers or strings ({error})"
        ) from error
    if {"train_writer", "train_tfds_to_raw"} <= arrays.keys():
        ids, order = arrays["train_writer"], arrays["train_tfds_to_raw"]
        if not np.array_equal(np.sort(order, axis=None), np.arange(num_rows)):
            raise ValueError(
                f"owners: train_tfds_to_raw in {path} must hold every number from 0 to "
                f"{num_rows - 1} once, got shape {order.shape}"
            )
    elif len(arrays) == 1:
        (ids,) = arrays.values()
        order = None
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
    return ids if order is None else ids[order]
