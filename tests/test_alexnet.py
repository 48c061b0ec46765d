"""AlexNet: the published count, small images, modes and bad fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplearn.errors import UsageError
from deeplearn.models.alexnet import AlexNet

SMALL = AlexNet(10, channels=(4, 6, 8, 6, 4), hidden=(16, 16), window=5, stride=1)
X = np.random.default_rng(0).standard_normal((2, 28, 28, 1), np.float32)


def shapes(model, image):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image))))
    return variables["params"]


@pytest.fixture(scope="module")
def variables():
    return jax.jit(SMALL.init)(jax.random.key(0), X)


def test_has_the_published_number_of_parameters():
    params = shapes(AlexNet(), (224, 224, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 61_100_840
    assert params["dense1"]["kernel"].shape == (6 * 6 * 256, 4096)


def test_has_the_published_sizes_of_images():
    def run():
        x, key = jnp.zeros((1, 224, 224, 3)), jax.random.key(0)
        return AlexNet().init(key, x, capture_intermediates=True)["intermediates"]

    sizes = [jax.eval_shape(run)[f"conv{i}"]["__call__"][0].shape[1:3] for i in range(1, 6)]
    assert sizes == [(55, 55), (27, 27), (13, 13), (13, 13), (13, 13)]


@pytest.mark.parametrize(("window", "stride", "smallest"), [(11, 4, 63), (5, 1, 15), (3, 1, 15)])
def test_the_smallest_image_leaves_one_place(window, stride, smallest):
    model = AlexNet(10, window=window, stride=stride)
    params = shapes(model, (smallest, smallest, 1))
    assert params["dense1"]["kernel"].shape == (256, 4096)
    with pytest.raises(UsageError, match=f"which need {smallest}×{smallest}"):
        shapes(model, (smallest - 1, smallest, 1))


def test_drops_out_only_in_training(variables):
    apply = jax.jit(SMALL.apply, static_argnames="train")
    draw = lambda seed: apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)})  # noqa: E731
    assert (draw(1) != draw(2)).any()
    np.testing.assert_array_equal(draw(1), draw(1))
    plain = jax.jit(SMALL.clone(dropout=0.0).apply)
    np.testing.assert_array_equal(apply(variables, X), plain(variables, X))


def test_has_finite_gradients_in_bfloat16(variables):
    model = SMALL.clone(dtype="bfloat16")
    gradient = jax.jit(jax.grad(lambda variables: jnp.square(model.apply(variables, X)).sum()))
    for leaf in jax.tree.leaves(gradient(variables)):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()
        assert (leaf != 0).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": (8, 8, 8)}, r"channels=\(8, 8, 8\) of AlexNet must be 5 numbers"),
        ({"channels": (8, 8, 8, 8, 0)}, "of AlexNet must be 5 numbers"),
        ({"outputs": 0}, "outputs, window and stride of AlexNet must be 1 or more"),
        ({"stride": 0}, "outputs, window and stride of AlexNet must be 1 or more"),
        ({"dropout": -0.1}, r"dropout=-0.1 of AlexNet must be in \[0, 1\)"),
        ({"dtype": "float31"}, "dtype='float31' is not known"),
    ],
)
def test_refuses_a_bad_field(fields, message):
    with pytest.raises(UsageError, match=message):
        shapes(SMALL.clone(**fields), (28, 28, 1))


def test_refuses_what_is_no_image():
    with pytest.raises(UsageError, match=r"AlexNet takes images \(B, Y, X, C\)"):
        SMALL.init(jax.random.key(0), jnp.zeros((2, 784)))
