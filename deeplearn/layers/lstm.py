"""Long short-term memory over time, with a backward pass written for speed.

Source: Hochreiter & Schmidhuber 1997; forget gate of Gers, Schmidhuber & Cummins 2000.

    i, f, g, o = σ(a_i), σ(a_f), tanh(a_g), σ(a_o)    where    a_t = x_t·W + b + h_{t-1}·U
    c_t = f · c_{t-1} + i · g
    h_t = o · tanh(c_t)

x·W + b of all times is one matrix product, made by the caller. The forward loop keeps its gates, so
that the backward loop repeats no product; dU is one matrix product after it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.layers.elman import kernel_gradient, product
from deeplearn.layers.token_masks import cleared, kept
from deeplearn.types import Array

State = tuple[Array, Array]


@jax.custom_vjp
def lstm_layer(
    inputs: Array,
    kernel: Array,
    state: State,
    resets: Array | None = None,
    holds: Array | None = None,
) -> tuple[Array, State]:
    """The outputs (T, B, D) of an LSTM and its last state.

    `inputs` (T, B, 4·D) are x·W + b, gates in the order i, f, g, o; `kernel` (D, 4·D) is U, whose
    dtype the products are computed in. `state` is (h, c), both (B, D) and fp32, or wider. Where
    `resets` (T, B) the state is zeroed before the token; where `holds` (T, B), which wins over a
    reset, the token leaves it as it was. Differentiable in reverse mode, to any order.
    """
    return _forward(inputs, kernel, state, resets, holds)[0]


def _forward(
    inputs: Array, kernel: Array, state: State, resets: Array | None, holds: Array | None
) -> tuple[tuple[Array, State], tuple]:
    def step(state: State, token: tuple) -> tuple[State, tuple]:
        a, reset, hold = token
        h, c = (cleared(x, reset) for x in state)
        i, f, g, o = jnp.split(a + product(h, kernel), 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        gates = jnp.concatenate([i, f, g, o], axis=-1)
        new = f * c + i * g
        after = kept(o * jnp.tanh(new), state[0], hold), kept(new, state[1], hold)
        return after, (after[0], after[1], gates)

    last, (h, c, gates) = lax.scan(step, state, (inputs, resets, holds))
    return (h, last), (kernel, state, resets, holds, h, c, gates)


def _backward(residual: tuple, cotangents: tuple[Array, State]) -> tuple:
    kernel, state, resets, holds, h, c, gates = residual
    dy, dlast = cotangents
    transposed = kernel.T
    before = jnp.concatenate([state[1][None], c[:-1]])

    def step(dstate: State, token: tuple) -> tuple[State, Array]:
        dy, gates, c, reset, hold = token
        dh, dc = dstate[0] + dy, dstate[1]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = cleared(c, reset)
        tanh = jnp.tanh(f * c + i * g)
        dnew = dc + dh * o * (1 - tanh * tanh)
        da = jnp.concatenate(
            [
                dnew * g * i * (1 - i),
                dnew * c * f * (1 - f),
                dnew * i * (1 - g * g),
                dh * tanh * o * (1 - o),
            ],
            axis=-1,
        )
        da = cleared(da, hold)  # a held token lets the gradient pass and takes none
        dh_before = cleared(product(da, transposed), reset)
        dc_before = cleared(dnew * f, reset)
        return (kept(dh_before, dh, hold), kept(dc_before, dc, hold)), da

    dstate, da = lax.scan(step, dlast, (dy, gates, before, resets, holds), reverse=True)
    dkernel = kernel_gradient(state[0], h, resets, da, kernel)
    return da.astype(kernel.dtype), dkernel, dstate, None, None


lstm_layer.defvjp(_forward, _backward)
