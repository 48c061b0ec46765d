"""Translation pairs from LibreOffice's help, read from the TFDS dataset `libreoffice_help`."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from deeplearn.data.corpus import Pair, check_split, texts_of
from deeplearn.data.tfds_records import Records

SPLITS = ("train", "validation", "test")
_CODES = """
ca cs da de dz el en-GB es et eu fi fr gl hi hu id it ja km ko nl om pl pt pt-BR ru sk sl sv tr vi
zh-CN zh-TW
"""
LANGUAGES = tuple(_CODES.split())
"""Every language but the American English that all are translated from."""


@dataclass(frozen=True)
class LibreOfficeHelp:
    """English paragraphs and their translations into some languages, such as `("de", "fr")`.

    Pages are split by a hash of their path, the same in every language; no held-out source occurs
    in training. Raises `DataError` with the command that brings a missing language.
    """

    languages: tuple[str, ...] = ("de",)
    data_dir: str | None = None

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of a split, language after language; `all` is the three splits."""
        check_split(split, (*SPLITS, "all"), "LibreOfficeHelp")
        splits = SPLITS if split == "all" else (split,)
        return [
            pair
            for language in self.languages
            for part in splits
            for pair in _pairs(language, part, self.data_dir)
        ]

    def texts(self, split: str) -> list[str]:
        """Sources and targets of a split."""
        return texts_of(self.pairs(split))


@functools.lru_cache(maxsize=128)
def _pairs(language: str, split: str, data_dir: str | None) -> list[Pair]:
    records = Records(f"libreoffice_help/{language}", split, None, data_dir)
    return [
        Pair(row["source"].decode(), row["target"].decode(), language) for row in records.rows()
    ]
