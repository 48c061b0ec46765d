"""The tabular set `digits` in a directory of TFDS: read it, and find its records."""

from __future__ import annotations

from pathlib import Path

from deeplearn.data.tfds import Tfds

TABULAR = (("x", "x"), ("label", "label"))


def digits(root: Path, split: str = "train", **options: object) -> Tfds:
    """A split in the directory `root`, where its first reading prepares it."""
    return Tfds("tabular/digits", split, **{"fields": TABULAR, "data_dir": str(root), **options})


def record_file(root: Path) -> Path:
    """The file of the training split's records."""
    return next(root.rglob("*-train.array_record-*"))
