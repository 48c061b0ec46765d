"""Documents of a TFDS dataset, on mock data of the real shapes."""

from __future__ import annotations

import pytest
import tensorflow_datasets as tfds

from deeplearn.data import tfds_text
from deeplearn.data.tfds_records import Records
from deeplearn.data.tfds_text import TfdsText
from deeplearn.errors import DataError


@pytest.fixture
def mock(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    # What was read is kept by name: another test may have read another mock.
    tfds_text._texts.cache_clear()
    with tfds.testing.mock_data(num_examples=5):
        yield
    tfds_text._texts.cache_clear()


@pytest.mark.parametrize(("name", "split"), [("lm1b", "test"), ("c4/realnewslike", "validation")])
def test_texts_are_those_of_the_records_in_their_order(mock, name, split):
    texts = TfdsText(name).texts(split)
    records = Records(name, split, None, None)
    assert texts == [row["text"] for row in records.rows()]
    assert len(set(texts)) == 5


def test_another_feature_may_hold_the_text(mock):
    corpus = TfdsText("c4/realnewslike", feature="url")
    assert corpus.texts("train") != TfdsText("c4/realnewslike").texts("train")
    with pytest.raises(DataError, match="no feature 'txt'; did you mean 'text'"):
        TfdsText("lm1b", feature="txt").texts("train")


@pytest.mark.parametrize("value", [7, b"caf\xe9"])
def test_what_is_no_text_is_refused(mock, value):
    records = Records("lm1b", "train", None, None)
    assert records.text({"text": "café".encode()}, "text") == "café"
    with pytest.raises(DataError, match="feature 'text' of lm1b/train holds .*no text in UTF-8"):
        records.text({"text": value}, "text")


def test_a_dataset_that_is_missing_comes_with_the_command_that_prepares_it(tmp_path):
    for name in ("lm1b", "c4/realnewslike"):
        with pytest.raises(DataError, match="is missing in .* run: uv run") as caught:
            TfdsText(name, data_dir=str(tmp_path)).texts("train")
        assert "\n" not in str(caught.value)
