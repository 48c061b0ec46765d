"""Black and white of a source of images: the way between its unit and [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeplearn.data.source import Source


@dataclass(frozen=True)
class PixelRange:
    """The least and the greatest value of each channel, float32 (C,), of a source's images.

    Two sources that scale the same images in different ways agree on [0, 1].
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, source: Source, examples: int = 1000) -> PixelRange:
        """That of up to `examples` images x (B, …, C) of a source, evenly spaced."""
        count = min(examples, len(source))
        indices = np.linspace(0, len(source) - 1, count).astype(np.int64)
        x = source.gather(indices)["x"]
        pixels = x.reshape(-1, x.shape[-1])
        return cls(pixels.min(axis=0), pixels.max(axis=0))

    def unit(self, x: np.ndarray) -> np.ndarray:
        """Images (…, C) in [0, 1], cut there as in a file of 8 bits; NaN stays."""
        return np.clip((x - self.low) / self._spread, 0, 1)

    def restored(self, unit: np.ndarray) -> np.ndarray:
        """Images (…, C) in [0, 1] in the unit of the source."""
        return self.low + unit * self._spread

    @property
    def _spread(self) -> np.ndarray:
        """Of a channel without any contrast 1."""
        return np.where(self.high > self.low, self.high - self.low, 1).astype(self.low.dtype)
