"""How a next token is chosen from its logits: the options of sampling, and where it ends."""

from __future__ import annotations

import dataclasses

import jax

from deeplearn.errors import UsageError
from deeplearn.sampling.logits import keep_min_p, keep_top_k, keep_top_p, penalize_repetition
from deeplearn.types import Array


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws up to `count` tokens a row; a row ends with the first of the tokens `stop`.

    Applied in this order: the repetition penalty, the division by `temperature` (0: the likeliest
    token, nothing is drawn), `top_k` (None: all), `top_p` (1: all), `min_p` (0: all).
    """

    count: int = 256
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._require(self.count >= 1, "count", "must be 1 or more")
        self._require(self.temperature >= 0, "temperature", "must be 0 (greedy) or more")
        self._require(self.top_k is None or self.top_k >= 1, "top_k", "must be 1 or more")
        self._require(0 < self.top_p <= 1, "top_p", "must be in (0, 1]")
        self._require(0 <= self.min_p <= 1, "min_p", "must be in [0, 1]")
        self._require(self.repetition_penalty > 0, "repetition_penalty", "must be above 0")

    def _require(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            raise UsageError(f"sampling: {name}={getattr(self, name)} {rule}")

    def filtered(self, logits: Array, seen: Array) -> Array:
        """The logits (B, V) that are drawn from; `seen` (B, V) marks the tokens of the row."""
        if self.repetition_penalty != 1:
            logits = penalize_repetition(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            return logits
        logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        return keep_min_p(logits, self.min_p) if self.min_p > 0 else logits

    def choose(self, logits: Array, seen: Array, keys: Array) -> Array:
        """The next token (B,) of each row by its logits and tokens (B, V) and its key (B,)."""
        logits = self.filtered(logits, seen)
        if self.temperature == 0:
            return logits.argmax(-1)
        return jax.vmap(jax.random.categorical)(keys, logits)
