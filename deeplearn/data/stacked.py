"""Several steps of a dataset as one batch, for programs that make K steps in a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deeplearn.data.dataset import Shuffled
from deeplearn.data.source import Examples, Field


@dataclass(frozen=True)
class Stacked:
    """The batches of steps [step, step + count) with a leading axis of that length."""

    dataset: Shuffled
    count: int

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def spec(self) -> Mapping[str, Field]:
        """That of the dataset."""
        return self.dataset.spec

    @property
    def in_memory(self) -> bool:
        """That of the dataset."""
        return self.dataset.in_memory

    @property
    def digest(self) -> str:
        """That of the dataset."""
        return self.dataset.digest

    def batch(self, step: int, rows: slice) -> Examples:
        """Field name → array (count, stop − start, …)."""
        size = self.dataset.batch_size
        if rows.stop - rows.start == size:  # the examples of consecutive steps are one range
            whole = self.dataset.examples(step * size, (step + self.count) * size)
            return {
                name: value.reshape(self.count, size, *value.shape[1:])
                for name, value in whole.items()
            }
        batches = [self.dataset.batch(step + offset, rows) for offset in range(self.count)]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
