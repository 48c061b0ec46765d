"""Spectral normalization against the singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.layers.convolution import convolve
from deeplearn.layers.spectral_norm import (
    SpectralConv,
    SpectralDense,
    SpectralEmbedding,
    SpectralNorm,
)

KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 4, 6)), jnp.float32)


def largest(kernel):
    return np.linalg.svd(np.asarray(kernel).reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def trained(layer, variables, x, passes):
    """The variables after so many passes in training."""
    step = jax.jit(
        lambda variables: layer.apply(variables, x, train=True, mutable=["spectral_norm"])[1]
    )
    for _ in range(passes):
        variables = {**variables, **step(variables)}
    return variables


def test_the_largest_singular_value_becomes_one(key):
    layer = SpectralNorm()
    variables = layer.init(key, KERNEL, train=True)
    after = trained(layer, variables, KERNEL, passes=100)
    np.testing.assert_allclose(largest(layer.apply(after, KERNEL)), 1.0, rtol=0.01)
    np.testing.assert_allclose(
        layer.apply(after, KERNEL), np.asarray(KERNEL) / largest(KERNEL), rtol=0.01, atol=1e-6
    )


def test_more_iterations_in_a_pass_equal_more_passes(key):
    variables = SpectralNorm().init(key, KERNEL, train=True)
    one = trained(SpectralNorm(), variables, KERNEL, passes=3)
    three = trained(SpectralNorm(iterations=3), variables, KERNEL, passes=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, three)


def test_evaluation_moves_nothing(key):
    layer = SpectralNorm()
    variables = layer.init(key, KERNEL, train=True)
    _, mutated = layer.apply(variables, KERNEL, mutable=["spectral_norm"])
    jax.tree.map(np.testing.assert_array_equal, dict(mutated), dict(variables))


def test_the_gradient_is_that_of_the_kernel_over_its_norm(key):
    """∂/∂W of Σ M∘W/σ is M/σ − Σ(M∘W)/σ²·v₁u₁ᵀ, with the first singular vectors of W."""
    matrix = np.asarray(KERNEL).reshape(-1, 6)
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    weights = np.random.default_rng(1).normal(size=matrix.shape)
    expected = (
        weights / values[0] - (weights * matrix).sum() / values[0] ** 2 * left[:, :1] * right[:1]
    )
    layer = SpectralNorm(iterations=200)
    kernel = jnp.asarray(matrix)
    variables = layer.init(key, kernel, train=False)

    def total(kernel):
        normed, _ = layer.apply(variables, kernel, train=True, mutable=["spectral_norm"])
        return (normed * jnp.asarray(weights, jnp.float32)).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(total))(kernel), expected, rtol=1e-3, atol=1e-4)


def test_layers_are_products_with_the_normalized_kernel(key):
    x = jax.random.normal(key, (2, 5, 5, 4))
    conv, dense = SpectralConv(6, strides=2), SpectralDense(6)
    for layer, apply in (
        (conv, lambda kernel: convolve(x, kernel, 2)),
        (dense, lambda kernel: x @ kernel),
    ):
        variables = trained(layer, jax.jit(layer.init)(key, x), x, passes=100)
        kernel = variables["params"]["kernel"]
        np.testing.assert_allclose(
            layer.apply(variables, x), apply(kernel / largest(kernel)), rtol=0.01, atol=0.01
        )
        assert variables["params"]["bias"].shape == (6,)


def test_an_embedding_is_a_row_of_the_normalized_table(key):
    layer, index = SpectralEmbedding(5, 3), jnp.asarray([[4, 0], [1, 4]])
    variables = trained(layer, jax.jit(layer.init)(key, index), index, passes=100)
    table = variables["params"]["embedding"]
    expected = (table / largest(table))[index]
    np.testing.assert_allclose(layer.apply(variables, index), expected, rtol=0.01, atol=1e-4)
    assert np.isnan(layer.apply(variables, jnp.asarray([-1, 5]))).all()


def test_less_than_one_iteration_is_refused(key):
    with pytest.raises(UsageError, match="iterations = 0"):
        SpectralNorm(iterations=0).init(key, KERNEL)
