"""Softmax cross-entropy of an output layer without its logits in memory.

The kernel is taken in tiles of the vocabulary: the forward pass keeps the running logarithm of the
normalizer, the backward pass computes each tile again. For N tokens the largest array beside the
gradients is (N, tile) instead of (N, V). The running maximum is that of Milakov & Gimelshein 2018
(arXiv:1805.02867).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.errors import UsageError
from deeplearn.types import Array


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def tiled_softmax_cross_entropy(features: Array, kernel: Array, labels: Array, tile: int) -> Array:
    """The cross-entropy (N,) in nats of `labels` int (N,) under softmax of features · kernel.

    `features` are (N, D), `kernel` (D, V); `tile` columns of the kernel are used at a time.
    Differentiable once, in reverse mode, by features and kernel.
    """
    return _forward(features, kernel, labels, tile)[0]


def _forward(features: Array, kernel: Array, labels: Array, tile: int) -> tuple[Array, tuple]:
    if tile < 1:
        raise UsageError(f"tile={tile} of the vocabulary must be 1 or more")
    tile = min(tile, kernel.shape[1])
    rows = len(features)

    def step(carry: tuple, index: Array) -> tuple[tuple, None]:
        largest, total, chosen = carry
        start, fresh, columns = _columns(index, tile, kernel.shape[1])
        logits = _logits(features, kernel, start, tile, fresh)
        new = jnp.maximum(largest, logits.max(1))
        total = total * jnp.exp(largest - new) + jnp.exp(logits - new[:, None]).sum(1)
        hit = _hits(labels, columns, fresh)
        return (new, total, chosen + jnp.where(hit, logits, 0.0).sum(1)), None

    # Not −∞: the first maximum is subtracted from it.
    first = (jnp.full(rows, -1e30), jnp.zeros(rows), jnp.zeros(rows))
    (largest, total, chosen), _ = lax.scan(step, first, jnp.arange(_tiles(kernel, tile)))
    normalizer = largest + jnp.log(total)
    return normalizer - chosen, (features, kernel, labels, normalizer)


def _backward(tile: int, residual: tuple, dloss: Array) -> tuple[Array, Array, None]:
    features, kernel, labels, normalizer = residual
    tile = min(tile, kernel.shape[1])

    def step(carry: tuple, index: Array) -> tuple[tuple, None]:
        dfeatures, dkernel = carry
        start, fresh, columns = _columns(index, tile, kernel.shape[1])
        logits = _logits(features, kernel, start, tile, fresh)
        error = jnp.exp(logits - normalizer[:, None]) - _hits(labels, columns, fresh)
        error = (error * dloss[:, None]).astype(features.dtype)
        part = lax.dynamic_slice_in_dim(kernel, start, tile, axis=1)
        dfeatures += jnp.matmul(error, part.T, preferred_element_type=jnp.float32)
        change = jnp.matmul(features.T, error, preferred_element_type=jnp.float32)
        # Columns that two tiles share have an error of 0 in the second.
        change += lax.dynamic_slice_in_dim(dkernel, start, tile, axis=1)
        return (dfeatures, lax.dynamic_update_slice_in_dim(dkernel, change, start, axis=1)), None

    zeros = (jnp.zeros(features.shape, jnp.float32), jnp.zeros(kernel.shape, jnp.float32))
    (dfeatures, dkernel), _ = lax.scan(step, zeros, jnp.arange(_tiles(kernel, tile)))
    return dfeatures.astype(features.dtype), dkernel.astype(kernel.dtype), None


tiled_softmax_cross_entropy.defvjp(_forward, _backward)


def _tiles(kernel: Array, tile: int) -> int:
    return -(-kernel.shape[1] // tile)


def _columns(index: Array, tile: int, vocabulary: int) -> tuple[Array, Array, Array]:
    """First column of a tile, which of its columns no tile before had, and all column numbers."""
    start = jnp.minimum(index * tile, vocabulary - tile)
    columns = start + jnp.arange(tile)
    return start, columns >= index * tile, columns


def _logits(features: Array, kernel: Array, start: Array, tile: int, fresh: Array) -> Array:
    part = lax.dynamic_slice_in_dim(kernel, start, tile, axis=1)
    logits = jnp.matmul(features, part, preferred_element_type=jnp.float32)
    return jnp.where(fresh[None], logits, -1e30)


def _hits(labels: Array, columns: Array, fresh: Array) -> Array:
    """Where a column is the label of a row, counted once: bool (N, tile)."""
    return (labels[:, None] == columns[None]) & fresh[None]
