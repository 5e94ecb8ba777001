"""Clients that cheat: what they upload in place of what they trained, or the labels they believe.

Which client does what is data (`Conduct`), so one program serves every choice of attackers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import checks, vectors
from cgsv_jax.types import Array, ArrayTree, Attack, Clients, Conduct, PRNGKey, Upload


class Forgery(NamedTuple):
    """What one attack makes of the updates of a round.

    `make(keys [N], deltas [N, D], mine [N] bool, strength [N], received [N, D] or None) -> [N, D]`;
    only the attackers' rows are used. `strength` is in the unit that the attack names.
    """

    make: Callable[[Array, Array, Array, Array, Any], Array]
    strength: float = 1.0  # where nobody says otherwise
    remembers: bool = False  # whether it needs what was received in the last round


def _zero(keys: Array, deltas: Array, mine: Array, strength: Array, received: None) -> Array:
    return jnp.zeros_like(deltas)


def _noise(keys: Array, deltas: Array, mine: Array, strength: Array, received: None) -> Array:
    drawn = jax.vmap(
        lambda key: jax.random.uniform(key, deltas.shape[1:], deltas.dtype, minval=-1.0)
    )(keys)
    return strength[:, None] * drawn


def _replay(keys: Array, deltas: Array, mine: Array, strength: Array, received: Array) -> Array:
    return received


def _sign_flip(keys: Array, deltas: Array, mine: Array, strength: Array, received: None) -> Array:
    return -strength[:, None] * deltas


def _gaussian(keys: Array, deltas: Array, mine: Array, strength: Array, received: None) -> Array:
    drawn = jax.vmap(lambda key: jax.random.normal(key, deltas.shape[1:], deltas.dtype))(keys)
    unit = vectors.norms(deltas) / np.sqrt(deltas.shape[1])
    return deltas + (strength * unit)[:, None] * drawn


def _scaled(keys: Array, deltas: Array, mine: Array, strength: Array, received: None) -> Array:
    return strength[:, None] * deltas


def _coordinated(keys: Array, deltas: Array, mine: Array, strength: Array, received: None) -> Array:
    shares = mine / jnp.maximum(jnp.sum(mine), 1)
    shared = vectors.weighted_sum(shares.astype(deltas.dtype), deltas)
    return -strength[:, None] * shared[None, :]


# Attacks on uploads. name -> what is uploaded
UPLOADS: dict[str, Forgery] = {
    "free_rider": Forgery(_zero),  # nothing, every entry 0
    "free_rider_noise": Forgery(_noise),  # uniform in [-s, s], as RFFL's free riders
    "free_rider_replay": Forgery(_replay, remembers=True),  # what it was sent in the round before
    "sign_flip": Forgery(_sign_flip),  # -s dw
    "gaussian_noise": Forgery(_gaussian),  # dw + noise whose length is about s ‖dw‖
    "scaled": Forgery(_scaled, 10.0),  # s dw
    "coordinated_sign_flip": Forgery(_coordinated),  # -s times the mean dw of all who do it
}


def attack(names: Sequence[str]) -> Attack:
    """The attacks on uploads of a run, code 1 of a `Conduct` being the first of `names`.

    Every forgery is computed for all rows of the round and used in the attackers' only: for a few
    of many clients that is wasteful beside the server's step, and nothing beside training.

    Args:
      names: keys of `UPLOADS`.

    Returns:
      An Attack; its state is what every client received in the round before [N, D], if one needs
      it.

    Raises:
      ValueError: another name.
    """
    checks.kinds(names=(names, list | tuple, '["sign_flip"]'))
    for name in names:
        if name not in UPLOADS:
            raise ValueError(f"{name!r} is no attack on uploads, there are {', '.join(UPLOADS)}")
    remembers = any(UPLOADS[name].remembers for name in names)

    def init(num_clients: int, num_parameters: int) -> ArrayTree:
        return jnp.zeros((num_clients, num_parameters)) if remembers else ()

    def forge(key: PRNGKey, upload: Upload, conduct: Conduct, state: ArrayTree) -> Array:
        deltas = upload.deltas
        keys = vectors.draws(key, upload.numbers, deltas.shape[0])
        strength = conduct.strength.astype(deltas.dtype)
        received = state.astype(deltas.dtype) if remembers else None
        forged = deltas
        for code, name in enumerate(names, 1):
            mine = upload.present & (conduct.attack == code)
            made = UPLOADS[name].make(keys, deltas, mine, strength, received)
            forged = jnp.where(mine[:, None], made, forged)
        return forged

    def receive(rewards: Array, present: Array, state: ArrayTree) -> ArrayTree:
        if not remembers:
            return state
        return jnp.where(present[:, None], rewards.astype(state.dtype), state)

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
      asked: (name, how many clients, strength or None for the attack's own), each name once. Of
        attacks on labels it is the share s of a client's n rows, in (0, 1], 1 by default:
        round(s n) of them, at least one, drawn without replacement. Of `replication` one client
        does it, and the number is how many it poses as: the copies follow the other clients, so
        that N grows.
      attackers: who they are, first those of the first attack; default: drawn.

    Returns:
      The partition, and every client's attack by name, "" where honest. A `Conduct` numbers the
      attacks on uploads in the order asked.

    Raises:
      ValueError: a name is unknown, a share is none, an attacker no client or named twice, or there
        are fewer clients than attackers.
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
        taken = 1 if name == REPLICATION else count
        if taken > len(order):
            raise ValueError(f"attack {name} needs {taken} clients, {len(order)} are left")
        mine, order = order[:taken], order[taken:]
        uploads += name in UPLOADS
        for client in mine:
            names[client] = name
        if name in LABELS:
            believed = np.asarray(labels)[clients.rows] if believed is None else believed
            share = 1.0 if size is None else size
            if not 0 < share <= 1:
                raise ValueError(f"attack {name} needs a share of rows in (0, 1], got {share}")
            for client in mine:
                wrong = LABELS[name](rng, believed[client], num_classes)
                touched = slice(None)
                if share < 1:
                    slots = rng.permutation(np.flatnonzero(clients.mask[client]))
                    touched = slots[: max(1, round(share * len(slots)))]
                believed[client, touched] = wrong[touched]
        elif name in UPLOADS:
            code[mine] = uploads
            strength[mine] = UPLOADS[name].strength if size is None else size
        else:
            copies = mine * (count - 1)
    conduct = Conduct(code, strength) if uploads else None
    clients = clients._replace(labels=believed, conduct=conduct)
    if copies:
        rows = [*range(number), *copies]
        clients = jax.tree.map(lambda x: np.asarray(x)[rows], clients)
        names = [names[row] for row in rows]
    return clients, tuple(names)
