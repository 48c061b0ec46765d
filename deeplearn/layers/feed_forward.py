"""The position-wise layers of a Transformer block, from D to D by way of F."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.layers.activation import activation
from deeplearn.layers.dense import Dense
from deeplearn.types import Array


class FeedForward(nn.Module):
    """f(x·W₁)·W₂: (B, T, D) → (B, T, D). Vaswani et al. 2017 (arXiv:1706.03762), equation 2."""

    features: int
    activation: str = "gelu"
    use_bias: bool = True
    init_scale: float = 0.02
    output_scale: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.normal(self.init_scale)
        hidden = Dense(self.features, self.use_bias, self.dtype, init, name="input")(x)
        hidden = activation(self.activation)(hidden)
        init = nn.initializers.normal(self.init_scale * self.output_scale)
        return Dense(x.shape[-1], self.use_bias, self.dtype, init, name="output")(hidden)


class GatedFeedForward(nn.Module):
    """(f(x·W) ∘ x·V)·W₂: (B, T, D) → (B, T, D). Shazeer 2020 (arXiv:2002.05202), equation 6.

    W and V are the halves of one kernel, `input`.
    """

    features: int
    activation: str = "silu"
    use_bias: bool = False
    init_scale: float = 0.02
    output_scale: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.normal(self.init_scale)
        both = Dense(2 * self.features, self.use_bias, self.dtype, init, name="input")(x)
        gate, value = jnp.split(both, 2, axis=-1)
        init = nn.initializers.normal(self.init_scale * self.output_scale)
        hidden = activation(self.activation)(gate) * value
        return Dense(x.shape[-1], self.use_bias, self.dtype, init, name="output")(hidden)
