"""What a trained generative model draws, on the host: any number of samples, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplearn.errors import UsageError
from deeplearn.experiment import Experiment
from deeplearn.sampling.images import Request, interpolate
from deeplearn.tasks.task import Generative
from deeplearn.types import Array, Variables

ROWS, COLUMNS, POINTS = 8, 8, 2000


def overview(experiment: Experiment) -> Request:
    """What shows a model at a glance: 8 rows of every class in turn, or 2000 points.

    Of more than 16 classes it is 64 samples of the classes in turn, so of the first 64 at most.
    """
    shape, labels = _shape(experiment), tuple(range(_task(experiment).classes))
    count = POINTS if len(shape) == 1 else ROWS * columns(Request(labels=labels))
    return Request(count, labels, shape)


def columns(request: Request) -> int:
    """The columns of a grid of samples: one for each class, unless they are one or many."""
    classes = len(request.labels)
    return classes if 1 < classes <= 2 * COLUMNS else COLUMNS


def generate(
    experiment: Experiment, variables: Variables, request: Request, rng: Array
) -> np.ndarray:
    """The samples (count, …) float32 of a request, in the unit of the experiment's data.

    They have the shape of the data, and are drawn `evaluation_batch_size` at a time: memory does
    not grow with their number. Raises `UsageError` for what the task cannot draw.
    """
    task = _task(experiment)
    request = dataclasses.replace(request, shape=_shape(experiment))
    batches = [
        jax.device_get(task.sample(variables, key, part))
        for key, part in _parts(experiment, request, rng)
    ]
    return np.concatenate(batches)[: request.count]


def interpolations(
    experiment: Experiment, variables: Variables, request: Request, rng: Array
) -> np.ndarray:
    """8 rows from one sample to another in 8 steps, (8, 8, …); a row has one class.

    What a sampler draws on the way, as DDPM does, would differ from step to step: choose another.
    """
    ends_rng, draw_rng = jax.random.split(rng)
    both = dataclasses.replace(request, count=2 * ROWS, shape=_shape(experiment))
    classes = both.part(0, ROWS).class_of()
    labels = () if classes is None else tuple(map(int, np.repeat(classes, COLUMNS)))
    each = dataclasses.replace(both, count=ROWS * COLUMNS, labels=labels)
    task = _task(experiment)
    first, last = jnp.split(task.latents(ends_rng, both), 2)
    latents = interpolate(first, last, COLUMNS)
    flat = latents.reshape(-1, *latents.shape[2:])
    x = jax.device_get(task.draw(variables, flat, each, draw_rng))
    return x.reshape(ROWS, COLUMNS, *x.shape[1:])


def denoising_path(
    experiment: Experiment, variables: Variables, request: Request, rng: Array
) -> np.ndarray:
    """x_t behind every step of diffusion, (steps, count, …), at the scale of the data.

    It ends in what `generate` draws by the same key, also of a larger request of the same labels.
    """
    task: Any = _task(experiment)
    request = dataclasses.replace(request, shape=_shape(experiment))
    batches = []
    for key, part in _parts(experiment, request, rng):
        # As `sample` splits it: one key for the latents, one for what is drawn on the way.
        latents_rng, step_rng = jax.random.split(key)
        latents = task.latents(latents_rng, part)
        batches.append(jax.device_get(task.path(variables, latents, part, step_rng)))
    return np.concatenate(batches, axis=1)[:, : request.count]


def _parts(experiment: Experiment, request: Request, rng: Array) -> Iterator[tuple[Array, Request]]:
    """The key and the request of every batch of `evaluation_batch_size` samples at most.

    A last batch that is too small is drawn whole, to be cut: its program is there already.
    """
    rows = min(experiment.evaluation_batch_size, request.count)
    for start in range(0, request.count, rows):
        yield jax.random.fold_in(rng, start), request.part(start, start + rows)


def _task(experiment: Experiment) -> Generative:
    """The task, which must be one that draws examples."""
    if not isinstance(experiment.task, Generative):
        raise UsageError(
            f"experiment '{experiment.name}': its task {type(experiment.task).__name__} draws no"
            " examples; take the run of a generative model"
        )
    return experiment.task


def _shape(experiment: Experiment) -> tuple[int, ...]:
    """That of one example of the data."""
    return experiment.train_dataset().spec["x"].shape
