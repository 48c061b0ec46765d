"""The average of the parameters: its values, its place in a chain, and what it leaves alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descent import PARAMS, descend, one_update, quadratic

from deeplearn.ema import ParameterEma, find_ema, parameter_ema
from deeplearn.errors import UsageError
from deeplearn.optimizers import SGD, Adam, AdamW


def test_ema_is_the_closed_form_average_of_the_parameters():
    decay, steps, early = 0.8, 40, 21  # early: 5/(1 − decay) − 4
    optimizer = Adam(learning_rate=0.05, ema_decay=decay)
    end, state, history = descend(optimizer, quadratic, {"w": jnp.asarray([-1.0, 2.0, 0.5])}, steps)
    # p_0 … p_steps; history holds the parameters before each step.
    path = np.concatenate([history["w"], end["w"][None]]).astype(np.float64)
    k = np.arange(steps + 1.0)
    power = np.where(k <= early, k * (k + 1) * (k + 2) * (k + 3), 0.0)
    weights = power / power.sum() * decay ** (steps - early)
    weights[early + 1 :] = (1 - decay) * decay ** np.arange(steps - early - 1, -1, -1.0)
    np.testing.assert_allclose(weights.sum(), 1.0)
    np.testing.assert_allclose(find_ema(state)["w"], weights @ path, rtol=1e-5)


def test_ema_of_a_long_horizon_follows_a_short_run():
    params = {"w": jnp.full(3, 100.0)}
    optimizer = SGD(learning_rate=0.02, ema_decay=0.9999)
    _, state, _ = descend(optimizer, quadratic, params, 500)
    np.testing.assert_allclose(find_ema(state)["w"], 1.0, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_ema_has_the_types_of_the_parameters(dtype):
    params = {"w": jnp.ones(3, dtype)}
    transform = parameter_ema(0.9)
    _, state = transform.update({"w": jnp.ones(3, dtype)}, transform.init(params), params)
    assert state.params["w"].dtype == dtype


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.9999])
def test_ema_of_parameters_at_rest_keeps_their_bits(decay):
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)}
    transform, zero = parameter_ema(decay), {"w": jnp.zeros(1000)}
    state = transform.init(params)
    # Not compiled: a fused multiply-add would hide the rounding of the other form.
    for _ in range(9):
        _, state = transform.update(zero, state, params)
    np.testing.assert_array_equal(state.params["w"], params["w"])


def test_ema_does_not_change_the_updates():
    jax.tree.map(
        np.testing.assert_array_equal, one_update(AdamW(ema_decay=0.9)), one_update(AdamW())
    )


def test_ema_starts_as_a_copy_that_can_be_donated_with_the_parameters():
    transform = SGD(ema_decay=0.9).build(10)
    params = jax.tree.map(jnp.copy, PARAMS)
    average = find_ema(transform.init(params))
    pointers = lambda tree: {p.unsafe_buffer_pointer() for p in jax.tree.leaves(tree)}  # noqa: E731
    assert not pointers(params) & pointers(average)
    jax.tree.map(np.testing.assert_array_equal, params, average)


def test_find_ema_looks_anywhere_and_refuses_two():
    assert find_ema(Adam().build(10).init(PARAMS)) is None
    average = ParameterEma(jnp.zeros([], jnp.int32), {"w": 1})
    assert find_ema(({"deep": [average, 3]}, None)) == {"w": 1}
    with pytest.raises(UsageError, match="2 parameter averages"):
        find_ema((average, average))
