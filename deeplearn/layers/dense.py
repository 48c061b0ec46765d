"""A matrix product with bias over the last axis."""

from __future__ import annotations

from flax import linen as nn

from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.products import plus_bias, product
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
        y = product(x, kernel.astype(dtype))
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,)).astype(dtype)
            y = plus_bias(y, bias)
        return y
