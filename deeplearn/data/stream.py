"""Images of any size, too many for memory: read, decoded and cropped when their batch is made."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deeplearn.data.memory import scaled
from deeplearn.data.permutation import uniform
from deeplearn.data.source import Examples, Field
from deeplearn.data.tfds_records import Records
from deeplearn.errors import UsageError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True)
class TfdsImages:
    """A split of a TFDS dataset of images, each resized to `size` × `size` RGB.

    A training stream cuts a random rectangle: its area uniform in `area` (parts of the image), its
    width over height log-uniform in `aspect`, cut where that exceeds the image (Szegedy et al.,
    "Going deeper with convolutions", 2015). Evaluation cuts the centred square whose side is
    `center` of the shorter side. Pixels leave as float32 (value / 255 − mean) / std. Raises
    `DataError` as `Tfds` does.
    """

    in_memory: ClassVar[bool] = False

    name: str
    split: str = "train"
    size: int = 224
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    center: float = 0.875
    version: str | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        possible = {
            "size": self.size >= 1,
            "area": 0 < self.area[0] <= self.area[1] <= 1,
            "aspect": 0 < self.aspect[0] <= self.aspect[1],
            "center": 0 < self.center <= 1,
        }
        for name, right in possible.items():
            if not right:
                raise UsageError(
                    f"TfdsImages: {name}={getattr(self, name)!r} cannot be; size is 1 or more,"
                    " area and center are parts of an image, area and aspect rise"
                )

    @property
    def spec(self) -> dict[str, Field]:
        """The image `x` and its `label`."""
        return {"x": Field((self.size, self.size, 3), "float32"), "label": Field((), "int32")}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of dataset, version, split, number of examples, file names and sizes."""
        return hashlib.sha256(repr(self._records.identity).encode()).hexdigest()

    @functools.cached_property
    def _records(self) -> Records:
        return Records(self.name, self.split, self.version, self.data_dir)

    def __len__(self) -> int:
        return len(self._records)

    def gather(self, indices: np.ndarray) -> Examples:
        """The examples at `indices` (int64, (B,)), the centre of each image."""
        return self._examples(indices, [None] * len(indices))

    def sample(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        """The examples at `indices`, a rectangle of each image drawn from `keys` (uint64, (B,))."""
        return self._examples(indices, list(np.stack([uniform(keys, i) for i in range(4)], axis=1)))

    def _examples(self, indices: np.ndarray, draws: list[np.ndarray | None]) -> Examples:
        rows = list(_pool().map(self._example, indices.tolist(), draws))
        pixels = np.stack([image for image, _ in rows])
        labels = np.array([label for _, label in rows], np.int32)
        return {"x": scaled(pixels, self.mean, self.std), "label": labels}

    def _example(self, index: int, draws: np.ndarray | None) -> tuple[np.ndarray, int]:
        """The cropped image, uint8 (size, size, 3), and the label."""
        from PIL import Image

        (example,) = self._records.read([index])
        pixels = self._records.feature(example, "image")
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        box = self._center(image.size) if draws is None else self._random(image.size, draws)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image), int(self._records.feature(example, "label"))

    def _center(self, size: tuple[int, int]) -> Box:
        width, height = size
        side = self.center * min(size)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def _random(self, size: tuple[int, int], draws: np.ndarray) -> Box:
        width, height = size
        area = width * height * np.interp(draws[0], (0, 1), self.area)
        aspect = math.exp(np.interp(draws[1], (0, 1), np.log(self.aspect)))
        across = min(math.sqrt(area * aspect), width)
        down = min(math.sqrt(area / aspect), height)
        left, top = draws[2] * (width - across), draws[3] * (height - down)
        return left, top, min(left + across, width), min(top + down, height)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Threads that decode; Pillow and ArrayRecord let the interpreter go while they work."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
