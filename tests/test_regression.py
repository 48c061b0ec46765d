"""Regression: errors in the target's own unit, standardisation, masks, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deeplearn.errors import DataError, UsageError
from deeplearn.tasks.regression import Regression
from deeplearn.tasks.task import Task

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype("float32")


class Linear(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(self.outputs, name="out")(x)


def case(outputs):
    """Variables, batch, the model's output z and the target, the last two (6, outputs)."""
    kernel = RNG.normal(size=(4, outputs)).astype("float32")
    variables = {"params": {"out": {"kernel": kernel, "bias": np.zeros(outputs, "float32")}}}
    target = (150 + 70 * RNG.normal(size=(6, outputs))).astype("float32")
    return variables, {"x": jnp.asarray(X), "target": jnp.asarray(target)}, X @ kernel, target


TASKS = {
    "one": (1, 150.0, 70.0),
    "shared": (2, 150.0, 70.0),
    "each": (2, (150.0, 140.0), (70.0, 35.0)),
}
every_task = pytest.mark.parametrize("name", TASKS)


def task_of(name, error="squared_error"):
    outputs, mean, scale = TASKS[name]
    return Regression(Linear(outputs), error, target_mean=mean, target_scale=scale)


def test_is_a_task():
    assert isinstance(task_of("one"), Task)


@every_task
@pytest.mark.parametrize("error", ["squared_error", "huber"])
def test_loss_is_of_the_standardised_target(key, name, error):
    outputs, mean, scale = TASKS[name]
    variables, batch, z, target = case(outputs)
    e = z - (target - np.asarray(mean)) / np.asarray(scale)
    expected = e**2 if error == "squared_error" else np.where(abs(e) < 1, e**2 / 2, abs(e) - 0.5)
    task = task_of(name, error)
    loss, aux = jax.jit(task.loss)(variables, batch, key)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert aux.weight == 6
    np.testing.assert_allclose(task.evaluate(variables, batch)["loss"].value, loss, rtol=1e-6)


@every_task
def test_metrics_and_predictions_are_in_the_unit_of_the_target(key, name):
    outputs, mean, scale = TASKS[name]
    variables, batch, z, target = case(outputs)
    task, in_unit = task_of(name), z * np.asarray(scale) + np.asarray(mean)
    evaluated = jax.jit(task.evaluate)(variables, batch)
    assert set(evaluated) == {"loss", "mse", "mae"}
    np.testing.assert_allclose(evaluated["mse"].value, ((in_unit - target) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(evaluated["mae"].value, abs(in_unit - target).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        task.loss(variables, batch, key)[1].metrics["mae"].value, evaluated["mae"].value, rtol=1e-6
    )
    predicted = task.predict(variables, {"x": batch["x"]})["target"]
    assert predicted.shape == ((6,) if outputs == 1 else (6, outputs))
    np.testing.assert_allclose(predicted, in_unit.reshape(predicted.shape), rtol=1e-5)


def test_metrics_do_not_depend_on_the_standardisation():
    variables, batch, z, _ = case(1)
    plain = Regression(Linear(1)).evaluate(variables, batch)
    # The same predictions, reached from other standard units.
    scaled = {"params": {"out": {"kernel": variables["params"]["out"]["kernel"] / 10}}}
    scaled["params"]["out"]["bias"] = np.full(1, -0.5, "float32")
    other = Regression(Linear(1), target_mean=5.0, target_scale=10.0).evaluate(scaled, batch)
    for name in ("mse", "mae"):
        np.testing.assert_allclose(plain[name].value, other[name].value, rtol=1e-5)


@every_task
def test_no_dtype_is_promoted_silently(key, name):
    variables, batch, _, _ = case(TASKS[name][0])
    batch["mask"] = jnp.ones(6)
    with jax.numpy_dtype_promotion("strict"):
        loss, _ = task_of(name, "huber").loss(variables, batch, key)
        evaluated = task_of(name).evaluate(variables, batch)
    assert loss.dtype == evaluated["mse"].value.dtype == jnp.float32


def test_flat_targets_equal_columns(key):
    variables, batch, _, target = case(1)
    flat = {**batch, "target": batch["target"][:, 0]}
    task = task_of("one")
    jax.tree.map(
        np.testing.assert_array_equal,
        task.loss(variables, flat, key),
        task.loss(variables, batch, key),
    )


@every_task
def test_masked_rows_change_neither_loss_nor_gradient_even_when_nan(key, name):
    variables, batch, _, _ = case(TASKS[name][0])
    task = task_of(name)
    part = jax.tree.map(lambda field: field[:4], batch)
    padded = jax.tree.map(lambda field: field.at[4:].set(jnp.nan), batch)
    padded["mask"] = jnp.asarray([1.0, 1, 1, 1, 0, 0])
    pairs = [
        (task.evaluate(variables, b), jax.grad(lambda v, b=b: task.loss(v, b, key)[0])(variables))
        for b in (padded, part)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *pairs)


def test_no_weight_means_no_loss_and_no_gradient(key):
    variables, batch, _, _ = case(1)
    batch = {**batch, "mask": jnp.zeros(6), "target": jnp.full((6, 1), jnp.nan)}
    task = task_of("one")
    (loss, aux), gradient = jax.value_and_grad(lambda v: task.loss(v, batch, key), has_aux=True)(
        variables
    )
    assert (loss, aux.weight) == (0, 0)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.array([0, 1, np.nan, 0, 0, 0])}, "'target' in row 2 .* is nan"),
        ({"target": np.zeros((6, 2))}, r"\(6, 2\).*\(B, 1\)"),
        ({"target": np.zeros(())}, r"shape \(\)"),
        ({"x": np.full((6, 4), np.inf)}, "'x' in row 0"),
        ({"target": None}, "no field 'target', only x"),
    ],
)
def test_bad_batches_are_refused_in_one_line(change, message):
    batch = {"x": X, "target": np.zeros(6, np.float32), **change}
    batch = {key: value for key, value in batch.items() if value is not None}
    with pytest.raises(DataError, match=message) as caught:
        task_of("one").check(batch)
    assert "\n" not in str(caught.value)


@every_task
def test_good_batches_pass_and_padding_is_not_looked_at(name):
    outputs = TASKS[name][0]
    _, batch, _, target = case(outputs)
    task_of(name).check({"x": X, "target": target})
    target[5] = np.nan
    task_of(name).check({"x": X, "target": target, "mask": np.array([1, 1, 1, 1, 1, 0])})


def test_bad_fields_are_refused():
    with pytest.raises(UsageError, match="'hubert'; did you mean 'huber'"):
        Regression(Linear(1), "hubert")
    for scale in (0.0, -1.0, float("nan"), (1.0, 0.0)):
        with pytest.raises(UsageError, match="target_scale"):
            replace(task_of("one"), target_scale=scale)


def test_target_of_another_width_than_the_model_is_refused(key):
    variables, batch, _, _ = case(2)
    with pytest.raises(UsageError, match=r"\(6, 2\), target \(6, 1\)"):
        Regression(Linear(2)).loss(variables, {**batch, "target": batch["target"][:, 0]}, key)
