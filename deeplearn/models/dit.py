"""DiT: a denoiser of images that is a Transformer of their patches, with its published sizes.

Source: Peebles & Xie 2023 (arXiv:2212.09748), with adaLN-Zero.

    c      φ(V_2 φ(V_1 γ(level)) [+ a vector of the class])       γ: Fourier features, φ silu
    x_0    W · patches + positions                                sines and cosines, not learned
    x      x + g · attention((1 + s) · norm(x) + t)               L times, each followed by
    x      x + g' · feed_forward((1 + s') · norm(x) + t')
    y      W_y ((1 + s) · norm(x_L) + t)                          patches of the prediction

where every g, s and t is U c with a U of its own, and the norm has no parameters.

Differences: the level is read at the periods of levels of order 1; the class vector of label −1, or
without a label, is 0 instead of learned; no variance is predicted beside.

Initializer: Glorot's variance, normal inside the blocks and uniform for the patches; normal with
deviation 0.02 for V and the table of classes; U and W_y are 0, so that blocks start as the identity
and an untrained network predicts 0. Weight decay leaves out biases and the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.attention import Attention
from deeplearn.layers.conditioning import (
    class_vectors,
    fourier_features,
    require_classes,
)
from deeplearn.layers.dense import Dense
from deeplearn.layers.feed_forward import FeedForward
from deeplearn.layers.normalization import standardized
from deeplearn.layers.stack import stacked
from deeplearn.types import Array, Context

FREQUENCIES = 256
"""The width of the Fourier features of the level."""

_SMALL = nn.initializers.normal(0.02)
_ZEROS = nn.initializers.zeros_init()


def _modulation(c: Array, parts: int, width: int, dtype: str) -> list[Array]:
    """What c (B, D) makes of a norm's output: `parts` arrays (B, 1, width)."""
    modulation = Dense(parts * width, dtype=dtype, kernel_init=_ZEROS, name="modulation")
    return jnp.split(modulation(c)[:, None], parts, axis=-1)


def _modulated(x: Array, scale: Array, shift: Array) -> Array:
    """Norm of x (B, T, D), scaled and shifted."""
    return (1 + scale) * standardized(x).astype(x.dtype) + shift


class _Block(nn.Module):
    """Attention and feed-forward layer: x (B, T, D), c (B, D) → (B, T, D), and None for a scan."""

    heads: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, c: Array) -> tuple[Array, None]:
        width, places = x.shape[-1], jnp.arange(x.shape[1])[None]
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = _modulation(c, 6, width, self.dtype)
        attention = Attention(
            self.heads,
            width // self.heads,
            causal=False,
            rotary=None,
            use_bias=True,
            # Glorot's variances 2 / (D + 3·D) and 2 / (D + D).
            init_scale=(2 * width) ** -0.5,
            output_scale=2**0.5,
            dtype=self.dtype,
            name="attention",
        )
        feed_forward = FeedForward(
            4 * width, init_scale=(2.5 * width) ** -0.5, dtype=self.dtype, name="feed_forward"
        )
        y, _ = attention(_modulated(x, scale_1, shift_1), None, Context(None, places))
        x = x + gate_1 * y
        return x + gate_2 * feed_forward(_modulated(x, scale_2, shift_2)), None


class DiT(nn.Module):
    """Images (B, Y, X, C), noise levels (B,), labels int (B,) → prediction (B, Y, X, C) float32.

    An image is cut into squares of `patch` · `patch` pixels, the T tokens. `classes` is the number
    of classes, 0 where data have none. `remat` is None, "full" or "dots" (`stack.REMAT`). Raises
    `UsageError` for sizes that are no multiple of the patch, for numbers that cannot work, and for
    labels given to a model without classes.
    """

    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    classes: int = 0
    remat: str | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, noise_level: Array, label: Array | None = None, *, train: bool = False
    ) -> Array:
        del train  # the same in training
        self._check(x.shape, label)
        dense, patch = partial(Dense, dtype=self.dtype), self.patch
        c = self._conditioning(noise_level, label)
        rows, columns = x.shape[1] // patch, x.shape[2] // patch
        patches = to_patches(x, patch)
        glorot = nn.initializers.glorot_uniform()
        h = dense(self.width, kernel_init=glorot, name="input")(patches)
        h = h + jnp.asarray(positions(rows, columns, self.width), h.dtype)[None]
        layers = stacked(_Block, self.depth, nn.broadcast, self.remat)
        h, _ = layers(self.heads, self.dtype, name="layers")(h, c)
        h = _modulated(h, *_modulation(c, 2, self.width, self.dtype))
        h = dense(patches.shape[-1], kernel_init=_ZEROS, name="output")(h)
        return to_images(h, rows, columns, patch).astype(jnp.float32)

    def _conditioning(self, level: Array, label: Array | None) -> Array:
        """c (B, D)."""
        dense = partial(Dense, self.width, dtype=self.dtype, kernel_init=_SMALL)
        c = dense(name="level_1")(fourier_features(level, FREQUENCIES))
        c = dense(name="level_2")(jax.nn.silu(c))
        if self.classes:
            table = self.param("class_embedding", _SMALL, (self.classes, self.width))
            if label is not None:
                c = c + class_vectors(table.astype(c.dtype), label)
        return jax.nn.silu(c)

    def _check(self, shape: tuple[int, ...], label: Array | None) -> None:
        require_classes("DiT", self.classes, label)
        for name in ("patch", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} of DiT must be 1 or more")
        if self.width % 4 or self.width % self.heads:
            raise UsageError(
                f"width={self.width} of DiT must be a multiple of 4, for its positions, and of"
                f" heads={self.heads}"
            )
        if len(shape) != 4 or shape[1] % self.patch or shape[2] % self.patch:
            raise UsageError(
                f"x of shape {shape} cannot be cut into patches by DiT; give images (B, Y, X, C) of"
                f" sizes that are multiples of patch={self.patch}, or another patch"
            )


def to_patches(x: Array, patch: int) -> Array:
    """(B, Y, X, C) → the squares of an image, row by row, each as one vector (B, T, patch²·C)."""
    b, y, x_size, c = x.shape
    x = x.reshape(b, y // patch, patch, x_size // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def to_images(patches: Array, rows: int, columns: int, patch: int) -> Array:
    """The inverse of `to_patches` for an image of `rows` · `columns` patches."""
    x = patches.reshape(len(patches), rows, columns, patch, patch, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), rows * patch, columns * patch, -1)


def positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Vectors (rows · columns, width) float32: a half tells the row, the other the column.

    Each half is that of Vaswani et al. 2017 (arXiv:1706.03762), all sines before all cosines.
    """
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    places = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequencies[None] for place in places]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Sizes:
    """What a letter of the paper's table 1 stands for."""

    width: int
    depth: int
    heads: int


PRESETS: dict[str, Sizes] = {
    "S": Sizes(384, 12, 6),
    "B": Sizes(768, 12, 12),
    "L": Sizes(1024, 24, 16),
    "XL": Sizes(1152, 28, 16),
}
PATCHES = (2, 4, 8)


def preset(name: str, classes: int = 0, remat: str | None = None, dtype: str = "float32") -> DiT:
    """The model of a published name, such as "XL/2": sizes of `PRESETS`, then the patch.

    Raises `UsageError` where there is none.
    """
    known = {f"{size}/{patch}": (size, patch) for size in PRESETS for patch in PATCHES}
    if name not in known:
        raise UsageError(f"no DiT is called '{name}'{did_you_mean(name, known)}")
    size, patch = known[name]
    sizes = PRESETS[size]
    return DiT(patch, sizes.width, sizes.depth, sizes.heads, classes, remat, dtype)
