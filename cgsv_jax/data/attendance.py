"""Who takes part in which round, from a file."""

import os
import pathlib

import numpy as np


def load(path: str | os.PathLike[str], num_clients: int) -> np.ndarray:
    """The clients of every round, [T, C] int32 by number, -1 for nobody.

    A .npy file of whole numbers [T, C], or text with a line per round: client numbers between
    commas, lines of any length, an empty one for a round of nobody. A run of more rounds starts
    again with the first line.

    Args:
      path: the file.
      num_clients: N.

    Raises:
      ValueError: if the file is absent or damaged, or holds no round, a number that is no client,
        or a client twice in a round.
    """
    path = pathlib.Path(path)
    try:
        if path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
            if table.ndim != 2 or table.dtype.kind not in "iu":
                raise ValueError(f"{table.dtype} of shape {table.shape}")
            rounds = [[int(x) for x in row if x != -1] for row in table]
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            rounds = [[int(x) for x in line.split(",") if x.strip()] for line in lines]
    except FileNotFoundError as error:
        raise ValueError(f"attendance: there is no file {path}") from error
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"attendance: {path} is not a .npy file of whole numbers [T, C], nor lines of client "
            f"numbers between commas ({error})"
        ) from error
    width = max(map(len, rounds), default=0)
    if not width:
        raise ValueError(f"attendance: {path} holds no round with a client in it")
    for number, clients in enumerate(rounds):
        wrong = [client for client in clients if not 0 <= client < num_clients]
        if wrong or len(set(clients)) != len(clients):
            what = f"client {wrong[0]}" if wrong else "a client twice"
            raise ValueError(
                f"attendance: {path} has {what} in round {number}, "
                f"it must hold clients from 0 to {num_clients - 1}, each once"
            )
    table = np.full((len(rounds), width), -1, np.int32)
    for row, clients in zip(table, rounds, strict=True):
        row[: len(clients)] = sorted(clients)
    return table
