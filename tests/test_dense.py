"""The dense layer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.dense import Dense


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4)])
def test_multiplies_the_last_axis(key, shape):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    layer = Dense(5, bias_init=jax.nn.initializers.ones)
    params = layer.init(key, x)["params"]

    def run(function):
        loss = lambda kernel, x: jnp.sin(function(kernel, x)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params["kernel"], x)

    actual = run(lambda kernel, x: layer.apply({"params": {**params, "kernel": kernel}}, x))
    expected = run(lambda kernel, x: jnp.einsum("...d,df->...f", x, kernel) + 1)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


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
