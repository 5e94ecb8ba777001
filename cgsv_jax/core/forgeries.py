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
# Of secant steps of length 1, what keeps those that are nearly parallel apart: well above the
# rounding of their inner products.
RIDGE = 1e-5


class Strength(NamedTuple):
    """The number s of an attack: what it counts, and what it may be."""

    default: float = 1.0
    unit: str = ""  # none: the attack has no strength, and whatever is asked for says nothing
    allowed: ranges.Interval | None = None  # None: any number

    @property
    def said(self) -> str:
        """In brackets, as help shows it behind the attack's name."""
        return f" ({self.unit}: {self.default:g})" if self.unit else ""

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
    most: Array  # [N] int32, most entries of u_N that ever arrived in one round
    epochs: int  # E, local epochs of a client that trains


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


def delta_weights(known: Known) -> Array:
    """v_1 + N(0, s^2) on every entry.

    The "advanced delta weights attack" of Lin et al. (arXiv 1911.12560), which S2-WEF (arXiv
    2604.04611) calls ADWA; s = 1e-3 is that of github.com/LukasXperiaZ/FL-free-rider-benchmark.
    There all receive the global model, and its last difference is replayed; a client here receives
    its own model alone, of which v_1 is the last difference.
    """
    return known.received[:, 0] + known.strength[:, None] * _gaussian(known)


def camouflaged(known: Known) -> Array:
    """v_1 in E steps, each with noise of its own: v_1 + N(0, E s^2) on every entry.

    S2-WEF's "adaptive WEF-camouflage attack" (AWCA, arXiv 2604.04611, algorithm 1), which takes
    v_1 / E + N(0, s^2) in each of E local epochs so that the frequencies with which entries move,
    which clients report there, take values between 0 and E. No frequencies are reported here, so
    that the sum of the steps is all that is left of it. Assumed: s = 1e-3 as in `delta_weights`.
    """
    return delta_weights(known._replace(strength=math.sqrt(known.epochs) * known.strength))


def predicted(known: Known) -> Array:
    """v_1 + H v_1, the next download by the secants of the past ones, without any data.

    Downloads move a client's model, w_t - w_{t-1} = v_1, and stand for the update there, so that
    the k-th pair is the step s_k = v_{k+1} and the change y_k = v_k - v_{k+1}. H is the smallest
    matrix (Frobenius) with H s_k = y_k for the newest s pairs,

      H = Y (S'S + ridge I)^{-1} S',  columns of S = s_k / ‖s_k‖, of Y = y_k / ‖s_k‖,

    exact where downloads are gradients of a quadratic and v_1 is in the span of the s_k. A pair is
    left out if there was no such download or it was nothing beside the next one. O(N K^2 D).

    After ACE (Xu et al., USENIX Security 2024, arXiv 2405.20975), where a client predicts the
    global update by g_{t-1} + H (w_t - w_{t-1}) from global models and an L-BFGS approximation of
    H. Assumed: all pairs hold at once (L-BFGS keeps the newest alone); ACE's threshold and
    amplification are left out, since a cosine takes no length.
    """
    received, exact = known.received, jax.lax.Precision.HIGHEST
    pairs = received.shape[1] - 1
    # All of it follows from the products of downloads, so that no steps [N, K, D] are stored.
    products = jnp.einsum("nkd,nld->nkl", received, received, precision=exact)
    lengths = jnp.sqrt(jnp.diagonal(products, axis1=1, axis2=2))
    newer, older = lengths[:, :-1], lengths[:, 1:]
    usable = older > jnp.finfo(lengths.dtype).eps * newer
    usable &= jnp.arange(pairs)[None, :] < _whole(known.strength, pairs)[:, None]
    unit = jnp.where(usable, 1 / jnp.where(usable, older, 1.0), 0.0)
    gram = unit[:, :, None] * products[:, 1:, 1:] * unit[:, None, :]
    onto = unit * products[:, 1:, 0]
    share = jnp.linalg.solve(gram + RIDGE * jnp.eye(pairs)[None], onto[:, :, None])[:, :, 0]
    # Products of downloads as long as 1e20 are no numbers: then it is a replay.
    share = jnp.where(jnp.isfinite(share), unit * share, 0.0)
    ahead, back = jnp.pad(share, ((0, 0), (0, 1))), jnp.pad(share, ((0, 0), (1, 0)))
    return received[:, 0] + jnp.einsum("nk,nkd->nd", ahead - back, received, precision=exact)


