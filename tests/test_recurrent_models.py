"""The mixers and presets of `models/rnn.py` and `models/lstm.py`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.lstm import LSTM, lstm
from deeplearn.models.rnn import RNN, MinGRU, mingru, rnn
from deeplearn.types import Array, Context

B, T, D, WIDE = 2, 6, 3, 5
MIXERS = {"rnn": RNN(WIDE), "relu": RNN(WIDE, "relu"), "lstm": LSTM(WIDE), "mingru": MinGRU(WIDE)}
every_mixer = pytest.mark.parametrize("name", MIXERS)


def setting(name: str, key: Array, masked: bool) -> tuple:
    """A mixer, its variables, an input (B, T, D) and a context."""
    x = jax.random.normal(key, (B, T, D))
    positions = jnp.arange(T, dtype=jnp.int32)[None]
    context = Context(None, positions)
    if masked:
        segments = jnp.asarray([[1, 1, 0, 1, 2, 2], [1, 2, 2, 2, 0, 0]])
        positions = jnp.asarray([[0, 1, 1, 2, 0, 1], [0, 0, 1, 2, 2, 2]])
        context = Context(segments, positions)
    mixer = MIXERS[name]
    return mixer, jax.jit(mixer.init)(key, x, None, context), x, context


@every_mixer
def test_another_width_comes_out_and_no_carry_stays_none(name, key):
    mixer, variables, x, context = setting(name, key, False)
    y, carry = jax.eval_shape(mixer.apply, variables, x, None, context)
    assert y.shape == (B, T, WIDE)
    assert carry is None


@every_mixer
def test_a_given_carry_is_where_it_begins(name, key):
    """No carry is zeros; a part of a sequence, then the rest with its carry, is the whole."""
    mixer, variables, x, context = setting(name, key, False)
    assert not any(leaf.any() for leaf in jax.tree.leaves(mixer.init_carry(B, 1)))
    apply = jax.jit(mixer.apply)
    whole, _ = apply(variables, x, None, context)
    first, carry = apply(variables, x[:, :2], mixer.init_carry(B, 1), context)
    second, _ = apply(variables, x[:, 2:], carry, context)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)


def test_mingru_equals_its_equations_token_by_token(key):
    mixer, variables, x, context = setting("mingru", key, True)
    carry = jnp.ones((B, WIDE))
    y, last = jax.jit(mixer.apply)(variables, x, carry, context)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    for row in range(B):
        h = np.ones(WIDE)
        for t in range(T):
            token = np.asarray(x[row, t], np.float64)
            if context.segments[row, t] == 0:
                continue
            if context.positions[row, t] == 0:
                h = np.zeros(WIDE)
            z = 1 / (1 + np.exp(-(token @ p["update"]["kernel"] + p["update"]["bias"])))
            h = (1 - z) * h + z * (token @ p["candidate"]["kernel"] + p["candidate"]["bias"])
            np.testing.assert_allclose(y[row, t], h, atol=1e-6)
        np.testing.assert_allclose(last[row], h, atol=1e-6)


def test_mingru_in_parallel_equals_mingru_in_series(key):
    _, variables, x, context = setting("mingru", key, True)

    def slope(implementation: str) -> tuple:
        mixer = MinGRU(WIDE, implementation)

        def loss(variables: dict, x: Array, carry: Array) -> Array:
            y, last = mixer.apply(variables, x, carry, context)
            return (jnp.sin(y) * (y + 1)).sum() + last.sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(variables, x, jnp.ones((B, WIDE)))

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, slope("associative"), slope("sequential"))
    with pytest.raises(UsageError, match="'parallel' is not known"):
        slope("parallel")


@every_mixer
def test_bfloat16_keeps_parameters_and_state_in_float32(name, key):
    mixer, variables, x, context = setting(name, key, True)
    half = mixer.clone(dtype="bfloat16")
    assert all(
        leaf.dtype == jnp.float32
        for leaf in jax.tree.leaves(jax.eval_shape(half.init, key, x, None, context))
    )
    y, carry = jax.jit(half.apply)(variables, x, half.init_carry(B, 1, "bfloat16"), context)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(carry))
    full, _ = jax.jit(mixer.apply)(variables, x, None, context)
    np.testing.assert_allclose(y.astype(jnp.float32), full, atol=0.05)


@pytest.mark.parametrize("name", ["rnn", "mingru"])
def test_gradients_in_bfloat16_are_finite_over_4096_tokens(name, key):
    mixer, variables, _, _ = setting(name, key, False)
    half = mixer.clone(dtype="bfloat16")
    x = jax.random.normal(key, (1, 4096, D))
    context = Context(None, jnp.arange(4096, dtype=jnp.int32)[None])

    @jax.jit
    def slope(variables: dict) -> dict:
        return jax.grad(lambda v: jnp.square(half.apply(v, x, None, context)[0]).mean())(variables)

    found = jax.tree.leaves(slope(variables))
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in found)


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_the_recurrent_kernel_begins_orthogonal(name, key):
    _, variables, _, _ = setting(name, key, False)
    kernel = np.asarray(variables["params"]["recurrent"])
    for gate in np.split(kernel, kernel.shape[1] // WIDE, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(WIDE), atol=1e-5)


def test_only_the_bias_of_the_forget_gate_begins_at_one(key):
    _, variables, _, _ = setting("lstm", key, False)
    bias = np.asarray(variables["params"]["bias"]).reshape(4, WIDE)
    assert bias.tolist() == [[0.0] * WIDE, [1.0] * WIDE, [0.0] * WIDE, [0.0] * WIDE]


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (rnn(11, 8, 3), 8 * 8 + 8 + 8 * 8),
        (rnn(11, 8, 3, "relu", residual=True), 8 * 8 + 8 + 8 * 8 + 8),
        (lstm(11, 8, 3), 4 * (8 * 8 + 8 + 8 * 8)),
        (mingru(11, 8, 3, residual=False), 2 * (8 * 8 + 8)),
    ],
    ids=["rnn", "rnn_residual", "lstm", "mingru"],
)
def test_presets_have_the_parameters_of_their_equations(model, layer):
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    norm = 0 if model.normalization is None else 8
    assert count == 2 * 11 * 8 + 3 * layer + norm


def test_a_width_below_one_is_refused(key):
    for mixer in (RNN(0), LSTM(0), MinGRU(0)):
        with pytest.raises(UsageError, match=f"hidden=0 of {type(mixer).__name__}"):
            mixer.init_carry(1, 1)
