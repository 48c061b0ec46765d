"""Denoising: its loss in closed form, weightings, masks, label dropout, evaluation, sampling."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from processes import PROCESSES, every_process

from deeplearn.errors import DataError, UsageError
from deeplearn.models.denoiser import MLPDenoiser
from deeplearn.predictions import PREDICTIONS, convert, total_scale
from deeplearn.processes import DDPM, RectifiedFlow, VarianceExploding
from deeplearn.sampling.images import Request
from deeplearn.tasks.denoising import WEIGHTINGS, Denoising
from deeplearn.tasks.task import Generative, Task

X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
LABEL = np.arange(8, dtype="int32") % 3
# A discrete level and a continuous one; each process costs seconds of compilation.
two_processes = pytest.mark.parametrize("name", ["ddpm", "exploding"])


class Nothing(nn.Module):
    """Says in terms of `prediction` that x0 is `guess`, whatever x_t is; for rectified flow."""

    prediction: str
    guess: float = 0.0

    @nn.compact
    def __call__(self, x, noise_level, label=None, *, train=False):
        alpha, sigma = RectifiedFlow().alpha_sigma(noise_level[:, None])
        x = x * total_scale(alpha, sigma, 1.0)
        guess = jnp.full_like(x, self.guess)
        return convert("x0", self.prediction, guess, x, alpha, sigma)


class Unlabelled(nn.Module):
    """1 where there is no label, else 0."""

    @nn.compact
    def __call__(self, x, noise_level, label=None, *, train=False):
        return jnp.broadcast_to((label < 0).astype(jnp.float32)[:, None], x.shape)


def small(name="flow", **fields):
    return Denoising(MLPDenoiser(width=8, depth=1, classes=3), PROCESSES[name], **fields)


def batch(**fields):
    return {"x": jnp.asarray(X), "label": jnp.asarray(LABEL), **fields}


def variables_of(task, key, fields=None):
    """Fresh variables whose last layer is not 0, as it is at first."""
    variables = jax.jit(task.init)(key, fields or batch())
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def test_is_a_task():
    assert isinstance(small(), Task) and isinstance(small(), Generative)


@pytest.mark.parametrize("prediction", sorted(set(PREDICTIONS) - {"noise"}))
def test_the_error_of_x0_does_not_depend_on_what_is_predicted(key, prediction):
    """A model that always says x0 = 0.5 has the error mean (x0 − 0.5)² at every level."""
    task = Denoising(Nothing(prediction, 0.5), RectifiedFlow(), prediction, "x0")
    loss, aux = jax.jit(task.loss)({}, batch(), key)
    expected = ((X - 0.5) ** 2).mean()
    np.testing.assert_allclose([loss, aux.metrics["x0_error"].value], expected, rtol=1e-3)
    np.testing.assert_allclose(task.evaluate({}, batch())["loss"].value, expected, rtol=1e-3)


def test_weightings_are_those_of_the_papers():
    """At σ = 2 with α = 1: gain σ² and signal-to-noise ratio ¼ of an ε-prediction."""
    gain, snr = jnp.asarray([4.0, 0.01]), jnp.asarray([0.25, 100.0])
    found = {name: weight(gain, snr) for name, weight in WEIGHTINGS.items()}
    np.testing.assert_allclose(found["uniform"], [1, 1])
    np.testing.assert_allclose(found["x0"], [4, 0.01])
    np.testing.assert_allclose(found["min_snr"], [1, 0.05])


def test_v_of_an_exploding_variance_has_the_weight_of_edm(key):
    """The loss of an untrained model is λ(σ)·(c_skip·x_t − x0)², of mean 1 for such data."""
    task = Denoising(MLPDenoiser(width=8, depth=0), VarianceExploding())
    fields = {"x": 0.5 * jax.random.normal(key, (20_000, 2))}
    loss, _ = jax.jit(task.loss)(task.init(key, fields), fields, key)
    np.testing.assert_allclose(loss, 1.0, atol=0.03)


@two_processes
def test_masked_rows_change_neither_loss_nor_gradient_even_when_nan(key, name):
    """The noise of a row depends on its place, so that NaN and 0 are compared in place."""
    task = small(name)
    variables = variables_of(task, key)
    mask = jnp.asarray([1.0, 1, 1, 1, 1, 0, 0, 0])
    padded = [batch(x=jnp.asarray(X).at[5:].set(value), mask=mask) for value in (jnp.nan, 3.0)]
    found = [
        (task.evaluate(variables, b), jax.grad(lambda v, b=b: task.loss(v, b, key)[0])(variables))
        for b in padded
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert task.loss(variables, padded[0], key)[1].weight == 5


def test_no_weight_means_no_loss(key):
    task = small()
    fields = batch(mask=jnp.zeros(8))
    loss, aux = task.loss(variables_of(task, key), fields, key)
    assert (loss, aux.weight) == (0, 0)


@two_processes
def test_no_dtype_is_promoted_silently(key, name):
    task = small(name, label_dropout=0.1)
    variables = variables_of(task, key)
    with jax.numpy_dtype_promotion("strict"):
        loss, _ = task.loss(variables, batch(), key)
        evaluated = task.evaluate(variables, batch())
    assert loss.dtype == evaluated["loss"].value.dtype == jnp.float32


@two_processes
def test_evaluation_is_a_function_of_the_examples_alone(key, name):
    """In any order and batch size; a row of its own has the levels and noise that it has here."""
    task = small(name)
    variables = variables_of(task, key)
    evaluate = jax.jit(task.evaluate)
    whole = evaluate(variables, batch())["loss"]
    order = np.random.default_rng(1).permutation(8)
    turned = evaluate(variables, jax.tree.map(lambda field: field[order], batch()))["loss"]
    np.testing.assert_allclose(turned.value, whole.value, rtol=1e-5)
    rows = [
        evaluate(variables, jax.tree.map(lambda field, i=i: field[i : i + 1], batch()))["loss"]
        for i in range(8)
    ]
    np.testing.assert_allclose(sum(row.total for row in rows), whole.total, rtol=1e-5)
    same = evaluate(variables, batch(x=jnp.broadcast_to(X[:1], X.shape), label=jnp.zeros(8, int)))
    np.testing.assert_allclose(same["loss"].value, rows[0].value, rtol=1e-5)


def test_training_draws_anew_with_every_key(key):
    task = small()
    variables = variables_of(task, key)
    first, same, other = (
        task.loss(variables, batch(), k)[0] for k in (key, key, jax.random.key(1))
    )
    assert first == same != other


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_a_share_of_the_labels_is_withheld_in_training_only(key, share):
    """4000 labels: within four standard errors."""
    task = Denoising(Unlabelled(), RectifiedFlow(), "x0", label_dropout=share)
    fields = {"x": jnp.zeros((4000, 1)), "label": jnp.zeros(4000, int)}
    found = float(task.loss({}, fields, key)[0])
    assert abs(found - share) <= 4 * (share * (1 - share) / 4000) ** 0.5
    assert task.evaluate({}, fields)["loss"].value == 0


def test_a_model_of_no_classes_learns_from_data_with_labels(key):
    task = dataclasses.replace(small(), model=MLPDenoiser(width=8, depth=1, classes=0))
    fields = {"x": jnp.asarray(X), "label": jnp.full(8, 2)}
    alone = {"x": fields["x"]}
    task.check(fields)
    variables = task.init(key, fields)
    for one, other in [
        (task.loss(variables, fields, key)[0], task.loss(variables, alone, key)[0]),
        (task.evaluate(variables, fields)["loss"], task.evaluate(variables, alone)["loss"]),
    ]:
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert task.sample(variables, key, Request(2, shape=(2,))).shape == (2, 2)


@every_process
def test_the_denoiser_reads_x_as_training_does(key, name):
    """x0 of the denoiser at one level, against the error that evaluation reports for one row."""
    task = small(name)
    variables = variables_of(task, key)
    level = jnp.asarray(0.3 * PROCESSES[name].noisiest)
    noise = jax.random.normal(key, X.shape)
    (inputs, x) = task._inputs(jnp.asarray(X), noise, jnp.full(8, level))
    prediction = task.model.apply(variables, *inputs, jnp.full(8, 2))
    alpha, sigma = PROCESSES[name].alpha_sigma(level)
    known = x, alpha, sigma, PROCESSES[name].data_scale
    x0 = convert("v", "x0", prediction, *known)
    np.testing.assert_allclose(task.denoiser(variables, 2)(x, level), x0, rtol=1e-4, atol=1e-5)


@two_processes
def test_samples_are_a_function_of_key_and_label(key, name):
    task = small(name, label_dropout=0.1)
    variables = variables_of(task, key)

    def draw(key, **fields):
        return task.sample(variables, key, Request(5, shape=(2,), steps=4, **fields))

    first = draw(key, labels=(1,))
    assert first.shape == (5, 2) and first.dtype == jnp.float32 and jnp.isfinite(first).all()
    np.testing.assert_array_equal(first, draw(key, labels=(1,), guidance=1.0))
    np.testing.assert_allclose(first, draw(key, labels=(1,), guidance=1.0001), atol=0.01)
    for other in (
        draw(jax.random.key(1), labels=(1,)),
        draw(key, labels=(2,)),
        draw(key),
        draw(key, labels=(1,), guidance=2.0),
    ):
        assert not np.allclose(first, other, atol=1e-4)
    both = draw(key, labels=(1, 2))
    np.testing.assert_allclose(both[::2], first[::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[1::2], draw(key, labels=(2,))[1::2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", ["noise", "v"])
@pytest.mark.parametrize(
    ("process", "steps"), [(DDPM(), 20), (DDPM(steps=8, last_beta=0.95), 8)], ids=["long", "short"]
)
def test_ddpm_is_sampled_in_no_more_steps_than_it_has(key, process, steps, prediction):
    task = small("ddpm", prediction=prediction, label_dropout=0.1)
    task = dataclasses.replace(task, process=process)
    variables = variables_of(task, key)
    loss, _ = task.loss(variables, batch(), key)
    x = task.sample(variables, key, Request(5, shape=(2,)))
    assert task.steps == steps and x.shape == (5, 2)
    assert jnp.isfinite(loss) and jnp.isfinite(x).all()


def test_guidance_goes_beyond_the_class_and_weight_0_is_the_model_without(key):
    task = small(label_dropout=0.1)
    variables = variables_of(task, key)
    request = Request(5, shape=(2,), steps=4)
    free = task.sample(variables, key, request)
    guided = dataclasses.replace(request, labels=(1,), guidance=0.0)
    np.testing.assert_allclose(task.sample(variables, key, guided), free, atol=1e-4)


@two_processes
def test_guidance_at_some_levels_differs_from_that_at_all_and_at_none(key, name):
    task = small(name, label_dropout=0.1)
    variables = variables_of(task, key)

    def draw(**fields):
        request = Request(5, (1,), (2,), steps=6, **fields)
        return np.asarray(task.sample(variables, key, request))

    none, everywhere = draw(), draw(guidance=3.0)
    nowhere = draw(guidance=3.0, guidance_interval=(1e6, 1e7))
    np.testing.assert_allclose(nowhere, none, atol=1e-5)
    whole = draw(guidance=3.0, guidance_interval=(0.0, 1e7))
    np.testing.assert_allclose(whole, everywhere, atol=1e-5)
    middle = draw(guidance=3.0, guidance_interval=(0.1, 1.0))
    for other in (none, everywhere):
        assert np.abs(middle - other).max() > 1e-3


def test_the_path_begins_near_the_latents_and_ends_in_the_sample(key):
    task = small("exploding", label_dropout=0.1)
    variables, request = variables_of(task, key), Request(5, shape=(2,), steps=12)
    latents = task.latents(key, request)
    path = task.path(variables, latents, request, key)
    assert path.shape == (12, 5, 2)
    np.testing.assert_allclose(path[-1], task.draw(variables, latents, request, key), rtol=1e-5)
    np.testing.assert_allclose(path[0], 0.5 * latents, atol=0.05)


@pytest.mark.parametrize(
    ("request_of", "dropout", "message"),
    [
        (Request(2), 0.1, "fits many shapes; give the request that of one sample"),
        (Request(2, labels=(3,), shape=(2,)), 0.1, "label 3 is outside"),
        (Request(2, shape=(2,)), 0.0, "label_dropout=0 .* give labels"),
        (Request(2, labels=(1,), shape=(2,), guidance=3.0), 0.0, "which guidance=3.0 needs"),
        (Request(2, (1,), (2,), guidance_interval=(0.1, 2.0)), 0.1, "guidance=1 is none"),
    ],
)
def test_what_the_model_has_not_learned_is_refused(key, request_of, dropout, message):
    with pytest.raises(UsageError, match=message):
        small(label_dropout=dropout).sample({}, key, request_of)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": "eps"}, "task Denoising: unknown prediction 'eps'"),
        ({"weighting": "snr"}, "task Denoising: unknown weighting 'snr'; did you mean 'min_snr'"),
        ({"label_dropout": 1.0}, "label_dropout = 1.0 must be in"),
        ({"prediction": "noise"}, "by RectifiedFlow begins, at a signal-to-noise ratio of 0;"),
        (
            {"prediction": "noise", "name": "cosine"},
            "next to nothing of x0 .* by Cosine .* 2.4e-09",
        ),
    ],
)
def test_a_task_that_cannot_work_is_refused_in_one_line(fields, message):
    with pytest.raises(UsageError, match=message) as caught:
        small(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": np.full((8, 2), np.nan)}, "'x' in row 0"),
        ({"label": LABEL - 1}, "'label' in row 0 .* is -1"),
        ({"label": LABEL + 1}, "'label' in row .*: it is outside"),
        ({"x": None}, "no field 'x'"),
        ({"label": None}, "no field 'label', .* classes = 3 to learn; .* set task.model.classes=0"),
    ],
)
def test_bad_batches_are_refused(fields, message):
    given = {"x": X, "label": LABEL, **fields}
    small().check({"x": X, "label": LABEL})
    with pytest.raises(DataError, match=message):
        small().check({name: value for name, value in given.items() if value is not None})
