"""A table of one vector for each token."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.layers.precision import compute_dtype
from deeplearn.types import Array


class Embedding(nn.Module):
    """Row lookup: int (…) in [0, size) → (…, width).

    Parameter `embedding` (size, width), fp32, normal with deviation `scale`. A number outside the
    table gives NaN, so that it cannot pass unseen.
    """

    size: int
    width: int
    scale: float = 0.02
    dtype: str = "float32"

    def setup(self) -> None:
        init = nn.initializers.normal(self.scale)
        self.embedding = self.param("embedding", init, (self.size, self.width))

    def __call__(self, index: Array) -> Array:
        return rows(self.embedding.astype(compute_dtype(self.dtype)), index)


def rows(table: Array, index: Array) -> Array:
    """The rows (…, width) of a table (size, width) at int (…); NaN outside of it."""
    index = jnp.where(index < 0, len(table), index)  # which would count from the end
    return jnp.take(table, index, axis=0)
