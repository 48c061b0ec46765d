"""Which attention is left to cuDNN; its kernel itself is not run here."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from deeplearn.layers.attention import Attention
from deeplearn.layers.dot_product_attention import dot_product_attention
from deeplearn.types import Context

B, T, S, H, G, K = 2, 6, 8, 4, 2, 16


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """The arguments by name of every call of jax's function, on what says that it is a GPU."""
    seen: list[dict] = []
    run = jax.nn.dot_product_attention

    def spy(*arrays, implementation, **arguments):
        seen.append({"implementation": implementation, **arguments})
        return run(*arrays, **arguments)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    return seen


def attend(T=T, S=T, width=K, dtype="bfloat16", masked=False, **arguments) -> None:
    mask = jax.ShapeDtypeStruct((B, 1, T, S), bool) if masked else None
    shapes = [(B, T, H, width), (B, S, G, width), (B, S, G, width)]
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    function = functools.partial(dot_product_attention, **arguments)
    jax.eval_shape(lambda *arrays, mask: function(*arrays, mask=mask), *arrays, mask=mask)


@pytest.mark.parametrize(
    ("fields", "fused"),
    [
        ({}, True),
        ({"dtype": "float16"}, True),
        ({"dtype": "float32"}, False),
        ({"width": 12}, False),
        ({"width": 128}, True),
        ({"width": 136}, False),
        ({"causal": True}, True),
        ({"causal": True, "window": 3}, True),
        ({"window": 3}, False),
        ({"T": 5, "S": 7}, True),
        ({"masked": True}, False),
        ({"masked": True, "causal": True}, False),
    ],
)
def test_what_cudnn_takes_is_left_to_it(calls, fields, fused):
    attend(**fields)
    assert [call["implementation"] for call in calls] == ["cudnn" if fused else None]


def test_other_backends_are_not_asked(calls, monkeypatch):
    for backend in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        attend()
    assert [call["implementation"] for call in calls] == [None, None]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("segmented", [True, False])
def test_attention_is_fused_where_it_is_not_packed(calls, key, causal, segmented):
    layer = Attention(H, K, G, causal, dtype="bfloat16")
    segments = jnp.ones((B, T), jnp.int32) if segmented else None
    context = Context(segments, jnp.arange(T)[None])
    jax.eval_shape(layer.init, key, jnp.zeros((B, T, 8)), None, context)
    (call,) = calls
    assert call["implementation"] == (None if segmented else "cudnn")
    assert call["is_causal"] is causal
    assert (call["mask"] is not None) is segmented
