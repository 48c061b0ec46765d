"""Preflight: what can be known of a run's batches and data before its directory is made."""

from __future__ import annotations

from collections.abc import Iterable

from deeplearn.data.dataset import Sequential
from deeplearn.data.memory import InMemory
from deeplearn.data.source import Field
from deeplearn.errors import DataError, Error, UsageError, naming
from deeplearn.evaluate import Evaluator
from deeplearn.experiment import EarlyStopping
from deeplearn.program import Program
from deeplearn.tasks.task import Task


def check(program: Program, evaluator: Evaluator) -> None:
    """Raises a `deeplearn.errors.Error` that says what is wrong, of data with their split.

    Arrays in memory are checked whole, unless training augments them; other data by their first
    example. The loop checks every batch in any case. Evaluations are traced and not computed.
    """
    experiment = program.experiment
    program.require_divisible()
    # What an augmentation makes of its examples is seen in the loop alone.
    if isinstance(experiment.train, InMemory) and not experiment.augment:
        rows = Sequential(experiment.train, experiment.evaluation_batch_size)
        _check_rows(experiment.task, "train", rows)
    for split in experiment.evaluation:
        with naming(f"split '{split}'"):
            dataset = evaluator.dataset(split)
        _check_rows(experiment.task, split, dataset)
        measured = _measured(program, evaluator, split)
        if (stop := experiment.early_stopping) is not None:
            _check_watched(stop, split, measured)


def _check_rows(task: Task, split: str, dataset: Sequential) -> None:
    # Windows of a text are in memory too, but overlap: all of them are many times the text.
    whole = isinstance(dataset.source, InMemory)
    for step in range(dataset.batches if whole else 1):
        first = step * dataset.batch_size
        size = min(dataset.batch_size, len(dataset) - first) if whole else 1
        with naming(f"split '{split}', examples from {first} on"):
            task.check(dataset.batch(step, slice(0, size)))


def _measured(program: Program, evaluator: Evaluator, split: str) -> Iterable[str]:
    """The names of the metrics of a split; raises `DataError` where its fields do not fit."""
    variables = {"params": program.shapes.params, **program.shapes.collections}
    try:
        with naming(f"split '{split}'"):
            return evaluator.names(variables, split)
    except Error:
        raise
    except Exception as error:  # flax, JAX and models raise many types for a wrong shape
        spec, expected = program.experiment.evaluation[split].spec, program.dataset.spec
        differing = [name for name in expected if spec.get(name) != expected[name]]
        if not differing:
            raise
        fields = "; ".join(
            f"field '{name}' is {_text(spec.get(name))}, in training {_text(expected[name])}"
            for name in differing
        )
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"split '{split}' does not fit the model: {fields}; give it the fields and shapes of"
            f" the training data ({reason})"
        ) from error


def _check_watched(stop: EarlyStopping, split: str, measured: Iterable[str]) -> None:
    """Refuses a watched metric that the evaluation does not measure."""
    watched, _, name = stop.metric.partition("/")
    if watched == split and name not in measured:
        known = ", ".join(f"{split}/{metric}" for metric in measured)
        raise UsageError(
            f"early_stopping.metric={stop.metric!r} is not measured; choose one of: {known}"
        )


def _text(field: Field | None) -> str:
    return "missing" if field is None else f"{field.dtype} {field.shape}"
