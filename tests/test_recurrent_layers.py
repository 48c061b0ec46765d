"""The recurrent layers `layers/elman.py` and `layers/lstm.py`, and the masks of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deeplearn.errors import UsageError
from deeplearn.layers import products
from deeplearn.layers.elman import elman_layer
from deeplearn.layers.lstm import lstm_layer
from deeplearn.layers.token_masks import token_masks
from deeplearn.types import Array, Context, PyTree

T, B, D, K = 7, 3, 5, 4
GOLDEN = Path(__file__).parent / "golden" / "recurrent_torch.npz"
LAYERS: dict[str, Callable] = {
    "tanh": elman_layer,
    "relu": partial(elman_layer, activation="relu"),
    "lstm": lstm_layer,
}
every_layer = pytest.mark.parametrize("name", LAYERS)
masked = pytest.mark.parametrize("masks", [False, True], ids=["plain", "masked"])


def operands(name: str, key: Array, masks: bool, steps: int = T) -> tuple:
    """(x, kernel, recurrent, bias, state), and (resets, holds) in which a token may be both."""
    keys = iter(jax.random.split(key, 8))
    wide = 4 * K if name == "lstm" else K
    shapes = ((steps, B, D), (D, wide), (K, wide), (wide,), (B, K), (B, K))
    x, kernel, recurrent, bias, h, c = (jax.random.normal(next(keys), shape) for shape in shapes)
    traced = (x, kernel / 2, recurrent / 2, bias, (h, c) if name == "lstm" else h)
    if not masks:
        return traced, (None, None)
    resets, holds = (jax.random.bernoulli(next(keys), 0.4, (steps, B)) for _ in range(2))
    return traced, (resets.at[2].set(True), holds.at[2, 0].set(True))


def token(name: str, a: Array, recurrent: Array, state: PyTree, numpy: Any = jnp) -> PyTree:
    """The state after one token, as the equations say it; a is x·W + b."""
    if name != "lstm":
        a = a + state @ recurrent
        return numpy.tanh(a) if name == "tanh" else numpy.maximum(a, 0.0)
    i, f, g, o = numpy.split(a + state[0] @ recurrent, 4, axis=-1)
    i, f, o = (1 / (1 + numpy.exp(-gate)) for gate in (i, f, o))
    c = f * state[1] + i * numpy.tanh(g)
    return o * numpy.tanh(c), c


def plain(name: str, masks: tuple, *traced: PyTree) -> tuple:
    """The same layer as an ordinary scan, for automatic differentiation."""
    x, kernel, recurrent, bias, state = traced
    resets, holds = (jnp.zeros(x.shape[:2], bool) if mask is None else mask for mask in masks)

    def step(before: PyTree, at: tuple) -> tuple:
        a, reset, hold = at
        start = jax.tree.map(lambda v: jnp.where(reset[:, None], 0.0, v), before)
        after = token(name, a, recurrent, start)
        after = jax.tree.map(lambda v, old: jnp.where(hold[:, None], old, v), after, before)
        return after, jax.tree.leaves(after)[0]

    a = x @ kernel + bias.reshape(1, 1, -1)
    last, h = lax.scan(step, state, (a, resets, holds))
    return h, last


def scalar(found: tuple) -> Array:
    """A number that depends on every output and on every last state, each with its own weight."""
    leaves = jax.tree.leaves(found)
    return sum((x * jnp.cos(1.0 + jnp.arange(x.size)).reshape(x.shape)).sum() for x in leaves)


def close(found: PyTree, expected: PyTree, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected)


def evaluated(layer: Callable, *traced: PyTree) -> tuple:
    """What a layer gives, and the gradient of a number made of it to every operand."""

    def number(*traced: PyTree) -> tuple:
        found = layer(*traced)
        return scalar(found), found

    gradient = jax.grad(number, tuple(range(len(traced))), has_aux=True)
    return jax.jit(gradient)(*traced)


@every_layer
@masked
def test_values_and_gradients_equal_those_of_an_ordinary_scan(name, masks, key):
    traced, masks = operands(name, key, masks)
    ours = evaluated(lambda *args: LAYERS[name](*args, *masks), *traced)
    close(ours, evaluated(partial(plain, name, masks), *traced))


@every_layer
def test_a_large_kernel_changes_no_value_and_no_gradient(name, key, monkeypatch):
    traced, masks = operands(name, key, True, steps=16)
    monkeypatch.setattr(products, "LARGE_KERNEL", 0)
    turned = str(jax.make_jaxpr(products.repeated_product(traced[2], 16))(jnp.ones((B, K))))
    assert ("optimization_barrier" in turned) == (jax.default_backend() == "cpu")
    ours = evaluated(lambda *args: LAYERS[name](*args, *masks), *traced)
    close(ours, evaluated(partial(plain, name, masks), *traced))


@every_layer
def test_second_derivatives_equal_those_of_an_ordinary_scan(name, key):
    traced, masks = operands(name, key, True)
    every = tuple(range(len(traced)))

    def curvature(layer: Callable) -> tuple:
        def steepness(*traced: PyTree) -> Array:
            slope = jax.grad(lambda *args: scalar(layer(*args)), every)(*traced)
            return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(slope))

        return jax.jit(jax.grad(steepness, every))(*traced)

    ours = curvature(lambda *args: LAYERS[name](*args, *masks))
    close(ours, curvature(partial(plain, name, masks)), rtol=1e-4, atol=1e-3)


@every_layer
def test_values_equal_a_loop_in_double_precision(name, key):
    traced, masks = operands(name, key, True)
    h, last = jax.jit(LAYERS[name])(*traced, *masks)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), traced)
    x, kernel, recurrent, bias, state = wide
    resets, holds = (np.asarray(mask) for mask in masks)
    for row in range(B):
        now = jax.tree.map(lambda leaf, row=row: leaf[row], state)
        for t in range(T):
            if not holds[t, row]:
                start = jax.tree.map(np.zeros_like, now) if resets[t, row] else now
                now = token(name, x[t, row] @ kernel + bias, recurrent, start, numpy=np)
            close(h[t, row], jax.tree.leaves(now)[0], atol=1e-6)
        close(jax.tree.map(lambda leaf, row=row: leaf[row], last), now, atol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "lstm"])
def test_values_and_gradients_equal_torch(name):
    """Made once by torch 2.13 on CPU (the version is in the file): for LSTM and RNN of 3 inputs and
    4 units, manual_seed(0), B 2, T 5, x, h, c and dy normal, `(y * dy).sum().backward()`, each
    array stored under its name; `bias` is the sum of torch's two, kernels are torch's (4·D, D).
    """
    prefix = "lstm_" if name == "lstm" else "rnn_"
    with np.load(GOLDEN) as file:
        assert str(file["torch"]).startswith("2.")
        v = {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}

    def layer(x: Array, kernel: Array, recurrent: Array, bias: Array) -> tuple:
        state = (v["h"], v["c"]) if name == "lstm" else v["h"]
        state = jax.tree.map(jnp.asarray, state)
        h, last = LAYERS[name](x.swapaxes(0, 1), kernel.T, recurrent.T, bias, state)
        return h.swapaxes(0, 1), jax.tree.leaves(last)[-1]

    fields = ("x", "input", "recurrent", "bias")

    def number(*arguments: Array) -> tuple:
        y, last = layer(*arguments)
        return (y * v["dy"]).sum(), (y, last)

    slope, found = jax.jit(jax.grad(number, (0, 1, 2, 3), has_aux=True))(
        *(jnp.asarray(v[field]) for field in fields)
    )
    close(found, (v["y"], v["last"]), atol=1e-6)
    close(slope, tuple(v["d" + field] for field in fields), atol=1e-6)


@every_layer
def test_chunks_equal_the_whole(name, key):
    (x, *weights, state), masks = operands(name, key, True)
    layer = jax.jit(LAYERS[name])
    whole = layer(x, *weights, state, *masks)
    parts = []
    for part in (slice(0, 1), slice(1, 4), slice(4, T)):
        h, state = layer(x[part], *weights, state, *(mask[part] for mask in masks))
        parts.append(h)
    close((jnp.concatenate(parts), state), whole, atol=1e-6)


@every_layer
def test_no_gradient_crosses_a_reset_or_comes_from_later_tokens(name, key):
    (x, *weights, state), _ = operands(name, key, False)
    resets = jnp.zeros((T, B), bool).at[3].set(True)

    def output(x: Array, state: PyTree) -> Array:
        h, _ = LAYERS[name](x, *weights, state, resets, jnp.zeros_like(resets))
        return (h[5] + jnp.square(h[5])).sum()

    dx, dstate = jax.jit(jax.grad(output, (0, 1)))(x, state)
    nonzero = np.abs(dx).max((1, 2)) > 0
    assert nonzero.tolist() == [False, False, False, True, True, True, False]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(dstate))


@every_layer
def test_held_tokens_leave_no_trace(name, key):
    (x, *weights, state), _ = operands(name, key, False)
    real = np.array([0, 2, 3, 6])
    holds = jnp.ones((T, B), bool).at[real].set(False)
    disturbed = jnp.where(holds[..., None], x + 1.0, x)

    def with_holds(*traced: PyTree) -> tuple:
        h, last = LAYERS[name](disturbed, *traced, holds, holds)
        return h[real], last

    def without(*traced: PyTree) -> tuple:
        return LAYERS[name](x[real], *traced)

    traced = (*weights, state)
    close(evaluated(with_holds, *traced), evaluated(without, *traced))


@every_layer
def test_gradients_in_bfloat16_are_finite_over_4096_tokens(name, key):
    (*floats, bias, state), _ = operands(name, key, False, steps=4096)
    half = [leaf.astype(jnp.bfloat16) for leaf in floats]

    @jax.jit
    def gradient(*traced: Array) -> tuple:
        def number(*traced: Array) -> tuple:
            found = LAYERS[name](*traced, bias, state)
            return scalar(found), found

        return jax.grad(number, (0, 1, 2), has_aux=True)(*traced)

    # A rectifier with a large kernel may grow without bound, as it should.
    half[2] = half[2] / 4
    slope, found = gradient(*half)
    assert all(leaf.dtype == jnp.bfloat16 and jnp.isfinite(leaf).all() for leaf in slope)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def test_an_unknown_activation_is_named():
    empty = jnp.zeros((1, 1))
    with pytest.raises(UsageError, match="did you mean 'tanh'"):
        elman_layer(empty[None], empty, empty, empty[0], empty, activation="tan")


def test_masks_say_where_documents_begin_and_what_is_padding():
    segments = jnp.asarray([[1, 1, 2, 0]])
    resets, holds = token_masks(Context(segments, jnp.asarray([[0, 1, 0, 1]])))
    assert resets.T.tolist() == [[True, False, True, False]]
    assert holds.T.tolist() == [[False, False, False, True]]
    assert token_masks(Context(None, jnp.zeros((1, 4), jnp.int32))) == (None, None)
