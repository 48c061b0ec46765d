"""The compute dtypes that a layer may be given, by name."""

from __future__ import annotations

import jax.numpy as jnp

from deeplearn.errors import UsageError, did_you_mean

_COMPUTE = ("bfloat16", "float16", "float32", "float64")


def compute_dtype(name: str) -> jnp.dtype:
    """The dtype called `name`; `UsageError` where layers cannot compute in it."""
    if name not in _COMPUTE:
        raise UsageError(f"dtype={name!r} is not known{did_you_mean(str(name), _COMPUTE)}")
    return jnp.dtype(name)
