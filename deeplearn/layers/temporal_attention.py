"""Attention over the frames of a clip, at each place apart: what makes a U-Net one of video.

Ho et al., "Video diffusion models", 2022 (arXiv:2204.03458), section 3.

    y[t] = x[t] + W_o · attention(norm(x))[t]      over t, for each place (y, x)

W_o starts at 0, so that an untrained layer is the identity. The order of frames is told by rotary
embeddings; there it is by learned relative ones.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.attention import Attention
from deeplearn.layers.normalization import LayerNorm
from deeplearn.types import Array, Context


class TemporalAttention(nn.Module):
    """Clips (B, T, Y, X, C) → the same shape; the heads have C / `heads` features.

    `rotary` is the base of the rotary embedding; with None frames have no order. Raises
    `UsageError` where x is no clip, or the heads do not divide its channels.
    """

    heads: int = 4
    rotary: float | None = 10_000.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.ndim != 5:
            raise UsageError(f"TemporalAttention needs clips (B, T, Y, X, C), got x {x.shape}")
        B, T, Y, X, C = x.shape
        if self.heads < 1 or C % self.heads:
            raise UsageError(f"TemporalAttention: heads={self.heads} do not divide {C} channels")
        attention = Attention(
            self.heads,
            C // self.heads,
            causal=False,
            rotary=self.rotary,
            # As large as where the input has variance 1, since that is what the norm makes of it.
            init_scale=C**-0.5,
            output_scale=0.0,
            dtype=self.dtype,
            name="attention",
        )
        tokens = x.transpose(0, 2, 3, 1, 4).reshape(B * Y * X, T, C)
        tokens = LayerNorm(dtype=self.dtype, name="norm")(tokens)
        y, _ = attention(tokens, None, Context(None, jnp.arange(T, dtype=jnp.int32)[None]))
        return x + y.reshape(B, Y, X, T, C).transpose(0, 3, 1, 2, 4).astype(x.dtype)
