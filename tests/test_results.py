"""Experiments trained in full reach what their docstrings and the README say."""

import importlib

import pytest

from deeplearn.train import train

# What users train; most of the time goes into steps, not into compiling.
pytestmark = pytest.mark.usefixtures("optimized")

LONG = [pytest.mark.long, pytest.mark.timeout(600)]
# Three standard deviations over seeds are left on the side of the worse.
RESULTS = [
    ("mlp_digits", "accuracy", 0.95, 1),
    pytest.param("mlp_breast_cancer", "accuracy", 0.94, 1, marks=LONG),
    pytest.param("mlp_diabetes", "mae", 0, 52, marks=LONG),
    pytest.param("deep_mlp", "accuracy", 0.94, 1, marks=LONG),
]


@pytest.mark.parametrize(("name", "metric", "low", "high"), RESULTS)
def test_an_experiment_reaches_its_result(name, metric, low, high, tmp_path):
    experiment = importlib.import_module(f"experiments.{name}").experiment()
    assert low <= train(experiment, tmp_path).metrics["test"][metric] <= high
