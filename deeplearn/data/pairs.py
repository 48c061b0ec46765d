"""The source of sequence-to-sequence models: a text and what it becomes, as padded tokens."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deeplearn.data.corpus import Pair, PairCorpus, check_found
from deeplearn.data.memory import InMemory
from deeplearn.data.text import pack
from deeplearn.data.vocabulary import BEGIN, END, SPECIALS, Vocabulary
from deeplearn.errors import DataError, UsageError, did_you_mean

TOO_LONG = ("refuse", "drop")


@dataclass(frozen=True)
class Pairs(InMemory):
    """The pairs of a split, as the fields `source` (int32, (S,)) and `target` (int32, (T + 1,)).

    The source ends with `<end>`; the target begins with `<begin>` and ends with `<end>`, so that
    its first T are the decoder's inputs and its last T the labels; both are padded with token 0.
    With `language_token` the source begins with the special token `<xx>` of the target's language
    xx, so that one model serves several (Johnson et al., "Google's multilingual neural machine
    translation system", 2017). `source_length` S and `target_length` T are None for as many tokens
    as the longest pair needs. Longer pairs are refused, so that no evaluation loses them silently;
    with `too_long="drop"`, for training, they are left out and counted in `dropped`. Raises
    `DataError` where pairs are refused, or none is left.
    """

    corpus: PairCorpus
    split: str
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    source_length: int | None = None
    target_length: int | None = None
    language_token: bool = False
    too_long: str = "refuse"

    def __post_init__(self) -> None:
        for side in (self.source_vocabulary, self.target_vocabulary):
            numbers = [side.special(name) for name in SPECIALS if name in side.specials]
            if numbers != [0, 1, 2]:
                raise UsageError(
                    f"Pairs needs {', '.join(SPECIALS)} as tokens 0, 1 and 2, which those of {side}"
                    " are not; make the vocabulary with specials=SPECIALS"
                )
        if any(limit is not None and limit < 2 for limit in self._limits):
            raise UsageError("Pairs: source_length and target_length must be at least 2, or None")
        if self.too_long not in TOO_LONG:
            hint = did_you_mean(self.too_long, TOO_LONG)
            raise UsageError(f"Pairs: unknown too_long '{self.too_long}'{hint}")

    def load(self) -> Mapping[str, np.ndarray]:
        """`source` (N, S) and `target` (N, T + 1)."""
        _, sources, targets = self._kept
        source_length, target_length = self.lengths
        return {
            "source": padded(sources, source_length),
            "target": padded(targets, target_length + 1),
        }

    @property
    def lengths(self) -> tuple[int, int]:
        """S and T; the pairs are read where one of them is that of the longest."""
        source, target = self._limits
        if source is not None and target is not None:
            return source, target
        _, sources, targets = self._kept
        return source or max(map(len, sources)), target or max(map(len, targets)) - 1

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The texts of the examples, in their order."""
        return self._kept[0]

    @property
    def references(self) -> tuple[tuple[str, ...], ...]:
        """Every right target of each example, in their order."""
        return tuple(pair.references or (pair.target,) for pair in self.pairs)

    @property
    def dropped(self) -> int:
        """How many pairs of the split were too long."""
        return len(self._all) - len(self.pairs)

    @functools.cached_property
    def _all(self) -> Sequence[Pair]:
        pairs = self.corpus.pairs(self.split)
        check_found(pairs, self.corpus, self.split)
        return pairs

    @property
    def _limits(self) -> tuple[int | None, int | None]:
        return self.source_length, self.target_length

    @functools.cached_property
    def _kept(self) -> tuple[tuple[Pair, ...], list[np.ndarray], list[np.ndarray]]:
        """The pairs within the limits, and their tokens."""
        sources = [self.encode_source(pair.source, pair.language) for pair in self._all]
        targets = [self._target(pair) for pair in self._all]
        lengths = np.array([[len(s), len(t) - 1] for s, t in zip(sources, targets, strict=True)])
        limits = [np.inf if limit is None else limit for limit in self._limits]
        kept = np.flatnonzero((lengths <= [limits]).all(axis=1)).tolist()
        if len(kept) < len(lengths) and (self.too_long == "refuse" or not len(kept)):
            source, target = lengths.max(axis=0)
            raise DataError(
                f"{len(lengths) - len(kept)} of {len(lengths)} pairs of the split '{self.split}' of"
                f" {self.corpus} exceed source_length {self.source_length} or target_length"
                f" {self.target_length}, and the longest need {source} and {target} tokens; raise"
                " them, or leave these pairs out by too_long='drop'"
            )
        return (
            tuple(self._all[place] for place in kept),
            [sources[place] for place in kept],
            [targets[place] for place in kept],
        )

    def encode_source(self, text: str, language: str = "") -> np.ndarray:
        """The tokens (int32) of a source as the model reads them, without padding."""
        vocabulary = self.source_vocabulary
        if self.language_token and f"<{language}>" in SPECIALS:
            raise UsageError(f"'{language}' is no language: <{language}> is a mark of every text")
        start = [vocabulary.special(f"<{language}>")] if self.language_token else []
        return _joined(start, vocabulary.encode(text), [vocabulary.special(END)])

    def _target(self, pair: Pair) -> np.ndarray:
        vocabulary = self.target_vocabulary
        tokens = vocabulary.encode(pair.target)
        return _joined([vocabulary.special(BEGIN)], tokens, [vocabulary.special(END)])


@dataclass(frozen=True)
class PackedPairs(Pairs):
    """Pairs packed into rows, both sides W = max(S, T + 1) wide: hardly a place is padding.

    Beside `source` and `target` there are `source_segments` and `target_segments` of their shapes:
    the pairs of a row are numbered from 1 on, 0 marks padding. Train with these; `pairs` and
    `references` go by pair, not by row.
    """

    def load(self) -> Mapping[str, np.ndarray]:
        """`source`, `target` and the segments of both, all (N, W)."""
        _, *sides = self._kept
        source_length, target_length = self.lengths
        width = max(source_length, target_length + 1)
        lengths = np.max([[len(tokens) for tokens in side] for side in sides], axis=0)
        rows, places, numbers = pack(lengths, width)
        fields: dict[str, np.ndarray] = {}
        for name, side in zip(("source", "target"), sides, strict=True):
            tokens = np.zeros((rows.max() + 1, width), np.int32)
            segments = np.zeros_like(tokens)
            for row, place, number, piece in zip(rows, places, numbers, side, strict=True):
                tokens[row, place : place + len(piece)] = piece
                segments[row, place : place + len(piece)] = number
            fields |= {name: tokens, f"{name}_segments": segments}
        return fields


def _joined(*parts: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Rows of tokens as (N, width), filled with 0."""
    filled = np.zeros((len(rows), width), np.int32)
    for row, tokens in zip(filled, rows, strict=True):
        row[: len(tokens)] = tokens
    return filled
