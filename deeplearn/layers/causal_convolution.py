"""A short convolution over time, one kernel per channel, that looks back only."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.layers.precision import compute_dtype
from deeplearn.types import Array


class CausalConv(nn.Module):
    """y_t = b + Σ_k w_k · x_{t−size+1+k}: x (B, T, D), window, resets, holds → y (B, T, D), window.

    Parameters `kernel` (size, D) and `bias` (D,) are fp32; the sum is computed in `dtype`. The
    rest is as in `causal_convolution`.
    """

    size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Array,
        window: Array | None = None,
        resets: Array | None = None,
        holds: Array | None = None,
    ) -> tuple[Array, Array]:
        dtype, width = compute_dtype(self.dtype), x.shape[-1]
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", init, (self.size, width)).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (width,)).astype(dtype)
        y, window = causal_convolution(x.astype(dtype), kernel, window, resets, holds)
        return y + jnp.broadcast_to(bias, y.shape), window


def causal_convolution(
    x: Array,
    kernel: Array,
    window: Array | None = None,
    resets: Array | None = None,
    holds: Array | None = None,
) -> tuple[Array, Array]:
    """Σ_k w_k · x_{t−size+1+k} of x (B, T, D) and kernel w (size, D): (B, T, D), and the window.

    The window (B, size−1, D) holds the inputs before the first token (None: 0), and on return
    those before the next. `resets` bool (B, T) hides the inputs before such a token from it and
    from all that follow; tokens where `holds` bool (B, T) are passed over, their output is
    arbitrary.
    """
    batch, steps, width = x.shape
    back = len(kernel) - 1
    if window is None:
        window = jnp.zeros((batch, back, width), x.dtype)
    if holds is not None:
        order, place = _real_first(holds)
        resets = None if resets is None else jnp.take_along_axis(resets & ~holds, order, 1)
        x = jnp.take_along_axis(x, order[..., None], 1)
    inputs = jnp.concatenate([window.astype(x.dtype), x], axis=1)
    documents = None
    if resets is not None:
        documents = jnp.pad(jnp.cumsum(resets, axis=1), ((0, 0), (back, 0)))
    y = jnp.zeros_like(x)
    # XLA on CPU takes 20 to 100 times as long for a convolution in as many groups as channels.
    for k, tap in enumerate(kernel):
        past = inputs[:, k : k + steps]
        if documents is not None:
            same = documents[:, k : k + steps] == documents[:, back:]
            past = jnp.where(same[..., None], past, 0)
        y = y + past * tap.reshape(1, 1, width)
    if holds is not None:
        y = jnp.take_along_axis(y, place[..., None], 1)
    return y, _last(inputs, documents, holds, back).astype(window.dtype)


def _real_first(holds: Array) -> tuple[Array, Array]:
    """The order (B, T) that puts padding behind all else, and the place of each token in it."""
    real = jnp.cumsum(~holds, axis=1, dtype=jnp.int32)
    padding = real[:, -1:] + jnp.cumsum(holds, axis=1, dtype=jnp.int32)
    place = jnp.where(holds, padding, real) - 1
    rows = jnp.arange(len(holds), dtype=jnp.int32)[:, None]
    tokens = jnp.broadcast_to(jnp.arange(holds.shape[1], dtype=jnp.int32)[None], holds.shape)
    return jnp.zeros_like(place).at[rows, place].set(tokens, unique_indices=True), place


def _last(inputs: Array, documents: Array | None, holds: Array | None, back: int) -> Array:
    """The last `back` inputs (B, back, D) that are no padding, 0 for those of other documents."""
    if holds is None and documents is None:
        return inputs[:, inputs.shape[1] - back :]
    steps = inputs.shape[1] - back
    count = jnp.full(len(inputs), steps) if holds is None else (~holds).sum(1)
    index = count[:, None] + jnp.arange(back)[None]
    found = jnp.take_along_axis(inputs, index[..., None], 1)
    if documents is None:
        return found
    named = jnp.take_along_axis(documents, index, 1)
    return jnp.where((named == named[:, -1:])[..., None], found, 0)
