"""Generators and discriminators of a GAN: multilayer perceptrons for points, and what all share.

Source: Goodfellow et al., 2014 (arXiv:1406.2661). A generator is called
`(z, label=None, *, train=False) -> image`, a discriminator
`(image, label=None, *, train=False) -> logit` (B,). With `classes` both need the label int (B,):
perceptrons and generators read it beside their input as one-hot vector (Mirza & Osindero, 2014,
arXiv:1411.1784), discriminators of images project on it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.dense import Dense
from deeplearn.layers.embedding import Embedding
from deeplearn.layers.spectral_norm import SpectralDense, SpectralEmbedding
from deeplearn.models.mlp import MLP
from deeplearn.types import Array


class MLPGenerator(nn.Module):
    """z (B, latent) → points (B, outputs) float32, by a multilayer perceptron."""

    hidden: tuple[int, ...] = (128, 128)
    outputs: int = 2
    classes: int | None = None
    activation: str = "relu"

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        x = with_label(z, label, self.classes)
        return MLP(self.hidden, self.outputs, self.activation, name="mlp")(x, train=train)


class MLPDiscriminator(nn.Module):
    """Points (B, D) → logits (B,) float32, by a multilayer perceptron."""

    hidden: tuple[int, ...] = (128, 128)
    classes: int | None = None
    activation: str = "leaky_relu"

    @nn.compact
    def __call__(self, image: Array, label: Array | None = None, *, train: bool = False) -> Array:
        x = with_label(image, label, self.classes)
        return MLP(self.hidden, 1, self.activation, name="mlp")(x, train=train)[:, 0]


def with_label(x: Array, label: Array | None, classes: int | None) -> Array:
    """x (B, D) and, where there are classes, the label as one-hot vector: (B, D + classes)."""
    require_label(label, classes)
    if label is None or classes is None:
        return x
    return jnp.concatenate([x, jax.nn.one_hot(label, classes, dtype=x.dtype)], axis=-1)


class Projection(nn.Module):
    """The logit w·h + b + e[label]·h of features h (B, D): (B,) float32.

    The last term, the projection discriminator of Miyato & Koyama, 2018 (arXiv:1802.05637), is
    there where there are classes; the embedding e starts at 0. With `spectral` w and e are
    spectrally normalized, and e starts as w does: the slope of the logit in h is 1, with classes
    at most 2.
    """

    classes: int | None = None
    spectral: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    dtype: str = "float32"

    @nn.compact
    def __call__(self, h: Array, label: Array | None = None, *, train: bool = False) -> Array:
        require_label(label, self.classes)
        fields: dict[str, Any] = {
            "dtype": self.dtype,
            "kernel_init": self.kernel_init,
            "name": "output",
        }
        if self.spectral:
            output = SpectralDense(1, **fields)(h, train=train)
        else:
            output = Dense(1, **fields)(h)
        logit = output[:, 0].astype(jnp.float32)
        if label is None or self.classes is None:
            return logit
        if self.spectral:
            table = SpectralEmbedding(
                self.classes, h.shape[-1], embedding_init=self.kernel_init, name="label"
            )
            chosen = table(label, train=train)
        else:
            chosen = Embedding(self.classes, h.shape[-1], scale=0.0, name="label")(label)
        return logit + (chosen * h.astype(jnp.float32)).sum(-1)


def require_stages(model: nn.Module, channels: tuple[int, ...], blocks: int = 1) -> None:
    """Raises `UsageError` unless there are `channels`, and they and `blocks` are 1 or more."""
    where = f"of {type(model).__name__} must"
    if not channels or min(channels) < 1:
        raise UsageError(f"channels={channels} {where} hold numbers of 1 or more, one a stage")
    if blocks < 1:
        raise UsageError(f"blocks={blocks} {where} be 1 or more")


def coarsest(image: tuple[int, int, int], stages: int) -> tuple[int, int]:
    """Height and width of an image (Y, X, C) halved `stages` times.

    Raises `UsageError` where a size is odd on the way.
    """
    scale = 2**stages
    if image[0] % scale or image[1] % scale:
        raise UsageError(
            f"image={image} of a GAN generator cannot be halved {stages} times; give sizes that are"
            f" multiples of {scale}, or fewer channels"
        )
    return image[0] // scale, image[1] // scale


def require_label(label: Array | None, classes: int | None) -> None:
    """Raises `UsageError` where a label comes without classes, or the other way round."""
    if (label is None) != (classes is None):
        given = "no label" if label is None else "a label"
        raise UsageError(
            f"GAN model with classes={classes} was given {given}; set task.conditional and the"
            " field `classes` of both players together"
        )
