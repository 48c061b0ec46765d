"""Attention in parts, and which is left to cuDNN; its kernel itself is not run here."""

from __future__ import annotations

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.interop.stablehlo import export_stablehlo
from deeplearn.layers import dot_product_attention as module
from deeplearn.layers.attention import Attention
from deeplearn.layers.dot_product_attention import dot_product_attention
from deeplearn.models.transformer import GPT2, transformer
from deeplearn.types import Context

B, T, S, H, G, K = 2, 6, 8, 4, 2, 16


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """The arguments by name of every call of jax's function, on what says that it is a GPU."""
    seen: list[dict] = []
    run = jax.nn.dot_product_attention

    def spy(*arrays, implementation=None, **arguments):
        seen.append({"implementation": implementation, **arguments})
        return run(*arrays, **arguments)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(module, "_is_ampere_or_later", lambda: True)
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
        ({"T": 1, "S": 1}, False),
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


def test_an_exported_program_asks_no_cudnn(calls, key):
    model = transformer(GPT2(13, 16, 1, heads=2, max_length=6), dtype="bfloat16")
    tokens = np.ones((1, 5), np.int32)
    variables = model.init(key, tokens)
    assert {call["implementation"] for call in calls} == {"cudnn"}
    calls.clear()
    export_stablehlo(model, variables, tokens)
    assert {call["implementation"] for call in calls} == {None}


@pytest.mark.parametrize(
    ("capability", "fused"), [("7.5", False), ("8.0", True), ("10.3", True), ("gfx942", False)]
)
def test_older_devices_and_those_of_others_are_not_asked(calls, monkeypatch, capability, fused):
    monkeypatch.undo()
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert module._is_ampere_or_later() is fused


def test_other_backends_are_not_asked(calls, monkeypatch):
    for backend in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        attend()
    assert [call["implementation"] for call in calls] == [None]  # on CPU nothing of jax.nn's


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


def at_once(q, k, v, mask=None, causal=False, window=None):
    """All scores in one array."""
    reach = None if window is None else (window - 1, 0 if causal else window - 1)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=causal, local_window_size=reach
    )


def compiled(function, length, keys=None, rows=1, dtype="float32", **fields):
    """The gradients of q, k and v, compiled, and what they are taken of."""
    keys = length if keys is None else keys
    shapes = [(rows, length, H, 8), (rows, keys, G, 8), (rows, keys, G, 8), (rows, length, H, 8)]
    seeds = jax.random.split(jax.random.key(0), 4)
    *operands, dy = (
        jax.random.normal(*pair, jnp.bfloat16).astype(dtype)
        for pair in zip(seeds, shapes, strict=True)
    )

    def gradients(q, k, v, dy):
        y, pull = jax.vjp(functools.partial(function, **fields), q, k, v)
        return y, pull(dy)

    operands = (*operands, dy)
    return jax.jit(gradients).lower(*operands).compile(), operands


@pytest.fixture
def small(monkeypatch):
    """Parts and pieces so small that rows are long from 19 on."""
    for name, value in {"PARTS": 3, "SHORTEST": 4, "AT_ONCE": 6}.items():
        monkeypatch.setattr(module, name, value)


# With a window and more queries than keys, some see nothing, which has no mean.
@pytest.mark.parametrize(
    ("length", "keys", "window"),
    [
        (17, 17, None),
        (17, 17, 9),
        (40, 40, None),
        (40, 40, 9),
        (40, 9, None),
        (9, 40, None),
        (9, 40, 9),
    ],
)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_in_parts_equals_at_once(small, length, keys, window, causal, masked):
    seen = jax.random.bernoulli(jax.random.key(1), 0.7, (2, 1, length, keys))
    seen |= (
        jnp.eye(length, keys, dtype=bool)[None, None] | (jnp.arange(keys) == 0)[None, None, None]
    )
    fields = {"mask": seen if masked else None, "causal": causal, "window": window}
    found = []
    for function in (dot_product_attention, at_once):
        run, operands = compiled(function, length, keys, rows=2, **fields)
        found.append(run(*operands))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, *found)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_in_bfloat16_are_as_exact_as_at_once(small, causal):
    run, operands = compiled(at_once, 600, causal=causal)
    _, exact = run(*operands)
    errors = []
    for function in (dot_product_attention, at_once):
        run, operands = compiled(function, 600, dtype="bfloat16", causal=causal)
        _, found = run(*operands)
        pairs = zip(found, exact, strict=True)
        errors.append([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])
    assert np.less(errors[0], np.multiply(1.5, errors[1])).all()


@pytest.mark.parametrize(("window", "part"), [(None, 0.65), (32, 0.25)])
def test_what_is_not_seen_costs_nothing(window, part):
    costs = []
    for function in (dot_product_attention, at_once):
        run, _ = compiled(function, 512, causal=True, window=window)
        costs.append(run.cost_analysis()["flops"])
    assert costs[0] < part * costs[1]


def test_the_scores_of_long_rows_are_not_kept():
    sizes = []
    for function in (dot_product_attention, at_once):
        run, _ = compiled(function, 2048)
        sizes.append(run.memory_analysis().temp_size_in_bytes)
    assert sizes[0] < sizes[1] / 4


def test_the_gradient_takes_fewer_scores():
    sizes = []
    for function in (dot_product_attention, at_once):
        run, _ = compiled(function, 256)
        sizes.append(run.memory_analysis().temp_size_in_bytes)
    assert sizes[0] < 0.7 * sizes[1]


def test_where_nothing_is_seen_queries_and_keys_get_no_gradient():
    seen = jnp.ones((1, 1, 5, 7), bool).at[:, :, 2].set(False)
    run, operands = compiled(dot_product_attention, 5, 7, mask=seen)
    y, (dq, dk, dv) = run(*operands)
    np.testing.assert_allclose(y[0, 2, ::2], operands[2][0].mean(0), rtol=1e-5)
    assert not dq[0, 2].any() and dq[0, 3].all() and np.isfinite(dv).all()
    others = operands[3].at[0, 2].set(9.0)
    np.testing.assert_array_equal(run(*operands[:3], others)[1][1], dk)


def test_the_gradient_has_a_gradient():
    *operands, dy = compiled(dot_product_attention, 17)[1]

    def steepness(function, *operands):
        def loss(*operands):
            return (dy * function(*operands, causal=True)).sum()

        gradients = jax.grad(loss, argnums=(0, 1, 2))(*operands)
        return sum(jnp.square(gradient).sum() for gradient in gradients)

    found, expected = (
        jax.grad(functools.partial(steepness, function), argnums=(0, 1, 2))(*operands)
        for function in (dot_product_attention, at_once)
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, found, expected)
