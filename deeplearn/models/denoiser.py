"""A denoiser of vectors: a residual perceptron that reads the noise level and the class.

    e   = W_e γ(level) [+ a vector of the class]         γ: Fourier features
    h_0 = W_0 x
    h_l = h_{l-1} + W_l φ(norm(h_{l-1}) + U_l φ(e))
    y   = W φ(norm(h_L))

The class vector of label −1, or without a label, is 0. Initializer: He normal or Glorot uniform by
the activation; W is 0, so that an untrained network predicts 0. Weight decay leaves out the leaves
`bias`, `scale` and `class_embedding`.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.activation import activation, kernel_initializer
from deeplearn.layers.conditioning import (
    class_vectors,
    fourier_features,
    require_classes,
    require_frequencies,
)
from deeplearn.layers.dense import Dense
from deeplearn.layers.normalization import normalization
from deeplearn.types import Array


class MLPDenoiser(nn.Module):
    """(B, C), noise levels (B,), labels int (B,) → prediction (B, C) float32.

    `classes` is the number of classes, 0 where data have none. Raises `UsageError` for a width
    that is odd or below 2, for negative numbers, and for labels given to a model without classes.
    """

    width: int = 128
    depth: int = 3
    classes: int = 0
    activation: str = "silu"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, noise_level: Array, label: Array | None = None, *, train: bool = False
    ) -> Array:
        require_frequencies("MLPDenoiser", "width", self.width)
        require_classes("MLPDenoiser", self.classes, label)
        if self.depth < 0:
            raise UsageError(f"depth={self.depth} of MLPDenoiser must be 0 or more")
        phi, init = activation(self.activation), kernel_initializer(self.activation)

        def dense(features: int, name: str) -> Dense:
            return Dense(features, dtype=self.dtype, kernel_init=init, name=name)

        def norm(name: str) -> nn.Module:
            return normalization("layer")(dtype=self.dtype, name=name)

        e = dense(self.width, "level")(fourier_features(noise_level, self.width))
        if self.classes:
            table = self.param(
                "class_embedding", nn.initializers.normal(1.0), (self.classes, self.width)
            )
            if label is not None:
                e = e + class_vectors(table.astype(e.dtype), label)
        e = phi(e)
        h = dense(self.width, "input")(x)
        for number in range(self.depth):
            shift = dense(self.width, f"shift_{number}")(e)
            inner = phi(norm(f"norm_{number}")(h, train=train) + shift)
            h = h + dense(self.width, f"block_{number}")(inner)
        h = phi(norm("norm")(h, train=train))
        zeros = nn.initializers.zeros_init()
        output = Dense(x.shape[-1], dtype=self.dtype, kernel_init=zeros, name="output")
        return output(h).astype(jnp.float32)
