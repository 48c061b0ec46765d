"""Rows of numbers as JSON lines: `metrics.jsonl` and `timing.jsonl` of a run directory.

A row is one line such as {"step": 100, "split": "train", "loss": 0.25, "accuracy": 0.5}. Numbers
are written as Python's repr, which gives every double back to the last bit. JSON has no NaN and no
infinity: both are written as null, and read as NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deeplearn.errors import DataError, UsageError
from deeplearn.report import files

Row = dict[str, Any]
"""`step` (int) and `split` (str), then names → float."""


class RowLog:
    """Appends rows to a file; a write that fails is counted in `failures` and tried again."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._journal = files.Journal(self.path, size=len(_whole_lines(self.path)))

    @property
    def failures(self) -> int:
        """The number of flushes that could not write."""
        return self._journal.failures

    @property
    def error(self) -> str | None:
        """Why the last flush that failed did so."""
        return self._journal.error

    def append(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Adds one row, written by the next flush; raises UsageError for a reserved name."""
        for name in ("step", "split"):
            if name in values:
                raise UsageError(f"{self.path}: a metric cannot be called '{name}'; rename it")
        row = {"step": int(step), "split": split}
        row |= {name: number(value) for name, value in values.items()}
        self._journal.add(json.dumps(row, allow_nan=False).encode() + b"\n")

    def flush(self, *, sync: bool = False) -> None:
        """Writes the rows; with `sync` (before a checkpoint) they also outlast a power cut."""
        self._journal.flush(sync=sync)

    def truncate_after(self, step: int) -> None:
        """Keeps the rows up to and including `step` and drops a torn last line.

        What is kept is kept byte for byte. Raises StorageError where the file cannot be replaced
        and DataError where a row cannot be read.
        """
        whole = _whole_lines(self.path)
        kept = b"".join(
            line
            for number, line in enumerate(whole.splitlines(keepends=True), start=1)
            if _parse(line, f"{self.path}, line {number}")["step"] <= step
        )
        if self.path.exists() and kept != self.path.read_bytes():
            files.replace(self.path, kept)
        self._journal = files.Journal(self.path, size=len(kept))


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file; none where it does not exist, and a torn last line is left out.

    Where a step and split occur twice the later row counts. Raises DataError for any other line
    that is not a row.
    """
    rows: dict[tuple[int, str], Row] = {}
    for index, line in enumerate(_whole_lines(Path(path)).splitlines(), start=1):
        row = _parse(line, f"{path}, line {index}")
        rows[row["step"], row["split"]] = {
            name: math.nan if value is None else value for name, value in row.items()
        }
    return list(rows.values())


def number(value: float) -> float | None:
    """A float that JSON can hold: None for NaN and the infinities."""
    value = float(value)
    return value if math.isfinite(value) else None


def parse_json(text: str | bytes, where: str) -> Any:
    """Strict JSON: raises DataError for a repeated key, NaN or an infinity."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_constant=_refuse,
            parse_float=lambda digits: (
                _refuse(digits) if math.isinf(float(digits)) else float(digits)
            ),
        )
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not valid JSON ({error}); restore the file or remove it"
        ) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _parse(line: bytes, where: str) -> Row:
    row = parse_json(line, where)
    if not (isinstance(row, dict) and isinstance(row.get("step"), int) and "split" in row):
        raise DataError(
            f"{where}: not a row with a step and a split; restore the file or remove it"
        )
    return row


def _whole_lines(path: Path) -> bytes:
    """The file up to its last line end: what follows is the torn line of a killed write."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]
