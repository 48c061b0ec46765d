"""The experiment record: validation, its JSON form, and differences."""

import dataclasses
import json
import re

import numpy as np
import pytest

from deeplearn.data.memory import Arrays
from deeplearn.errors import DataError, UsageError
from deeplearn.experiment import EarlyStopping, Experiment, differences, record
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import AdamW
from deeplearn.tasks.classification import Classification


def make(**changes):
    data = Arrays({"x": np.zeros((8, 4), np.float32), "label": np.zeros(8, np.int32)})
    fields = {
        "name": "example",
        "task": Classification(MLP(hidden=(4,), outputs=3)),
        "train": data,
        "evaluation": {"test": data},
        "optimizer": AdamW(),
        "steps": 100,
        "log_every": 10,
    }
    return Experiment(**{**fields, **changes})


def test_the_record_is_json_and_names_every_field():
    text = json.dumps(record(make()), allow_nan=False)
    stored = json.loads(text)
    assert set(stored) == {field.name for field in dataclasses.fields(Experiment)} | {"type"}
    assert stored["task"]["model"]["type"] == "deeplearn.models.mlp.MLP"
    assert stored["task"]["model"]["hidden"] == [4]
    assert "parent" not in stored["task"]["model"]


def test_the_record_sees_every_change():
    same = differences(record(make()), record(make()))
    assert same == []
    other = make(task=Classification(MLP(hidden=(5,), outputs=3)), steps=200)
    assert differences(record(make()), record(other)) == [
        ("task.model.hidden", [4], [5]),
        ("steps", 100, 200),
    ]
    arrays = make(train=Arrays({"x": np.ones((8, 4), np.float32)}))
    assert "train.fields.x.sha256" in [
        path for path, *_ in differences(record(make()), record(arrays))
    ]


def test_the_record_refuses_what_it_cannot_write():
    with pytest.raises(UsageError, match="function"):
        record(make(augment=(lambda examples, draw: examples,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch_size": -1}, "batch_size=-1 must be at least 1"),
        ({"seed": -1}, "seed=-1"),
        ({"skip_limit": -1}, "skip_limit=-1"),
        ({"steps_per_call": 3}, "must be a multiple of steps_per_call=3"),
        ({"microbatches": 7}, "batch_size=64 must be a multiple of microbatches=7"),
        ({"per_device": True, "rules": (("kernel", "fsdp"),)}, "must be empty with per_device"),
        ({"early_stopping": EarlyStopping("dev/loss")}, "SPLIT/NAME with a split of: test"),
        ({"early_stopping": EarlyStopping("test/loss", "least")}, "must be min or max"),
        ({"early_stopping": EarlyStopping("test/loss", patience=0)}, "at least 1"),
        ({"evaluation": {"train": make().train}}, "an evaluation split cannot be called 'train'"),
        ({"optimizer": AdamW(learning_rate=float("nan"))}, "learning_rate"),
        ({"optimizer": AdamW(learning_rate=-1.0)}, "learning_rate"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(changes, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        make(**changes).validate()
    assert "\n" not in str(caught.value)


def test_a_valid_experiment_passes():
    make(steps_per_call=10, microbatches=4, early_stopping=EarlyStopping("test/loss")).validate()


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(UsageError, match="no split 'dev'; it has: test"):
        make().evaluation_dataset("dev")


def test_evaluation_batches_are_a_multiple_of_the_devices():
    dataset = make(evaluation_batch_size=5).evaluation_dataset("test", multiple=4)
    assert dataset.batch_size == 8


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers():
    with pytest.raises(DataError, match=r"64.*8"):
        make().train_dataset()
