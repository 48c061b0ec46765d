"""Sources of language models: windows over a running text, and documents packed into rows."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deeplearn.data.corpus import Corpus, check_found
from deeplearn.data.memory import InMemory
from deeplearn.data.source import Examples, Field
from deeplearn.data.vocabulary import END, Bytes, Vocabulary, utf8
from deeplearn.errors import DataError, UsageError


@dataclass(frozen=True)
class Windows:
    """Example i is tokens[i·stride : i·stride + length + 1] of the joined texts of a split.

    The field `tokens` (int32, (T + 1,)) holds inputs and, one further, labels. With `stride` equal
    to `length` every token but the first is a label once, save at most `length` − 1 at the end;
    with stride 1 an epoch holds every window. Raises `DataError` where the text has no window.
    """

    in_memory: ClassVar[bool] = True

    corpus: Corpus
    split: str = "train"
    length: int = 256
    stride: int = 1
    vocabulary: Vocabulary = Bytes()

    def __post_init__(self) -> None:
        if min(self.length, self.stride) < 1:
            raise UsageError(
                f"Windows: length {self.length} and stride {self.stride} must be at least 1"
            )

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """The tokens (int32) of the whole split, read-only."""
        tokens = self.vocabulary.encode(self._text)
        if len(tokens) <= self.length:
            raise DataError(
                f"the split '{self.split}' of {self.corpus} has {len(tokens)} tokens, and a window"
                f" of length {self.length} takes {self.length + 1}; use a shorter length"
            )
        tokens.flags.writeable = False
        return tokens

    @functools.cached_property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the split over its tokens: nats per token into bits per byte."""
        return len(utf8(self._text)) / len(self.tokens)

    @property
    def _text(self) -> str:
        texts = self.corpus.texts(self.split)
        check_found(texts, self.corpus, self.split)
        return "".join(texts)

    @functools.cached_property
    def _windows(self) -> np.ndarray:
        """All examples (N, T + 1) as a view of the tokens."""
        windows = np.lib.stride_tricks.sliding_window_view(self.tokens, self.length + 1)
        return windows[:: self.stride]

    @property
    def spec(self) -> dict[str, Field]:
        """The field `tokens` (int32, (T + 1,))."""
        return {"tokens": Field((self.length + 1,), "int32")}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of length, stride, vocabulary and tokens."""
        head = repr((self.length, self.stride, self.vocabulary.digest))
        return hashlib.sha256(head.encode() + self.tokens.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._windows)

    def gather(self, indices: np.ndarray) -> Examples:
        """The windows at `indices` (int64, (B,)), copied."""
        return {"tokens": self._windows[indices]}


@dataclass(frozen=True)
class Packed(InMemory):
    """Rows of length + 1 tokens, each filled with whole documents, and their segments.

    Fields: `tokens` and `segments` (int32, (T + 1,)); a row's documents are numbered from 1 on, and
    0 marks padding, which stands at the end. Where the vocabulary has the special token `<end>`,
    one ends each document. A document too long for a row becomes pieces of length + 1 tokens, each
    with a segment of its own, which begins with the last token of the piece before it: every token
    but a document's first is a label once. Raises `DataError` where the split is empty.
    """

    corpus: Corpus
    split: str = "train"
    length: int = 256
    vocabulary: Vocabulary = Bytes()

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError(f"Packed: length {self.length} must be at least 1")

    @functools.cached_property
    def spec(self) -> dict[str, Field]:
        """The fields `tokens` and `segments` (int32, (T + 1,)); no text is read for it."""
        return dict.fromkeys(("tokens", "segments"), Field((self.length + 1,), "int32"))

    def load(self) -> Mapping[str, np.ndarray]:
        """`tokens` and `segments`, (N, T + 1) each."""
        width = self.length + 1
        pieces = self._pieces
        lengths = np.array([len(piece) for piece in pieces])
        rows, places, numbers = pack(lengths, width)
        tokens = np.zeros((rows.max() + 1) * width, np.int32)
        segments = np.zeros_like(tokens)
        starts = np.cumsum(lengths) - lengths
        where = np.arange(lengths.sum()) + np.repeat(rows * width + places - starts, lengths)
        tokens[where] = np.concatenate(pieces)
        segments[where] = np.repeat(numbers, lengths)
        return {"tokens": tokens.reshape(-1, width), "segments": segments.reshape(-1, width)}

    @functools.cached_property
    def fill(self) -> float:
        """The part of all rows that is not padding."""
        return float((self.arrays["segments"] > 0).mean())

    @functools.cached_property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the split over the tokens of its documents."""
        size = sum(len(utf8(text)) for text in self.corpus.texts(self.split))
        return size / sum(map(len, self._documents))

    @functools.cached_property
    def _documents(self) -> list[np.ndarray]:
        """The tokens of the documents, each with its end; empty ones are left out."""
        texts = self.corpus.texts(self.split)
        check_found(texts, self.corpus, self.split)
        ended = END in self.vocabulary.specials
        end = np.array([self.vocabulary.special(END)] if ended else [], np.int32)
        return [np.concatenate([self.vocabulary.encode(text), end]) for text in texts if text]

    @property
    def _pieces(self) -> list[np.ndarray]:
        """The documents, long ones cut into pieces that overlap by a token."""
        return [
            document[start : start + self.length + 1]
            for document in self._documents
            for start in range(0, max(len(document) - 1, 1), self.length)
        ]


def pack(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, place in the row and number within the row (from 1 on) of pieces of some lengths.

    Best fit decreasing: each piece, longest first, goes where it leaves the least space (Johnson,
    "Near-optimal bin packing algorithms", 1973). The free space of rows is kept as the bits of one
    integer, so that a piece finds its row in one step. All lengths must be in [1, width].
    """
    rows, places, numbers = (np.zeros(len(lengths), np.int64) for _ in range(3))
    open_rows: list[list[int]] = [[] for _ in range(width + 1)]  # by free space
    counts: list[int] = []
    spaces = 0
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[piece])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[space].pop()
            if not open_rows[space]:
                spaces &= ~(1 << space)
        else:
            space, row = width, len(counts)
            counts.append(0)
        counts[row] += 1
        rows[piece], places[piece], numbers[piece] = row, width - space, counts[row]
        if space > length:
            open_rows[space - length].append(row)
            spaces |= 1 << (space - length)
    return rows, places, numbers
