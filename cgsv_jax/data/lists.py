"""The row numbers of every client, from a file, for `partition.from_lists`."""

import numpy as np

from cgsv_jax.host import files


def load(path: files.Path) -> list[np.ndarray]:
    """Row numbers of the training set, a vector per client, not judged.

    Four layouts are read, told by the file's name: .npz, an array per client in the order of the
    archive; .npy, a table [N, M] in which -1 stands for no row; .json, a list of lists; anything
    else is text with a line per client, numbers between commas.

    Args:
      path: the file.

    Raises:
      ValueError: if the file cannot be read, or is laid out otherwise.
    """
    path = files.path_of(path, "--lists")
    if path.suffix in (".npz", ".npy"):
        arrays = files.read_arrays(path)
        if path.suffix == ".npz":
            return list(arrays.values())
        with files.reading(path):
            table = arrays.get("", np.empty(0))
            if table.ndim != 2 or table.dtype.kind not in "iu":
                raise ValueError("it is no .npy file of whole numbers [N, M]")
            return [row[row != -1] for row in table]
    is_json = path.suffix == ".json"
    rows = files.read_json(path, list[list[int]]) if is_json else files.read_numbers(path)
    with files.reading(path):
        return [np.array(own, np.int64) for own in rows]
