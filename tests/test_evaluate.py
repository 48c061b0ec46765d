"""Evaluation counts every example once, whatever the batches."""

import dataclasses

import jax
import numpy as np
import pytest

from deeplearn.data.memory import Arrays
from deeplearn.errors import DataError, UsageError
from deeplearn.evaluate import Evaluator, predict
from deeplearn.experiment import Experiment
from deeplearn.models.mlp import MLP
from deeplearn.optimizers import AdamW
from deeplearn.program import Program
from deeplearn.sharding import make_mesh
from deeplearn.step import evaluation_variables
from deeplearn.tasks.classification import Classification
from deeplearn.train import Run

ROWS = 23


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    generator = np.random.default_rng(0)
    data = Arrays(
        {
            "x": generator.normal(size=(ROWS, 5)).astype(np.float32),
            "label": generator.integers(0, 3, ROWS),
        }
    )
    experiment = Experiment(
        name="example",
        task=Classification(MLP(hidden=(8,), outputs=3)),
        train=data,
        evaluation={"test": data},
        optimizer=AdamW(),
        steps=1,
        batch_size=4,
    )
    return Run(experiment, Program(experiment).init(), {}, tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("size", [1, 5, 22, 23, 500])
def test_the_batch_size_does_not_change_the_mean(run, size):
    examples = run.experiment.evaluation["test"].gather(np.arange(ROWS))
    variables = evaluation_variables(run.state)
    logits = run.experiment.task.model.apply(variables, examples["x"])
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    labels = examples["label"]
    experiment = dataclasses.replace(run.experiment, evaluation_batch_size=size)
    found = Evaluator(experiment, make_mesh(experiment.mesh))(variables, "test")
    np.testing.assert_allclose(found["loss"], -log_p[np.arange(ROWS), labels].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], (log_p.argmax(-1) == labels).mean(), rtol=1e-6)


def test_a_bad_label_is_refused_in_evaluation_too(run):
    bad = Arrays({"x": np.zeros((2, 5), np.float32), "label": np.array([0, 3])})
    experiment = dataclasses.replace(run.experiment, evaluation={"test": bad})
    with pytest.raises(DataError, match="label"):
        Evaluator(experiment, make_mesh(experiment.mesh))(evaluation_variables(run.state), "test")


def test_predictions_stand_beside_their_examples(run):
    examples, predicted = predict(run, "test", 3)
    variables = evaluation_variables(run.state)
    logits = run.experiment.task.model.apply(variables, examples["x"])
    np.testing.assert_array_equal(predicted["label"], np.argmax(logits, -1))
    assert len(examples["label"]) == 3
    assert len(predict(run, "test", 99)[1]["label"]) == ROWS
    with pytest.raises(UsageError, match="count=0"):
        predict(run, "test", 0)
