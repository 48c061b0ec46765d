"""Two small games in the plane, of a generator and a discriminator without and with BatchNorm."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deeplearn.layers.normalization import BatchNorm
from deeplearn.models.gan import MLPDiscriminator, MLPGenerator
from deeplearn.tasks.adversarial import Adversarial
from deeplearn.types import Batch

ROWS, LATENT = 6, 3


class NormedGenerator(nn.Module):
    @nn.compact
    def __call__(self, z, label=None, *, train=False):
        return nn.Dense(2)(nn.tanh(BatchNorm()(nn.Dense(4)(z), train=train)))


class NormedDiscriminator(nn.Module):
    @nn.compact
    def __call__(self, image, label=None, *, train=False):
        return nn.Dense(1)(nn.tanh(BatchNorm()(nn.Dense(4)(image), train=train)))[:, 0]


def game(**fields: Any) -> Adversarial:
    """A game of two multilayer perceptrons."""
    return Adversarial(MLPGenerator((8,)), MLPDiscriminator((8,)), latent=LATENT, **fields)


NORMED = Adversarial(NormedGenerator(), NormedDiscriminator(), latent=LATENT)


def points() -> Batch:
    """Points (ROWS, 2), each of one of 3 classes."""
    x = np.random.default_rng(0).normal(size=(ROWS, 2))
    return {"x": jnp.asarray(x, jnp.float32), "label": jnp.arange(ROWS) % 3}
