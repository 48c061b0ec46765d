"""The recurrent mixer of long short-term memory, and a language model made of it.

Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; the equations
stand in `layers/lstm.py`.

Initializer, gate by gate: Glorot uniform for W, orthogonal for U (Saxe et al. 2014,
arXiv:1312.6120); the bias of the forget gate 1 (Jozefowicz et al. 2015), the others 0; embedding
and output kernel normal with deviation 1/√width. Weight decay leaves out biases, scales and the
embedding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.layers.lstm import State, lstm_layer
from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.token_masks import token_masks
from deeplearn.models.rnn import first_state, recurrent_model
from deeplearn.models.sequence import SequenceModel
from deeplearn.types import Array, Context


class LSTM(nn.Module):
    """An LSTM layer: (B, T, D) → (B, T, hidden); its carry is (h, c), both (B, hidden).

    Parameters `kernel` (D, 4·hidden), `recurrent` (hidden, 4·hidden) and `bias` (4·hidden,), gates
    in the order i, f, g, o.
    """

    hidden: int
    forget_bias: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, carry: State | None, context: Context
    ) -> tuple[Array, State | None]:
        state = self.init_carry(x.shape[0], 0) if carry is None else carry
        dtype = compute_dtype(self.dtype)
        gates = 4 * self.hidden
        init = _gate_by_gate(nn.initializers.glorot_uniform())
        kernel = self.param("kernel", init, (x.shape[-1], gates)).astype(dtype)
        init = _gate_by_gate(nn.initializers.orthogonal())
        recurrent = self.param("recurrent", init, (self.hidden, gates)).astype(dtype)
        bias = self.param("bias", self._bias, (gates,))
        h, last = lstm_layer(
            x.swapaxes(0, 1).astype(dtype), kernel, recurrent, bias, state, *token_masks(context)
        )
        return h.swapaxes(0, 1).astype(dtype), None if carry is None else last

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> State:
        """The state before the first token; `capacity` and `dtype` do not matter to it."""
        zeros = first_state("LSTM", self.hidden, batch, self.dtype)
        return zeros, zeros

    def _bias(self, key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        forget = jnp.asarray([0.0, self.forget_bias, 0.0, 0.0], dtype)
        return jnp.repeat(forget, self.hidden)


def lstm(
    vocabulary: int,
    width: int,
    depth: int,
    forget_bias: float = 1.0,
    residual: bool = False,
    tied: bool = False,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> SequenceModel:
    """A language model of LSTM layers; the rest as in `recurrent_model`."""
    mixer = LSTM(width, forget_bias, dtype)
    return recurrent_model(mixer, vocabulary, width, depth, residual, tied, dropout, dtype)


def _gate_by_gate(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Draws (D, 4·F) as four kernels (D, F)."""

    def draw(key: Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> Array:
        part = shape[0], shape[1] // 4
        return jnp.concatenate([init(k, part, dtype) for k in jax.random.split(key, 4)], axis=1)

    return draw
