"""A convolution followed by 2x2 max-pooling, in two forms with the same values.

`plain` is `lax.conv_general_dilated`, activation, `reduce_window`: fastest forward. Its transposed
convolutions are slow in a loop body on a CPU, and every client trains inside one.

`block` is for gradients. It rests on three identities:

* act(max(conv) + b) = max(act(conv + b)) for a monotone activation, so bias and activation come
  after pooling, on a quarter of the entries. Gradients agree too, except where adding b or the
  activation ROUNDS two different values of a window to a tie: then pooling last gives the gradient
  to the first of the tied entries, pooling first to the one that was larger.
* The 2x2 pooling window is a block of outputs. With p = 2r + alpha - a and q = 2s + beta - b,

      y[o, 2i + a, 2j + b] = sum_{c, p, q} K[p, q, c, o] x[c, 2i + a + p, 2j + b + q]
                           = sum_{c, r, s, alpha, beta} W[(a, b, o), (r, s, alpha, beta, c)]
                                                        X[(alpha, beta, c), i + r, j + s]

  where X[(alpha, beta, c), i, j] = x[c, 2i + alpha, 2j + beta] is x with its 2x2 blocks moved to
  the channels (space to depth) and W is K shifted by the phase (a, b), zero outside. So a k x k
  kernel becomes an m x m one, m = k // 2 + 1, over 4C channels with 4O outputs: more arithmetic,
  ((k + 1) / k)^2 for odd k, but in one matmul with enough rows to run near peak, over columns that
  copy the input m^2 times rather than k^2 times.
* The maximum over the window is the maximum over the four phases, which are contiguous rows of y.

Arrays lie as [channels, height, width, batch] so that every slice is a run of at least B numbers.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))  # of a pooling window, in row-major order


def pooled_size(size: int, kernel: int) -> int:
    """Length left of `size` by a valid convolution and 2-pooling; negative or 0: too short."""
    return (size - kernel + 1) // 2


def read_size(pooled: int, kernel: int) -> int:
    """Length that `pooled` outputs read; what lies beyond is cropped away by pooling."""
    return 2 * pooled + kernel - 1


def plain_conv(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Valid cross-correlation of images [B, H, W, C] with kernel [k, k, C, O], [B, H', W', O]."""
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_pool(images: jax.Array) -> jax.Array:
    """2x2 max-pooling of images [B, H, W, C]; an odd last row or column is dropped."""
    return nn.max_pool(images, (2, 2), strides=(2, 2))


