"""State space duality: the scan with one decay per head, as matrix products within chunks.

Dao & Gu 2024, "Transformers are SSMs" (arXiv:2405.21060), section 6. Within a chunk the scan is
attention without softmax, masked by the decay between two tokens; between chunks it is a
recurrence of the states.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.layers.time_chunks import join_time, split_time
from deeplearn.types import Array

_CHUNK = 64


def ssd(
    log_decay: Array,
    x: Array,
    B: Array,
    C: Array,
    resets: Array | None,
    state: Array,
) -> tuple[Array, Array]:
    """y (T, B, H, P) and last state of h_t = exp(a_t) h_{t−1} + x_t B_tᵀ, y_t = h_t C_t.

    log_decay a (T, B, H); x (T, B, H, P) for heads of width P; B, C (T, B, G, N), where each of G
    groups serves H/G heads; resets (T, B) is true where the state is zeroed before the token;
    state (B, H, P, N).
    """
    steps, batch, heads, width = x.shape
    grouped = B.shape[2], heads // B.shape[2]
    tokens = (
        split_time(log_decay.reshape(steps, batch, *grouped), _CHUNK),
        split_time(x.reshape(steps, batch, *grouped, width), _CHUNK),
        split_time(B, _CHUNK),
        split_time(C, _CHUNK),
        None if resets is None else jnp.cumsum(split_time(resets, _CHUNK), axis=1),
    )
    # The backward pass computes a chunk again rather than keep its masks (B, H, chunk, chunk).
    last, y = lax.scan(
        jax.checkpoint(_chunk), state.reshape(batch, *grouped, *state.shape[2:]), tokens
    )
    return join_time(y, steps).reshape(x.shape), last.reshape(state.shape)


def _chunk(h: Array, tokens: tuple) -> tuple[Array, Array]:
    """The scan over one chunk: h (B, G, R, P, N), a (T, B, G, R), x (T, B, G, R, P), B and C.

    `documents` (T, B) counts the resets so far within the chunk.
    """
    a, x, B, C, documents = tokens
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((len(a),) * 2, bool)), (a.shape[1], len(a), len(a)))
    if documents is not None:
        seen = seen & (documents.T[:, :, None] == documents.T[:, None, :])
    # A sum that begins anew with each document: the gradient of one over all tokens reaches other
    # documents by terms that cancel but for rounding.
    a = jnp.einsum("bts,sbgr->tbgr", seen.astype(a.dtype), a, precision=lax.Precision.HIGHEST)
    # Log of the decay from before the chunk to t, from s to the chunk's end, and from s to t.
    before, until = a, a[-1:] - a
    between = jnp.moveaxis(a[:, None] - a[None, :], (0, 1), (-2, -1))  # (B, G, R, t, s)
    if documents is not None:
        before = _where(documents == 0, before)
        until = _where(documents == documents[-1:], until)
    mask = jnp.exp(jnp.where(seen[:, None, None], between, -jnp.inf))
    scores = jnp.einsum("tbgn,sbgn->bgts", C, B)
    y = jnp.einsum("bgrts,sbgrp->tbgrp", scores[:, :, None] * mask, x)
    y += jnp.einsum("tbgn,bgrpn->tbgrp", C, h) * jnp.exp(before)[..., None]
    inputs = x * jnp.exp(until)[..., None]
    h = h * jnp.exp(before[-1])[..., None, None] + jnp.einsum("sbgrp,sbgn->bgrpn", inputs, B)
    return h, y


def _where(seen: Array, log_decay: Array) -> Array:
    """The log decay (T, B, G, R) where `seen` (T, B), else that of a factor of 0."""
    return jnp.where(seen[:, :, None, None], log_decay, -jnp.inf)
