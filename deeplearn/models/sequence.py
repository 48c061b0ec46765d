"""The one sequence model: embedding, repetitions of a pattern of blocks, output.

A pattern is a tuple of blocks; a hybrid is a pattern of several kinds. The repetitions are one
`nn.scan`, so that compile time does not grow with depth, and the state that a model carries from
one chunk of tokens to the next is stacked over them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from deeplearn.errors import UsageError
from deeplearn.layers.checks import require_dropout, require_sizes
from deeplearn.layers.embedding import Embedding
from deeplearn.layers.normalization import normalization
from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.products import product
from deeplearn.layers.stack import recomputed, stacked
from deeplearn.types import Array, Context, PyTree


@struct.dataclass
class Carry:
    """What a model knows of the tokens before: of each row the segment and the next position.

    `layers` has one entry for each block of the pattern, its leaves with the leading axes
    (repeats, B). Of a model without scan it has such a tuple for each repetition, with the leading
    axis (B,). `axis` is the place of B.
    """

    segment: Array
    position: Array
    layers: PyTree
    axis: int = struct.field(pytree_node=False, default=1)

    def take(self, rows: Array) -> Carry:
        """The carry of `rows` (B',) in that order; a row may be taken more than once."""
        layers = jax.tree.map(
            lambda leaf: jnp.take(leaf, rows, self.axis, mode="clip"), self.layers
        )
        return Carry(self.segment[rows], self.position[rows], layers, self.axis)


def _norm(kind: str, epsilon: float, dtype: str, name: str | None = None) -> Any:
    if kind == "batch":
        raise UsageError(
            "normalization='batch' of a sequence model would mix tokens; use 'rms' or 'layer'"
        )
    return normalization(kind)(epsilon=epsilon, dtype=dtype, name=name)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)): (B, T, D), carry → (B, T, D), carry.

    `normalization` None leaves out both norms, `residual` False both sums; `dropout` acts on what
    is added. Pre-norm: Xiong et al. 2020 (arXiv:2002.04745).
    """

    mixer: nn.Module
    feed_forward: nn.Module | None = None
    normalization: str | None = "rms"
    residual: bool = True
    dropout: float = 0.0
    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, carry: PyTree, context: Context) -> tuple[Array, PyTree]:
        mixer: Any = self.mixer
        y, carry = mixer(self._normalized(x, "mixer_norm"), carry, context)
        x = self._added(x, y, context)
        if self.feed_forward is not None:
            feed_forward: Any = self.feed_forward
            y = feed_forward(self._normalized(x, "feed_forward_norm"))
            x = self._added(x, y, context)
        return x, carry

    def _normalized(self, x: Array, name: str) -> Array:
        if self.normalization is None:
            return x
        return _norm(self.normalization, self.epsilon, self.dtype, name)(x)

    def _added(self, x: Array, y: Array, context: Context) -> Array:
        if self.dropout:
            y = nn.Dropout(self.dropout, deterministic=not context.train)(y)
        return x + y if self.residual else y


class _Repetition(nn.Module):
    """One pass through the pattern."""

    blocks: tuple[nn.Module, ...]

    @nn.compact
    def __call__(self, x: Array, carry: PyTree, context: Context) -> tuple[Array, PyTree]:
        carries = (None,) * len(self.blocks) if carry is None else carry
        after = []
        for block, state in zip(self.blocks, carries, strict=True):
            module: Any = block
            x, state = module(x, state, context)
            after.append(state)
        return x, None if carry is None else tuple(after)


class SequenceModel(nn.Module):
    """Tokens (B, T) and carry → logits (B, T, V) fp32 and carry.

    `pattern` is repeated `repeats` times; its blocks take the `dtype` and the `dropout` of the
    model, whatever they had, and the modules in them its `dtype`. `tied` uses the embedding as
    output kernel. `learned_positions` adds a learned vector to each of `max_length` positions;
    `max_length` is also what a sequence may have at most (None: any length). `remat` is None,
    "full" or "dots" (`stack.REMAT`). `scan` False makes every repetition a layer of its own.
    """

    vocabulary: int
    width: int
    repeats: int
    pattern: tuple[Block, ...]
    tied: bool = True
    max_length: int | None = None
    learned_positions: bool = False
    normalization: str | None = "rms"
    epsilon: float = 1e-6
    embedding_scale: float = 0.02
    dropout: float = 0.0
    remat: str | None = None
    scan: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        alike = (_alike(block, self.dtype, self.dropout) for block in self.pattern)
        object.__setattr__(self, "pattern", tuple(alike))
        super().__post_init__()

    def setup(self) -> None:
        self._check()
        self.embedding = Embedding(self.vocabulary, self.width, self.embedding_scale, self.dtype)
        if self.learned_positions:
            assert self.max_length is not None
            self.position = Embedding(self.max_length, self.width, self.embedding_scale, self.dtype)
        self.dropped = nn.Dropout(self.dropout)
        self.layers = self._stack()
        if self.normalization is not None:
            self.norm = _norm(self.normalization, self.epsilon, self.dtype)
        if not self.tied:
            init = nn.initializers.normal(self.embedding_scale)
            self.output = self.param("output", init, (self.width, self.vocabulary))

    def _stack(self) -> Any:
        # Copies without a parent: the blocks of the field itself belong to this module.
        blocks = tuple(block.clone(parent=None, _deep_clone=True) for block in self.pattern)
        if not self.scan:
            kind = recomputed(_Repetition, self.remat)
            return [
                kind(tuple(block.clone(parent=None, _deep_clone=True) for block in blocks))
                for _ in range(self.repeats)
            ]
        return stacked(_Repetition, self.repeats, (0, nn.broadcast), self.remat)(blocks)

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> Carry:
        """The carry before the first token; attention keeps at most `capacity` tokens."""
        if self.max_length is not None and capacity > self.max_length:
            raise UsageError(
                f"capacity={capacity} exceeds max_length={self.max_length} of the model; ask for"
                " fewer tokens"
            )
        layers = tuple(block.mixer.init_carry(batch, capacity, dtype) for block in self.pattern)
        zeros = jnp.zeros((batch,), jnp.int32)
        if not self.scan:
            return Carry(zeros, zeros, (layers,) * self.repeats, axis=0)
        repeated = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (self.repeats, *leaf.shape)), layers
        )
        return Carry(zeros, zeros, repeated)

    def __call__(
        self,
        tokens: Array,
        carry: Carry | None = None,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        train: bool = False,
    ) -> tuple[Array, Carry | None]:
        features, carry = self.features(
            tokens, carry, segments=segments, positions=positions, train=train
        )
        return self.head(features), carry

    def features(
        self,
        tokens: Array,
        carry: Carry | None = None,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        train: bool = False,
    ) -> tuple[Array, Carry | None]:
        """What the output kernel is applied to: (B, T, D), and the carry.

        `segments` (B, T) numbers documents from 1 on, 0 is padding; without them all tokens belong
        to one document, or go on with that of the carry. `positions` (B, T) are those within the
        document where they are not to be counted here; a carry counts on without them, so give
        them with every chunk.
        """
        self._check_length(tokens)
        if carry is None and segments is None:
            if positions is None:
                positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
            context, end = Context(None, positions, train), None
        else:
            context, end = context_of(tokens, carry, segments, positions, train)
        x = self.embedding(tokens)
        if self.learned_positions:
            x = x + jnp.broadcast_to(self.position(context.positions), x.shape)
        x = self.dropped(x, deterministic=not train)
        layers = None if carry is None else carry.layers
        if self.scan:
            x, layers = self.layers(x, layers, context)
        else:
            x, layers = self._unrolled(x, layers, context)
        if self.normalization is not None:
            x = self.norm(x)
        return x, None if carry is None or end is None else Carry(*end, layers, carry.axis)

    def head(self, features: Array) -> Array:
        """Logits (…, V) in fp32 of features (…, D)."""
        kernel = self.output_kernel().astype(compute_dtype(self.dtype))
        return product(features, kernel, jnp.float32)

    def output_kernel(self) -> Array:
        """The output kernel (D, V)."""
        return self.embedding.embedding.T if self.tied else self.output

    def _unrolled(self, x: Array, layers: PyTree, context: Context) -> tuple[Array, PyTree]:
        carries = (None,) * self.repeats if layers is None else layers
        after = []
        for layer, states in zip(self.layers, carries, strict=True):
            x, states = layer(x, states, context)
            after.append(states)
        return x, None if layers is None else tuple(after)

    def _check(self) -> None:
        require_sizes(
            "a sequence model", vocabulary=self.vocabulary, width=self.width, repeats=self.repeats
        )
        require_dropout("a sequence model", self.dropout)
        if not self.pattern:
            raise UsageError("pattern=() of a sequence model must hold a block")
        if self.learned_positions and self.max_length is None:
            raise UsageError("learned_positions of a sequence model need its max_length")

    def _check_length(self, tokens: Array) -> None:
        if tokens.ndim != 2:
            raise UsageError(f"a sequence model takes tokens (B, T), not shape {tokens.shape}")
        if self.max_length is not None and tokens.shape[1] > self.max_length:
            raise UsageError(
                f"sequences of {tokens.shape[1]} tokens exceed max_length={self.max_length} of the"
                " model; cut them or raise model.max_length"
            )


def _alike(block: Block, dtype: str, dropout: float) -> Block:
    """The block with what all layers share, so that one field of the model changes it."""
    block = with_dtype(block, dtype)
    return block if block.dropout == dropout else block.clone(parent=None, dropout=dropout)


def with_dtype(module: Any, dtype: str) -> Any:
    """The module, and those in its fields, with that `dtype`; itself where they have it."""
    changes: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(module) if field.name != "parent"):
        value = getattr(module, name)
        if name == "dtype" and value != dtype:
            changes[name] = dtype
        if isinstance(value, nn.Module) and (made := with_dtype(value, dtype)) is not value:
            changes[name] = made
    return module.clone(parent=None, **changes) if changes else module


def context_of(
    tokens: Array,
    carry: Carry | None,
    segments: Array | None,
    positions: Array | None,
    train: bool,
) -> tuple[Context, tuple[Array, Array]]:
    """The context of a chunk, and (segment, next position) of each row behind it.

    Padding is transparent: the token behind it goes on where the one before it stopped.
    """
    zeros = jnp.zeros(tokens.shape[:1], jnp.int32)
    segment, position = (zeros, zeros) if carry is None else (carry.segment, carry.position)
    if segments is None:
        segments = jnp.broadcast_to(jnp.maximum(segment, 1)[:, None], tokens.shape)
    real = segments > 0
    # The last document named so far, at each token and before it.
    last = jax.lax.cummax(jnp.where(real, jnp.arange(tokens.shape[1])[None], -1), axis=1)
    named = jnp.take_along_axis(segments, jnp.maximum(last, 0), axis=1)
    named = jnp.where(last >= 0, named, segment[:, None])
    before = jnp.concatenate([segment[:, None], named[:, :-1]], axis=1)
    changes = real & (segments != before)
    count = jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1
    start = jax.lax.cummax(jnp.where(changes, count, -1), axis=1)
    counted = jnp.where(start >= 0, count - start, position[:, None] + count)
    if positions is None:
        # A token of padding begins nothing; its position is that of its neighbour.
        positions = jnp.maximum(counted, 0)
    return Context(segments, positions, train, changes), (named[:, -1], counted[:, -1] + 1)
