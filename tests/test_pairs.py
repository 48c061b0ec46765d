from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.data.corpus import Pair, TextPairs
from deeplearn.data.pairs import PackedPairs, Pairs
from deeplearn.data.source import check_examples
from deeplearn.data.vocabulary import BEGIN, END, PAD, SPECIALS, Bytes, Characters
from deeplearn.errors import DataError, UsageError

LOWER = Characters("abc", SPECIALS)
UPPER = Characters("ABC", (*SPECIALS, "<de>"))
TEXTS = st.lists(
    st.tuples(st.text("abc", max_size=8), st.text("ABC", max_size=8)), min_size=1, max_size=9
)


def source(pairs, **changes) -> Pairs:
    return Pairs(TextPairs(pairs), "all", LOWER, UPPER, 6, 5, **changes)


@given(TEXTS)
def test_pairs_within_the_limits_survive_and_the_others_are_counted(pairs):
    fitting = [pair for pair in pairs if len(pair[0]) + 1 <= 6 and len(pair[1]) + 1 <= 5]
    if len(fitting) < len(pairs):
        with pytest.raises(DataError, match=f"{len(pairs) - len(fitting)} of {len(pairs)} pairs"):
            len(source(pairs))
    made = source(pairs, too_long="drop")
    if not fitting:
        with pytest.raises(DataError, match="raise them"):
            len(made)
        return
    assert made.dropped == len(pairs) - len(fitting)
    assert made.pairs == tuple(Pair(*pair) for pair in fitting)
    rows = made.gather(np.arange(len(made)))
    check_examples(rows, made.spec, np.arange(len(made)))
    assert rows["source"].shape[1] == 6 and rows["target"].shape[1] == 6
    for (text, target), read, written in zip(fitting, rows["source"], rows["target"], strict=True):
        assert LOWER.decode(read) == text and UPPER.decode(written) == target
        assert read[len(text)] == 2 and (read[len(text) + 1 :] == 0).all()
        assert written[0] == 1 and written[len(target) + 1] == 2
        assert (written[len(target) + 2 :] == 0).all()


def test_without_limits_every_pair_is_there_and_the_longest_fills_its_row():
    pairs = [("ab", "ABCABCABC"), ("abcabcabcabc", "A"), ("c", "")]
    made = Pairs(TextPairs(pairs), "all", LOWER, UPPER)
    assert made.dropped == 0 and len(made) == 3 and made.lengths == (13, 10)
    assert made.spec["source"].shape == (13,) and made.spec["target"].shape == (11,)
    assert (made.arrays["source"] > 0).all(axis=1).tolist() == [False, True, False]
    assert (made.arrays["target"] > 0).all(axis=1).tolist() == [True, False, False]
    short = dataclasses.replace(made, target_length=5, too_long="drop")
    assert short.dropped == 1 and short.lengths == (13, 5)
    packed = PackedPairs(TextPairs(pairs), "all", LOWER, UPPER)
    assert packed.arrays["source"].shape == packed.arrays["target"].shape == (2, 13)


def test_the_language_of_the_target_begins_the_source():
    pairs = [("ab", "AB", "de"), ("c", "C", "de")]
    vocabulary = Characters("abc", (*SPECIALS, "<de>", "<fr>"))
    made = dataclasses.replace(source(pairs), source_vocabulary=vocabulary, language_token=True)
    assert made.arrays["source"].tolist() == [[3, 5, 6, 2, 0, 0], [3, 7, 2, 0, 0, 0]]
    assert made.encode_source("c", "fr").tolist() == [4, 7, 2]
    with pytest.raises(UsageError, match="no special token '<es>'"):
        made.encode_source("c", "es")
    with pytest.raises(UsageError, match="'end' is no language"):
        made.encode_source("c", "end")


def test_references_are_all_right_targets():
    @dataclasses.dataclass(frozen=True)
    class Corpus:
        def pairs(self, split):
            return [Pair("a", "A", references=("A", "B")), Pair("b", "B")]

    made = dataclasses.replace(source([("a", "A")]), corpus=Corpus())
    assert made.references == (("A", "B"), ("B",))


def test_the_digest_follows_the_pairs_and_their_tokens():
    base = source([("ab", "AB"), ("c", "C")])
    others = [
        source([("ab", "AB"), ("c", "CC")]),
        dataclasses.replace(base, source_length=7),
        dataclasses.replace(base, source_vocabulary=Characters("cba", SPECIALS)),
    ]
    assert len({other.digest for other in others} | {base.digest}) == 4
    assert source([("ab", "AB"), ("c", "C")]).digest == base.digest
    assert hash(base) == hash(dataclasses.replace(base)) and "TextPairs()" in repr(base)


def test_what_is_no_pair_is_named():
    for wrong in ("ab", 1, ("a",), ("a", "b", "c", "d")):
        with pytest.raises(DataError, match="TextPairs: row 1 is"):
            TextPairs([("a", "A"), wrong])


def test_what_cannot_work_is_refused():
    pairs = [("ab", "AB"), ("abcabc", "A")]
    with pytest.raises(DataError, match="1 of 2 pairs of .* exceed .* 6 or .* need 7 and 3 tokens"):
        len(source(pairs))
    with pytest.raises(UsageError, match="unknown too_long 'dorp'; did you mean 'drop'"):
        source(pairs, too_long="dorp")
    with pytest.raises(UsageError, match="those of Bytes.* are not"):
        Pairs(TextPairs(pairs), "all", Bytes(), UPPER, 6, 5)
    for marks in ((PAD, END, BEGIN), (PAD, BEGIN)):
        with pytest.raises(UsageError, match="those of Characters.* are not"):
            Pairs(TextPairs(pairs), "all", Characters("abc", marks), UPPER, 6, 5)
    with pytest.raises(UsageError, match="must be at least 2"):
        Pairs(TextPairs(pairs), "all", LOWER, UPPER, 1, 5)
    with pytest.raises(DataError, match="the split 'all' of TextPairs.* is empty"):
        len(source([]))
    with pytest.raises(DataError, match="character 'x' at place 1"):
        len(source([("ax", "A")]))


@given(TEXTS)
def test_packed_rows_hold_every_pair_once_and_whole(pairs):
    made = PackedPairs(TextPairs(pairs), "all", LOWER, UPPER, 9, 12)
    rows = made.arrays
    found = []
    for row in range(len(made)):
        for number in range(1, rows["source_segments"][row].max() + 1):
            read, written = (
                rows[name][row][rows[f"{name}_segments"][row] == number]
                for name in ("source", "target")
            )
            assert read[-1] == 2 and written[0] == 1 and written[-1] == 2
            found.append((LOWER.decode(read), UPPER.decode(written)))
    assert sorted(found) == sorted(pairs)
    for name in ("source", "target"):
        assert ((rows[name] > 0) == (rows[f"{name}_segments"] > 0)).all()
