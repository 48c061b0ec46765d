"""Translation: the next token of a target text, given the source text.

A batch holds `source` int (B, S) and `target` int (B, T + 1), both 0 where there is padding: the
first T tokens of the target are read, the last T are the labels. `mask` (B,) weighs rows. Where
rows are packed, `source_segments` and `target_segments` of the same shapes number the pairs of a
row from 1 on.
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
from deeplearn.sampling.autoregressive import step_of
from deeplearn.sampling.beam import beam_search
from deeplearn.sampling.unrolled import unrolled
from deeplearn.tasks.checks import require_fields, require_tokens
from deeplearn.tasks.forward import cleared, require_tile, token_losses, token_weights
from deeplearn.types import Array, Aux, Batch, ExponentialMean, Mean, Variables


@dataclass(frozen=True)
class Translation:
    """Trains an encoder–decoder by cross-entropy in nats per token of the target.

    `smoothing` of the labels, in [0, 1), acts in training only. Every target begins with the token
    `begin` and ends with `end`. `tile` computes the loss over so many words of the vocabulary at a
    time, without the logits of all in memory and so without the accuracy (None: all at once).
    """

    model: nn.Module
    smoothing: float = 0.0
    begin: int = 1
    end: int = 2
    tile: int | None = None

    def __post_init__(self) -> None:
        require_tile("Translation", self.tile)
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"task Translation: smoothing = {self.smoothing} is outside [0, 1)")
        vocabulary = self.model.vocabulary
        for name in ("begin", "end"):
            if not 0 <= getattr(self, name) < vocabulary:
                raise UsageError(
                    f"task Translation: {name} = {getattr(self, name)} is outside the vocabulary"
                    f" [0, {vocabulary - 1}] of the model"
                )

    def init(self, rng: Array, batch: Batch) -> Variables:
        """Fresh variables; `batch` gives shapes only."""
        # One row is enough: parameters depend on no length.
        source, target = batch["source"][:1], batch["target"][:1, :-1]
        return dict(self.model.init(rng, source, target, method="teacher_forced"))

    def loss(self, variables: Variables, batch: Batch, rng: Array) -> tuple[Array, Aux]:
        """The mean cross-entropy of the labels, smoothed, and their accuracy."""
        means = self._means(variables, batch, self.smoothing, rng)
        loss = means.pop("loss")
        return loss.value, Aux(loss.weight, means, {})

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """`loss` in nats per token without smoothing, `perplexity`; `accuracy` without a `tile`."""
        means = self._means(variables, batch, 0.0, None)
        loss = means["loss"]
        return {**means, "perplexity": ExponentialMean(loss.total, loss.weight)}

    def translate(
        self,
        variables: Variables,
        source: Array,
        count: int,
        beams: int = 1,
        length_penalty: float = 0.6,
    ) -> Array:
        """Translations (B, count) of `source` (B, S), found with `beams` hypotheses each.

        What has ended repeats the token `end`. One beam is greedy decoding; `beam_search` has the
        length penalty.
        """
        model = self.model
        if jax.default_backend() == "cpu":
            params = dict(variables["params"])
            decoder, alone = unrolled(model.decoder, {"params": params["decoder"]})
            model = model.copy(decoder=decoder)
            variables = {**variables, "params": {**params, "decoder": alone["params"]}}
        carry = model.apply(variables, source, count, method="start")
        first = jnp.full(source.shape[:1], self.begin, source.dtype)
        tokens, _ = beam_search(
            step_of(model, variables),
            carry,
            first,
            beams=beams,
            count=count,
            stop=(self.end,),
            length_penalty=length_penalty,
        )
        return tokens

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises `DataError` for tokens outside the two vocabularies, or too few of them."""
        require_fields(batch, "source", "target")
        require_tokens(batch, "source", self.model.source_vocabulary)
        require_tokens(batch, "target", self.model.vocabulary, shortest=2)

    def _means(
        self, variables: Variables, batch: Batch, smoothing: float, rng: Array | None
    ) -> dict[str, Mean]:
        """`loss` of the labels, and `accuracy` where known; training where `rng` is given."""
        batch = cleared(batch)
        inputs, labels = batch["target"][:, :-1], batch["target"][:, 1:]
        segments = batch.get("target_segments", (batch["target"] > 0).astype(jnp.int32))
        read, asked = segments[:, :-1], segments[:, 1:]

        def losses_of(model: Any) -> tuple[Array, Array | None]:
            features = model.features(
                batch["source"],
                inputs,
                source_segments=batch.get("source_segments"),
                segments=read,
                train=rng is not None,
            )
            return token_losses(model, features, labels, self.tile, smoothing)

        rngs = {} if rng is None else {"dropout": rng}
        losses, hits = nn.apply(losses_of, self.model)(variables, rngs=rngs)
        weight = token_weights((asked == read) & (asked > 0), batch)
        means = {"loss": Mean.of(losses, weight)}
        return means if hits is None else {**means, "accuracy": Mean.of(hits, weight)}
