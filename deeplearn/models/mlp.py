"""Multilayer perceptron, plain or residual, of any depth.

Source: Rumelhart, Hinton & Williams 1986; residual form after He et al. 2016, "Identity Mappings
in Deep Residual Networks" (arXiv:1603.05027), one dense layer to a block.

    h_1 = W_1 x + b_1
    h_l = [h_{l-1} +] W_l dropout(φ(norm(h_{l-1}))) + b_l
    y   = W dropout(φ(norm(h_L))) + b

Without the bracket this is the classical network (dense, norm, φ, dropout). With it, where two
widths are equal, the variance of W_l is divided by the number of such layers, so that the stream
h grows by a factor of at most e over any depth and 100 layers train even without normalization.

Equal layers run under one `nn.scan`: compile time does not grow with depth. Initializer: He
normal or Glorot uniform by the activation, Glorot uniform for the output; biases 0. Weight decay
leaves out the leaves `bias` and `scale`.
"""

from __future__ import annotations

from itertools import groupby

import jax.numpy as jnp
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.activation import activation, kernel_initializer
from deeplearn.layers.checks import require_dropout
from deeplearn.layers.dense import Dense
from deeplearn.layers.normalization import normalization
from deeplearn.types import Array

# A loop of so few layers is unrolled whole (four layers of 32, CPU: 45 → 32 µs a step).
_UNROLL = 8


class _Activated(nn.Module):
    """dropout(φ(norm(h))): (B, D) → (B, D)."""

    activation: str
    dropout: float
    normalization: str | None
    dtype: str

    @nn.compact
    def __call__(self, h: Array, train: bool) -> Array:
        if self.normalization is not None:
            norm = normalization(self.normalization)(dtype=self.dtype, name="norm")
            h = norm(h, train=train)
        h = activation(self.activation)(h)
        return nn.Dropout(self.dropout, deterministic=not train)(h)


class _Layer(nn.Module):
    """[h +] W dropout(φ(norm(h))) + b: (B, D) → (B, width); W's variance is times `variance`."""

    width: int
    residual: bool
    variance: float
    activation: str
    dropout: float
    normalization: str | None
    dtype: str

    @nn.compact
    def __call__(self, h: Array, train: bool) -> tuple[Array, None]:
        inner = (self.activation, self.dropout, self.normalization, self.dtype)
        x = _Activated(*inner, name="before")(h, train)
        init = kernel_initializer(self.activation, self.variance)
        x = Dense(self.width, dtype=self.dtype, kernel_init=init, name="dense")(x)
        return (h + x if self.residual else x), None


class MLP(nn.Module):
    """Multilayer perceptron: (B, …) → (B, outputs) float32; trailing axes are flattened.

    `hidden` are the widths of the hidden layers; `normalization` is None, "batch" or "layer";
    `residual` adds each hidden layer of equal width to its input. Raises `UsageError` for a width
    below 1, a dropout outside [0, 1) or an unknown name.
    """

    hidden: tuple[int, ...]
    outputs: int
    activation: str = "relu"
    dropout: float = 0.0
    normalization: str | None = None
    residual: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        self._check()
        h = x.reshape(x.shape[0], -1)
        inner = (self.activation, self.dropout, self.normalization, self.dtype)
        runs = [(width, len(list(run))) for width, run in groupby(self.hidden)]
        share = 1.0 / max(1, sum(count - 1 for _, count in runs))
        for i, (width, count) in enumerate(runs):
            if i == 0:
                init = kernel_initializer(self.activation)
                h = Dense(width, dtype=self.dtype, kernel_init=init, name="input")(h)
            else:
                h, _ = _Layer(width, False, 1.0, *inner, name=f"resize_{i}")(h, train)
            if count > 1:
                variance = share if self.residual else 1.0
                stack = _scanned(count - 1)(
                    width, self.residual, variance, *inner, name=f"stack_{i}"
                )
                h, _ = stack(h, train)
        if self.hidden:
            h = _Activated(*inner, name="last")(h, train)
        init = nn.initializers.glorot_uniform()
        return Dense(self.outputs, dtype=self.dtype, kernel_init=init, name="output")(h).astype(
            jnp.float32
        )

    def _check(self) -> None:
        if not all(isinstance(width, int) and width > 0 for width in self.hidden):
            raise UsageError(f"hidden={self.hidden} of MLP must hold widths of 1 or more")
        if self.outputs < 1:
            raise UsageError(f"outputs={self.outputs} of MLP must be 1 or more")
        require_dropout("MLP", self.dropout)


def _scanned(layers: int) -> type[nn.Module]:
    """`_Layer` repeated; each parameter gains a leading axis L."""
    return nn.scan(
        _Layer,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=layers,
        unroll=layers if layers <= _UNROLL else 1,
    )
