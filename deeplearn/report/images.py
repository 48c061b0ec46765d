"""Pictures of examples: images as a grid, clips and paths as an animation, points as a scatter."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from deeplearn.data.pixels import PixelRange
from deeplearn.data.source import Source
from deeplearn.errors import StorageError, UsageError
from deeplearn.report import files

GAP, LEAST_SIDE, SCATTER_SIDE = 2, 56, 480
"""Pixels between two images of a grid, of their sides once small ones are doubled, of a scatter."""

DATA_COLOUR, SAMPLE_COLOUR = "#C8C8C8", "#0072B2"


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Images (N, Y, X, C) in [0, 1], row by row; C is 1 or 3, and NaN is black."""
    pixels = np.rint(255 * np.nan_to_num(images)).astype(np.uint8)
    scale = max(1, -(-LEAST_SIDE // pixels.shape[1]))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = pixels.shape
    rows, columns = -(-count // columns), min(columns, count)
    canvas = np.full(
        (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), 255, np.uint8
    )
    for number, image in enumerate(pixels):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def scatter(points: np.ndarray, data: np.ndarray) -> Image.Image:
    """Points (N, 2) over those of the data (M, 2), on the square that holds the data."""
    side = 2 * SCATTER_SIDE  # drawn at twice the size, and made smooth by halving
    center = (data.max(axis=0) + data.min(axis=0)) / 2
    reach = 0.6 * (data.max(axis=0) - data.min(axis=0)).max()
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    for each, colour in ((data, DATA_COLOUR), (np.nan_to_num(points), SAMPLE_COLOUR)):
        for x, y in side / 2 * (1 + (each - center) / reach * (1, -1)):
            pen.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=colour)
    return image.resize((SCATTER_SIDE, SCATTER_SIDE), Image.Resampling.BOX)


class Gallery:
    """Pictures in a directory, of samples like those of a source.

    Raises `UsageError` where its examples are neither images (Y, X, C), with C of 1 or 3, nor clips
    (T, Y, X, C), nor points in the plane (2,); `Gallery.can_show` says so ahead.
    """

    def __init__(self, source: Source, directory: Path):
        shape = source.spec["x"].shape
        if not self.can_show(source):
            raise UsageError(
                f"pictures show images, clips and points in the plane, and these data are {shape}"
            )
        self._directory, self._clips = directory, len(shape) == 4
        self._range = None if shape == (2,) else PixelRange.of(source)
        if self._range is None:
            self._data = source.gather(np.arange(min(len(source), 2000)))["x"]

    @staticmethod
    def can_show(source: Source) -> bool:
        """Whether there is a picture for the examples of a source."""
        field = source.spec.get("x")
        shape = field.shape if field is not None else ()
        return shape == (2,) or (len(shape) in (3, 4) and shape[-1] in (1, 3))

    def save(self, name: str, x: np.ndarray, columns: int) -> Path:
        """Samples (N, …) as NAME.png, or NAME.gif where they are clips; returns the path."""
        if self._clips:
            return self.animate(name, x.swapaxes(0, 1), columns)
        return self._write(f"{name}.png", _encoded([self._frame(x, columns)], "PNG"))

    def animate(self, name: str, x: np.ndarray, columns: int) -> Path:
        """Frames (T, N, …) of samples as NAME.gif; returns the path."""
        frames = [self._frame(each, columns).convert("RGB") for each in x]
        return self._write(f"{name}.gif", _encoded(frames, "GIF"))

    def _frame(self, x: np.ndarray, columns: int) -> Image.Image:
        if self._range is None:
            return scatter(x, self._data)
        return grid(self._range.unit(x), columns)

    def _write(self, name: str, data: bytes) -> Path:
        path = self._directory / name
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self._directory}: {error.strerror}") from error
        files.replace(path, data)
        return path


def _encoded(frames: Sequence[Image.Image], kind: str) -> bytes:
    """The bytes of a picture; several frames of 0.1 s run in a loop and rest on the last one."""
    buffer, first = io.BytesIO(), frames[0]
    if len(frames) == 1:
        first.save(buffer, kind, optimize=True)
    else:
        durations = [100] * (len(frames) - 1) + [1500]
        first.save(
            buffer, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0
        )
    return buffer.getvalue()
