"""Losses against NumPy in fp64, their gradients against finite differences, and the extremes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.losses import (
    absolute_error,
    huber,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)

RNG = np.random.default_rng(0)
LOGITS = 3.0 * RNG.normal(size=(7, 5))
LABELS = RNG.integers(0, 5, size=7)
SOFT = RNG.dirichlet(np.ones(5), size=7)
BINARY = RNG.uniform(size=(7, 5))


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax_reference(smoothing):
    def reference(logits, labels):
        p = np.eye(5)[labels] if labels.dtype.kind == "i" else labels
        return -(((1 - smoothing) * p + smoothing / 5) * log_softmax(logits)).sum(-1)

    return reference


def sigmoid_reference(smoothing):
    def reference(logits, labels):
        p = (1 - smoothing) * labels + smoothing / 2
        return p * np.logaddexp(0, -logits) + (1 - p) * np.logaddexp(0, logits)

    return reference


def huber_reference(delta):
    def reference(a, b):
        e = np.abs(a - b)
        return np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))

    return reference


CASES = {
    "softmax": (softmax_cross_entropy, softmax_reference(0.0), LOGITS, LABELS),
    "softmax soft": (softmax_cross_entropy, softmax_reference(0.0), LOGITS, SOFT),
    "softmax smooth": (
        lambda x, y: softmax_cross_entropy(x, y, smoothing=0.1),
        softmax_reference(0.1),
        LOGITS,
        LABELS,
    ),
    "softmax soft smooth": (
        lambda x, y: softmax_cross_entropy(x, y, smoothing=0.3),
        softmax_reference(0.3),
        LOGITS,
        SOFT,
    ),
    "sigmoid": (sigmoid_cross_entropy, sigmoid_reference(0.0), LOGITS, BINARY),
    "sigmoid smooth": (
        lambda x, y: sigmoid_cross_entropy(x, y, smoothing=0.2),
        sigmoid_reference(0.2),
        LOGITS,
        BINARY.round(),
    ),
    "squared": (squared_error, lambda a, b: (a - b) ** 2, LOGITS, BINARY),
    "absolute": (absolute_error, lambda a, b: np.abs(a - b), LOGITS, BINARY),
    "huber": (huber, huber_reference(1.0), LOGITS, BINARY),
    "huber wide": (lambda a, b: huber(a, b, delta=2.5), huber_reference(2.5), LOGITS, BINARY),
}


def arrays(inputs, targets):
    integer = targets.dtype.kind == "i"
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, "int32" if integer else "float32")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_fp64_reference(name):
    loss, reference, inputs, targets = CASES[name]
    value = loss(*arrays(inputs, targets))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, reference(inputs, targets), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_central_differences_of_the_reference(name):
    loss, reference, inputs, targets = CASES[name]
    gradient = jax.grad(lambda x, y: loss(x, y).sum())(*arrays(inputs, targets))
    h = 1e-6
    for index in np.ndindex(*inputs.shape):
        step = np.zeros_like(inputs)
        step[index] = h
        rise = reference(inputs + step, targets).sum() - reference(inputs - step, targets).sum()
        np.testing.assert_allclose(gradient[index], rise / (2 * h), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_computes_in_fp32_from_bf16(name):
    loss, reference, inputs, targets = CASES[name]
    x, y = arrays(inputs, targets)
    x = x.astype(jnp.bfloat16)
    value = loss(x, y)
    assert value.dtype == jnp.float32
    # Exact but for fp32 rounding, given the rounded inputs.
    np.testing.assert_allclose(
        value, reference(np.asarray(x, np.float64), targets), rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_have_finite_exact_losses_and_gradients(size, smoothing):
    logits = jnp.asarray([[size, 0.0, -size], [size, size, size]], jnp.float32)
    labels = jnp.asarray([2, 1])
    each = lambda x: softmax_cross_entropy(x, labels, smoothing)  # noqa: E731
    value, pullback = jax.vjp(each, logits)
    spread = 2e4 if size > 0 else 0.0
    smooth = (1 - smoothing) * spread + smoothing * 1e4
    np.testing.assert_allclose(value, [smooth, np.log(3)], rtol=1e-6)
    assert np.isfinite(pullback(jnp.ones(2))[0]).all()

    for label in (0.0, 1.0):
        x, y = jnp.asarray([size], jnp.float32), jnp.asarray([label])
        value, slope = jax.value_and_grad(lambda x: sigmoid_cross_entropy(x, y, smoothing).sum())(x)  # noqa: B023
        p = (1 - smoothing) * label + smoothing / 2
        np.testing.assert_allclose(value, 1e4 * (1 - p if size > 0 else p), rtol=1e-6)
        np.testing.assert_allclose(slope, [float(size > 0) - p], rtol=1e-6)


def test_large_common_offset_keeps_the_digits():
    logits, labels = arrays(np.round(LOGITS * 8) / 8, LABELS)
    np.testing.assert_allclose(
        softmax_cross_entropy(logits + 1e4, labels),
        softmax_cross_entropy(logits, labels),
        rtol=1e-6,
        atol=1e-7,
    )


def test_tiny_sigmoid_losses_keep_their_relative_precision():
    value = sigmoid_cross_entropy(jnp.asarray([20.0, -20.0]), jnp.asarray([1, 0]))
    np.testing.assert_allclose(value, np.log1p(np.exp(-20.0)), rtol=1e-5)


def test_smoothing_moves_the_minimum_to_the_smoothed_label():
    target = jnp.log(jnp.asarray([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]]))
    loss = lambda x: softmax_cross_entropy(x, jnp.asarray([0]), 0.1).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(target), np.zeros((1, 3)), atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_narrow_label_types_name_one_class_only(dtype):
    logits = jnp.zeros((1, 600)).at[0, 300].set(5.0)
    labels = jnp.asarray([44], dtype)  # 300 is 44 modulo 256
    np.testing.assert_allclose(
        softmax_cross_entropy(logits, labels), np.log(599 + np.exp(5.0)), rtol=1e-6
    )


def test_leading_axes_are_free():
    logits = jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32)
    labels = jnp.asarray(RNG.integers(0, 5, size=(2, 3)))
    flat = softmax_cross_entropy(logits.reshape(6, 5), labels.reshape(6))
    np.testing.assert_allclose(softmax_cross_entropy(logits, labels), flat.reshape(2, 3), rtol=1e-6)


@pytest.mark.parametrize(
    "loss", [sigmoid_cross_entropy, squared_error, absolute_error, huber, softmax_cross_entropy]
)
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(UsageError, match=r"\(4, 1\)"):
        loss(jnp.zeros((4, 1)), jnp.zeros(4))


def test_equal_under_jit():
    x, y = arrays(LOGITS, LABELS)
    np.testing.assert_allclose(
        jax.jit(softmax_cross_entropy)(x, y), softmax_cross_entropy(x, y), rtol=1e-6
    )
