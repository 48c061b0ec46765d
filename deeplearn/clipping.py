"""Clipping of every array of a gradient for itself; that of the whole gradient is optax's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from deeplearn.types import Array


def clip_by_block_norm(bound: ArrayLike) -> optax.GradientTransformation:
    """Scales every array of the gradient whose norm is above `bound` down to it."""

    def clip(gradient: Array) -> Array:
        norm = jnp.linalg.norm(gradient.ravel().astype(jnp.float32))
        return (gradient * (bound / jnp.maximum(norm, bound))).astype(gradient.dtype)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))
