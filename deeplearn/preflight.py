"""Preflight: what can be known of the data of a run before its directory is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from deeplearn.data.dataset import Sequential
from deeplearn.data.memory import InMemory
from deeplearn.errors import Error
from deeplearn.program import Program
from deeplearn.tasks.task import Task


def check(program: Program) -> None:
    """Raises a `deeplearn.errors.Error` that names the split and says what is wrong with it.

    Arrays in memory are checked whole, other data by their first example; the loop checks every
    batch in any case.
    """
    experiment = program.experiment
    # What an augmentation makes of its examples is seen in the loop alone.
    if isinstance(experiment.train, InMemory) and not experiment.augment:
        rows = Sequential(experiment.train, experiment.evaluation_batch_size)
        _check_rows(experiment.task, "train", rows)


def _check_rows(task: Task, split: str, dataset: Sequential) -> None:
    # Windows of a text are in memory too, but overlap: all of them are many times the text.
    whole = isinstance(dataset.source, InMemory)
    for step in range(dataset.batches if whole else 1):
        first = step * dataset.batch_size
        size = min(dataset.batch_size, len(dataset) - first) if whole else 1
        with _naming(f"split '{split}', examples from {first} on"):
            task.check(dataset.batch(step, slice(0, size)))


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Puts the place of the data before the message of an error."""
    try:
        yield
    except Error as error:
        raise type(error)(f"{place}: {error}") from None
