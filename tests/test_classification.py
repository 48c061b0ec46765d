"""Classification: losses and metrics of hand-made models, masks, modes, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from deeplearn.errors import DataError, UsageError
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.task import Task

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype("float32")


class Linear(nn.Module):
    outputs: int
    dropout: float = 0.0
    normalize: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        if self.normalize:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.outputs, name="out")(x)


def case(outputs):
    """Task, variables, batch and the logits, made by hand for 1 (sigmoid) or more outputs."""
    kernel = RNG.normal(size=(4, outputs)).astype("float32")
    bias = RNG.normal(size=outputs).astype("float32")
    variables = {"params": {"out": {"kernel": kernel, "bias": bias}}}
    labels = RNG.integers(0, max(outputs, 2), size=6).astype("int32")
    batch = {"x": jnp.asarray(X), "label": jnp.asarray(labels)}
    return Classification(Linear(outputs)), variables, batch, X @ kernel + bias


def probabilities(logits):
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], -1)
    p = np.exp(logits.astype(np.float64))
    return p / p.sum(-1, keepdims=True)


both_heads = pytest.mark.parametrize("outputs", [1, 3], ids=["sigmoid", "softmax"])


def test_is_a_task():
    assert isinstance(Classification(Linear(3)), Task)


@both_heads
def test_loss_and_accuracy_equal_the_hand_computation(key, outputs):
    task, variables, batch, logits = case(outputs)
    p = probabilities(logits)
    loss, aux = jax.jit(task.loss)(variables, batch, key)
    labels = np.asarray(batch["label"])
    expected = -np.log(p[np.arange(6), labels]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert aux.weight == 6
    np.testing.assert_allclose(aux.metrics["accuracy"].value, (p.argmax(-1) == labels).mean())

    evaluated = jax.jit(task.evaluate)(variables, batch)
    assert set(evaluated) == {"loss", "accuracy"}
    np.testing.assert_allclose(evaluated["loss"].value, expected, rtol=1e-5)
    assert evaluated["accuracy"] == aux.metrics["accuracy"]


@both_heads
def test_predict_gives_probabilities_and_labels(outputs):
    task, variables, batch, logits = case(outputs)
    predicted = jax.jit(task.predict)(variables, {"x": batch["x"]})
    np.testing.assert_allclose(predicted["probabilities"], probabilities(logits), rtol=1e-4)
    np.testing.assert_array_equal(predicted["label"], probabilities(logits).argmax(-1))


@both_heads
def test_smoothing_counts_in_training_only(key, outputs):
    task, variables, batch, logits = case(outputs)
    smooth = Classification(task.model, smoothing=0.2)
    p = probabilities(logits)
    classes = p.shape[-1]
    target = 0.8 * np.eye(classes)[np.asarray(batch["label"])] + 0.2 / classes
    loss, _ = smooth.loss(variables, batch, key)
    np.testing.assert_allclose(loss, -(target * np.log(p)).sum(-1).mean(), rtol=1e-5)
    assert smooth.evaluate(variables, batch) == task.evaluate(variables, batch)


@both_heads
def test_soft_labels_between_two_classes_mix_the_losses(key, outputs):
    task, variables, batch, _ = case(outputs)
    soft = lambda label: label if outputs == 1 else jax.nn.one_hot(label, outputs)  # noqa: E731
    zeros, ones = jnp.zeros(6, jnp.int32), jnp.ones(6, jnp.int32)
    mixed = 0.3 * soft(zeros) + 0.7 * soft(ones)
    task.check({"x": X, "label": np.asarray(mixed)})
    loss = lambda label: task.loss(variables, {**batch, "label": label}, key)[0]  # noqa: E731
    np.testing.assert_allclose(loss(mixed), 0.3 * loss(zeros) + 0.7 * loss(ones), rtol=1e-5)


@both_heads
@pytest.mark.parametrize("normalize", [False, True])
def test_masked_rows_change_neither_loss_nor_gradient_even_when_nan(key, outputs, normalize):
    task, variables, batch, _ = case(outputs)
    task = Classification(Linear(outputs, normalize=normalize))
    if normalize:
        variables = task.init(key, batch)
    mask = jnp.asarray([1.0, 1, 1, 1, 0, 0])
    padded = {**batch, "x": batch["x"].at[4:].set(jnp.nan), "mask": mask}
    padded["label"] = batch["label"].at[4:].set(255)
    evaluated = jax.jit(task.evaluate)(variables, padded)
    alone = task.evaluate(variables, jax.tree.map(lambda field: field[:4], batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), evaluated, alone)

    gradient = jax.jit(jax.grad(lambda v, b: task.loss(v, b, key)[0]))
    whole = gradient(variables, padded)["params"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole))
    if not normalize:  # BatchNorm sees the padding as zeros, by its nature.
        part = gradient(variables, jax.tree.map(lambda field: field[:4], batch))["params"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, part
        )


@both_heads
def test_no_weight_means_no_loss_and_no_gradient(key, outputs):
    task, variables, batch, _ = case(outputs)
    batch = {"x": jnp.full_like(batch["x"], jnp.nan), "label": batch["label"], "mask": jnp.zeros(6)}
    (loss, aux), gradient = jax.value_and_grad(lambda v: task.loss(v, batch, key), has_aux=True)(
        variables
    )
    assert (loss, aux.weight) == (0, 0)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_fractional_weights_weigh(key):
    task, variables, batch, logits = case(3)
    weights = np.asarray([0.5, 2, 1, 0, 1, 1], np.float32)
    losses = -np.log(probabilities(logits)[np.arange(6), np.asarray(batch["label"])])
    loss, aux = task.loss(variables, {**batch, "mask": jnp.asarray(weights)}, key)
    np.testing.assert_allclose(loss, np.average(losses, weights=weights), rtol=1e-5)
    assert aux.weight == weights.sum()


def test_training_mode_drops_and_updates_statistics_and_evaluation_does_neither(key):
    task = Classification(Linear(3, dropout=0.5, normalize=True))
    _, _, batch, _ = case(3)
    variables = jax.jit(task.init)(key, batch)
    other = jax.random.key(1)
    first, aux = task.loss(variables, batch, key)
    second, _ = task.loss(variables, batch, other)
    assert first != second
    assert first == task.loss(variables, batch, key)[0]
    assert jax.tree.structure(aux.mutated) == jax.tree.structure(
        {name: tree for name, tree in variables.items() if name != "params"}
    )
    changed = jax.tree.map(
        lambda a, b: bool((a != b).all()), aux.mutated, {"batch_stats": variables["batch_stats"]}
    )
    assert all(jax.tree.leaves(changed))
    # Running mean 0 and variance 1 at the start, and nothing dropped.
    dense = variables["params"]["out"]
    logits = X / np.sqrt(1 + 1e-5) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    predicted = task.predict(variables, batch)["probabilities"]
    np.testing.assert_allclose(predicted, probabilities(logits), rtol=1e-4)
    loss = -np.log(probabilities(logits)[np.arange(6), np.asarray(batch["label"])]).mean()
    np.testing.assert_allclose(task.evaluate(variables, batch)["loss"].value, loss, rtol=1e-4)


def test_init_depends_on_shapes_and_key_only(key):
    task, _, batch, _ = case(3)
    init = jax.jit(task.init)
    zeros = jax.tree.map(jnp.zeros_like, batch)
    jax.tree.map(np.testing.assert_array_equal, init(key, batch), init(key, zeros))
    other = init(jax.random.key(1), batch)
    assert (init(key, batch)["params"]["out"]["kernel"] != other["params"]["out"]["kernel"]).all()
    shapes = jax.eval_shape(task.init, key, batch)
    assert shapes["params"]["out"]["kernel"].shape == (4, 3)


@both_heads
@pytest.mark.parametrize("soft", [False, True])
def test_no_dtype_is_promoted_silently(key, outputs, soft):
    _, variables, batch, logits = case(outputs)
    if soft:
        p = jnp.asarray(probabilities(logits), jnp.float32)
        batch["label"] = p[:, 1] if outputs == 1 else p
    batch["mask"] = jnp.ones(6)
    task = Classification(Linear(outputs), smoothing=0.1)
    with jax.numpy_dtype_promotion("strict"):
        loss, _ = task.loss(variables, batch, key)
        evaluated = task.evaluate(variables, batch)
    assert loss.dtype == evaluated["accuracy"].value.dtype == jnp.float32


@both_heads
def test_learns_separable_classes(key, outputs):
    task, _, batch, _ = case(outputs)
    centres = 4 * RNG.normal(size=(max(outputs, 2), 4))
    labels = np.arange(60) % max(outputs, 2)
    batch = {
        "x": jnp.asarray(centres[labels] + 0.3 * RNG.normal(size=(60, 4)), jnp.float32),
        "label": jnp.asarray(labels),
    }
    transform = optax.adam(0.1)
    variables = task.init(key, batch)

    def step(carry, _):
        variables, state = carry
        gradients = jax.grad(lambda v: task.loss(v, batch, key)[0])(variables)
        updates, state = transform.update(gradients, state)
        return (optax.apply_updates(variables, updates), state), None

    (variables, _), _ = jax.lax.scan(step, (variables, transform.init(variables)), length=100)
    assert task.evaluate(variables, batch)["accuracy"].value == 1


BAD = {
    "too large": (3, {"label": np.array([0, 1, 2, 3, 0, 0])}, r"row 3 .* is 3: .*\[0, 2\]"),
    "negative": (3, {"label": np.array([0, -1, 2, 0, 0, 0])}, r"row 1 .* is -1"),
    "255": (3, {"label": np.array([0, 1, 255, 0, 0, 0], np.uint8)}, r"row 2 .* is 255"),
    "sigmoid 2": (1, {"label": np.array([0, 1, 2, 0, 0, 0])}, r"row 2 .* is 2: .*\[0, 1\]"),
    "float classes": (3, {"label": np.zeros(6, np.float32)}, r"float32 \(6,\).*float \(6, 3\)"),
    "one-hot integers": (3, {"label": np.eye(6, 3, dtype=int)}, r"\(6, 3\)"),
    "soft for sigmoid": (1, {"label": np.ones((6, 2), np.float32)}, r"outputs = 1"),
    "no distribution": (3, {"label": np.ones((6, 3), np.float32)}, "row 0.*add up to 1"),
    "no probability": (1, {"label": np.linspace(0, 2, 6)}, "row 3.*probability"),
    "NaN label": (1, {"label": np.array([0, 1, np.nan, 0, 0, 0])}, "row 2"),
    "NaN input": (3, {"x": np.where(np.arange(24).reshape(6, 4) == 9, np.nan, X)}, "'x' in row 2"),
    "infinite input": (3, {"x": np.where(np.arange(6)[:, None] == 5, np.inf, X)}, "'x' in row 5"),
    "no label": (3, {"label": None}, "no field 'label', only x"),
    "no input": (3, {"x": None}, "no field 'x', only label"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_batches_are_refused_in_one_line(name):
    outputs, change, message = BAD[name]
    batch = {"x": X, "label": np.zeros(6, np.int32), **change}
    batch = {key: value for key, value in batch.items() if value is not None}
    with pytest.raises(DataError, match=message) as caught:
        Classification(Linear(outputs)).check(batch)
    assert "\n" not in str(caught.value)


@both_heads
def test_good_batches_pass_and_padding_is_not_looked_at(outputs):
    task, _, batch, _ = case(outputs)
    task.check({name: np.asarray(field) for name, field in batch.items()})
    padded = {
        "x": np.where(np.arange(6)[:, None] < 4, X, np.nan),
        "label": np.array([0, 1, 0, 1, -1, 255]),
        "mask": np.array([1, 1, 1, 1, 0, 0], np.float32),
    }
    task.check(padded)
    padded["mask"][4] = 1
    with pytest.raises(DataError, match="row 4"):
        task.check(padded)


def test_integer_images_pass():
    Classification(Linear(3)).check(
        {"x": np.zeros((6, 2, 2, 1), np.uint8), "label": np.zeros(6, np.int64)}
    )


class Wrong(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(3)(x)


class Flat(Wrong):
    outputs: int = 7


@pytest.mark.parametrize(
    ("model", "message"),
    [(Wrong(), "Wrong: outputs = None"), (Flat(), r"Flat returned shape \(6, 3\).*\(6, 7\)")],
)
def test_models_that_do_not_fit_are_named(key, model, message):
    task, (_, _, batch, _) = Classification(model), case(3)
    with pytest.raises(UsageError, match=message):
        task.loss(task.init(key, batch), batch, key)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_bad_smoothing_is_refused(smoothing):
    with pytest.raises(UsageError, match="smoothing"):
        Classification(Linear(3), smoothing=smoothing)
