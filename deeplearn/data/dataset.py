"""The protocol of a dataset, and the two datasets: shuffled for training, in order otherwise.

A dataset turns a source into batches that are a pure function of the step: nothing about data
enters a checkpoint, resuming is arithmetic, and processes that ask for different rows of a step
together hold the same global batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deeplearn.data.permutation import example_keys, fold, permute, uniform
from deeplearn.data.source import Examples, Field, Source, check_examples
from deeplearn.errors import DataError, UsageError


class Dataset(Protocol):
    """Batches as a function of the step."""

    @property
    def spec(self) -> Mapping[str, Field]:
        """The fields of an example as it comes out of `batch`."""
        ...

    @property
    def digest(self) -> str:
        """That of the source."""
        ...

    @property
    def in_memory(self) -> bool:
        """That of the source."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batch(self, step: int, rows: slice) -> Examples:
        """The rows [start, stop) of the global batch of a step, of shape (stop − start, …)."""
        ...


@dataclass(frozen=True)
class Draw:
    """What a transform may draw from, one row for each example.

    `keys` (uint64, (B,)) are 64 random bits of (seed, epoch, index, place of the transform).
    `fetch(indices, keys)` gathers other examples as the transforms before this one make them out of
    these keys. `size` is the number of examples of the source.
    """

    keys: np.ndarray
    fetch: Callable[[np.ndarray, np.ndarray], Examples]
    size: int

    def uniform(self, stream: int) -> np.ndarray:
        """Numbers in [0, 1) (float64, (B,)); every stream is independent of the others."""
        return uniform(self.keys, stream)

    def integers(self, stream: int, bound: int) -> np.ndarray:
        """Integers in [0, bound) (int64, (B,)), from the stream of that number."""
        return (fold(self.keys, stream) % np.uint64(bound)).astype(np.int64)


class Transform(Protocol):
    """An augmentation: a frozen dataclass and a pure function of the examples and the draw."""

    def __call__(self, examples: Examples, draw: Draw) -> Examples:
        """The transformed examples; row j depends on row j of the arguments only."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """The endless training stream: every epoch holds each example once, in an order of its own.

    Example number i = step · batch_size + row stands at position i % N of epoch i // N, so batches
    may straddle epochs and nothing is dropped. Raises `DataError` where the source is empty or
    smaller than a batch.
    """

    source: Source
    batch_size: int
    seed: int
    augment: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        _check_sizes(self.source, self.batch_size)
        if self.batch_size > len(self):
            raise DataError(
                f"batch_size {self.batch_size} is larger than the {len(self)} examples of"
                f" {self.source}; use a batch_size of at most {len(self)}"
            )

    def __len__(self) -> int:
        return self._size

    @property
    def in_memory(self) -> bool:
        """That of the source."""
        return self.source.in_memory

    @property
    def digest(self) -> str:
        """That of the source."""
        return self.source.digest

    @functools.cached_property
    def spec(self) -> dict[str, Field]:
        """The fields of an example after augmentation, found on zeros without reading data."""
        examples = {
            name: np.zeros((1, *field.shape), field.dtype)
            for name, field in self.source.spec.items()
        }
        keys = np.zeros(1, np.uint64)
        for transform in self.augment:
            before = dict(examples)
            examples = transform(examples, Draw(keys, lambda *_, same=before: dict(same), 1))
        return {name: Field(value.shape[1:], str(value.dtype)) for name, value in examples.items()}

    def batch(self, step: int, rows: slice) -> Examples:
        """The rows [start, stop) of the global batch of a step."""
        start = step * self.batch_size
        return self.examples(start + rows.start, start + rows.stop)

    def examples(self, start: int, stop: int) -> Examples:
        """The examples of numbers [start, stop) of the stream; several steps are one range."""
        orders: list[np.ndarray] = []
        keys: list[np.ndarray] = []
        while start < stop or not orders:
            epoch, position = divmod(start, self._size)
            count = min(stop - start, self._size - position)
            order = permute(
                self.seed, epoch, self._size, np.arange(position, position + count, dtype=np.int64)
            )
            orders.append(order)
            if self._random:
                keys.append(example_keys(self.seed, epoch, order))
            start += count
        indices = orders[0] if len(orders) == 1 else np.concatenate(orders)
        if not self._random:
            return _gather(self.source, indices)
        return self._transformed(indices, np.concatenate(keys), len(self.augment))

    @functools.cached_property
    def _size(self) -> int:
        return len(self.source)

    @functools.cached_property
    def _random(self) -> bool:
        return bool(self.augment) or hasattr(self.source, "sample")

    def _transformed(self, indices: np.ndarray, keys: np.ndarray, stages: int) -> Examples:
        """The examples after the first `stages` transforms."""
        examples = _gather(self.source, indices, keys)
        for stage, transform in enumerate(self.augment[:stages]):
            fetch = functools.partial(self._transformed, stages=stage)
            examples = transform(examples, Draw(fold(keys, stage), fetch, self._size))
        return examples


@dataclass(frozen=True)
class Sequential:
    """One pass in order, for evaluation: `batches` batches, the last one padded.

    Every batch has the field `mask` (float32, (B,)), 0 in padded rows, which repeat the last
    example, and else the `mask` of the source or 1. Raises `DataError` where the source is empty.
    """

    source: Source
    batch_size: int

    def __post_init__(self) -> None:
        _check_sizes(self.source, self.batch_size)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def batches(self) -> int:
        """⌈N / batch_size⌉."""
        return -(-len(self) // self.batch_size)

    @property
    def in_memory(self) -> bool:
        """That of the source."""
        return self.source.in_memory

    @property
    def digest(self) -> str:
        """That of the source."""
        return self.source.digest

    @property
    def spec(self) -> dict[str, Field]:
        """The fields of the source and `mask`."""
        return {**self.source.spec, "mask": Field((), "float32")}

    def batch(self, step: int, rows: slice) -> Examples:
        """The rows [start, stop) of batch number `step`, 0 ≤ step < batches."""
        start = step * self.batch_size
        numbers = np.arange(start + rows.start, start + rows.stop, dtype=np.int64)
        examples = _gather(self.source, np.minimum(numbers, len(self) - 1))
        mask = examples.get("mask", np.ones(len(numbers), np.float32))
        if mask.ndim != 1:
            raise DataError(
                f"field 'mask' of {self.source} has the shape {mask.shape[1:]} an example; give it"
                " one number for each"
            )
        return {**examples, "mask": np.where(numbers < len(self), mask, 0).astype(np.float32)}


def _gather(source: Source, indices: np.ndarray, keys: np.ndarray | None = None) -> Examples:
    if keys is not None and hasattr(source, "sample"):
        examples = source.sample(indices, keys)
    else:
        examples = source.gather(indices)
    if not source.in_memory:
        check_examples(examples, source.spec, indices)
    return examples


def _check_sizes(source: Source, batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1")
    if len(source) == 0:
        raise DataError(f"{source} holds no examples; check its split and its files")
