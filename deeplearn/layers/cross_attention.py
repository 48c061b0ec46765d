"""Attention of a decoder to the memory of an encoder, as a sequence mixer.

Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.3. With one head it is the "general"
score of Luong et al. 2015 (arXiv:1508.04025), over √K.

    softmax(q·kᵀ / √K) · v,    q = x·W;    k and v are products of the memory
"""

from __future__ import annotations

from flax import linen as nn
from flax import struct

from deeplearn.errors import UsageError
from deeplearn.layers.dense import Dense
from deeplearn.layers.dot_product_attention import dot_product_attention
from deeplearn.types import Array, Context


@struct.dataclass
class Memory:
    """What one layer attends to: `keys` and `values` (B, S, H, K), `segments` (B, S).

    A token sees the places whose segment is its own; 0 is padding.
    """

    keys: Array
    values: Array
    segments: Array


class CrossAttention(nn.Module):
    """A mixer: (B, T, D), memory, context → (B, T, D), memory; its carry is a `Memory`.

    The memory never changes, so its keys and values are made once, by whoever encodes it. Kernels
    start normal with deviation `init_scale`, that of the output times `output_scale`.
    """

    heads: int
    head_width: int
    use_bias: bool = False
    init_scale: float = 0.02
    output_scale: float = 1.0
    dtype: str = "float32"

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> None:
        """Nothing: what a memory is depends on the source, not on the capacity."""
        return None

    @nn.compact
    def __call__(
        self, x: Array, carry: Memory | None, context: Context
    ) -> tuple[Array, Memory | None]:
        if carry is None or context.segments is None:
            raise UsageError(
                "CrossAttention got no memory; put what `encode` returns into the carry by"
                " `with_memory`"
            )
        init = nn.initializers.normal(self.init_scale)
        q = Dense(self.heads * self.head_width, self.use_bias, self.dtype, init, name="query")(x)
        q = q.reshape(*x.shape[:2], self.heads, self.head_width)
        seen = context.segments[:, :, None] == carry.segments[:, None, :]
        y = dot_product_attention(q, carry.keys, carry.values, mask=seen[:, None])
        init = nn.initializers.normal(self.init_scale * self.output_scale)
        y = y.reshape(*x.shape[:2], self.heads * self.head_width)
        return Dense(x.shape[-1], self.use_bias, self.dtype, init, name="output")(y), carry
