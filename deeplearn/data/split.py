"""Deterministic splits by a hash of each example, so that equal inputs never fall on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from deeplearn.data.memory import PIXELS, InMemory
from deeplearn.errors import UsageError


@dataclass(frozen=True)
class Split(InMemory):
    """The examples of a source in memory whose place in [0, 1) lies in [start, stop).

    Neither the order of the examples nor what else the source holds moves an example to another
    side. Example: `Split(source, 0.0, 0.9)` to train and `Split(source, 0.9, 1.0)` to validate.
    """

    source: InMemory
    start: float
    stop: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise UsageError(
                f"Split from {self.start} to {self.stop}: 0 ≤ start < stop ≤ 1 must hold"
            )
        if not self.source.in_memory:
            raise UsageError(f"Split reads every example, and {self.source} is not in memory")
        if not isinstance(self.source, InMemory):
            raise UsageError(self._without_pixels())

    def _without_pixels(self) -> str:
        return (
            f"Split goes by the field '{PIXELS}', and {self.source} has none; a corpus of texts has"
            " splits of its own"
        )

    @property
    def mean(self) -> tuple[float, ...]:  # type: ignore[override]
        """That of the source."""
        return self.source.mean

    @property
    def std(self) -> tuple[float, ...]:  # type: ignore[override]
        """That of the source."""
        return self.source.std

    def load(self) -> Mapping[str, np.ndarray]:
        """The chosen rows of the source's arrays."""
        arrays = self.source.arrays
        if PIXELS not in arrays:
            raise UsageError(self._without_pixels())
        place = places(arrays[PIXELS])
        kept = np.flatnonzero((self.start <= place) & (place < self.stop))
        return {name: value[kept] for name, value in arrays.items()}


def places(inputs: np.ndarray) -> np.ndarray:
    """The place in [0, 1) (float64, (N,)) of each input (N, …): 64 bits of BLAKE2b of its bytes."""
    if np.issubdtype(inputs.dtype, np.floating):
        inputs = inputs + inputs.dtype.type(0)  # −0 equals 0 and has other bytes
    return _places(row.data for row in np.ascontiguousarray(inputs))


def text_places(texts: Iterable[str]) -> np.ndarray:
    """The place in [0, 1) (float64, (N,)) of each text, from its UTF-8 bytes."""
    return _places(text.encode("utf-8", "surrogatepass") for text in texts)


def _places(contents: Iterable[bytes | memoryview]) -> np.ndarray:
    words = b"".join(hashlib.blake2b(each, digest_size=8).digest() for each in contents)
    return (np.frombuffer(words, "<u8") >> np.uint64(11)) * 2.0**-53
