from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.data.corpus import Documents, Pair, Text, TextPairs
from deeplearn.data.split import text_places
from deeplearn.errors import DataError, UsageError
from deeplearn.experiment import record

HELD_OUT = ("train", "validation", "test")
PLACES = [0.7058483037031942, 0.18460693099188663, 0.225100241342017]
WORDS = [f"document {i}" for i in range(200)]


@given(st.text())
def test_a_running_text_is_cut_once(content):
    text = Text(content)
    (train,), (validation,), (whole,) = map(text.texts, ("train", "validation", "all"))
    assert train + validation == whole == content
    assert len(train) == int(len(content) * 0.9)


@given(st.lists(st.text(max_size=3)))
def test_documents_are_split_without_loss_and_equal_ones_together(contents):
    documents = Documents(contents)
    parts = [documents.texts(split) for split in HELD_OUT]
    assert sorted(sum(parts, [])) == sorted(contents) == sorted(documents.texts("all"))
    assert sum(len(set(part)) for part in parts) == len(set(contents))


def test_neither_order_nor_other_documents_move_a_document():
    test = set(Documents(WORDS).texts("test"))
    assert 0 < len(test) < 30
    assert set(Documents(WORDS[::-1][:150]).texts("test")) == test & set(WORDS[50:])


def test_the_places_of_texts_are_fixed_forever():
    assert text_places(["", "a", "ä"]).tolist() == PLACES


def test_pairs_are_split_by_their_source():
    pairs = [(word, f"{word} {i}", "de") for word in WORDS for i in range(2)]
    corpus = TextPairs(pairs)
    parts = [corpus.pairs(split) for split in HELD_OUT]
    assert sorted(sum(parts, [])) == sorted(Pair(*pair) for pair in pairs)
    assert sum(len({pair.source for pair in part}) for part in parts) == len(WORDS)
    assert all(len(part) == 2 * len({pair.source for pair in part}) for part in parts)
    assert corpus.texts("test")[:2] == list(parts[2][0][:2])


@pytest.mark.parametrize("corpus", [Text("abc" * 99), Documents(WORDS), TextPairs([("a", "b")])])
def test_corpora_hash_print_briefly_and_are_recorded_by_hash(corpus):
    assert repr(corpus) == f"{type(corpus).__name__}()"
    assert hash(corpus) == hash(corpus) and corpus == corpus
    (content,) = [value for key, value in record(corpus).items() if key != "type"]
    assert set(content) == {"shape", "dtype", "sha256"}
    with pytest.raises(UsageError, match="has no split 'trian'; did you mean 'train'"):
        corpus.texts("trian")


def test_a_text_is_no_list_of_documents():
    with pytest.raises(UsageError, match="give one running text to Text"):
        Documents("abc")


@pytest.mark.parametrize(
    ("corpus", "contents", "message"),
    [
        (Text, ["a", "b"], "the content is list; give one str, or a list of them to Documents"),
        (Text, b"abc", "the content is bytes"),
        (Documents, ["a", None], "row 1 is None; give texts"),
        (TextPairs, [("a", "b"), ("a", 1)], r"row 1 is \['a', 1\]"),
    ],
)
def test_what_is_no_text_is_named(corpus, contents, message):
    with pytest.raises(DataError, match=message):
        corpus(contents)


def test_an_array_of_texts_is_a_list_of_texts():
    texts = ["to be", "or not"]
    assert Documents(np.array(texts)).texts("all") == Documents(texts).texts("all") == texts
