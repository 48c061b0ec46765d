"""Pooling over windows of an image, and the way back, as elementwise operations on strided views.

`lax.reduce_window` has a slow gradient on CPU (2×2, B128 28×28×64, forward and backward: 131 ms;
as here 6 ms), and elementwise operations fuse with their neighbours on every backend. The gradient
of `jnp.maximum`, which divides at every tie, is slow in its turn: windows that do not overlap have
their own (10 to 15 % of LeNet's step).
"""

from __future__ import annotations

from functools import partial, reduce

import jax
import jax.numpy as jnp

from deeplearn.errors import UsageError
from deeplearn.layers.convolution import Padding, Pair, explicit_padding, interleaved, pair
from deeplearn.types import Array


def max_pool(
    x: Array,
    window: int | Pair = 2,
    strides: int | Pair | None = None,
    padding: Padding = "VALID",
) -> Array:
    """The largest value of each window: (B, Y, X, C) → (B, Y', X', C).

    `strides` is the window where it is None. Where values tie, the gradient goes to the first of
    them in windows side by side, and is shared in windows that overlap. Differentiable in reverse
    mode to any order; not in forward mode alone.
    """
    window = pair(window)
    strides = window if strides is None else pair(strides)
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    rows, columns = (n // k for n, k in zip(x.shape[1:3], window, strict=True))
    if strides == window and pads == ((0, 0), (0, 0)) and rows and columns:
        return _max_of_tiles(x[:, : rows * window[0], : columns * window[1]], window)
    return reduce(jnp.maximum, _views(x, window, strides, pads, fill=-jnp.inf))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_tiles(x: Array, window: Pair) -> Array:
    """The maximum of windows side by side that fill the image."""
    return reduce(jnp.maximum, _views(x, window, window, "VALID", fill=-jnp.inf))


def _forward(x: Array, window: Pair) -> tuple[Array, Array]:
    y = _max_of_tiles(x, window)
    place = jnp.zeros(y.shape, jnp.int32)
    for number, view in reversed(list(enumerate(_views(x, window, window, "VALID", fill=0.0)))):
        place = jnp.where(view == y, number, place)
    return y, place


def _backward(window: Pair, place: Array, dy: Array) -> tuple[Array]:
    height, width = window
    parts = [jnp.where(place == number, dy, 0) for number in range(height * width)]
    return (interleaved([parts[i : i + width] for i in range(0, len(parts), width)]),)


_max_of_tiles.defvjp(_forward, _backward)


def average_pool(
    x: Array,
    window: int | Pair = 2,
    strides: int | Pair | None = None,
    padding: Padding = "VALID",
) -> Array:
    """The mean of each window, padding counted as zeros: (B, Y, X, C) → (B, Y', X', C)."""
    views = _views(x, window, strides, padding, fill=0.0)
    return sum(views[1:], start=views[0]) / len(views)


def global_average_pool(x: Array) -> Array:
    """The mean over the image, summed in fp32: (B, Y, X, C) → (B, C)."""
    return x.mean((1, 2), dtype=jnp.float32).astype(x.dtype)


def upsample(x: Array) -> Array:
    """Every pixel as 2×2 of its own: (B, Y, X, C) → (B, 2Y, 2X, C)."""
    b, y, x_size, c = x.shape
    rows = jnp.broadcast_to(x[:, :, None, :, None], (b, y, 2, x_size, 2, c))
    return rows.reshape(b, 2 * y, 2 * x_size, c)


def _views(
    x: Array, window: int | Pair, strides: int | Pair | None, padding: Padding, fill: float
) -> list[Array]:
    """One array (B, Y', X', C) for each place in the window."""
    window = pair(window)
    strides = window if strides is None else pair(strides)
    pads = explicit_padding(padding, x.shape[1:3], window, strides)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    rows, columns = (
        (n - k) // s + 1 for n, k, s in zip(x.shape[1:3], window, strides, strict=True)
    )
    if rows < 1 or columns < 1:
        raise UsageError(f"an image of {x.shape[1:3]} is smaller than the pooling window {window}")
    return [
        x[:, i :: strides[0], j :: strides[1]][:, :rows, :columns]
        for i in range(window[0])
        for j in range(window[1])
    ]
