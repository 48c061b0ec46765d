"""A matrix product with bias over the last axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.layers.precision import compute_dtype
from deeplearn.types import Array


class Dense(nn.Module):
    """y = x·W + b over the last axis: (…, D) → (…, features).

    Parameters `kernel` (D, features) and `bias` (features,) are fp32; the product is computed in
    `dtype`.
    """

    features: int
    use_bias: bool = True
    dtype: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dtype = compute_dtype(self.dtype)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = _matmul(x.astype(dtype), kernel.astype(dtype))
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,)).astype(dtype)
            y = y + jnp.broadcast_to(bias, y.shape)
        return y


def _matmul(x: Array, kernel: Array) -> Array:
    # XLA on CPU: two dense layers of (16, 128, 256), forward and backward, 80 ms with tokens in one
    # axis and 158 ms in two (jax 0.10; 96 and 154 ms on 0.12). Elsewhere B and T may be sharded
    # apart, which one axis cannot keep.
    if x.ndim > 2 and jax.default_backend() == "cpu":
        return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)
    return x @ kernel
