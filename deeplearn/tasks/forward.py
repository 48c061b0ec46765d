"""The forward pass of a linen module as tasks need it: fresh variables, training, evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.losses import softmax_cross_entropy
from deeplearn.tiled_cross_entropy import tiled_softmax_cross_entropy
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


def require_tile(task: str, tile: int | None) -> None:
    """Raises `UsageError` where a task cannot take so many words of the vocabulary at a time."""
    if tile is not None and tile < 1:
        raise UsageError(f"task {task}: tile = {tile} must be 1 or more")


def token_losses(
    model: Any, features: Array, labels: Array, tile: int | None, smoothing: float = 0.0
) -> tuple[Array, Array | None]:
    """Cross-entropy (B, T) in nats of `labels` (B, T) by features (B, T, D), and which are hit.

    `model` is bound to its variables. Without `tile` its `head` gives all logits. With it so many
    columns of its `output_kernel` (D, V) and, where it has one, of its array `bias` (V,) are used
    at a time, and what is hit stays unknown (None).
    """
    if tile is None:
        logits = model.head(features)
        hits = jax.lax.stop_gradient(logits).argmax(-1) == labels
        return softmax_cross_entropy(logits, labels, smoothing), hits
    flat = features.reshape(-1, features.shape[-1])
    kernel, bias = model.output_kernel().astype(flat.dtype), getattr(model, "bias", None)
    losses = tiled_softmax_cross_entropy(flat, kernel, labels.reshape(-1), tile, smoothing, bias)
    return losses.reshape(labels.shape), None


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
