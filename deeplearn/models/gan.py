"""Generators and discriminators of a GAN for points of the plane.

A generator is called `(z, label=None, *, train=False) -> image`, a discriminator
`(image, label=None, *, train=False) -> logit` (B,). With `classes` both need the label int (B,),
which joins their input as one-hot vector (Mirza & Osindero, 2014, arXiv:1411.1784).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
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


def require_label(label: Array | None, classes: int | None) -> None:
    """Raises `UsageError` where a label comes without classes, or the other way round."""
    if (label is None) != (classes is None):
        given = "no label" if label is None else "a label"
        raise UsageError(
            f"GAN model with classes={classes} was given {given}; set task.conditional and the"
            " field `classes` of both players together"
        )
