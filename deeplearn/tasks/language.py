"""Language modelling: the next token of every token.

A batch holds `tokens` int (B, T + 1): the first T are read, the last T are the labels. With
`segments` int (B, T + 1), documents numbered from 1 on and 0 for padding, a label counts where it
is of the same document as the token before it. `mask` (B,) weighs rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deeplearn.sampling.autoregressive import Request, stream
from deeplearn.tasks.checks import require_fields, require_tokens
from deeplearn.tasks.forward import cleared, require_tile, token_losses, token_weights
from deeplearn.types import Array, Aux, Batch, ExponentialMean, Mean, Variables


@dataclass(frozen=True)
class Language:
    """Trains a sequence model by cross-entropy in nats per token.

    `tile` computes the loss over so many words of the vocabulary at a time, without the logits of
    all in memory (None: all at once).
    """

    model: nn.Module
    tile: int | None = None

    def __post_init__(self) -> None:
        require_tile("Language", self.tile)

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables; `batch` gives shapes only.

        Raises `UsageError` where the model sees later tokens.
        """
        # One row is enough: parameters depend neither on B nor on T.
        variables = dict(self.model.init(rng, batch["tokens"][:1, :-1]))
        model: Any = self.model
        # A model that sees the future has its labels before it, and refuses to make a carry.
        jax.eval_shape(lambda: model.init_carry(1, 1))
        return variables

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The mean cross-entropy of the labels that count, and their accuracy."""
        losses, hits, weight = self._losses(variables, batch, rng)
        mean = Mean.of(losses, weight)
        metrics = {} if hits is None else {"accuracy": Mean.of(hits, weight)}
        return mean.value, Aux(mean.weight, metrics, {})

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`loss` in nats per token, `perplexity`, and `accuracy` without a `tile`."""
        losses, hits, weight = self._losses(variables, batch, None)
        loss = Mean.of(losses, weight)
        metrics = {"loss": loss, "perplexity": ExponentialMean(loss.total, loss.weight)}
        return metrics if hits is None else {**metrics, "accuracy": Mean.of(hits, weight)}

    def bits_per_byte(self, loss: float, bytes_per_token: float) -> float:
        """`loss` in nats per token as bits per byte of the text."""
        return loss / math.log(2) / bytes_per_token

    def sample(self, variables: Variables, rng: Array, request: Request) -> Iterator[np.ndarray]:
        """The continuations (B, K) of the prompts, some tokens at a time; see `stream`."""
        model: Any = self.model
        return stream(model, variables, request.prompts, request.sampler, rng)

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` for tokens outside the vocabulary, or too few of them."""
        require_fields(batch, "tokens")
        require_tokens(batch, "tokens", self.model.vocabulary, shortest=2)

    def _losses(
        self, variables: Variables, batch: Batch, rng: Array | None
    ) -> tuple[Array, Array | None, Array]:
        """Cross-entropy, hits and weight of each label (B, T); training where `rng` is given."""
        batch = cleared(batch)
        tokens, segments = batch["tokens"], batch.get("segments")
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        counts = jnp.ones(labels.shape, bool)
        if segments is not None:
            counts = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
            segments = segments[:, :-1]
        weight = token_weights(counts, batch)

        def losses(model: nn.Module) -> tuple[Array, Array | None]:
            features, _ = model.features(inputs, segments=segments, train=rng is not None)
            return token_losses(model, features, labels, self.tile)

        rngs = {} if rng is None else {"dropout": rng}
        return *nn.apply(losses, self.model)(variables, rngs=rngs), weight
