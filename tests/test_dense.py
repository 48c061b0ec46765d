"""The dense layer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.dense import Dense


def plain(params, x):
    """The layer as one expression, for automatic differentiation."""
    y = jnp.einsum("...d,df->...f", x, params["kernel"])
    return y + jnp.broadcast_to(params["bias"], y.shape)


def cases(key, shape, features):
    """A dense layer as a function, its parameters, and a batch."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    layer = Dense(features, bias_init=jax.nn.initializers.normal())
    return lambda params, x: layer.apply({"params": params}, x), layer.init(key, x)["params"], x


def close(actual, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


narrow_and_wide = pytest.mark.parametrize("features", [3, 5])


@narrow_and_wide
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4)])
def test_multiplies_the_last_axis(key, shape, features):
    ours, *operands = cases(key, shape, features)

    def run(function):
        loss = lambda params, x: jnp.sin(function(params, x)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*operands)

    close(run(ours), run(plain))


@narrow_and_wide
@pytest.mark.parametrize("transform", ["forward", "curvature", "copies"])
def test_is_transformed_as_one_expression_is(key, features, transform):
    ours, params, x = cases(key, (2, 3, 4), features)

    def run(function):
        loss = lambda params, x: jnp.sin(function(params, x)).sum()  # noqa: E731
        gradient = jax.grad(loss, argnums=(0, 1))
        if transform == "copies":
            several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
            return jax.vmap(gradient, (0, None))(several, x)
        of = gradient if transform == "curvature" else function
        return jax.jvp(of, (params, x), (jax.tree.map(jnp.cos, params), jnp.cos(x)))

    close(run(ours), run(plain))


def test_keeps_fp32_parameters_and_computes_in_its_dtype(key):
    layer = Dense(5, dtype="bfloat16")
    y, variables = layer.init_with_output(key, jnp.ones((2, 4)))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_has_no_bias_where_none_is_wanted(key):
    assert set(Dense(5, use_bias=False).init(key, jnp.ones((2, 4)))["params"]) == {"kernel"}


def test_refuses_an_unknown_dtype(key):
    with pytest.raises(UsageError, match="dtype='float23' is not known; did you mean 'float32'"):
        Dense(5, dtype="float23").init(key, jnp.ones((2, 4)))
