"""What a denoiser reads beside x: the noise level and the class.

Fourier features: Vaswani et al. 2017 and Tancik et al. 2020 (arXiv:2006.10739).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from deeplearn.errors import UsageError
from deeplearn.types import Array


def fourier_features(level: Array, width: int) -> Array:
    """Sines and cosines (B, width) of levels (B,) of order 1, at periods from 8 down to 1/32."""
    frequencies = 2 * np.pi * np.geomspace(1 / 8, 32, width // 2)
    angles = level[:, None] * jnp.asarray(frequencies, level.dtype)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def class_vectors(table: Array, label: Array) -> Array:
    """The rows (B, D) of a table (classes, D) for labels int (B,); 0 for the label −1."""
    return jax.nn.one_hot(label, len(table), dtype=table.dtype) @ table


def require_frequencies(model: str, field: str, width: int) -> None:
    """Raises `UsageError` where Fourier features of `width`, a `field` of `model`, cannot be."""
    if width < 2 or width % 2:
        raise UsageError(f"{field}={width} of {model} must be an even number above 0")


def require_classes(model: str, classes: int, label: Array | None) -> None:
    """Raises `UsageError` where `model` is given a `label` and has no classes, or fewer than 0."""
    if classes < 0:
        raise UsageError(f"classes={classes} of {model} must be 0 or more")
    if label is not None and not classes:
        raise UsageError(
            f"{model} was given labels, but has classes=0; set classes to their number"
        )
