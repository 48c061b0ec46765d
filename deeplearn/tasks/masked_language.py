"""Masked language modelling: the tokens that were hidden, from all the others.

A batch holds `tokens` int (B, T) and optionally `segments` int (B, T), documents numbered from 1 on
and 0 for padding; without them token 0 is padding. `mask` (B,) weighs rows.

Source: Devlin et al. 2019 (arXiv:1810.04805), section 3.1: of the chosen tokens 80 % become the
mask token, 10 % a random token, 10 % stay. Differences: each token is chosen by itself, so that
their number varies, and special tokens are chosen and drawn like all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.tasks.checks import require_fields, require_tokens
from deeplearn.tasks.example_keys import example_keys, token_fingerprint
from deeplearn.tasks.forward import cleared, require_tile, token_losses, token_weights
from deeplearn.types import Array, Aux, Batch, ExponentialMean, Mean, Variables


@dataclass(frozen=True)
class MaskedLanguage:
    """Trains a masked language model by cross-entropy in nats per chosen token.

    `mask_token` hides what is to be found; `rate` in (0, 1] is the part of the tokens that are
    chosen. Training draws it anew at every step, evaluation from the content of the row. `tile`
    computes the loss over so many words of the vocabulary at a time, without the logits of all in
    memory and so without the accuracy (None: all at once).
    """

    model: nn.Module
    mask_token: int
    rate: float = 0.15
    tile: int | None = None

    def __post_init__(self) -> None:
        require_tile("MaskedLanguage", self.tile)
        if not 0 < self.rate <= 1:
            raise UsageError(f"task MaskedLanguage: rate = {self.rate} is outside (0, 1]")
        vocabulary = self.model.vocabulary
        if not 0 <= self.mask_token < vocabulary:
            raise UsageError(
                f"task MaskedLanguage: mask_token = {self.mask_token} is outside the vocabulary"
                f" [0, {vocabulary - 1}] of the model"
            )

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables; `batch` gives shapes only."""
        return dict(self.model.init(rng, batch["tokens"][:1]))

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The mean cross-entropy of the chosen tokens, and how many of them are found."""
        draw, dropout = jax.random.split(rng)
        batch = cleared(batch)
        rows = jax.random.split(draw, len(batch["tokens"]))
        means = self._means(variables, batch, rows, dropout)
        loss = means.pop("loss")
        return loss.value, Aux(loss.weight, means, {})

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`loss` in nats per chosen token, `perplexity`; `accuracy` without a `tile`.

        The choice of a row is fixed.
        """
        batch = cleared(batch)
        rows = example_keys(token_fingerprint(batch["tokens"]))
        means = self._means(variables, batch, rows, None)
        loss = means["loss"]
        return {**means, "perplexity": ExponentialMean(loss.total, loss.weight)}

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` for tokens outside the vocabulary."""
        require_fields(batch, "tokens")
        require_tokens(batch, "tokens", self.model.vocabulary)

    def hide(self, rows: Array, tokens: Array, segments: Array) -> tuple[Array, Array]:
        """What the model reads (B, T), and which tokens were chosen (B, T); a key for each row."""
        draw = jax.vmap(lambda key: jax.random.uniform(key, (tokens.shape[1], 2)))(rows)
        chosen = (draw[:, :, 0] < self.rate) & (segments > 0)
        # The second draw picks 80, 10 or 10 %; what is left of it within the 10 % is uniform too.
        part = draw[:, :, 1]
        size = self.model.vocabulary
        other = jnp.minimum(((part - 0.8) * 10 * size).astype(tokens.dtype), size - 1)
        read = jnp.where(part < 0.9, jnp.where(part < 0.8, self.mask_token, other), tokens)
        return jnp.where(chosen, read, tokens), chosen

    def _means(
        self, variables: Variables, batch: Batch, rows: Array, dropout: Array | None
    ) -> dict[str, Mean]:
        """`loss` and, where known, `accuracy`, of the chosen; training where `dropout` is given."""
        tokens = batch["tokens"]
        segments = batch.get("segments", (tokens > 0).astype(jnp.int32))
        read, chosen = self.hide(rows, tokens, segments)

        def losses_of(model: Any) -> tuple[Array, Array | None]:
            features = model.features(read, segments=segments, train=dropout is not None)
            return token_losses(model, features, tokens, self.tile)

        rngs = {} if dropout is None else {"dropout": dropout}
        losses, hits = nn.apply(losses_of, self.model)(variables, rngs=rngs)
        weight = token_weights(chosen, batch)
        means = {"loss": Mean.of(losses, weight)}
        return means if hits is None else {**means, "accuracy": Mean.of(hits, weight)}
