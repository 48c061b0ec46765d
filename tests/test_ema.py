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
    decay, steps = 0.8, 12
    optimizer = Adam(learning_rate=0.05, ema_decay=decay)
    end, state, history = descend(optimizer, quadratic, {"w": jnp.asarray([-1.0, 2.0, 0.5])}, steps)
    # p_0 … p_steps; history holds the parameters before each step.
    path = np.concatenate([history["w"], end["w"][None]]).astype(np.float64)
    weights = (1 - decay) * decay ** np.arange(steps, -1, -1.0)
    weights[0] = decay**steps
    np.testing.assert_allclose(weights.sum(), 1.0)
    np.testing.assert_allclose(find_ema(state)["w"], weights @ path, rtol=1e-5)


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
    average = ParameterEma({"w": 1})
    assert find_ema(({"deep": [average, 3]}, None)) == {"w": 1}
    with pytest.raises(UsageError, match="2 parameter averages"):
        find_ema((average, average))
