"""Convolution equals XLA's in value and gradient, inside and outside a loop."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from deeplearn.errors import UsageError
from deeplearn.layers.convolution import Conv, convolve

# image, kernel, strides, padding
CASES = {
    "same": ((2, 9, 8, 5), (3, 3, 5, 7), 1, "SAME"),
    "valid": ((2, 9, 8, 5), (3, 3, 5, 7), 1, "VALID"),
    "strided": ((2, 9, 8, 5), (3, 3, 5, 7), 2, 1),
    "strided, same": ((2, 9, 8, 5), (3, 3, 5, 7), 2, "SAME"),
    "wide, strided": ((2, 10, 8, 10), (5, 6, 10, 7), 2, "SAME"),
    "wide, odd, strided": ((2, 9, 11, 10), (5, 7, 10, 7), 2, ((0, 2), (3, 1))),
    "wide, padding beyond the kernel": ((2, 9, 8, 10), (5, 5, 10, 7), 2, 7),
    "wide, rest of the stride": ((2, 12, 13, 10), (6, 5, 10, 7), 2, "VALID"),
    "rest of the stride": ((2, 10, 9, 5), (3, 2, 5, 7), (3, 2), "VALID"),
    "unequal padding": ((2, 9, 8, 5), (3, 3, 5, 7), 2, ((0, 3), (4, 1))),
    "padding beyond the kernel": ((2, 9, 8, 5), (3, 3, 5, 7), 2, 4),
    "even kernel": ((2, 8, 8, 5), (4, 2, 5, 7), 1, "SAME"),
    "one by one": ((2, 9, 8, 5), (1, 1, 5, 7), 1, "SAME"),
    "one by one, strided": ((2, 9, 8, 5), (1, 1, 5, 7), 2, "VALID"),
    "one by one, padded": ((2, 9, 8, 5), (1, 1, 5, 7), 2, 1),
    "one channel": ((2, 9, 8, 1), (3, 3, 1, 7), 1, "SAME"),
    "one channel, strided": ((2, 9, 8, 1), (5, 5, 1, 7), 2, 1),
    "three channels": ((2, 9, 8, 3), (3, 3, 3, 7), (1, 2), "VALID"),
    "first of AlexNet": ((2, 33, 30, 3), (11, 11, 3, 4), 4, 2),
    "gradient in parts": ((4, 61, 58, 10), (5, 4, 10, 32), 2, ((1, 3), (0, 2))),
}

# Few channels take another way back than many.
CASES |= {
    f"{name}, many channels": ((*image[:3], 10), (*kernel[:2], 10, 7), strides, padding)
    for name, (image, kernel, strides, padding) in CASES.items()
    if image[3] == 5 and kernel[0] > 1
}


def plain(x, kernel, strides, padding):
    """What XLA makes of the same arguments."""
    strides = (strides, strides) if isinstance(strides, int) else strides
    padding = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=axes)


def arguments(case):
    image, kernel, strides, padding = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape, np.float32) for shape in (image, kernel))
    return x, kernel / np.sqrt(kernel[..., 0].size, dtype=np.float32), strides, padding


@partial(jax.jit, static_argnums=(0, 3, 4))
def value_and_gradients(function, x, kernel, strides, padding):
    """Loss and output, and the gradients by x and kernel."""

    def loss(x, kernel):
        y = function(x, kernel, strides, padding)
        return jnp.sin(y).sum(), y

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)


def assert_close(actual, expected):
    """Equal to 1e-5 of an array's largest value: a long sum rounds by its parts, not by itself."""

    def close(actual, expected):
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)

    jax.tree.map(close, actual, expected)


@pytest.mark.parametrize("case", CASES)
def test_equals_xla_in_value_and_gradient(case):
    given = arguments(case)
    assert_close(value_and_gradients(convolve, *given), value_and_gradients(plain, *given))


@pytest.mark.parametrize(
    "case",
    ["strided", "one channel", "one by one, strided", "wide, odd, strided", "gradient in parts"],
)
def test_is_the_same_inside_a_scan(case):
    x, kernel, strides, padding = arguments(case)

    @jax.jit
    def run(kernel, images):
        def body(kernel, x):
            return kernel, value_and_gradients(convolve, x, kernel, strides, padding)

        return lax.scan(body, kernel, images)[1]

    images = np.stack([x, -x, 2 * x])
    scanned = run(kernel, images)
    for i, image in enumerate(images):
        expected = value_and_gradients(plain, image, kernel, strides, padding)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], scanned), expected)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only CPU needs one order of axes")
