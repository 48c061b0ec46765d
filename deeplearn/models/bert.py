"""BERT: a bidirectional Transformer encoder of text, with its pooler and its masked-word head.

Source: Devlin et al. 2019 (arXiv:1810.04805): learned positions, token types, norm after the sum,
exact GELU. Differences: attention weights are not dropped out; sentence order is not predicted.

Initializer: normal with deviation 0.02. Weight decay leaves out biases, scales and embeddings.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError, did_you_mean
from deeplearn.layers.activation import activation
from deeplearn.layers.attention import Attention
from deeplearn.layers.checks import require_dropout, require_sizes
from deeplearn.layers.dense import Dense
from deeplearn.layers.embedding import Embedding
from deeplearn.layers.feed_forward import FeedForward
from deeplearn.layers.normalization import LayerNorm
from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.products import product
from deeplearn.layers.stack import stacked
from deeplearn.models.sequence import context_of
from deeplearn.types import Array, Context

INIT = nn.initializers.normal(0.02)


class Layer(nn.Module):
    """norm(x + attention(x)), then norm(x + feed_forward(x)): (B, T, D) → (B, T, D)."""

    heads: int
    features: int
    dropout: float
    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array, context: Context) -> tuple[Array, None]:
        width = x.shape[-1] // self.heads
        attention = Attention(
            self.heads,
            width,
            causal=False,
            rotary=None,
            use_bias=True,
            dtype=self.dtype,
            name="attention",
        )
        feed_forward = FeedForward(
            self.features, activation="gelu_exact", dtype=self.dtype, name="feed_forward"
        )
        y, _ = attention(x, None, context)
        x = self._added(x, y, context, "attention_norm")
        return self._added(x, feed_forward(x), context, "feed_forward_norm"), None

    def _added(self, x: Array, y: Array, context: Context, name: str) -> Array:
        y = nn.Dropout(self.dropout, deterministic=not context.train)(y)
        return LayerNorm(self.epsilon, dtype=self.dtype, name=name)(x + y)


class BERT(nn.Module):
    """Tokens (B, T) → features (B, T, D).

    `segments` (B, T) numbers documents from 1 on, 0 is padding; without them there is one document
    a row and no padding. `types` (B, T) tells the two texts of a pair apart (None: all 0). `remat`
    is None, "full" or "dots" (`stack.REMAT`).
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    features: int
    max_length: int = 512
    types: int = 2
    dropout: float = 0.1
    epsilon: float = 1e-12
    remat: str | None = None
    dtype: str = "float32"

    def setup(self) -> None:
        self._check()
        self.embedding = Embedding(self.vocabulary, self.width, dtype=self.dtype)
        self.position = Embedding(self.max_length, self.width, dtype=self.dtype)
        self.type = Embedding(self.types, self.width, dtype=self.dtype)
        self.norm = LayerNorm(self.epsilon, dtype=self.dtype)
        self.dropped = nn.Dropout(self.dropout)
        layers = stacked(Layer, self.depth, nn.broadcast, self.remat)
        self.layers = layers(self.heads, self.features, self.dropout, self.epsilon, self.dtype)
        self.pooler = Dense(self.width, dtype=self.dtype, kernel_init=INIT)

    def __call__(
        self,
        tokens: Array,
        *,
        segments: Array | None = None,
        types: Array | None = None,
        train: bool = False,
    ) -> Array:
        if tokens.ndim != 2 or tokens.shape[1] > self.max_length:
            raise UsageError(
                f"BERT takes tokens (B, T) with T up to max_length={self.max_length}, not shape"
                f" {tokens.shape}; cut them or raise model.max_length"
            )
        if segments is None:
            context = Context(None, jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], train)
        else:
            context, _ = context_of(tokens, None, segments, None, train)
        x = self.embedding(tokens)
        x = x + jnp.broadcast_to(self.position(context.positions), x.shape)
        x = x + self.type(jnp.zeros_like(tokens) if types is None else types)
        x = self.dropped(self.norm(x), deterministic=not train)
        return self.layers(x, context)[0]

    def pooled(
        self,
        tokens: Array,
        *,
        segments: Array | None = None,
        types: Array | None = None,
        train: bool = False,
    ) -> Array:
        """tanh(x·W + b) of the features of the first token that is not padding: (B, T) → (B, D)."""
        features = self(tokens, segments=segments, types=types, train=train)
        real = jnp.ones_like(tokens) if segments is None else segments > 0
        first = jnp.argmax(real, axis=1)[:, None, None]
        return jnp.tanh(self.pooler(jnp.take_along_axis(features, first, axis=1)[:, 0]))

    def output_kernel(self) -> Array:
        """The embedding as an output kernel (D, V)."""
        return self.embedding.embedding.T

    def _check(self) -> None:
        names = ("vocabulary", "width", "depth", "heads", "features", "max_length", "types")
        require_sizes("BERT", **{name: getattr(self, name) for name in names})
        require_dropout("BERT", self.dropout)
        if self.width % self.heads:
            raise UsageError(f"BERT: width={self.width} does not divide into heads={self.heads}")


class MaskedLanguageModel(nn.Module):
    """Tokens (B, T) → logits (B, T, V) fp32 of what stands at each place.

    norm(gelu(x·W + b)) of the encoder's features, then the product with its embedding, tied.
    """

    encoder: BERT

    @property
    def vocabulary(self) -> int:
        """How many tokens the encoder knows."""
        return self.encoder.vocabulary

    def setup(self) -> None:
        encoder = self.encoder
        self.transform = Dense(encoder.width, dtype=encoder.dtype, kernel_init=INIT)
        self.norm = LayerNorm(encoder.epsilon, dtype=encoder.dtype)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (encoder.vocabulary,))

    def __call__(
        self, tokens: Array, *, segments: Array | None = None, train: bool = False
    ) -> Array:
        return self.head(self.features(tokens, segments=segments, train=train))

    def features(
        self, tokens: Array, *, segments: Array | None = None, train: bool = False
    ) -> Array:
        """What the output kernel is applied to: (B, T, D)."""
        x = self.encoder(tokens, segments=segments, train=train)
        return self.norm(activation("gelu_exact")(self.transform(x)))

    def head(self, features: Array) -> Array:
        """Logits (…, V) in fp32 of features (…, D)."""
        kernel = self.output_kernel().astype(compute_dtype(self.encoder.dtype))
        logits = product(features, kernel, jnp.float32)
        return logits + jnp.broadcast_to(self.bias, logits.shape)

    def output_kernel(self) -> Array:
        """The embedding as an output kernel (D, V); `bias` (V,) is added to the product."""
        return self.encoder.output_kernel()


PRESETS: dict[str, BERT] = {
    "tiny": BERT(vocabulary=256, width=128, depth=2, heads=4, features=512, max_length=256),
    "bert_base": BERT(vocabulary=30522, width=768, depth=12, heads=12, features=3072),
    "bert_large": BERT(vocabulary=30522, width=1024, depth=24, heads=16, features=4096),
    "minilm_l6": BERT(vocabulary=30522, width=384, depth=6, heads=12, features=1536),
}
"""The published sizes by name; `tiny` is ours, for two CPU cores."""


def preset(name: str) -> BERT:
    """The encoder of that name in `PRESETS`; `UsageError` where there is none."""
    if name not in PRESETS:
        raise UsageError(f"no BERT is called '{name}'{did_you_mean(name, PRESETS)}")
    return PRESETS[name]
