"""Long short-term memory over time, with a backward pass written for speed.

Source: Hochreiter & Schmidhuber 1997; forget gate of Gers, Schmidhuber & Cummins 2000.

    i, f, g, o = σ(a_i), σ(a_f), tanh(a_g), σ(a_o)    where    a_t = x_t·W + b + h_{t-1}·U
    c_t = f · c_{t-1} + i · g
    h_t = o · tanh(c_t)

x·W of all times is one matrix product before the loop. The gates are kept, so that the backward
loop repeats no product; the gradients of W and U are one product each after it.

On CPU the elementwise part of the backward loop (T64 B32 K256: 5 of 16 ms on one thread) takes as
long with its coefficients made ahead of the loop, with four arrays or an axis for the gates, and
with several tokens in a turn of the loop.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from deeplearn.layers.products import kernel_gradient, product, repeated_product
from deeplearn.layers.token_masks import cleared, kept
from deeplearn.types import Array

State = tuple[Array, Array]


@jax.custom_vjp
def lstm_layer(
    x: Array,
    kernel: Array,
    recurrent: Array,
    bias: Array,
    state: State,
    resets: Array | None = None,
    holds: Array | None = None,
) -> tuple[Array, State]:
    """The outputs h (T, B, K) of an LSTM for x (T, B, D), and its last state.

    `kernel` (D, 4·K) is W, `recurrent` (K, 4·K) is U, `bias` (4·K,) is b, gates in the order
    i, f, g, o; products are computed in the dtype of x and of both kernels. `state` is (h, c), both
    (B, K), fp32 or wider. Where `resets` (T, B) the state is zeroed before the token; where `holds`
    (T, B), which wins over a reset, the token leaves it as it was. Differentiable in reverse mode,
    to any order.
    """
    return _forward(x, kernel, recurrent, bias, state, resets, holds)[0]


def _forward(
    x: Array,
    kernel: Array,
    recurrent: Array,
    bias: Array,
    state: State,
    resets: Array | None,
    holds: Array | None,
) -> tuple[tuple[Array, State], tuple]:
    wide = state[0].dtype
    like = (x.shape[1], 4 * len(recurrent))
    times_recurrent = repeated_product(recurrent, len(x), wide)
    half, shift = _per_gate(0.5, like, wide), jnp.broadcast_to(bias.astype(wide), like)

    def step(before: State, token: tuple) -> tuple[State, tuple]:
        a, reset, hold = token
        h, c = (cleared(part, reset) for part in before)
        # The bias here costs nothing; added to x·W it is a pass over memory of its own.
        tanh = jnp.tanh((a + times_recurrent(h) + shift) * half)
        i, f, g, o = _gates(tanh)
        c = f * c + i * g
        h, c = kept(o * jnp.tanh(c), before[0], hold), kept(c, before[1], hold)
        return (h, c), (h, c, tanh)

    last, (h, c, tanh) = lax.scan(step, state, (product(x, kernel), resets, holds))
    return (h, last), (x, kernel, recurrent, bias, state, resets, holds, h, c, tanh)


def _backward(residual: tuple, cotangents: tuple[Array, State]) -> tuple:
    x, kernel, recurrent, bias, state, resets, holds, h, c, tanh = residual
    dy, dlast = cotangents
    slope = _per_gate(0.25, tanh.shape[1:], dy.dtype)
    # Transposed outside the loop, which would copy it at every step.
    times_transposed = repeated_product(recurrent.T, len(x), dy.dtype)

    def step(dlast: State, token: tuple) -> tuple[State, Array]:
        dy, tanh, c, reset, hold = token
        dh, dc = dlast[0] + dy, dlast[1]
        i, f, g, o = _gates(tanh)
        c = cleared(c, reset)
        tanh_c = jnp.tanh(f * c + i * g)
        dnew = dc + dh * o * (1 - tanh_c * tanh_c)
        factors = jnp.concatenate([g, c, i, tanh_c], axis=-1)
        da = jnp.concatenate([dnew, dnew, dnew, dh], axis=-1) * factors * (1 - tanh * tanh) * slope
        da = cleared(da, hold)  # a held token lets the gradient pass and takes none
        dh_before = cleared(times_transposed(da), reset)
        dc_before = cleared(dnew * f, reset)
        return (kept(dh_before, dh, hold), kept(dc_before, dc, hold)), da

    before = jnp.concatenate([state[1][None], c[:-1]])
    dstate, da = lax.scan(step, dlast, (dy, tanh, before, resets, holds), reverse=True)
    h_before = cleared(jnp.concatenate([state[0][None], h[:-1]]), resets)
    return (
        product(da, kernel.T),
        kernel_gradient(x, da, kernel),
        kernel_gradient(h_before, da, recurrent),
        da.sum((0, 1)).astype(bias.dtype),
        dstate,
        None,
        None,
    )


lstm_layer.defvjp(_forward, _backward)


def _per_gate(sigmoid: float, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """A factor for i, f and o, and 1 for g: (B, 4·K)."""
    row = np.repeat([sigmoid, sigmoid, 1.0, sigmoid], shape[-1] // 4)
    return jnp.broadcast_to(jnp.asarray(row, dtype), shape)


def _gates(tanh: Array) -> list[Array]:
    """i, f, g, o of tanh(a/2) for sigmoids and tanh(a): σ(a) = (1 + tanh(a/2)) / 2."""
    i, f, g, o = jnp.split(tanh, 4, axis=-1)
    return [0.5 * i + 0.5, 0.5 * f + 0.5, g, 0.5 * o + 0.5]
