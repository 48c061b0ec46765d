"""Normalization layers by name; statistics and parameters are fp32 whatever the compute dtype."""

from __future__ import annotations

from flax import linen as nn

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.precision import compute_dtype

NORMALIZATIONS = ("batch", "layer")


def normalization(kind: str, *, train: bool, dtype: str = "float32", **options) -> nn.Module:
    """The normalization layer `kind`: "batch" or "layer".

    Parameters are `scale` and `bias` (C,). "batch" (arXiv:1502.03167) keeps running means in the
    collection `batch_stats`, moved when `train`; "layer" is arXiv:1607.06450. `options` go to the
    layer. Raises `UsageError` for another kind.
    """
    if kind == "batch":
        return nn.BatchNorm(
            use_running_average=not train, momentum=0.9, dtype=compute_dtype(dtype), **options
        )
    if kind == "layer":
        return nn.LayerNorm(dtype=compute_dtype(dtype), **options)
    hint = did_you_mean(str(kind), NORMALIZATIONS)
    raise UsageError(f"normalization={kind!r} is not known{hint}")
