"""The forward pass of a linen module as tasks need it: fresh variables, training, evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.types import Array, Batch, PyTree, Variables


def initialize(model: nn.Module, rng: Array, *inputs: Array) -> Variables:
    """Fresh variables of `model` for `inputs`, whose values are not used; to be jitted."""
    params_rng, dropout_rng = jax.random.split(rng)
    rngs = {"params": params_rng, "dropout": dropout_rng}
    # In training mode: it may use parameters that evaluation does not.
    return dict(model.init(rngs, *inputs, train=True))


def apply_training(
    model: nn.Module, variables: Variables, rng: Array, *inputs: Array
) -> tuple[PyTree, Variables]:
    """The output in training mode and every collection but `params`, as the pass left it."""
    collections = [name for name in variables if name != "params"]
    output, mutated = model.apply(
        variables, *inputs, train=True, rngs={"dropout": rng}, mutable=collections
    )
    return output, dict(mutated)


def apply_evaluation(model: nn.Module, variables: Variables, *inputs: Array) -> PyTree:
    """The output in evaluation mode: no randomness, nothing changed."""
    return model.apply(variables, *inputs, train=False)


def outputs_of(model: nn.Module) -> int:
    """The field `outputs` that every classifier and regressor has."""
    outputs = getattr(model, "outputs", None)
    if not isinstance(outputs, int) or outputs < 1:
        raise UsageError(
            f"model {type(model).__name__}: outputs = {outputs}; a classifier or regressor needs a"
            " field `outputs: int` of 1 or more"
        )
    return outputs


def require_outputs(model: nn.Module, output: Array, size: int) -> None:
    """Raises `UsageError` where the output is not (`size`, outputs)."""
    expected = (size, outputs_of(model))
    if output.shape != expected:
        raise UsageError(
            f"model {type(model).__name__} returned shape {output.shape} instead of {expected};"
            " mend its last layer or its field `outputs`"
        )


def token_weights(counts: Array, batch: Batch) -> Array:
    """fp32 (B, T): 1 where a token `counts` (B, T), times the weight of its row."""
    weight = counts.astype(jnp.float32)
    if "mask" not in batch:
        return weight
    return weight * jnp.broadcast_to(batch["mask"][:, None], weight.shape)


def cleared(batch: Batch) -> Batch:
    """The batch with 0 in every row that `mask` (B,) leaves out.

    A loss of such a row is never counted, but in the backward pass NaN · 0 would be NaN.
    """
    if "mask" not in batch:
        return batch
    kept = batch["mask"] > 0

    def clear(field: Array) -> Array:
        rows = kept.reshape(kept.shape + (1,) * (field.ndim - 1))
        return jnp.where(rows, field, jnp.zeros_like(field))

    return {name: clear(field) for name, field in batch.items()}
