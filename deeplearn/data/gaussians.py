"""Mixtures of Gaussians in the plane, whose modes a generator may lose: a ring of 8, a grid of 25.

The two sets of Srivastava et al., 2017 (VEEGAN, arXiv:1705.07761) and others: modes of equal
weight and of a deviation far below their distance, so that every point tells its mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deeplearn.data.memory import InMemory
from deeplearn.errors import UsageError, did_you_mean

DEVIATION = {"ring": 0.02, "grid": 0.05}
"""The standard deviation of a mode on each axis."""


@dataclass(frozen=True)
class Gaussians(InMemory):
    """`size` points x float32 (2,) with the number of their mode as `label`, drawn from `seed`.

    `kind` is "ring", 8 modes on the circle of radius 1, or "grid", 5 × 5 modes evenly spaced
    over [−1, 1] on each axis, row by row.
    """

    kind: str = "ring"
    size: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in DEVIATION:
            raise UsageError(f"no Gaussians '{self.kind}'{did_you_mean(self.kind, DEVIATION)}")
        if self.size < 1:
            raise UsageError(f"Gaussians: size = {self.size} must be 1 or more")

    @property
    def modes(self) -> np.ndarray:
        """The centers, float64 (modes, 2)."""
        if self.kind == "ring":
            angles = 2 * np.pi * np.arange(8) / 8
            return np.stack([np.cos(angles), np.sin(angles)], axis=1)
        places = np.linspace(-1, 1, 5)
        return np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)

    @property
    def deviation(self) -> float:
        """The standard deviation of a mode on each axis."""
        return DEVIATION[self.kind]

    def load(self) -> Mapping[str, np.ndarray]:
        """The points and their modes."""
        generator = np.random.default_rng(self.seed)
        label = generator.integers(0, len(self.modes), self.size)
        noise = generator.normal(scale=self.deviation, size=(self.size, 2))
        return {"x": self.modes[label] + noise, "label": label}