@pytest.mark.parametrize("case", CASES)
def test_every_convolution_has_the_order_of_axes_that_is_fast_in_loops(case):
    """A convolution in another order, or reversed, falls into a naive loop inside `scan`."""
    text = value_and_gradients.lower(convolve, *arguments(case)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions or case in ("one by one", "one by one, strided")
    for line in convolutions:
        assert "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line
        assert "reverse = [true" not in line


@pytest.mark.parametrize("case", ["strided", "gradient in parts"])
def test_has_second_derivatives(case):
    x, kernel, strides, padding = arguments(case)

    def curvature(function):
        gradient = jax.grad(lambda kernel: jnp.sin(function(x, kernel, strides, padding)).sum())
        return jax.jit(jax.grad(lambda kernel: (gradient(kernel) * kernel).sum()))(kernel)

    assert_close(curvature(convolve), curvature(plain))


@pytest.mark.parametrize(
    "case", ["strided, many channels", "one by one", "one channel", "wide, odd, strided"]
)
def test_a_gradient_penalty_has_a_gradient(case):
    """R1 and its like: by the kernel, of the squared gradient by the image."""
    x, kernel, strides, padding = arguments(case)

    def penalty(function, kernel):
        gradient = jax.grad(lambda x: jnp.sin(function(x, kernel, strides, padding)).sum())(x)
        return jnp.square(gradient).sum()

    one, two = (jax.jit(jax.grad(partial(penalty, each)))(kernel) for each in (convolve, plain))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4 * np.abs(two).max())


def test_maps_over_examples():
    x, kernel, strides, padding = arguments("strided")

    def gradient(x):
        return value_and_gradients(convolve, x[None], kernel, strides, padding)[1][1]

    each = jax.jit(jax.vmap(gradient))(x)
    assert_close(each.sum(0), value_and_gradients(plain, x, kernel, strides, padding)[1][1])


@pytest.mark.parametrize("channels", [1, 8])
def test_keeps_fp32_parameters_and_computes_in_its_dtype(key, channels):
    layer, x = Conv(4, dtype="bfloat16"), jnp.ones((2, 6, 6, channels))

    @jax.jit
    def run(key):
        params = layer.init(key, x)
        gradient = jax.grad(lambda params: layer.apply(params, x).sum().astype(jnp.float32))
        return layer.apply(params, x), params, gradient(params)

    y, params, gradient = run(key)
    assert y.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((params, gradient)):
        assert leaf.dtype == jnp.float32 and jnp.isfinite(leaf).all()


def test_the_input_gradient_of_few_channels_is_rounded_once():
    """The parts of a bfloat16 gradient are added in fp32."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape, np.float32) for shape in ((2, 9, 8, 5), (5, 5, 5, 7)))
    rounded = jnp.asarray(kernel, jnp.bfloat16)

    def gradient(dtype):
        total = lambda x: convolve(x, rounded.astype(dtype)).astype(jnp.float32).sum()  # noqa: E731
        return np.asarray(jax.jit(jax.grad(total))(jnp.asarray(x, dtype)), np.float32)

    np.testing.assert_allclose(gradient("bfloat16"), gradient("float32"), rtol=2**-8)


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 0, 3)])
def test_a_weight_that_is_not_a_number_spreads_as_in_xla(place):
    x, kernel, strides, padding = arguments("one channel")
    kernel[place] = np.nan
    given = x, kernel, strides, padding
    assert_close(value_and_gradients(convolve, *given), value_and_gradients(plain, *given))


def test_layer_adds_its_bias():
    ones, x = jax.nn.initializers.ones, jnp.ones((2, 6, 5, 3))
    layer = Conv(4, (3, 2), kernel_init=ones, bias_init=ones)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert variables["params"]["kernel"].shape == (3, 2, 3, 4)
    assert_close(y, plain(x, jnp.ones((3, 2, 3, 4)), 1, "SAME") + 1)


def test_kernel_has_the_variance_of_he(key):
    kernel = Conv(64).init(key, jnp.ones((1, 4, 4, 32)))["params"]["kernel"]
    assert kernel.shape == (3, 3, 32, 64)
    assert jnp.var(kernel) == pytest.approx(2 / (9 * 32), rel=0.05)


def test_refuses_an_unknown_padding():
    with pytest.raises(UsageError, match="padding='same' is not known"):
        convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), padding="same")
