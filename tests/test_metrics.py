"""Metrics count what they say, add up over parts, and leave masked places out."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.metrics import (
    accuracy,
    binary_accuracy,
    mean_absolute_error,
    mean_squared_error,
    top_k_accuracy,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(20, 6)).astype("float32")
LABELS = RNG.integers(0, 6, size=20)
SIGNS = (RNG.uniform(size=20) > 0.5).astype("int32")
RANKS = (-LOGITS).argsort(-1).argsort(-1)[np.arange(20), LABELS]

CASES = {
    "accuracy": (accuracy, LOGITS, LABELS, (LOGITS.argmax(-1) == LABELS)),
    "top 3": (
        lambda x, y, mask=None: top_k_accuracy(x, y, 3, mask),
        LOGITS,
        LABELS,
        RANKS < 3,
    ),
    "binary": (binary_accuracy, LOGITS[:, 0], SIGNS, (LOGITS[:, 0] > 0) == SIGNS),
    "squared": (mean_squared_error, LOGITS[:, 0], LOGITS[:, 1], (LOGITS[:, 0] - LOGITS[:, 1]) ** 2),
    "absolute": (
        mean_absolute_error,
        LOGITS[:, 0],
        LOGITS[:, 1],
        np.abs(LOGITS[:, 0] - LOGITS[:, 1]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_the_mean_of_the_reference(name):
    metric, first, second, values = CASES[name]
    mean = metric(jnp.asarray(first), jnp.asarray(second))
    assert mean.weight == 20
    np.testing.assert_allclose(mean.value, values.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_parts_add_up_to_the_whole(name):
    metric, first, second, values = CASES[name]
    a, b = jnp.asarray(first), jnp.asarray(second)
    # Parts of unequal size: a mean of means would be wrong.
    total = metric(a[:3], b[:3]) + metric(a[3:], b[3:])
    np.testing.assert_allclose(total.value, values.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_masked_places_count_nothing(name):
    metric, first, second, values = CASES[name]
    mask = np.arange(20) % 3 > 0
    first = np.where(mask.reshape((20,) + (1,) * (first.ndim - 1)), first, np.nan)
    mean = metric(jnp.asarray(first), jnp.asarray(second), mask=jnp.asarray(mask, jnp.float32))
    assert mean.weight == mask.sum()
    np.testing.assert_allclose(mean.value, values[mask].mean(), rtol=1e-6)


def test_accuracy_of_soft_labels_takes_the_likeliest_class():
    soft = 0.7 * np.eye(6)[LABELS] + 0.05
    assert accuracy(jnp.asarray(LOGITS), jnp.asarray(soft)) == accuracy(
        jnp.asarray(LOGITS), jnp.asarray(LABELS)
    )


def test_constant_model_does_not_score_by_ties():
    logits, labels = jnp.zeros((6, 6)), jnp.arange(6)
    np.testing.assert_allclose(accuracy(logits, labels).value, 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(top_k_accuracy(logits, labels, 3).value, 3 / 6, rtol=1e-6)


def test_top_k_of_all_classes_is_one_and_more_is_refused():
    assert top_k_accuracy(jnp.asarray(LOGITS), jnp.asarray(LABELS), 6).value == 1
    with pytest.raises(UsageError, match="k = 7"):
        top_k_accuracy(jnp.asarray(LOGITS), jnp.asarray(LABELS), 7)


def test_nothing_counted_is_zero_and_not_nan():
    mean = accuracy(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.zeros(20))
    assert (mean.weight, mean.value) == (0, 0)
