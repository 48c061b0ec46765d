"""A sequence model with a layer of its own for each repetition."""

from __future__ import annotations

import functools

import jax

from deeplearn.models.sequence import SequenceModel
from deeplearn.types import PyTree, Variables


def unrolled(model: SequenceModel, variables: Variables) -> tuple[SequenceModel, Variables]:
    """The same model without its scan over layers, and its variables, of which this is a copy.

    It compiles longer. A CPU decodes faster with it, since the scan copies the parameters and the
    state of every layer for each token.
    """
    if not model.scan:
        return model, variables
    params = dict(variables["params"])
    layers = _split(params.pop("layers"), model.repeats)
    params |= {f"layers_{index}": layer for index, layer in enumerate(layers)}
    return model.copy(scan=False), {**variables, "params": params}


@functools.partial(jax.jit, static_argnums=1)
def _split(stacked: PyTree, repeats: int) -> list[PyTree]:
    return [jax.tree.map(lambda leaf, at=index: leaf[at], stacked) for index in range(repeats)]
