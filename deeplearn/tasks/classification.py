"""Classification: softmax over C classes, or a sigmoid for two.

A batch holds `x` (B, …), `label` and optionally `mask` (B,). `model.outputs` = C > 1 means softmax
and labels int (B,) in [0, C) or probabilities (B, C); `outputs` = 1 means sigmoid and labels
0 or 1, or the probability of class 1, (B,). A model with a `vocabulary` reads tokens: `x` is int
(B, T), 0 for padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deeplearn.errors import DataError, UsageError
from deeplearn.losses import sigmoid_cross_entropy, softmax_cross_entropy
from deeplearn.metrics import accuracy, binary_accuracy
from deeplearn.tasks.checks import refuse_rows, require_fields, require_finite, require_tokens
from deeplearn.tasks.forward import (
    apply_evaluation,
    apply_training,
    cleared,
    initialize,
    outputs_of,
    require_outputs,
)
from deeplearn.types import Array, Aux, Batch, Mean, Variables


@dataclass(frozen=True)
class Classification:
    """Trains `model` by cross-entropy, with label `smoothing` in [0, 1) in training only."""

    model: nn.Module
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"task Classification: smoothing = {self.smoothing} is outside [0, 1)")

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables; `batch` gives shapes only."""
        return initialize(self.model, rng, batch["x"])

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The mean cross-entropy in nats, smoothed, and the accuracy in training mode."""
        batch = cleared(batch)
        logits, mutated = apply_training(self.model, variables, rng, batch["x"])
        means = self._means(logits, batch, self.smoothing)
        loss = means["loss"]
        return loss.value, Aux(loss.weight, {"accuracy": means["accuracy"]}, mutated)

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`loss` in nats, without smoothing so that any two runs compare, and `accuracy`."""
        batch = cleared(batch)
        logits = apply_evaluation(self.model, variables, batch["x"])
        return self._means(logits, batch, smoothing=0.0)

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """`probabilities` fp32 (B, C), C = 2 for a sigmoid, and the likeliest `label` (B,)."""
        logits = apply_evaluation(self.model, variables, batch["x"]).astype(jnp.float32)
        if logits.shape[-1] == 1:
            probabilities = jax.nn.sigmoid(jnp.concatenate([-logits, logits], axis=-1))
        else:
            probabilities = jax.nn.softmax(logits)
        return {"probabilities": probabilities, "label": probabilities.argmax(-1)}

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` for labels out of range, of the wrong kind, or inputs not finite."""
        require_fields(batch, "x", "label")
        require_finite(batch, "x")
        vocabulary = getattr(self.model, "vocabulary", None)
        if vocabulary is not None:
            require_tokens(batch, "x", vocabulary)
        outputs, label = outputs_of(self.model), np.asarray(batch["label"])
        classes, soft = (2, label.shape[:1]) if outputs == 1 else (outputs, (len(label), outputs))
        if label.dtype.kind in "iu" and label.ndim == 1:
            wrong = (label < 0) | (label >= classes)
            reason = f"is outside [0, {classes - 1}]; mend the labels or model.outputs = {outputs}"
        elif label.dtype.kind == "f" and label.shape == soft:
            wrong = ~((label >= 0) & (label <= 1))
            if outputs > 1:
                wrong = wrong.any(-1) | ~(np.abs(label.sum(-1) - 1) < 1e-3)
            reason = "is no probability; soft labels lie in [0, 1] and add up to 1"
        else:
            raise DataError(
                f"field 'label' is {label.dtype} {label.shape}, but model.outputs = {outputs} needs"
                f" integers ({len(label)},) or probabilities, float {soft}; convert the labels"
            )
        refuse_rows(batch, "label", wrong, reason)

    def _means(self, logits: Array, batch: Batch, smoothing: float) -> dict[str, Mean]:
        """`loss` and `accuracy` of logits (B, outputs)."""
        labels, mask = batch["label"], batch.get("mask")
        require_outputs(self.model, logits, len(labels))
        if logits.shape[-1] == 1:
            logits = logits[:, 0]
            losses = sigmoid_cross_entropy(logits, labels, smoothing)
            hits = binary_accuracy(logits, labels, mask)
        else:
            losses = softmax_cross_entropy(logits, labels, smoothing)
            hits = accuracy(logits, labels, mask)
        return {"loss": Mean.of(losses, mask), "accuracy": hits}
