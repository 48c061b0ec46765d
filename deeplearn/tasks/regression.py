"""Regression on a standardised target, with predictions and errors in the target's own unit.

A batch holds `x` (B, …), `target` (B,) or (B, outputs) and optionally `mask` (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deeplearn.errors import DataError, UsageError, did_you_mean
from deeplearn.losses import huber, squared_error
from deeplearn.metrics import mean_absolute_error, mean_squared_error
from deeplearn.tasks.checks import require_fields, require_finite
from deeplearn.tasks.forward import (
    apply_evaluation,
    apply_training,
    cleared,
    initialize,
    outputs_of,
    require_outputs,
)
from deeplearn.types import Array, Aux, Batch, Mean, Variables

ERRORS: Mapping[str, Callable[[Array, Array], Array]] = {
    "squared_error": squared_error,
    "huber": huber,
}


@dataclass(frozen=True)
class Regression:
    """Trains `model` on z = (target − `target_mean`) / `target_scale`.

    The two are in the target's unit, one number or one for each output: usually the mean and the
    standard deviation of the training targets. The loss is `error` of z, "squared_error" or
    "huber", averaged over outputs and examples.
    """

    model: nn.Module
    error: str = "squared_error"
    target_mean: float | tuple[float, ...] = 0.0
    target_scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if self.error not in ERRORS:
            raise UsageError(
                f"task Regression: unknown error '{self.error}'{did_you_mean(self.error, ERRORS)}"
            )
        if not np.all(np.asarray(self.target_scale) > 0):
            raise UsageError(
                f"task Regression: target_scale = {self.target_scale} must be above 0; use the"
                " standard deviation of the training targets"
            )

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables; `batch` gives shapes only."""
        return initialize(self.model, rng, batch["x"])

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The mean error of z, and the mean absolute error `mae` in the target's unit."""
        batch = cleared(batch)
        z, mutated = apply_training(self.model, variables, rng, batch["x"])
        means = self._means(z, batch)
        loss = means["loss"]
        return loss.value, Aux(loss.weight, {"mae": means["mae"]}, mutated)

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`loss` of z, and `mse` (its root is the RMSE) and `mae` in the target's unit."""
        batch = cleared(batch)
        return self._means(apply_evaluation(self.model, variables, batch["x"]), batch)

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """`target`, fp32 in its own unit: (B, outputs), or (B,) for one output."""
        target = self._in_unit(apply_evaluation(self.model, variables, batch["x"]))
        return {"target": target[:, 0] if target.shape[-1] == 1 else target}

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` for inputs or targets that are not finite, or a wrong shape."""
        require_fields(batch, "x", "target")
        require_finite(batch, "x")
        require_finite(batch, "target")
        outputs, shape = outputs_of(self.model), batch["target"].shape
        if shape[1:] != (outputs,) and (outputs != 1 or len(shape) != 1):
            raise DataError(
                f"field 'target' has shape {shape}, but model.outputs = {outputs} needs"
                f" (B, {outputs}); change the dataset or the model"
            )

    def _means(self, z: Array, batch: Batch) -> dict[str, Mean]:
        """`loss`, `mse` and `mae` of the model's output z (B, outputs)."""
        target = batch["target"].astype(jnp.float32).reshape(len(batch["target"]), -1)
        require_outputs(self.model, z, len(target))
        mean, scale = self._standard()
        losses = ERRORS[self.error](z, (target - mean) / scale).mean(-1)
        mask = batch.get("mask")
        each = None if mask is None else jnp.broadcast_to(mask[:, None], target.shape)
        return {
            "loss": Mean.of(losses, mask),
            "mse": mean_squared_error(self._in_unit(z), target, each),
            "mae": mean_absolute_error(self._in_unit(z), target, each),
        }

    def _in_unit(self, z: Array) -> Array:
        mean, scale = self._standard()
        return z.astype(jnp.float32) * scale + mean

    def _standard(self) -> tuple[Array, Array]:
        """Mean and scale of the target, (1, 1) or (1, outputs)."""
        mean, scale = (
            jnp.asarray(value, jnp.float32).reshape(1, -1)
            for value in (self.target_mean, self.target_scale)
        )
        return mean, scale
