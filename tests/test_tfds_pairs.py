"""Pairs of a TFDS dataset, on mock data of the real shapes."""

from __future__ import annotations

import pytest
import tensorflow_datasets as tfds

from deeplearn.data.tfds_pairs import TfdsPairs
from deeplearn.errors import DataError

WMT = TfdsPairs("wmt14_translate/de-en", source="en", target="de")


@pytest.fixture
def mock(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with tfds.testing.mock_data(num_examples=5):
        yield


def test_source_and_target_are_the_languages_that_were_named(mock):
    pairs = TfdsPairs("wmt14_translate/de-en", "en", "de").pairs("train[:4]")
    other = TfdsPairs("wmt14_translate/de-en", "de", "en").pairs("train[:4]")
    assert [(pair.target, pair.source) for pair in pairs] == [pair[:2] for pair in other]
    assert {pair.language for pair in pairs} == {"de"}
    assert all(pair.source != pair.target for pair in pairs)


def test_texts_are_those_of_both_sides(mock):
    pairs = WMT.pairs("validation")
    texts = WMT.texts("validation")
    assert set(texts) == {pair.source for pair in pairs} | {pair.target for pair in pairs}


def test_a_language_that_is_not_there_is_named(mock):
    with pytest.raises(DataError, match="no feature 'fr'"):
        TfdsPairs("wmt14_translate/de-en", "en", "fr").pairs("train")


def test_a_dataset_that_is_missing_comes_with_the_command_that_prepares_it(tmp_path):
    corpus = TfdsPairs("wmt14_translate/de-en", "en", "de", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="is missing in .* run: uv run") as caught:
        corpus.pairs("train")
    assert "\n" not in str(caught.value)
