"""Checks of the fields of layers and models, made before a first array is."""

from __future__ import annotations

from deeplearn.errors import UsageError


def require_sizes(owner: str, **sizes: int | None) -> None:
    """Raises `UsageError` for a size of `owner` below 1; None is one that is not given."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise UsageError(f"{name}={size} of {owner} must be 1 or more")


def require_dropout(owner: str, dropout: float) -> None:
    """Raises `UsageError` for a `dropout` outside [0, 1), which would leave `owner` nothing."""
    if not 0.0 <= dropout < 1.0:
        raise UsageError(f"dropout={dropout} of {owner} must be in [0, 1)")
