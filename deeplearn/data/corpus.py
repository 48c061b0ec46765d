"""Corpora: the texts, or pairs of texts, of a split, before any vocabulary sees them.

A corpus is a frozen dataclass: one of the three here, which hold the user's own text, or a named
one such as `shakespeare.Shakespeare`. Documents and pairs are split by a hash of their content, so
that equal ones are never on both sides; a running text is split by place. The split `all` is the
whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from deeplearn.data.split import text_places
from deeplearn.errors import DataError, UsageError, did_you_mean

PLACES = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0), "all": (0.0, 1.0)}
"""Split → the range of places that it takes, for corpora of documents and pairs."""

HELD_OUT = 0.1
"""The part of a running text, its last, that validates."""


class Pair(NamedTuple):
    """A text and what it becomes."""

    source: str
    target: str
    language: str = ""
    """That of the target, where a corpus has several."""
    references: tuple[str, ...] = ()
    """Every right target where there are several, of which `target` is one."""


class Corpus(Hashable, Protocol):
    """Texts by split."""

    def texts(self, split: str) -> Sequence[str]:
        """The documents of a split, or every text of its pairs."""
        ...


class PairCorpus(Corpus, Protocol):
    """Pairs by split."""

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of a split."""
        ...


@dataclass(frozen=True, eq=False)
class Text:
    """A running text of the user's: `Text(path.read_text())`; its last tenth validates."""

    content: str | np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.content, str | np.ndarray):
            raise DataError(
                f"Text: the content is {type(self.content).__name__}; give one str, or a list of"
                " them to Documents"
            )
        object.__setattr__(self, "content", _kept(self.content))

    def texts(self, split: str) -> tuple[str]:
        """The part of the text that a split takes."""
        return (running_part(_read(self.content), split, "Text"),)


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents of the user's, each on the side that its hash decides: `Documents([a, b, …])`."""

    contents: Sequence[str] | np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.contents, str):
            raise UsageError("Documents takes a list of texts; give one running text to Text")
        object.__setattr__(self, "contents", _kept(self.contents))
        for row, document in enumerate(_read(self.contents)):
            if not isinstance(document, str):
                raise DataError(f"Documents: row {row} is {document!r}; give texts")

    def texts(self, split: str) -> list[str]:
        """The documents of a split, in the given order."""
        documents = _read(self.contents)
        return [documents[index] for index in chosen(documents, split, "Documents")]


@dataclass(frozen=True, eq=False)
class TextPairs:
    """Pairs of the user's, split by a hash of the source: `TextPairs([(source, target), …])`.

    A third item of a pair names the language of the target.
    """

    contents: Sequence[tuple[str, ...]] | np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "contents", _kept(self.contents))
        for row, items in enumerate(_read(self.contents)):
            is_pair = isinstance(items, list) and len(items) in (2, 3)
            if not is_pair or not all(isinstance(item, str) for item in items):
                raise DataError(
                    f"TextPairs: row {row} is {items!r}; give (source, target), or a language too"
                )

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of a split, in the given order."""
        pairs = [Pair(*items) for items in _read(self.contents)]
        return [pairs[index] for index in chosen([p.source for p in pairs], split, "TextPairs")]

    def texts(self, split: str) -> list[str]:
        """Sources and targets of a split."""
        return texts_of(self.pairs(split))


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """The source and the target of every pair."""
    return [text for pair in pairs for text in pair[:2]]


def running_part(text: str, split: str, name: str) -> str:
    """All but the last tenth (train), the last tenth (validation), or all of a text."""
    cut = int(len(text) * (1 - HELD_OUT))
    parts = {"train": slice(cut), "validation": slice(cut, None), "all": slice(None)}
    check_split(split, parts, name)
    return text[parts[split]]


def chosen(keys: Sequence[str], split: str, name: str) -> np.ndarray:
    """The indices (int64) of the keys whose places a split takes."""
    check_split(split, PLACES, name)
    start, stop = PLACES[split]
    place = text_places(keys)
    return np.flatnonzero((start <= place) & (place < stop))


def check_split(split: str, splits: Collection[str], name: str) -> None:
    """Raises `UsageError` for a split that a corpus does not have."""
    if split not in splits:
        raise UsageError(f"corpus {name} has no split '{split}'{did_you_mean(split, splits)}")


def check_found(texts: Sequence, corpus: Corpus, split: str) -> None:
    """Raises `DataError` where a split holds nothing."""
    if not any(map(len, texts)):
        raise DataError(f"the split '{split}' of {corpus} is empty; give more text or split='all'")


def _kept(content: Iterable[Any] | np.ndarray) -> np.ndarray:
    """The content as bytes of JSON: a record of an experiment then holds its hash, not the text."""
    if isinstance(content, np.ndarray):
        if content.dtype == np.uint8:
            return content
        content = content.tolist()
    items = content if isinstance(content, str) else list(content)
    return np.frombuffer(json.dumps(items).encode(), np.uint8)


def _read(content: object) -> Any:
    return json.loads(np.asarray(content).tobytes())
