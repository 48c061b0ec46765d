"""Learning-rate schedules: pure functions of (step, peak, total steps).

Every schedule rises linearly from 0 over `warmup` steps, reaches the peak at step `warmup` and
goes on as its `relative` says. Step may be a scalar or an array; every number may be traced.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from deeplearn.errors import UsageError
from deeplearn.types import Array

MOST_TRIED = 1_000_000
"""Steps whose learning rates are looked at ahead of a run."""


@dataclass(frozen=True)
class Schedule(abc.ABC):
    """Base of all schedules: a linear warm-up, then `peak` · `relative`."""

    warmup: int = 0

    def __call__(self, step: ArrayLike, peak: ArrayLike, steps: ArrayLike) -> Array:
        """The learning rate (shape of `step`) at step 0, 1, … of `steps`."""
        step = jnp.asarray(step, jnp.float32)
        rising = step / jnp.maximum(self.warmup, 1)
        return jnp.where(step < self.warmup, rising, self.relative(step, steps)) * peak

    @abc.abstractmethod
    def relative(self, step: Array, steps: ArrayLike) -> Array:
        """What multiplies the peak after the warm-up (shape of `step`)."""

    def progress(self, step: Array, steps: ArrayLike) -> Array:
        """How much of the time after the warm-up is over, in [0, 1]."""
        return jnp.clip((step - self.warmup) / jnp.maximum(steps - self.warmup, 1), 0.0, 1.0)

    def validate(self, peak: float, steps: int) -> None:
        """Raises `UsageError` where the schedule cannot serve a run of `steps` steps."""
        name = f"schedule {type(self).__name__}"
        if not 0 <= self.warmup <= steps:
            raise UsageError(
                f"{name}: warmup = {self.warmup} is outside [0, {steps}], the steps of the run;"
                " change `warmup` or `steps`"
            )
        # All steps of a run but the longest; of that a sample, and where the warm-up ends.
        tried = np.rint(np.linspace(0, steps - 1, min(steps, MOST_TRIED))).astype(np.int64)
        tried = np.union1d(tried, np.clip(self.warmup + np.arange(-1, 2), 0, steps - 1))
        rates = np.asarray(self(tried, peak, steps))
        wrong = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
        if wrong.size:
            step, rate = tried[wrong[0]], rates[wrong[0]]
            raise UsageError(
                f"{name}: the learning rate at step {step} is {rate:g}, but must be"
                f" finite and 0 or more; change the fields of {self}"
            )


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak, to the end."""

    def relative(self, step: Array, steps: ArrayLike) -> Array:
        return jnp.ones_like(step)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the peak to `final` · peak (Loshchilov & Hutter, 2017)."""

    final: float = 0.0

    def relative(self, step: Array, steps: ArrayLike) -> Array:
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * self.progress(step, steps)))
        return self.final + (1.0 - self.final) * cosine


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from the peak to `final` · peak."""

    final: float = 0.0

    def relative(self, step: Array, steps: ArrayLike) -> Array:
        return 1.0 + (self.final - 1.0) * self.progress(step, steps)


@dataclass(frozen=True)
class Step(Schedule):
    """The peak times `factor` for every step number of `boundaries` that was reached."""

    boundaries: tuple[int, ...] = ()
    factor: float = 0.1

    def relative(self, step: Array, steps: ArrayLike) -> Array:
        reached = sum((step >= boundary for boundary in self.boundaries), jnp.zeros_like(step))
        return jnp.power(self.factor, reached)


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay: the peak, then a line to `final` · peak over the end of the run.

    `decay` is the length of that end, a fraction of all steps (Hu et al., 2024,
    arXiv:2404.06395).
    """

    decay: float = 0.2
    final: float = 0.0

    def relative(self, step: Array, steps: ArrayLike) -> Array:
        left = jnp.clip((steps - step) / jnp.maximum(self.decay * steps, 1.0), 0.0, 1.0)
        return self.final + (1.0 - self.final) * left

    def validate(self, peak: float, steps: int) -> None:
        """Raises `UsageError` where warm-up and decay do not fit into `steps` steps."""
        if not 0 <= self.decay <= 1:
            raise UsageError(
                f"schedule WSD: decay = {self.decay} is outside [0, 1], a fraction of all steps"
            )
        if self.warmup + self.decay * steps > steps:
            raise UsageError(
                f"schedule WSD: warmup = {self.warmup} and decay = {self.decay} of {steps} steps"
                " overlap; make one of them smaller"
            )
        super().validate(peak, steps)
