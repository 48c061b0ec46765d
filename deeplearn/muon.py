"""The transformation of `optimizers.Muon`: which parameters are matrices, and what becomes of them.

The momentum of a matrix is made orthogonal by Newton and Schulz's iteration (Jordan et al., 2024)
and scaled to the size of AdamW's update (Liu et al., 2025, arXiv:2502.16982). All else is AdamW's.
"""

from __future__ import annotations

import re

import optax
from jax.typing import ArrayLike

from deeplearn.tree_paths import STACK, map_arrays
from deeplearn.types import Array, PyTree

KERNEL = r"(^|/)(kernel|recurrent)$"
"""Paths of the arrays that are matrices."""


def muon_direction(
    momentum: ArrayLike, b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, elementwise: str
) -> optax.GradientTransformation:
    """From the gradient to the ascent direction, without weight decay.

    `momentum` is that of the matrices, `b1` and `b2` are AdamW's, `eps` is that of both. The paths
    in which the pattern `elementwise` is found are of kernels left to AdamW.
    """
    return optax.contrib.muon(
        learning_rate=-1.0,  # `Optimizer.build` applies the rate and the sign
        beta=momentum,
        eps=eps,
        adam_b1=b1,
        adam_b2=b2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda params: _matrices(params, elementwise),
    )


def _matrices(params: PyTree, elementwise: str) -> PyTree:
    """The axes of the matrix that a parameter is; None for those of AdamW."""

    def matrix(path: str, array: Array) -> optax.contrib.MuonDimensionNumbers | None:
        first = 1 if re.search(STACK, path) else 0
        hidden = re.search(KERNEL, path) and not re.search(elementwise, path)
        last = array.ndim - 1
        if not hidden or last <= first:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(first, last)), (last,))

    return map_arrays(matrix, params)
