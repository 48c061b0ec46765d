"""The transformation of `optimizers.Muon`: which parameters are matrices, and what becomes of them.

The momentum of a matrix is made orthogonal by Newton and Schulz's iteration (Jordan et al., 2024)
and scaled to the size of AdamW's update (Liu et al., 2025, arXiv:2502.16982). All else is AdamW's.
"""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from deeplearn.tree_paths import STACK, map_arrays
from deeplearn.types import Array

KERNEL = r"(^|/)(kernel|recurrent)$"
"""Paths of the arrays that are matrices."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def muon_direction(
    momentum: ArrayLike, b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, elementwise: str
) -> optax.GradientTransformation:
    """From the gradient to the ascent direction, without weight decay.

    `momentum` is that of the matrices, `b1` and `b2` are AdamW's, `eps` is that of both. The paths
    in which the pattern `elementwise` is found are of kernels left to AdamW.
    """

    def label(path: str, array: Array) -> str:
        hidden = re.search(KERNEL, path) and not re.search(elementwise, path)
        return "matrix" if hidden and array.ndim - _stacked(path) > 1 else "elementwise"

    def update(path: str, array: Array) -> Array:
        layers = array.shape[: _stacked(path)]
        matrices = array.reshape(*layers, -1, array.shape[-1])
        size = 0.2 * math.sqrt(max(matrices.shape[-2:]))
        return (size * orthogonal(matrices, eps)).reshape(array.shape)

    matrices = optax.chain(
        optax.trace(momentum, nesterov=True),
        optax.stateless(lambda updates, _: map_arrays(update, updates)),
    )
    others = optax.scale_by_adam(b1, b2, eps, nesterov=True)
    return optax.partition(
        {"matrix": matrices, "elementwise": others}, lambda params: map_arrays(label, params)
    )


def orthogonal(matrices: Array, eps: ArrayLike = 1e-8) -> Array:
    """The matrices (…, m, n) with their singular values brought near 1, computed in float32.

    X ← aX + b(XXᵀ)X + c(XXᵀ)²X, five times, from X of Frobenius norm 1. Singular values of 0.0016
    of the norm or more become 0.68 to 1.21; smaller ones grow up to 485 times (a⁵).

    All but the first and the last product is done on the Gram matrix G of the smaller side, with
    which the factors Q = a + bG + cG² commute: X Q₁ … Q₅, where G ← QGQ. Of sides n and rn these
    are 2r + 17 products of n³ instead of 10r + 5: fewer from r = 1.5 on, as kernels of convolutions
    and of feed-forward layers have. The eigenvalues of G are squares, of which less precision than
    float32's would lose the small ones: hence the highest of products.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.astype(jnp.promote_types(matrices.dtype, jnp.float32))
    x /= jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + eps
    tall = x.shape[-2] > x.shape[-1]
    with jax.default_matmul_precision("highest"):
        gram = x.mT @ x if tall else x @ x.mT
        identity = jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=x.dtype), gram.shape)
        product = None
        for _ in range(_ITERATIONS):
            factor = a * identity + b * gram + c * (gram @ gram)
            product = factor if product is None else factor @ product
            gram = factor @ gram @ factor
        found = x @ product if tall else product @ x
    return found.astype(matrices.dtype)


def _stacked(path: str) -> int:
    """The number of leading axes of layers."""
    return 1 if re.search(STACK, path) else 0
