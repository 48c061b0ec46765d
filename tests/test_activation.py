"""Activations and initializers by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.activation import activation, kernel_initializer

FORMULAS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu_exact": lambda x: x * jax.scipy.stats.norm.cdf(x),
    "identity": lambda x: x,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_its_formula(name):
    x = np.linspace(-3, 3, 25, dtype=np.float32)
    np.testing.assert_allclose(activation(name)(x), FORMULAS[name](x), atol=1e-6)


def test_gelu_is_near_its_definition():
    x = np.linspace(-3, 3, 25, dtype=np.float32)
    np.testing.assert_allclose(activation("gelu")(x), x * jax.scipy.stats.norm.cdf(x), atol=2e-3)


@pytest.mark.parametrize("function", [activation, kernel_initializer])
def test_refuses_an_unknown_name(function):
    with pytest.raises(UsageError, match="activation='relo' is not known; did you mean 'relu'"):
        function("relo")


@pytest.mark.parametrize(("name", "expected"), [("relu", 2 / 200), ("tanh", 2 / (200 + 600))])
def test_initializer_has_the_variance_of_its_source(key, name, expected):
    kernel = kernel_initializer(name)(key, (200, 600))
    assert jnp.var(kernel) == pytest.approx(expected, rel=0.03)
    kernel = kernel_initializer(name, variance=0.25)(key, (200, 600))
    assert jnp.var(kernel) == pytest.approx(0.25 * expected, rel=0.03)
