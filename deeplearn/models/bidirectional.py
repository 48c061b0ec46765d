"""A recurrent mixer over a text in both directions.

Source: Schuster & Paliwal 1997, "Bidirectional Recurrent Neural Networks".
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.models.sequence import context_of
from deeplearn.types import Array, Context


class Bidirectional(nn.Module):
    """A mixer: (B, T, D) → (B, T, 2·F), a `mixer` with F outputs forwards, and another backwards.

    It reads whole documents at once, so that it takes no carry.
    """

    mixer: nn.Module

    def setup(self) -> None:
        self.forward = self.mixer.clone(parent=None, _deep_clone=True)
        self.backward = self.mixer.clone(parent=None, _deep_clone=True)

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> None:
        """Refused: what comes later is not known yet."""
        raise UsageError("Bidirectional reads all tokens at once: it belongs in an encoder")

    def __call__(self, x: Array, carry: None, context: Context) -> tuple[Array, None]:
        forward: Any = self.forward
        backward: Any = self.backward
        segments = context.segments
        if segments is not None:
            segments = segments[:, ::-1]
            reverse, _ = context_of(segments, None, segments, None, context.train)
        else:
            reverse = context
        before, _ = forward(x, None, context)
        after, _ = backward(x[:, ::-1], None, reverse)
        return jnp.concatenate([before, after[:, ::-1]], axis=-1), None
