"""Checks of a host batch: what a compiled loss would misread without a word is refused here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deeplearn.errors import DataError

HostBatch = Mapping[str, np.ndarray]


def require_fields(batch: HostBatch, *names: str) -> None:
    """Raises `DataError` where the batch lacks one of the fields."""
    for name in names:
        if name not in batch:
            raise DataError(
                f"the batch has no field '{name}', only {', '.join(sorted(batch))};"
                " name the fields of the dataset as the task does"
            )


def require_finite(batch: HostBatch, name: str) -> None:
    """Raises `DataError` where a row that counts holds NaN or infinity in the field (B, …)."""
    finite = np.isfinite(batch[name])
    if not finite.all():
        rows = np.logical_not(finite.reshape(len(finite), -1).all(axis=1))
        refuse_rows(batch, name, rows, "must be finite; clean the data")


def require_tokens(batch: HostBatch, name: str, vocabulary: int, shortest: int = 1) -> None:
    """Raises `DataError` where the field is not int (B, T) in [0, vocabulary), T ≥ `shortest`."""
    tokens = np.asarray(batch[name])
    if tokens.dtype.kind not in "iu" or tokens.ndim != 2 or tokens.shape[1] < shortest:
        raise DataError(
            f"field '{name}' is {tokens.dtype} {tokens.shape}; tokens are integers (B, T) with T of"
            f" {shortest} or more"
        )
    outside = (tokens < 0) | (tokens >= vocabulary)
    rows = outside.any(1) & (batch["mask"] > 0) if "mask" in batch else outside.any(1)
    if rows.any():
        row = int(rows.argmax())
        place = int(outside[row].argmax())
        raise DataError(
            f"field '{name}' in row {row} of the batch holds token {tokens[row, place]} at place"
            f" {place}: outside the vocabulary [0, {vocabulary - 1}]; encode the text with the"
            " vocabulary of the model"
        )


def require_labels(batch: HostBatch, classes: int) -> None:
    """Raises `DataError` for a `label` below 0, or of `classes` or more unless that is 0."""
    label = np.asarray(batch["label"])
    if classes:
        reason = f"is outside [0, {classes - 1}]; mend the labels or the field `classes`"
        refuse_rows(batch, "label", (label < 0) | (label >= classes), reason)
    else:
        refuse_rows(batch, "label", label < 0, "must be 0 or more")


def refuse_rows(batch: HostBatch, name: str, bad: np.ndarray, reason: str) -> None:
    """Raises `DataError` with the value and the row of the first `bad` (B,) row that counts."""
    rows = np.flatnonzero(bad & (batch["mask"] > 0) if "mask" in batch else bad)
    if rows.size:
        value = np.asarray(batch[name][rows[0]])
        text = f" is {value}" if value.ndim == 0 else ""
        raise DataError(f"field '{name}' in row {rows[0]} of the batch{text}: it {reason}")
