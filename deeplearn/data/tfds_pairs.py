"""Translation pairs from a TFDS dataset whose features are named by language, such as WMT."""

from __future__ import annotations

import contextlib
import functools
import importlib
from dataclasses import dataclass

from deeplearn.data.corpus import Pair, texts_of
from deeplearn.data.tfds_records import Records


@dataclass(frozen=True)
class TfdsPairs:
    """Texts in the language `source` and their translations into `target`, by the set's own splits.

    A split may be a slice, such as `train[:10%]`. Raises `DataError` where the dataset is missing
    or damaged, or has no such language.
    """

    name: str
    source: str
    target: str
    data_dir: str | None = None

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of a split."""
        return _pairs(self, split)

    def texts(self, split: str) -> list[str]:
        """Sources and targets of a split."""
        return texts_of(self.pairs(split))


@functools.lru_cache(maxsize=8)
def _pairs(corpus: TfdsPairs, split: str) -> list[Pair]:
    # TFDS knows WMT by its names only once this package is imported. Where there is no TFDS, the
    # records say so.
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("tensorflow_datasets.translate")
    records = Records(corpus.name, split, None, corpus.data_dir)
    return [
        Pair(records.text(row, corpus.source), records.text(row, corpus.target), corpus.target)
        for row in records.rows()
    ]
