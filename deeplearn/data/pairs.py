"""The source of sequence-to-sequence models: a text and what it becomes, as padded tokens."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deeplearn.data.corpus import Pair, PairCorpus, check_found
from deeplearn.data.memory import InMemory
from deeplearn.data.text import pack
from deeplearn.data.vocabulary import BEGIN, END, PAD, Vocabulary
from deeplearn.errors import DataError, UsageError, did_you_mean

TOO_LONG = ("drop", "refuse")


@dataclass(frozen=True)
class Pairs(InMemory):
    """The pairs of a split, as the fields `source` (int32, (S,)) and `target` (int32, (T + 1,)).

    The source ends with `<end>`; the target begins with `<begin>` and ends with `<end>`, so that
    its first T are the decoder's inputs and its last T the labels; both are padded with token 0.
    With `language_token` the source begins with the special token `<xx>` of the target's language
    xx, so that one model serves several (Johnson et al., "Google's multilingual neural machine
    translation system", 2017). Pairs that need more tokens than `source_length` S or
    `target_length` T are dropped and counted in `dropped`, or refused. Raises `DataError` where no
    pair is left, or one is refused.
    """

    corpus: PairCorpus
    split: str
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    source_length: int
    target_length: int
    language_token: bool = False
    too_long: str = "drop"

    def __post_init__(self) -> None:
        for side in (self.source_vocabulary, self.target_vocabulary):
            if side.specials[:1] != (PAD,):
                raise UsageError(
                    f"Pairs pads with token 0, and token 0 of {side} is not '{PAD}'; make the"
                    " vocabulary with specials=SPECIALS"
                )
        if min(self.source_length, self.target_length) < 2:
            raise UsageError("Pairs: source_length and target_length must be at least 2")
        if self.too_long not in TOO_LONG:
            hint = did_you_mean(self.too_long, TOO_LONG)
            raise UsageError(f"Pairs: unknown too_long '{self.too_long}'{hint}")

    def load(self) -> Mapping[str, np.ndarray]:
        """`source` (N, S) and `target` (N, T + 1)."""
        _, sources, targets = self._kept
        return {
            "source": padded(sources, self.source_length),
            "target": padded(targets, self.target_length + 1),
        }

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

    @functools.cached_property
    def _kept(self) -> tuple[tuple[Pair, ...], list[np.ndarray], list[np.ndarray]]:
        """The pairs within the limits, and their tokens."""
        kept: list[Pair] = []
        sources: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        for place, pair in enumerate(self._all):
            source, target = self.encode_source(pair.source, pair.language), self._target(pair)
            if len(source) <= self.source_length and len(target) <= self.target_length + 1:
                kept.append(pair)
                sources.append(source)
                targets.append(target)
            elif self.too_long == "refuse":
                raise DataError(
                    f"pair {place} of {self.corpus} has {len(source)} and {len(target) - 1} tokens,"
                    f" more than source_length {self.source_length} or target_length"
                    f" {self.target_length}; raise them or use too_long='drop'"
                )
        if not kept:
            raise DataError(
                f"all {len(self._all)} pairs of the split '{self.split}' of {self.corpus} exceed"
                f" {self.source_length} or {self.target_length} tokens; raise the limits"
            )
        return tuple(kept), sources, targets

    def encode_source(self, text: str, language: str = "") -> np.ndarray:
        """The tokens (int32) of a source as the model reads them, without padding."""
        vocabulary = self.source_vocabulary
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
        width = max(self.source_length, self.target_length + 1)
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