def partial(known: Known) -> Array:
    """Own dw, of which each entry is copied from v_1 with probability s, drawn in every round.

    What is copied is as long as what it replaces, a dw_j -> v_j ‖dw_M‖ / ‖v_M‖ on the drawn
    entries M, and stays dw where v_M is 0.
    """
    deltas, last = known.deltas, known.received[:, 0]
    shape = deltas.shape[1:]
    drawn = jax.vmap(lambda key, s: jax.random.bernoulli(key, s, shape))(known.keys, known.strength)
    own, theirs = (vectors.norms(jnp.where(drawn, x, 0.0)) for x in (deltas, last))
    scale = own / jnp.where(theirs > 0, theirs, 1.0)
    return jnp.where(drawn & (theirs > 0)[:, None], scale[:, None] * last, deltas)


def patient(known: Known) -> Array:
    """Own dw until a share s of all entries arrived in one round, from then on v_1.

    A client sees how many entries arrive; what it was sent tells it how it is regarded.
    """
    turned = known.most >= known.strength * known.deltas.shape[1]
    return jnp.where(turned[:, None], known.received[:, 0], known.deltas)


def sybils(known: Known) -> Array:
    """dw of the first of all who do it, and Gaussian noise of about s ‖dw‖ of each one's own."""
    numbers = jnp.where(known.mine, known.numbers, jnp.iinfo(jnp.int32).max)
    shared = jnp.broadcast_to(known.deltas[jnp.argmin(numbers)][None, :], known.deltas.shape)
    return shared + _relative_noise(known, shared)


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


_FACTOR = Strength(1.0, "a factor")
_DELAY = Strength(3.0, "rounds back", ranges.Interval(1, DOWNLOADS, whole=True))
_COUNT = Strength(3.0, "a number of downloads", ranges.Interval(1, DOWNLOADS, whole=True))
_PAIRS = Strength(3.0, "a number of secant pairs", ranges.Interval(1, DOWNLOADS - 1, whole=True))
_LENGTH = ranges.Interval(0, math.inf, "[)")
_DEVIATION = Strength(1e-3, "a standard deviation", _LENGTH)
_SHARE = Strength(0.9, "a share of the entries", ranges.Interval(0, 1, "(]"))

# Attacks on uploads. name -> what is uploaded
UPLOADS: dict[str, Forgery] = {
    "free_rider": Forgery(zero),
    "free_rider_noise": Forgery(uniform, Strength(1.0, "a bound")),
    "free_rider_replay": Forgery(replay, remembers=1),
    "free_rider_replay_delayed": Forgery(delayed, _DELAY, DOWNLOADS),
    "free_rider_replay_sum": Forgery(total, _COUNT, DOWNLOADS),
    "free_rider_replay_noise": Forgery(noisy_replay, Strength(0.5, "a length", _LENGTH), 1),
    "free_rider_adwa": Forgery(delta_weights, _DEVIATION, 1),
    "free_rider_awca": Forgery(camouflaged, _DEVIATION, 1),
    "free_rider_ace": Forgery(predicted, _PAIRS, DOWNLOADS),
    "free_rider_partial": Forgery(partial, _SHARE._replace(default=0.5), 1),
    "free_rider_patient": Forgery(patient, _SHARE, 1),
    "sybils": Forgery(sybils, Strength(0.1, "a length", _LENGTH)),
    "sign_flip": Forgery(sign_flip, _FACTOR),
    "gaussian_noise": Forgery(gaussian, Strength(1.0, "a length")),
    "scaled": Forgery(scaled, _FACTOR._replace(default=10.0)),
    "coordinated_sign_flip": Forgery(coordinated, _FACTOR),
}
