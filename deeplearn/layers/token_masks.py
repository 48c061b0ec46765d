"""Which tokens begin a document or are padding, and what they do to a recurrent state."""

from __future__ import annotations

import jax.numpy as jnp

from deeplearn.types import Array, Context


def token_masks(context: Context) -> tuple[Array | None, Array | None]:
    """(resets, holds), bool (T, B): `context.resets` and `context.holds` with time first.

    A reset zeroes the state before the token. A hold leaves it as it was and wins over a reset.
    """
    resets, holds = context.resets, context.holds
    return None if resets is None else resets.T, None if holds is None else holds.T


def cleared(state: Array, mask: Array | None) -> Array:
    """`state` (…, D), zero where `mask` (…) is true."""
    return state if mask is None else jnp.where(mask[..., None], 0.0, state)


def kept(new: Array, old: Array, mask: Array | None) -> Array:
    """`new` (…, D), but `old` where `mask` (…) is true."""
    return new if mask is None else jnp.where(mask[..., None], old, new)
