"""softmax(q·kᵀ / √K) · v, by a fused kernel where the accelerator has one.

A fused kernel keeps no scores; elsewhere they take B·H·T·S numbers, several times over in training.
cuDNN's (flash attention, Dao 2023, arXiv:2307.08691) is used on a GPU, of NVIDIA's Ampere or later,

- for queries of 16 bits and heads of 8, 16, … or 128 features;
- without a mask: causal with or without a window, or neither, but no window to both sides;
- so not in packed, padded and cross attention. cuDNN would be given the mask as what is added to
  the scores, which it takes on fewer devices and not in exported programs, and gives a gradient
  that nobody asks for; whether that gains anything was not measured on a GPU yet.

The conditions are those of `jax._src.cudnn.fused_attention_stablehlo` of jax 0.10. The last bits of
cuDNN's gradients may differ from run to run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from deeplearn.types import Array


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
    back = None if window is None else window - 1
    return jax.nn.dot_product_attention(
        q,
        k.astype(q.dtype),
        v.astype(q.dtype),
        mask=mask,
        is_causal=causal,
        local_window_size=None if back is None else (back, 0 if causal else back),
        implementation="cudnn" if mask is None and _fused(q, causal, window) else None,
    )


def _fused(q: Array, causal: bool, window: int | None) -> bool:
    """Whether cuDNN takes them; what it refuses would be an error."""
    width = q.shape[3]
    return (
        jax.default_backend() == "gpu"
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and width % 8 == 0
        and width <= 128
        and (causal or window is None)
    )
