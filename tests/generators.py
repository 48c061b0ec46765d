"""Two small generative models of images with 3 classes, which compile in a moment."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from families import images
from flax import linen as nn

from deeplearn.experiment import Experiment
from deeplearn.layers.dense import Dense
from deeplearn.models.gan import MLPDiscriminator, with_label
from deeplearn.optimizers import Adam
from deeplearn.players import Players
from deeplearn.processes import VarianceExploding
from deeplearn.tasks.adversarial import Adversarial
from deeplearn.tasks.denoising import Denoising

SIDE, CLASSES = 8, 3


class Painter(nn.Module):
    """z (B, latent) and label (B,) → images (B, 8, 8, 1)."""

    classes: int | None = CLASSES

    @nn.compact
    def __call__(self, z, label=None, *, train=False):
        h = nn.relu(Dense(32)(with_label(z, label, self.classes)))
        return nn.sigmoid(Dense(SIDE * SIDE)(h)).reshape(-1, SIDE, SIDE, 1)


class Critic(nn.Module):
    """Images (B, 8, 8, 1) and label (B,) → logits (B,)."""

    classes: int | None = CLASSES

    @nn.compact
    def __call__(self, image, label=None, *, train=False):
        flat = image.reshape(len(image), -1)
        return MLPDiscriminator((32,), classes=self.classes)(flat, label, train=train)


class Cleaner(nn.Module):
    """A denoiser of images (B, …, C)."""

    classes: int = CLASSES

    @nn.compact
    def __call__(self, x, noise_level, label=None, *, train=False):
        flat = x.reshape(len(x), -1)
        known = jnp.full(len(x), -1) if label is None else label
        told = jax.nn.one_hot(known, self.classes)
        h = nn.relu(Dense(64)(jnp.concatenate([flat, told, noise_level[:, None]], axis=-1)))
        return (flat + Dense(flat.shape[1])(h)).reshape(x.shape)


def gan(**changes: Any) -> Experiment:
    """A conditional GAN whose generator is averaged."""
    task = Adversarial(Painter(), Critic(), latent=4, conditional=True, r1=0.1)
    optimizer = Players(Adam(2e-3), Adam(2e-3), ema_decay=0.9)
    return _experiment("gan", task, optimizer, changes)


def diffusion(**changes: Any) -> Experiment:
    """A conditional diffusion model."""
    task = Denoising(Cleaner(), VarianceExploding(), label_dropout=0.2)
    return _experiment("diffusion", task, Adam(2e-3, ema_decay=0.9), changes)


def _experiment(name: str, task: Any, optimizer: Any, changes: dict[str, Any]) -> Experiment:
    data, test = images(60, SIDE), images(40, SIDE)
    fields = {
        "steps": 4,
        "batch_size": 12,
        "evaluation_batch_size": 20,
        "log_every": 2,
        "evaluate_every": 2,
        "save_every": 2,
        **changes,
    }
    return Experiment(name, task, data, optimizer, evaluation={"test": test}, **fields)
