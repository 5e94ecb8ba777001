"""Who takes part in which round, from a file."""

import pathlib

import numpy as np

from cgsv_jax.host import files

_NOBODY = 2**31 - 1  # no client has this number
_MOST = 1 << 31  # bytes of a table


def load(path: files.Path, num_clients: int) -> np.ndarray:
    """The clients of every round, [T, C] int32 by number, -1 for nobody.

    A .npy file of whole numbers [T, C], or text with a line per round: client numbers between
    commas, lines of any length, an empty one for a round of nobody. A run of more rounds starts
    again with the first line.

    Args:
      path: the file.
      num_clients: N.

    Raises:
      ValueError: if the file cannot be read, or holds no round, a number that is no client, or a
        client twice in a round.
    """
    path = files.path_of(path, "--attendance")
    table = _of_array(path) if path.suffix == ".npy" else _of_lines(path)
    clients = np.sort(np.where(table == -1, _NOBODY, table))
    there = clients != _NOBODY
    if not there.any():
        raise ValueError(f"attendance: {path} holds no round with a client in it")
    unknown = there & ((clients < 0) | (clients >= num_clients))
    twice = there[:, 1:] & (np.diff(clients) == 0)
    if unknown.any() or twice.any():
        number = int(np.argmax(unknown.any(1) | twice.any(1)))
        found = clients[number][unknown[number]]
        raise ValueError(
            f"attendance: {path} has {f'client {found[0]}' if len(found) else 'a client twice'} "
            f"in round {number}, it must hold clients from 0 to {num_clients - 1}, each once"
        )
    return np.where(there, clients, -1)[:, : there.sum(1).max()].astype(np.int32)


def _of_array(path: pathlib.Path) -> np.ndarray:
    arrays = files.read_arrays(path, _MOST)
    with files.reading(path):
        table = arrays.get("", np.empty(0))
        if table.ndim != 2 or table.dtype.kind not in "iu":
            raise ValueError("it is no .npy file of whole numbers [T, C]")
        if table.max(initial=0) >= _NOBODY:
            raise ValueError(f"it holds client {table.max()}")
        return table.astype(np.int64)


def _of_lines(path: pathlib.Path) -> np.ndarray:
    rounds = files.read_numbers(path)
    width = max(map(len, rounds))
    with files.reading(path):
        if 8 * len(rounds) * width > _MOST:
            raise ValueError(f"it has {len(rounds):,} rounds of up to {width:,} clients")
        table = np.full((len(rounds), width), -1, np.int64)
        for row, clients in zip(table, rounds, strict=True):
            row[: len(clients)] = clients
        return table
