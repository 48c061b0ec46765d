from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.data.corpus import Documents, Text
from deeplearn.data.dataset import Sequential, Shuffled
from deeplearn.data.source import check_examples
from deeplearn.data.text import Packed, Windows, pack
from deeplearn.data.vocabulary import SPECIALS, Bytes, Characters
from deeplearn.errors import DataError, UsageError

TEXT = "".join(chr(32 + (i * i + i // 7) % 90) for i in range(500))
SMALL = st.integers(1, 12)
DOCUMENTS = st.lists(st.text("abc", max_size=9), min_size=1, max_size=12).filter(any)


@given(length=SMALL, stride=SMALL)
def test_windows_are_slices_of_the_text(length, stride):
    source = Windows(Text(TEXT), "all", length, stride)
    indices = np.arange(len(source))[::-1]
    rows = source.gather(indices)["tokens"]
    check_examples({"tokens": rows}, source.spec, indices)
    for index, row in zip(indices, rows, strict=True):
        start = index * stride
        assert Bytes().decode(row) == TEXT[start : start + length + 1]
    # One more window would run over the end.
    assert len(source) * stride + length + 1 > len(TEXT)


@given(length=SMALL)
def test_windows_of_stride_length_tile_the_text(length):
    source = Windows(Text(TEXT), "all", length, stride=length)
    rows = source.gather(np.arange(len(source)))["tokens"]
    labels = Bytes().decode(rows[:, 1:].ravel())
    assert TEXT[1:].startswith(labels) and len(TEXT) - 1 - len(labels) < length
    assert Bytes().decode(rows[:, :-1].ravel()) == TEXT[: len(labels)]


def test_training_and_validation_windows_share_no_token():
    text = Text("a" * 900 + "b" * 100)
    assert {97} == set(Windows(text, "train", 9).tokens)
    assert {98} == set(Windows(text, "validation", 9).tokens)


def test_windows_may_be_written_and_serve_datasets():
    source = Windows(Text(TEXT), "all", 8)
    batch = source.gather(np.array([3, 0]))["tokens"]
    batch[:] = 0
    assert source.tokens.all()
    with pytest.raises(ValueError, match="read-only"):
        source.tokens[0] = 1
    rows = slice(0, 4)
    assert Shuffled(source, 4, seed=0).batch(5, rows)["tokens"].shape == (4, 9)
    last = Sequential(source, 4)
    assert last.batch(last.batches - 1, rows)["mask"].sum() == (len(source) % 4 or 4)


@pytest.mark.parametrize("kind", [Windows, Packed])
def test_the_digest_follows_what_an_example_depends_on(kind):
    corpus = Text(TEXT) if kind is Windows else Documents([TEXT[:80], TEXT[80:200]])
    other = Text(TEXT[:-1] + "~") if kind is Windows else Documents([TEXT[:80], TEXT[80:201]])
    base = kind(corpus, "all", 20)
    changes = [
        dataclasses.replace(base, corpus=other),
        dataclasses.replace(base, length=21),
        dataclasses.replace(base, vocabulary=Characters.of([TEXT, "~"])),
    ]
    if kind is Windows:
        changes.append(dataclasses.replace(base, stride=2))
    digests = {change.digest for change in changes} | {base.digest}
    assert len(digests) == len(changes) + 1
    assert dataclasses.replace(base).digest == base.digest
    assert hash(base) == hash(dataclasses.replace(base)) and kind.__name__ in repr(base)


def test_bytes_per_token_count_what_the_tokens_say():
    text = "aäa" * 10
    assert Windows(Text(text), "all", 5).bytes_per_token == 1
    characters = Characters.of([text])
    assert Windows(Text(text), "all", 5, 1, characters).bytes_per_token == 40 / 30
    ended = Characters.of([text], SPECIALS)
    assert Packed(Documents([text, "ä"]), "all", 50, ended).bytes_per_token == 42 / 33


@given(documents=DOCUMENTS, length=SMALL, ended=st.booleans())
def test_packed_rows_hold_every_document_once_and_never_mix(documents, length, ended):
    vocabulary = Characters("abc", SPECIALS if ended else ())
    packed = Packed(Documents(documents), "all", length, vocabulary)
    rows = packed.gather(np.arange(len(packed)))
    check_examples(rows, packed.spec, np.arange(len(packed)))
    pieces = []
    for tokens, segments in zip(rows["tokens"], rows["segments"], strict=True):
        # Documents are numbered from 1 on without a gap, and padding stands at the end.
        used = int((segments > 0).sum())
        assert (segments[used:] == 0).all() and (tokens[used:] == 0).all() and used
        steps = np.diff(segments[:used], prepend=0)
        assert segments[0] == 1 and set(steps) <= {0, 1}
        pieces += [tokens[segments == number].tolist() for number in range(1, segments.max() + 1)]
    expected = []
    for text in filter(None, documents):
        document = [*vocabulary.encode(text).tolist(), *([2] if ended else [])]
        cuts = range(0, max(len(document) - 1, 1), length)
        expected += [document[cut : cut + length + 1] for cut in cuts]
    assert sorted(pieces) == sorted(expected)


def test_a_long_document_has_every_token_but_its_first_as_a_label_once():
    document = TEXT[:100]
    rows = Packed(Documents([document]), "all", 7).arrays
    inner = (rows["segments"][:, 1:] == rows["segments"][:, :-1]) & (rows["segments"][:, 1:] > 0)
    labels = rows["tokens"][:, 1:][inner]
    assert sorted(labels) == sorted(document[1:].encode())


@given(lengths=st.lists(SMALL, min_size=1, max_size=40))
def test_pieces_never_overlap_and_rows_are_few(lengths):
    lengths, width = np.array(lengths), 12
    rows, places, numbers = pack(lengths, width)
    taken = np.zeros((rows.max() + 1, width), int)
    for row, place, length in zip(rows, places, lengths, strict=True):
        assert place + length <= width
        taken[row, place : place + length] += 1
    assert taken.max() == 1 and taken.any(axis=1).all()
    for row in range(len(taken)):
        here = np.argsort(places[rows == row])
        assert numbers[rows == row][here].tolist() == list(range(1, len(here) + 1))
    # No two rows could be one.
    free = np.sort(width - taken.sum(axis=1))
    assert len(free) < 2 or free[-1] + free[-2] <= width


def test_packing_is_tight():
    # The piece of 4 goes to the row of 6, which it fills, and not to that of 5.
    rows, _, _ = pack(np.array([5, 6, 4]), 10)
    assert rows[2] == rows[1] != rows[0]
    rng = np.random.default_rng(0)
    documents = Documents(["x" * int(size) for size in rng.integers(1, 60, 1000)])
    assert Packed(documents, "all", 63).fill > 0.95


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: len(Windows(Text(""), "all")), "the split 'all' of Text.* is empty"),
        (
            lambda: len(Windows(Text("abc"), "validation", 3)),
            "has 1 tokens, and a window of",
        ),
        (lambda: len(Windows(Text("abc"), "all", 3)), "has 3 tokens, .* takes 4; use a shorter"),
        (lambda: len(Packed(Documents([]), "all")), "the split 'all' of Documents.* is empty"),
        (lambda: len(Packed(Documents(["", ""]), "all")), "is empty"),
        (
            lambda: len(Windows(Text("abd"), "all", 2, 1, Characters("ab"))),
            "'d' at place 2",
        ),
    ],
)
def test_corpora_that_cannot_work_are_refused(source, message):
    with pytest.raises(DataError, match=message):
        source()


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="length 0 and stride 1 must be at least 1"):
        Windows(Text("abc"), length=0)
    with pytest.raises(UsageError, match="length 0 must be at least 1"):
        Packed(Documents(["abc"]), length=0)
