"""What clients upload in place of what they trained: the attacks on uploads, a function each.

An attacker knows what it was sent, the update that it trained where its line says so, and what its
accomplices send. It never sees u_N, another client's download, a score or a reputation.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import ranges, vectors
from cgsv_jax.types import Array

# Downloads that the longest memory holds: what is kept is [N, K, D], eight times all models.
DOWNLOADS = 8


class Strength(NamedTuple):
    """The number s of an attack: what it counts, and what it may be."""

    default: float = 1.0
    unit: str = "a factor"
    allowed: ranges.Interval | None = None  # None: any number

    def complaints(self, name: str, value: float) -> list[str]:
        """What is wrong with the strength of the attack `name`: a sentence, or none."""
        if self.allowed is None:
            return []
        value = float(value)
        if self.allowed.whole and value.is_integer():
            value = int(value)
        return self.allowed.complaints(f"the strength of {name}, {self.unit},", value)


class Known(NamedTuple):
    """A round as attackers see it, of all clients at once; only rows of `mine` are used."""

    keys: Array  # [N] for draws, by client number
    deltas: Array  # [N, D] dw_i as trained
    mine: Array  # [N] bool, who does it and is present
    strength: Array  # [N] s
    numbers: Array  # [N] int32, by which clients are in order
    received: Array  # [N, K, D] own downloads, newest first, 0 before there was one


class Forgery(NamedTuple):
    """What one attack makes of the updates of a round.

    `make(known) -> [N, D]`; only the attackers' rows are used.
    """

    make: Callable[[Known], Array]
    strength: Strength = Strength()
    remembers: int = 0  # how many of its downloads it needs


def zero(known: Known) -> Array:
    """Nothing, every entry 0."""
    return jnp.zeros_like(known.deltas)


def uniform(known: Known) -> Array:
    """Noise, uniform in [-s, s], as RFFL's free riders."""
    deltas = known.deltas
    drawn = jax.vmap(
        lambda key: jax.random.uniform(key, deltas.shape[1:], deltas.dtype, minval=-1.0)
    )(known.keys)
    return known.strength[:, None] * drawn


def replay(known: Known) -> Array:
    """v_1, the last download."""
    return known.received[:, 0]


def delayed(known: Known) -> Array:
    """v_s, the download s rounds back of those that it took part in; s = 1 is the last one."""
    place = _whole(known.strength, known.received.shape[1]) - 1
    return jnp.take_along_axis(known.received, place[:, None, None], axis=1)[:, 0]


def total(known: Known) -> Array:
    """v_1 + ... + v_s, the sum of its last s downloads."""
    count = known.received.shape[1]
    last = jnp.arange(count)[None, :] < _whole(known.strength, count)[:, None]
    return jnp.sum(jnp.where(last[:, :, None], known.received, 0.0), axis=1)


def noisy_replay(known: Known) -> Array:
    """v_1 and Gaussian noise whose length is about s ‖v_1‖."""
    last = known.received[:, 0]
    return last + _relative_noise(known, last)


def sign_flip(known: Known) -> Array:
    """-s dw."""
    return -known.strength[:, None] * known.deltas


def gaussian(known: Known) -> Array:
    """Own dw and Gaussian noise whose length is about s ‖dw‖."""
    return known.deltas + _relative_noise(known, known.deltas)


def scaled(known: Known) -> Array:
    """Own dw, s times as long."""
    return known.strength[:, None] * known.deltas


def coordinated(known: Known) -> Array:
    """-s times the mean dw of all who do it."""
    shares = known.mine / jnp.maximum(jnp.sum(known.mine), 1)
    shared = vectors.weighted_sum(shares.astype(known.deltas.dtype), known.deltas)
    return -known.strength[:, None] * shared[None, :]


def _whole(strength: Array, most: int) -> Array:
    """The strength as a whole number in 1..most."""
    return jnp.clip(jnp.round(strength), 1, most).astype(jnp.int32)


def _gaussian(known: Known) -> Array:
    """N(0, 1), [N, D]."""
    deltas = known.deltas
    return jax.vmap(lambda key: jax.random.normal(key, deltas.shape[1:], deltas.dtype))(known.keys)


def _relative_noise(known: Known, like: Array) -> Array:
    """Gaussian noise [N, D] whose length is about s times that of rows of `like`."""
    drawn = _gaussian(known)
    unit = vectors.norms(like) / np.sqrt(like.shape[1])
    return (known.strength * unit)[:, None] * drawn


_DELAY = Strength(3.0, "rounds back", ranges.Interval(1, DOWNLOADS, whole=True))
_COUNT = Strength(3.0, "a number of downloads", ranges.Interval(1, DOWNLOADS, whole=True))
_LENGTH = ranges.Interval(0, math.inf, "[)")

# Attacks on uploads. name -> what is uploaded
UPLOADS: dict[str, Forgery] = {
    "free_rider": Forgery(zero),
    "free_rider_noise": Forgery(uniform),
    "free_rider_replay": Forgery(replay, remembers=1),
    "free_rider_replay_delayed": Forgery(delayed, _DELAY, DOWNLOADS),
    "free_rider_replay_sum": Forgery(total, _COUNT, DOWNLOADS),
    "free_rider_replay_noise": Forgery(noisy_replay, Strength(0.5, "a length", _LENGTH), 1),
    "sign_flip": Forgery(sign_flip),
    "gaussian_noise": Forgery(gaussian),
    "scaled": Forgery(scaled, Strength(10.0)),
    "coordinated_sign_flip": Forgery(coordinated),
}
