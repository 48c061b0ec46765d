"""Clips of real digits that move over a dark square and bounce off its borders; none is stored.

The set of Srivastava, Mansimov and Salakhutdinov, "Unsupervised learning of video representations
using LSTMs", 2015 (arXiv:1502.04681). Every clip is a pure function of (seed, index): its digits,
their places and their velocities come from a keyed hash, so that any number of clips costs nothing
until it is read. No sine is taken, so that no machine rounds a place to another pixel.

The default digits are those of scikit-learn, 8×8 and enlarged to 16×16 on 32×32, which need no
download. Those of the paper are MNIST's, 28×28 on 64×64:

    MovingDigits(Tfds("mnist", "train"), frames=20, side=64, scale=1)
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deeplearn.data.bundled import Bundled
from deeplearn.data.permutation import example_keys, uniform
from deeplearn.data.source import Examples, Field, Source
from deeplearn.errors import DataError, UsageError

_DRAWS = 5  # for each digit: which one, and place and velocity on each axis


@dataclass(frozen=True)
class MovingDigits:
    """`size` clips x float32 (T, Y, X, 1) in [−1, 1]: T = `frames`, Y = X = `side` pixels.

    Each shows `count` images of `digits`, a source of grey images x (Y, X, 1) in [0, 1], enlarged
    `scale` times; where they overlap the brighter one is seen. A velocity is uniform in
    [−`speed`, `speed`] pixels a frame on each axis. Raises `UsageError` for a number that cannot
    be, `DataError` where the images are not grey, leave [0, 1] or do not fit into the square.
    """

    in_memory: ClassVar[bool] = False

    digits: Source = Bundled("digits")
    size: int = 10_000
    seed: int = 0
    frames: int = 8
    side: int = 32
    count: int = 2
    scale: int = 2
    speed: float = 2.0

    def __post_init__(self) -> None:
        for name in ("size", "frames", "side", "count", "scale"):
            if getattr(self, name) < 1:
                raise UsageError(f"MovingDigits: {name}={getattr(self, name)} must be 1 or more")
        if self.speed < 0:
            raise UsageError(f"MovingDigits: speed={self.speed} must be 0 or more, pixels a frame")

    def __len__(self) -> int:
        return self.size

    @property
    def spec(self) -> dict[str, Field]:
        """The clip `x`."""
        return {"x": Field((self.frames, self.side, self.side, 1), "float32")}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the content of the digits and of all that moves them."""
        return hashlib.sha256(f"{self.digits.digest} {self}".encode()).hexdigest()

    def gather(self, indices: np.ndarray) -> Examples:
        """The clips at `indices` (int64, (B,))."""
        keys = example_keys(self.seed, 0, indices)
        clips = np.zeros((len(keys), self.frames, self.side, self.side), np.float32)
        for number in range(self.count):
            draws = [uniform(keys, _DRAWS * number + draw) for draw in range(_DRAWS)]
            images = self._images(np.floor(draws[0] * len(self.digits)).astype(np.int64))
            _, Y, X = images.shape
            top = bounced(self.side - Y, self.frames, draws[1], self._velocity(draws[2]))
            left = bounced(self.side - X, self.frames, draws[3], self._velocity(draws[4]))
            place = (
                np.arange(len(keys))[:, None, None, None],
                np.arange(self.frames)[:, None, None],
                top[:, :, None, None] + np.arange(Y)[:, None],
                left[:, :, None, None] + np.arange(X),
            )
            clips[place] = np.maximum(clips[place], images[:, None])
        return {"x": 2 * clips[..., None] - 1}

    def _velocity(self, draw: np.ndarray) -> np.ndarray:
        return (2 * draw - 1) * self.speed

    def _images(self, indices: np.ndarray) -> np.ndarray:
        """The enlarged digits at `indices`, float32 (B, Y, X) in [0, 1]."""
        images = self.digits.gather(indices)["x"]
        if images.ndim != 4 or images.shape[-1] != 1:
            raise DataError(
                f"MovingDigits needs grey images x (B, Y, X, 1), got {images.shape} of"
                f" {self.digits}"
            )
        if images.min() < 0 or images.max() > 1:
            raise DataError(
                f"MovingDigits needs pixels in [0, 1], got {images.min():.3g} to"
                f" {images.max():.3g} of {self.digits}; leave out its mean and std"
            )
        height, width = (self.scale * length for length in images.shape[1:3])
        if max(height, width) > self.side:
            raise DataError(
                f"digits of {height} × {width} pixels do not fit into side={self.side}; make scale"
                " smaller or side larger"
            )
        down, across = (enlargement(length, self.scale) for length in images.shape[1:3])
        return down @ images[..., 0] @ across.T


def bounced(room: int, frames: int, start: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Places in [0, room] (int64, (B, frames)) of points that are reflected at both ends.

    `start` (B,) is the first place as a part of the room, `velocity` (B,) in pixels a frame.
    """
    if room == 0:
        return np.zeros((len(start), frames), np.int64)
    # Unfolded, the path is straight: a reflection at each end has the period of a way and back.
    way = (start * room)[:, None] + velocity[:, None] * np.arange(frames)
    return np.rint(room - np.abs(np.mod(way, 2 * room) - room)).astype(np.int64)


@functools.lru_cache
def enlargement(length: int, scale: int) -> np.ndarray:
    """The matrix (scale·length, length), float32, that interpolates linearly between pixels."""
    centers = np.clip((np.arange(scale * length) + 0.5) / scale - 0.5, 0, length - 1)
    distance = np.abs(centers[:, None] - np.arange(length))
    return np.maximum(1 - distance, 0).astype(np.float32)
