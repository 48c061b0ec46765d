"""Encoder–decoders: a decoder that attends to the features of a source text.

The decoder is a `SequenceModel` with `CrossAttention` among its blocks. The memory of the source
enters its carry, so that whatever samples from a sequence model samples from it as well.

Source: Vaswani et al. 2017 (arXiv:1706.03762). Differences: norm before each layer, without mean
and bias (RMSNorm); rotary positions; source and target have embeddings of their own. Of the LSTM:
Luong et al. 2015 (arXiv:1508.04025), with the bidirectional encoder of Bahdanau et al. 2015
(arXiv:1409.0473). Differences: residual blocks; the decoder starts from zero, so that attention is
all it knows of the source; no input feeding.

Initializer: normal with deviation 0.02, divided by √(2·depth) for the kernels that write into the
residual stream; of the LSTM the recurrent layers are as in `models/lstm.py`, attention has
deviation 1/√width, and embeddings have 0.02. Weight decay leaves out biases, scales and embeddings.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.attention import Attention
from deeplearn.layers.checks import require_sizes
from deeplearn.layers.cross_attention import CrossAttention, Memory
from deeplearn.layers.dense import Dense
from deeplearn.layers.feed_forward import FeedForward
from deeplearn.models.bidirectional import Bidirectional
from deeplearn.models.encoder import encode
from deeplearn.models.lstm import LSTM
from deeplearn.models.sequence import Block, Carry, SequenceModel
from deeplearn.types import Array, PyTree

Memories = tuple
"""The layers of a carry with a `Memory` where there is cross attention, and None elsewhere."""


def with_memory(carry: Carry, memory: Memories) -> Carry:
    """The carry with the memory of a source in the layers that attend to it."""
    return dataclasses.replace(carry, layers=_filled(carry.layers, memory))


def _filled(layers: PyTree, memory: PyTree) -> PyTree:
    if isinstance(memory, tuple):
        return tuple(map(_filled, layers, memory))
    return layers if memory is None else memory


class EncoderDecoder(nn.Module):
    """Tokens (B, T) of a target and a carry with memory → logits (B, T, V) fp32 and carry.

    `encoder` is an encoder or a sequence model that sees both ways; `decoder` is a sequence model
    with cross attention in its pattern. `start(source, capacity)` is the carry to decode from.
    """

    encoder: nn.Module
    decoder: SequenceModel

    def setup(self) -> None:
        mixers = [block.mixer for block in self.decoder.pattern]
        crossing = [mixer for mixer in mixers if isinstance(mixer, CrossAttention)]
        if not crossing:
            raise UsageError("EncoderDecoder: the decoder's pattern holds no CrossAttention")
        # Keys and values of all layers are one matrix product.
        width = sum(2 * mixer.heads * mixer.head_width for mixer in crossing)
        init = nn.initializers.normal(crossing[0].init_scale)
        self.memory = Dense(self.decoder.repeats * width, False, self.decoder.dtype, init)

    @property
    def vocabulary(self) -> int:
        """How many tokens the decoder knows."""
        return self.decoder.vocabulary

    @property
    def source_vocabulary(self) -> int:
        """How many tokens the encoder knows."""
        encoder: Any = self.encoder
        return encoder.vocabulary

    def encode(
        self, source: Array, segments: Array | None = None, *, train: bool = False
    ) -> Memories:
        """What the decoder attends to of a source (B, S).

        `segments` (B, S) tell which target tokens see which places, 0 is padding (None: token 0 is
        padding and all others are seen).
        """
        if segments is None:
            segments = (source > 0).astype(jnp.int32)
        projected = self.memory(encode(self.encoder, source, segments, train))
        repeats, start = self.decoder.repeats, 0
        memories: list[Memory | None] = []
        for block in self.decoder.pattern:
            mixer: Any = block.mixer
            if not isinstance(mixer, CrossAttention):
                memories.append(None)
                continue
            width = repeats * 2 * mixer.heads * mixer.head_width
            part = projected[:, :, start : start + width]
            shape = (*source.shape, repeats, 2, mixer.heads, mixer.head_width)
            keys, values = jnp.moveaxis(part.reshape(shape), (3, 2), (0, 1))
            each = jnp.broadcast_to(segments[None], (repeats, *segments.shape))
            memories.append(Memory(keys, values, each))
            start += width
        layers = tuple(memories)
        if self.decoder.scan:
            return layers
        return tuple(
            jax.tree.map(lambda leaf, at=index: leaf[at], layers) for index in range(repeats)
        )

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> Carry:
        """The carry before the first token, still without a memory: see `with_memory`."""
        return self.decoder.init_carry(batch, capacity, dtype)

    def start(self, source: Array, capacity: int, segments: Array | None = None) -> Carry:
        """The carry before the first token of a target, with the memory of its source (B, S)."""
        carry = self.init_carry(len(source), capacity, self.decoder.dtype)
        return with_memory(carry, self.encode(source, segments))

    def __call__(
        self,
        tokens: Array,
        carry: Carry | None = None,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        train: bool = False,
    ) -> tuple[Array, Carry | None]:
        return self.decoder(tokens, carry, segments=segments, positions=positions, train=train)

    def teacher_forced(
        self,
        source: Array,
        tokens: Array,
        *,
        source_segments: Array | None = None,
        segments: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Logits (B, T, V) of target tokens (B, T), all of them read at once; see `features`."""
        return self.head(
            self.features(
                source, tokens, source_segments=source_segments, segments=segments, train=train
            )
        )

    def features(
        self,
        source: Array,
        tokens: Array,
        *,
        source_segments: Array | None = None,
        segments: Array | None = None,
        train: bool = False,
    ) -> Array:
        """What the output kernel is applied to, of all target tokens (B, T): (B, T, D).

        The carry holds the memory and nothing of the target's past. `segments` as in a sequence
        model; they see the same of the source.
        """
        memory = self.encode(source, source_segments, train=train)
        zeros = jnp.zeros(tokens.shape[:1], jnp.int32)
        carry = Carry(zeros, zeros, memory)
        return self.decoder.features(tokens, carry, segments=segments, train=train)[0]

    def head(self, features: Array) -> Array:
        """Logits (…, V) in fp32 of features (…, D)."""
        return self.decoder.head(features)

    def output_kernel(self) -> Array:
        """The decoder's output kernel (D, V)."""
        return self.decoder.output_kernel()


