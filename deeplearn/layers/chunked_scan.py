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
    # Tokens behind the end leave the state as it is: Δ = 0, x = 0, keep = 1.
    kept = None if keep is None else split_time(keep, _CHUNK, 1.0)
    tokens = Tokens(*(split_time(leaf, _CHUNK) for leaf in (delta, x, B, C)), kept)
    y, last = _scan(A.T, tokens, state.swapaxes(1, 2))
    return join_time(y, len(x)), last.swapaxes(1, 2)


@jax.custom_vjp
def _scan(A: Array, tokens: Tokens, state: Array) -> tuple[Array, Array]:
    """y like tokens.x and the last state, of A (N, D) and state (B, N, D)."""
    return _forward(A, tokens, state)[0]


def _forward(A: Array, tokens: Tokens, state: Array) -> tuple[tuple[Array, Array], tuple]:
    def token(h: Array, t: Tokens) -> tuple[Array, Array]:
        h = _decay(A, t) * h + t.B[:, :, None] * t.x[:, None, :]
        return h, jnp.einsum("bnd,bn->bd", h, t.C)

    def chunk(h: Array, tokens: Tokens) -> tuple[Array, tuple[Array, Array]]:
        last, y = lax.scan(token, h, tokens)
        return last, (y, h)

    last, (y, starts) = lax.scan(chunk, state, tokens)
    return (y, last), (A, tokens, starts)


def _backward(residual: tuple, gradient: tuple[Array, Array]) -> tuple[Array, Tokens, Array]:
    A, tokens, starts = residual
    dy, dlast = gradient

    def chunk(carry: tuple, chunk: tuple) -> tuple[tuple, Tokens]:
        g, dA = carry
        tokens, start, dy = chunk
        decay = _decay(A, tokens)

        def again(h: Array, t: tuple[Array, Tokens]) -> tuple[Array, Array]:
            decayed = t[0] * h
            return decayed + t[1].B[:, :, None] * t[1].x[:, None, :], decayed

        def back(g: Array, t: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            decay, C, dy = t
            g = g + C[:, :, None] * dy[:, None, :]
            return decay * g, g

        _, decayed = lax.scan(again, start, (decay, tokens))
        g, dstates = lax.scan(back, g, (decay, tokens.C, dy), reverse=True)
        # With h_t = decayed_t + B_t x_t and g_t = dL/dh_t, each gradient is one sum over states.
        product = dstates * decayed
        dA = dA + jnp.einsum("tbnd,tbd->nd", product, tokens.delta)
        direct = (tokens.x * dy).sum(-1, keepdims=True)
        tokens = Tokens(
            delta=jnp.einsum("tbnd,nd->tbd", product, A),
            x=jnp.einsum("tbnd,tbn->tbd", dstates, tokens.B),
            B=jnp.einsum("tbnd,tbd->tbn", dstates, tokens.x),
            C=jnp.einsum("tbnd,tbd->tbn", decayed, dy) + direct * tokens.B,
            keep=None if tokens.keep is None else jnp.zeros_like(tokens.keep),
        )
        return (g, dA), tokens

    (dstate, dA), dtokens = lax.scan(
        chunk, (dlast, jnp.zeros_like(A)), (tokens, starts, dy), reverse=True
    )
    return dA, dtokens, dstate


def _decay(A: Array, t: Tokens) -> Array:
    """keep · exp(Δ A) for one token (B, N, D) or several (…, B, N, D)."""
    delta = t.delta[..., None, :]
    decay = jnp.exp(delta * A.reshape((1,) * (delta.ndim - 2) + A.shape))
    return decay if t.keep is None else decay * t.keep[..., None, None]


_scan.defvjp(_forward, _backward)
