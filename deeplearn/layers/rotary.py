"""Rotary position embedding.

Source: Su et al. 2021, "RoFormer" (arXiv:2104.09864), equation 34. Feature i is paired with
feature i + K/2, as Llama does, and not with its neighbour.
"""

from __future__ import annotations

import jax.numpy as jnp

from deeplearn.types import Array


def rotate(x: Array, positions: Array, base: float = 10_000.0) -> Array:
    """Turns each pair of features of x (B, T, H, K) by position · base^(−2i/K): same shape.

    `positions` are int (B or 1, T). A product of two turned vectors depends on the difference of
    their positions alone. Angles are fp32: bf16 cannot tell position 256 from 257.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions.astype(jnp.float32)[:, :, None, None] * frequency.reshape(1, 1, 1, half)
    shape = (*x.shape[:-1], half)
    cos, sin = (jnp.broadcast_to(part, shape) for part in (jnp.cos(angle), jnp.sin(angle)))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
