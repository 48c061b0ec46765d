"""Preflight: what is read and traced ahead of a run, and whose fault an error is."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from families import LETTERS, family, vectors

from deeplearn import preflight
from deeplearn.data.corpus import Text
from deeplearn.data.memory import Arrays
from deeplearn.data.text import Windows
from deeplearn.errors import DataError, UsageError
from deeplearn.evaluate import Evaluator
from deeplearn.experiment import EarlyStopping, Experiment
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import SGD
from deeplearn.program import Program
from deeplearn.tasks.classification import Classification


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Data that count the examples read."""

    in_memory: ClassVar[bool] = False
    source: Arrays
    read: list[int] = dataclasses.field(default_factory=list)
    digest: str = "streamed"

    @property
    def spec(self):
        return self.source.spec

    def __len__(self):
        return len(self.source)

    def gather(self, indices):
        self.read.append(len(indices))
        return self.source.gather(indices)


class Counting(Classification):
    """Counts how often its evaluation is traced."""

    traced: ClassVar[list[int]] = []

    def evaluate(self, variables, batch):
        self.traced.append(len(batch["x"]))
        return super().evaluate(variables, batch)


class Mistaken(Classification):
    """Asks for a field that no data have."""

    def evaluate(self, variables, batch):
        return {"loss": batch["z"]}


def experiment(task=Classification, **changes):
    given = {
        "name": "example",
        "task": task(MLP(hidden=(4,), outputs=3)),
        "train": vectors(20),
        "evaluation": {"validation": vectors(7), "test": vectors(9)},
        "optimizer": SGD(),
        "steps": 4,
        "batch_size": 4,
    }
    return Experiment(**{**given, **changes})


def check(experiment):
    program = Program(experiment)
    preflight.check(program, Evaluator(experiment, program.mesh))


def test_splits_of_the_same_fields_are_traced_once():
    check(experiment(Counting))
    assert Counting.traced == [7]


def test_of_data_that_stream_one_example_is_read():
    train, evaluation = Streamed(vectors(20)), Streamed(vectors(9))
    check(experiment(train=train, evaluation={"test": evaluation}))
    assert train.read == evaluation.read == [1]


def test_the_last_example_in_memory_is_found():
    label = np.zeros(9, np.int32)
    label[8] = 3
    bad = Arrays({"x": np.zeros((9, 4)), "label": label})
    with pytest.raises(DataError, match="'test', examples from 8 on: field 'label' in row 0 of"):
        check(experiment(evaluation={"test": bad}, evaluation_batch_size=4))


def test_texts_of_another_length_are_evaluated_and_their_bits_watched():
    found = dataclasses.replace(
        family("rnn"),
        evaluation={"validation": Windows(Text("ab" * 20), "all", 16, 1, LETTERS)},
        early_stopping=EarlyStopping("validation/bits_per_byte"),
    )
    check(found)
    with pytest.raises(UsageError, match="validation/bits_per_byte"):
        check(dataclasses.replace(found, early_stopping=EarlyStopping("validation/bits")))


def test_a_mistake_of_the_task_is_not_said_to_be_of_the_data():
    with pytest.raises(KeyError, match="z"):
        check(experiment(Mistaken))
