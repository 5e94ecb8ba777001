"""The one stopwatch, and what this device can do at best: matrix rate, copy rate, peak memory.

Every time is that of a call until all JAX arrays of its result are ready; every figure is a median
with quartiles. Floors are computed from rates measured on the same device in the same process.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.host import files


class Timing(NamedTuple):
    """Seconds of repeated calls, or ratios of such seconds."""

    median: float
    lower: float  # first quartile
    upper: float  # third quartile
    seconds: tuple[float, ...]  # every repeat, in order

    def milliseconds(self, per: float = 1.0) -> str:
        """`median (lower-upper)` in milliseconds, divided by `per` units of work."""
        low, mid, high = (1e3 * s / per for s in (self.lower, self.median, self.upper))
        return f"{mid:.2f} ({low:.2f}-{high:.2f})"


def summary(seconds: list[float]) -> Timing:
    """Median and quartiles of measured seconds, or of ratios."""
    lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75))
    return Timing(float(median), float(lower), float(upper), tuple(seconds))


def once(call: Callable[[], Any]) -> float:
    """Seconds of one call, until every JAX array of its result is ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def repeat(call: Callable[[], Any], repeats: int = 5, warmup: int = 1) -> Timing:
    """Times one call; the first `warmup` calls, which compile, do not count."""
    return alternate({"": call}, repeats, warmup)[""]


def alternate(
    calls: Mapping[str, Callable[[], Any]], repeats: int = 5, warmup: int = 1
) -> dict[str, Timing]:
    """Times several calls in turn, so that a slow minute of the machine meets all of them.

    Repeat i of each call is a neighbour of repeat i of the others: ratios of `seconds` taken pair
    by pair are steadier than a ratio of medians.
    """
    for call in calls.values():
        for _ in range(warmup):
            once(call)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(once(call))
    return {name: summary(times) for name, times in seconds.items()}


def ratio(numerator: Timing, denominator: Timing) -> Timing:
    """Repeat by repeat of two timings that alternated.

    >>> ratio(summary([2.0, 6.0]), summary([1.0, 2.0])).median
    2.5
    """
    pairs = zip(numerator.seconds, denominator.seconds, strict=True)
    return summary([a / b for a, b in pairs])


def chained(step: Callable[[Any], Any], state: Any, steps: int) -> Callable[[], Any]:
    """A call that takes `steps` steps from where the last call stopped.

    For functions that donate their argument, as a training loop does: a call into fresh buffers
    would time the operating system handing out pages.
    """
    carry = [state]

    def call() -> Any:
        for _ in range(steps):
            carry[0] = step(carry[0])
        return carry[0]

    return call


# ---------------------------------------------------------------- what the device can do


def matrix_rate(size: int = 1024, repeats: int = 7, precision: str | None = None) -> float:
    """FLOP/s of the product of two float32 matrices [size, size]: the best of several.

    Args:
      size: rows and columns.
      repeats: calls, of which the fastest counts; a floor is what the device does undisturbed.
      precision: as in `jax.default_matmul_precision`; None is the backend's own.
    """
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    seconds = repeat(lambda: multiply(x, x), repeats).seconds
    return 2 * size**3 / min(seconds)


def copy_rate(megabytes: int = 128, repeats: int = 7) -> float:
    """Bytes/s, read and written together, of an array rewritten in place: the best of several.

    In place, because that is what a donated carry does; into fresh pages a CPU is several times
    slower, and the pages' zeroing is no part of the work.
    """
    x = jnp.zeros(megabytes * 2**18, jnp.float32)
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    seconds = repeat(chained(step, x, 1), repeats).seconds
    return 2 * megabytes * 2**20 / min(seconds)


def peak_memory(device: Any = None) -> int:
    """Most bytes ever in use: of the device's memory, or of this process where that is the host's.

    It counts from the start of the process, so that one process can measure one thing.
    """
    stats = (device or jax.local_devices()[0]).memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return files.peak_memory()


def memory_limit(device: Any = None) -> int | None:
    """Bytes the device may hold, where it says so (GPUs and TPUs do); else None."""
    stats = (device or jax.local_devices()[0]).memory_stats() or {}
    return stats.get("bytes_limit")


def cost(function: Callable, *args: Any) -> tuple[float, float]:
    """(FLOPs, bytes) of one call as it is written, by XLA's count; nothing is compiled.

    Every operation's operands and results count as moved, which fusion makes fewer. A loop counts
    as one turn: ask for the body, and multiply by what is known of its length.
    """
    analysis = jax.jit(function).lower(*args).cost_analysis() or {}
    return float(analysis.get("flops", 0.0)), float(analysis.get("bytes accessed", 0.0))
