"""Updates scaled to the norms of the parameters, layer by layer, as the last step of LAMB.

You, Li, Reddi et al., 2020, "Large batch optimization for deep learning: training BERT in 76
minutes" (arXiv:1904.00962).
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import optax

from deeplearn.tree_paths import STACK, map_arrays
from deeplearn.types import Array, PyTree


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """u → ‖p‖/‖u‖ · u for each array; of stacked layers (`tree_paths.STACK`) for each of them.

    An array stays as it is where one of the norms is 0.
    """

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        if params is None:
            raise ValueError("scale_by_trust_ratio needs the parameters")
        stacks = map_arrays(lambda path, _: bool(re.search(STACK, path)), params)
        return jax.tree.map(_scaled, updates, params, stacks), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scaled(update: Array, param: Array, stack: bool) -> Array:
    axes = tuple(range(int(stack), update.ndim))
    of_param, of_update = (
        jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (param, update)
    )
    known = (of_param > 0) & (of_update > 0)
    ratio = jnp.where(known, of_param / jnp.where(known, of_update, 1.0), 1.0)
    return update * jnp.broadcast_to(ratio, update.shape)
