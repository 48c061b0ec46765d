"""Normalization equals flax's layers; statistics stay fp32 and move only in training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from deeplearn.errors import UsageError
from deeplearn.layers.normalization import BatchNorm, GroupNorm, LayerNorm, normalization

STATS = {"mean": jnp.arange(3.0), "var": jnp.array([1.0, 2.0, 3.0])}
PARAMS = {"scale": jnp.array([1.0, -2.0, 0.5]), "bias": jnp.array([0.1, 0.2, 0.3])}


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def assert_close(tree, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), tree, expected
    )


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(8, 3), (4, 5, 6, 3)])
def test_batch_norm_equals_flax(shape, train):
    x = 2 + 3 * normal(*shape)

    def run(apply):
        def loss(params, x):
            y, mutated = apply({"params": params, "batch_stats": STATS}, x)
            return jnp.sin(y).sum(), (y, mutated)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(PARAMS, x)

    layer = nn.BatchNorm(use_running_average=not train, momentum=0.9)
    expected = run(lambda variables, x: layer.apply(variables, x, mutable=["batch_stats"]))
    actual = run(lambda v, x: BatchNorm().apply(v, x, train=train, mutable=["batch_stats"]))
    assert_close(actual, expected)


def test_batch_norm_starts_from_statistics_of_nothing(key):
    x = 5 + normal(8, 3)
    stats = BatchNorm().init(key, x, train=True)["batch_stats"]
    assert_close(stats, {"mean": np.zeros(3), "var": np.ones(3)})


def test_batch_norm_of_constants_is_finite(key):
    # E[x²] − E[x]² comes out below 0 for some of these; its root would be NaN.
    x = jnp.broadcast_to(jnp.linspace(0.1, 1000, 256), (60, 256))
    y, _ = BatchNorm().init_with_output(key, x, train=True)
    assert jnp.isfinite(y).all()


def test_group_norm_equals_flax(key):
    x = 2 + 3 * normal(4, 5, 2, 6)
    params = {"scale": jnp.linspace(0.5, 2, 6), "bias": jnp.linspace(-1, 1, 6)}

    def run(layer):
        loss = lambda p, x: jnp.sin(layer.apply({"params": p}, x)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

    assert_close(run(GroupNorm(3)), run(nn.GroupNorm(3, epsilon=1e-5)))
    with pytest.raises(UsageError, match="groups=4 does not divide the 6 channels"):
        GroupNorm(4).init(key, x)


def test_group_norm_scales_and_shifts_each_example(key):
    x, s, t = normal(4, 5, 2, 6), normal(4, 6), 3 + normal(4, 6)
    layer = GroupNorm(3)
    params = layer.init(key, x)
    whole = lambda x, s, t: layer.apply(params, x, modulation=(s, t))  # noqa: E731
    apart = lambda x, s, t: (1 + s[:, None, None]) * layer.apply(params, x) + t[:, None, None]  # noqa: E731

    def run(function):
        loss = lambda *given: jnp.sin(function(*given)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(x, s, t)

    assert_close(run(whole), run(apart))
    with pytest.raises(UsageError, match=r"modulation has shapes \(4, 1\) and \(4, 6\), and must"):
        whole(x, s[:, :1], t)


def test_layer_norm_equals_flax():
    x = 2 + 3 * normal(4, 5, 3)

    def run(layer):
        def loss(params, x):
            return jnp.sin(layer.apply({"params": params}, x)).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(PARAMS, x)

    assert_close(run(LayerNorm()), run(nn.LayerNorm()))


@pytest.mark.parametrize("kind", ["batch", "layer"])
def test_statistics_are_fp32_whatever_the_dtype(key, kind):
    # The nearest bfloat16 to the mean is 1 away, which is a quarter of the deviation.
    x = jnp.asarray(301 + 4 * normal(512, 512), jnp.bfloat16)
    layer = normalization(kind)(dtype="bfloat16")
    y, variables = layer.init_with_output(key, x, train=True)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert abs(y.astype(jnp.float32).mean()) < 0.01
    assert y.astype(jnp.float32).std() == pytest.approx(1, abs=0.01)


def test_refuses_an_unknown_kind():
    with pytest.raises(UsageError, match="normalization='bach' is not known; did you mean 'batch'"):
        normalization("bach")
