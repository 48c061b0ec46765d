"""How many modes of a mixture of Gaussians a generator covers, on the host."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deeplearn.errors import UsageError


class ModeCount(NamedTuple):
    """`covered` modes, and the share of samples within reach of any mode (`quality`)."""

    covered: int
    quality: float


def mode_count(
    samples: np.ndarray, modes: np.ndarray, deviation: float, least_share: float = 0.2
) -> ModeCount:
    """The modes that hold their part of `samples` (N, D), and the share that lies in one at all.

    A sample belongs to its nearest of `modes` (M, D) and lies in it within 3 `deviation`. A mode is
    covered where at least `least_share` of the N / M samples of an even spread lie in it. Raises
    `UsageError` for other shapes or no samples. Source: Srivastava et al., 2017 (VEEGAN,
    arXiv:1705.07761), who ask for a single sample.
    """
    if samples.ndim != 2 or not len(samples) or samples.shape[1:] != modes.shape[1:]:
        raise UsageError(
            f"mode_count: samples {samples.shape} and modes {modes.shape} must be (N, D) and (M, D)"
        )
    distances = np.linalg.norm(samples[:, None] - modes, axis=-1)
    nearest = distances.argmin(axis=1)
    inside = distances.min(axis=1) <= 3 * deviation
    counts = np.bincount(nearest[inside], minlength=len(modes))
    needed = max(1.0, least_share * len(samples) / len(modes))
    return ModeCount(int((counts >= needed).sum()), float(inside.mean()))
