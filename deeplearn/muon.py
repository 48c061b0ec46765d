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
    momentum: float, b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, elementwise: str
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
    """The matrices (…, m, n) with singular values moved to between 0.7 and 1.2, in float32.

    X ← aX + b(XXᵀ)X + c(XXᵀ)²X, five times, from X of Frobenius norm 1. All of it but the first
    and the last product is done on the Gram matrix of the smaller side, which commutes with what
    it is multiplied by: X Q₁ … Q₅ with Q = a + bG + cG², and G ← QGQ. Singular values below a
    hundredth of the norm stay smaller. Where Q is a product of low precision the Gram matrix,
    whose eigenvalues are the squares, would lose the small ones: hence the highest.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    with jax.default_matmul_precision("highest"):
        gram = matrices.mT @ matrices if tall else matrices @ matrices.mT
        norm = jnp.sqrt(jnp.trace(gram, axis1=-2, axis2=-1))[..., None, None] + eps
        gram /= jnp.square(norm)
        product = identity = jnp.broadcast_to(jnp.eye(gram.shape[-1]), gram.shape)
        for _ in range(_ITERATIONS):
            factor = a * identity + b * gram + c * (gram @ gram)
            product = factor @ product
            gram = factor @ gram @ factor
        product /= norm
        return matrices @ product if tall else product @ matrices


def _stacked(path: str) -> int:
    """The number of leading axes of layers."""
    return 1 if re.search(STACK, path) else 0
