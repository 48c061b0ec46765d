"""Attention against its equation, and the fields that it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.attention import Attention
from deeplearn.types import Context

B, T, H, K, D = 2, 7, 4, 6, 10
POSITIONS = jnp.arange(T)[None]


def plain(params, x, groups, causal, window):
    """softmax(q·kᵀ/√K)·v in NumPy fp64, one head after the other."""
    qkv = np.asarray(x, np.float64) @ np.asarray(params["qkv"]["kernel"], np.float64)
    q, k, v = np.split(qkv.reshape(B, T, -1, K), [H, H + groups], axis=2)
    back = np.arange(T)[:, None] - np.arange(T)[None]
    seen = back >= 0 if causal else np.full((T, T), True)
    seen = seen if window is None else seen & (np.abs(back) < window)
    heads = []
    for head in range(H):
        group = head // (H // groups)
        scores = np.einsum("btk,bsk->bts", q[:, :, head], k[:, :, group]) / np.sqrt(K)
        weights = np.exp(np.where(seen, scores, -np.inf))
        weights /= weights.sum(-1, keepdims=True)
        heads.append(weights @ v[:, :, group])
    return np.concatenate(heads, -1) @ np.asarray(params["output"]["kernel"], np.float64)


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("segments", [None, jnp.ones((B, T), jnp.int32)])
def test_equals_its_equation(key, groups, causal, window, segments):
    layer = Attention(H, K, groups, causal, window, rotary=None, init_scale=0.5)
    x = jax.random.normal(key, (B, T, D))
    context = Context(segments, POSITIONS)
    (y, _), variables = jax.jit(layer.init_with_output)(key, x, None, context)
    expected = plain(variables["params"], x, groups, causal, window)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "slots"), [(None, 20), (3, 3), (30, 20)])
def test_a_cache_is_no_larger_than_the_window(window, slots):
    cache = Attention(H, K, window=window).init_carry(B, 20)
    assert {leaf.shape[1] for leaf in (cache.keys, cache.values, cache.segments)} == {slots}


def test_a_cache_keeps_the_last_tokens_that_are_real():
    cache = Attention(1, 1, window=3).init_carry(1, 20)
    numbered = jnp.arange(1.0, 8.0)[None, :, None, None]  # the key of each token is its number + 1
    for segments, kept in (([1, 1, 1, 1, 1, 0, 1], {4, 5, 7}), ([0, 1, 1, 0, 0, 0, 0], {7, 2, 3})):
        cache, _ = cache.extend(numbered, numbered, jnp.array([segments]))
        assert set(np.asarray(cache.keys).ravel().tolist()) == kept
    assert cache.length.tolist() == [8]
    assert cache.stored().tolist() == [[6, 7, 5]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 0}, "heads=0"),
        ({"head_width": 0}, "head_width=0"),
        ({"kv_heads": 0}, "kv_heads=0"),
        ({"kv_heads": 3}, "no multiple of kv_heads=3"),
        ({"window": 0}, "window=0"),
        ({"head_width": 5}, "must be even"),
        ({"rotary_scaling": (8.0, 4.0, 1.0, 16)}, "rotary_scaling="),
        ({"rotary_scaling": (0.0, 1.0, 4.0, 16)}, "all above 0"),
        ({"rotary": None, "rotary_scaling": (8.0, 1.0, 4.0, 16)}, "scales nothing"),
    ],
)
def test_a_field_that_cannot_be_is_named(key, fields, message):
    layer = Attention(**{"heads": H, "head_width": K, **fields})
    with pytest.raises(UsageError, match=message):
        layer.init(key, jnp.zeros((B, T, D)), None, Context(None, POSITIONS))
