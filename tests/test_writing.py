"""Tokens as text, as they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.data.vocabulary import Bytes
from deeplearn.sampling.writing import texts


def chunked(tokens: list[int], size: int) -> list[np.ndarray]:
    return [np.array(tokens[at : at + size]) for at in range(0, len(tokens), size)]


# Characters of one to four bytes.
characters = st.text("a\né€𝄞", max_size=8)


@given(characters, characters, st.integers(1, 5))
def test_the_pieces_are_the_text_and_no_character_comes_in_parts(prompt, text, size):
    pieces = list(texts(prompt.encode(), chunked(list(text.encode()), size), Bytes()))
    assert "".join(pieces) == prompt + text
    assert all(pieces) and len(pieces) <= 1 + -(-len(text.encode()) // size)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_text_ends_before_the_stop_token(size):
    pieces = texts(b"a.", chunked(list(b"bc.de..."), size), Bytes(), stop=(ord("."),))
    assert "".join(pieces) == "a.bc"


@given(characters, characters, characters.filter(bool), st.integers(1, 5))
def test_the_text_ends_before_a_stop_text_behind_the_prompt(prompt, text, stop, size):
    pieces = list(
        texts(prompt.encode(), chunked(list(text.encode()), size), Bytes(), stop_text=stop)
    )
    assert "".join(pieces) == prompt + text.partition(stop)[0]
    assert all(pieces)


def test_only_what_may_become_the_stop_text_waits():
    pieces = texts(b"a\n", chunked(list(b"b\nc\n\nd"), 1), Bytes(), stop_text="\n\n")
    assert list(pieces) == ["a\n", "b", "\nc"]


def test_a_piece_comes_as_soon_as_it_is_known():
    def chunks():
        yield np.array([98])
        raise AssertionError("asked for more than was needed")

    pieces = texts(b"a", chunks(), Bytes())
    assert (next(pieces), next(pieces)) == ("a", "b")


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    assert list(texts(b"a", [np.array([0xE2])], Bytes())) == ["a", "�"]
