"""The recurrent layers `layers/elman.py` and `layers/lstm.py`, and the masks of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deeplearn.errors import UsageError
from deeplearn.layers.elman import elman_layer
from deeplearn.layers.lstm import lstm_layer
from deeplearn.layers.token_masks import token_masks
from deeplearn.types import Array, Context, PyTree

T, B, D = 7, 3, 4
GOLDEN = Path(__file__).parent / "golden" / "recurrent_torch.npz"
LAYERS: dict[str, Callable] = {
    "tanh": elman_layer,
    "relu": partial(elman_layer, activation="relu"),
    "lstm": lstm_layer,
}
every_layer = pytest.mark.parametrize("name", LAYERS)
masked = pytest.mark.parametrize("masks", [False, True], ids=["plain", "masked"])


def operands(name: str, key: Array, masks: bool, steps: int = T) -> tuple:
    """(inputs, kernel, state), and (resets, holds) in which a token may be both."""
    a, u, h, c, r, p = jax.random.split(key, 6)
    wide = 4 * D if name == "lstm" else D
    h, c = jax.random.normal(h, (B, D)), jax.random.normal(c, (B, D))
    traced = (
        jax.random.normal(a, (steps, B, wide)),
        jax.random.normal(u, (D, wide)) / 2,
        (h, c) if name == "lstm" else h,
    )
    if not masks:
        return traced, (None, None)
    resets, holds = (
        jax.random.bernoulli(r, 0.4, (steps, B)),
        jax.random.bernoulli(p, 0.4, (steps, B)),
    )
    return traced, (resets.at[2].set(True), holds.at[2, 0].set(True))


def token(name: str, a: Array, kernel: Array, state: PyTree, numpy: object = jnp) -> PyTree:
    """The state after one token, as the equations say it."""
    np_: object = numpy
    if name != "lstm":
        a = a + state @ kernel
        return np_.tanh(a) if name == "tanh" else np_.maximum(a, 0.0)
    i, f, g, o = np_.split(a + state[0] @ kernel, 4, axis=-1)
    i, f, o = (1 / (1 + np_.exp(-gate)) for gate in (i, f, o))
    c = f * state[1] + i * np_.tanh(g)
    return o * np_.tanh(c), c


def plain(name: str, inputs: Array, kernel: Array, state: PyTree, masks: tuple) -> tuple:
    """The same layer as an ordinary scan, for automatic differentiation."""
    resets, holds = (jnp.zeros(inputs.shape[:2], bool) if m is None else m for m in masks)

    def step(before: PyTree, at: tuple) -> tuple:
        a, reset, hold = at
        start = jax.tree.map(lambda x: jnp.where(reset[:, None], 0.0, x), before)
        after = token(name, a, kernel, start)
        after = jax.tree.map(lambda x, old: jnp.where(hold[:, None], old, x), after, before)
        return after, jax.tree.leaves(after)[0]

    last, h = lax.scan(step, state, (inputs, resets, holds))
    return h, last


def scalar(found: tuple) -> Array:
    """A number that depends on every output and on every last state, each with its own weight."""
    leaves = jax.tree.leaves(found)
    return sum((x * jnp.cos(1.0 + jnp.arange(x.size)).reshape(x.shape)).sum() for x in leaves)


def close(found: PyTree, expected: PyTree, atol: float = 1e-5) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=atol), found, expected)


@every_layer
@masked
def test_values_and_gradients_equal_those_of_an_ordinary_scan(name, masks, key):
    traced, masks = operands(name, key, masks)
    ours = lambda *args: LAYERS[name](*args, *masks)  # noqa: E731
    theirs = lambda *args: plain(name, *args, masks)  # noqa: E731
    close(ours(*traced), theirs(*traced))
    both = [jax.grad(lambda *a, f=f: scalar(f(*a)), (0, 1, 2))(*traced) for f in (ours, theirs)]
    close(*both)


@every_layer
def test_second_derivatives_equal_those_of_an_ordinary_scan(name, key):
    traced, masks = operands(name, key, True)

    def steepness(layer: Callable, *traced: PyTree) -> Array:
        slope = jax.grad(lambda *args: scalar(layer(*args)), (0, 1, 2))(*traced)
        return sum(jnp.square(x).sum() for x in jax.tree.leaves(slope))

    ours = jax.grad(partial(steepness, lambda *a: LAYERS[name](*a, *masks)), (0, 1, 2))(*traced)
    theirs = jax.grad(partial(steepness, lambda *a: plain(name, *a, masks)), (0, 1, 2))(*traced)
    close(ours, theirs, atol=1e-4)


@every_layer
def test_values_equal_a_loop_in_double_precision(name, key):
    (inputs, kernel, state), masks = operands(name, key, True)
    h, last = LAYERS[name](inputs, kernel, state, *masks)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (inputs, kernel, state))
    resets, holds = (np.asarray(mask) for mask in masks)
    for row in range(B):
        now = jax.tree.map(lambda x, row=row: x[row], wide[2])
        for t in range(T):
            if not holds[t, row]:
                start = jax.tree.map(np.zeros_like, now) if resets[t, row] else now
                now = token(name, wide[0][t, row], wide[1], start, numpy=np)
            np.testing.assert_allclose(h[t, row], jax.tree.leaves(now)[0], atol=1e-6)
        close(jax.tree.map(lambda x, row=row: x[row], last), now, atol=1e-6)


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
        a = jnp.einsum("btd,fd->tbf", x, kernel) + bias.reshape(1, 1, -1)
        state = (v["h"], v["c"]) if name == "lstm" else v["h"]
        h, last = LAYERS[name](a, recurrent.T, jax.tree.map(jnp.asarray, state))
        return h.swapaxes(0, 1), jax.tree.leaves(last)[-1]

    arguments = [jnp.asarray(v[field]) for field in ("x", "input", "recurrent", "bias")]
    close(layer(*arguments), (v["y"], v["last"]), atol=1e-6)
    slope = jax.grad(lambda *a: (layer(*a)[0] * v["dy"]).sum(), (0, 1, 2, 3))(*arguments)
    close(slope, tuple(v["d" + field] for field in ("x", "input", "recurrent", "bias")), atol=1e-6)


@every_layer
def test_chunks_equal_the_whole(name, key):
    (inputs, kernel, state), masks = operands(name, key, True)
    whole = LAYERS[name](inputs, kernel, state, *masks)
    parts = []
    for part in (slice(0, 1), slice(1, 4), slice(4, T)):
        h, state = LAYERS[name](inputs[part], kernel, state, *(mask[part] for mask in masks))
        parts.append(h)
    close((jnp.concatenate(parts), state), whole, atol=1e-6)


@every_layer
def test_no_gradient_crosses_a_reset_or_time(name, key):
    (inputs, kernel, state), _ = operands(name, key, False)
    resets = jnp.zeros((T, B), bool).at[3].set(True)

    def output(inputs: Array, state: PyTree) -> Array:
        return jnp.square(
            LAYERS[name](inputs, kernel, state, resets, jnp.zeros_like(resets))[0][5]
        ).sum()

    dinputs, dstate = jax.grad(output, (0, 1))(inputs, state)
    nonzero = np.abs(dinputs).max((1, 2)) > 0
    assert nonzero.tolist() == [False, False, False, True, True, True, False]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(dstate))


@every_layer
def test_held_tokens_leave_no_trace(name, key):
    (inputs, kernel, state), _ = operands(name, key, False)
    real = np.array([0, 2, 3, 6])
    holds = jnp.ones((T, B), bool).at[real].set(False)
    bad = jnp.where(holds[..., None], jnp.nan, inputs)

    def with_holds(kernel: Array, state: PyTree) -> tuple:
        h, last = LAYERS[name](bad, kernel, state, holds, holds)
        return h[real], last

    def without(kernel: Array, state: PyTree) -> tuple:
        return LAYERS[name](inputs[real], kernel, state)

    close(with_holds(kernel, state), without(kernel, state), atol=1e-6)
    slopes = [
        jax.grad(lambda *args, f=f: scalar(f(*args)), (0, 1))(kernel, state)
        for f in (with_holds, without)
    ]
    close(*slopes)


@every_layer
def test_gradients_in_bfloat16_are_finite_over_4096_tokens(name, key):
    (inputs, kernel, state), _ = operands(name, key, False, steps=4096)
    half = jnp.bfloat16

    @jax.jit
    def slope(inputs: Array, kernel: Array) -> tuple:
        return jax.grad(lambda a, u: scalar(LAYERS[name](a, u, state)), (0, 1))(inputs, kernel)

    found = slope(inputs.astype(half), kernel.astype(half))
    assert all(leaf.dtype == half and jnp.isfinite(leaf).all() for leaf in found)
    h, last = LAYERS[name](inputs[:2].astype(half), kernel.astype(half), state)
    assert {leaf.dtype for leaf in jax.tree.leaves((h, last))} == {jnp.dtype("float32")}


def test_an_unknown_activation_is_named():
    with pytest.raises(UsageError, match="did you mean 'tanh'"):
        elman_layer(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1)), activation="tan")


def test_masks_say_where_documents_begin_and_what_is_padding():
    segments = jnp.asarray([[1, 1, 2, 0]])
    resets, holds = token_masks(Context(segments, jnp.asarray([[0, 1, 0, 1]])))
    assert resets.T.tolist() == [[True, False, True, False]]
    assert holds.T.tolist() == [[False, False, False, True]]
    assert token_masks(Context(None, jnp.zeros((1, 4), jnp.int32))) == (None, None)
