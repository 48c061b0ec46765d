"""Three small real sets that come with scikit-learn, split by a hash of each example.

Train, validation and test are the places [0, 0.7), [0.7, 0.8) and [0.8, 1) of `split.places`:

    name            x                        label or target            train  validation  test
    digits          (8, 8, 1), in [0, 1]     label, 10 classes           1249         185   363
    breast_cancer   (30,), standardized      label, 1 = benign            406          62   101
    diabetes        (10,), standardized      target, 25 to 346            316          43    83

Standardized means by mean and standard deviation of the training split. The diabetes target is a
measure of disease progression after one year, in its own unit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deeplearn.data.memory import InMemory
from deeplearn.data.split import places
from deeplearn.errors import UsageError, did_you_mean

PLACES = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}
"""Split → the range of places that it takes."""

DIABETES_TARGET_MEAN = 152.389
DIABETES_TARGET_STD = 75.990
"""Of the training split, in the target's unit."""


@dataclass(frozen=True)
class Bundled(InMemory):
    """The set of that `name`, one of its splits."""

    name: str
    split: str = "train"

    def __post_init__(self) -> None:
        if self.name not in SETS:
            raise UsageError(f"no bundled set '{self.name}'{did_you_mean(self.name, SETS)}")
        if self.split not in PLACES:
            hint = did_you_mean(self.split, PLACES)
            raise UsageError(f"bundled set '{self.name}' has no split '{self.split}'{hint}")

    def load(self) -> Mapping[str, np.ndarray]:
        """The rows of the split."""
        arrays, place = _read(self.name)
        start, stop = PLACES[self.split]
        kept = (start <= place) & (place < stop)
        return {name: value[kept] for name, value in arrays.items()}


@functools.cache
def _read(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All rows of a set and their places."""
    from sklearn import datasets

    loader, fields = SETS[name]
    bunch = getattr(datasets, loader)(**({"scaled": False} if name == "diabetes" else {}))
    place = places(bunch.data)
    train = (PLACES["train"][0] <= place) & (place < PLACES["train"][1])
    return fields(bunch.data, bunch.target, train), place


def _digits(data: np.ndarray, target: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": data.reshape(-1, 8, 8, 1) / 16, "label": target}


def _breast_cancer(
    data: np.ndarray, target: np.ndarray, train: np.ndarray
) -> dict[str, np.ndarray]:
    return {"x": _standardized(data, train), "label": target}


def _diabetes(data: np.ndarray, target: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": _standardized(data, train), "target": target}


def _standardized(data: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 of every column over the training rows."""
    return (data - data[train].mean(axis=0)) / data[train].std(axis=0)


SETS = {
    "digits": ("load_digits", _digits),
    "breast_cancer": ("load_breast_cancer", _breast_cancer),
    "diabetes": ("load_diabetes", _diabetes),
}
