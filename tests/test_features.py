"""Features of a classifier: what its last layer reads, in any unit of the images, with a name."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import MODELS, images
from flax import linen as nn

from deeplearn import Run, train
from deeplearn.data.memory import Arrays
from deeplearn.errors import UsageError
from deeplearn.experiment import Experiment
from deeplearn.features import Features
from deeplearn.optimizers import SGD
from deeplearn.report.receipt import read_json
from deeplearn.step import evaluation_variables, init_state
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.regression import Regression

DATA = images(40, 16)
UNIT = DATA.gather(np.arange(40))["x"]


def classifier(model, data=DATA):
    return Experiment(
        "judge", Classification(model), data, SGD(0.1), 1, batch_size=8, evaluation_batch_size=16
    )


def untrained(model, tmp_path, data=DATA) -> Run:
    """The run of an experiment ahead of its first step."""
    experiment = classifier(model, data)
    batch = {name: jnp.asarray(value) for name, value in data.gather(np.arange(1)).items()}
    optimizer = experiment.optimizer.build(1)
    state = jax.jit(lambda key: init_state(experiment.task, optimizer, key, batch=batch))(
        jax.random.key(0)
    )
    return Run(experiment, state, {}, tmp_path)


@pytest.mark.parametrize(("name", "width"), [("resnet", 16), ("alexnet", 12), ("mlp", 16)])
def test_the_last_layer_makes_the_logits_of_the_features(name, width, tmp_path):
    """40 images in batches of 16, the last one of 8."""
    run = untrained(MODELS[name](), tmp_path)
    features = Features(run)
    found = features(UNIT)
    assert found.shape == (40, width) and found.dtype == np.float32
    output = jax.device_get(run.state.params["output"])
    low, high = UNIT.min(), UNIT.max()
    x = low + UNIT * (high - low)
    logits = run.experiment.task.model.apply(evaluation_variables(run.state), x)
    np.testing.assert_allclose(
        found @ output["kernel"] + output["bias"], logits, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(features.labels(UNIT), logits.argmax(axis=1))


def test_the_unit_of_the_classifier_makes_no_difference(tmp_path):
    pixels = DATA.fields["x"]
    wide = Arrays({"x": pixels, "label": DATA.fields["label"]}, mean=(0.2,), std=(0.1,))
    run = untrained(MODELS["mlp"](), tmp_path, wide)
    model, variables = run.experiment.task.model, evaluation_variables(run.state)
    unit = (UNIT - UNIT.min()) / (UNIT.max() - UNIT.min())
    labels = model.apply(variables, wide.gather(np.arange(40))["x"]).argmax(axis=1)
    np.testing.assert_array_equal(Features(run).labels(unit), labels)


def test_name_and_hash_are_those_of_the_run(tmp_path):
    run = train(classifier(MODELS["mlp"]()), tmp_path)
    features = Features(run)
    assert features.name == "judge"
    assert features.sha256 == read_json(tmp_path / "receipt.json")["state_sha256"]


class Headless(nn.Module):
    """Logits that no dense layer makes."""

    outputs: int = 3

    @nn.compact
    def __call__(self, x, *, train=False):
        return x.reshape(len(x), -1)[:, :3] + self.param("b", nn.initializers.zeros, (1, 3))


def test_what_gives_no_features_is_refused(tmp_path):
    run = untrained(MODELS["mlp"](), tmp_path)
    with pytest.raises(UsageError, match=r"looks at images \(16, 16, 1\)"):
        Features(run)(UNIT[:, :8])
    with pytest.raises(UsageError, match="Headless has no dense layer of its own"):
        Features(untrained(Headless(), tmp_path))(UNIT)
    task = Regression(MODELS["mlp"]())
    other = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, task=task))
    with pytest.raises(UsageError, match="the task of .* is Regression"):
        Features(other)
