"""The average of the parameters over the steps, as the last transformation of an optimizer.

Polyak & Juditsky, 1992, with weights that fall exponentially. In a run that is not many times as
long as 1/(1 − decay) steps, such an average would still hold much of the first parameters. So its
early weights rise by a power of the step instead (polynomial-decay averaging: Shamir & Zhang, 2013,
arXiv:1212.1824).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from deeplearn.errors import UsageError
from deeplearn.types import Array, PyTree

_POWER = 4.0


class ParameterEma(NamedTuple):
    """The state of `parameter_ema`: how many updates there were, and a tree like the parameters."""

    updates: Array
    params: PyTree


def parameter_ema(decay: ArrayLike) -> optax.GradientTransformation:
    """Keeps d·ema + (1 − d)·(params + updates), and returns the updates unchanged.

    d is min(`decay`, (n − 1)/(n + 4)) at update n: up to n = 5/(1 − decay) − 4 the parameters
    behind update k have a weight of k(k + 1)(k + 2)(k + 3), the initial ones none. It must be the
    last of a chain, where the updates are what is added to the parameters (`optax.ema` averages
    updates).
    """

    def init(params: PyTree) -> ParameterEma:
        # A copy: the state is donated, and a buffer can be donated once only.
        return ParameterEma(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: PyTree, state: ParameterEma, params: PyTree | None = None
    ) -> tuple[PyTree, ParameterEma]:
        if params is None:
            raise ValueError("parameter_ema needs the parameters: optimizer.update(…, params)")
        new = optax.apply_updates(params, updates)
        rate = jnp.maximum(1.0 - decay, (_POWER + 1.0) / (state.updates + _POWER + 1.0))
        # As a step towards the new value, so that a parameter at rest keeps its bits.
        return updates, ParameterEma(
            optax.safe_increment(state.updates),
            jax.tree.map(lambda ema, p: ema + rate * (p - ema), state.params, new),
        )

    return optax.GradientTransformation(init, update)


def find_ema(opt_state: PyTree) -> PyTree | None:
    """The averaged parameters anywhere in an optimizer's state; None where none are kept."""
    is_ema = lambda node: isinstance(node, ParameterEma)  # noqa: E731
    found = [node.params for node in jax.tree.leaves(opt_state, is_leaf=is_ema) if is_ema(node)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} parameter averages in one optimizer: keep one, at its end")
    return found[0] if found else None
