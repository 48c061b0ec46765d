"""TFDS datasets that fit in memory: the records of a split, read once and kept as arrays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeplearn.data.cache import cached_arrays
from deeplearn.data.memory import InMemory, canonical
from deeplearn.data.tfds_records import CHUNK, Records, data_root, prepared_directory
from deeplearn.errors import DataError

Fields = tuple[tuple[str, str], ...]
"""Pairs of a field of ours and the TFDS feature that it holds."""

IMAGE_AND_LABEL: Fields = (("x", "image"), ("label", "label"))


@dataclass(frozen=True)
class Tfds(InMemory):
    """A split of a TFDS dataset, read into memory: examples of one shape.

    `split` may be a slice, such as `train[:10%]`. Pixels leave as (value / 255 − mean) / std. The
    first reading also leaves the arrays beside the records, which later readings use. Raises
    `DataError` where the dataset is missing or damaged, or a feature or split is unknown.
    """

    name: str
    split: str = "train"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fields: Fields = IMAGE_AND_LABEL
    version: str | None = None
    data_dir: str | None = None

    def load(self) -> Mapping[str, np.ndarray]:
        """Field name → array, from the arrays kept beside the records or from the records."""
        directory = prepared_directory(self.name, self.version, data_root(self.data_dir))
        directory = directory or self._records().directory  # where opening prepares it
        if directory is None:
            return self._read()
        return cached_arrays(self._cache(directory), lambda: canonical(self._read()))

    def _cache(self, directory: Path) -> Path:
        """The file of arrays, named by what was read: it is another one once a record changes."""
        files = [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(directory.glob("*.array_record-*"))
        ]
        key = hashlib.sha256(repr((self.split, self.fields, files)).encode()).hexdigest()
        return directory / f"arrays-{re.sub(r'[^a-z0-9]+', '_', self.split)}-{key[:16]}.npz"

    def _records(self) -> Records:
        return Records(self.name, self.split, self.version, self.data_dir)

    def _read(self) -> dict[str, np.ndarray]:
        records = self._records()
        arrays: dict[str, np.ndarray] = {}
        for start in range(0, len(records), CHUNK):
            stop = min(start + CHUNK, len(records))
            rows = records.read(range(start, stop))
            for name, feature in self.fields:
                values = [np.asarray(records.feature(row, feature)) for row in rows]
                if name not in arrays:
                    arrays[name] = np.empty((len(records), *values[0].shape), values[0].dtype)
                if any(value.shape != arrays[name].shape[1:] for value in values):
                    raise DataError(
                        f"feature '{feature}' of {records.name} has no fixed shape; use TfdsImages"
                    )
                arrays[name][start:stop] = values
        return arrays
