"""Time cut into chunks of equal length, for scans that keep no more than one chunk in memory."""

from __future__ import annotations

import jax.numpy as jnp

from deeplearn.types import Array


def split_time(x: Array, size: int, padding: float = 0.0) -> Array:
    """(T, …) → (chunks, tokens, …): at most `size` tokens, `padding` behind the last of them."""
    size = min(size, len(x))
    around = ((0, -len(x) % size), *((0, 0),) * (x.ndim - 1))
    return jnp.pad(x, around, constant_values=padding).reshape(-1, size, *x.shape[1:])


def join_time(chunks: Array, steps: int) -> Array:
    """(chunks, tokens, …) → (T, …), where T is `steps`: the inverse of `split_time`."""
    return chunks.reshape(-1, *chunks.shape[2:])[:steps]
