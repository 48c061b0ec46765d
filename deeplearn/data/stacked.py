"""Several steps of a dataset as one batch, for programs that make K steps in a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deeplearn.data.dataset import Dataset, Examples, Field


@dataclass(frozen=True)
class Stacked:
    """The batches of steps [step, step + count) with a leading axis of that length."""

    dataset: Dataset
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
        batches = [self.dataset.batch(step + offset, rows) for offset in range(self.count)]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
