"""The compiled side of an experiment: its mesh, its first state, its batches and its step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from deeplearn.data.prefetch import prefetch
from deeplearn.data.stacked import Stacked
from deeplearn.errors import UsageError
from deeplearn.experiment import Experiment
from deeplearn.sharding import (
    BATCH_AXIS,
    batch_sharding,
    make_mesh,
    per_device,
    process_rows,
    state_shardings,
    to_devices,
)
from deeplearn.step import Metrics, TrainState, init_state, scan_steps, train_step
from deeplearn.types import Batch

Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class Program:
    """What an experiment becomes on the devices at hand.

    `shapes` is the abstract state: every leaf with its shape, dtype and sharding. `example` is a
    batch of one. Making a program raises what is wrong with the mesh, the data or the model.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.mesh = make_mesh(experiment.mesh)
        self.dataset = experiment.train_dataset()
        self.optimizer = experiment.optimizer.build(experiment.steps)
        example: Any = self.dataset.batch(0, slice(0, 1))
        experiment.task.check(example)
        self.example: Batch = example
        self._init = functools.partial(
            init_state, experiment.task, self.optimizer, batch=self.example
        )
        abstract = jax.eval_shape(self._init, self._key)
        self._shardings = state_shardings(abstract, self.mesh, experiment.rules)
        self.shapes: TrainState = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            self._shardings,
        )

    def require_divisible(self) -> None:
        """Raises `UsageError` where a batch does not divide over microbatches and devices."""
        experiment = self.experiment
        parts = experiment.microbatches * self.mesh.shape[BATCH_AXIS]
        if experiment.batch_size % parts:
            raise UsageError(
                f"batch_size={experiment.batch_size} must be a multiple of {parts}:"
                f" {experiment.microbatches} microbatches on {parts // experiment.microbatches}"
                f" devices of mesh axis '{BATCH_AXIS}'"
            )

    @property
    def rows(self) -> slice:
        """The rows of a batch that this process reads."""
        return process_rows(self.mesh, self.experiment.batch_size)

    def init(self) -> TrainState:
        """The first state, made where it will live: no leaf is ever whole on one device."""
        return jax.jit(self._init, out_shardings=self._shardings)(self._key)

    def compile(self, batch: Batch) -> Step:
        """The step for batches like this one, compiled once and ahead of time."""
        experiment = self.experiment
        step: Callable = functools.partial(
            train_step,
            experiment.task,
            self.optimizer,
            microbatches=experiment.microbatches,
            skip_limit=experiment.skip_limit,
        )
        if experiment.per_device:
            step = per_device(functools.partial(step, axis=BATCH_AXIS), self.mesh)
        if experiment.steps_per_call > 1:
            step = functools.partial(scan_steps, step)
        outputs = (self._shardings, NamedSharding(self.mesh, PartitionSpec()))
        jitted = jax.jit(step, donate_argnums=0, out_shardings=outputs)
        return jitted.lower(self.shapes, batch).compile()

    def batches(self, start: int) -> Generator[Batch]:
        """The batches of every call from step `start` on, placed ahead of use."""
        experiment, steps = self.experiment, self.experiment.steps_per_call
        dataset = Stacked(self.dataset, steps) if steps > 1 else self.dataset
        sharding = batch_sharding(self.mesh, leading=int(steps > 1))

        def place(batch: Mapping[str, np.ndarray]) -> Batch:
            flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}
            experiment.task.check(flat if steps > 1 else batch)
            return to_devices(batch, sharding)

        return prefetch(dataset, self.rows, range(start, experiment.steps, steps), place)

    @property
    def _key(self) -> jax.Array:
        return jax.random.key(self.experiment.seed)
