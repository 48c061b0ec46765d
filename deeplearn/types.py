"""Array and pytree types, the running mean, what a loss returns, and the axis alphabet.

The axis alphabet is the same in every docstring, comment and einsum string of the package:

    B  batch              T  time (sequence length)      D  model width
    H  attention heads    K  width of one head           F  feed-forward width
    V  vocabulary         N  state size, set size        C  channels or classes
    Y  image height       X  image width                 L  layers
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
"""One batch: field name → array whose leading axis is B; of one CPU NumPy's, outside of jit."""
Variables = Mapping[str, PyTree]
"""Collection name → pytree; `params` is one of the collections."""


@struct.dataclass
class Mean:
    """A mean kept as a sum and a weight, so that means of parts add up to the mean of the whole."""

    total: Array
    weight: Array

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> Mean:
        """The mean of `values` (any shape) over the places where `mask` (same shape) is above 0."""
        values = jnp.asarray(values, jnp.float32)
        if mask is None:
            return cls(values.sum(), jnp.asarray(values.size, jnp.float32))
        mask = jnp.maximum(mask.astype(jnp.float32), 0.0)
        # A padded row may hold NaN; NaN · 0 is NaN, so select instead of multiplying.
        return cls(jnp.where(mask > 0, values * mask, 0.0).sum(), mask.sum())

    def __add__(self, other: Mean) -> Mean:
        return type(self)(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Array:
        """Total over weight; 0 where the weight is 0."""
        return jnp.where(self.weight > 0, self.total / jnp.maximum(self.weight, 1e-30), 0.0)

    @staticmethod
    def shown(mean: float) -> float:
        """What is reported of the mean on the host: the mean itself."""
        return mean


@struct.dataclass
class ExponentialMean(Mean):
    """A mean that is reported as its exponential, such as perplexity of nats."""

    @staticmethod
    def shown(mean: float) -> float:
        """e^mean; infinite where that exceeds a float."""
        return math.inf if mean >= 700.0 else math.exp(mean)


@struct.dataclass
class Aux:
    """What a loss returns beside its value.

    `weight` (scalar) is the denominator of the mean loss: examples, or tokens. `metrics` are named
    means. `mutated` holds the collections that the forward pass changed, such as `batch_stats`.
    """

    weight: Array
    metrics: dict[str, Mean]
    mutated: Variables


@struct.dataclass
class Context:
    """What a sequence mixer knows of its tokens beside their features.

    `segments` int32 (B, T) numbers the documents of a row from 1 on; 0 is padding; None means one
    document without padding. `positions` int32 (B or 1, T) are places within the document; where
    there are segments, position 0 begins a document anew, and so does a token in `changes` bool
    (B, T), whose document is not that of the token before. `train` is static.
    """

    segments: Array | None
    positions: Array
    train: bool = struct.field(pytree_node=False, default=False)
    changes: Array | None = None

    @property
    def resets(self) -> Array | None:
        """Where a document begins: bool (B, T); None where there are no segments."""
        if self.segments is None:
            return None
        begins = self.positions == 0
        begins = begins if self.changes is None else begins | self.changes
        return begins & (self.segments > 0)

    @property
    def holds(self) -> Array | None:
        """Where padding leaves the state as it was: bool (B, T); None without segments."""
        return None if self.segments is None else self.segments == 0
