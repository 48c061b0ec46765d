"""Random keys out of the content of an example, for what an evaluation draws.

So an example has the same draws in any order, batch size and padding, and under another model.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from deeplearn.types import Array

_ODD = 2654435761
"""Powers of an odd number never become 0 modulo 2³²."""


def example_keys(numbers: Array) -> Array:
    """A key (B,) for each number uint32 (B,), such as the `fingerprint` of an example."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers)


def fingerprint(x: Array) -> Array:
    """32 bits (B,) of the content of each example (B, …); sums of integers have no order."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).reshape(len(x), -1)
    # Odd multipliers, so that no bit is lost, and no two places are exchangeable.
    odd = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    mixed = (bits ^ (bits >> 15)) * jnp.uint32(0x9E3779B1) * odd[None]
    return (mixed ^ (mixed >> 13)).sum(1, dtype=jnp.uint32)


def token_fingerprint(tokens: Array) -> Array:
    """32 bits (B,) of the content of each row of tokens (B, T); padding with 0 adds nothing."""
    powers = jnp.cumprod(jnp.full(tokens.shape[1:], _ODD, jnp.uint32))
    return (tokens.astype(jnp.uint32) * jnp.broadcast_to(powers[None], tokens.shape)).sum(
        1, dtype=jnp.uint32
    )
