"""Spectral normalization: layers whose kernel, or table of vectors, has largest singular value 1.

Source: Miyato et al., 2018 (arXiv:1802.05957), algorithm 1. A kernel is taken as matrix W
(fan in, features). The collection `spectral_norm` keeps `u` (features,), which every pass in
training moves `iterations` power iterations on:

    v = W u / ‖W u‖,    u = Wᵀ v / ‖Wᵀ v‖,    σ = vᵀ W u

No gradient passes u and v; it passes σ. For a convolution this bounds the matrix of one window, as
in the paper, not the norm of the whole linear map.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.convolution import Padding, Pair, convolve, pair
from deeplearn.layers.embedding import rows
from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.products import product
from deeplearn.types import Array


class SpectralNorm(nn.Module):
    """A kernel (…, features) over its estimated largest singular value, of the same shape.

    Raises `UsageError` for fewer than one iteration.
    """

    iterations: int = 1

    @nn.compact
    def __call__(self, kernel: Array, *, train: bool = False) -> Array:
        if self.iterations < 1:
            raise UsageError(f"SpectralNorm: iterations = {self.iterations} must be 1 or more")
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)
        fixed = jax.lax.stop_gradient(matrix)

        def start() -> Array:
            return _unit(jax.random.normal(self.make_rng("params"), matrix.shape[-1:]))

        kept = self.variable("spectral_norm", "u", start)
        u, v = kept.value, _unit(fixed @ kept.value)
        if train:
            for _ in range(self.iterations):
                v = _unit(fixed @ u)
                u = _unit(v @ fixed)
            if not self.is_initializing():
                kept.value = u
        return kernel / jnp.maximum(v @ matrix @ u, 1e-12).astype(kernel.dtype)


class SpectralDense(nn.Module):
    """`Dense` with a spectrally normalized kernel: (…, D) → (…, features)."""

    features: int
    use_bias: bool = True
    iterations: int = 1
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        kernel = SpectralNorm(self.iterations, name="norm")(kernel, train=train)
        y = product(x, kernel.astype(compute_dtype(self.dtype)))
        return _with_bias(self, y) if self.use_bias else y


class SpectralConv(nn.Module):
    """`Conv` with a spectrally normalized kernel: (B, Y, X, C) → (B, Y', X', features)."""

    features: int
    kernel_size: int | Pair = 3
    strides: int | Pair = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    iterations: int = 1
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        dtype = compute_dtype(self.dtype)
        shape = (*pair(self.kernel_size), x.shape[-1], self.features)

        def init(key: Array) -> Array:
            # As a matrix, as `Conv` does.
            return self.kernel_init(key, (math.prod(shape[:3]), self.features)).reshape(shape)

        kernel = self.param("kernel", init)
        kernel = SpectralNorm(self.iterations, name="norm")(kernel, train=train)
        y = convolve(x.astype(dtype), kernel.astype(dtype), self.strides, self.padding)
        return _with_bias(self, y) if self.use_bias else y


class SpectralEmbedding(nn.Module):
    """`Embedding` with a spectrally normalized table: int (…) in [0, size) → (…, width), fp32.

    The table must not start at 0, which has no norm to be divided by.
    """

    size: int
    width: int
    iterations: int = 1
    embedding_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, index: Array, *, train: bool = False) -> Array:
        table = self.param("embedding", self.embedding_init, (self.size, self.width))
        return rows(SpectralNorm(self.iterations, name="norm")(table, train=train), index)


def _with_bias(layer: nn.Module, y: Array) -> Array:
    bias = layer.param("bias", nn.initializers.zeros_init(), y.shape[-1:]).astype(y.dtype)
    return y + jnp.broadcast_to(bias, y.shape)


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)
