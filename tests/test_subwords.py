from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplearn.data.subwords import BPE, LearnedBPE, train_bpe
from deeplearn.data.vocabulary import END, SPECIALS
from deeplearn.errors import DataError, UsageError

TEXTS = ["to be or not to be", "that is the question", "be that as it may, to be is to be"] * 3


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> BPE:
    return train_bpe(TEXTS, 280, tmp_path_factory.mktemp("bpe") / "tokenizer.json", SPECIALS)


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(TEXTS))
def test_every_text_survives(learned, text):
    tokens = learned.encode(text)
    assert tokens.dtype == np.int32 and ((tokens >= 3) & (tokens < learned.size)).all()
    assert learned.decode(tokens) == text
    assert learned.decode([1, *tokens, 2, 0, 0]) == text


def test_subwords_shorten_what_they_were_learned_from(learned):
    assert len(learned.encode(TEXTS[0])) <= len(TEXTS[0]) / 2
    assert 260 < learned.size <= 280


def test_learning_is_deterministic_and_depends_on_the_texts(tmp_path):
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    made = [
        train_bpe(texts, 280, path, SPECIALS)
        for texts, path in zip((TEXTS, TEXTS, [t.upper() for t in TEXTS]), paths, strict=True)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert made[0].digest == made[1].digest != made[2].digest


def test_specials_stand_first_and_never_come_from_text(learned):
    assert learned.specials == SPECIALS
    assert [learned.special(name) for name in SPECIALS] == [0, 1, 2]
    assert learned.decode(learned.encode(f"be {END} be")) == f"be {END} be"
    with pytest.raises(UsageError, match="no special token '<de>'"):
        learned.special("<de>")


def test_a_vocabulary_learned_from_a_corpus_sees_its_training_split_only(learned):
    class Corpus:
        def texts(self, split: str) -> list[str]:
            return TEXTS if split == "train" else ["zebra"] * 9

    corpus = Corpus()
    vocabulary = LearnedBPE(corpus, 280, SPECIALS)
    assert vocabulary.digest == learned.digest
    assert vocabulary.tokenizer is LearnedBPE(corpus, 280, SPECIALS).tokenizer


def test_the_special_tokens_of_a_learned_vocabulary_are_known_before_it_is_learned(learned):
    vocabulary = LearnedBPE(None, 280, SPECIALS)  # without a corpus nothing can be learned
    assert [vocabulary.special(name) for name in SPECIALS] == [0, 1, 2]
    assert [learned.special(name) for name in SPECIALS] == [0, 1, 2]
    assert vocabulary.size == 280
    with pytest.raises(UsageError, match="no special token '<de>'"):
        vocabulary.special("<de>")


def test_numbers_without_a_subword_are_left_out():
    class Corpus:
        def texts(self, split: str) -> list[str]:
            return TEXTS

    vocabulary = LearnedBPE(Corpus(), 9999, SPECIALS)
    assert vocabulary.tokenizer.get_vocab_size() < 9998
    assert vocabulary.decode([*vocabulary.encode("to be"), 9998]) == "to be"
    with pytest.raises(DataError, match="token 9999 at place 0"):
        vocabulary.decode([9999])


def test_vocabularies_hash_print_and_copy(learned):
    assert {learned, BPE(learned.path)} == {learned}
    assert repr(learned) == f"BPE(path={learned.path!r})"
    assert copy.deepcopy(learned).digest == learned.digest


def test_what_a_file_cuts_and_fills_is_whole(tmp_path, learned):
    tokenizer = copy.deepcopy(learned.tokenizer)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    path = tmp_path / "cut.json"
    path.write_text(tokenizer.to_str())
    for text in ("a", TEXTS[0] * 3):
        np.testing.assert_array_equal(BPE(str(path)).encode(text), learned.encode(text))


def test_files_and_sizes_that_cannot_work_are_refused(tmp_path, learned):
    with pytest.raises(DataError, match="no tokenizer at .*absent.json"):
        BPE(str(tmp_path / "absent.json")).encode("a")
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(DataError, match="broken.json is no tokenizer.json"):
        BPE(str(broken)).encode("a")
    with pytest.raises(UsageError, match="give at least 259"):
        train_bpe(TEXTS, 258, tmp_path / "small.json", SPECIALS)
    with pytest.raises(DataError, match="token 9999 at place 1"):
        learned.decode([5, 9999])
    with pytest.raises(DataError, match="at place 1 has no UTF-8 form"):
        learned.encode("a\ud800")
