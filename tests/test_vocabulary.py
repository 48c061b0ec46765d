from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.data.vocabulary import END, SPECIALS, Bytes, Characters, Symbols
from deeplearn.errors import DataError, UsageError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SOME_SPECIALS = st.sampled_from([(), SPECIALS])
ALPHABET = "abß€\U0001f600\n "


def check(vocabulary, text):
    """Tokens are int32, ordinary and in range, and decode to the text among special ones too."""
    tokens = vocabulary.encode(text)
    special = len(vocabulary.specials)
    assert tokens.dtype == np.int32 and tokens.ndim == 1
    assert ((special <= tokens) & (tokens < vocabulary.size)).all()
    assert vocabulary.decode(tokens) == text
    framed = np.concatenate([np.arange(special), tokens, np.arange(special)])
    assert vocabulary.decode(framed) == vocabulary.decode(framed.tolist()) == text
    return tokens


@given(TEXT, SOME_SPECIALS)
def test_every_text_survives_bytes(text, specials):
    tokens = check(Bytes(specials), text)
    assert bytes((tokens - len(specials)).astype(np.uint8)) == text.encode()


@given(st.text(ALPHABET), SOME_SPECIALS)
def test_texts_of_the_alphabet_survive_characters(text, specials):
    assert len(check(Characters(ALPHABET, specials), text)) == len(text)


@given(st.lists(st.sampled_from(["AA", "B", "CH"])), SOME_SPECIALS)
def test_symbols_survive(symbols, specials):
    vocabulary = Symbols(("AA", "B", "CH"), specials)
    assert len(check(vocabulary, " ".join(symbols))) == len(symbols)
    assert vocabulary.encode(" AA\tB ").tolist() == vocabulary.encode("AA B").tolist()


def test_the_name_of_a_special_token_in_a_text_stays_text():
    assert len(Bytes(SPECIALS).encode(END)) == len(END)


def test_specials_stand_first():
    for vocabulary in (Bytes(SPECIALS), Characters("ab", SPECIALS), Symbols(("x",), SPECIALS)):
        assert [vocabulary.special(name) for name in SPECIALS] == [0, 1, 2]
    with pytest.raises(UsageError, match="no special token '<ende>'; did you mean '<end>'"):
        Bytes(SPECIALS).special("<ende>")
    with pytest.raises(UsageError, match="'<end>'; make it with specials=SPECIALS"):
        Bytes().special(END)


def test_the_alphabet_is_that_of_the_texts_in_order():
    vocabulary = Characters.of(["hello", "", "world"])
    assert vocabulary.alphabet == "dehlorw"
    assert vocabulary.encode("hello").tolist() == [2, 1, 3, 3, 4]


def test_bytes_that_are_no_text_are_replaced():
    assert Bytes().decode([0xC3, 0x28]) == "�("


def test_vocabularies_are_values_that_print_hash_and_have_a_digest():
    made = [
        Bytes(), Bytes(SPECIALS), Characters("ab"), Characters("ba"), Characters("ab", SPECIALS),
        Symbols(("a", "b")), Symbols(("a", "b"), SPECIALS),
    ]  # fmt: skip
    assert len(set(made)) == len({v.digest for v in made}) == len(made)
    for vocabulary in made:
        assert vocabulary == eval(repr(vocabulary)) and "_tokens" not in repr(vocabulary)  # noqa: S307
        vocabulary.encode("a")
        assert dataclasses.replace(vocabulary).digest == vocabulary.digest


@pytest.mark.parametrize(
    ("vocabulary", "text", "message"),
    [
        (
            Characters("abc"),
            "abxbz",
            r"character 'x' at place 2 is not among the 3 of",
        ),
        (Characters("abc"), "a\U0001f600", r"'\\?U?.*' at place 1"),
        (Characters("\U0001f600"), "\U0001f600b", "character 'b' at place 1"),
        (Characters("ac"), "ab", "character 'b' at place 1"),
        (Bytes(), "ab\ud800", "character '\\\\ud800' at place 2 has no UTF-8 form"),
        (Symbols(("AA", "CH")), "AA CHE", "symbol 'CHE' at place 1 .*; did you mean 'CH'"),
    ],
)
def test_text_outside_the_vocabulary_is_refused_by_name_and_place(vocabulary, text, message):
    with pytest.raises(DataError, match=message):
        vocabulary.encode(text)


def test_a_symbol_that_is_there_twice_is_refused():
    with pytest.raises(UsageError, match="Symbols: 'A' is there twice"):
        Symbols(("A", "B", "A"))


@pytest.mark.parametrize("vocabulary", [Bytes(), Characters("abc"), Symbols(("x",), SPECIALS)])
@pytest.mark.parametrize("beyond", [-1, 0])
def test_tokens_outside_the_vocabulary_are_refused_by_name_and_place(vocabulary, beyond):
    token = vocabulary.size if beyond == 0 else beyond
    with pytest.raises(DataError, match=f"token {token} at place 1 .* of {vocabulary.size};"):
        vocabulary.decode(np.array([0, token]))


def test_alphabets_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="'a' is twice"):
        Characters("aba")
    with pytest.raises(UsageError, match="empty"):
        Characters("")
