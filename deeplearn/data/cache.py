"""Arrays kept in a file, where making them again takes long."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def cached_arrays(
    path: Path, make: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """The arrays in the .npz file `path`; where it is missing or damaged, made and written anew.

    Reading checks the CRC-32 of every array. A directory that cannot be written is no error.
    """
    # NumPy reads no further than a header says, so that it may leave a checksum unread; and damaged
    # bytes raise whatever the readers of zip and of headers stumble over.
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as members:
        if members.testzip() is None:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
    made = make()
    with contextlib.suppress(OSError):
        _write(path, made)
    return made


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes beside and renames, so that no reader ever sees half a file."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
