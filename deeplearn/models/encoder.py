"""Encoders of text, whatever their kind, and the classifier on top of one."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.checks import require_dropout
from deeplearn.layers.dense import Dense
from deeplearn.models.sequence import SequenceModel
from deeplearn.types import Array

POOLINGS = ("first", "last", "mean", "pooler")


def encode(encoder: nn.Module, tokens: Array, segments: Array | None, train: bool) -> Array:
    """The features (B, T, D) of tokens (B, T): a sequence model's, or an encoder's output."""
    if isinstance(encoder, SequenceModel):
        return encoder.features(tokens, segments=segments, train=train)[0]
    module: Any = encoder
    return module(tokens, segments=segments, train=train)


class TextClassifier(nn.Module):
    """Tokens (B, T), 0 for padding → fp32 logits (B, outputs), from pooled features.

    `encoder` is an encoder or a sequence model. `pooling` takes the "mean" of the tokens, the
    "first", the "last", which alone has read all of a causal model's text, or the "pooler" that
    the encoder brings. `dropout` acts on what was pooled.
    """

    encoder: nn.Module
    outputs: int
    pooling: str = "mean"
    dropout: float = 0.0

    @property
    def vocabulary(self) -> int:
        """How many tokens the encoder knows."""
        encoder: Any = self.encoder
        return encoder.vocabulary

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        if self.pooling not in POOLINGS:
            hint = did_you_mean(str(self.pooling), POOLINGS)
            raise UsageError(f"TextClassifier: pooling={self.pooling!r} is not known{hint}")
        require_dropout("TextClassifier", self.dropout)
        pooled = self._pooled(x, (x > 0).astype(jnp.int32), train)
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        return Dense(self.outputs, name="output")(pooled)

    def _pooled(self, tokens: Array, segments: Array, train: bool) -> Array:
        """One vector a row (B, D), from tokens that are not padding."""
        if self.pooling == "pooler":
            encoder: Any = self.encoder
            if not hasattr(encoder, "pooled"):
                raise UsageError(
                    f"TextClassifier: pooling='pooler' of a {type(encoder).__name__}, which has"
                    " none; choose one of: first, last, mean"
                )
            return encoder.pooled(tokens, segments=segments, train=train)
        features = encode(self.encoder, tokens, segments, train)
        if self.pooling == "mean":
            weights = segments[:, :, None].astype(jnp.float32)
            total = jnp.einsum("btd,bto->bd", features.astype(jnp.float32), weights)
            count = jnp.maximum(weights.sum(1), 1.0)  # A row may be padding alone.
            return total / jnp.broadcast_to(count, total.shape)
        order = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        if self.pooling == "first":
            place = jnp.where(segments > 0, order, tokens.shape[1] - 1).min(1)
        else:
            place = jnp.where(segments > 0, order, 0).max(1)
        return jnp.take_along_axis(features, place[:, None, None], axis=1)[:, 0]
