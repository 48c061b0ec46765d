"""Multi-head attention as a sequence mixer, with a cache of keys and values as its carry.

Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; grouped queries: Ainslie et al. 2023
(arXiv:2305.13245); sliding window: Beltagy et al. 2020 (arXiv:2004.05150).

    softmax(q·kᵀ / √K) · v,    q, k, v = x·W
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from deeplearn.errors import UsageError
from deeplearn.layers.checks import require_sizes
from deeplearn.layers.dense import Dense
from deeplearn.layers.dot_product_attention import dot_product_attention
from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.rotary import Scaling, rotate
from deeplearn.types import Array, Context


@struct.dataclass
class KeyValueCache:
    """The keys and values of the last S tokens of each row, which has had `length` (B,).

    `keys` and `values` are (B, S, G, K) for G key heads; `segments` (B, S) is 0 in empty slots.
    Token number p of a row lies in slot p mod S. Whoever makes the cache makes it large enough for
    all tokens, or for those that a window shows.
    """

    keys: Array
    values: Array
    segments: Array
    length: Array

    def extend(self, keys: Array, values: Array, segments: Array) -> tuple[KeyValueCache, Array]:
        """The cache with the tokens (B, T) that are not padding, and their numbers (B, T)."""
        real, size = segments > 0, self.segments.shape[1]
        numbers = self.length[:, None] + jnp.cumsum(real, axis=1) - 1
        length = self.length + real.sum(1, dtype=self.length.dtype)
        kept = real & (numbers >= length[:, None] - size)  # no two tokens for one slot
        slots = jnp.where(kept, numbers % size, size)
        rows = jnp.arange(len(slots))[:, None]
        cache = KeyValueCache(
            self.keys.at[rows, slots].set(keys.astype(self.keys.dtype), mode="drop"),
            self.values.at[rows, slots].set(values.astype(self.values.dtype), mode="drop"),
            self.segments.at[rows, slots].set(segments, mode="drop"),
            length,
        )
        return cache, numbers

    def stored(self) -> Array:
        """The number of the token in each slot (B, S), below 0 in empty ones."""
        last, size = self.length[:, None] - 1, self.segments.shape[1]
        return last - (last - jnp.arange(size)[None]) % size


class Attention(nn.Module):
    """A mixer: (B, T, D), carry, context → (B, T, D), carry; the carry is a `KeyValueCache`.

    `heads` query heads of `head_width` share `kv_heads` heads of keys and values (None: as many).
    `causal` hides later tokens; `window` also those that are `window` tokens back or more.
    `rotary` is the base of the rotary embedding (None: no positions), whose frequencies
    `rotary_scaling` changes (`rotary.Scaling`). Kernels start normal with deviation `init_scale`,
    that of the output times `output_scale`. What runs fused on a GPU stands in
    `layers/dot_product_attention.py`.
    """

    heads: int
    head_width: int
    kv_heads: int | None = None
    causal: bool = True
    window: int | None = None
    rotary: float | None = 10_000.0
    rotary_scaling: Scaling | None = None
    use_bias: bool = False
    init_scale: float = 0.02
    output_scale: float = 1.0
    dtype: str = "float32"

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> KeyValueCache:
        """An empty cache for `batch` rows of `capacity` tokens, or of what the window shows.

        Refused where tokens see later ones: what comes later is not known yet.
        """
        if not self.causal:
            raise UsageError(
                "Attention with causal=False sees all tokens at once: it belongs in an encoder; set"
                " causal=True to go on from the tokens before"
            )
        capacity = capacity if self.window is None else min(capacity, self.window)
        shape = (batch, capacity, self._groups, self.head_width)
        return KeyValueCache(
            jnp.zeros(shape, compute_dtype(dtype)),
            jnp.zeros(shape, compute_dtype(dtype)),
            jnp.zeros((batch, capacity), jnp.int32),
            jnp.zeros((batch,), jnp.int32),
        )

    @nn.compact
    def __call__(
        self, x: Array, carry: KeyValueCache | None, context: Context
    ) -> tuple[Array, KeyValueCache | None]:
        self._check()
        sizes = [self.heads, self._groups, self._groups]
        width = sum(sizes) * self.head_width
        init = nn.initializers.normal(self.init_scale)
        qkv = Dense(width, self.use_bias, self.dtype, init, name="qkv")(x)
        qkv = qkv.reshape(*x.shape[:2], sum(sizes), self.head_width)
        q, k, v = jnp.split(qkv, [sizes[0], sizes[0] + sizes[1]], axis=2)
        if self.rotary is not None:
            turn = (context.positions, self.rotary, self.rotary_scaling)
            q, k = rotate(q, *turn), rotate(k, *turn)
        if carry is None:
            y = self._attend_within(q, k, v, context.segments)
        else:
            assert context.segments is not None, "a carry comes with segments"
            y, carry = self._attend_behind(carry, q, k, v, context.segments)
        init = nn.initializers.normal(self.init_scale * self.output_scale)
        y = y.reshape(*x.shape[:2], self.heads * self.head_width)
        return Dense(x.shape[-1], self.use_bias, self.dtype, init, name="output")(y), carry

    def _attend_within(self, q: Array, k: Array, v: Array, segments: Array | None) -> Array:
        """Attention among the tokens at hand."""
        if segments is None:
            return dot_product_attention(q, k, v, causal=self.causal, window=self.window)
        # Padding takes no place, as in the cache.
        order = jnp.cumsum(segments > 0, axis=1) - 1
        same = segments[:, :, None] == segments[:, None, :]
        seen = self._visible(order, order)
        # What is causal in places is so in the row, of which a kernel may pass over half.
        mask = (seen & same)[:, None]
        return dot_product_attention(q, k, v, mask=mask, causal=self.causal)

    def _attend_behind(
        self, past: KeyValueCache, q: Array, k: Array, v: Array, segments: Array
    ) -> tuple[Array, KeyValueCache]:
        """Attention to the tokens of the cache and to those at hand, and the cache with them."""
        capacity = past.segments.shape[1]
        if q.shape[1] > capacity and capacity != self.window:
            raise UsageError(
                f"Attention: {q.shape[1]} tokens at once, and the carry is for {capacity}; make it"
                " by init_carry(batch, capacity) for all tokens of the text"
            )
        cache, numbers = past.extend(k, v, segments)
        seen: tuple[Array, ...] = cache.keys, cache.values, cache.segments, cache.stored()
        if capacity == self.window and q.shape[1] > 1:
            # The last of these tokens may have the slots of some that the first still see.
            before = past.keys, past.values, past.segments, past.stored()
            seen = tuple(
                jnp.concatenate([old, new.astype(old.dtype)], axis=1)
                for old, new in zip(before, (k, v, segments, numbers), strict=True)
            )
        keys, values, key_segments, key_numbers = seen
        same = segments[:, :, None] == key_segments[:, None, :]
        mask = (self._visible(numbers, key_numbers) & same)[:, None]
        return dot_product_attention(q, keys, values, mask=mask), cache

    def _visible(self, query: Array, key: Array) -> Array:
        """Whether the token at place `key` (B or 1, S) is seen from `query` (B or 1, T)."""
        back = query[:, :, None] - key[:, None, :]
        seen = back >= 0 if self.causal else jnp.full_like(back, True, dtype=bool)
        return seen if self.window is None else seen & (jnp.abs(back) < self.window)

    @property
    def _groups(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    def _check(self) -> None:
        require_sizes(
            "Attention",
            heads=self.heads,
            head_width=self.head_width,
            kv_heads=self.kv_heads,
            window=self.window,
        )
        if self.heads % self._groups:
            raise UsageError(
                f"Attention: heads={self.heads} is no multiple of kv_heads={self.kv_heads}"
            )
        if self.rotary is not None and self.head_width % 2:
            raise UsageError(f"Attention: head_width={self.head_width} must be even to be rotated")
        scaling = self.rotary_scaling
        if scaling is not None and (min(scaling) <= 0 or scaling[2] <= scaling[1]):
            raise UsageError(
                f"Attention: rotary_scaling={scaling} must be (factor, low, high, length), all"
                " above 0 and low below high"
            )
        if scaling is not None and self.rotary is None:
            raise UsageError("Attention: rotary_scaling scales nothing where rotary is None")
