"""A residual generator and discriminator without normalization, in the manner of R3GAN.

Source: Huang et al., 2024, "The GAN is dead; long live the GAN!" (arXiv:2501.05441).

    y = x + W_3 φ(W_2 φ(W_1 φ(x)))          W_1, W_3 of 1×1, W_2 of 3×3, φ leaky relu

    generator       z → basis → [blocks] → (upsample → 3×3 → [blocks]) … → 1×1 → image
    discriminator   image → 1×1 → [blocks] → (halve → 1×1 → [blocks]) … → basis → logit

A basis is one learned image for each channel: the generator scales it by a projection of z, the
discriminator takes its product with the features.

Differences: a block begins with φ, where the published one begins with W_1; the slope of φ is 0.01
and its gain √2, there 0.2 and √(2/1.04). The 3×3 convolution of a block works on half of the
channels instead of groups of more, since a grouped one is 20 to 100 times slower on CPU; pixels are
averaged instead of filtered, and doubled ahead of a 3×3 convolution (ahead of 1×1 early samples
showed squares); labels enter as one-hot vector beside z and by projection. Initializer: He normal,
that of a block by the rule of Fixup (Zhang et al., 2019, arXiv:1901.09321): W_1 and W_2 times
L^(−1/4) for L blocks, W_3 = 0. So every block starts as the identity.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.layers.activation import activation, kernel_initializer
from deeplearn.layers.convolution import Conv
from deeplearn.layers.dense import Dense
from deeplearn.layers.pooling import average_pool
from deeplearn.layers.upsampled_convolution import UpsampledConv
from deeplearn.models.gan import Projection, coarsest, require_stages, with_label
from deeplearn.types import Array

_PHI = "leaky_relu"


class _Block(nn.Module):
    """x + W_3 φ(W_2 φ(W_1 φ(x))): (B, Y, X, C) → the same; `blocks` is L of the network."""

    blocks: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, phi = x.shape[-1], activation(_PHI)
        inner, init = max(1, channels // 2), kernel_initializer(_PHI, self.blocks**-0.5)
        y = Conv(inner, 1, dtype=self.dtype, kernel_init=init, name="reduce")(phi(x))
        y = Conv(inner, 3, dtype=self.dtype, kernel_init=init, name="mix")(phi(y))
        zeros = nn.initializers.zeros_init()
        y = Conv(channels, 1, use_bias=False, dtype=self.dtype, kernel_init=zeros, name="expand")(
            phi(y)
        )
        return x + y


class R3GANGenerator(nn.Module):
    """z (B, latent) → images (B, *image) float32, unbounded.

    `channels` are those of the stages from the coarsest to the finest, each of `blocks` blocks.
    Raises `UsageError` where `image` cannot be halved between them, and for numbers below 1.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    channels: tuple[int, ...] = (128, 64, 32)
    blocks: int = 1
    classes: int | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        del train  # the same in training
        require_stages(self, self.channels, self.blocks)
        height, width = coarsest(self.image, len(self.channels) - 1)
        linear = kernel_initializer("identity")
        x = with_label(z, label, self.classes)
        x = Dense(self.channels[0], dtype=self.dtype, kernel_init=linear, name="project")(x)
        basis = self.param("basis", nn.initializers.normal(1.0), (height, width, self.channels[0]))
        x = jnp.einsum("bc,yxc->byxc", x, basis.astype(x.dtype))
        for stage, channels in enumerate(self.channels):
            if stage > 0:
                x = UpsampledConv(
                    channels, dtype=self.dtype, kernel_init=linear, name=f"resize{stage}"
                )(x)
            for block in range(self.blocks):
                total = len(self.channels) * self.blocks
                x = _Block(total, self.dtype, name=f"stage{stage}_block{block}")(x)
        image = Conv(self.image[-1], 1, dtype=self.dtype, kernel_init=linear, name="image")(x)
        return image.astype(jnp.float32)


class R3GANDiscriminator(nn.Module):
    """Images (B, Y, X, C) → logits (B,) float32; `channels` from the finest to the coarsest.

    Raises `UsageError` for numbers of channels or blocks below 1.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    classes: int | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Array, label: Array | None = None, *, train: bool = False) -> Array:
        del train  # the same in training
        require_stages(self, self.channels, self.blocks)
        x = _resize(self.channels[0], self.dtype, "image")(image)
        for stage, channels in enumerate(self.channels):
            if stage > 0:
                x = _resize(channels, self.dtype, f"resize{stage}")(average_pool(x))
            for block in range(self.blocks):
                total = len(self.channels) * self.blocks
                x = _Block(total, self.dtype, name=f"stage{stage}_block{block}")(x)
        size = x.shape[1] * x.shape[2]
        # So that the product of each channel has the variance of its pixels.
        basis = self.param("basis", nn.initializers.normal(size**-0.5), x.shape[1:])
        x = jnp.einsum("byxc,yxc->bc", x, basis.astype(x.dtype))
        return Projection(self.classes, dtype=self.dtype, name="head")(x, label)


def _resize(channels: int, dtype: str, name: str) -> Conv:
    """A 1×1 convolution that leaves the variance as it is."""
    init = kernel_initializer("identity")
    return Conv(channels, 1, use_bias=False, dtype=dtype, kernel_init=init, name=name)
