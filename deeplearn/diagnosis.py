"""Diagnosis: why a run cannot go on, by numbers that are not finite or that end all learning.

The step itself refuses a bad update and marks where it did. Here that mark becomes an error that
names the step and, where a task has several parts, the part that broke.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from deeplearn.errors import NumericsError
from deeplearn.evaluate import values
from deeplearn.experiment import Experiment
from deeplearn.step import Control, TrainState, train_step
from deeplearn.tasks.task import Diagnosing
from deeplearn.types import PyTree


def raise_if_halted(experiment: Experiment, state: TrainState) -> None:
    """Raises `NumericsError` where the step refused to go on; waits for the latest step."""
    halted_at = int(state.control.halted_at)
    if halted_at < 0:
        return
    task, culprit = experiment.task, ""
    if isinstance(task, Diagnosing):
        culprit = _overflown(state.params, task.parts) or task.diagnose(
            _metrics_of(experiment, state, halted_at)
        )
    raise NumericsError(
        f"experiment '{experiment.name}': loss, gradient or update of step {halted_at + 1} is"
        f" not finite{culprit and f' in the {culprit}'}, and no state behind it was saved; start"
        " in a new directory with a lower learning rate, with optimizer.clip_norm, or with"
        " skip_limit, which allows a few"
    )


def raise_if_collapsed(experiment: Experiment, step: int, row: Mapping[str, float]) -> None:
    """Raises `NumericsError` where a part of the task is finite and can no longer learn."""
    task = experiment.task
    if isinstance(task, Diagnosing) and (reason := task.collapse(row)):
        raise NumericsError(
            f"experiment '{experiment.name}': in step {step} {reason}; start in a new"
            " directory with a lower learning rate or another objective"
        )


def _metrics_of(experiment: Experiment, state: TrainState, step: int) -> dict[str, float]:
    """The metrics of the step that halted, taken again: no later one has moved what it began with.

    Those of the latest step tell nothing where its batch is a good one. (A run with `per_device`
    had other random numbers in that step.)
    """
    batch = experiment.train_dataset().batch(step, slice(0, experiment.batch_size))
    before = dataclasses.replace(state, step=jnp.asarray(step), control=Control.initial())
    optimizer = experiment.optimizer.build(experiment.steps)
    again = functools.partial(
        train_step, experiment.task, optimizer, microbatches=experiment.microbatches
    )
    return values(jax.jit(again)(before, batch)[1])


def _overflown(params: PyTree, parts: tuple[str, ...]) -> str:
    """The part whose parameters the last update made overflow; "" if none."""
    norms = {part: optax.tree.norm(params[part]) for part in parts}
    return next((part for part, norm in norms.items() if not jnp.isfinite(norm)), "")
