"""What a text model cannot work with ends a run at its start: one line and the right exit code."""

from __future__ import annotations

import re
import sys

import pytest

from deeplearn.data.corpus import Pair
from experiments import launch


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """A function that trains and returns the exit code and the line: experiment, overrides."""

    def run(experiment: str, *changes: str) -> tuple[int, str]:
        words = ["train", f"--experiment={experiment}", f"--workdir={tmp_path / 'run'}"]
        sets = [f"--set={change}" for change in changes]
        monkeypatch.setattr(sys, "argv", ["launch", *words, *sets])
        code = launch.main()
        out, err = capsys.readouterr()
        assert not out and re.fullmatch(r"error: [^\n]+\n", err), err
        assert not (tmp_path / "run" / "crash.txt").exists()
        return code, err

    return run


def sentences(language, split, data_dir):
    return [Pair(f"Choose {number}", f"{number} wählen", language) for number in range(99)]


TOKENS = "field 'tokens' in row 0 of the batch holds token"
FEW_SUBWORDS = (
    "batch_size=2",
    *(f"train.{side}_vocabulary.size_limit=300" for side in ("source", "target")),
    *(f"task.model.{side}.vocabulary=300" for side in ("encoder", "decoder")),
)


@pytest.mark.parametrize(
    ("experiment", "changes", "code", "message"),
    [
        ("rnn_shakespeare", ["task.model.vocabulary=9"], 3, TOKENS),
        (
            "transformer_shakespeare_large",
            ["train.length=257"],
            2,
            "sequences of 257 tokens exceed max_length=256 of the model; cut them or raise",
        ),
        (
            "transformer_translate",
            [*FEW_SUBWORDS, "task.model.encoder.vocabulary=9"],
            3,
            "field 'source' in row 0 of the batch holds token",
        ),
        (
            "transformer_translate",
            [*FEW_SUBWORDS, "task.model.decoder.vocabulary=9"],
            3,
            "field 'target' in row 0 of the batch holds token",
        ),
        (
            "transformer_translate",
            [*FEW_SUBWORDS, "task.model.encoder.max_length=8"],
            2,
            "sequences of 128 tokens exceed max_length=8",
        ),
        (
            "transformer_translate",
            [*FEW_SUBWORDS, "task.model.decoder.max_length=8"],
            2,
            "sequences of 127 tokens exceed max_length=8",
        ),
        ("transformer_translate", ["train.source_length=1"], 2, "must be at least 2"),
    ],
)
def test_tokens_and_lengths_that_the_model_does_not_know(
    refused, monkeypatch, experiment, changes, code, message
):
    monkeypatch.setattr("deeplearn.data.libreoffice_help._pairs", sentences)
    found, line = refused(experiment, *changes)
    assert found == code and message in line


@pytest.mark.parametrize(
    ("experiment", "reader", "empty"),
    [
        ("mamba_shakespeare", "deeplearn.data.shakespeare._text", ""),
        ("transformer_lm1b", "deeplearn.data.tfds_text._texts", []),
        ("transformer_lm1b", "deeplearn.data.tfds_text._texts", ["", ""]),
        ("transformer_translate", "deeplearn.data.libreoffice_help._pairs", []),
    ],
)
def test_a_corpus_without_text_is_named(refused, monkeypatch, experiment, reader, empty):
    monkeypatch.setattr(reader, lambda *_: empty)
    code, line = refused(experiment)
    assert code == 3 and re.search("the split 'train' of .* is empty; give more text", line)
