"""The selective scan in chunks of tokens, with a gradient that recomputes the states of a chunk.

Gu & Dao 2023 (arXiv:2312.00752), section 3.3.2: the states (T, B, D, N) are never stored whole. The
forward pass keeps the state before each chunk; the backward pass computes those within it again.
The width is the last axis of every array, so that a token is a few long vector operations.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.layers.time_chunks import join_time, split_time
from deeplearn.types import Array

_CHUNK = 32


class Tokens(NamedTuple):
    """What the scan reads at each token; leading axes (chunks, tokens of a chunk, B)."""

    delta: Array  # (…, D)
    x: Array  # (…, D)
    B: Array  # (…, N)
    C: Array  # (…, N)
    keep: Array | None  # (…): 0 begins a document, 1 does not


def chunked_scan(
    delta: Array, x: Array, A: Array, B: Array, C: Array, keep: Array | None, state: Array
) -> tuple[Array, Array]:
    """y (T, B, D) and last state of h_t = keep_t exp(Δ_t A) h_{t−1} + x_t B_tᵀ, y_t = h_t C_t.

    delta, x (T, B, D); A (D, N); B, C (T, B, N); keep (T, B); state (B, D, N).
    """
    steps = len(x)
    # Tokens behind the end leave the state as it is: Δ = 0, x = 0, keep = 1.
    kept = None if keep is None else split_time(keep, _CHUNK, 1.0)
    delta, x, B, C = (split_time(leaf, _CHUNK) for leaf in (delta, x, B, C))
    y, last = _scan(A.T, Tokens(delta, x, B, C, kept), state.swapaxes(1, 2))
    return join_time(y, steps), last.swapaxes(1, 2)


@jax.custom_vjp
def _scan(A: Array, tokens: Tokens, state: Array) -> tuple[Array, Array]:
    """y like tokens.x and the last state, of A (N, D) and state (B, N, D)."""
    return _forward(A, tokens, state)[0]


def _forward(A: Array, tokens: Tokens, state: Array) -> tuple[tuple[Array, Array], tuple]:
    def token(h: Array, inputs: tuple[Array, Tokens]) -> tuple[Array, Array]:
        decay, t = inputs
        h = decay * h + t.B[:, :, None] * t.x[:, None, :]
        return h, jnp.einsum("bnd,bn->bd", h, t.C)

    def chunk(h: Array, tokens: Tokens) -> tuple[Array, tuple[Array, Array]]:
        last, y = lax.scan(token, h, (_decay(A, tokens), tokens))
        return last, (y, h)

    last, (y, starts) = lax.scan(chunk, state, tokens)
    return (y, last), (A, tokens, starts)


def _backward(residual: tuple, gradient: tuple[Array, Array]) -> tuple[Array, Tokens, Array]:
    A, tokens, starts = residual
    dy, dlast = gradient

    def again(h: Array, inputs: tuple[Array, Tokens, Array]) -> tuple[Array, tuple]:
        decay, t, dy = inputs
        decayed = decay * h
        h = decayed + t.B[:, :, None] * t.x[:, None, :]
        return h, (decayed, jnp.einsum("bnd,bd->bn", h, dy))

    def back(carry: tuple, inputs: tuple[Array, Array, Tokens, Array]) -> tuple[tuple, tuple]:
        # With g = dL/dh, each gradient is a sum of g, or of g times the decayed state.
        g, dA = carry
        decay, decayed, t, dy = inputs
        g = g + t.C[:, :, None] * dy[:, None, :]
        product = g * decayed
        ddelta = (product * A[None]).sum(1)
        dx = (g * t.B[:, :, None]).sum(1)
        dB = jnp.einsum("bnd,bd->bn", g, t.x)
        dA = dA + (product * t.delta[:, None, :]).sum(0)
        return (decay * g, dA), (ddelta, dx, dB)

    def chunk(carry: tuple, chunk: tuple) -> tuple[tuple, Tokens]:
        tokens, start, dy = chunk
        decay = _decay(A, tokens)
        _, (decayed, dC) = lax.scan(again, start, (decay, tokens, dy))
        inputs = decay, decayed, tokens, dy
        carry, (ddelta, dx, dB) = lax.scan(back, carry, inputs, reverse=True)
        dkeep = None if tokens.keep is None else jnp.zeros_like(tokens.keep)
        return carry, Tokens(ddelta, dx, dB, dC, dkeep)

    carry = dlast, jnp.zeros_like(A)
    (dstate, dA), dtokens = lax.scan(chunk, carry, (tokens, starts, dy), reverse=True)
    return dA, dtokens, dstate


def _decay(A: Array, t: Tokens) -> Array:
    """keep · exp(Δ A) for the tokens of a chunk: (tokens, B, N, D)."""
    decay = jnp.exp(t.delta[:, :, None, :] * A[None, None])
    return decay if t.keep is None else decay * t.keep[:, :, None, None]


_scan.defvjp(_forward, _backward)
