"""Clients that cheat: what they upload in place of what they trained, or the labels they believe.

Which client does what is data (`Conduct`), so one program serves every choice of attackers.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import checks, forgeries, ranges, vectors
from cgsv_jax.core.forgeries import Strength
from cgsv_jax.types import (
    Array,
    ArrayTree,
    Attack,
    Clients,
    Conduct,
    Download,
    PRNGKey,
    Upload,
)

# name -> what is uploaded
UPLOADS = forgeries.UPLOADS


class Memory(NamedTuple):
    """What attackers remember, of every client: who cheats is data, and any one of them may."""

    received: Array  # [N, K, D] the last downloads, newest first, 0 before there was one
    most: Array  # [N] int32, most entries of u_N that ever arrived in one round


def attack(names: Sequence[str], epochs: int = 1) -> Attack:
    """The attacks on uploads of a run, code 1 of a `Conduct` being the first of `names`.

    Every forgery is computed for all rows of the round and used in the attackers' only: for a few
    of many clients that is wasteful beside the server's step, and nothing beside training. What
    each uploads and may know stands in `cgsv_jax.core.forgeries`.

    Args:
      names: keys of `UPLOADS`.
      epochs: E of local training, which clients know.

    Returns:
      An Attack; its state is a `Memory` of every client's last K downloads, as many as the one of
      `names` that needs most, or () if none does. A round adds O(N K D).

    Raises:
      ValueError: another name.
    """
    checks.kinds(names=(names, list | tuple, '["sign_flip"]'))
    for name in names:
        if name not in UPLOADS:
            raise ValueError(f"{name!r} is no attack on uploads, there are {', '.join(UPLOADS)}")
    depth = max((UPLOADS[name].remembers for name in names), default=0)

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        if not depth:
            return ()
        received = jnp.zeros((num_clients, depth, num_parameters))
        return Memory(received, jnp.zeros(num_clients, jnp.int32))

    def forge(key: PRNGKey, upload: Upload, conduct: Conduct, state: ArrayTree) -> Array:
        deltas, count = upload.deltas, upload.deltas.shape[0]
        memory = (
            state
            if depth
            else Memory(jnp.zeros((count, 0, deltas.shape[1])), jnp.zeros(count, jnp.int32))
        )
        known = forgeries.Known(
            keys=vectors.draws(key, upload.numbers, count),
            deltas=deltas,
            mine=upload.present,
            strength=conduct.strength.astype(deltas.dtype),
            numbers=jnp.arange(count) if upload.numbers is None else jnp.asarray(upload.numbers),
            received=memory.received.astype(deltas.dtype),
            most=memory.most,
            epochs=epochs,
        )
        forged = deltas
        for code, name in enumerate(names, 1):
            mine = upload.present & (conduct.attack == code)
            made = UPLOADS[name].make(known._replace(mine=mine))
            forged = jnp.where(mine[:, None], made, forged)
        return forged

    def receive(download: Download, present: Array, state: ArrayTree) -> ArrayTree:
        if not depth:
            return state
        newest = download.rewards.astype(state.received.dtype)[:, None]
        received = jnp.concatenate([newest, state.received[:, : depth - 1]], axis=1)
        most = jnp.maximum(state.most, download.quota)
        return Memory(
            jnp.where(present[:, None, None], received, state.received),
            jnp.where(present, most, state.most),
        )

    return Attack(init, forge, receive)


# ---------------------------------------------------------------- attacks on data, on the host


def label_flip(rng: np.random.Generator, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """A label y becomes C - 1 - y; of an odd number of classes the middle one stays."""
    del rng
    return num_classes - 1 - labels


def random_labels(rng: np.random.Generator, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """A label is drawn anew, uniformly, once for the whole run: one in C is right by chance."""
    return rng.integers(num_classes, size=labels.shape).astype(labels.dtype)


# Attacks on a client's own data. name -> (rng, labels [M], num_classes) -> labels [M]; its strength
# is the share of its rows whose labels it touches.
LABELS: dict[str, Callable[[np.random.Generator, np.ndarray, int], np.ndarray]] = {
    "label_flip": label_flip,
    "random_labels": random_labels,
}
# One client poses as several: its strength is not a number of the round but the number of clients.
REPLICATION = "replication"
ATTACKS = (*LABELS, *UPLOADS, REPLICATION)
# name -> what its strength is; replication has none.
STRENGTHS: dict[str, Strength] = {
    **{name: Strength(1.0, "a share of rows", ranges.Interval(0, 1, "(]")) for name in LABELS},
    **{name: forgery.strength for name, forgery in UPLOADS.items()},
}


def dishonest(
    rng: np.random.Generator,
    clients: Clients,
    labels: np.ndarray,
    num_classes: int,
    asked: Sequence[tuple[str, int, float | None]],
    attackers: Sequence[int] = (),
) -> tuple[Clients, tuple[str, ...]]:
    """The partition with some clients cheating.

    Args:
      rng: draws who they are, and random labels.
      clients: the honest partition, N clients.
      labels: [n] of the training rows.
      num_classes: C.
      asked: (name, how many clients, strength or None for the attack's own), each name once; what
        a strength may be is in `STRENGTHS`. Of attacks on labels it is the share s of a client's n
        rows: round(s n) of them, at least one, drawn without replacement. Of `replication` one
        client does it, and the number is how many it poses as: the copies follow the other
        clients, so that N grows.
      attackers: who they are, first those of the first attack; default: drawn.

    Returns:
      The partition, and every client's attack by name, "" where honest. A `Conduct` numbers the
      attacks on uploads in the order asked.

    Raises:
      ValueError: a name is unknown, a strength cannot be, an attacker no client or named twice, or
        there are fewer clients than attackers.
    """
    checks.generator(rng)
    number = len(clients.mask)
    known = [type(n) is not bool and isinstance(n, int | np.integer) for n in attackers]
    if (
        not all(known)
        or len(set(attackers)) < len(known)
        or not set(attackers) <= set(range(number))
    ):
        raise ValueError(
            f"attackers is {list(attackers)}, it must hold distinct clients from 0 to {number - 1}"
        )
    order = list(attackers) or rng.permutation(number).tolist()
    names, code = [""] * number, np.zeros(number, np.int32)
    strength = np.zeros(number, np.float32)
    believed = None if clients.labels is None else np.array(clients.labels)
    copies: list[int] = []
    uploads = 0
    for name, count, size in asked:
        if name not in ATTACKS:
            raise ValueError(f"{name!r} is no attack, there are {', '.join(ATTACKS)}")
        checks.numbers("clients", **{f"the number of clients of {name}": count})
        if size is not None and name in STRENGTHS:
            for complaint in STRENGTHS[name].complaints(name, size):
                raise ValueError(complaint)
        taken = 1 if name == REPLICATION else count
        if taken > len(order):
            raise ValueError(f"attack {name} needs {taken} clients, {len(order)} are left")
        mine, order = order[:taken], order[taken:]
        uploads += name in UPLOADS
        for client in mine:
            names[client] = name
        if name in LABELS:
            believed = np.asarray(labels)[clients.rows] if believed is None else believed
            share = STRENGTHS[name].default if size is None else size
            for client in mine:
                wrong = LABELS[name](rng, believed[client], num_classes)
                touched = slice(None)
                if share < 1:
                    slots = rng.permutation(np.flatnonzero(clients.mask[client]))
                    touched = slots[: max(1, round(share * len(slots)))]
                believed[client, touched] = wrong[touched]
        elif name in UPLOADS:
            code[mine] = uploads
            strength[mine] = STRENGTHS[name].default if size is None else size
        else:
            copies = mine * (count - 1)
    conduct = Conduct(code, strength) if uploads else None
    clients = clients._replace(labels=believed, conduct=conduct)
    if copies:
        rows = [*range(number), *copies]
        clients = jax.tree.map(lambda x: np.asarray(x)[rows], clients)
        names = [names[row] for row in rows]
    return clients, tuple(names)