def transformer_encoder_decoder(
    source_vocabulary: int,
    vocabulary: int,
    width: int = 512,
    depth: int = 6,
    heads: int = 8,
    features: int = 2048,
    dropout: float = 0.1,
    dtype: str = "float32",
) -> EncoderDecoder:
    """A Transformer, `depth` layers a side; the defaults are the base size of Vaswani et al."""
    require_sizes("transformer_encoder_decoder", width=width, depth=depth, heads=heads)
    if width % heads or (width // heads) % 2:
        raise UsageError(
            f"transformer_encoder_decoder: width={width} must be heads={heads} times an even number"
        )
    scale = (2 * depth) ** -0.5

    def attention(causal: bool) -> Attention:
        return Attention(heads, width // heads, causal=causal, output_scale=scale, dtype=dtype)

    crossing = CrossAttention(heads, width // heads, output_scale=scale, dtype=dtype)
    feed_forward = FeedForward(features, "relu", output_scale=scale, dtype=dtype)
    read = Block(attention(causal=False), feed_forward, dropout=dropout, dtype=dtype)
    write = Block(attention(causal=True), dropout=dropout, dtype=dtype)
    look = Block(crossing, feed_forward, dropout=dropout, dtype=dtype)
    common: Any = {"dropout": dropout, "dtype": dtype}
    return EncoderDecoder(
        SequenceModel(source_vocabulary, width, depth, (read,), **common),
        SequenceModel(vocabulary, width, depth, (write, look), **common),
    )


def lstm_encoder_decoder(
    source_vocabulary: int,
    vocabulary: int,
    width: int,
    depth: int,
    heads: int = 1,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> EncoderDecoder:
    """LSTMs, `depth` layers a side, the encoder's in both directions; attention above the last."""
    require_sizes("lstm_encoder_decoder", width=width, depth=depth, heads=heads)
    if width % 2 or width % heads:
        raise UsageError(
            f"lstm_encoder_decoder: width={width} must be even and divide into heads={heads}"
        )
    common: Any = {"dropout": dropout, "dtype": dtype}
    read = Block(Bidirectional(LSTM(width // 2, dtype=dtype)), **common)
    write = Block(LSTM(width, dtype=dtype), **common)
    mixer = CrossAttention(heads, width // heads, init_scale=width**-0.5, dtype=dtype)
    look = Block(mixer, **common)
    return EncoderDecoder(
        SequenceModel(source_vocabulary, width, depth, (read,), **common),
        SequenceModel(vocabulary, width, 1, (*(write,) * depth, look), **common),
    )
