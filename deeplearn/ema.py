"""The average of the parameters over the steps, as the last transformation of an optimizer.

Polyak & Juditsky, 1992, with weights that fall exponentially.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from deeplearn.errors import UsageError
from deeplearn.types import PyTree


class ParameterEma(NamedTuple):
    """The state of `parameter_ema`: the averaged parameters, a tree like the parameters."""

    params: PyTree


def parameter_ema(decay: ArrayLike) -> optax.GradientTransformation:
    """Keeps decay·ema + (1 − decay)·(params + updates), and returns the updates unchanged.

    It starts at the initial parameters and must be the last of a chain, where the updates are what
    is added to the parameters (`optax.ema` averages updates; Polyak & Juditsky, 1992).
    """

    def init(params: PyTree) -> ParameterEma:
        # A copy: the state is donated, and a buffer can be donated once only.
        return ParameterEma(jax.tree.map(jnp.copy, params))

    def update(
        updates: PyTree, state: ParameterEma, params: PyTree | None = None
    ) -> tuple[PyTree, ParameterEma]:
        if params is None:
            raise ValueError("parameter_ema needs the parameters: optimizer.update(…, params)")
        new = optax.apply_updates(params, updates)
        # As a step towards the new value, so that a parameter at rest keeps its bits.
        return updates, ParameterEma(
            jax.tree.map(lambda ema, p: ema + (1.0 - decay) * (p - ema), state.params, new)
        )

    return optax.GradientTransformation(init, update)


def find_ema(opt_state: PyTree) -> PyTree | None:
    """The averaged parameters anywhere in an optimizer's state; None where none are kept."""
    is_ema = lambda node: isinstance(node, ParameterEma)  # noqa: E731
    found = [node.params for node in jax.tree.leaves(opt_state, is_leaf=is_ema) if is_ema(node)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} parameter averages in one optimizer: keep one, at its end")
    return found[0] if found else None
