"""Metrics as means that add: each returns `Mean`, weighted by an optional `mask`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from deeplearn.errors import UsageError
from deeplearn.losses import absolute_error, squared_error
from deeplearn.types import Array, Mean


def class_labels(labels: Array, logits: Array) -> Array:
    """Class numbers (…): `labels` as they are, or the likeliest class of soft ones (…, C)."""
    return labels.argmax(-1) if labels.ndim == logits.ndim else labels


def accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Mean:
    """How often the largest of `logits` (…, C) is at `labels`, int (…) or soft (…, C).

    Of equal logits the first counts; `mask` is (…).
    """
    return Mean.of(logits.argmax(-1) == class_labels(labels, logits), mask)


def top_k_accuracy(logits: Array, labels: Array, k: int = 5, mask: Array | None = None) -> Mean:
    """How often `labels`, int (…) or soft (…, C), is among the `k` largest `logits` (…, C).

    Of equal logits the first count, so a constant model scores k/C; `mask` is (…).
    """
    if not 1 <= k <= logits.shape[-1]:
        raise UsageError(
            f"top_k_accuracy: k = {k} is outside [1, {logits.shape[-1]}], the number of classes"
        )
    _, best = jax.lax.top_k(logits, k)
    return Mean.of((best == class_labels(labels, logits)[..., None]).any(-1), mask)


def binary_accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Mean:
    """How often the sign of `logits` (…) agrees with `labels` (…) above one half."""
    return Mean.of((logits > 0) == (labels.astype(jnp.float32) > 0.5), mask)


def mean_squared_error(prediction: Array, target: Array, mask: Array | None = None) -> Mean:
    """The mean of squared differences, all (…), in the target's unit squared."""
    return Mean.of(squared_error(prediction, target), mask)


def mean_absolute_error(prediction: Array, target: Array, mask: Array | None = None) -> Mean:
    """The mean of absolute differences, all (…), in the target's unit."""
    return Mean.of(absolute_error(prediction, target), mask)
