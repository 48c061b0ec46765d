"""AlexNet: five convolutions and three dense layers.

Source: Krizhevsky, Sutskever & Hinton 2012, "ImageNet Classification with Deep Convolutional
Neural Networks"; single-column form: Krizhevsky 2014, "One weird trick" (arXiv:1404.5997), with
61,100,840 parameters for images of 224×224×3 and 1000 outputs.

Differences: He normal initializer (fan in) and biases 0, not N(0, 0.01) and some biases 1; no
local response normalization, as in the 2014 paper. Small images want a smaller first window and
stride: window=5, stride=1 takes 28×28 through the three pools to 2×2. Weight decay leaves out the
leaf `bias`.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.activation import kernel_initializer
from deeplearn.layers.checks import require_dropout
from deeplearn.layers.convolution import Conv
from deeplearn.layers.dense import Dense
from deeplearn.layers.pooling import max_pool
from deeplearn.types import Array


class AlexNet(nn.Module):
    """AlexNet: (B, Y, X, C) → (B, outputs) float32.

    `channels` are the widths of the five convolutions, `hidden` those of the two dense layers,
    `window` and `stride` belong to the first convolution. Raises `UsageError` for a field out of
    range and an image too small for the pools.
    """

    outputs: int = 1000
    channels: tuple[int, ...] = (64, 192, 384, 256, 256)
    hidden: tuple[int, ...] = (4096, 4096)
    window: int = 11
    stride: int = 4
    dropout: float = 0.5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        self._check(x)
        windows = (self.window, 5, 3, 3, 3)
        for i, (channels, window) in enumerate(zip(self.channels, windows, strict=True)):
            # Of 224 pixels, a window of 11 with padding 2 and stride 4 makes the published 55.
            x = Conv(
                channels,
                window,
                self.stride if i == 0 else 1,
                padding=min(2, window // 2),
                dtype=self.dtype,
                name=f"conv{i + 1}",
            )(x)
            x = nn.relu(x)
            if i in (0, 1, 4):
                x = max_pool(x, 3, 2)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            init = kernel_initializer("relu")
            x = Dense(width, dtype=self.dtype, kernel_init=init, name=f"dense{i + 1}")(x)
            x = nn.relu(x)
        init = nn.initializers.glorot_uniform()
        y = Dense(self.outputs, dtype=self.dtype, kernel_init=init, name="output")(x)
        return y.astype(jnp.float32)

    def _check(self, x: Array) -> None:
        if len(self.channels) != 5 or min(self.channels) < 1:
            raise UsageError(f"channels={self.channels} of AlexNet must be 5 numbers, 1 or more")
        if min((*self.hidden, self.outputs, self.window, self.stride)) < 1:
            raise UsageError("hidden, outputs, window and stride of AlexNet must be 1 or more")
        require_dropout("AlexNet", self.dropout)
        if x.ndim != 4:
            raise UsageError(f"AlexNet takes images (B, Y, X, C), not an input of shape {x.shape}")
        smallest = self.window + 14 * self.stride - 2 * min(2, self.window // 2)
        if min(x.shape[1:3]) < smallest:
            raise UsageError(
                f"images of {x.shape[1]}×{x.shape[2]} are too small for AlexNet with"
                f" window={self.window}, stride={self.stride}, which need {smallest}×{smallest};"
                " for 28×28 set window=5, stride=1"
            )
