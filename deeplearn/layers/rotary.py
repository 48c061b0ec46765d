"""Rotary position embedding.

Source: Su et al. 2021, "RoFormer" (arXiv:2104.09864), equation 34. Feature i is paired with
feature i + K/2, as Llama does, and not with its neighbour. Scaling: Grattafiori et al. 2024
(arXiv:2407.21783), in the form published with Llama 3.1.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from deeplearn.types import Array

Scaling = tuple[float, float, float, int]
"""(factor, low, high, length): of frequencies for a context `factor` times as long as `length`.

A pair that turns `high` times or more within `length` tokens keeps its frequency; of one that
turns `low` times or less it is divided by `factor`; between them it is interpolated.
"""


def rotate(
    x: Array, positions: Array, base: float = 10_000.0, scaling: Scaling | None = None
) -> Array:
    """Turns each pair of features of x (B, T, H, K) by position · base^(−2i/K): same shape.

    `positions` are int (B or 1, T). A product of two turned vectors depends on the difference of
    their positions alone. Angles are fp32: bf16 cannot tell position 256 from 257.
    """
    half = x.shape[-1] // 2
    frequency = _frequencies(half, base, scaling)
    angle = positions.astype(jnp.float32)[:, :, None, None] * frequency.reshape(1, 1, 1, half)
    shape = (*x.shape[:-1], half)
    cos, sin = (jnp.broadcast_to(part, shape) for part in (jnp.cos(angle), jnp.sin(angle)))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def _frequencies(half: int, base: float, scaling: Scaling | None) -> Array:
    """Radians a token (K/2,)."""
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling is None:
        return frequency
    factor, low, high, length = scaling
    turns = frequency * (length / (2 * math.pi))
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (kept + (1 - kept) / factor)
