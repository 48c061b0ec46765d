"""Overrides: what they change, what they keep, and how they refuse."""

import dataclasses
import re

import numpy as np
import pytest

from deeplearn.data.memory import Arrays
from deeplearn.errors import UsageError
from deeplearn.experiment import EarlyStopping, Experiment, record
from deeplearn.models.mlp import MLP
from deeplearn.models.rnn import rnn
from deeplearn.optimizers import SGD, Adam, AdamW
from deeplearn.overrides import override
from deeplearn.schedules import Cosine
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.language import Language


@pytest.fixture(scope="module")
def experiment():
    data = Arrays({"x": np.zeros((8, 4), np.float32), "label": np.zeros(8, np.int32)})
    return Experiment(
        name="example",
        task=Classification(MLP(hidden=(4,), outputs=3)),
        train=data,
        evaluation={"test": data},
        optimizer=AdamW(learning_rate=0.25, schedule=Cosine(warmup=2)),
        steps=10,
    )


@pytest.mark.parametrize(
    ("change", "read", "expected"),
    [
        ("steps=20", lambda e: e.steps, 20),
        ("seed=7", lambda e: e.seed, 7),
        ("task.model.hidden=(64,32)", lambda e: e.task.model.hidden, (64, 32)),
        ("task.model.hidden=[64]", lambda e: e.task.model.hidden, (64,)),
        ("task.model.activation=gelu", lambda e: e.task.model.activation, "gelu"),
        ("task.model.normalization=layer", lambda e: e.task.model.normalization, "layer"),
        ("task.model.residual=True", lambda e: e.task.model.residual, True),
        ("task.model.dropout=0", lambda e: e.task.model.dropout, 0.0),
        ("optimizer.learning_rate=3e-4", lambda e: e.optimizer.learning_rate, 3e-4),
        ("optimizer.clip_norm=1", lambda e: e.optimizer.clip_norm, 1.0),
        ("optimizer.clip_norm=None", lambda e: e.optimizer.clip_norm, None),
        ("optimizer.schedule.warmup=5", lambda e: e.optimizer.schedule, Cosine(warmup=5)),
        ("mesh=(('data',2),('model',4))", lambda e: e.mesh, (("data", 2), ("model", 4))),
        ("train.mean=(0,1)", lambda e: e.train.mean, (0.0, 1.0)),
        ("name=other = 3", lambda e: e.name, "other = 3"),
        ("early_stopping=EarlyStopping", lambda e: e.early_stopping, EarlyStopping()),
        ("early_stopping=None", lambda e: e.early_stopping, None),
    ],
)
def test_a_change_lands_in_its_field_and_nowhere_else(experiment, change, read, expected):
    changed = override(experiment, [change])
    assert read(changed) == expected and type(read(changed)) is type(expected)
    assert changed.overrides == (change,)
    other = override(changed, [])
    assert record(other) == record(changed)


def test_a_class_name_keeps_the_shared_fields(experiment):
    changed = override(experiment, ["optimizer=Adam"])
    assert changed.optimizer == Adam(
        learning_rate=0.25,
        schedule=Cosine(warmup=2),
        weight_decay=experiment.optimizer.weight_decay,
    )
    assert type(override(experiment, ["optimizer=SGD"]).optimizer) is SGD


def test_changes_apply_in_order(experiment):
    changed = override(experiment, ["optimizer=SGD", "optimizer.momentum=0.5", "steps=3"])
    assert (changed.optimizer.momentum, changed.steps) == (0.5, 3)
    assert changed.overrides == ("optimizer=SGD", "optimizer.momentum=0.5", "steps=3")


def test_what_a_model_gives_to_its_modules_is_set_in_the_model(experiment):
    text = dataclasses.replace(experiment, task=Language(rnn(13, 8, 2)))
    changed = override(text, ["task.model.dtype=bfloat16", "task.model.dropout=0.2"])
    (block,) = changed.task.model.pattern
    assert (block.dtype, block.mixer.dtype, block.dropout) == ("bfloat16", "bfloat16", 0.2)
    for path in ("pattern.0.dropout=0.5", "pattern.0.mixer.dtype=bfloat16"):
        with pytest.raises(UsageError, match="a SequenceModel decides that itself"):
            override(text, [f"task.model.{path}"])
    hidden = override(text, ["task.model.pattern.0.mixer.hidden=9"])
    assert hidden.task.model.pattern[0].mixer.hidden == 9


def test_the_original_is_unchanged(experiment):
    before = record(experiment)
    override(experiment, ["task.model.hidden=(1,)", "steps=1"])
    assert record(experiment) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepps=3", "did you mean 'steps'"),
        ("task.model.hiden=(3,)", "MLP has no field 'hiden'; did you mean 'hidden'"),
        ("task.modle.hidden=(3,)", "did you mean 'model'"),
        ("evaluation.tests.batch=3", "did you mean 'test'"),
        ("optimizer=Adan", "did you mean 'Adam'"),
        ("optimizer=Constant", "no class 'Constant'"),
        ("optimizer=Optimizer", "no class 'Optimizer'"),
        ("optimizer.schedule=Schedule", "no class 'Schedule'"),
        ("early_stopping=Players", "no class 'Players'; choose one of: EarlyStopping"),
        ("task=Mean", "no class 'Mean'; choose one of: Classification"),
        ("task.model=CompactNameScope", "choose one of: Dense, MLP"),
        ("overrides=()", "'overrides' holds these changes"),
        ("overrides.0=x", "'overrides' holds these changes"),
        ("evaluation.test=Field", "no class 'Field'; choose one of: Arrays"),
        ("mesh.0.1=many", "expected int, got str 'many'"),
        ("steps", "PATH=VALUE"),
        ("=3", "PATH=VALUE"),
        ("steps=many", "expected int, got str 'many'"),
        ("steps=1.5", "expected int, got float 1.5"),
        ("steps=True", "expected int, got bool True"),
        ("steps=None", "expected int, got NoneType"),
        ("steps.more=1", "no field 'more'"),
        ("optimizer.learning_rate=nan", "expected float"),
        ("optimizer.learning_rate=1e999", "expected float"),
        ("optimizer.learning_rate=1" + "0" * 400, "expected float"),
        ("steps={[1]:2}", "expected int, got str"),
        ("optimizer.learning_rate=fast", "expected float, got str 'fast'"),
        ("task.model.hidden=64", "expected tuple[int, ...], got int 64"),
        ("task.model.hidden=(64,'a')", "expected tuple[int, ...]"),
        ("task.model.residual=1", "expected bool, got int 1"),
        ("task.model.parent=3", "no field 'parent'"),
    ],
)
def test_a_wrong_change_is_refused_in_one_line(experiment, change, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        override(experiment, [change])
    assert "\n" not in str(caught.value)
    assert f"--set {change}" in str(caught.value)
