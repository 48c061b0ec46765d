"""A space of features with a name: what a trained classifier reads just ahead of its logits."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import linen as nn

from deeplearn.data.pixels import PixelRange
from deeplearn.errors import UsageError
from deeplearn.layers.dense import Dense
from deeplearn.report.receipt import state_sha256
from deeplearn.step import evaluation_variables
from deeplearn.tasks.classification import Classification
from deeplearn.tasks.forward import apply_evaluation
from deeplearn.types import Array, Variables

if TYPE_CHECKING:
    from deeplearn.train import Run


class Features:
    """Images (N, Y, X, C) in [0, 1] → features (N, D) float32 of the classifier of a run.

    `name` is the `experiment`'s, `sha256` the hash of the state (that of the run's receipt, where
    the run was not stopped early): both belong beside every number that is measured in this space.
    Raises `UsageError` for the run of another task, and for images of another shape.
    """

    def __init__(self, run: Run):
        task = run.experiment.task
        if not isinstance(task, Classification):
            raise UsageError(
                f"features come from a classifier, and the task of {run.workdir} is"
                f" {type(task).__name__}; name the run of a classifier"
            )
        self.experiment, self.sha256 = run.experiment, state_sha256(run.state)
        self.name = run.experiment.name
        self.metrics = run.metrics
        self._model, self._variables = task.model, evaluation_variables(run.state)
        self._shape = run.experiment.train.spec["x"].shape
        self._range = PixelRange.of(run.experiment.train)
        self._rows = run.experiment.evaluation_batch_size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._seen(images)[0]

    def labels(self, images: np.ndarray) -> np.ndarray:
        """The class (N,) that the classifier itself takes each image for."""
        logits = self._seen(images)[1]
        return logits.argmax(axis=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).astype(int)

    def _seen(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and logits, a batch at a time; a last batch that is too small is filled up."""
        if images.shape[1:] != self._shape or not len(images):
            raise UsageError(
                f"the classifier {self.name} looks at images {self._shape}, and was shown"
                f" {images.shape}; take one of the same data"
            )
        rows = min(self._rows, len(images))
        parts = []
        for start in range(0, len(images), rows):
            batch = images[np.minimum(np.arange(start, start + rows), len(images) - 1)]
            x = self._range.restored(batch).astype(np.float32)
            parts.append(jax.device_get(_penultimate(self._model, self._variables, x)))
        features, logits = (
            np.concatenate(part)[: len(images)] for part in zip(*parts, strict=True)
        )
        return features, logits


@functools.partial(jax.jit, static_argnames="model")
def _penultimate(model: nn.Module, variables: Variables, x: Array) -> tuple[Array, Array]:
    """What the last dense layer of a model reads (B, D), and the logits (B, outputs)."""
    read: list[Array] = []

    def intercept(call, arguments, options, context):  # type: ignore[no-untyped-def]
        # Only layers of the model itself: those of a block may run inside a loop.
        own = len(context.module.path) == 1 and isinstance(context.module, Dense | nn.Dense)
        if own and context.method_name == "__call__":
            read.append(arguments[0])
        return call(*arguments, **options)

    with nn.intercept_methods(intercept):
        logits = apply_evaluation(model, variables, x)
    if not read:
        raise UsageError(
            f"model {type(model).__name__} has no dense layer of its own, whose input could serve"
            " as features; take another classifier"
        )
    return read[-1].reshape(len(x), -1).astype(np.float32), logits
