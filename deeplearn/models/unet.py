"""U-Net: a denoiser of images, which sees them at several sizes, and of clips.

Source: Ho et al. 2020 (arXiv:2006.11239), whose network is `UNet(128, (1, 2, 2, 2), 2, (1,), 1)`.

    down      at each level: blocks, and all but the last halve the image
    middle    block, attention, block
    up        at each level: blocks + 1, each with one feature map of the way down beside its own

    block     x + W_2 φ((1 + s)·norm(W_1 φ(norm(x))) + t)       s, t = U φ(e), φ silu
              of a clip: then attention over the frames, at each place apart
    e         V_2 φ(V_1 γ(level)) [+ a vector of the class]     γ: Fourier features

Differences: e scales beside shifting (Dhariwal & Nichol 2021, arXiv:2105.05233); periods of γ are
those of levels of order 1; a group of a norm has four channels at least. The class vector of label
−1, or without a label, is 0.

Clips: Ho et al. 2022 (arXiv:2204.03458). A frame is an image to all but the attention over frames,
which starts as the identity; there it stands behind the attention of places only.

Initializer: He normal behind an activation, else Glorot uniform; the last kernel of each block, of
each attention and of the network are 0, so that blocks start as the identity and an untrained
network predicts 0. Weight decay leaves out the leaves `bias`, `scale` and `class_embedding`.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.activation import kernel_initializer
from deeplearn.layers.attention import Attention
from deeplearn.layers.checks import require_dropout
from deeplearn.layers.conditioning import (
    class_vectors,
    fourier_features,
    require_classes,
    require_frequencies,
)
from deeplearn.layers.convolution import Conv
from deeplearn.layers.dense import Dense
from deeplearn.layers.normalization import GroupNorm
from deeplearn.layers.temporal_attention import TemporalAttention
from deeplearn.layers.upsampled_convolution import UpsampledConv
from deeplearn.types import Array, Context

_AFTER_SILU = kernel_initializer("silu")
_LINEAR = kernel_initializer("identity")
_ZEROS = nn.initializers.zeros_init()


class _Block(nn.Module):
    """The residual block above: x (B, Y, X, C), φ(e) (B, D) → (B, Y, X, features)."""

    features: int
    dropout: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array, e: Array, *, train: bool) -> Array:
        conv, size = partial(Conv, self.features, dtype=self.dtype), self.features
        h = jax.nn.silu(_norm(x, self.dtype, "norm_1")(x))
        h = conv(kernel_init=_AFTER_SILU, name="conv_1")(h)
        modulation = Dense(2 * size, dtype=self.dtype, kernel_init=_AFTER_SILU, name="modulation")
        s, t = jnp.split(modulation(e), 2, axis=-1)
        h = jax.nn.silu(_norm(h, self.dtype, "norm_2")(h, modulation=(s, t)))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(kernel_init=_ZEROS, name="conv_2")(h)
        if x.shape[-1] != size:
            x = conv(1, kernel_init=_LINEAR, name="shortcut")(x)
        return x + h


class _SelfAttention(nn.Module):
    """x + attention of every place to all places: (B, Y, X, C) → the same."""

    heads: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, y, x_size, c = x.shape
        attention = Attention(
            self.heads,
            c // self.heads,
            causal=False,
            rotary=None,
            use_bias=True,
            init_scale=c**-0.5,
            output_scale=0.0,
            dtype=self.dtype,
            name="attention",
        )
        tokens = _norm(x, self.dtype, "norm")(x).reshape(b, y * x_size, c)
        places = jnp.arange(y * x_size)[None]
        return x + attention(tokens, None, Context(None, places))[0].reshape(x.shape)


class UNet(nn.Module):
    """Images (B, Y, X, C), noise levels (B,), labels int (B,) → prediction (B, Y, X, C) float32.

    `temporal_heads` are those of the attention over frames; above 0, x and the prediction are clips
    (B, T, Y, X, C), each of one noise level and label.

    Level l, counted from 0 for the finest, has `channels` · `multipliers`[l] channels and images
    halved l times; `attention` names the levels that attend, by `heads` heads, beside the middle.
    `classes` is the number of classes, 0 where data have none. Raises `UsageError` for sizes that
    cannot be halved so often, for numbers that cannot work, and for labels given to a model without
    classes.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (2,)
    heads: int = 4
    temporal_heads: int = 0
    classes: int = 0
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, noise_level: Array, label: Array | None = None, *, train: bool = False
    ) -> Array:
        self._check(x.shape, label)
        frames = x.shape[1] if self.temporal_heads else 1
        e = jnp.repeat(jax.nn.silu(self._embedding(noise_level, label)), frames, axis=0)
        conv = partial(Conv, dtype=self.dtype)
        coarsest = len(self.multipliers) - 1

        def block(h: Array, level: int | None, name: str) -> Array:
            features = self.channels * self.multipliers[-1 if level is None else level]
            h = _Block(features, self.dropout, self.dtype, name=f"{name}_block")(h, e, train=train)
            if level in self.attention:
                h = _SelfAttention(self.heads, self.dtype, name=f"{name}_attention")(h)
            if self.temporal_heads:
                across = TemporalAttention(
                    self.temporal_heads, dtype=self.dtype, name=f"{name}_frames"
                )
                h = across(h.reshape(-1, frames, *h.shape[1:])).reshape(h.shape)
            return h

        images = x.reshape(-1, *x.shape[-3:])
        h = conv(self.channels, kernel_init=_LINEAR, name="input")(images)
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            for number in range(self.blocks):
                h = block(h, level, f"down_{level}_{number}")
                skips.append(h)
            if level < coarsest:
                size = self.channels * multiplier
                h = conv(size, strides=2, kernel_init=_LINEAR, name=f"halve_{level}")(h)
                skips.append(h)

        h = block(h, None, "middle_0")
        h = _SelfAttention(self.heads, self.dtype, name="middle_attention")(h)
        h = block(h, None, "middle_1")

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for number in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, level, f"up_{level}_{number}")
            if level > 0:
                size = self.channels * multiplier
                double = UpsampledConv(
                    size, dtype=self.dtype, kernel_init=_LINEAR, name=f"double_{level}"
                )
                h = double(h)

        h = jax.nn.silu(_norm(h, self.dtype, "norm")(h))
        h = conv(x.shape[-1], kernel_init=_ZEROS, name="output")(h)
        return h.reshape(x.shape).astype(jnp.float32)

    def _embedding(self, level: Array, label: Array | None) -> Array:
        """e (B, 4 · channels)."""
        width = 4 * self.channels
        dense = partial(Dense, width, dtype=self.dtype)
        features = fourier_features(level, self.channels)
        e = jax.nn.silu(dense(kernel_init=_LINEAR, name="level_1")(features))
        e = dense(kernel_init=_AFTER_SILU, name="level_2")(e)
        if self.classes:
            table = self.param(
                "class_embedding", nn.initializers.normal(1.0), (self.classes, width)
            )
            if label is not None:
                e = e + class_vectors(table.astype(e.dtype), label)
        return e

    def _check(self, shape: tuple[int, ...], label: Array | None) -> None:
        require_frequencies("UNet", "channels", self.channels)
        require_classes("UNet", self.classes, label)
        require_dropout("UNet", self.dropout)
        levels = len(self.multipliers)
        if not levels or min(self.multipliers) < 1 or self.blocks < 1:
            raise UsageError(
                f"multipliers={self.multipliers} and blocks={self.blocks} of UNet must be 1 or more"
            )
        if not all(0 <= level < levels for level in self.attention):
            raise UsageError(
                f"attention={self.attention} of UNet names levels, of which multipliers="
                f"{self.multipliers} has 0 to {levels - 1}"
            )
        for level in (*self.attention, levels - 1):
            width = self.channels * self.multipliers[level]
            if self.heads < 1 or width % self.heads:
                raise UsageError(
                    f"heads={self.heads} of UNet does not divide the {width} channels of level"
                    f" {level}"
                )
        axes = "clips (B, T, Y, X, C)" if self.temporal_heads else "images (B, Y, X, C)"
        if len(shape) != (5 if self.temporal_heads else 4):
            raise UsageError(
                f"UNet with temporal_heads={self.temporal_heads} reads {axes}, got x of shape"
                f" {shape}"
            )
        scale = 2 ** (levels - 1)
        if shape[-3] % scale or shape[-2] % scale:
            raise UsageError(
                f"x of shape {shape} cannot be halved {levels - 1} times by UNet; give {axes} of"
                f" sizes that are multiples of {scale}, or fewer multipliers"
            )


def _norm(x: Array, dtype: str, name: str) -> GroupNorm:
    """GroupNorm for x: at most 32 groups, of at least four channels where there are four."""
    channels = x.shape[-1]
    groups = math.gcd(32, channels, max(1, channels // 4))
    return GroupNorm(groups, dtype=dtype, name=name)
