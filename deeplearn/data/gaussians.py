"""A square grid of Gaussians in the plane: the set on which a lost mode is seen and counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deeplearn.data.memory import InMemory
from deeplearn.errors import UsageError


@dataclass(frozen=True)
class GaussianGrid(InMemory):
    """`count` points `x` (2,) around `side`² centres, off by a `deviation`; `label` is the centre.

    The centres are evenly spaced over [−1, 1]², row by row. Which centre a point belongs to and
    how far it lies off is a function of `seed`.
    """

    count: int = 20_000
    side: int = 5
    deviation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.side < 2 or self.deviation <= 0:
            raise UsageError(
                f"grid of Gaussians: count={self.count} must be 1 or more, side={self.side} 2 or"
                f" more and deviation={self.deviation} above 0"
            )

    @property
    def centres(self) -> np.ndarray:
        """Float64 (side², 2)."""
        line = np.linspace(-1, 1, self.side)
        return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)

    def load(self) -> Mapping[str, np.ndarray]:
        """The points and their centres."""
        generator = np.random.default_rng(self.seed)
        label = generator.integers(0, self.side**2, self.count)
        noise = generator.normal(0, self.deviation, (self.count, 2))
        return {"x": self.centres[label] + noise, "label": label}
