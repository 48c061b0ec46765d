"""Sources that live in memory: the user's own arrays, and the base of everything loaded whole."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from deeplearn.data.source import Examples, Field, check_finite
from deeplearn.errors import DataError, UsageError

PIXELS = "x"
"""The one field whose uint8 values are pixels; other integers are labels, tokens or counts."""


class InMemory:
    """Base of a frozen dataclass whose examples are read once, checked and kept as arrays.

    A subclass states `load`. Pixels stay uint8 in memory and come out of `gather` as float32
    (value / 255 − `mean`) / `std`, both per channel or one for all.
    """

    in_memory = True
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def load(self) -> Mapping[str, np.ndarray]:
        """Field name → array (N, …), in any of the usual dtypes."""
        raise NotImplementedError

    @functools.cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays as they are kept: uint8 pixels, float32, int32, read-only."""
        return canonical(self.load())

    @functools.cached_property
    def spec(self) -> dict[str, Field]:
        """The fields as `gather` returns them."""
        return {
            name: Field(value.shape[1:], "float32" if value.dtype == np.uint8 else str(value.dtype))
            for name, value in self.arrays.items()
        }

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of names, dtypes, shapes and content, and of how pixels are scaled."""
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        for name, value in sorted(self.arrays.items()):
            digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
            digest.update(value.data)
        return digest.hexdigest()

    @functools.cached_property
    def _length(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __len__(self) -> int:
        return self._length

    def gather(self, indices: np.ndarray) -> Examples:
        """The examples at `indices` (int64, (B,)), copied."""
        return {
            name: scaled(rows, self.mean, self.std) if rows.dtype == np.uint8 else rows
            for name, value in self.arrays.items()
            for rows in (value.take(indices, axis=0),)
        }


@dataclass(frozen=True, eq=False)
class Arrays(InMemory):
    """The user's own arrays: `Arrays({"x": x, "label": label})`, each of shape (N, …).

    Floats become float32 and integers int32; uint8 in `x` is taken as pixels and scaled to
    (x / 255 − mean) / std. Arrays are copied only where the dtype changes. Raises `DataError`
    where lengths differ, a float is not finite or a dtype cannot be used.
    """

    fields: Mapping[str, np.ndarray] = field(repr=False)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", canonical(self.fields))

    def load(self) -> Mapping[str, np.ndarray]:
        """The given arrays."""
        return self.fields

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name} {value.dtype}{list(value.shape)}" for name, value in self.fields.items()
        )
        return f"Arrays({fields})"


def scaled(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """uint8 pixels (B, …, C) as float32 (value / 255 − mean) / std; empty means 0 and 1."""
    scale, shift = _affine(mean, std, pixels.shape[1:])
    values = pixels.reshape(len(pixels), math.prod(pixels.shape[1:])).astype(np.float32)
    values *= scale
    values += shift
    return values.reshape(pixels.shape)


@functools.lru_cache
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift (float32) from 0..255: scalars, or a row of one number for each pixel.

    NumPy broadcasts three channels at a time 15 times slower than a whole image.
    """
    if {len(mean), len(std)} - {0, 1, *shape[-1:]}:
        raise UsageError(
            f"mean={mean} and std={std} do not fit pixels of shape {shape}; give one number, one"
            " for each channel, or none"
        )
    if not (np.isfinite((*mean, *std)).all() and all(each > 0 for each in std)):
        raise UsageError(f"mean={mean} and std={std} must be finite, and std above 0")
    center, spread = np.array(mean or (0.0,)), np.array(std or (1.0,))
    factors = 1 / (255 * spread), -center / spread
    scale, shift = (np.broadcast_to(each, shape).astype(np.float32).ravel() for each in factors)
    if max(len(mean), len(std)) <= 1:
        return scale[:1], shift[:1]
    return scale, shift


def canonical(fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in the dtypes that the rest relies on: uint8 pixels, float32, int32; read-only."""
    if not fields:
        raise DataError("no arrays were given; a source needs at least one field")
    arrays = {name: _canonical(name, np.asarray(value)) for name, value in fields.items()}
    lengths = {name: len(value) for name, value in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"fields differ in length: {lengths}; they must hold the same examples")
    return arrays


def _canonical(name: str, value: np.ndarray) -> np.ndarray:
    if value.ndim == 0:
        raise DataError(f"field '{name}' is a scalar; its first axis must count examples")
    dtype: np.typing.DTypeLike
    if np.issubdtype(value.dtype, np.floating):
        dtype = np.float32
    elif value.dtype == np.uint8 and name == PIXELS:
        dtype = np.uint8
    elif np.issubdtype(value.dtype, np.integer) or value.dtype == np.bool_:
        _check_int32(name, value)
        dtype = np.int32
    else:
        raise DataError(
            f"field '{name}' has dtype {value.dtype}; give floats, integers or booleans"
        )
    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(value, dtype).view()
    check_finite(name, kept)
    kept.flags.writeable = False
    return kept


def _check_int32(name: str, value: np.ndarray) -> None:
    limits = np.iinfo(np.int32)
    if value.size and (value.min() < limits.min or value.max() > limits.max):
        raise DataError(
            f"field '{name}' holds integers from {value.min()} to {value.max()}, outside int32"
        )
