"""Simple recurrent network over time, with a backward pass written for speed.

Source: Elman 1990.

    h_t = φ(x_t·W + b + h_{t-1}·U)

x·W + b of all times is one matrix product, made by the caller. φ' is a function of φ, so nothing
but h is kept for the backward loop; dU is one matrix product after it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.token_masks import cleared, kept
from deeplearn.types import Array

# Name → (φ, φ' of the value of φ).
_ACTIVATIONS = {
    "tanh": (jnp.tanh, lambda h: 1.0 - h * h),
    "relu": (jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
}


def elman_layer(
    inputs: Array,
    kernel: Array,
    state: Array,
    resets: Array | None = None,
    holds: Array | None = None,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """The states (T, B, D) of a simple recurrent network after each token, and the last (B, D).

    `inputs` (T, B, D) are x·W + b; `kernel` (D, D) is U, of the dtype of `inputs`, which the
    products are computed in. `state` (B, D) is fp32 or wider. Where `resets` (T, B) the state is
    zeroed before the token; where `holds` (T, B), which wins over a reset, the token leaves it as
    it was. Differentiable in reverse mode, to any order. Raises `UsageError` for an activation
    other than "tanh" and "relu".
    """
    if activation not in _ACTIVATIONS:
        hint = did_you_mean(str(activation), _ACTIVATIONS)
        raise UsageError(f"activation={activation!r} of a recurrent layer is not known{hint}")
    return _elman(activation, inputs, kernel, state, resets, holds)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _elman(activation: str, *operands: Any) -> tuple[Array, Array]:
    return _forward(activation, *operands)[0]


def _forward(
    activation: str,
    inputs: Array,
    kernel: Array,
    state: Array,
    resets: Array | None,
    holds: Array | None,
) -> tuple[tuple[Array, Array], tuple]:
    def step(before: Array, token: tuple) -> tuple[Array, Array]:
        a, reset, hold = token
        after = _ACTIVATIONS[activation][0](a + product(cleared(before, reset), kernel))
        h = kept(after, before, hold)
        return h, h

    last, h = lax.scan(step, state, (inputs, resets, holds))
    return (h, last), (kernel, state, resets, holds, h)


def _backward(activation: str, residual: tuple, cotangents: tuple[Array, Array]) -> tuple:
    kernel, state, resets, holds, h = residual
    transposed = kernel.T  # outside the loop: inside it, the product takes 1.3 times as long

    def step(dlast: Array, token: tuple) -> tuple[Array, Array]:
        dh, h, reset, hold = token
        dh = dh + dlast
        da = cleared(dh, hold) * _ACTIVATIONS[activation][1](h)
        return kept(cleared(product(da, transposed), reset), dh, hold), da

    dy, dlast = cotangents
    dstate, da = lax.scan(step, dlast, (dy, h, resets, holds), reverse=True)
    return (
        da.astype(kernel.dtype),
        kernel_gradient(state, h, resets, da, kernel),
        dstate,
        None,
        None,
    )


_elman.defvjp(_forward, _backward)


def product(state: Array, kernel: Array) -> Array:
    """state (B, D) · kernel (D, F), computed in the dtype of the kernel, in that of the state."""
    return jnp.matmul(state.astype(kernel.dtype), kernel, preferred_element_type=state.dtype)


def kernel_gradient(
    state: Array, h: Array, resets: Array | None, da: Array, kernel: Array
) -> Array:
    """The gradient of `kernel` (D, F), which multiplied the state before each of the tokens.

    `state` (B, D) is the first, `h` (T, B, D) are those after the tokens, `da` (T, B, F) is the
    gradient of the products.
    """
    before = cleared(jnp.concatenate([state[None], h[:-1]]), resets)
    before, da = (x.reshape(-1, x.shape[-1]).astype(kernel.dtype) for x in (before, da))
    return jnp.matmul(before.T, da, preferred_element_type=state.dtype).astype(kernel.dtype)
