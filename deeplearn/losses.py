"""Losses per example: pure functions without a reduction, in fp32 whatever comes in.

The task averages them, so that masks and weights live in one place (`types.Mean`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from deeplearn.errors import UsageError
from deeplearn.types import Array


def softmax_cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """The cross-entropy (…) in nats of `labels` under softmax of `logits` (…, C).

    `labels` are class numbers, int (…), or probabilities, float (…, C). `smoothing` s, a Python
    number, mixes them with the uniform distribution: (1 − s)·label + s/C (Szegedy et al., 2016,
    arXiv:1512.00567).
    """
    logits = logits.astype(jnp.float32)
    # The loss does not change with the shift; logits of ±1e4 keep the digits after the point.
    logits = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    log_normalizer = jnp.log(jnp.exp(logits).sum(-1))
    if jnp.issubdtype(labels.dtype, jnp.integer):
        _same_shape("labels", labels.shape, "logits without their class axis", logits.shape[:-1])
        # On a CPU 0.75 of the time of a comparison with every class at C = 1000, equal at 10.
        index = labels.astype(jnp.int32)[..., None]
        loss = log_normalizer - jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    else:
        _same_shape("labels", labels.shape, "logits", logits.shape)
        labels = labels.astype(jnp.float32)
        loss = labels.sum(-1) * log_normalizer - (labels * logits).sum(-1)
    if smoothing:
        loss = (1.0 - smoothing) * loss + smoothing * (log_normalizer - logits.mean(-1))
    return loss


def sigmoid_cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """The cross-entropy (…) in nats of `labels` (…) in [0, 1] under sigmoid of `logits` (…).

    `smoothing` s moves the labels towards one half: (1 − s)·label + s/2.
    """
    _same_shape("labels", labels.shape, "logits", logits.shape)
    logits = logits.astype(jnp.float32)
    labels = (1.0 - smoothing) * labels.astype(jnp.float32) + smoothing / 2
    # −log σ(x) = softplus(−x), which is max(−x, 0) + log1p(e^−|x|): no overflow, no cancellation.
    return labels * jax.nn.softplus(-logits) + (1.0 - labels) * jax.nn.softplus(logits)


def squared_error(prediction: Array, target: Array) -> Array:
    """The squared difference (…) of `prediction` (…) and `target` (…), without a factor ½."""
    return jnp.square(_difference(prediction, target))


def absolute_error(prediction: Array, target: Array) -> Array:
    """The absolute difference (…) of `prediction` (…) and `target` (…)."""
    return jnp.abs(_difference(prediction, target))


def huber(prediction: Array, target: Array, delta: float = 1.0) -> Array:
    """½·e² where |e| ≤ `delta`, else `delta`·(|e| − ½·`delta`); e = `prediction` − `target` (…).

    Huber, 1964, Robust Estimation of a Location Parameter.
    """
    size = jnp.abs(_difference(prediction, target))
    quadratic = jnp.minimum(size, delta)
    return 0.5 * jnp.square(quadratic) + delta * (size - quadratic)


def _difference(prediction: Array, target: Array) -> Array:
    _same_shape("prediction", prediction.shape, "target", target.shape)
    return prediction.astype(jnp.float32) - target.astype(jnp.float32)


def _same_shape(name: str, shape: tuple[int, ...], other: str, expected: tuple[int, ...]) -> None:
    """Refuses (B, 1) against (B,), which would broadcast to (B, B) without a word."""
    if shape != expected:
        raise UsageError(
            f"loss: {name} has shape {shape}, {other} {expected}: make the two shapes equal"
        )
