"""What is done to the logits of a next token before it is drawn: (…, V) → (…, V).

A filter sets what it leaves out to −∞ and keeps the rest as it is; equal logits share their fate.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from deeplearn.types import Array


def penalize_repetition(logits: Array, seen: Array, penalty: float) -> Array:
    """Divides positive logits of tokens `seen` (bool, (…, V)) by `penalty`, multiplies negative.

    Source: Keskar et al. 2019 (arXiv:1909.05858), section 4.1, with the sign taken care of.
    """
    weaker = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, weaker, logits)


def keep_top_k(logits: Array, k: int) -> Array:
    """Keeps the `k` likeliest tokens (Fan et al. 2018, arXiv:1805.04833)."""
    least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return _keep(logits, logits >= least)


def keep_top_p(logits: Array, p: float) -> Array:
    """Keeps the fewest likeliest tokens whose probability reaches `p` in (0, 1].

    Source: Holtzman et al. 2019 (arXiv:1904.09751).
    """
    descending = -jnp.sort(-logits, axis=-1)
    probability = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    least = jnp.where(before < p, descending, jnp.inf).min(axis=-1, keepdims=True)
    return _keep(logits, logits >= least)


def keep_min_p(logits: Array, p: float) -> Array:
    """Keeps tokens at least `p` in (0, 1] times as probable as the likeliest one.

    Source: Nguyen et al. 2024 (arXiv:2407.01082).
    """
    return _keep(logits, logits >= logits.max(axis=-1, keepdims=True) + math.log(p))


def _keep(logits: Array, kept: Array) -> Array:
    return jnp.where(kept, logits, -jnp.inf)
