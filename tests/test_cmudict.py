from __future__ import annotations

import sys

from deeplearn.data.cmudict import LETTERS, PHONEMES, STRESSED_PHONEMES, Pronunciations, entries
from deeplearn.data.pairs import Pairs
from deeplearn.data.vocabulary import SPECIALS, Characters, Symbols

HELD_OUT = ("train", "validation", "test")
LINES = """\
read R EH1 D
read(2) R IY1 D
read(3) R IY2 D
aalborg AO1 L B AO0 R G # place, danish
a. EY1
"""


def test_variants_are_grouped_and_those_that_differ_in_stress_only_are_one():
    assert entries(LINES, stress=False) == {
        "read": ("R EH D", "R IY D"),
        "aalborg": ("AO L B AO R G",),
        "a.": ("EY",),
    }
    assert entries(LINES, stress=True)["read"] == ("R EH1 D", "R IY1 D", "R IY2 D")


def test_words_are_split_without_loss_each_on_one_side():
    parts = {split: Pronunciations().pairs(split) for split in HELD_OUT}
    words = {split: {pair.source for pair in pairs} for split, pairs in parts.items()}
    assert [len(words[split]) for split in HELD_OUT] == [113_445, 6_293, 6_314]
    assert len(set.union(*words.values())) == 126_052
    # Every variant trains; a held-out word is one example.
    assert [len(parts[split]) for split in HELD_OUT] == [121_353, 6_293, 6_314]
    assert all(pair.target in pair.references for part in parts.values() for pair in part)
    assert len(Pronunciations(stress=True).pairs("all")) == 135_164
    assert "cmudict" not in sys.modules


def test_letters_and_phonemes_are_those_of_the_words():
    assert len(PHONEMES) == 39 and len(STRESSED_PHONEMES) == 69
    for stress, symbols in ((False, PHONEMES), (True, STRESSED_PHONEMES)):
        pairs = Pronunciations(stress).pairs("all")
        assert set("".join({pair.source for pair in pairs})) == set(LETTERS)
        assert {s for pair in pairs for s in pair.target.split()} == set(symbols)


def test_pairs_of_letters_and_phonemes():
    letters, phonemes = Characters(LETTERS, SPECIALS), Symbols(PHONEMES, SPECIALS)
    pairs = Pairs(Pronunciations(), "test", letters, phonemes, 24, 24)
    assert len(pairs) == 6_314
    row = pairs.gather([5])
    assert letters.decode(row["source"][0]) == pairs.pairs[5].source
    assert phonemes.decode(row["target"][0]) in pairs.references[5]
