"""DCGAN: a convolutional generator and discriminator for small images.

Source: Radford, Metz & Chintala, 2016 (arXiv:1511.06434), for 28×28 two stages instead of four.

    generator       z → dense to the coarsest image → [upsample, conv, BatchNorm, relu] … → tanh
    discriminator   [conv of stride 2, BatchNorm, leaky relu 0.2] … → logit

Differences: upsampling and a 5×5 convolution in place of a transposed one, which is over 100 times
slower on CPU and leaves a checkerboard (Odena et al., 2016). `normalization="spectral"` normalizes
every layer of the discriminator, the head and its embedding of labels too, as SN-GAN does (Miyato
et al., 2018, arXiv:1802.05957). With `classes` the generator reads the label beside z and the
discriminator projects on it. Images lie in [−1, 1].

Initializer: N(0, 0.02²) for kernels, N(1, 0.02²) for scales; biases 0. As in the paper, the first
convolution of the discriminator and the last of the generator have no BatchNorm. Weight decay
leaves out the leaves `bias` and `scale`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.convolution import Conv
from deeplearn.layers.dense import Dense
from deeplearn.layers.normalization import BatchNorm
from deeplearn.layers.spectral_norm import SpectralConv
from deeplearn.layers.upsampled_convolution import UpsampledConv
from deeplearn.models.gan import Projection, coarsest, require_stages, with_label
from deeplearn.types import Array

_KERNEL = nn.initializers.normal(0.02)


def _scale(key: Array, shape: tuple[int, ...]) -> Array:
    return 1.0 + 0.02 * jax.random.normal(key, shape)


class DCGANGenerator(nn.Module):
    """z (B, latent) → images (B, *image) float32 in [−1, 1].

    `channels` are those of the dense layer's image and of every stage but the last, which has
    those of the image: one upsampling each. Raises `UsageError` where `image` cannot be halved so
    often, and for numbers below 1.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    channels: tuple[int, ...] = (128, 64)
    kernel_size: int = 5
    classes: int | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        require_stages(self, self.channels)
        height, width = coarsest(self.image, len(self.channels))
        x = with_label(z, label, self.classes)
        # Without a bias: the BatchNorm behind it has one.
        features = height * width * self.channels[0]
        dense = Dense(features, False, self.dtype, _KERNEL, name="project")
        x = dense(x).reshape(-1, height, width, self.channels[0])
        for stage, channels in enumerate((*self.channels[1:], self.image[-1])):
            norm = BatchNorm(dtype=self.dtype, scale_init=_scale, name=f"norm{stage}")
            last = stage == len(self.channels) - 1
            conv = UpsampledConv(
                channels,
                self.kernel_size,
                use_bias=last,
                dtype=self.dtype,
                kernel_init=_KERNEL,
                name=f"conv{stage}",
            )
            x = conv(nn.relu(norm(x, train=train)))
        return jnp.tanh(x.astype(jnp.float32))


class DCGANDiscriminator(nn.Module):
    """Images (B, Y, X, C) → logits (B,) float32.

    One convolution of stride 2 for each of `channels`. `normalization` is "batch", "spectral" or
    None; raises `UsageError` for another, and for numbers of channels below 1.
    """

    channels: tuple[int, ...] = (64, 128)
    kernel_size: int = 5
    normalization: str | None = "batch"
    classes: int | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Array, label: Array | None = None, *, train: bool = False) -> Array:
        require_stages(self, self.channels)
        if self.normalization not in ("batch", "spectral", None):
            raise UsageError(
                f"normalization={self.normalization!r} of DCGANDiscriminator is not known; choose"
                " one of: batch, spectral, None"
            )
        x, spectral = image, self.normalization == "spectral"
        for stage, channels in enumerate(self.channels):
            normed = self.normalization == "batch" and stage > 0
            fields: dict[str, Any] = {
                "features": channels,
                "kernel_size": self.kernel_size,
                "strides": 2,
                "use_bias": not normed,
                "dtype": self.dtype,
                "kernel_init": _KERNEL,
                "name": f"conv{stage}",
            }
            x = SpectralConv(**fields)(x, train=train) if spectral else Conv(**fields)(x)
            if normed:
                norm = BatchNorm(dtype=self.dtype, scale_init=_scale, name=f"norm{stage}")
                x = norm(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(x.shape[0], -1)
        head = Projection(self.classes, spectral, _KERNEL, self.dtype, name="head")
        return head(x, label, train=train)