def block_conv_pool(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Max-pooling of the valid convolution, as one matmul; reverse-mode differentiable only.

    The gradient of a window goes to its FIRST maximum in row-major order, as in PyTorch and
    `lax.reduce_window`: on constant image regions all four are equal. (Equal up to rounding, in
    any form: the four sums need not add their terms in the same order. The patches under such a tie
    are equal too, so the kernel's gradient does not depend on which one is chosen.)

    Args:
        images: [C, H, W, B], batch last.
        kernel: [k, k, C, O].

    Returns:
        [O, h, w, B] with h = (H - k + 1) // 2 and w likewise.
    """
    k, outputs = kernel.shape[0], kernel.shape[-1]
    h, w = (pooled_size(size, k) for size in images.shape[1:3])
    images = _fit(images, 2 * (h + k // 2), 2 * (w + k // 2))
    return matmul_max(images, _phase_kernel(kernel)).reshape(outputs, h, w, -1)


def _fit(images: jax.Array, height: int, width: int) -> jax.Array:
    """Crops images [C, H, W, B] to the whole 2x2 blocks that are read.

    An odd kernel reads whole blocks. An even one reads one row and column less, and these entries
    meet zeros of the phase kernel: where the image lacks them, zeros stand in.
    """
    images = images[:, :height, :width]
    missing = (height - images.shape[1], width - images.shape[2])
    return jnp.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))


def _phase_kernel(kernel: jax.Array) -> jax.Array:
    """W of the module's docstring: [k, k, C, O] -> [4 O, m m 4 C]."""
    k, _, channels, outputs = kernel.shape
    m = k // 2 + 1
    shifted = [
        jnp.pad(kernel, ((a, 2 * m - k - a), (b, 2 * m - k - b), (0, 0), (0, 0))) for a, b in PHASES
    ]
    split = jnp.stack(shifted).reshape(4, m, 2, m, 2, channels, outputs)
    return split.transpose(0, 6, 1, 3, 2, 4, 5).reshape(4 * outputs, m * m * 4 * channels)


def matmul_max(images: jax.Array, weights: jax.Array) -> jax.Array:
    """max over phases of weights [4 O, m m 4C] @ columns of images [C, 2R, 2S, B]: [O, h w B].

    Computed `by_phases` on a CPU and `by_winner` elsewhere. The choice falls where a program is
    lowered, so that one that was exported for several platforms holds both.
    """
    return lax.platform_dependent(images, weights, cpu=by_phases, default=by_winner)


# Autodiff of either would be right but slow: it transposes slices into pads of the full size and
# sums them.


@jax.custom_vjp
def by_phases(images: jax.Array, weights: jax.Array) -> jax.Array:
    """`matmul_max` that keeps all phases for its gradient: fewest operations, for a CPU."""
    return _by_phases_forward(images, weights)[0]


def _by_phases_forward(images, weights):
    blocks = _space_to_depth(images)  # [4C, R, S, B]
    columns = _columns(blocks, math.isqrt(weights.shape[1] // blocks.shape[0]))
    phases = jnp.split(weights @ columns, 4)  # 4 x [O, h w B]
    # A chain of maxima fuses with what follows; a reduction over a leading axis of 4 need not.
    pooled = jnp.maximum(jnp.maximum(phases[0], phases[1]), jnp.maximum(phases[2], phases[3]))
    return pooled, (blocks, columns, weights, phases, pooled)


def _by_phases_backward(saved, gradient):
    blocks, columns, weights, phases, pooled = saved
    d_phases = jnp.concatenate(_to_first_maximum(phases, pooled, gradient))  # [4 O, h w B]
    d_weights = d_phases @ columns.T
    d_images = _depth_to_space(_fold(weights.T @ d_phases, blocks.shape))
    return d_images, d_weights


by_phases.defvjp(_by_phases_forward, _by_phases_backward)


@jax.custom_vjp
def by_winner(images: jax.Array, weights: jax.Array) -> jax.Array:
    """`matmul_max` in the fewest bytes, which bound every step on a GPU; the same gradients.

    Of a window's phases it keeps the number of the first that is largest, one byte instead of four
    floats. Barriers: XLA's GPU compiler otherwise writes a concatenation again for each product
    that reads it, and reads the phases once for their maximum and once for its number. Columns are
    one concatenation, and windows are added back as one sum of pads: a kernel each.
    benchmarks/compiled_for_gpu.md counts what either form moves.
    """
    return _by_winner_forward(images, weights)[0]


def _by_winner_forward(images, weights):
    m = math.isqrt(weights.shape[1] // (len(PHASES) * images.shape[0]))
    columns = lax.optimization_barrier(_columns_of_images(images, m))
    best, *others = jnp.split(lax.optimization_barrier(weights @ columns), 4)
    winner = jnp.zeros(best.shape, jnp.int8)
    for number, phase in enumerate(others, start=1):
        winner = jnp.where(phase > best, jnp.int8(number), winner)  # the first of equal ones stays
        best = jnp.maximum(best, phase)
    return best, (images, columns, weights, winner)


def _by_winner_backward(saved, gradient):
    images, columns, weights, winner = saved
    none = jnp.zeros_like(gradient)
    parts = [jnp.where(winner == number, gradient, none) for number in range(len(PHASES))]
    d_phases = lax.optimization_barrier(jnp.concatenate(parts))
    d_weights = d_phases @ columns.T
    channels, height, width, batch = images.shape
    blocks = len(PHASES) * channels, height // 2, width // 2, batch
    d_images = _depth_to_space(_sum_of_pads(weights.T @ d_phases, blocks))
    return d_images, d_weights


by_winner.defvjp(_by_winner_forward, _by_winner_backward)


def _to_first_maximum(phases, pooled, gradient):
    """Hands each window's gradient to the first phase that equals its maximum."""
    free = jnp.ones(pooled.shape, bool)
    parts = []
    for phase in phases:
        hit = free & (phase == pooled)
        parts.append(jnp.where(hit, gradient, jnp.zeros_like(gradient)))
        free = free & ~hit
    return parts


# XLA's CPU compiler fuses a cheap producer (a transpose, bias and relu) into each of the slices
# that read it, and so repeats it m^2 times; a concatenation is computed once. Hence blocks by four
# strided slices, and columns in two concatenations; an `optimization_barrier` does not stop it.


def _space_to_depth(images: jax.Array) -> jax.Array:
    """Moves 2x2 blocks to the channels: [C, 2R, 2S, B] -> [4C, R, S, B]."""
    return jnp.concatenate([images[:, alpha::2, beta::2] for alpha, beta in PHASES])


def _depth_to_space(blocks: jax.Array) -> jax.Array:
    """The inverse of `_space_to_depth`, which is also its transpose."""
    channels, rows, columns, batch = blocks.shape
    split = blocks.reshape(2, 2, channels // 4, rows, columns, batch)
    return split.transpose(2, 3, 0, 4, 1, 5).reshape(channels // 4, 2 * rows, 2 * columns, batch)


def _columns(blocks: jax.Array, m: int) -> jax.Array:
    """The m x m windows of blocks [4C, h + m - 1, w + m - 1, B] as columns [m m 4C, h w B]."""
    h, w = blocks.shape[1] - m + 1, blocks.shape[2] - m + 1
    wide = jnp.concatenate([blocks[:, :, s : s + w] for s in range(m)])  # [m 4C, R, w, B]
    windows = jnp.concatenate([wide[:, r : r + h] for r in range(m)])  # [m m 4C, h, w, B]
    return windows.reshape(windows.shape[0], -1)


def _columns_of_images(images: jax.Array, m: int) -> jax.Array:
    """`_columns` of `_space_to_depth`, in one concatenation: [C, 2R, 2S, B] -> [m m 4C, h w B]."""
    h, w = images.shape[1] // 2 - m + 1, images.shape[2] // 2 - m + 1
    windows = [
        images[:, 2 * r + alpha :: 2, 2 * s + beta :: 2][:, :h, :w]
        for r in range(m)
        for s in range(m)
        for alpha, beta in PHASES
    ]
    return jnp.concatenate(windows).reshape(m * m * len(PHASES) * images.shape[0], -1)


def _fold(columns: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The transpose of `_columns`: adds every window back to its place in blocks of `shape`."""
    windows, m = _windows(columns, shape)
    blocks = jnp.zeros(shape, columns.dtype)
    for i, window in enumerate(windows):
        # Slices rather than `.at[].add`, which is a scatter; these are updated in place.
        start = (0, i // m, i % m, 0)
        old = lax.dynamic_slice(blocks, start, window.shape)
        blocks = lax.dynamic_update_slice(blocks, old + window, start)
    return blocks


def _sum_of_pads(columns: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`_fold`, its terms in the same order, in one fusion."""
    windows, m = _windows(columns, shape)
    places = [(i // m, i % m) for i in range(m * m)]
    pads = [
        jnp.pad(window, ((0, 0), (r, m - 1 - r), (c, m - 1 - c), (0, 0)))
        for window, (r, c) in zip(windows, places, strict=True)
    ]
    return functools.reduce(jnp.add, pads)


def _windows(columns: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, int]:
    """Columns [m m 4C, h w B] as windows [m m, 4C, h, w, B] of blocks of `shape`, and m."""
    channels, rows, width, batch = shape
    m = math.isqrt(columns.shape[0] // channels)
    return columns.reshape(m * m, channels, rows - m + 1, width - m + 1, batch), m
