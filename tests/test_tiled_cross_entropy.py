"""The tiled cross-entropy against the plain one: values, gradients, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.losses import softmax_cross_entropy
from deeplearn.tiled_cross_entropy import tiled_softmax_cross_entropy

N, D, V = 24, 8, 50


@pytest.fixture
def inputs(key):
    keys = jax.random.split(key, 3)
    features = jax.random.normal(keys[0], (N, D))
    kernel = 3 * jax.random.normal(keys[1], (D, V))
    labels = jax.random.randint(keys[2], (N,), 0, V).at[0].set(V - 1)
    return features, kernel, labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tile", [1, 7, 25, 50, 1000])
def test_any_tile_gives_the_loss_and_gradients_of_the_whole(inputs, tile, smoothing):
    features, kernel, labels = inputs
    weights, bias = jnp.linspace(0.0, 1.0, N), jnp.linspace(-2.0, 2.0, V)

    def tiled(features, kernel, bias):
        losses = tiled_softmax_cross_entropy(features, kernel, labels, tile, smoothing, bias)
        return (weights * losses).sum()

    def plain(features, kernel, bias):
        logits = features @ kernel + jnp.broadcast_to(bias, (N, V))
        return (weights * softmax_cross_entropy(logits, labels, smoothing)).sum()

    found = jax.value_and_grad(tiled, (0, 1, 2))(features, kernel, bias)
    expected = jax.value_and_grad(plain, (0, 1, 2))(features, kernel, bias)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected
    )


def test_large_logits_do_not_overflow(inputs):
    features, kernel, labels = inputs
    found = tiled_softmax_cross_entropy(1e3 * features, kernel, labels, 16)
    np.testing.assert_allclose(
        found, softmax_cross_entropy(1e3 * features @ kernel, labels), rtol=1e-4, atol=1e-2
    )


def test_memory_is_at_most_an_eighth_of_the_naive():
    rows, width, vocabulary = 1024, 32, 16384
    shapes = (
        jax.ShapeDtypeStruct((rows, width), jnp.float32),
        jax.ShapeDtypeStruct((width, vocabulary), jnp.float32),
    )
    labels = jnp.zeros(rows, jnp.int32)

    def memory(loss):
        compiled = jax.jit(jax.grad(lambda f, k: loss(f, k).mean(), (0, 1))).lower(*shapes)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    naive = memory(lambda f, k: softmax_cross_entropy(f @ k, labels))
    tiled = memory(lambda f, k: tiled_softmax_cross_entropy(f, k, labels, 512, 0.1))
    assert tiled <= naive / 8


def test_a_tile_of_nothing_is_refused(inputs):
    with pytest.raises(UsageError, match="tile=0"):
        tiled_softmax_cross_entropy(*inputs, 0)
