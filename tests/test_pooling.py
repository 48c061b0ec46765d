"""Pooling equals flax's windows in value and gradient."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.pooling import average_pool, global_average_pool, max_pool

# window, strides, padding
CASES = [
    (2, None, "VALID"),
    (2, 2, "SAME"),
    (3, 2, "VALID"),
    (3, 2, 1),
    (3, 1, "SAME"),
    ((2, 3), (3, 1), ((0, 1), (2, 0))),
]


def flax(function, x, window, strides, padding):
    window = (window, window) if isinstance(window, int) else window
    strides = window if strides is None else strides
    strides = (strides, strides) if isinstance(strides, int) else strides
    padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    return function(x, window, strides, padding)


@pytest.mark.parametrize(("window", "strides", "padding"), CASES)
@pytest.mark.parametrize(("ours", "theirs"), [(max_pool, nn.max_pool), (average_pool, nn.avg_pool)])
def test_equals_flax_in_value_and_gradient(ours, theirs, window, strides, padding):
    # Without ties, where the gradients differ; negative, so that a wrong fill shows.
    values = np.random.default_rng(0).permutation(2 * 9 * 8 * 3).reshape(2, 9, 8, 3)
    x = -1 - values.astype(np.float32) / 100

    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(function, x):
        y, pull = jax.vjp(function, x)
        return y, *pull(jnp.sin(jnp.arange(y.size)).reshape(y.shape))

    y, gradient = value_and_gradient(lambda x: ours(x, window, strides, padding), x)
    expected = value_and_gradient(lambda x: flax(theirs, x, window, strides, padding), x)
    np.testing.assert_allclose(y, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_the_first_of_tied_values_side_by_side_takes_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 5, 4, 1)))
    expected = np.zeros((1, 5, 4, 1))
    expected[:, :4:2, ::2] = 1
    np.testing.assert_array_equal(gradient, expected)


def test_tied_values_of_overlapping_windows_share_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())(jnp.ones((1, 4, 4, 1)))
    assert (gradient > 0).all()
    assert gradient.sum() == 4


def test_the_gradient_of_windows_side_by_side_can_be_differentiated():
    x = jnp.sin(jnp.arange(50.0)).reshape(1, 5, 5, 2)
    tiles = lambda x: jnp.sum(max_pool(x) ** 3)  # noqa: E731
    # One padding row more makes the general form of the same windows.
    general = lambda x: jnp.sum(max_pool(x, padding=((0, 1), (0, 0)))[:, :2] ** 3)  # noqa: E731
    second = lambda f: jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2))(x)  # noqa: E731
    assert jnp.abs(second(tiles)).max() > 1
    np.testing.assert_allclose(second(tiles), second(general), rtol=1e-5)


def test_global_average_is_the_mean_of_the_image():
    x = jnp.sin(jnp.arange(120.0)).reshape(2, 5, 4, 3)
    np.testing.assert_allclose(global_average_pool(x), np.mean(x, (1, 2)), rtol=1e-5, atol=1e-6)


def test_global_average_of_a_large_image_is_summed_in_fp32():
    # 4096 halves add up to 2048; in bfloat16 a sum of halves stops growing at 128.
    average = global_average_pool(jnp.full((1, 64, 64, 1), 0.5, jnp.bfloat16))
    assert average.dtype == jnp.bfloat16
    assert average.item() == 0.5


def test_refuses_an_image_smaller_than_the_window():
    with pytest.raises(UsageError, match=r"image of \(2, 2\) is smaller than the pooling window"):
        max_pool(jnp.ones((1, 2, 2, 1)), 3)
