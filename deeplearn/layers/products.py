"""Matrix products over the last axis, in the forms that are fast.

XLA on CPU has its fast product for plain operands of two axes: two dense layers of (16, 128, 256),
forward and backward, take 80 ms with tokens in one axis and 158 ms in two (jax 0.10; 96 and 154 ms
on 0.12). Elsewhere B and T may be sharded apart, which one axis cannot keep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from deeplearn.types import Array

LARGE_KERNEL = 16 * 2**20
"""Bytes from which on a kernel and its copy for the product fill a cache of 32 MiB."""


def product(x: Array, kernel: Array, dtype: jnp.dtype | None = None) -> Array:
    """x (…, D) · kernel (D, F) → (…, F), computed in the dtype of the kernel, given in `dtype`."""
    x, dtype = x.astype(kernel.dtype), kernel.dtype if dtype is None else dtype
    if x.ndim > 2 and jax.default_backend() == "cpu":
        flat = _rows_product(x.reshape(-1, x.shape[-1]), kernel, dtype)
        return flat.reshape(*x.shape[:-1], -1)
    return jnp.matmul(x, kernel, preferred_element_type=dtype)


def plus_bias(y: Array, bias: Array) -> Array:
    """y (…, F) + bias (F,)."""
    if y.ndim > 2 and jax.default_backend() == "cpu":
        return _rows_plus_bias(y.reshape(-1, y.shape[-1]), bias).reshape(y.shape)
    return y + jnp.broadcast_to(bias, y.shape)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _rows_product(x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    """x (N, D) · kernel (D, F), whose kernel's gradient is the faster of xᵀ·dy and (dyᵀ·x)ᵀ."""
    return jnp.matmul(x, kernel, preferred_element_type=dtype)


@partial(_rows_product.defjvp, symbolic_zeros=True)
def _rows_product_jvp(
    dtype: jnp.dtype, primals: tuple[Array, Array], tangents: tuple
) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(jnp.matmul(dx, kernel, preferred_element_type=dtype))
    if not isinstance(dkernel, SymbolicZero):
        if len(kernel) > kernel.shape[1]:
            # Transposed by reverse mode this is (dyᵀ·x)ᵀ, of which the barriers keep the order:
            # 2048 rows of 512 and 128 features take 1.9 ms, and 2.9 without (2 cores).
            dkernel = lax.optimization_barrier(dkernel.T)
            columns = jnp.einsum("fd,nd->fn", dkernel, x, preferred_element_type=dtype)
            parts.append(lax.optimization_barrier(columns).T)
        else:
            parts.append(jnp.matmul(x, dkernel, preferred_element_type=dtype))
    return _rows_product(x, kernel, dtype), reduce(jnp.add, parts)


@jax.custom_jvp
def _rows_plus_bias(y: Array, bias: Array) -> Array:
    """y (N, F) + bias (F,), whose bias' gradient is summed in two axes.

    XLA would sum it in the shape that the rows get later: 16·128 rows of 12 heads of 32 features
    take 0.65 ms, and 0.2 as 2048 of 384.
    """
    return y + jnp.broadcast_to(bias, y.shape)


@_rows_plus_bias.defjvp
def _rows_plus_bias_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    dy, dbias = tangents
    return _rows_plus_bias(*primals), dy + lax.optimization_barrier(
        jnp.broadcast_to(dbias, dy.shape)
    )


def repeated_product(
    kernel: Array, times: int, dtype: jnp.dtype | None = None
) -> Callable[[Array], Array]:
    """x (B, D) → x·kernel (B, F) as `product` has it, for a loop of `times` by one kernel (D, F).

    On CPU a kernel of `LARGE_KERNEL` bytes or more is the left operand, transposed before the loop:
    35 products of (20, 1150) by (1150, 4600) take 60 instead of 82 ms on 2 cores with 32 MiB of
    cache. With a smaller kernel that is slower: 5.6 instead of 4.0 ms for 64 of (32, 256).
    """
    large = kernel.nbytes >= LARGE_KERNEL
    # The transposition takes as long as ten products gain.
    if jax.default_backend() != "cpu" or not large or times < 16:
        return lambda x: product(x, kernel, dtype)
    transposed = kernel.T

    def multiply(x: Array) -> Array:
        # The barriers keep XLA from turning the product round again.
        columns = lax.optimization_barrier(x.astype(kernel.dtype).T)
        y = jnp.matmul(transposed, columns, preferred_element_type=dtype or kernel.dtype)
        return lax.optimization_barrier(y).T

    return multiply


def kernel_gradient(x: Array, dy: Array, kernel: Array) -> Array:
    """The gradient (D, F) of `kernel` in x·kernel, for x (…, D) and the gradient dy (…, F)."""
    x, dy = (v.reshape(-1, v.shape[-1]).astype(kernel.dtype) for v in (x, dy))
    transposed, wide = x.T, jnp.promote_types(kernel.dtype, jnp.float32)
    # A left operand that is read transposed is slow: so it is copied first.
    if jax.default_backend() == "cpu":
        transposed = lax.optimization_barrier(transposed)
    return jnp.matmul(transposed, dy, preferred_element_type=wide).astype(kernel.dtype)
