"""Recurrent mixers of simple and of minimal gated networks, and language models made of them.

Source: Elman 1990; minGRU of Feng et al. 2024, "Were RNNs All We Needed?" (arXiv:2410.01201).

    RNN       h_t = φ(W x_t + b + U h_{t-1})
    MinGRU    h_t = (1 − z_t) · h_{t-1} + z_t · (V x_t + c)    with    z_t = σ(W x_t + b)

The gate of MinGRU sees no state, so its recurrence is linear in h and can run in parallel over
time. The paper's second form, in logarithms, is not needed: the decay lies in (0, 1).

Initializer: Glorot uniform for W and V, orthogonal for U (Saxe et al. 2014, arXiv:1312.6120),
biases 0, embedding and output kernel normal with deviation 1/√width. Weight decay leaves out the
biases, the scales and the embedding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.dense import Dense
from deeplearn.layers.elman import elman_layer
from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.recurrence import linear_recurrence
from deeplearn.layers.token_masks import token_masks
from deeplearn.models.sequence import Block, SequenceModel
from deeplearn.types import Array, Context

_GLOROT = nn.initializers.glorot_uniform()


class RNN(nn.Module):
    """A simple recurrent layer: (B, T, D) → (B, T, hidden); its carry is h (B, hidden).

    `activation` is "tanh" or "relu".
    """

    hidden: int
    activation: str = "tanh"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, carry: Array | None, context: Context
    ) -> tuple[Array, Array | None]:
        state = self.init_carry(x.shape[0], 0) if carry is None else carry
        dtype = compute_dtype(self.dtype)
        kernel = self.param("kernel", _GLOROT, (x.shape[-1], self.hidden)).astype(dtype)
        init = nn.initializers.orthogonal()
        recurrent = self.param("recurrent", init, (self.hidden, self.hidden)).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.hidden,))
        x, masks = x.swapaxes(0, 1).astype(dtype), token_masks(context)
        h, last = elman_layer(x, kernel, recurrent, bias, state, *masks, self.activation)
        return h.swapaxes(0, 1).astype(dtype), None if carry is None else last

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> Array:
        """The state before the first token; `capacity` and `dtype` do not matter to it."""
        return first_state("RNN", self.hidden, batch, self.dtype)


class MinGRU(nn.Module):
    """A minimal gated recurrent layer: (B, T, D) → (B, T, hidden); its carry is h (B, hidden).

    `implementation` of the recurrence is "sequential", "associative" or None: by the backend.
    """

    hidden: int
    implementation: str | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, carry: Array | None, context: Context
    ) -> tuple[Array, Array | None]:
        state = self.init_carry(x.shape[0], 0) if carry is None else carry
        update = Dense(self.hidden, dtype=self.dtype, kernel_init=_GLOROT, name="update")(x)
        candidate = Dense(self.hidden, dtype=self.dtype, kernel_init=_GLOROT, name="candidate")(x)
        wide = update.astype(state.dtype)
        z, decay = jax.nn.sigmoid(wide), jax.nn.sigmoid(-wide)
        inputs = z * candidate.astype(state.dtype)
        resets, holds = context.resets, context.holds
        if resets is not None and holds is not None:
            resets, holds = resets[..., None], holds[..., None]
            decay = jnp.where(holds, 1.0, jnp.where(resets, 0.0, decay))
            inputs = jnp.where(holds, 0.0, inputs)
        h, last = linear_recurrence(decay, inputs, state, self.implementation)
        return h.astype(update.dtype), None if carry is None else last

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> Array:
        """The state before the first token; `capacity` and `dtype` do not matter to it."""
        return first_state("MinGRU", self.hidden, batch, self.dtype)


def rnn(
    vocabulary: int,
    width: int,
    depth: int,
    activation: str = "tanh",
    residual: bool = False,
    tied: bool = False,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> SequenceModel:
    """A language model of simple recurrent layers; the rest as in `recurrent_model`."""
    mixer = RNN(width, activation, dtype)
    return recurrent_model(mixer, vocabulary, width, depth, residual, tied, dropout, dtype)


def mingru(
    vocabulary: int,
    width: int,
    depth: int,
    residual: bool = True,
    tied: bool = False,
    dropout: float = 0.0,
    dtype: str = "float32",
) -> SequenceModel:
    """A language model of minimal gated layers; the rest as in `recurrent_model`."""
    mixer = MinGRU(width, dtype=dtype)
    return recurrent_model(mixer, vocabulary, width, depth, residual, tied, dropout, dtype)


def recurrent_model(
    mixer: nn.Module,
    vocabulary: int,
    width: int,
    depth: int,
    residual: bool,
    tied: bool,
    dropout: float,
    dtype: str,
) -> SequenceModel:
    """`depth` recurrent layers of one width between embedding and output.

    Without `residual` each layer reads the one below it, the classical stack; with it, x +
    mixer(rms(x)). `dropout` acts between layers, never from token to token (Zaremba et al. 2014,
    arXiv:1409.2329).
    """
    normalization = "rms" if residual else None
    return SequenceModel(
        vocabulary,
        width,
        repeats=depth,
        pattern=(Block(mixer, None, normalization, residual, dropout, dtype=dtype),),
        tied=tied,
        normalization=normalization,
        # Without norms, logits of unit size at most at the start.
        embedding_scale=max(1, width) ** -0.5,
        dropout=dropout,
        dtype=dtype,
    )


def first_state(layer: str, hidden: int, batch: int, dtype: str) -> Array:
    """Zeros (B, hidden), fp32 or wider; `UsageError` for a layer of no width."""
    if hidden < 1:
        raise UsageError(f"hidden={hidden} of {layer} must be 1 or more")
    return jnp.zeros((batch, hidden), jnp.promote_types(jnp.float32, compute_dtype(dtype)))
