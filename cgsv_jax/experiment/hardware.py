"""What the hardware holds: devices, bytes, and how many models at once."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.config.schema import Config, ConfigError
from cgsv_jax.core import layout as layout_lib
from cgsv_jax.experiment import timing as timing_lib
from cgsv_jax.host import files as files_lib
from cgsv_jax.types import Model


def devices(config: Config) -> list[Any]:
    """The devices that share the clients.

    Raises:
      ConfigError: more of them are asked for than there are.
    """
    available = jax.devices()
    if config.devices > len(available):
        raise ConfigError(
            f"--devices is {config.devices}, it must be at most {len(available)}, what there is"
        )
    if jax.process_count() > 1 and config.devices < len(available):
        raise ConfigError(
            f"--devices is {config.devices}, it must be {len(available)}: "
            f"each of the {jax.process_count()} processes takes part with all it has"
        )
    wanted = config.devices if jax.process_count() > 1 else min(config.devices, config.clients)
    return available[:wanted]


class Memory(NamedTuple):
    """Something that takes memory."""

    size: int  # bytes
    what: str
    flags: tuple[str, ...]  # that decide it


def beyond(what: str, needed: Sequence[Memory], there: int) -> list[str]:
    """A sentence where all of it does not fit in `there` bytes, about what takes most of it."""
    total = sum(each.size for each in needed)
    if total <= there:
        return []
    most = [each for each in needed if 10 * each.size > total]
    flags = ", ".join(dict.fromkeys(flag for each in most for flag in each.flags))
    size, has = (f"{bytes_ / 2**30:,.1f} GiB" for bytes_ in (total, there))
    holders = " and ".join(each.what for each in most)
    return [f"{flags}: {what} would take {size} of memory for {holders}, there are {has}"]


def memory() -> int:
    """Bytes of the device, or of the host where that is the device."""
    return timing_lib.memory_limit() or files_lib.host_memory()


def fitting(model: Model, batch: jax.ShapeDtypeStruct, most: int, training: bool) -> int:
    """Models that may be computed at once: half of the memory is theirs, the rest the matrices'.

    On a GPU no more than pay (`layout.WIDEST_ON_GPU`), even where more fit.

    Args:
      model: the network.
      batch: shape [B, ...] and type of the inputs of one model.
      most: N.
      training: whether gradients are computed.

    Returns:
      From 1 to N.
    """
    if jax.default_backend() == "gpu":
        most = min(most, layout_lib.WIDEST_ON_GPU)
    # Of a chunk rather than of one model: XLA lays out many side by side differently than one.
    chunk = min(most, layout_lib.WIDEST_ON_GPU)
    each = -(-scratch(model, batch, training, chunk) // chunk)
    return int(np.clip(memory() // 2 // max(each, 1), 1, most))


@functools.lru_cache(maxsize=64)
def scratch(model: Model, batch: jax.ShapeDtypeStruct, training: bool, count: int) -> int:
    """Bytes that `count` models at once need beside their parameters for a batch, as compiled."""

    def forward(params: Any, inputs: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.sum(model.apply(params, inputs, key if training else None))

    params = jax.eval_shape(model.init, jax.random.key(0))
    function, arguments = (jax.grad(forward) if training else forward), (params, batch)
    if count > 1:
        # Clients train on rows of their own; models are evaluated on the same ones.
        params, rows = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), arguments
        )
        arguments = params, rows if training else batch
        function = jax.vmap(function, in_axes=(0, 0 if training else None, None))
    lowered = jax.jit(function).lower(*arguments, jax.random.key(0))
    analysis = lowered.compile().memory_analysis()
    if analysis is None:  # the backend does not say
        return 0
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes
