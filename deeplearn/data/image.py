"""Augmentation of images: pure functions of (seed, epoch, index), vectorised over the batch.

Every row draws from its own key, so a batch may be cut into rows in any way. Images are `x`,
float32 (B, Y, X, C); a transform may write into the arrays that it is given.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from deeplearn.data.dataset import Draw
from deeplearn.data.permutation import fold
from deeplearn.data.source import Examples
from deeplearn.errors import DataError, UsageError

PARTNER = 5
"""The stream of a partner's keys; transforms here draw from 0 to 4."""


@dataclass(frozen=True)
class RandomCrop:
    """Pads every side by `padding` pixels of the value `fill` and crops back at a random place."""

    padding: int = 4
    fill: float = 0.0

    def __post_init__(self) -> None:
        _require(self.padding >= 0, self, "padding must not be negative")

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        """Moves each image by −padding..padding pixels along Y and along X."""
        images = _images(examples, self)
        B, Y, X, C = images.shape
        pad = self.padding
        padded = np.full((B, Y + 2 * pad, X + 2 * pad, C), self.fill, images.dtype)
        padded[:, pad : pad + Y, pad : pad + X] = images
        top = draw.integers(0, 2 * pad + 1)
        left = draw.integers(1, 2 * pad + 1)
        # Windows over rows of X·C numbers, so that what is copied is contiguous.
        rows = padded.reshape(B, Y + 2 * pad, -1)
        windows = sliding_window_view(rows, (Y, X * C), axis=(1, 2))
        return {**examples, "x": windows[np.arange(B), top, left * C].reshape(images.shape)}


@dataclass(frozen=True)
class RandomFlip:
    """Mirrors an image left to right with the given probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _require(0 <= self.probability <= 1, self, "probability must lie in [0, 1]")

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        """Reverses X in the chosen images."""
        images = _images(examples, self)
        chosen = draw.uniform(0) < self.probability
        images[chosen] = images[chosen][:, :, ::-1]
        return {**examples, "x": images}


@dataclass(frozen=True)
class RandomErasing:
    """Overwrites a rectangle of an image by `fill` with the given probability.

    Its area is uniform in `area` (parts of the image), its height over width log-uniform in
    `aspect`, cut where that exceeds the image. Zhong et al., "Random erasing data augmentation",
    2020; there the rectangle holds noise and a shape that does not fit is drawn again.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.33)
    aspect: tuple[float, float] = (0.3, 3.3)
    fill: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.probability <= 1, self, "probability must lie in [0, 1]")
        _require(0 < self.area[0] <= self.area[1] <= 1, self, "area must rise within (0, 1]")
        _require(0 < self.aspect[0] <= self.aspect[1], self, "aspect must rise and be positive")

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        """Erases in the chosen images."""
        images = _images(examples, self)
        _, Y, X, _ = images.shape
        area = Y * X * _between(self.area, draw.uniform(1))
        aspect = np.exp(_between(np.log(self.aspect), draw.uniform(2)))
        height = np.clip(np.rint(np.sqrt(area * aspect)), 1, Y)
        width = np.clip(np.rint(np.sqrt(area / aspect)), 1, X)
        top = np.floor(draw.uniform(3) * (Y - height + 1))
        left = np.floor(draw.uniform(4) * (X - width + 1))
        height = np.where(draw.uniform(0) < self.probability, height, 0)
        np.copyto(images, self.fill, where=_box(images, top, left, height, width))
        return {**examples, "x": images}


@dataclass(frozen=True)
class Mixup:
    """Averages each example with another one: λ·a + (1 − λ)·b for images and labels alike.

    λ follows Beta(alpha, alpha), one for each example, and the partner is any example of the epoch.
    `label` becomes a distribution, float32 (B, classes). Zhang et al., "mixup", 2018; there a batch
    is mixed with itself under one λ.
    """

    alpha: float
    classes: int

    def __post_init__(self) -> None:
        _require(self.alpha > 0, self, "alpha must be positive")

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        """Mixes images and labels."""
        images, partner = _images(examples, self), _partner(draw)
        part = _beta(self.alpha, draw.uniform(2))[:, None, None, None]
        images += (1 - part) * (partner["x"] - images)
        return {**examples, "x": images, "label": _mixed(examples, partner, part, self.classes)}


@dataclass(frozen=True)
class CutMix:
    """Replaces a rectangle of each image by that of another example; labels mix by area.

    The rectangle has the image's shape and the area 1 − λ, λ from Beta(alpha, alpha), and is cut
    at the border; the label weights are the areas that remain. `label` becomes a distribution,
    float32 (B, classes). Yun et al., "CutMix", 2019; partners as in `Mixup`.
    """

    alpha: float
    classes: int

    def __post_init__(self) -> None:
        _require(self.alpha > 0, self, "alpha must be positive")

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        """Mixes images and labels."""
        images, partner = _images(examples, self), _partner(draw)
        _, Y, X, _ = images.shape
        side = np.sqrt(1 - _beta(self.alpha, draw.uniform(2)))
        top = np.rint(draw.uniform(3) * Y - side * Y / 2)
        left = np.rint(draw.uniform(4) * X - side * X / 2)
        box = _box(images, top, left, np.rint(side * Y), np.rint(side * X))
        np.copyto(images, partner["x"], where=box)
        part = 1 - box.mean(axis=(1, 2, 3), dtype=np.float32)
        return {**examples, "x": images, "label": _mixed(examples, partner, part, self.classes)}


def _require(holds: bool, transform: object, rule: str) -> None:
    if not holds:
        raise UsageError(f"{transform}: {rule}")


def _images(examples: Examples, transform: object) -> np.ndarray:
    images = examples["x"]
    if images.ndim != 4:
        raise DataError(
            f"{transform} needs images x (B, Y, X, C), got {images.shape}; remove it from augment"
        )
    return images


def _between(limits: tuple[float, float] | np.ndarray, uniform: np.ndarray) -> np.ndarray:
    low, high = limits
    return low + (high - low) * uniform


def _box(
    images: np.ndarray, top: np.ndarray, left: np.ndarray, height: np.ndarray, width: np.ndarray
) -> np.ndarray:
    """Where a number lies in the rectangle of its image: bool (B, Y, X, C)."""
    _, Y, X, C = images.shape
    # Channels are repeated here because NumPy broadcasts so short an axis four times slower.
    down, across = np.arange(Y), np.repeat(np.arange(X), C)
    inside_y = (down >= top[:, None]) & (down < (top + height)[:, None])
    inside_x = (across >= left[:, None]) & (across < (left + width)[:, None])
    return (inside_y[:, :, None] & inside_x[:, None, :]).reshape(images.shape)


def _beta(alpha: float, uniform: np.ndarray) -> np.ndarray:
    """Numbers (float32) that follow Beta(alpha, alpha), by the inverse of its distribution."""
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, uniform).astype(np.float32)


def _partner(draw: Draw) -> Examples:
    """Another example for each row, with its own draws in the source and the transforms before."""
    # By these keys as they are a source would draw the numbers that this transform draws.
    return draw.fetch(draw.integers(0, draw.size), fold(draw.keys, PARTNER))


def _mixed(examples: Examples, partner: Examples, part: np.ndarray, classes: int) -> np.ndarray:
    part = part.reshape(-1, 1)
    own, other = (_distribution(each["label"], classes) for each in (examples, partner))
    return part * own + (1 - part) * other


def _distribution(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels (B,) or distributions (B, classes) as distributions (B, classes), float32."""
    if labels.ndim == 2:
        return labels
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}; Mixup and CutMix were given"
            f" classes={classes}"
        )
    return _identity(classes)[labels]


@functools.lru_cache
def _identity(classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)
