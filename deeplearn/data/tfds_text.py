"""Documents from a TFDS dataset with a feature of text, such as `lm1b` and `c4`."""

from __future__ import annotations

import contextlib
import functools
import importlib
from dataclasses import dataclass

from deeplearn.data.tfds_records import Records


@dataclass(frozen=True)
class TfdsText:
    """The texts in the feature `feature`, a document each, by the set's own splits.

    A split may be a slice, such as `train[:10%]`. All its texts are held in memory. Raises
    `DataError` where the dataset is missing or damaged, or has no such text.
    """

    name: str
    feature: str = "text"
    data_dir: str | None = None

    def texts(self, split: str) -> list[str]:
        """The documents of a split, in the order of the records."""
        return _texts(self, split)


@functools.lru_cache(maxsize=8)
def _texts(corpus: TfdsText, split: str) -> list[str]:
    # TFDS knows C4 by its name only once this package is imported. Where there is no TFDS, the
    # records say so.
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("tensorflow_datasets.text")
    records = Records(corpus.name, split, None, corpus.data_dir)
    return [records.text(row, corpus.feature) for row in records.rows()]
