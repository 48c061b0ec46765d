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


def tiled_softmax_cross_entropy(
    features: Array,
    kernel: Array,
    labels: Array,
    tile: int,
    smoothing: float = 0.0,
    bias: Array | None = None,
) -> Array:
    """The cross-entropy (N,) in nats of `labels` int (N,) by softmax of features · kernel + bias.

    `features` are (N, D), `kernel` (D, V), `bias` (V,) or None; `tile` columns of the kernel are
    used at a time. `smoothing` is that of `losses.softmax_cross_entropy`. Differentiable once, in
    reverse mode, by features, kernel and bias.
    """
    if tile < 1:
        raise UsageError(f"tile={tile} of the vocabulary must be 1 or more")
    if bias is None:
        bias = jnp.zeros(kernel.shape[1])
    return _tiled(features, kernel, bias, labels, min(tile, kernel.shape[1]), smoothing)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _tiled(
    features: Array, kernel: Array, bias: Array, labels: Array, tile: int, smoothing: float
) -> Array:
    return _forward(features, kernel, bias, labels, tile, smoothing)[0]


def _forward(
    features: Array, kernel: Array, bias: Array, labels: Array, tile: int, smoothing: float
) -> tuple[Array, tuple]:
    rows, vocabulary = len(features), kernel.shape[1]

    def step(carry: tuple, index: Array) -> tuple[tuple, None]:
        largest, total, chosen = carry
        start, fresh, columns = _columns(index, tile, vocabulary)
        logits = _logits(features, kernel, bias, start, tile, fresh)
        new = jnp.maximum(largest, logits.max(1))
        total = total * jnp.exp(largest - new) + jnp.exp(logits - new[:, None]).sum(1)
        target = _targets(labels, columns, fresh, smoothing, vocabulary)
        return (new, total, chosen + (target * logits).sum(1)), None

    # Not −∞: the first maximum is subtracted from it.
    first = (jnp.full(rows, -1e30), jnp.zeros(rows), jnp.zeros(rows))
    (largest, total, chosen), _ = lax.scan(step, first, jnp.arange(_tiles(kernel, tile)))
    normalizer = largest + jnp.log(total)
    return normalizer - chosen, (features, kernel, bias, labels, normalizer)


def _backward(
    tile: int, smoothing: float, residual: tuple, dloss: Array
) -> tuple[Array, Array, Array, None]:
    features, kernel, bias, labels, normalizer = residual
    vocabulary = kernel.shape[1]

    def step(carry: tuple, index: Array) -> tuple[tuple, None]:
        dfeatures, dkernel, dbias = carry
        start, fresh, columns = _columns(index, tile, vocabulary)
        logits = _logits(features, kernel, bias, start, tile, fresh)
        target = _targets(labels, columns, fresh, smoothing, vocabulary)
        error = (jnp.exp(logits - normalizer[:, None]) - target) * dloss[:, None]
        # Columns that two tiles share have an error of 0 in the second.
        dbias = dbias.at[columns].add(error.sum(0))
        error = error.astype(features.dtype)
        part = lax.dynamic_slice_in_dim(kernel, start, tile, axis=1)
        dfeatures += jnp.matmul(error, part.T, preferred_element_type=jnp.float32)
        change = jnp.matmul(features.T, error, preferred_element_type=jnp.float32)
        change += lax.dynamic_slice_in_dim(dkernel, start, tile, axis=1)
        dkernel = lax.dynamic_update_slice_in_dim(dkernel, change, start, axis=1)
        return (dfeatures, dkernel, dbias), None

    read = features, kernel, bias
    zeros = tuple(jnp.zeros(value.shape, jnp.float32) for value in read)
    found, _ = lax.scan(step, zeros, jnp.arange(_tiles(kernel, tile)))
    dfeatures, dkernel, dbias = (
        d.astype(value.dtype) for d, value in zip(found, read, strict=True)
    )
    return dfeatures, dkernel, dbias, None


_tiled.defvjp(_forward, _backward)


def _tiles(kernel: Array, tile: int) -> int:
    return -(-kernel.shape[1] // tile)


def _columns(index: Array, tile: int, vocabulary: int) -> tuple[Array, Array, Array]:
    """First column of a tile, which of its columns no tile before had, and all column numbers."""
    start = jnp.minimum(index * tile, vocabulary - tile)
    columns = start + jnp.arange(tile)
    return start, columns >= index * tile, columns


def _logits(
    features: Array, kernel: Array, bias: Array, start: Array, tile: int, fresh: Array
) -> Array:
    part = lax.dynamic_slice_in_dim(kernel, start, tile, axis=1)
    logits = jnp.matmul(features, part, preferred_element_type=jnp.float32)
    shift = lax.dynamic_slice_in_dim(bias, start, tile).astype(jnp.float32)
    return jnp.where(fresh[None], logits + jnp.broadcast_to(shift, logits.shape), -1e30)


def _targets(
    labels: Array, columns: Array, fresh: Array, smoothing: float, vocabulary: int
) -> Array:
    """The smoothed label of a row as probabilities (N, tile), each column counted once."""
    hit = (labels[:, None] == columns[None]).astype(jnp.float32)
    return jnp.where(fresh[None], (1 - smoothing) * hit + smoothing / vocabulary, 0.0)
