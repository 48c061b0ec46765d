"""The protocol of a source, which holds examples by index, and the check of what one hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deeplearn.errors import DataError

Examples = dict[str, np.ndarray]
"""Field name → array whose leading axis is B."""


@dataclass(frozen=True)
class Field:
    """Shape and dtype of one field of one example (no axis B)."""

    shape: tuple[int, ...]
    dtype: str


class Source(Protocol):
    """Examples by index; a frozen dataclass in practice, whose data load on first use."""

    @property
    def spec(self) -> Mapping[str, Field]:
        """The fields of an example."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content, or of what names it where the content is too large."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether `gather` is a copy from memory, of values that were checked once."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> Examples:
        """The examples at `indices` (int64, (B,)), as arrays that the caller may write into."""
        ...


class RandomSource(Source, Protocol):
    """A source that also draws while it reads, such as a random crop of a large image."""

    def sample(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        """As `gather`, with 64 random bits for each example in `keys` (uint64, (B,))."""
        ...


def check_examples(examples: Examples, spec: Mapping[str, Field], indices: np.ndarray) -> None:
    """Raises `DataError` where examples differ from their spec or hold a number not finite."""
    for name, field in spec.items():
        if name not in examples:
            raise DataError(f"field '{name}' is missing in the examples from index {indices[0]} on")
        value, shape = examples[name], (len(indices), *field.shape)
        if value.shape != shape or value.dtype != field.dtype:
            raise DataError(
                f"field '{name}' of the examples from index {indices[0]} on is {value.dtype}"
                f" {value.shape}; expected {field.dtype} {shape}"
            )
        check_finite(name, value, indices)


def check_finite(name: str, value: np.ndarray, indices: np.ndarray | None = None) -> None:
    """Raises `DataError` naming the field and the first example that holds NaN or an infinity."""
    if not np.issubdtype(value.dtype, np.floating) or np.isfinite(value).all():
        return
    row = int(np.argmin(np.isfinite(value).reshape(len(value), -1).all(axis=1)))
    index = row if indices is None else int(indices[row])
    raise DataError(
        f"field '{name}' of example {index} holds NaN or a number beyond float32; remove or mend"
        " that example"
    )
