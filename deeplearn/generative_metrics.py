"""How near a set of samples comes to a set of data, in a space of features, on the host.

Every number depends on the features: name them beside it. Real features come first, x (N, D), then
those of the samples, y (M, D); float64 inside. All functions raise `UsageError` for other shapes,
for too few rows and for features that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from deeplearn.errors import UsageError

BLOCK = 1000
"""Rows of a matrix of pairs that are in memory at a time."""

NEIGHBORS = 5
"""Of a point, those that the size of its ball is told by; a set needs one point more."""


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The Fréchet distance of the Gaussians with the moments of two sets (Heusel et al. 2017).

    |μ_x − μ_y|² + tr(Σ_x + Σ_y − 2·(Σ_x·Σ_y)^½), arXiv:1706.08500, with unbiased covariances. The
    last trace is the sum of the singular values of A·Bᵀ for any A, B with AᵀA = Σ_x and BᵀB = Σ_y:
    no square root of a matrix that noise has made indefinite. It is biased upwards, and more so in
    smaller sets: compare distances of equal counts.
    """
    x, y = _checked(x, y, 2)
    (a, trace_x), (b, trace_y) = _factor(x), _factor(y)
    between = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = x.mean(axis=0) - y.mean(axis=0)
    # Of two equal sets rounding may leave a little less than 0.
    return max(0.0, float(shift @ shift + trace_x + trace_y - 2 * between))


def _factor(x: np.ndarray) -> tuple[np.ndarray, float]:
    """R with RᵀR the covariance of x, and the trace of the latter."""
    factor: Any = np.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1), mode="r")
    return factor, float((factor**2).sum())


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: float
    standard_error: float


def kernel_distance(x: np.ndarray, y: np.ndarray) -> Estimate:
    """KID: the squared maximum mean discrepancy, unbiased (Bińkowski et al. 2018).

    The kernel is (a·b / D + 1)³, arXiv:1801.01401; of two sets from one distribution the mean is 0,
    so that values may be negative. The standard error is that of the jackknife over the rows of
    both sets, which are taken to be independent; where the distributions are equal it is too large,
    by up to √2.
    """
    x, y = _checked(x, y, 3)
    (within_x, _), (within_y, _) = _kernel_sums(x, x), _kernel_sums(y, y)
    within_x, within_y = within_x - _diagonal(x), within_y - _diagonal(y)
    from_x, from_y = _kernel_sums(x, y)
    value = _pairs(within_x.sum(), len(x)) + _pairs(within_y.sum(), len(y))
    value -= 2 * from_x.sum() / (len(x) * len(y))
    variance = 0.0
    for within, across, count in ((within_x, from_x, len(y)), (within_y, from_y, len(x))):
        rows = len(within)
        left = _pairs(within.sum() - 2 * within, rows - 1)
        left = left - 2 * (across.sum() - across) / ((rows - 1) * count)
        variance += (rows - 1) * float(left.var())
    return Estimate(float(value), variance**0.5)


def _pairs(total: np.ndarray, count: int) -> np.ndarray:
    """The mean over the ordered pairs of `count` different rows."""
    return total / (count * (count - 1))


def _kernel(products: np.ndarray, width: int) -> np.ndarray:
    return (products / width + 1) ** 3


def _kernel_sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the kernel over y for each row of x (N,), and over x for each of y (M,)."""
    rows, columns = [], np.zeros(len(y))
    for block in _blocks(x):
        kernel = _kernel(block @ y.T, x.shape[1])
        rows.append(kernel.sum(axis=1))
        columns += kernel.sum(axis=0)
    return np.concatenate(rows), columns


def _diagonal(x: np.ndarray) -> np.ndarray:
    return _kernel((x**2).sum(axis=1), x.shape[1])


class Support(NamedTuple):
    """How the supports of data and samples overlap; each is 1 at best, but density has no bound.

    `precision` is the share of samples among the data, `recall` the share of data among the
    samples. `density` counts how often samples are among the data, over what is expected of data;
    `coverage` is the share of data with a sample as near as their neighbors.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def support(x: np.ndarray, y: np.ndarray, neighbors: int = NEIGHBORS) -> Support:
    """Improved precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem 2020).

    arXiv:1904.06991 and arXiv:2002.09797. A point is among a set where it lies in the ball of one
    of its points, whose radius is the distance to the `neighbors`-th nearest other point.
    """
    x, y = _checked(x, y, neighbors + 1)
    balls_x, balls_y = _radii(x, neighbors), _radii(y, neighbors)
    recalled, covered, inside = [], [], np.zeros(len(y))
    for block, radii in zip(_blocks(x), _blocks(balls_x), strict=True):
        distances = _squared_distances(block, y)
        within = distances <= radii[:, None]
        inside += within.sum(axis=0)
        covered.append(within.any(axis=1))
        recalled.append((distances <= balls_y).any(axis=1))
    return Support(
        precision=float((inside > 0).mean()),
        recall=float(np.concatenate(recalled).mean()),
        density=float(inside.mean() / neighbors),
        coverage=float(np.concatenate(covered).mean()),
    )


def support_by_class(
    x: np.ndarray,
    x_label: np.ndarray,
    y: np.ndarray,
    y_label: np.ndarray,
    neighbors: int = NEIGHBORS,
) -> dict[int, Support]:
    """The support of each class of the data (N,) and the samples (M,), by its number.

    A class whose samples are all alike stands out here, and hardly in the numbers of the whole.
    """
    return {
        int(label): support(x[x_label == label], y[y_label == label], neighbors)
        for label in np.unique(x_label)
    }


def _radii(x: np.ndarray, neighbors: int) -> np.ndarray:
    """The squared distance of each row to its `neighbors`-th nearest other row, (N,)."""
    # The nearest of all is the row itself.
    return np.concatenate(
        [
            np.partition(_squared_distances(block, x), neighbors, axis=1)[:, neighbors]
            for block in _blocks(x)
        ]
    )


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances (N, M), not below 0."""
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)
    return np.maximum(squares - 2 * x @ y.T, 0)


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(x), BLOCK):
        yield x[start : start + BLOCK]


def _checked(x: np.ndarray, y: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < least:
        raise UsageError(
            f"features {x.shape} and {y.shape} must be (N, D) and (M, D) with {least} rows or more"
        )
    for name, features in (("data", x), ("samples", y)):
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise UsageError(
                f"row {int(finite.argmin())} of the features of the {name} is not finite; nothing"
                " can be measured of them"
            )
    return x.astype(np.float64), y.astype(np.float64)
