"""softmax(q·kᵀ / √K) · v, by a fused kernel where the accelerator has one, in parts on CPU.

A fused kernel keeps no scores; on other accelerators they take B·H·T·S numbers, several times over
in training. cuDNN's (flash attention, Dao 2023, arXiv:2307.08691) is used on a GPU, of NVIDIA's
Ampere or later,

- for two queries or more, of 16 bits, and heads of 8, 16, … or 128 features;
- without a mask: causal with or without a window, or neither, but no window to both sides;
- so not in packed, padded and cross attention. cuDNN would be given the mask as what is added to
  the scores, which it takes on fewer devices and not in exported programs, and gives a gradient
  that nobody asks for; whether that gains anything was not measured on a GPU yet.

The conditions are those of `jax._src.cudnn.fused_attention_stablehlo` of jax 0.10. The last bits of
cuDNN's gradients may differ from run to run.

On CPU queries that are causal or have a window come in up to 8 parts, each of which meets only the
keys that it may see, and in rows of more than 1024 they come 128 at a time, whose scores are
computed again for the gradient (after Rabe & Staats 2021, arXiv:2112.05682). A mask is there as a
whole. Causal, 4 heads of 32 features, forward and backward, against all scores at once and the
gradient of XLA; in brackets these parts with that gradient (2 cores of an EPYC, Zen 5):

    T      B    time                      temporary memory     compilation
    128    16   2.4 of 4.3 ms (2.9)       11 of 23 MB (18)     0.5 of 0.3 s
    512    8    18 of 60 ms (24)          71 of 173 MB (112)   2.3 of 0.4 s
    2048   2    82 of 507 ms (131)        99 of 677 MB (80)    3.9 of 0.4 s
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from deeplearn.types import Array

PARTS = 8  # at most: each is compiled by itself
SHORTEST = 64  # queries of a part
AT_ONCE = 128  # queries whose scores are kept together, in rows longer than PARTS of them
_PLAIN = ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Within, no fused kernel is used: a program for several platforms cannot hold one."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def dot_product_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Array:
    """The mean of v (B, S, G, K) under the scores of k (B, S, G, K) for q (B, T, H, K): like q.

    H/G heads of q share one of k and v. `mask` bool (B, 1, T, S) tells which places are seen;
    `causal` hides those behind the query's own, and `window` those that are so many places away
    or more.
    """
    k, v = k.astype(q.dtype), v.astype(q.dtype)
    if jax.default_backend() == "cpu":
        return _in_parts(q, k, v, mask, causal, window)
    back = None if window is None else window - 1
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        is_causal=causal,
        local_window_size=None if back is None else (back, 0 if causal else back),
        implementation="cudnn" if mask is None and _fused(q, causal, window) else None,
    )


def _in_parts(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, window: int | None
) -> Array:
    """The same: queries in parts, each with the keys that some of its queries may see."""
    length, count = q.shape[1], k.shape[1]
    parts = min(PARTS, length // SHORTEST) if causal or window is not None else 1
    size = -(-length // max(parts, 1))
    # The gradients of all parts add up in the dtype of these.
    k, v = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (k, v))
    attend = partial(_attend, causal=causal, window=window)
    if length > PARTS * AT_ONCE:
        attend, size = partial(_in_turn, attend), -(-size // AT_ONCE) * AT_ONCE
    outputs = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        reach = max(length, count) if window is None else window - 1
        first, last = max(start - reach, 0), min(stop if causal else stop + reach, count)
        within = None if mask is None else mask[:, :, start:stop, first:last]
        keys = k[:, first:last], v[:, first:last], jnp.arange(first, last)
        outputs.append(attend(keys, q[:, start:stop], within, jnp.arange(start, stop)))
    return jnp.concatenate(outputs, axis=1)


def _attend(
    keys: tuple[Array, Array, Array],
    q: Array,
    mask: Array | None,
    place: Array,
    *,
    causal: bool,
    window: int | None,
) -> Array:
    """Attention of queries at `place` (T,) to keys and values, whose places (S,) follow them."""
    k, v, key_place = keys
    back = place[None, None, :, None] - key_place[None, None, None]
    if causal:
        mask = back >= 0 if mask is None else mask & (back >= 0)
    if window is not None:
        near = jnp.abs(back) < window
        mask = near if mask is None else mask & near
    return _softmax_mean(q, k.astype(q.dtype), v.astype(q.dtype), mask)


@jax.custom_vjp
def _softmax_mean(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """`dot_product_attention` with all scores at once, kept in the dtype of v for the gradient.

    That of XLA would copy P and dS transposed, and go over both for Σ_s P·dP, which is y·dy.
    """
    return _forward(q, k, v, mask)[0]


def _forward(q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, tuple]:
    batch, length, heads, width = q.shape
    q = q.reshape(batch, length, k.shape[2], -1, width).transpose(0, 2, 3, 1, 4)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bgrtk,bgsk->bgrts", q, k, preferred_element_type=wide) * width**-0.5
    if mask is not None:
        mask = mask[:, :, None]
        scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    scale = 1 / weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    y = jnp.einsum("bgrts,bgsk->bgrtk", weights, v, preferred_element_type=wide) * scale
    found = y.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width).astype(q.dtype)
    return found, (q, k, v, mask, weights, scale, y)


def _backward(residual: tuple, dy: Array) -> tuple:
    q, k, v, mask, weights, scale, y = residual
    batch, groups, each, length, width = q.shape
    dtype, wide = q.dtype, scale.dtype
    product = partial(jnp.einsum, preferred_element_type=wide)
    dy = dy.reshape(batch, length, groups, each, width).transpose(0, 2, 3, 1, 4)
    of_mean = (dy * y).sum(-1, keepdims=True)
    # XLA's fast product takes no transposed operand, which without the barrier these would be.
    q_columns, dy_columns = lax.optimization_barrier(
        (q.swapaxes(3, 4), (dy * scale).astype(dtype).swapaxes(3, 4))
    )
    dv = product("bgrkt,bgrts->bgks", dy_columns, weights)
    dweights = product("bgrtk,bgsk->bgrts", dy, v)
    dscores = weights * (dweights - of_mean) * (scale * width**-0.5)
    if mask is not None:
        dscores = jnp.where(mask, dscores, 0)  # nor do scores count where nothing is seen
    dscores = dscores.astype(dtype)
    dq = product("bgrts,bgsk->bgrtk", dscores, k)
    dk = product("bgrkt,bgrts->bgks", q_columns, dscores)
    dq = dq.transpose(0, 3, 1, 2, 4).reshape(batch, length, groups * each, width)
    return dq.astype(dtype), *(dx.transpose(0, 3, 1, 2).astype(dtype) for dx in (dk, dv)), None


_softmax_mean.defvjp(_forward, _backward)


def _in_turn(
    attend: Callable[..., Array],
    keys: tuple[Array, Array, Array],
    q: Array,
    mask: Array | None,
    place: Array,
) -> Array:
    """`attend` for a few queries after another; their scores are computed again for gradients."""
    length = q.shape[1]
    missing = -length % AT_ONCE

    def pieces(x: Array, axis: int) -> Array:
        """x with its axis of queries in pieces, which lead; what fills the last is dropped."""
        x = jnp.pad(x, [(0, missing if each == axis else 0) for each in range(x.ndim)])
        x = x.reshape(*x.shape[:axis], -1, AT_ONCE, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    queries = pieces(q, 1), None if mask is None else pieces(mask, 2), pieces(place, 0)
    y = lax.map(jax.checkpoint(lambda piece: attend(keys, *piece)), queries)
    return jnp.moveaxis(y, 0, 1).reshape(q.shape[0], -1, *q.shape[2:])[:, :length]


def _fused(q: Array, causal: bool, window: int | None) -> bool:
    """Whether cuDNN takes them; what it refuses would be an error."""
    width = q.shape[3]
    return (
        jax.default_backend() == "gpu"
        and _is_ampere_or_later()
        and not _PLAIN.get()
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and width % 8 == 0
        and width <= 128
        and (causal or window is None)
        and q.shape[1] > 1
    )


def _is_ampere_or_later() -> bool:
    """Whether the devices are NVIDIA's of that generation or a later one."""
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    found = re.match(r"(\d+)\.\d+$", capability)
    return found is not None and int(found[1]) >= 8
