"""Selective state space mixers: Mamba and Mamba-2.

Source: Gu & Dao 2023 (arXiv:2312.00752), figure 3 and section 3.6; Dao & Gu 2024
(arXiv:2405.21060), section 7.1. Both are

    [z, x, …] = W u;  x = silu(conv(x));  y = scan(x, Δ, A, B, C, D);  out = W' gate(y, z)

Mamba derives Δ, B and C from x, and has a decay for every channel and state; Mamba-2 takes them
from u with one decay per head. Initializers are those of the published code: A = −(1 … N) or
−U(1, 16), D = 1, softplus(dt_bias) log-uniform in [0.001, 0.1].
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import lax

from deeplearn.errors import UsageError
from deeplearn.layers.causal_convolution import CausalConv
from deeplearn.layers.checks import require_sizes
from deeplearn.layers.dense import Dense
from deeplearn.layers.precision import compute_dtype
from deeplearn.layers.recurrence import selective_scan
from deeplearn.types import Array, Context


@struct.dataclass
class MambaCarry:
    """The last inputs of the convolution (B, size−1, channels), and the state of the scan.

    The state is (B, D, N) or (B, H, P, N), fp32 or wider.
    """

    window: Array
    state: Array


class Mamba(nn.Module):
    """A mixer: (B, T, width), carry, context → (B, T, width), carry; the carry is a `MambaCarry`.

    The inner width is `expansion` times the width; `state_size` is N; Δ comes through a bottleneck
    of `rank` (None: width/16). `output_scale` multiplies the initial output kernel, 1/√depth in a
    deep model. `implementation` is that of `selective_scan`.
    """

    width: int
    state_size: int = 16
    expansion: int = 2
    convolution: int = 4
    rank: int | None = None
    output_scale: float = 1.0
    implementation: str | None = None
    dtype: str = "float32"

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> MambaCarry:
        """The carry before the first token; it is as large for any capacity."""
        del capacity
        return _empty(batch, self.convolution, self._inner, (self._inner, self.state_size), dtype)

    @nn.compact
    def __call__(
        self, u: Array, carry: MambaCarry | None, context: Context
    ) -> tuple[Array, MambaCarry | None]:
        _check(self, u, rank=self.rank)
        dense = partial(Dense, use_bias=False, dtype=self.dtype)
        inner, size = self._inner, self.state_size
        rank = math.ceil(self.width / 16) if self.rank is None else self.rank
        uniform = _scaled_uniform(1.0)
        x, z = jnp.split(dense(2 * inner, kernel_init=uniform, name="in_proj")(u), 2, axis=-1)
        window, state = (None, None) if carry is None else (carry.window, carry.state)
        conv = CausalConv(self.convolution, self.dtype, name="conv")
        x, window = conv(x, window, context.resets, context.holds)
        x = jax.nn.silu(x)
        selected = dense(rank + 2 * size, kernel_init=uniform, name="x_proj")(x)
        delta, B, C = jnp.split(selected, [rank, rank + size], axis=-1)
        delta = dense(inner, kernel_init=uniform, name="dt_proj")(delta)
        A_log = self.param("A_log", _log_arange, (inner, size))
        y, state = selective_scan(
            x,
            _step_size(delta, self.param("dt_bias", _dt_bias, (inner,))),
            -jnp.exp(A_log),
            B,
            C,
            self.param("D", nn.initializers.ones_init(), (inner,)),
            state,
            resets=context.resets,
            holds=context.holds,
            implementation=self.implementation,
        )
        init = _scaled_uniform(self.output_scale)
        y = dense(self.width, kernel_init=init, name="out_proj")(y * jax.nn.silu(z))
        return y, None if carry is None else MambaCarry(window, state)

    @property
    def _inner(self) -> int:
        return self.expansion * self.width


class Mamba2(nn.Module):
    """A mixer: (B, T, width), carry, context → (B, T, width), carry; the carry is a `MambaCarry`.

    The inner width, `expansion` times the width, is divided into heads of `head_width`; `groups`
    of heads share B and C, of `state_size` N. The rest is as in `Mamba`.
    """

    width: int
    state_size: int = 128
    expansion: int = 2
    head_width: int = 64
    groups: int = 1
    convolution: int = 4
    output_scale: float = 1.0
    implementation: str | None = None
    dtype: str = "float32"

    def init_carry(self, batch: int, capacity: int, dtype: str = "float32") -> MambaCarry:
        """The carry before the first token; it is as large for any capacity."""
        del capacity
        state = (self._inner // self.head_width, self.head_width, self.state_size)
        return _empty(batch, self.convolution, self._convolved, state, dtype)

    @nn.compact
    def __call__(
        self, u: Array, carry: MambaCarry | None, context: Context
    ) -> tuple[Array, MambaCarry | None]:
        _check(self, u, head_width=self.head_width, groups=self.groups)
        self._check_heads()
        dense = partial(Dense, use_bias=False, dtype=self.dtype)
        inner, heads = self._inner, self._inner // self.head_width
        init = _scaled_uniform(1.0)
        projected = dense(inner + self._convolved + heads, kernel_init=init, name="in_proj")(u)
        z, x, delta = jnp.split(projected, [inner, inner + self._convolved], axis=-1)
        window, state = (None, None) if carry is None else (carry.window, carry.state)
        conv = CausalConv(self.convolution, self.dtype, name="conv")
        x, window = conv(x, window, context.resets, context.holds)
        x, B, C = jnp.split(jax.nn.silu(x), [inner, inner + self.groups * self.state_size], axis=-1)
        A_log = self.param("A_log", _log_uniform, (heads,))
        y, state = selective_scan(
            x.reshape(*x.shape[:2], heads, self.head_width),
            _step_size(delta, self.param("dt_bias", _dt_bias, (heads,))),
            -jnp.exp(A_log),
            B.reshape(*B.shape[:2], self.groups, self.state_size),
            C.reshape(*C.shape[:2], self.groups, self.state_size),
            self.param("D", nn.initializers.ones_init(), (heads,)),
            state,
            resets=context.resets,
            holds=context.holds,
            implementation=self.implementation,
        )
        y = _GatedNorm(self.groups, self.dtype, name="norm")(y.reshape(z.shape), z)
        init = _scaled_uniform(self.output_scale)
        y = dense(self.width, kernel_init=init, name="out_proj")(y)
        return y, None if carry is None else MambaCarry(window, state)

    @property
    def _inner(self) -> int:
        return self.expansion * self.width

    @property
    def _convolved(self) -> int:
        return self._inner + 2 * self.groups * self.state_size

    def _check_heads(self) -> None:
        if self._inner % self.head_width:
            raise UsageError(
                f"Mamba2: the inner width {self._inner} does not divide into heads of"
                f" head_width={self.head_width}"
            )
        if self._inner // self.head_width % self.groups:
            raise UsageError(
                f"Mamba2: {self._inner // self.head_width} heads do not divide into"
                f" groups={self.groups}"
            )


class _GatedNorm(nn.Module):
    """RMSNorm of y·silu(z) (B, T, D), in fp32 or wider, each of `groups` parts of D by itself."""

    groups: int
    dtype: str

    @nn.compact
    def __call__(self, y: Array, z: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones_init(), y.shape[-1:])
        wide = jnp.promote_types(y.dtype, jnp.float32)
        x = y.astype(wide) * jax.nn.silu(z.astype(wide))
        x = x.reshape(*y.shape[:-1], self.groups, -1)
        x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
        x = x.reshape(y.shape) * jnp.broadcast_to(scale, y.shape)
        return x.astype(compute_dtype(self.dtype))


def _check(mixer: Mamba | Mamba2, u: Array, **sizes: int | None) -> None:
    """Checks what both have, and `sizes` that only one has."""
    name = type(mixer).__name__
    require_sizes(
        name,
        state_size=mixer.state_size,
        expansion=mixer.expansion,
        convolution=mixer.convolution,
        **sizes,
    )
    if u.shape[-1] != mixer.width:
        raise UsageError(
            f"{name}: width={mixer.width} but the input has {u.shape[-1]}; give"
            " the mixer the width of its model"
        )


def _empty(
    batch: int, convolution: int, channels: int, state: tuple[int, ...], dtype: str
) -> MambaCarry:
    narrow = compute_dtype(dtype)
    return MambaCarry(
        jnp.zeros((batch, convolution - 1, channels), narrow),
        jnp.zeros((batch, *state), jnp.promote_types(narrow, jnp.float32)),
    )


def _step_size(delta: Array, bias: Array) -> Array:
    """softplus(delta + bias) in fp32 or wider: small steps need the precision."""
    delta = delta.astype(jnp.promote_types(delta.dtype, jnp.float32))
    return jax.nn.softplus(delta + bias.reshape(1, 1, -1))


def _scaled_uniform(scale: float) -> nn.initializers.Initializer:
    """U(−b, b) with b = scale / √(fan in)."""
    return nn.initializers.variance_scaling(scale**2 / 3, "fan_in", "uniform")


def _log_arange(key: Array, shape: tuple[int, int]) -> Array:
    """log(1 … N) for every channel."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1.0, shape[1] + 1)), shape)


def _log_uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """log U(1, 16)."""
    return jnp.log(jax.random.uniform(key, shape, minval=1.0, maxval=16.0))


def _dt_bias(key: Array, shape: tuple[int, ...]) -> Array:
    """The b with softplus(b) log-uniform in [0.001, 0.1]."""
    low, high = math.log(1e-3), math.log(1e-1)
    step = jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))
    return step + jnp.log(-jnp.expm1(-step))
